from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.records.instances import read_instances
from benchmarks.records.record import load_record
from benchmarks.report import pairs


def test_objects_and_pairs_of_a_run(masks_run: Path) -> None:
    record = load_record(masks_run)
    data = pairs.page_data(record, pairs.read_runs([masks_run], [record]))
    (name, dataset), *others = data["datasets"].items()
    assert not others
    frame = read_instances(masks_run / "instances.parquet")
    assert len(dataset["image"]) == dataset["of"] == frame["annotation_id"].nunique()
    # The model box takes no points: its center protocol has a single model.
    assert set(dataset["ious"]) == {"box"}
    rows = frame[(frame["protocol"] == "box") & (frame["model"] == "dummy")]
    wanted = dict(zip(rows["annotation_id"], (1000 * rows["iou"]).round(), strict=True))
    shown = zip(dataset["annotation"], dataset["ious"]["box"]["dummy"], strict=True)
    assert dict(shown) == wanted
    (pair,) = data["pairs"][f"{name}|box"]
    (row,) = (each for each in record.comparisons if each.protocol == "box")
    assert pair[:3] == [row.model_a, row.model_b, round(100 * row.difference, 2)]
    json.dumps(data, allow_nan=False)


def test_better_objects_are_counted_before_rounding(masks_run: Path) -> None:
    record = load_record(masks_run)
    frame = pairs.read_runs([masks_run], [record])
    frame["iou"] = frame["model"].map({"box": 0.7144, "dummy": 0.704})
    data = pairs.page_data(record, frame)
    ((first, *_, n_first, n_second),) = next(iter(data["pairs"].values()))
    n = next(iter(data["datasets"].values()))["of"]
    assert (n_first, n_second) == ((n, 0) if first == "box" else (0, n))


def test_models_of_different_runs_are_compared_without_a_verdict(masks_run: Path) -> None:
    record = load_record(masks_run).model_copy(update={"comparisons": ()})
    data = pairs.page_data(record, pairs.read_runs([masks_run], [record]))
    ((*_, n_images, _, measurable, _, _),) = next(iter(data["pairs"].values()))
    assert n_images == 2
    assert measurable is None


def test_many_objects_are_a_sample(masks_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairs, "MOST_OBJECTS", 3)
    record = load_record(masks_run)
    (dataset,) = pairs.page_data(record, pairs.read_runs([masks_run], [record]))[
        "datasets"
    ].values()
    assert len(dataset["image"]) == len(dataset["ious"]["box"]["box"]) == 3
    assert dataset["of"] > 3


def test_run_without_instances_has_nothing_to_compare(tmp_path: Path, masks_run: Path) -> None:
    record = load_record(masks_run)
    assert pairs.read_runs([tmp_path], [record]) is None
    assert pairs.page_data(record, None) == {"datasets": {}, "pairs": {}}
