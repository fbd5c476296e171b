"""Reference masks as run-length encodings, and geometry of masks.

COCO's three notations are checked before any C code sees them: not all of pycocotools checks.
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from baselines.interface import BoolArray, Float32Array, Int64Array
from baselines.pixels import mask_box
from mobilesam.errors import DataError

Rle = Mapping[str, Any]
"""A compressed COCO RLE: `size` [H, W] and `counts` as text, so that it is valid JSON."""

# Longest outline of a polygon: the rasteriser takes 40 bytes per pixel of it; usual are 1e5.
_MAX_OUTLINE_PX = 10_000_000
# In a crop of this side a distance is at most half of it, and its float32 square has an error below
# 0.05 (measured: 0.01 at 640 px, 0.1 at 1,500 px, 1 at 3,000 px).
_MAX_FLOAT32_SIDE_PX = 1024


def encode_mask(mask: BoolArray) -> Rle:
    """Encodes an (H, W) bool mask as a compressed RLE."""
    return _as_text(coco_mask.encode(np.asfortranarray(mask.view(np.uint8))))


def decode_mask(rle: Rle) -> BoolArray:
    """Decodes a compressed RLE to a new (H, W) bool array; raises `DataError` if malformed."""
    # pycocotools' own decoder emits a warning under numpy 2.
    import cv2

    height, width = rle["size"]
    runs = _checked_counts(rle, (height, width))
    values = (np.arange(len(runs)) % 2).astype(np.uint8)
    # OpenCV transposes in a fifth of numpy's time.
    turned = cv2.transpose(np.repeat(values, runs).reshape(width, height))
    return np.asarray(turned).reshape(height, width).view(np.bool_)


def rle_area_px(rle: Rle) -> int:
    """Counts the pixels of a mask without decoding it."""
    return int(coco_mask.area(dict(rle)))


def rle_box(rle: Rle) -> Float32Array:
    """Returns the tight box of a mask: (4,) float32 xyxy, half-open; zeros for an empty mask."""
    x, y, width, height = coco_mask.toBbox(dict(rle))
    return np.array([x, y, x + width, y + height], dtype=np.float32)


def segmentation_to_rle(segmentation: object, size_hw: tuple[int, int]) -> Rle:
    """Converts any of COCO's notations of a mask to a compressed RLE of the size of the image.

    They are a list of polygons `[x0, y0, x1, y1, ...]`, whose union is rasterised as pycocotools
    does, and a mapping with `size` and `counts`, the counts being numbers or compressed text. An
    empty list is an empty mask. Anything else, or malformed, is a `DataError`.
    """
    if isinstance(segmentation, Mapping):
        counts = _checked_counts(segmentation, size_hw)
        raw = {"size": list(size_hw), "counts": counts.tolist()}
        return _as_text(coco_mask.frPyObjects(raw, *size_hw))
    if not isinstance(segmentation, list):
        kind = type(segmentation).__name__
        raise DataError(f"segmentation is a {kind}; wanted polygons (a list) or an RLE")
    for index, polygon in enumerate(segmentation):
        _check_polygon(index, polygon, size_hw)
    if not segmentation:
        return encode_mask(np.zeros(size_hw, dtype=np.bool_))
    return _as_text(coco_mask.merge(coco_mask.frPyObjects(segmentation, *size_hw)))


def _check_polygon(index: int, polygon: object, size_hw: tuple[int, int]) -> None:
    if not isinstance(polygon, list):
        raise DataError(f"polygon {index} is a {type(polygon).__name__}, not a list of numbers")
    if len(polygon) % 2:
        raise DataError(f"polygon {index} has an odd number of coordinates ({len(polygon)})")
    if len(polygon) < 6:
        raise DataError(f"polygon {index} has {len(polygon) // 2} points; an area needs 3")
    # The memory of the rasteriser grows with the length of the outline.
    margin = max(size_hw)
    for value in polygon:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise DataError(f"polygon {index} has {reprlib.repr(value)}, which is not a number")
        if not -margin <= value <= 2 * margin:
            raise DataError(
                f"polygon {index} has the coordinate {reprlib.repr(value)}, far outside of an "
                f"image of {size_hw[1]}x{size_hw[0]} px"
            )
    corners = np.array(polygon, dtype=np.float64).reshape(-1, 2)
    steps = np.abs(np.diff(corners, axis=0, append=corners[:1])).max(axis=1)
    if steps.sum() > _MAX_OUTLINE_PX:
        raise DataError(
            f"polygon {index} has an outline of {steps.sum():.3g} px; correct or remove it"
        )


def _checked_counts(rle: Mapping[Any, Any], size_hw: tuple[int, int]) -> Int64Array:
    """Returns the run lengths of an RLE of either kind; they cover the image exactly."""
    for key in ("size", "counts"):
        if key not in rle:
            raise DataError(f"the RLE has no {key!r}")
    if rle["size"] not in (list(size_hw), size_hw):
        raise DataError(
            f"the RLE has size {reprlib.repr(rle['size'])}, but the image {list(size_hw)}"
        )
    counts, total = rle["counts"], math.prod(size_hw)
    if isinstance(counts, (str, bytes)):
        # JSON may contain halves of surrogate pairs, which plain UTF-8 cannot encode.
        text = counts.encode("utf-8", "surrogatepass") if isinstance(counts, str) else counts
        counts = _decode_counts(text)
        lowest, highest = counts.min(), counts.max()
    elif isinstance(counts, list):
        if not all(map(_is_whole, counts)):
            raise DataError("the RLE's counts are not all whole numbers")
        lowest, highest = min(counts, default=0), max(counts, default=0)
    else:
        raise DataError(f"the RLE's counts are a {type(counts).__name__}; wanted text or a list")
    # Checked before the conversion, since a JSON number may exceed 64 bits.
    if lowest < 0 or highest > total:
        raise DataError("the RLE has a run that is negative or longer than the image")
    runs = np.asarray(counts, dtype=np.int64)
    if int(runs.sum()) != total:
        raise DataError(
            f"the RLE's runs add up to {int(runs.sum())} pixels, but the image has {total}"
        )
    return runs


def _is_whole(run: object) -> bool:
    if isinstance(run, float):
        return run.is_integer()
    return isinstance(run, int) and not isinstance(run, bool)


def _decode_counts(text: bytes) -> Int64Array:
    """Decodes COCO's compressed counts: five bits per character, low ones first.

    Bit 5 is set if the number continues, bit 4 of its last character is the sign, and from the
    fourth number on each is the difference to the number two places before.
    """
    codes = np.frombuffer(text, dtype=np.uint8).astype(np.int64) - 48
    if len(codes) == 0 or codes.min() < 0 or codes.max() > 63 or codes[-1] & 0x20:
        raise DataError("the RLE's compressed counts are cut off or have an invalid character")
    ends = np.flatnonzero((codes & 0x20) == 0)
    starts = np.concatenate(([0], ends[:-1] + 1))
    lengths = ends - starts + 1
    if lengths.max() > 7:
        raise DataError("the RLE's compressed counts have a number beyond 32 bits")
    place = np.arange(len(codes)) - np.repeat(starts, lengths)
    numbers = np.add.reduceat((codes & 0x1F) << (5 * place), starts)
    is_negative = (codes[ends] & 0x10) != 0
    numbers = np.where(is_negative, numbers - (np.int64(1) << (5 * lengths)), numbers)
    for offset in (1, 2):
        numbers[offset::2] = np.cumsum(numbers[offset::2])
    return numbers


def _as_text(rle: Mapping[str, Any]) -> Rle:
    height, width = rle["size"]
    return {"size": [int(height), int(width)], "counts": rle["counts"].decode("ascii")}


def iou(a: BoolArray, b: BoolArray) -> float:
    """Intersection over union of two (H, W) bool masks, in [0, 1]; 1 if both are empty."""
    if a.shape != b.shape or a.dtype != np.bool_ or b.dtype != np.bool_:
        raise DataError(
            f"IoU needs two bool masks of one shape; got {a.dtype} {a.shape}, {b.dtype} {b.shape}"
        )
    intersection = np.count_nonzero(a & b)
    union = np.count_nonzero(a) + np.count_nonzero(b) - intersection
    return intersection / union if union else 1.0


def deepest_pixel(
    mask: BoolArray, without: Float32Array | None = None
) -> tuple[int, int, int] | None:
    """x, y and squared distance of the pixel farthest from all pixels outside a mask, in pixels.

    Distances are Euclidean and exact. Everything beyond the image border is outside. Ties: lowest
    row, then lowest column. The (K, 2) xy in `without` must not be returned, but count as inside.
    None if no pixel may be returned.
    """
    box = mask_box(mask)
    if box is None:
        return None
    left, top, right, bottom = box
    # Cropping is exact: for any pixel outside the tight box, one in the ring around the box,
    # straight up, down or across, is at least as near.
    padded = np.pad(mask[top:bottom, left:right], 1)
    # OpenCV is about three times as fast as scipy, but computes in float32: roots of equal squares
    # differ in the last digit, which would decide ties. Rounding the squares corrects this as long
    # as they are small.
    if max(padded.shape) <= _MAX_FLOAT32_SIDE_PX:
        import cv2

        distances = cv2.distanceTransform(padded.view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    else:
        from scipy import ndimage

        distances = ndimage.distance_transform_edt(padded)
    squares = np.rint(np.square(distances, out=distances))
    if without is not None:
        columns, rows = (np.rint(without).astype(np.int64) - (left - 1, top - 1)).T
        inside = (columns > 0) & (columns <= right - left) & (rows > 0) & (rows <= bottom - top)
        squares[rows[inside], columns[inside]] = 0
    # argmax returns the first maximum in row-major order, which is the rule for ties.
    y, x = np.unravel_index(int(np.argmax(squares)), squares.shape)
    if squares[y, x] == 0:
        return None
    return left + int(x) - 1, top + int(y) - 1, int(squares[y, x])


def boundary_complexity(mask: BoolArray) -> float | None:
    """Perimeter^2 / (4 pi area) of an (H, W) bool mask: 1 for a disc, more for other shapes.

    The perimeter is estimated by Crofton's formula in four directions, with the outlines of holes;
    masks of a few pixels can have less than 1, an empty one has None.
    """
    from skimage.measure import perimeter_crofton

    box = mask_box(mask)
    if box is None:
        return None
    left, top, right, bottom = box
    padded = np.pad(mask[top:bottom, left:right], 1)
    perimeter_px = float(perimeter_crofton(padded, 4))
    return perimeter_px**2 / (4 * math.pi * int(np.count_nonzero(padded)))


def center_point(mask: BoolArray) -> tuple[int, int]:
    """Returns x and y of the deepest pixel of a non-empty (H, W) bool mask; see `deepest_pixel`."""
    found = deepest_pixel(mask)
    if found is None:
        raise DataError("an empty mask has no centre; leave such annotations out")
    return found[:2]
