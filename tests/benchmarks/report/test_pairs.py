from __future__ import annotations

import base64
import json
import re
from pathlib import Path

import numpy as np
import pytest

from benchmarks.records.instances import read_instances
from benchmarks.records.record import load_record
from benchmarks.report import pairs
from benchmarks.tables.accuracy_tables import leaderboard_tables


def test_objects_and_pairs_of_a_run(masks_run: Path) -> None:
    record = load_record(masks_run)
    data = pairs.page_data(record, pairs.read_runs([(masks_run, record)]))
    (name, dataset), *others = data["datasets"].items()
    assert not others
    frame = read_instances(masks_run / "instances.parquet")
    assert len(dataset["image"]) == frame["annotation_id"].nunique()
    # The model box takes no points: its center protocol has a single model.
    assert set(dataset["ious"]) == {"box"}
    rows = frame[(frame["protocol"] == "box") & (frame["model"] == "dummy")]
    wanted = dict(zip(rows["annotation_id"], rows["iou"].astype("<f4"), strict=True))
    ious = np.frombuffer(base64.b64decode(dataset["ious"]["box"]["dummy"]), "<f4")
    assert dict(zip(dataset["annotation"], ious, strict=True)) == wanted
    ((a, b, verdict, figures, sample),) = data["pairs"][f"{name}|box"]
    (row,) = (each for each in record.comparisons if each.protocol == "box")
    assert (a, b, sample) == (row.model_a, row.model_b, "")
    best, other = (a, b) if row.difference > 0 else (b, a)
    assert re.match(rf"{best} (is better than|and) {other}", verdict)
    assert f": {100 * abs(row.difference):.1f} points" in verdict
    assert "of this pair alone; 2 images" in figures
    json.dumps(data, allow_nan=False)


def test_higher_objects_are_counted_before_rounding(masks_run: Path) -> None:
    record = load_record(masks_run)
    frame = pairs.read_runs([(masks_run, record)])
    frame["iou"] = frame["model"].map({"box": 0.7144, "dummy": 0.704})
    data = pairs.page_data(record, frame)
    ((*_, figures, _),) = next(iter(data["pairs"].values()))
    n = len(next(iter(data["datasets"].values()))["image"])
    assert re.search(
        rf"higher with (box for {n}, with dummy for 0|dummy for 0, with box for {n})", figures
    )


def test_models_of_different_runs_are_compared_as_those_of_one(masks_run: Path) -> None:
    record = load_record(masks_run)
    frame = pairs.read_runs([(masks_run, record)])
    assert pairs.with_all_comparisons(record, frame) == record
    apart = pairs.with_all_comparisons(record.model_copy(update={"comparisons": ()}), frame)
    assert pairs.page_data(apart, frame) == pairs.page_data(record, frame)
    # The leaderboard of the page has the same pairs.
    (table,) = leaderboard_tables(apart)
    box = [[cell.text for cell in row] for row in table.rows if row[0].text == "box"]
    assert all("not tested" not in row for row in box)


def test_agreement_is_not_called_better(masks_run: Path) -> None:
    record = load_record(masks_run)
    frame = pairs.read_runs([(masks_run, record)]).assign(reference="teacher:net")
    changes = {"reference": "teacher:net", "p_adjusted": 0.0}
    rows = [row.model_copy(update=changes) for row in record.comparisons]
    record = record.model_copy(update={"comparisons": tuple(rows)})
    ((_, _, verdict, *_),) = next(iter(pairs.page_data(record, frame)["pairs"].values()))
    assert "agrees more with net than" in verdict
    assert verdict.endswith("points of agreement.")


def test_many_objects_are_a_sample(masks_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairs, "MOST_OBJECTS", 3)
    record = load_record(masks_run)
    (dataset,) = pairs.page_data(record, pairs.read_runs([(masks_run, record)]))[
        "datasets"
    ].values()
    assert len(dataset["image"]) == len(base64.b64decode(dataset["ious"]["box"]["box"])) / 4 == 3
    ((*_, sample),) = pairs.page_data(record, pairs.read_runs([(masks_run, record)]))["pairs"][
        f"{record.miou[0].dataset}|box"
    ]
    assert "a random sample of 3 of" in sample


def test_run_without_instances_has_nothing_to_compare(tmp_path: Path, masks_run: Path) -> None:
    record = load_record(masks_run)
    assert pairs.read_runs([(tmp_path, record)]) is None
    assert pairs.page_data(record, None) == {"datasets": {}, "pairs": {}}
