"""Writes a dataset in COCO's or SA-1B's own format, for sharing, for other tools and for tests."""

from __future__ import annotations

import io
import json
import os
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal

import numpy as np

from baselines.interface import UInt8Array
from benchmarks.datasets.dataset import Dataset, Instance, Sample, UnreadableImage
from benchmarks.datasets.masks import rle_area_px, rle_box
from benchmarks.prompts.clicks import center_point
from benchmarks.records.record import write_atomic
from mobilesam.errors import DataError, UsageError

ImageFormat = Literal["png", "jpg"]

JPEG_QUALITY = 95
COCO_ANNOTATIONS = "instances.json"
COCO_IMAGES = "images"
NO_CATEGORY = "object"
"""COCO demands a category; this one is written for instances that have none."""


@dataclass(frozen=True, slots=True)
class Written:
    """What came of writing a dataset.

    Attributes:
        paths: The annotation file, JSON files or tars by which the result is read back.
        n_images: Images written.
        n_instances: Instances written.
        skipped: Images of the source that could not be read, and so are not in the result.
    """

    paths: tuple[Path, ...]
    n_images: int
    n_instances: int
    skipped: tuple[UnreadableImage, ...]


def write_coco(dataset: Dataset, folder: Path, image_format: ImageFormat = "png") -> Written:
    """Writes `images/` and, when all of them are there, `instances.json`.

    Masks are compressed RLEs, boxes their tight boxes by pycocotools' `toBbox`, areas their
    pixels. Image and annotation ids are kept.

    Args:
        dataset: What to write.
        folder: Made if missing; must not hold an `instances.json` yet.
        image_format: `png` keeps the pixels; `jpg` is smaller.

    Raises:
        DataError: The folder holds a dataset already or cannot be written.
    """
    target = folder / COCO_ANNOTATIONS
    if target.exists():
        raise DataError(f"{target} exists; choose an empty folder or remove it")
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    skipped: list[UnreadableImage] = []
    for sample in dataset.samples():
        if isinstance(sample, UnreadableImage):
            skipped.append(sample)
            continue
        file_name = f"{sample.image_id:012d}.{image_format}"
        write_atomic(folder / COCO_IMAGES / file_name, _encode_image(sample.image, image_format))
        height, width = sample.image.shape[:2]
        images.append(
            {"id": sample.image_id, "file_name": file_name, "height": height, "width": width}
        )
        annotations.extend(_coco_row(sample.image_id, item) for item in sample.instances)
    names = sorted({row["category"] for row in annotations})
    for row in annotations:
        row["category_id"] = names.index(row.pop("category")) + 1
    document = {
        "info": {"description": f"written by mobilesam-bench from {dataset.name}"},
        "images": images,
        "annotations": annotations,
        "categories": [{"id": i + 1, "name": name} for i, name in enumerate(names)],
    }
    write_atomic(target, json.dumps(document).encode())
    return Written((target,), len(images), len(annotations), tuple(skipped))


def _coco_row(image_id: int, instance: Instance) -> dict[str, Any]:
    x0, y0, x1, y1 = rle_box(instance.rle).tolist()
    return {
        "id": instance.annotation_id,
        "image_id": image_id,
        "category": instance.category or NO_CATEGORY,
        "iscrowd": 0,
        "area": rle_area_px(instance.rle),
        "bbox": [x0, y0, x1 - x0, y1 - y0],
        "segmentation": dict(instance.rle),
    }


