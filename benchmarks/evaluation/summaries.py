"""Summaries of instance tables: means with intervals, by size, by category, by number of clicks.

The tables are added up batch by batch. Only a few sums per image are kept, so that memory does not
grow with the number of rows.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from baselines.interface import Int64Array
from benchmarks.prompts.protocols import NOC_IOUS, AccuracyProtocol, listed_protocols
from benchmarks.records.instances import InstanceRow, read_instances
from benchmarks.records.record import BySize, CategoryMean, Clicks, MiouRow, Noc
from benchmarks.records.statistics import Float64Array, clustered_mean_of_sums, cut
from mobilesam.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

SIZES = {"small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, float("inf"))}
"""COCO's classes of annotation area, in square pixels, half-open."""
BATCH_ROWS = 2**18
"""Rows in memory at once."""

Group = tuple[str, str, str]
"""Model, protocol and reference."""
_GROUP = ("model", "protocol", "reference")
_COLUMNS = (*_GROUP, "category", "image_id", "iou", "boundary_iou", "area")


class ImageSums:
    """Number of instances and sums of their values in some columns, for each image."""

    def __init__(self, n_columns: int) -> None:
        self._ids: list[Int64Array] = []
        self._counts: list[npt.NDArray[np.int32]] = []
        self._sums: list[list[Float64Array]] = [[] for _ in range(n_columns)]
        self._limits = np.array([[np.inf, -np.inf]] * n_columns)

    def add(self, images: Int64Array, *columns: Float64Array) -> None:
        """Adds instances: the image of each, and its value in each column."""
        ids, index = np.unique(images, return_inverse=True)
        self._ids.append(ids)
        self._counts.append(np.bincount(index).astype(np.int32))
        for place, values in enumerate(columns):
            self._sums[place].append(np.bincount(index, weights=values).astype(np.float64))
            low, high = self._limits[place]
            self._limits[place] = min(low, values.min()), max(high, values.max())

    def finish(self) -> tuple[Float64Array, list[Float64Array]]:
        """Counts, and sums of each column, of all images by ascending id.

        Instances of an image that were added in several calls belong to one image.
        """
        ids, index = np.unique(np.concatenate(self._ids), return_inverse=True)
        counts = np.bincount(index, np.concatenate(self._counts), len(ids)).astype(np.float64)
        sums = [np.bincount(index, np.concatenate(each), len(ids)) for each in self._sums]
        return counts, [each.astype(np.float64) for each in sums]

    def limits(self, column: int) -> tuple[float, float]:
        """Smallest and largest value of a column."""
        low, high = self._limits[column]
        return float(low), float(high)


@dataclass(slots=True)
class _Sum:
    """Number of values and their sum."""

    n: int = 0
    total: float = 0.0

    def add(self, n: int, total: float) -> None:
        self.n += n
        self.total += total

    @property
    def mean(self) -> float:
        return self.total / self.n


@dataclass(slots=True)
class GroupSums:
    """Sums over the instances of one model, protocol and reference; images: IoU, boundary IoU."""

    iou: _Sum = field(default_factory=_Sum)
    boundary_iou: _Sum = field(default_factory=_Sum)
    images: ImageSums = field(default_factory=lambda: ImageSums(2))
    by_size: dict[str, _Sum] = field(default_factory=lambda: {name: _Sum() for name in SIZES})
    by_category: defaultdict[str, _Sum] = field(default_factory=lambda: defaultdict(_Sum))

    def add(self, rows: pd.DataFrame) -> None:
        """Adds rows of this group."""
        ious, areas = rows["iou"].to_numpy(), rows["area"].to_numpy()
        boundaries = rows["boundary_iou"].to_numpy()
        self.iou.add(len(ious), float(ious.sum()))
        self.boundary_iou.add(len(ious), float(boundaries.sum()))
        self.images.add(rows["image_id"].to_numpy(), ious, boundaries)
        for name, (low, high) in SIZES.items():
            of_size = (areas >= low) & (areas < high)
            self.by_size[name].add(int(of_size.sum()), float(ious[of_size].sum()))
        by_category = rows.groupby("category", observed=True)["iou"].agg(["size", "sum"])
        for name, n, total in by_category.itertuples():
            if name:
                self.by_category[name].add(int(n), float(total))

    def summarize(self, row: MiouRow) -> MiouRow:
        """Fills in the figures of a row; the group holds at least one instance."""
        counts, (ious, boundaries) = self.images.finish()
        limits, bounds = self.images.limits(0), (0.0, 1.0)
        interval = clustered_mean_of_sums(counts, ious, limits).ci95
        boundary_miou = boundary_interval = None
        if np.isfinite(boundaries).all():
            of_boundary = self.images.limits(1)
            boundary_miou = float(np.clip(self.boundary_iou.mean, *of_boundary))
            boundary_interval = clustered_mean_of_sums(counts, boundaries, of_boundary).ci95
        figures: dict[str, Any] = {
            "status": "ok",
            "n_images": len(counts),
            "n_instances": self.iou.n,
            # Rounding must not move the mean of equal values away from them.
            "miou": float(np.clip(self.iou.mean, *limits)),
            "ci95": cut(interval, bounds),
            "miou_per_image": float((ious / counts).mean()),
            "boundary_miou": boundary_miou,
            "boundary_ci95": cut(boundary_interval, bounds),
            "by_size": BySize(**{name: each.mean for name, each in self.by_size.items() if each.n}),
            "n_by_size": BySize(**{name: each.n for name, each in self.by_size.items()}),
            "by_category": tuple(
                CategoryMean(category=name, n_instances=each.n, miou=each.mean)
                for name, each in sorted(self.by_category.items())
            ),
        }
        return row.model_copy(update=figures)


