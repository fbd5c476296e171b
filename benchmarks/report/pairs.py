"""IoU of the same objects by two models, for the comparison of models on the HTML page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from benchmarks.evaluation.comparison import LEVEL, compare_tables
from benchmarks.records.instances import read_instances
from benchmarks.records.record import ComparisonRow, RunRecord
from benchmarks.tables import record_queries as queries
from benchmarks.tables.record_queries import Protocol, grouped, model_names, protocol_of

MOST_OBJECTS = 5000
"""Of more objects of a dataset, a random sample is on the page."""
VISIBLE = 0.01
"""IoU of one object differs if it differs by more than this."""
_COLUMNS = (
    "image_id", "annotation_id", "model", "protocol", "reference", "iou", "area", "category",
)  # fmt: skip
_OBJECT = ["image_id", "annotation_id"]
PageData = dict[str, Any]


def read_runs(folders: Sequence[Path], runs: Sequence[RunRecord]) -> Any:
    """Instances of runs as one data frame with a column `dataset`; of equal rows the first.

    Only rows of protocols that are listed, and of models whose accuracy counts. None without any.
    """
    import pandas as pd

    found = []
    for folder, run in zip(folders, runs, strict=True):
        path = None if run.instances is None else folder / run.instances
        if path is None or not path.exists():
            continue
        ranked = [(row.model, protocol_of(row)) for row in run.miou if queries.is_ranked(row)]
        listed = queries.listed(queries.unique(protocol for _, protocol in ranked))
        frame = read_instances(path, _COLUMNS)
        for dataset in queries.unique(protocol.dataset for protocol in listed):
            keys = frame[["model", "protocol", "reference"]].drop_duplicates().itertuples()
            kept = {
                (key.model, key.protocol, key.reference)
                for key in keys
                if (protocol := Protocol(dataset, key.reference, key.protocol)) in listed
                and (key.model, protocol) in ranked
            }
            index = pd.MultiIndex.from_frame(frame[["model", "protocol", "reference"]])
            found.append(frame[index.isin(kept)].assign(dataset=dataset))
    if not any(len(frame) for frame in found):
        return None
    every = pd.concat(found, ignore_index=True)
    return every.drop_duplicates(["dataset", *_OBJECT, "model", "protocol", "reference"])


def page_data(record: RunRecord, frame: Any) -> PageData:
    """What the comparison of two models needs, for JSON.

    `datasets` has by dataset the number of all objects (`of`) and, of those on the page, image,
    annotation, area (pixels), index of the category, and by protocol (`ious`) and model the IoU in
    thousandths (null without an answer). `pairs` are the paired comparisons by dataset and
    protocol: models, difference and interval in points of mIoU, number of images and of objects,
    whether the difference is measurable (null if it was not tested against several pairs), and the
    numbers of objects for which either is better by more than `VISIBLE`.
    """
    datasets: dict[str, Any] = {}
    pairs: dict[str, list[list[Any]]] = {}
    for dataset, part in () if frame is None else frame.groupby("dataset", sort=False):
        objects = part.drop_duplicates(_OBJECT)
        of = len(objects)
        if of > MOST_OBJECTS:
            objects = objects.sample(MOST_OBJECTS, random_state=0)
        objects = objects.sort_values(_OBJECT)
        keys = objects.set_index(_OBJECT).index
        categories = sorted(set(objects["category"]))
        ious: dict[str, dict[str, list[int | None]]] = {}
        for (name, reference), rows in part.groupby(["protocol", "reference"], sort=False):
            protocol = Protocol(str(dataset), str(reference), str(name))
            table = rows.pivot(index=_OBJECT, columns="model", values="iou")
            models = [model for model in model_names(record) if model in table]
            if len(models) < 2:
                continue
            shown = (1000 * table.reindex(keys)).round()
            ious[protocol.short] = {
                model: [None if value != value else int(value) for value in shown[model].tolist()]
                for model in models
            }
            pairs[f"{dataset}|{protocol.short}"] = [
                [
                    row.model_a,
                    row.model_b,
                    round(100 * row.difference, 2),
                    None if row.ci95 is None else [round(100 * end, 2) for end in row.ci95],
                    row.n_images,
                    row.n_instances,
                    measurable,
                    *_better(table[row.model_a] - table[row.model_b]),
                ]
                for row, measurable in _comparisons(record, protocol, models, rows)
            ]
        datasets[str(dataset)] = {
            "of": of,
            "image": objects["image_id"].tolist(),
            "annotation": objects["annotation_id"].tolist(),
            "area": objects["area"].round().astype(int).tolist(),
            "category": objects["category"].map(categories.index).tolist(),
            "categories": categories,
            "ious": ious,
        }
    return {"datasets": datasets, "pairs": pairs}


def _better(differences: Any) -> tuple[int, int]:
    """Numbers of objects for which the first and the second of two models are better."""
    return int((differences > VISIBLE).sum()), int((differences < -VISIBLE).sum())


def _comparisons(
    record: RunRecord, protocol: Protocol, models: Sequence[str], rows: Any
) -> Iterator[tuple[ComparisonRow, bool | None]]:
    """Comparisons of all pairs, and whether they differ; None for models of different runs."""
    known = grouped(
        (frozenset((row.model_a, row.model_b)), row)
        for row in record.comparisons
        if protocol_of(row) == protocol
    )
    for a, b in combinations(models, 2):
        if found := known.get(frozenset((a, b))):
            yield found[0], found[0].p_adjusted <= LEVEL
        else:
            pair = rows[rows["model"].isin((a, b))]
            for row in compare_tables([pair], protocol.dataset)[0]:
                yield row, None
