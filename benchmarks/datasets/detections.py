"""Boxes of a detector from a COCO results file, and the ground truth for their evaluation.

Entries of a results file that cannot be valid are errors. What a detector may well write (a box
without area, an image that is not evaluated) is left out and counted.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from baselines.interface import Float32Array
from benchmarks.datasets import MAX_PIXELS, parsing
from benchmarks.datasets.coco import CocoAnnotation, CocoDataset, CocoFile, CocoImage
from benchmarks.datasets.masks import Rle, rle_box
from mobilesam.errors import DataError


class _Result(parsing.Row):
    """An entry of a results file."""

    image_id: parsing.Id
    category_id: parsing.Id
    bbox: parsing.XywhBox
    score: float


@dataclass(frozen=True, slots=True)
class GroundTruthMask:
    """One mask of the ground truth; `area_px` is the annotation's and determines the size class.

    A crowd is a region of many objects: detections in it are neither right nor wrong.
    """

    image_id: int
    category_id: int
    rle: Rle
    area_px: float
    is_crowd: bool = False


@dataclass(frozen=True, slots=True)
class GroundTruth:
    """Ground truth of the images to be evaluated.

    Attributes:
        in_dataset: Ids of images with a usable instance, so that a `CocoDataset` yields them.
        masks: Masks of these images, crowds included, in the order of the file.
        categories: All ids that the annotation file defines or that its annotations use.
        n_uncategorised: Number of masks that are left out because they have no category.
    """

    images: Mapping[int, CocoImage]
    in_dataset: frozenset[int]
    masks: tuple[GroundTruthMask, ...]
    categories: frozenset[int]
    n_uncategorised: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class DetectedBox:
    """One box of a detector: (4,) float32 xyxy, half-open, in pixels, clipped to the image."""

    image_id: int
    category_id: int
    box: Float32Array
    score: float


@dataclass(frozen=True, slots=True)
class Detections:
    """The usable boxes of a results file by image, in its order, and what is left out by reason.

    `problems` has one line for each box without area or outside of its image.
    """

    name: str
    sha256: str
    by_image: Mapping[int, tuple[DetectedBox, ...]]
    left_out: Mapping[str, int]
    problems: tuple[str, ...]

    def summary(self) -> str | None:
        """One line with the numbers of unused boxes; None if all are used."""
        return f"boxes left out: {_listed(self.left_out)}" if self.left_out else None


def _listed(left_out: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in left_out.items())


def read_ground_truth(annotations: Path, dataset: CocoDataset) -> GroundTruth:
    """Reads the ground truth of a dataset's images from the instances JSON that it was made from.

    Empty and malformed annotations are left out, as the dataset leaves them out (and counts them).
    So are those whose `category_id` is not a whole number, since AP is computed by category. Crowd
    regions stay. Images without any usable instance belong to COCO's evaluation too, since any
    detection on them is a false positive: all of them, or those among the images that the limit of
    the dataset has covered.
    """
    file = _read_again(annotations, dataset.max_pixels)
    found = list(_masks(file))
    usable = {mask.image_id for _, mask in found if not mask.is_crowd}
    taken = usable.intersection(dataset.image_ids)
    last = max(dataset.image_ids if len(taken) < len(usable) else file.images, default=0)
    images = {key: image for key, image in sorted(file.images.items()) if key <= last}
    inside = [(row, mask) for row, mask in found if mask.image_id in images]
    masks = tuple(mask for row, mask in inside if row.category is not None)
    if all(mask.is_crowd for mask in masks):
        raise DataError(
            f"no annotation of {annotations.name} has a category_id that is a whole number; AP is "
            "computed by category, so add them"
        )
    categories = frozenset({*file.categories, *(mask.category_id for mask in masks)})
    n_uncategorised = len(inside) - len(masks)
    return GroundTruth(images, frozenset(taken), masks, categories, n_uncategorised)


def _read_again(path: Path, max_pixels: int) -> CocoFile:
    # Malformed annotations were reported by the dataset, if there is one.
    log = parsing.AnnotationLog(path.name)
    return CocoFile(path.name, parsing.read_file(path), max_pixels, log)


def _masks(file: CocoFile) -> Iterator[tuple[CocoAnnotation, GroundTruthMask]]:
    """Yields all usable annotations, crowds included, on usable images; category 0 for none."""
    log = parsing.AnnotationLog(file.name)
    for row in file.annotations:
        image = file.images.get(row.image_id)
        found = None if image is None else log.instance(row, image.size_hw)
        if found is not None:
            category_id, is_crowd = row.category or 0, bool(row.iscrowd)
            mask = GroundTruthMask(row.image_id, category_id, found.rle, found.area_px, is_crowd)
            yield row, mask


def read_detections(path: Path, truth: GroundTruth) -> Detections:
    """Reads a COCO results file.

    It is a list of `{"image_id", "category_id", "bbox": [x, y, w, h], "score"}`; other keys are
    ignored. Boxes are clipped to their image. Left out and counted: boxes without area, boxes
    outside of their image, and boxes on images that are not evaluated (results of all of val2017
    can be given for a part of it).
    """
    data = parsing.read_file(path)
    entries = parsing.parse_json(data, path.name)
    if not isinstance(entries, list):
        raise DataError(
            f"{path.name} is not a list of detections; a COCO results file is "
            '[{"image_id", "category_id", "bbox", "score"}, ...]'
        )
    by_image: dict[int, list[DetectedBox]] = {}
    left_out: Counter[str] = Counter()
    problems: list[str] = []
    for index, entry in enumerate(entries):
        where = f"{path.name}: detection number {index}"
        result = parsing.read_row(_Result, entry, where)
        if result.category_id not in truth.categories:
            raise DataError(
                f"{where} has category_id {result.category_id}, which the annotations do not "
                "define; map the detector's classes to the ids of `categories` (COCO's 80 run from "
                "1 to 90, with gaps)"
            )
        image_id = result.image_id
        if image_id not in truth.images:
            left_out["on an image that is not evaluated"] += 1
            continue
        x, y, width, height = result.bbox
        rows, columns = truth.images[image_id].size_hw
        edges = np.clip((x, y, x + width, y + height), 0, (columns, rows, columns, rows))
        box = edges.astype(np.float32)  # the input type of models
        if width > 0 and height > 0 and not (edges[2:] > edges[:2]).all():
            reason = "outside of the image"
        elif not (box[2:] > box[:2]).all():
            reason = "without area"
        else:
            detected = DetectedBox(image_id, result.category_id, box, result.score)
            by_image.setdefault(image_id, []).append(detected)
            continue
        left_out[reason] += 1
        problems.append(f"{where}: box {entry['bbox']} is {reason}")
    if not by_image:
        raise DataError(
            f"{path.name} has no usable box ({_listed(left_out) or 'it is empty'}); "
            "give the detections of the images in --annotations"
        )
    boxes = {image_id: tuple(by_image[image_id]) for image_id in sorted(by_image)}
    sha256 = hashlib.sha256(data).hexdigest()
    return Detections(path.name, sha256, boxes, dict(left_out), tuple(problems))


def best_boxes(boxes: tuple[DetectedBox, ...], limit: int) -> tuple[DetectedBox, ...]:
    """Returns the boxes of one image with the highest scores, at most `limit` of each category.

    pycocotools applies its limit to each category of an image, too, so no other box affects AP. Of
    equal scores the first in the file is kept, as there. The order of the file is kept.
    """
    kept: list[int] = []
    counts: Counter[int] = Counter()
    for index in sorted(range(len(boxes)), key=lambda index: -boxes[index].score):
        category_id = boxes[index].category_id
        if counts[category_id] < limit:
            counts[category_id] += 1
            kept.append(index)
    return tuple(boxes[index] for index in sorted(kept))


def boxes_from_annotations(path: Path) -> list[dict[str, Any]]:
    """Returns the boxes of an annotation file as the COCO results of a perfect detector, score 1.

    Crowd, empty and malformed annotations are left out, as are annotations without a category,
    which a results file requires. An annotation without a box, or with a box without extent, gets
    the tight box of its mask.
    """
    results = []
    for row, mask in _masks(_read_again(path, MAX_PIXELS)):
        if mask.is_crowd or row.category is None:
            continue
        bbox = row.bbox
        if bbox is None or bbox[2] <= 0 or bbox[3] <= 0:
            x0, y0, x1, y1 = rle_box(mask.rle).tolist()
            bbox = [x0, y0, x1 - x0, y1 - y0]
        keys = {"image_id": mask.image_id, "category_id": mask.category_id}
        results.append({**keys, "bbox": bbox, "score": 1.0})
    if not results:
        raise DataError(
            f"{path.name} gives no box: every annotation lacks a mask or a whole number as "
            "category_id, or is a crowd region"
        )
    return results
