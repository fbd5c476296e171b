"""Protocols that judge all masks of an image together, as a user runs them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.records.record import load_record


@pytest.fixture
def boxes(run: Any, scenes: Any, tmp_path: Path) -> Path:
    done = run("data", "boxes", scenes.annotations, tmp_path / "boxes.json")
    assert done.code == 0
    assert "detector-box" in done.out
    return tmp_path / "boxes.json"


def test_detector_boxes_give_ap_and_a_results_file(
    run: Any, scenes: Any, boxes: Path, tmp_path: Path
) -> None:
    done = run(
        "miou",
        "--models=box,dummy",
        *scenes.arguments,
        "--protocol=detector-box,detector-box-multi,box",
        f"--detections={boxes}",
        "--out=o",
        "--json",
    )
    assert done.code == 0
    found = {(row["model"], row["mask"]): row["ap"] for row in done.json["detector"]}
    assert set(found) == {(m, k) for m in ("box", "dummy") for k in ("single", "multi")}
    assert all(0 < ap < 1 for ap in found.values())
    assert {row["protocol"] for row in done.json["rows"]} == {"box"}
    results = json.loads((tmp_path / "o" / "detections-box.json").read_text())
    assert len(results) == len(json.loads(boxes.read_text()))


def test_only_detector_boxes_can_be_asked_for(run: Any, scenes: Any, boxes: Path) -> None:
    done = run(
        "miou",
        "--models=box",
        *scenes.arguments,
        "--protocol=detector-box",
        f"--detections={boxes}",
    )
    assert done.code == 0
    assert "AP" in done.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--dataset=synthetic", "--detections=x.json"), "needs --dataset coco"),
        ((), "needs --detections"),
    ],
)
def test_detector_boxes_need_boxes_and_coco(
    run: Any, scenes: Any, arguments: tuple[str, ...], message: str
) -> None:
    data = () if arguments else tuple(scenes.arguments)
    done = run("miou", "--models=box", *data, *arguments, "--protocol=detector-box")
    assert done.code == 2
    assert message in done.err


def test_a_broken_results_file_is_named(run: Any, scenes: Any, tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text('[{"image_id": 1}]')
    done = run(
        "miou",
        "--models=box",
        *scenes.arguments,
        "--protocol=detector-box",
        f"--detections={tmp_path / 'bad.json'}",
    )
    assert done.code == 1
    assert "bad.json" in done.err


def test_everything_of_the_dummy_and_of_a_model_that_cannot(
    run: Any, scenes: Any, tmp_path: Path
) -> None:
    done = run("everything", "--models=dummy,box", *scenes.arguments, "--out=o", "--json")
    assert done.code == 0
    rows = {row["model"]: row for row in done.json["everything"]}
    assert rows["dummy"]["masks_per_image"] == 4
    assert rows["dummy"]["median_ms"] > 0
    assert (rows["box"]["status"], rows["box"]["ar1000"]) == ("skipped", None)
    assert load_record(tmp_path / "o").everything
    assert run("everything", "--models=dummy", *scenes.arguments, "--protocol=box").code == 2
