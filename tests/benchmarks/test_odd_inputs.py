"""Unusual inputs, one row each: number of images measured, messages and exit code.

The results are the same for all commands that read annotations and for all shard sizes.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from messages import check_messages
from PIL import Image

from baselines.dummy import DummySegmenter
from baselines.interface import ModelOptions, Prepared, UInt8Array

Document = dict[str, Any]
N_IMAGES = 4
WIDTH, HEIGHT = 64, 48


class FailsAtOneRow(DummySegmenter):
    """Fails at images of one row, like a model that resizes them to an empty image."""

    def prepare(self, image: UInt8Array) -> Prepared:
        if len(image) == 1:
            raise cv2.error("OpenCV: (-215:Assertion failed) !dsize.empty()")
        return super().prepare(image)


def build(options: ModelOptions) -> FailsAtOneRow:
    return FailsAtOneRow(options.name, {})


class Data:
    """Four images with two objects each, and boxes of a perfect detector."""

    def __init__(self, folder: Path) -> None:
        self.images = folder / "images"
        self.annotations = folder / "instances.json"
        self.detections = folder / "boxes.json"
        self.images.mkdir()
        rng = np.random.default_rng(3)
        self.document: Document = {
            "images": [],
            "annotations": [],
            "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
        }
        for number in range(N_IMAGES):
            pixels = rng.integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)
            Image.fromarray(pixels).save(self.images / f"{number}.png")
            image = {"id": number, "file_name": f"{number}.png", "width": WIDTH, "height": HEIGHT}
            self.document["images"].append(image)
            for x, category in ((4, 1), (36, 2)):
                row_id = len(self.document["annotations"]) + 1
                corners = [x, 8, x + 20, 8, x + 20, 40, x, 40]
                row = {
                    "id": row_id, "image_id": number, "category_id": category, "iscrowd": 0,
                    "bbox": [x, 8, 20, 32], "area": 640, "segmentation": [corners],
                }  # fmt: skip
                self.document["annotations"].append(row)
        self.write_boxes()

    @property
    def rows(self) -> list[Document]:
        found: list[Document] = self.document["annotations"]
        return found

    def write_boxes(self) -> None:
        """Writes the boxes of the annotations as those of the detector."""
        keys = ("image_id", "category_id", "bbox")
        boxes = [{**{key: row[key] for key in keys}, "score": 0.9} for row in self.rows]
        self.detections.write_text(json.dumps(boxes))

    def update_annotations(self, **fields: Any) -> None:
        """Sets fields of all annotations."""
        for row in self.rows:
            row.update(fields)

    def write(self) -> None:
        if not self.annotations.exists():
            self.annotations.write_text(json.dumps(self.document))


@dataclass(frozen=True)
class Case:
    """An unusual input and the expected result.

    Attributes:
        change: Makes the input unusual.
        n_images: Number of images measured; None if the command ends before.
        messages: Texts that standard error contains, each once.
        code: Exit code.
    """

    change: Callable[[Data], object]
    n_images: int | None
    messages: tuple[str, ...]
    code: int


def one_row_image(data: Data) -> None:
    Image.new("RGB", (3000, 1)).save(data.images / "1.png")
    data.document["images"][1].update(width=3000, height=1)
    for row in data.rows[2:4]:
        row.update(bbox=[4, 0, 20, 1], segmentation=[[4, 0, 24, 0, 24, 1, 4, 1]])
    data.write_boxes()


def one_row_images(data: Data) -> None:
    for image in data.document["images"]:
        Image.new("RGB", (3000, 1)).save(data.images / image["file_name"])
        image.update(width=3000, height=1)
    data.update_annotations(bbox=[4, 0, 20, 1], segmentation=[[4, 0, 24, 0, 24, 1, 4, 1]])
    data.write_boxes()


def normalised(data: Data) -> None:
    for row in data.rows:
        corners = np.array(row["segmentation"][0]).reshape(-1, 2) / (WIDTH, HEIGHT)
        row["segmentation"] = [corners.ravel().tolist()]


def backslashes(data: Data) -> None:
    for image in data.document["images"]:
        image["file_name"] = f"images\\{image['file_name']}"


def lvis(data: Data) -> None:
    for image in data.document["images"]:
        name = image.pop("file_name")
        image["coco_url"] = f"http://images.cocodataset.org/val2017/{name}"


def floats(data: Data) -> None:
    """All whole numbers as floats, as some tools write them."""
    for image in data.document["images"]:
        image.update({key: float(image[key]) for key in ("id", "width", "height")})
    for row in data.rows:
        row.update({key: float(row[key]) for key in ("id", "image_id", "category_id", "iscrowd")})


def corners(data: Data) -> None:
    for row in data.rows:
        x, y, width, height = row["bbox"]
        row["bbox"] = [x, y, x + width, y + height]


def compressed(data: Data) -> None:
    data.annotations.write_bytes(gzip.compress(json.dumps(data.document).encode()))


def same_id(data: Data) -> None:
    data.document["images"][1]["id"] = 0


NO_CATEGORY = "of 8 annotations are of no category that the file names"
NOT_READ = tuple(
    f"images\\{n}.png: cannot read the image images\\{n}.png: No such file or directory; the name "
    "has backslashes"
    for n in range(N_IMAGES)
)
TABLE: dict[str, Case] = {
    "usual input": Case(lambda _: None, 4, (), 0),
    "an image of one row, at which the model fails": Case(
        one_row_image, 3, ("1.png: one-row fails at it: error: OpenCV: (-215:Assertion failed)",), 1
    ),
    "the model fails at all images": Case(
        one_row_images, 0, ("one-row: fails at each of the first 4 images: error: OpenCV",), 1
    ),
    "boxes only": Case(
        lambda data: data.update_annotations(segmentation=[]),
        None,
        ("8 of 8 have no mask: boxes only?",),
        1,
    ),
    "crowds only": Case(
        lambda data: data.update_annotations(iscrowd=1), None, ("8 of 8 are crowd regions",), 1
    ),
    "polygons between 0 and 1": Case(normalised, None, ("8 of 8 have polygons between 0",), 1),
    "no annotation": Case(
        lambda data: data.rows.clear(), None, ("no usable annotation: there is none",), 1
    ),
    "no image": Case(
        lambda data: data.document["images"].clear(),
        None,
        ("8 of 8 are malformed (first: annotation 1 has image_id 0",),
        1,
    ),
    "names with backslashes": Case(backslashes, 0, NOT_READ, 1),
    "a missing image": Case(
        lambda data: (data.images / "2.png").unlink(), 3, ("cannot read the image 2.png",), 1
    ),
    "an empty image": Case(
        lambda data: (data.images / "0.png").write_bytes(b""), 3, ("0.png is empty",), 1
    ),
    "an image of another size": Case(
        lambda data: Image.new("RGB", (9, 9)).save(data.images / "3.png"),
        3,
        ("3.png is 9x9 px, but its annotations are for 64x48 px",),
        1,
    ),
    "URLs in place of names": Case(lvis, 4, (), 0),
    "a category that is text": Case(
        lambda data: data.rows[0].update(category_id="1"), 4, (f"1 {NO_CATEGORY}",), 0
    ),
    "a category that is null": Case(
        lambda data: data.rows[0].update(category_id=None), 4, (f"1 {NO_CATEGORY}",), 0
    ),
    "no categories": Case(
        lambda data: data.document.pop("categories"), 4, (f"8 {NO_CATEGORY}",), 0
    ),
    "a category without a name": Case(
        lambda data: data.document["categories"][0].pop("name"), 4, (f"4 {NO_CATEGORY}",), 0
    ),
    "two categories of one id": Case(
        lambda data: data.document["categories"][0].update(id=2), 4, (f"8 {NO_CATEGORY}",), 0
    ),
    "whole numbers with a point": Case(floats, 4, (), 0),
    "boxes that are corners": Case(
        corners, 4, ("4 of 8 boxes end beyond their image: COCO's bbox is [x, y, width",), 0
    ),
    "a compressed file": Case(
        compressed, None, ("instances.json is compressed (gzip); unpack it first, with gunzip",), 1
    ),
    "a list": Case(
        lambda data: data.annotations.write_text("[]"), None, ("a COCO instances file?",), 1
    ),
    "an image whose width is text": Case(
        lambda data: data.document["images"][1].update(width="64"),
        3,
        ("instances.json: image number 1: width: ",),
        1,
    ),
    "two images of one id": Case(
        same_id,
        2,
        ("instances.json: image id 0 is given twice", "annotation 3 has image_id 1, which"),
        1,
    ),
    "an annotation of no number": Case(
        lambda data: data.rows[0].update(id="x"), 4, ("annotation number 0: id: ",), 1
    ),
}
COMMANDS = {
    "miou": ("miou", "--protocol=box"),
    "everything": ("everything",),
    "detector-box": ("miou", "--protocol=detector-box"),
    "miou in chunks": ("miou", "--protocol=box", "--chunk=2"),
    "miou in chunks of one": ("miou", "--protocol=box", "--chunk=1"),
    "everything in chunks": ("everything", "--chunk=1"),
}


@pytest.fixture
def data(tmp_path: Path) -> Data:
    return Data(tmp_path)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("case", TABLE)
def test_unusual_input(run: Any, third_party: Any, data: Data, case: str, command: str) -> None:
    third_party("one-row", f"{__name__}:build")
    expected = TABLE[case]
    expected.change(data)
    data.write()
    boxes = (f"--detections={data.detections}",) if command == "detector-box" else ()
    done = run(*COMMANDS[command], "--models=one-row", "--dataset=coco", f"--images={data.images}",
               f"--annotations={data.annotations}", *boxes, "--threads=1", "--json")  # fmt: skip
    for message in expected.messages:
        assert done.err.count(message) == 1
    check_messages(done.err)
    for line in done.err.splitlines():
        assert line.count("instances.json") <= 1
    assert done.code == expected.code
    if expected.n_images is None:
        assert done.err.startswith("error: ")
        assert done.out == ""
        return
    found = done.json
    (row,) = [*found["rows"], *found["everything"], *found["detector"]]
    assert row["n_images"] == expected.n_images
    assert row["status"] == ("ok" if expected.n_images else "error")
    assert bool(found["failures"]) == (expected.code == 1)
    assert (row["why"] is None) or row["status"] == "error" or "left out" in row["why"]
    image_failures = [each for each in found["failures"] if each["culprit"].endswith(".png")]
    if row["status"] == "ok" and image_failures:
        assert "images left out: " in row["why"]


@pytest.mark.parametrize("command", ["miou", "everything", "detector-box"])
def test_debug_shows_the_traceback_of_a_model_failure(
    run: Any, third_party: Any, data: Data, command: str
) -> None:
    third_party("one-row", f"{__name__}:build")
    one_row_image(data)
    data.write()
    boxes = (f"--detections={data.detections}",) if command == "detector-box" else ()
    done = run(*COMMANDS[command], "--models=one-row", "--dataset=coco", f"--images={data.images}",
               f"--annotations={data.annotations}", *boxes, "--threads=1", "--json",
               "--debug")  # fmt: skip
    assert done.code == 1
    assert done.err.count("Traceback (most recent call last)") == 2  # the cause and its wrapper
    assert "in prepare\n    raise cv2.error(" in done.err
