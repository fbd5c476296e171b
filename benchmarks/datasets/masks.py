"""Reference masks: COCO's three notations brought to one, checked before any C code sees them."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from baselines.interface import BoolArray, Float32Array, Int64Array
from benchmarks.datasets.limits import MAX_OUTLINE_PX
from mobilesam.errors import DataError

Rle = Mapping[str, Any]
"""A compressed COCO RLE: `size` [H, W] and `counts` as text, so that it goes into JSON as it is."""


def encode_mask(mask: BoolArray) -> Rle:
    """Encodes an (H, W) bool mask as a compressed RLE."""
    from pycocotools import mask as coco_mask

    return _as_text(coco_mask.encode(np.asfortranarray(mask.view(np.uint8))))


def decode_mask(rle: Rle) -> BoolArray:
    """Decodes a compressed RLE: a new (H, W) bool array.

    pycocotools' own decoder warns of itself under numpy 2, and not every version of it checks
    what it is given.

    Raises:
        DataError: The RLE is malformed.
    """
    import cv2

    height, width = rle["size"]
    runs = _checked_counts(rle, (height, width))
    values = (np.arange(len(runs)) % 2).astype(np.uint8)
    # OpenCV turns columns into rows in a fifth of numpy's time.
    turned = cv2.transpose(np.repeat(values, runs).reshape(width, height))
    return np.asarray(turned).reshape(height, width).view(np.bool_)


def rle_area_px(rle: Rle) -> int:
    """Counts the pixels of a mask without decoding it."""
    from pycocotools import mask as coco_mask

    return int(coco_mask.area(dict(rle)))


def rle_box(rle: Rle) -> Float32Array:
    """Returns the tight box of a mask: (4,) float32 xyxy, half-open; zeros for an empty mask."""
    from pycocotools import mask as coco_mask

    x, y, width, height = coco_mask.toBbox(dict(rle))
    return np.array([x, y, x + width, y + height], dtype=np.float32)


def tight_box(mask: BoolArray) -> tuple[int, int, int, int] | None:
    """Finds the smallest box that holds all pixels of an (H, W) bool mask.

    Returns:
        x0, y0, x1 and y1, half-open, in pixels; None for an empty mask.
    """
    rows = np.flatnonzero(mask.any(axis=1))
    if len(rows) == 0:
        return None
    top, bottom = int(rows[0]), int(rows[-1]) + 1
    columns = np.flatnonzero(mask[top:bottom].any(axis=0))
    return int(columns[0]), top, int(columns[-1]) + 1, bottom


def segmentation_to_rle(segmentation: object, size_hw: tuple[int, int]) -> Rle:
    """Brings any of COCO's notations of a mask to a compressed RLE of the image's size.

    Args:
        segmentation: A list of polygons `[x0, y0, x1, y1, ...]`, or a mapping with `size` and
            `counts`, the counts being numbers or compressed text. An empty list is an empty mask.
        size_hw: Height and width of the image, in pixels.

    Raises:
        DataError: Neither notation, or malformed; says in which way.
    """
    if isinstance(segmentation, Mapping):
        counts = _checked_counts(segmentation, size_hw)
        return _counts_to_rle(counts, size_hw)
    if isinstance(segmentation, list):
        return polygons_to_rle(segmentation, size_hw)
    raise DataError(
        f"segmentation is a {type(segmentation).__name__}; wanted polygons (a list) or an RLE"
    )


def polygons_to_rle(polygons: Sequence[object], size_hw: tuple[int, int]) -> Rle:
    """Rasterises the union of polygons as pycocotools does.

    Args:
        polygons: Each a flat list `[x0, y0, x1, y1, ...]` of at least three points, in pixels.
        size_hw: Height and width of the image, in pixels.

    Raises:
        DataError: A polygon has too few points, an odd number of coordinates, or coordinates that
            are not finite or farther from the image than its own size, or an endless outline.
    """
    from pycocotools import mask as coco_mask

    for index, polygon in enumerate(polygons):
        _check_polygon(index, polygon, size_hw)
    if not polygons:
        return encode_mask(np.zeros(size_hw, dtype=np.bool_))
    parts = coco_mask.frPyObjects(list(polygons), *size_hw)
    return _as_text(coco_mask.merge(parts))


def _check_polygon(index: int, polygon: object, size_hw: tuple[int, int]) -> None:
    if not isinstance(polygon, list):
        raise DataError(f"polygon {index} is a {type(polygon).__name__}, not a list of numbers")
    if len(polygon) % 2:
        raise DataError(f"polygon {index} has an odd number of coordinates ({len(polygon)})")
    if len(polygon) < 6:
        raise DataError(f"polygon {index} has {len(polygon) // 2} points; an area needs 3")
    # The rasteriser's memory grows with the length of the outline: a stray 1e9 would take it all.
    margin = max(size_hw)
    for value in polygon:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise DataError(f"polygon {index} holds {reprlib.repr(value)}, which is not a number")
        if not -margin <= value <= 2 * margin:
            raise DataError(
                f"polygon {index} has the coordinate {reprlib.repr(value)}, far outside of an "
                f"image of {size_hw[1]}x{size_hw[0]} px"
            )
    corners = np.array(polygon, dtype=np.float64).reshape(-1, 2)
    steps = np.abs(np.diff(corners, axis=0, append=corners[:1])).max(axis=1)
    if steps.sum() > MAX_OUTLINE_PX:
        raise DataError(
            f"polygon {index} has an outline of {steps.sum():.3g} px; correct or remove it"
        )


def _checked_counts(rle: Mapping[Any, Any], size_hw: tuple[int, int]) -> Int64Array:
    """Returns the run lengths of an RLE of either kind, known to cover the image exactly.

    Not every version of pycocotools looks where the image ends, so nothing unchecked reaches it.
    """
    for key in ("size", "counts"):
        if key not in rle:
            raise DataError(f"the RLE has no {key!r}")
    if rle["size"] not in (list(size_hw), size_hw):
        raise DataError(
            f"the RLE has size {reprlib.repr(rle['size'])}, but the image {list(size_hw)}"
        )
    counts, total = rle["counts"], math.prod(size_hw)
    if isinstance(counts, (str, bytes)):
        # JSON can hold halves of surrogate pairs, which plain UTF-8 has no bytes for.
        text = counts.encode("utf-8", "surrogatepass") if isinstance(counts, str) else counts
        runs = _decode_counts(text)
    elif isinstance(counts, list):
        if not all(_is_whole(run) for run in counts):
            raise DataError("the RLE's counts are not all whole numbers")
        # Before numpy sees them, since a JSON number may be of any size.
        _require_fitting(min(counts, default=0), max(counts, default=0), total)
        runs = np.array(counts, dtype=np.int64)
    else:
        raise DataError(f"the RLE's counts are a {type(counts).__name__}; wanted text or a list")
    if len(runs):
        _require_fitting(int(runs.min()), int(runs.max()), total)
    if int(runs.sum()) != total:
        raise DataError(
            f"the RLE's runs add up to {int(runs.sum())} pixels, but the image has {total}"
        )
    return runs


def _is_whole(run: object) -> bool:
    if isinstance(run, float):
        return run.is_integer()
    return isinstance(run, int) and not isinstance(run, bool)


def _require_fitting(lowest: int, highest: int, total: int) -> None:
    if lowest < 0 or highest > total:
        raise DataError("the RLE has a run that is negative or longer than the image")


def _decode_counts(text: bytes) -> Int64Array:
    """Decodes COCO's compressed counts: five bits a character, low ones first.

    Bit 5 says that a number goes on, bit 4 of its last character is the sign, and from the fourth
    number on each is the difference to the one two places before.
    """
    codes = np.frombuffer(text, dtype=np.uint8).astype(np.int64) - 48
    if len(codes) == 0 or codes.min() < 0 or codes.max() > 63 or codes[-1] & 0x20:
        raise DataError("the RLE's compressed counts are cut off or hold a foreign character")
    is_last = (codes & 0x20) == 0
    ends = np.flatnonzero(is_last)
    starts = np.concatenate(([0], ends[:-1] + 1))
    lengths = ends - starts + 1
    if lengths.max() > 7:
        raise DataError("the RLE's compressed counts hold a number beyond 32 bits")
    place = np.arange(len(codes)) - np.repeat(starts, lengths)
    numbers = np.add.reduceat((codes & 0x1F) << (5 * place), starts)
    negative = (codes[ends] & 0x10) != 0
    numbers = np.where(negative, numbers - (np.int64(1) << (5 * lengths)), numbers)
    for offset in (1, 2):
        numbers[offset::2] = np.cumsum(numbers[offset::2])
    return numbers


def _counts_to_rle(counts: Int64Array, size_hw: tuple[int, int]) -> Rle:
    from pycocotools import mask as coco_mask

    height, width = size_hw
    raw = {"size": [height, width], "counts": counts.tolist()}
    return _as_text(coco_mask.frPyObjects(raw, height, width))


def _as_text(rle: Mapping[str, Any]) -> Rle:
    height, width = rle["size"]
    return {"size": [int(height), int(width)], "counts": rle["counts"].decode("ascii")}


def iou(a: BoolArray, b: BoolArray) -> float:
    """Intersection over union of two (H, W) bool masks, in [0, 1]; 1 if both are empty.

    Raises:
        DataError: The masks differ in shape, or are not boolean (0/255 would be counted wrongly).
    """
    if a.shape != b.shape or a.dtype != np.bool_ or b.dtype != np.bool_:
        raise DataError(
            f"IoU needs two bool masks of one shape; got {a.dtype} {a.shape}, {b.dtype} {b.shape}"
        )
    intersection = np.count_nonzero(a & b)
    union = np.count_nonzero(a) + np.count_nonzero(b) - intersection
    return intersection / union if union else 1.0
