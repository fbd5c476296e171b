"""IoU of the same objects by two models, for the comparison of models on the HTML page."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from itertools import combinations
from pathlib import Path
from typing import Any

from benchmarks.evaluation.comparison import LEVEL, compare_tables, corrected
from benchmarks.prompts.protocols import reference_model
from benchmarks.records.instances import read_instances
from benchmarks.records.record import ComparisonRow, RunRecord
from benchmarks.tables import record_queries as queries
from benchmarks.tables.formatting import interval, number
from benchmarks.tables.record_queries import Protocol, model_names, protocol_of

MOST_OBJECTS = 5000
"""Of more objects of a dataset, a random sample is on the page."""
VISIBLE = 0.01
"""IoU of one object differs if it differs by more than this."""
_COLUMNS = (
    "image_id", "annotation_id", "model", "protocol", "reference", "iou", "area", "category",
)  # fmt: skip
_OBJECT = ["image_id", "annotation_id"]
PageData = dict[str, Any]


def read_runs(runs: Iterable[tuple[Path, RunRecord]]) -> Any:
    """Instances of runs in folders, as one frame with a column `dataset`; of equal rows the first.

    Only rows of protocols that are listed, and of models whose accuracy counts. None without any.
    """
    import pandas as pd

    found = []
    for folder, run in runs:
        path = None if run.instances is None else folder / run.instances
        if path is None or not path.exists():
            continue
        ranked = [(row.model, protocol_of(row)) for row in run.miou if queries.is_ranked(row)]
        listed = queries.listed(queries.unique(protocol for _, protocol in ranked))
        frame = read_instances(path, _COLUMNS).replace(run.names)
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


def with_all_comparisons(record: RunRecord, frame: Any) -> RunRecord:
    """The record with comparisons of all pairs of models with instances, of different runs too.

    The p-values of the others are corrected for all pairs of different runs with the same dataset
    and reference, see `corrected`.
    """
    rows: list[ComparisonRow] = []
    known = {(protocol_of(r), frozenset((r.model_a, r.model_b))) for r in record.comparisons}
    keys = ["dataset", "reference", "protocol"]
    for key, part in () if frame is None else frame.groupby(keys, sort=False):
        protocol = Protocol(*map(str, key))
        for pair in combinations(queries.unique(part["model"]), 2):
            if (protocol, frozenset(pair)) not in known:
                both = part[part["model"].isin(pair)]
                rows += compare_tables([both], protocol.dataset)[0]
    return record.model_copy(update={"comparisons": corrected(rows, record.comparisons)})


def page_data(record: RunRecord, frame: Any) -> PageData:
    """What the comparison of two models needs, for JSON.

    `datasets` has by dataset, of the objects on the page, image, annotation, area (pixels), index
    of the category, and by protocol (`ious`) and model the IoU as base64 of little-endian 32-bit
    floats (NaN without an answer). `pairs` are the paired comparisons of the record by dataset and
    protocol: both models, the verdict, and its figures.
    """
    datasets: dict[str, Any] = {}
    pairs: dict[str, list[list[str]]] = {}
    for dataset, part in () if frame is None else frame.groupby("dataset", sort=False):
        objects, sample = part.drop_duplicates(_OBJECT), ""
        if (of := len(objects)) > MOST_OBJECTS:
            objects = objects.sample(MOST_OBJECTS, random_state=0)
            sample = f" The chart has a random sample of {MOST_OBJECTS:,} of {of:,} objects."
        objects = objects.sort_values(_OBJECT)
        keys = objects.set_index(_OBJECT).index
        categories = sorted(set(objects["category"]))
        ious: dict[str, dict[str, str]] = {}
        for (name, reference), rows in part.groupby(["protocol", "reference"], sort=False):
            protocol = Protocol(str(dataset), str(reference), str(name))
            table = rows.pivot(index=_OBJECT, columns="model", values="iou")
            models = [model for model in model_names(record) if model in table]
            if len(models) < 2:
                continue
            shown = table.reindex(keys).astype("<f4")
            ious[protocol.short] = {
                model: base64.b64encode(shown[model].to_numpy().tobytes()).decode()
                for model in models
            }
            pairs[f"{dataset}|{protocol.short}"] = [
                [row.model_a, row.model_b, *_verdict(row, table), sample]
                for row in record.comparisons
                if protocol_of(row) == protocol and {row.model_a, row.model_b} <= {*models}
            ]
        datasets[str(dataset)] = {
            "image": objects["image_id"].tolist(),
            "annotation": objects["annotation_id"].tolist(),
            "area": objects["area"].round().astype(int).tolist(),
            "category": objects["category"].map(categories.index).tolist(),
            "categories": categories,
            "ious": ious,
        }
    return {"datasets": datasets, "pairs": pairs}


def _verdict(row: ComparisonRow, ious: Any) -> tuple[str, str]:
    """Which of two models is better, and the figures; the model with the higher mean is first."""
    first, second, value, ends = row.model_a, row.model_b, row.difference, row.ci95
    if value < 0:
        first, second, value = second, first, -value
        ends = None if ends is None else (-ends[1], -ends[0])
    noun, teacher = queries.accuracy_name(row.reference), reference_model(row.reference)
    bounds = None if ends is None else (100 * ends[0], 100 * ends[1])
    points = f"{interval(100 * value, bounds, 1)} points of {noun}"
    said = f"{first} is better than {second}"
    if row.p_adjusted > LEVEL:
        said = f"{first} and {second} cannot be distinguished"
    elif teacher is not None:
        said = f"{first} agrees more with {teacher} than {second}"
    differences = ious[first] - ious[second]
    higher, lower = int((differences > VISIBLE).sum()), int((differences < -VISIBLE).sum())
    visible = "no object"
    if higher or lower:
        visible = f"{higher + lower:,} objects: it is higher with {first} for {higher:,}, "
        visible += f"with {second} for {lower:,}"
    p = "below 0.001" if row.p_adjusted < 0.001 else number(row.p_adjusted, 3)
    certain = bounds is not None and bounds[0] > 0
    if row.p_adjusted > LEVEL:
        points += " apart"
        if certain:
            points += ", which among several comparisons may be chance"
    return (
        f"{said}: {points}.",
        f"Paired by object; interval: 95 % over images, of this pair alone; {row.n_images:,} "
        f"images, {row.n_instances:,} objects. p {p}, corrected (Holm) for several comparisons. "
        f"IoU differs by more than {VISIBLE:g} for {visible}.",
    )
