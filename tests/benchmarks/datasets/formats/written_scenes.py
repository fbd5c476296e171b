"""One set of scenes with polygons, written in every format as its documentation describes it.

The writers here share nothing with the readers under test: JSON, text and XML are written by hand,
masks by Pillow from polygons that pycocotools rasterises.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

SIZE_HW = (60, 80)
CLASSES = ("cat", "dog")
# (class, polygons in pixels with two decimals); no two objects of an image overlap.
SCENES: dict[str, list[tuple[int, list[list[float]]]]] = {
    "a": [
        (0, [[4.1, 5.3, 30.5, 6.7, 27.9, 28.33, 8.1, 25.5]]),
        (1, [[40.5, 10.5, 70.5, 10.5, 70.5, 30.5, 40.5, 30.5]]),
        (1, [[10, 40, 20, 40, 15, 55], [30, 42, 44, 42, 37.25, 57.75]]),
    ],
    "b": [(1, [[2, 2, 50, 3, 48, 40, 5, 38]])],
    "c": [(0, [[12.3, 12.7, 33.3, 15.1, 20.9, 44.9]]), (0, [[50, 20, 75, 20, 75, 59, 50, 59]])],
}


def raster(polygons: list[list[float]]) -> np.ndarray:
    rle = coco_mask.merge(coco_mask.frPyObjects(polygons, *SIZE_HW))
    with warnings.catch_warnings(action="ignore"):  # of pycocotools under numpy 2
        return np.ascontiguousarray(coco_mask.decode(rle).astype(bool))


def write_image(path: Path, stem: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(ord(stem)).integers(0, 255, (*SIZE_HW, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def coco_document() -> dict:
    images, annotations = [], []
    for image_id, (stem, objects) in enumerate(SCENES.items()):
        height, width = SIZE_HW
        image = {"id": image_id, "file_name": f"{stem}.png", "height": height, "width": width}
        images.append(image)
        for class_id, polygons in objects:
            rle = coco_mask.merge(coco_mask.frPyObjects(polygons, *SIZE_HW))
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": class_id + 1,
                    "segmentation": polygons,
                    "area": float(coco_mask.area(rle)),
                    "bbox": coco_mask.toBbox(rle).tolist(),
                    "iscrowd": 0,
                }
            )
    categories = [{"id": i + 1, "name": name} for i, name in enumerate(CLASSES)]
    return {"images": images, "annotations": annotations, "categories": categories}


def write_json(path: Path, document: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document))


def write_coco(root: Path) -> None:
    for stem in SCENES:
        write_image(root / "images" / f"{stem}.png", stem)
    write_json(root / "annotations" / "instances_default.json", coco_document())


def write_cvat(root: Path) -> None:
    """As CVAT: brush masks are RLEs of numbers with iscrowd 1, every object has attributes."""
    write_coco(root)
    document = coco_document()
    for row in document["annotations"]:
        row["attributes"] = {"occluded": False}
        if row["id"] == 2:
            flat = raster(row["segmentation"]).ravel(order="F")
            changes = np.flatnonzero(np.diff(flat.astype(int))) + 1
            counts = np.diff(np.concatenate(([0], changes, [flat.size]))).tolist()
            row |= {"iscrowd": 1, "segmentation": {"size": list(SIZE_HW), "counts": counts}}
    write_json(root / "annotations" / "instances_default.json", document)


def write_roboflow(root: Path) -> None:
    """As Roboflow: annotations beside the images of a split, class 0 is the project."""
    document = coco_document()
    document["categories"].insert(0, {"id": 0, "name": "animals", "supercategory": "none"})
    for image in document["images"]:
        stem = image["file_name"].removesuffix(".png")
        image["file_name"] = f"{stem}_png.rf.0123abcd.png"
        image["extra"] = {"name": f"{stem}.png"}
        write_image(root / "valid" / image["file_name"], stem)
    write_json(root / "valid" / "_annotations.coco.json", document)


def write_label_studio(root: Path) -> None:
    """As Label Studio: `result.json`, whose file names begin with `images/`; ids from 0."""
    document = coco_document()
    document["info"] = {"contributor": "Label Studio", "version": "1.0"}
    for image in document["images"]:
        image["file_name"] = f"images/{image['file_name']}"
        write_image(root / image["file_name"], image["file_name"][-5])
    for row in document["annotations"]:
        row |= {"id": row["id"] - 1, "ignore": 0, "category_id": row["category_id"] - 1}
    document["categories"] = [{"id": i, "name": name} for i, name in enumerate(CLASSES)]
    write_json(root / "result.json", document)


def write_lvis(root: Path) -> None:
    document = coco_document()
    for image in document["images"]:
        stem = image.pop("file_name").removesuffix(".png")
        image["coco_url"] = f"http://images.cocodataset.org/val2017/{stem}.png"
        image |= {"neg_category_ids": [2], "not_exhaustive_category_ids": []}
        write_image(root / "val2017" / f"{stem}.png", stem)
    for row in document["annotations"]:
        del row["iscrowd"]
    for category in document["categories"]:
        category |= {"frequency": "f", "synset": f"{category['name']}.n.01"}
    write_json(root / "lvis_v1_val.json", document)


def write_yolo(root: Path) -> None:
    """As ultralytics: only objects of one polygon are exact, so parts are lines of their own."""
    height, width = SIZE_HW
    (root / "labels" / "val").mkdir(parents=True)
    for stem, objects in SCENES.items():
        write_image(root / "images" / "val" / f"{stem}.png", stem)
        lines = [
            " ".join(
                [str(class_id)]
                + [f"{v / (height if i % 2 else width):.6f}" for i, v in enumerate(polygon)]
            )
            for class_id, polygons in objects
            for polygon in polygons
        ]
        (root / "labels" / "val" / f"{stem}.txt").write_text("\n".join(lines) + "\n")
    (root / "data.yaml").write_text("path: .\nval: images/val\nnames:\n  0: cat\n  1: dog\n")


def write_labelme(root: Path) -> None:
    for stem, objects in SCENES.items():
        write_image(root / f"{stem}.png", stem)
        shapes = [
            {
                "label": CLASSES[class_id],
                "points": np.reshape(polygon, (-1, 2)).tolist(),
                "group_id": number if len(polygons) > 1 else None,
                "shape_type": "polygon",
                "flags": {},
                "description": "",
                "mask": None,
            }
            for number, (class_id, polygons) in enumerate(objects)
            for polygon in polygons
        ]
        document = {
            "version": "5.5.0",
            "flags": {},
            "shapes": shapes,
            "imagePath": f"{stem}.png",
            "imageData": None,
            "imageHeight": SIZE_HW[0],
            "imageWidth": SIZE_HW[1],
        }
        write_json(root / f"{stem}.json", document)


def voc_colour_map() -> list[int]:
    """The palette of Pascal VOC, as its development kit computes it."""
    colours = np.zeros((256, 3), int)
    for index in range(256):
        rest = index
        for bit in range(8):
            for channel in range(3):
                colours[index, channel] |= ((rest >> channel) & 1) << (7 - bit)
            rest >>= 3
    return colours.ravel().tolist()


def object_map(objects: list[tuple[int, list[list[float]]]]) -> np.ndarray:
    labels = np.zeros(SIZE_HW, np.uint8)
    for number, (_, polygons) in enumerate(objects, 1):
        labels[raster(polygons)] = number
    return labels


def save_palette(path: Path, labels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(labels, "L").copy()
    palette = Image.new("P", image.size)
    palette.putdata(labels.ravel().tolist())
    palette.putpalette(voc_colour_map())
    palette.save(path)


def write_voc(root: Path) -> None:
    """As VOC2012: palette images, classes of the 20 (cat 8, dog 12), a list of the images."""
    for stem, objects in SCENES.items():
        write_image(root / "JPEGImages" / f"{stem}.png", stem)
        labels = object_map(objects)
        classes = np.zeros_like(labels)
        for number, (class_id, _) in enumerate(objects, 1):
            classes[labels == number] = (8, 12)[class_id]
        labels[0, :], classes[0, :] = 255, 255
        save_palette(root / "SegmentationObject" / f"{stem}.png", labels)
        save_palette(root / "SegmentationClass" / f"{stem}.png", classes)
    lists = root / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "val.txt").write_text("\n".join(SCENES) + "\n")


def write_cvat_voc(root: Path) -> None:
    """As CVAT's segmentation masks: RGB colours, those of the classes in `labelmap.txt`."""
    colours = {0: (250, 50, 83), 1: (51, 221, 255)}
    rows = [f"{CLASSES[i]}:{','.join(map(str, colour))}::" for i, colour in colours.items()]
    root.mkdir(parents=True)
    header = "# label:color_rgb:parts:actions\nbackground:0,0,0::\n"
    (root / "labelmap.txt").write_text(header + "\n".join(rows))
    palette = np.reshape(voc_colour_map(), (-1, 3)).astype(np.uint8)
    for stem, objects in SCENES.items():
        write_image(root / "JPEGImages" / f"{stem}.png", stem)
        labels = object_map(objects)
        classes = np.zeros((*SIZE_HW, 3), np.uint8)
        for number, (class_id, _) in enumerate(objects, 1):
            classes[labels == number] = colours[class_id]
        for folder, pixels in (("SegmentationObject", palette[labels]),
                               ("SegmentationClass", classes)):  # fmt: skip
            (root / folder).mkdir(exist_ok=True)
            Image.fromarray(pixels).save(root / folder / f"{stem}.png")


