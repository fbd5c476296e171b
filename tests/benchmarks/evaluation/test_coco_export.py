"""Stored masks as COCO files: pycocotools reads them and scores them as the run did."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from baselines.dummy import DummySegmenter
from baselines.interface import BoolArray, Prompts, UInt8Array
from benchmarks import evaluate
from benchmarks.datasets.coco import CocoDataset
from benchmarks.evaluation.rescore import load_stored
from benchmarks.records.instances import read_instances
from benchmarks.records.record import load_record

PROTOCOLS = "box,center-multi,center-oracle,clicks-3"
NAMES = ("box", "center-multi", "center-oracle", "clicks-1", "clicks-2", "clicks-3")


@pytest.fixture(scope="module")
def scored(scenes_source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with stored masks of a model whose name is no file name."""
    out = tmp_path_factory.mktemp("scored") / "run"
    segmenter = DummySegmenter("org/dummy:a@2", {})
    data = CocoDataset(scenes_source / "images", scenes_source / "instances.json")
    evaluate(segmenter, data, PROTOCOLS, save_masks=True, out=out, quiet=True, threads=1)
    return out


def exported(out: Path, model: str, protocol: str) -> tuple[Any, Any]:
    """The references and the results of a run, as pycocotools loads them."""
    folder = out / "predictions"
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(folder / "coco-instances.json"))
        return truth, truth.loadRes(str(folder / f"coco-{model}-{protocol}.json"))


@pytest.mark.parametrize("protocol", NAMES)
def test_pycocotools_computes_the_recorded_iou_of_each_pair(scored: Path, protocol: str) -> None:
    truth, found = exported(scored, "org%2Fdummy%3Aa@2", protocol)
    frame = read_instances(scored / "instances.parquet")
    rows = {
        row.annotation_id: (row.image_id, row.iou, row.score)
        for row in frame[frame["protocol"] == protocol].itertuples()
    }
    assert len(found.anns) == len(rows) == len(truth.anns) > 5
    for result in found.anns.values():
        reference = truth.anns[result["annotation_id"]]
        image_id, expected, score = rows[result["annotation_id"]]
        assert result["image_id"] == reference["image_id"] == image_id
        assert result["category_id"] == reference["category_id"]
        assert result["score"] == score
        pair = [result["segmentation"]], [reference["segmentation"]]
        assert coco_mask.iou(*pair, [0])[0, 0] == pytest.approx(expected, abs=1e-12)
    record = load_record(scored)
    (row,) = [each for each in record.miou if each.protocol == protocol]
    assert row.miou == pytest.approx(np.mean([iou for _, iou, _ in rows.values()]))


def evaluated(truth: Any, found: Any) -> Any:
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(truth, found, "segm")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def test_cocoeval_runs_on_the_files(scored: Path, scenes_source: Path) -> None:
    truth, found = exported(scored, "org%2Fdummy%3Aa@2", "box")
    ours = evaluated(truth, found)
    assert 0 <= ours.stats[0] < 1
    assert all(0 <= value <= 1 or value == -1 for value in ours.stats)
    # The ids are those of the annotation file, so that it gives the same.
    with contextlib.redirect_stdout(io.StringIO()):
        original = COCO(str(scenes_source / "instances.json"))
        again = original.loadRes(str(scored / "predictions" / "coco-org%2Fdummy%3Aa@2-box.json"))
    assert evaluated(original, again).stats.tolist() == ours.stats.tolist()
    # A model that answers with the reference masks has an average precision of 1.
    perfect = truth.loadRes(
        [
            {**each, "score": 1.0, "segmentation": dict(each["segmentation"])}
            for each in truth.anns.values()
        ]
    )
    assert evaluated(truth, perfect).stats[0] == pytest.approx(1)


def test_masks_of_a_name_with_slashes_are_scored_again(scored: Path) -> None:
    assert list(load_stored([scored]).infos) == ["org/dummy:a@2"]


def test_results_become_an_instances_file_for_other_programs(scored: Path) -> None:
    """The lines of docs/usage.md that make a file for programs that read no results."""
    _, found = exported(scored, "org%2Fdummy%3Aa@2", "box")
    document = json.loads(json.dumps(found.dataset, default=lambda value: value.tolist()))
    assert {"images", "annotations", "categories"} <= set(document)
    assert {"id", "area", "bbox", "iscrowd", "segmentation"} <= set(document["annotations"][0])


@pytest.mark.parametrize("ids", ["file", "mixed", "none"])
def test_categories_keep_the_ids_of_the_annotation_file(
    scenes: Any, run: Callable[..., Any], ids: str
) -> None:
    document = scenes.read()
    for category in document["categories"]:
        category["id"] += 40
    for row in document["annotations"]:
        row["category_id"] += 40
        if ids == "none" or (ids == "mixed" and row["id"] == document["annotations"][0]["id"]):
            del row["category_id"]
    scenes.write(document)
    done = run("miou", "--models=box", *scenes.arguments, "--protocol=box", "--save-masks",
               "--out=o", "--no-boundary")  # fmt: skip
    assert done.code == 0, done.err
    truth, found = exported(Path("o"), "box", "box")
    expected = {row["id"]: row.get("category_id") for row in document["annotations"]}
    new = max([value for value in expected.values() if value is not None], default=0) + 1
    for annotation_id, category_id in expected.items():
        assert truth.anns[annotation_id]["category_id"] == (category_id or new)
    assert {each["annotation_id"]: each["category_id"] for each in found.anns.values()} == {
        key: value or new for key, value in expected.items()
    }
    names = {each["id"]: each["name"] for each in document["categories"]} | {new: "object"}
    assert all(truth.cats[key]["name"] == names[key] for key in truth.cats)
    assert {each["file_name"] for each in truth.imgs.values()} == {
        path.name for path in scenes.images.iterdir()
    }


def test_data_without_classes_is_one_category(tmp_path: Path) -> None:
    def nothing(image: UInt8Array, prompts: Prompts) -> BoolArray:
        return np.zeros((len(prompts), *image.shape[:2]), bool)

    mask = np.zeros((1, 20, 30), bool)
    mask[0, 5:15, 5:20] = True
    data = [(np.zeros((20, 30, 3), np.uint8), mask)]
    evaluate(nothing, data, "box", save_masks=True, out=tmp_path / "o", quiet=True, threads=1)
    truth, found = exported(tmp_path / "o", "nothing", "box")
    assert truth.cats == {1: {"id": 1, "name": "object"}}
    assert evaluated(truth, found).stats[0] == 0
