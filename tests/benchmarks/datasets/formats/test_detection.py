"""The same scenes in every format: the format is detected, and the instances are the same."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from written_scenes import CLASSES, SCENES, SIZE_HW, WRITERS, raster, write_coco, write_roboflow

from benchmarks.datasets.dataset import Dataset, Sample
from benchmarks.datasets.formats.detection import detect, open_source
from mobilesam.errors import DataError


def contents(dataset: Dataset) -> dict[str, list[tuple]]:
    """Class, box and mask of all objects by the first letter of the image's name."""
    found = {}
    for sample in dataset.samples():
        assert isinstance(sample, Sample), sample
        rows = [
            (each.category, each.area_px, *each.box.tolist(), each.rle["counts"])
            for each in sample.instances
        ]
        found[Path(sample.name).name[0]] = sorted(rows)
    return found


def expected(*, named: bool, parts: bool) -> dict[str, list[tuple]]:
    found = {}
    for stem, objects in SCENES.items():
        rows = []
        for class_id, polygons in objects:
            for group in [[each] for each in polygons] if parts else [polygons]:
                mask = raster(group)
                ys, xs = np.nonzero(mask)
                box = (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)
                flat = np.asfortranarray(mask.astype(np.uint8))
                counts = coco_mask.encode(flat)["counts"].decode()
                category = CLASSES[class_id] if named else ""
                rows.append((category, float(mask.sum()), *map(float, box), counts))
        found[stem] = sorted(rows)
    return found


@pytest.mark.parametrize("layout", WRITERS)
def test_all_formats_give_the_same_instances(layout: str, tmp_path: Path) -> None:
    name, write = WRITERS[layout]
    root = tmp_path / "data"
    write(root)
    source = detect(root)
    assert source.format == name
    dataset = open_source(source)
    assert contents(dataset) == expected(named=name != "masks", parts=name == "yolo-seg")
    assert dataset.left_out.get("malformed", 0) == 0
    assert dataset.n_images == len(SCENES)
    ids = [each.annotation_id for sample in dataset.samples() for each in sample.instances]
    assert len(set(ids)) == len(ids)
    # In shards, whose readers go to other processes, too.
    shards = pickle.loads(pickle.dumps(list(dataset.shards(2))))
    assert [len(shard.readers) for shard in shards] == [2, 1]
    assert shards[1].readers[0]().sample.image.shape == (*SIZE_HW, 3)
    again = open_source(detect(root))
    assert again.fingerprint == dataset.fingerprint
    assert again.images_state == dataset.images_state != ""
    if name != "lvis":
        assert open_source(source, 2).n_images == 2
        assert open_source(source, 2).fingerprint != dataset.fingerprint


@pytest.mark.parametrize("layout", ["cvat", "roboflow", "label-studio"])
def test_the_tool_that_exported_a_coco_file_is_told(layout: str, tmp_path: Path) -> None:
    WRITERS[layout][1](tmp_path / "data")
    assert detect(tmp_path / "data").tool.lower().replace(" ", "-") == layout


def test_lvis_is_told_to_be_federated(tmp_path: Path) -> None:
    WRITERS["lvis"][1](tmp_path / "data")
    assert "some of the 2 categories only" in open_source(detect(tmp_path / "data")).notes[0]


def test_brush_masks_of_cvat_are_told(tmp_path: Path) -> None:
    WRITERS["cvat"][1](tmp_path / "data")
    assert "1 brush masks of CVAT" in open_source(detect(tmp_path / "data")).notes[0]


def test_several_annotation_files_are_named(tmp_path: Path) -> None:
    write_roboflow(tmp_path)
    (tmp_path / "valid").rename(tmp_path / "train")
    write_roboflow(tmp_path)
    with pytest.raises(DataError, match=r"several annotation files \(train/_annot.*valid/_annot"):
        detect(tmp_path)
    assert open_source(detect(tmp_path / "valid")).name == "coco:valid"


def test_missing_images_of_a_coco_file_are_one_error(tmp_path: Path) -> None:
    write_coco(tmp_path)
    (tmp_path / "images").rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match=r"'a.png' is missing in .*give their folder with --images"):
        detect(tmp_path)
    source = detect(tmp_path, tmp_path / "elsewhere")
    assert contents(open_source(source)) == expected(named=True, parts=False)


def test_an_unknown_folder_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "notes.md").write_text("hello")
    (tmp_path / "x.json").write_text(json.dumps({"a": 1}))
    for path in (tmp_path, tmp_path / "x.json", tmp_path / "notes.md"):
        with pytest.raises(DataError, match="has none of the formats coco, lvis"):
            detect(path)
    with pytest.raises(DataError, match="does not exist"):
        detect(tmp_path / "nowhere")
