"""A detector's boxes from a COCO results file, and the ground truth that they are judged by.

A results file comes from somebody else's detector: what cannot be meant is an error that names the
entry, and what a detector may well write (a box of no area, an image that is not evaluated) is left
out and counted.
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
from benchmarks.datasets.coco import CocoDataset
from benchmarks.datasets.coco_file import CocoAnnotation, CocoFile
from benchmarks.datasets.limits import MAX_PIXELS
from benchmarks.datasets.masks import Rle, rle_box
from benchmarks.datasets.parsing import Id, Row, Tally, XywhBox, parse_json, read_file, read_row
from mobilesam.errors import DataError

_NOT_EVALUATED = "on an image that is not evaluated"
_NO_AREA = "without area"
_OUTSIDE = "outside of the image"


class _Result(Row):
    """An entry of a results file."""

    image_id: Id
    category_id: Id
    bbox: XywhBox
    score: float


@dataclass(frozen=True, slots=True)
class TruthMask:
    """One mask of the ground truth.

    Attributes:
        image_id: As in the annotation file.
        category_id: As in the annotation file.
        rle: At the image's own size.
        area_px: The area that the annotation states, in pixels; it decides the size class.
        is_crowd: A region of many objects: what is found in it is neither right nor wrong.
    """

    image_id: int
    category_id: int
    rle: Rle
    area_px: float
    is_crowd: bool = False


@dataclass(frozen=True, slots=True)
class TruthImage:
    """One image to be evaluated.

    Attributes:
        names: Candidate paths of its file, relative to the folder of images; at least one.
        size_hw: Height and width in pixels.
        in_dataset: It has a usable instance, so that a `CocoDataset` yields it.
    """

    names: tuple[str, ...]
    size_hw: tuple[int, int]
    in_dataset: bool


@dataclass(frozen=True, slots=True)
class Truth:
    """Ground truth of the images to be evaluated.

    Attributes:
        images: By id, ascending.
        masks: Of these images, crowds included, in the order of the file.
        categories: All ids that the annotation file defines or that its annotations use.
        n_uncategorised: Number of masks that are left out because they have no category.
    """

    images: Mapping[int, TruthImage]
    masks: tuple[TruthMask, ...]
    categories: frozenset[int]
    n_uncategorised: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class DetectedBox:
    """One box of a detector.

    Attributes:
        image_id: As in the annotation file.
        category_id: As in the annotation file.
        box: (4,) float32 xyxy with half-open edges, in pixels, cut to the image.
        score: The detector's confidence.
    """

    image_id: int
    category_id: int
    box: Float32Array
    score: float


@dataclass(frozen=True, slots=True)
class Detections:
    """The usable boxes of a results file.

    Attributes:
        name: The file's name.
        sha256: Of its bytes (hex).
        by_image: Boxes of each image in the order of the file; an image without any is absent.
        left_out: Boxes that are not used, by reason.
        problems: One line for each of them that is no rectangle on its image.
    """

    name: str
    sha256: str
    by_image: Mapping[int, tuple[DetectedBox, ...]]
    left_out: Mapping[str, int]
    problems: tuple[str, ...]

    @property
    def n_boxes(self) -> int:
        """Usable boxes of all images."""
        return sum(map(len, self.by_image.values()))

    def summary(self) -> str | None:
        """One line that counts what is left out; None if nothing is."""
        parts = [f"{count} {reason}" for reason, count in self.left_out.items()]
        return f"boxes left out: {', '.join(parts)}" if parts else None


def read_truth(annotations: Path, dataset: CocoDataset) -> Truth:
    """Reads the ground truth of a dataset's images from its annotation file.

    Annotations that are empty or malformed are left out, as the dataset leaves them out (and counts
    them). So are those whose `category_id` is no whole number, since AP is counted by category.
    Crowd regions stay. Images without any usable instance belong to COCO's evaluation, too,
    since what is found there is a false alarm: all of them, or those among the images that the
    dataset's limit has looked at.

    Args:
        annotations: The instances JSON that the dataset was made from, and that it has checked.
        dataset: Decides how many images are taken.

    Raises:
        DataError: The file cannot be read, or no annotation has a category.
    """
    raw = _reopen(annotations, dataset.max_pixels)
    found = list(_truth_masks(raw))
    usable = {mask.image_id for _, mask in found if not mask.is_crowd}
    taken = usable.intersection(dataset.image_ids)
    last = max(dataset.image_ids if len(taken) < len(usable) else raw.images, default=0)
    images = {
        key: TruthImage(raw.images[key].names, raw.images[key].size_hw, key in taken)
        for key in sorted(raw.images)
        if key <= last
    }
    inside = [(row.category, mask) for row, mask in found if mask.image_id in images]
    masks = tuple(mask for category, mask in inside if category is not None)
    if not any(not mask.is_crowd for mask in masks):
        raise DataError(
            f"no annotation of {annotations.name} has a category_id that is a whole number; AP is "
            "counted by category, so give them"
        )
    return Truth(
        images=images,
        masks=masks,
        categories=frozenset({*raw.categories, *(mask.category_id for mask in masks)}),
        n_uncategorised=len(inside) - len(masks),
    )


def _reopen(path: Path, max_pixels: int) -> CocoFile:
    # What is malformed has been told by the dataset, if there is one.
    return CocoFile(path.name, parse_json(read_file(path), path.name), max_pixels, Tally())


def _truth_masks(raw: CocoFile) -> Iterator[tuple[CocoAnnotation, TruthMask]]:
    """Yields all usable annotations, crowds included, on usable images.

    For an annotation without a category, the category of the mask is a meaningless value.
    """
    for row in raw.annotations:
        image = raw.images.get(row.image_id)
        mask = None if image is None else _truth_mask(row, image.size_hw)
        if mask is not None:
            yield row, mask


def _truth_mask(row: CocoAnnotation, size_hw: tuple[int, int]) -> TruthMask | None:
    # The dataset, if there is one, has reported malformed annotations.
    found = Tally().usable("", row, size_hw, extra_px=0)
    if found is None:
        return None
    rle, _, area_px = found
    return TruthMask(
        image_id=row.image_id,
        category_id=row.category or 0,
        rle=rle,
        area_px=area_px,
        is_crowd=bool(row.iscrowd),
    )


def read_detections(path: Path, truth: Truth) -> Detections:
    """Reads a COCO results file.

    It is a list of `{"image_id", "category_id", "bbox": [x, y, w, h], "score"}`; what else an entry
    holds is not looked at. Boxes are cut to their image. Left out and counted: boxes without area,
    boxes outside of their image, and boxes on images that are not evaluated (results of all of
    val2017 can be given for a part of it).

    Raises:
        DataError: The file is missing, not JSON or not a list, an entry lacks a key or holds what
            is not a number, a category is unknown, or no box is usable.
    """
    data = read_file(path)
    by_image: dict[int, list[DetectedBox]] = {}
    left_out: Counter[str] = Counter()
    problems: list[str] = []
    for index, row in enumerate(_entries(data, path.name)):
        where = f"{path.name}: detection number {index}"
        detected = _read_entry(row, where, truth)
        if isinstance(detected, DetectedBox):
            by_image.setdefault(detected.image_id, []).append(detected)
            continue
        left_out[detected] += 1
        if detected != _NOT_EVALUATED:
            problems.append(f"{where}: box {row['bbox']} is {detected}")
    if not by_image:
        reasons = ", ".join(f"{count} {reason}" for reason, count in left_out.items())
        raise DataError(
            f"{path.name} has no usable box ({reasons or 'it is empty'}); "
            "give the detections of the images in --annotations"
        )
    return Detections(
        name=path.name,
        sha256=hashlib.sha256(data).hexdigest(),
        by_image={key: tuple(by_image[key]) for key in sorted(by_image)},
        left_out=dict(left_out),
        problems=tuple(problems),
    )


def _entries(data: bytes, name: str) -> list[Any]:
    document = parse_json(data, name)
    if not isinstance(document, list):
        raise DataError(
            f"{name} is not a list of detections; a COCO results file is "
            '[{"image_id", "category_id", "bbox", "score"}, ...]'
        )
    return document


def _read_entry(row: object, where: str, truth: Truth) -> DetectedBox | str:
    """A usable box, or why it is left out."""
    found = read_row(_Result, row, where)
    if found.category_id not in truth.categories:
        raise DataError(
            f"{where} has category_id {found.category_id}, which the annotations do not define; "
            "map the detector's classes to the ids of `categories` (COCO's 80 run from 1 to 90, "
            "with gaps)"
        )
    if found.image_id not in truth.images:
        return _NOT_EVALUATED
    x, y, width, height = found.bbox
    if width <= 0 or height <= 0:
        return _NO_AREA
    rows, columns = truth.images[found.image_id].size_hw
    edges = np.clip((x, y, x + width, y + height), 0, (columns, rows, columns, rows))
    box = edges.astype(np.float32)
    if not (edges[2:] > edges[:2]).all():
        return _OUTSIDE
    if not (box[2:] > box[:2]).all():
        return _NO_AREA  # float32, which models take, leaves none of it
    return DetectedBox(found.image_id, found.category_id, box, found.score)


def best_boxes(boxes: tuple[DetectedBox, ...], limit: int) -> tuple[DetectedBox, ...]:
    """The highest scores among the boxes of one image, at most `limit` of each category.

    pycocotools applies its limit to each category of an image, and so does this: no other box can
    count. Of equal scores the first in the file is kept, as there. The order of the file stays.
    """
    kept: list[int] = []
    seen: Counter[int] = Counter()
    for index in sorted(range(len(boxes)), key=lambda index: -boxes[index].score):
        if seen[boxes[index].category_id] < limit:
            seen[boxes[index].category_id] += 1
            kept.append(index)
    return tuple(boxes[index] for index in sorted(kept))


def boxes_from_annotations(path: Path) -> list[dict[str, Any]]:
    """A perfect detector: the boxes of an annotation file as a COCO results file, score 1.

    Crowd, empty and malformed annotations are left out, as are annotations without a category,
    which a results file requires. An annotation without a box, or with a box without extent, gets
    the tight box of its mask.

    Raises:
        DataError: The file cannot be read, is not an instances file, or contains no usable box.
    """
    found = list(_perfect(_reopen(path, MAX_PIXELS)))
    if not found:
        raise DataError(
            f"{path.name} gives no box: no annotation has a mask, a category_id that is a whole "
            "number, and is no crowd region"
        )
    return found


def _perfect(raw: CocoFile) -> Iterator[dict[str, Any]]:
    for row, mask in _truth_masks(raw):
        if mask.is_crowd or row.category is None:
            continue
        bbox = row.bbox
        if bbox is None or bbox[2] <= 0 or bbox[3] <= 0:
            x0, y0, x1, y1 = (float(value) for value in rle_box(mask.rle))
            bbox = [x0, y0, x1 - x0, y1 - y0]
        yield {
            "image_id": mask.image_id,
            "category_id": mask.category_id,
            "bbox": bbox,
            "score": 1.0,
        }