def write_id_masks(root: Path) -> None:
    for stem, objects in SCENES.items():
        write_image(root / "images" / f"{stem}.png", stem)
        (root / "masks").mkdir(exist_ok=True)
        Image.fromarray(object_map(objects)).save(root / "masks" / f"{stem}.png")


def write_palette_masks(root: Path) -> None:
    for stem, objects in SCENES.items():
        write_image(root / "img" / f"{stem}.png", stem)
        save_palette(root / "gt" / f"{stem}.png", object_map(objects))


def write_object_files(root: Path) -> None:
    """A folder of masks an image, a file of 0 and 255 an object."""
    for stem, objects in SCENES.items():
        write_image(root / stem / "images" / f"{stem}.png", stem)
        (root / stem / "masks").mkdir()
        for number, (_, polygons) in enumerate(objects):
            pixels = raster(polygons).astype(np.uint8) * 255
            Image.fromarray(pixels).save(root / stem / "masks" / f"object-{number}.png")


def write_numbered_masks(root: Path) -> None:
    for stem, objects in SCENES.items():
        write_image(root / "sub" / "images" / f"{stem}.png", stem)
        (root / "sub" / "masks").mkdir(exist_ok=True)
        for number, (_, polygons) in enumerate(objects):
            path = root / "sub" / "masks" / f"{stem}_{number}.png"
            Image.fromarray(raster(polygons)).save(path)


WRITERS: dict[str, tuple[str, Callable[[Path], None]]] = {
    "coco": ("coco", write_coco),
    "cvat": ("coco", write_cvat),
    "roboflow": ("coco", write_roboflow),
    "label-studio": ("coco", write_label_studio),
    "lvis": ("lvis", write_lvis),
    "yolo": ("yolo-seg", write_yolo),
    "labelme": ("labelme", write_labelme),
    "voc": ("voc", write_voc),
    "cvat-voc": ("voc", write_cvat_voc),
    "id-masks": ("masks", write_id_masks),
    "palette-masks": ("masks", write_palette_masks),
    "object-files": ("masks", write_object_files),
    "numbered-masks": ("masks", write_numbered_masks),
}
"""Format and writer of each layout."""