def sum_tables(tables: Iterable[Path | IO[bytes]]) -> dict[Group, GroupSums]:
    """Adds up the rows of instance tables, one batch of rows in memory at once."""
    found: defaultdict[Group, GroupSums] = defaultdict(GroupSums)
    for table in tables:
        for frame in _batches(table):
            for (model, protocol, reference), rows in frame.groupby(
                list(_GROUP), observed=True, sort=False
            ):
                found[str(model), str(protocol), str(reference)].add(rows)
    return dict(found)


def _batches(table: Path | IO[bytes]) -> Iterator[pd.DataFrame]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(table, read_dictionary=[*_GROUP, "category"]) as parquet:
            for batch in parquet.iter_batches(BATCH_ROWS, columns=list(_COLUMNS)):
                frame = batch.to_pandas()
                if not np.isfinite(frame["iou"]).all():
                    raise DataError(f"{table} holds an IoU that is not finite; make it anew")
                # Nulls, where boundary IoU was not scored, become NaN.
                yield frame.astype({"boundary_iou": float})
    except (OSError, pa.ArrowException, KeyError) as error:
        raise DataError(f"cannot read instances from {table}: {error}; make it anew") from error


def count_clicks(
    tables: Iterable[Path | IO[bytes]],
    protocols: Sequence[AccuracyProtocol],
    ious: Sequence[float] = NOC_IOUS,
) -> Mapping[tuple[str, str], Clicks]:
    """Number of clicks until each of the IoUs is reached, by model and protocol.

    All rows of an image are in one of the tables. Of long sequences of clicks only those that are
    listed have a result.
    """
    budgets = {each.name: each.n_clicks for each in protocols if each.n_clicks is not None}
    clicking = {name: budgets[name] for name in listed_protocols(budgets)}
    # Per group, sums over the instances of an image: clicks until each IoU, then failures.
    groups: defaultdict[tuple[str, str], ImageSums] = defaultdict(lambda: ImageSums(2 * len(ious)))
    for table in tables if clicking else ():
        rows = read_instances(table, ("model", "protocol", "image_id", "iou"))
        for model, of_model in rows.groupby("model", sort=False):
            steps = dict(list(of_model.groupby("protocol")))
            for protocol, budget in clicking.items():
                kind = protocol.rpartition("-")[0]
                names = [f"{kind}-{each}" for each in range(1, budget + 1)]
                needed = [steps[name] for name in names if name in steps]
                if len(needed) < budget:
                    continue
                images = needed[0]["image_id"].to_numpy()
                curve = np.stack([each["iou"].to_numpy() for each in needed])  # (budget, N)
                reached = [curve >= wanted for wanted in ious]
                n_clicks = [
                    np.where(each.any(axis=0), each.argmax(axis=0) + 1, budget) for each in reached
                ]
                failed = [~each.any(axis=0) for each in reached]
                columns = [np.asarray(each, np.float64) for each in (*n_clicks, *failed)]
                groups[str(model), protocol].add(images, *columns)
    found = {}
    for (model, protocol), sums in groups.items():
        budget = clicking[protocol]
        counts, totals = sums.finish()
        thresholds = []
        for place, wanted in enumerate(ious):
            mean = clustered_mean_of_sums(counts, totals[place], sums.limits(place))
            n_failed = round(totals[len(ious) + place].sum())
            interval = cut(mean.ci95, (1.0, budget))
            thresholds.append(Noc(iou=wanted, noc=mean.mean, ci95=interval, n_failed=n_failed))
        older = {
            f"{name}{each.iou * 100:.0f}": value
            for each in thresholds
            if each.iou in (0.85, 0.9)
            for name, value in (("noc", each.noc), ("failed", each.n_failed / counts.sum()))
        }
        found[model, protocol] = Clicks(budget=budget, thresholds=tuple(thresholds), **older)
    return found


def headline(rows: Sequence[InstanceRow]) -> str:
    """Mean IoU of the rows of one model by protocol, against its first reference; one line.

    Of long sequences of clicks only those that are listed are given.
    """
    reference = rows[0].reference
    groups: dict[str, list[float]] = {}
    for row in rows:
        if row.reference == reference:
            groups.setdefault(row.protocol, []).append(row.iou)
    means = ", ".join(f"{name} {np.mean(groups[name]):.1%}" for name in listed_protocols(groups))
    n_images = len({row.image_id for row in rows})
    n_objects = len({(row.image_id, row.annotation_id) for row in rows})
    return f"mIoU vs {reference} {means} ({n_images} images, {n_objects} objects)"
