"""Results files of detectors: what is read, left out and rejected."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.datasets.coco import CocoDataset
from benchmarks.datasets.detections import (
    Detections,
    boxes_from_annotations,
    read_detections,
    read_ground_truth,
)
from mobilesam.errors import DataError


class Files:
    """A results file for three scenes."""

    def __init__(self, scenes: Any, detections: Path) -> None:
        self._scenes = scenes
        self.detections = detections

    def write(self, boxes: Any) -> None:
        self.detections.write_text(boxes if isinstance(boxes, str) else json.dumps(boxes))

    def read(self) -> Detections:
        dataset = CocoDataset(self._scenes.images, self._scenes.annotations)
        return read_detections(
            self.detections, read_ground_truth(self._scenes.annotations, dataset)
        )


@pytest.fixture
def files(scenes: Any, tmp_path: Path) -> Files:
    made = Files(scenes, tmp_path / "boxes.json")
    made.write([])
    return made


def test_boxes_without_area_on_their_image_are_left_out_and_listed(files: Files) -> None:
    good = {"image_id": 0, "category_id": 1, "score": 0.5}
    files.write(
        [
            {**good, "bbox": [-5, -5, 20, 10]},
            {**good, "bbox": [3, 3, 0, 4]},
            {**good, "bbox": [128, 3, 5, 5]},
            {**good, "bbox": [3, 3, 5, -4]},
            {**good, "bbox": [1, 1, 2, 2], "image_id": 77},
        ]
    )
    found = files.read()
    (box,) = found.by_image[0]
    assert box.box.tolist() == [0, 0, 15, 5]
    assert found.left_out == {
        "without area": 2,
        "outside of the image": 1,
        "on an image that is not evaluated": 1,
    }
    assert found.problems[0] == ("boxes.json: detection number 1: box [3, 3, 0, 4] is without area")
    assert len(found.problems) == 3
    assert sum(map(len, found.by_image.values())) == 1


GOOD = {"image_id": 0, "category_id": 1, "bbox": [1, 1, 5, 5], "score": 0.5}


@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        ("[{", "not valid JSON"),
        ({"annotations": []}, "not a list of detections"),
        ([], "no usable box"),
        ([[1]], "number 0: top level: .*an object with named fields"),
        ([GOOD, {"image_id": 0, "category_id": 1, "score": 1}], "number 1: bbox: Field required"),
        ([{**GOOD, "bbox": [1, 2, 3]}], r"bbox: .*at least 4.*; got \[1, 2, 3\]"),
        ([{**GOOD, "bbox": [1, float("nan"), 3, 4]}], "bbox.1: .*finite number; got nan"),
        ([{**GOOD, "score": float("inf")}], "score: .*finite number; got inf"),
        ([{**GOOD, "score": None}], "score: .*; got None"),
        ([{**GOOD, "image_id": "0"}], "image_id: .*; got '0'"),
        ([{**GOOD, "category_id": 4711}], "category_id 4711, which the annotations do not"),
        ([{**GOOD, "image_id": 5}], "no usable box .1 on an image that is not evaluated"),
    ],
)
def test_errors_name_file_and_entry(files: Files, boxes: Any, message: str) -> None:
    files.write(boxes)
    with pytest.raises(DataError, match=message) as caught:
        files.read()
    assert "boxes.json" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_annotations_without_a_category_are_not_ground_truth(scenes: Any) -> None:
    document = scenes.read()
    n = len(document["annotations"])
    document["annotations"][0]["category_id"] = None
    document["annotations"][1]["category_id"] = "1"
    document["annotations"][2]["category_id"] = 4711.0  # which `categories` does not define
    del document["categories"]
    scenes.write(document)
    dataset = CocoDataset(scenes.images, scenes.annotations)
    truth = read_ground_truth(scenes.annotations, dataset)
    assert dataset.n_instances == n
    assert (len(truth.masks), truth.n_uncategorised) == (n - 2, 2)
    assert 4711 in truth.categories
    assert truth.in_dataset == set(truth.images)
    assert len(boxes_from_annotations(scenes.annotations)) == n - 2
    for row in document["annotations"]:
        row["category_id"] = "cat"
    scenes.write(document)
    with pytest.raises(DataError, match=r"instances\.json gives no box"):
        boxes_from_annotations(scenes.annotations)
    with pytest.raises(DataError, match="AP is computed by category"):
        read_ground_truth(scenes.annotations, CocoDataset(scenes.images, scenes.annotations))


def test_a_missing_file_is_an_error(files: Files) -> None:
    files.detections.unlink()
    with pytest.raises(DataError, match=r"cannot read .*boxes\.json"):
        files.read()


def test_boxes_from_annotations_without_boxes_are_tight(scenes: Any) -> None:
    before = boxes_from_annotations(scenes.annotations)
    document = scenes.read()
    del document["annotations"][0]["bbox"]
    document["annotations"][1]["bbox"][2] = 0
    document["annotations"][2]["iscrowd"] = 1
    scenes.write(document)
    after = boxes_from_annotations(scenes.annotations)
    assert after == [*before[:2], *before[3:]]