def write_sa1b(
    dataset: Dataset, folder: Path, tar: bool = False, images_per_tar: int = 1000
) -> Written:
    """Writes `sa_N.jpg` and `sa_N.json` for every image, N its id, beside each other or in tars.

    Keeps to SA-1B's conventions: `bbox` with inclusive maxima, so one pixel smaller than the tight
    box by half-open edges, and `point_coords` inside the mask (a stored point where it lies
    inside, else the mask's centre). Unlike in SA-1B, no SAM judged these masks: `predicted_iou`
    and `stability_score` are 1. An image's JPEG loses a little; masks lose nothing.

    Args:
        dataset: What to write.
        folder: Made if missing. A file or tar of the same name is replaced.
        tar: Write `sa_000000.tar` and so on, each under its name only when it is whole.
        images_per_tar: Most images that go into one tar.

    Raises:
        DataError: The folder cannot be written.
        UsageError: `images_per_tar` is below 1.
    """
    if images_per_tar < 1:
        raise UsageError(f"images_per_tar is {images_per_tar}; wanted 1 or more")
    tally = _Tally()
    files = tally.watch(dataset)
    paths: list[Path] = []
    if tar:
        while (path := _write_tar(folder, len(paths), files, 2 * images_per_tar)) is not None:
            paths.append(path)
    else:
        for name, data in files:
            write_atomic(folder / name, data)
            paths.extend([folder / name] if name.endswith(".json") else [])
    return Written(tuple(paths), tally.n_images, tally.n_instances, tuple(tally.skipped))


class _Tally:
    """Counts what goes by, since the files of a dataset are made while they are written."""

    def __init__(self) -> None:
        self.n_images = 0
        self.n_instances = 0
        self.skipped: list[UnreadableImage] = []

    def watch(self, dataset: Dataset) -> Iterator[tuple[str, bytes]]:
        """Yields name and content of all files, the JSON of an image after the image."""
        for sample in dataset.samples():
            if isinstance(sample, UnreadableImage):
                self.skipped.append(sample)
                continue
            self.n_images += 1
            self.n_instances += len(sample.instances)
            stem = f"sa_{sample.image_id}"
            yield f"{stem}.jpg", _encode_image(sample.image, "jpg")
            yield f"{stem}.json", json.dumps(sa1b_document(sample)).encode()


def sa1b_document(sample: Sample) -> dict[str, Any]:
    """The content of an image's JSON."""
    height, width = sample.image.shape[:2]
    return {
        "image": {
            "image_id": sample.image_id,
            "width": width,
            "height": height,
            "file_name": f"sa_{sample.image_id}.jpg",
        },
        "annotations": [_sa1b_row(item, width, height) for item in sample.instances],
    }


def _sa1b_row(instance: Instance, width: int, height: int) -> dict[str, Any]:
    x0, y0, x1, y1 = rle_box(instance.rle).tolist()
    return {
        "id": instance.annotation_id,
        "bbox": [x0, y0, x1 - x0 - 1, y1 - y0 - 1],
        "area": rle_area_px(instance.rle),
        "segmentation": dict(instance.rle),
        "predicted_iou": 1.0,
        "stability_score": 1.0,
        "point_coords": [_inner_point(instance)],
        "crop_box": [0.0, 0.0, float(width), float(height)],
    }


def _inner_point(instance: Instance) -> list[float]:
    mask = instance.mask()
    for x, y in () if instance.points is None else instance.points.tolist():
        row, column = int(np.floor(y)), int(np.floor(x))
        if 0 <= row < mask.shape[0] and 0 <= column < mask.shape[1] and mask[row, column]:
            return [x, y]
    return [float(value) for value in center_point(mask)]


def _write_tar(
    folder: Path, number: int, files: Iterator[tuple[str, bytes]], most_files: int
) -> Path | None:
    """Writes the next files into a tar and returns its path; None if there are no more files."""
    first = next(files, None)
    if first is None:
        return None
    path = folder / f"sa_{number:06d}.tar"
    temporary: Path | None = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle, temporary_name = tempfile.mkstemp(dir=folder, prefix=f".{path.name}.")
        temporary = Path(temporary_name)
        with os.fdopen(handle, "wb") as file:
            with tarfile.open(fileobj=file, mode="w") as tar:
                for name, data in chain([first], islice(files, most_files - 1)):
                    _add_file(tar, name, data)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror}; choose another folder") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
    return path


def _add_file(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    """Adds a file without date or owner, so that the same data gives the same tar."""
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def encode_jpeg(image: UInt8Array) -> bytes:
    """An (H, W, 3) uint8 image as a JPEG of the quality that shards are written with."""
    return _encode_image(image, "jpg")


def _encode_image(image: UInt8Array, image_format: ImageFormat) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    if image_format == "png":
        Image.fromarray(image).save(buffer, "PNG")
    else:
        Image.fromarray(image).save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()
