"""Accuracy by subgroup: size, category, crowding and boundary complexity, from tables of instances.

Subgroups are those of the annotation, the same for all models. All rows of an image are in one of
the tables.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import IO, TYPE_CHECKING, Literal, get_args

import numpy as np

from benchmarks.evaluation.summaries import SIZES, ImageSums
from benchmarks.records.instances import read_instances
from benchmarks.records.statistics import Interval, clustered_mean_of_sums, cut

if TYPE_CHECKING:
    import pandas as pd

Dimension = Literal["size", "category", "crowding", "boundary complexity"]
Bins = dict[str, tuple[float, float]]
_Key = tuple[str, str, Dimension, str, str]
"""Protocol, reference, dimension, group and model."""
CROWDING: Bins = {
    "1 object": (1, 2),
    "2 to 4": (2, 5),
    "5 to 9": (5, 10),
    "10 to 19": (10, 20),
    "20 or more": (20, float("inf")),
}
"""Number of scored objects of the image, half-open."""
COMPLEXITY: Bins = {
    "below 1.5": (0, 1.5),
    "1.5 to 2": (1.5, 2),
    "2 to 3": (2, 3),
    "3 or more": (3, float("inf")),
}
"""`masks.boundary_complexity` of the reference mask, half-open; a disc has 1, a square 1.1."""
_COLUMNS = (
    "image_id", "annotation_id", "model", "protocol", "reference", "iou", "area", "category",
    "boundary_complexity",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class SubgroupRow:
    """Mean IoU, a fraction, of one model under one protocol over the instances of a subgroup."""

    dataset: str
    protocol: str
    reference: str
    dimension: Dimension
    group: str
    model: str
    n_images: int
    n_instances: int
    miou: float
    ci95: Interval | None


def subgroup_rows(
    tables: Iterable[Path | IO[bytes]],
    dataset: str,
    tasks: Collection[tuple[str, str]],
    names: Mapping[str, str] = MappingProxyType({}),
) -> tuple[SubgroupRow, ...]:
    """Rows of the given pairs of protocol and reference, of each dimension that the tables have.

    Bins are in their order, categories by descending number of instances. `names`: see
    `RunRecord.names`.
    """
    sums: defaultdict[_Key, ImageSums] = defaultdict(lambda: ImageSums(1))
    for table in tables:
        frame = read_instances(table, _COLUMNS).replace(names)
        # Counted over all protocols, some of which have no prompt for some instances.
        frame["n_objects"] = frame.groupby("image_id")["annotation_id"].transform("nunique")
        for (protocol, reference, model), rows in frame.groupby(
            ["protocol", "reference", "model"], sort=False
        ):
            if (protocol, reference) not in tasks:
                continue
            images, ious = rows["image_id"].to_numpy(), rows["iou"].to_numpy(np.float64)
            for dimension, groups in _groups(rows):
                for name in groups.unique():
                    if name:
                        chosen = (groups == name).to_numpy()
                        key = str(protocol), str(reference), dimension, str(name), str(model)
                        sums[key].add(images[chosen], ious[chosen])
    found = []
    for (protocol, reference, dimension, name, model), each in sums.items():
        counts, (totals,) = each.finish()
        mean = clustered_mean_of_sums(counts, totals, each.limits(0))
        found.append(
            SubgroupRow(
                dataset=dataset,
                protocol=protocol,
                reference=reference,
                dimension=dimension,
                group=name,
                model=model,
                n_images=len(counts),
                n_instances=int(counts.sum()),
                miou=mean.mean,
                ci95=cut(mean.ci95, (0.0, 1.0)),
            )
        )
    return tuple(sorted(found, key=_order))


def _groups(rows: pd.DataFrame) -> Iterator[tuple[Dimension, pd.Series]]:
    """Names of the subgroups of the rows, empty without one, by dimension."""
    yield "size", _binned(rows["area"], SIZES)
    yield "category", rows["category"]
    yield "crowding", _binned(rows["n_objects"], CROWDING)
    yield "boundary complexity", _binned(rows["boundary_complexity"], COMPLEXITY)


def _binned(values: pd.Series, bins: Bins) -> pd.Series:
    """Name of the bin of each value; empty for NaN."""
    import pandas as pd

    names = pd.Series("", index=values.index)
    for name, (low, high) in bins.items():
        names[(values >= low) & (values < high)] = name
    return names


def _order(row: SubgroupRow) -> tuple[int, int, str]:
    dimensions: tuple[Dimension, ...] = get_args(Dimension)
    bins = {"size": SIZES, "crowding": CROWDING, "boundary complexity": COMPLEXITY}
    place = -row.n_instances
    if row.dimension in bins:
        place = list(bins[row.dimension]).index(row.group)
    return dimensions.index(row.dimension), place, row.group
