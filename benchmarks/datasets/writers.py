"""Writes a dataset in the format of COCO or SA-1B."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from baselines.interface import UInt8Array
from benchmarks.datasets.dataset import Dataset, Instance, Sample, UnreadableImage
from benchmarks.datasets.masks import center_point, rle_area_px, rle_box
from mobilesam.errors import DataError, UsageError
from mobilesam.files import write_atomic

ImageFormat = Literal["png", "jpg"]

JPEG_QUALITY = 95
COCO_ANNOTATIONS = "instances.json"
COCO_IMAGES = "images"
NO_CATEGORY = "object"
"""Category of instances without one, since COCO requires a category."""


@dataclass(slots=True)
class WrittenDataset:
    """Result of writing a dataset.

    `paths` are the annotation file, JSON files or tars by which it is read, `skipped` the
    unreadable images of the source, which are missing in it.
    """

    paths: list[Path] = field(default_factory=list)
    n_images: int = 0
    n_instances: int = 0
    skipped: list[UnreadableImage] = field(default_factory=list)

    def count(self, dataset: Dataset) -> Iterator[Sample]:
        """Yields the readable images of a dataset and counts all."""
        for sample in dataset.samples():
            if isinstance(sample, UnreadableImage):
                self.skipped.append(sample)
            else:
                self.n_images += 1
                self.n_instances += len(sample.instances)
                yield sample


def write_coco(dataset: Dataset, folder: Path, image_format: ImageFormat = "png") -> WrittenDataset:
    """Writes `images/`, and `instances.json` when all images are written; it must not exist.

    Masks are compressed RLEs, boxes the tight boxes of the masks by pycocotools' `toBbox`, areas
    their pixel counts. Image and annotation ids are kept. `png` is lossless, `jpg` smaller.
    """
    target = folder / COCO_ANNOTATIONS
    if target.exists():
        raise DataError(f"{target} exists; choose an empty folder or remove it")
    written = WrittenDataset([target])
    images: list[dict[str, Any]] = []
    rows: list[dict[str, Any]] = []
    for sample in written.count(dataset):
        name = f"{sample.image_id:012d}.{image_format}"
        write_atomic(folder / COCO_IMAGES / name, encode_image(sample.image, image_format))
        height, width = sample.image.shape[:2]
        images.append({"id": sample.image_id, "file_name": name, "height": height, "width": width})
        for instance in sample.instances:
            x0, y0, x1, y1 = rle_box(instance.rle).tolist()
            row = {
                "id": instance.annotation_id,
                "image_id": sample.image_id,
                "category": instance.category or NO_CATEGORY,
                "iscrowd": 0,
                "area": rle_area_px(instance.rle),
                "bbox": [x0, y0, x1 - x0, y1 - y0],
                "segmentation": dict(instance.rle),
            }
            rows.append(row)
    names = sorted({row["category"] for row in rows})
    for row in rows:
        row["category_id"] = names.index(row.pop("category")) + 1
    document = {
        "info": {"description": f"written by mobilesam-bench from {dataset.name}"},
        "images": images,
        "annotations": rows,
        "categories": [{"id": i + 1, "name": name} for i, name in enumerate(names)],
    }
    write_atomic(target, json.dumps(document).encode())
    return written


def write_sa1b(
    dataset: Dataset, folder: Path, tar: bool = False, images_per_tar: int = 1000
) -> WrittenDataset:
    """Writes `sa_N.jpg` and `sa_N.json` for every image, N its id, in a folder or in tars.

    Follows SA-1B's conventions: `bbox` with inclusive maxima, one pixel smaller than the tight box
    by half-open edges, and `point_coords` inside the mask (the first stored point that lies inside,
    else the centre of the mask). Unlike in SA-1B, no model scored these masks: `predicted_iou` and
    `stability_score` are 1. JPEG images are lossy; masks are lossless. A file or tar of the same
    name is replaced; tars are `sa_000000.tar` and so on, each renamed when it is complete.
    """
    if images_per_tar < 1:
        raise UsageError(f"images_per_tar is {images_per_tar}; wanted 1 or more")
    written = WrittenDataset()
    samples = written.count(dataset)
    if not tar:
        for sample in samples:
            for name, data in _sa1b_files(sample):
                write_atomic(folder / name, data)
            written.paths.append(folder / name)
        return written
    while (first := next(samples, None)) is not None:
        path = folder / f"sa_{len(written.paths):06d}.tar"
        _write_tar(path, chain([first], islice(samples, images_per_tar - 1)))
        written.paths.append(path)
    return written


def _write_tar(path: Path, samples: Iterator[Sample]) -> None:
    temporary = path.with_name(f".{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(temporary, mode="w") as tar:
            for name, data in chain.from_iterable(map(_sa1b_files, samples)):
                # Without date or owner, so that the same data gives the same tar.
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
        temporary.replace(path)
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror}; choose another folder") from error
    finally:
        temporary.unlink(missing_ok=True)


def _sa1b_files(sample: Sample) -> Iterator[tuple[str, bytes]]:
    """Yields name and content of the image and of its JSON."""
    yield f"sa_{sample.image_id}.jpg", encode_image(sample.image, "jpg")
    yield f"sa_{sample.image_id}.json", json.dumps(sa1b_document(sample)).encode()


def sa1b_document(sample: Sample) -> dict[str, Any]:
    """Returns the content of the JSON of an image."""
    height, width = sample.image.shape[:2]
    annotations = []
    for instance in sample.instances:
        x0, y0, x1, y1 = rle_box(instance.rle).tolist()
        annotation = {
            "id": instance.annotation_id,
            "bbox": [x0, y0, x1 - x0 - 1, y1 - y0 - 1],
            "area": rle_area_px(instance.rle),
            "segmentation": dict(instance.rle),
            "predicted_iou": 1.0,
            "stability_score": 1.0,
            "point_coords": [_inner_point(instance)],
            "crop_box": [0.0, 0.0, float(width), float(height)],
        }
        annotations.append(annotation)
    file_name = f"sa_{sample.image_id}.jpg"
    image = {"image_id": sample.image_id, "width": width, "height": height, "file_name": file_name}
    return {"image": image, "annotations": annotations}


def _inner_point(instance: Instance) -> list[float]:
    mask = instance.mask()
    for x, y in () if instance.points is None else instance.points.tolist():
        row, column = int(np.floor(y)), int(np.floor(x))
        if 0 <= row < mask.shape[0] and 0 <= column < mask.shape[1] and mask[row, column]:
            return [x, y]
    return [float(value) for value in center_point(mask)]


def encode_image(image: UInt8Array, image_format: ImageFormat) -> bytes:
    """Encodes an (H, W, 3) uint8 image as PNG, or as JPEG of quality `JPEG_QUALITY`."""
    buffer = io.BytesIO()
    if image_format == "png":
        Image.fromarray(image).save(buffer, "PNG")
    else:
        Image.fromarray(image).save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()
