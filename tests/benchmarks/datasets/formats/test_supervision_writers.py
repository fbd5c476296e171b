"""Files written by supervision: its YOLO, VOC and LabelMe give the instances of its COCO form."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from written_scenes import CLASSES, SCENES, raster, write_image

from benchmarks.datasets.dataset import Sample
from benchmarks.datasets.formats.detection import Source, detect, open_source

sv = pytest.importorskip("supervision", reason="supervision (of the extra `dev`) writes the files")

Write = Callable[..., None]
WRITERS: dict[str, tuple[str, Callable[[object, Path], None]]] = {
    "coco": ("coco", lambda data, root: data.as_coco(
        images_directory_path=str(root / "images"),
        annotations_path=str(root / "annotations" / "instances.json"),
    )),
    "yolo": ("yolo-seg", lambda data, root: data.as_yolo(
        images_directory_path=str(root / "images"),
        annotations_directory_path=str(root / "labels"),
        data_yaml_path=str(root / "data.yaml"),
    )),
    "voc": ("voc", lambda data, root: data.as_pascal_voc(
        images_directory_path=str(root / "images"),
        annotations_directory_path=str(root / "annotations"),
    )),
    "labelme": ("labelme", lambda data, root: data.as_labelme(
        images_directory_path=str(root / "images"),
        annotations_directory_path=str(root / "annotations"),
    )),
}  # fmt: skip


@pytest.fixture
def dataset(tmp_path: Path) -> object:
    """The scenes as masks, without the object of two parts, which YOLO cannot hold."""
    images, annotations = [], {}
    for stem, objects in SCENES.items():
        path = str(write_image(tmp_path / "source" / f"{stem}.png", stem))
        images.append(path)
        whole = [(class_id, polygons) for class_id, polygons in objects if len(polygons) == 1]
        masks = np.stack([raster(polygons) for _, polygons in whole])
        annotations[path] = sv.Detections(
            xyxy=sv.mask_to_xyxy(masks),
            mask=masks,
            class_id=np.array([class_id for class_id, _ in whole]),
        )
    return sv.DetectionDataset(classes=list(CLASSES), images=images, annotations=annotations)


def instances(root: Path, name: str) -> dict[str, list[tuple[str, str]]]:
    source = detect(root)
    assert source.format == name
    found = {}
    for sample in open_source(source).samples():
        assert isinstance(sample, Sample), sample
        rows = sorted((each.category, each.rle["counts"]) for each in sample.instances)
        found[Path(sample.name).stem] = rows
    return found


def test_files_of_supervision_give_the_instances_of_its_coco_form(
    dataset: object, tmp_path: Path
) -> None:
    found = {}
    for layout, (name, write) in WRITERS.items():
        write(dataset, tmp_path / layout)
        found[layout] = instances(tmp_path / layout, name)
    assert sum(map(len, found["coco"].values())) == 5
    for layout in WRITERS:
        assert found[layout] == found["coco"], layout
    split = tmp_path / "yolo" / "images"
    named = open_source(Source("yolo-seg", split))
    assert next(iter(named.samples())).instances[0].category in CLASSES
