"""Simulated clicks: the pixel farthest from the border of a mask or of an error region."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from baselines.interface import BoolArray, Float32Array
from benchmarks.datasets.masks import tight_box
from mobilesam.errors import DataError

# In a crop of this side a distance is at most half of it, and its float32 square has an error below
# 0.05 (measured: 0.01 at 640 px, 0.1 at 1,500 px, 1 at 3,000 px).
_MAX_FLOAT32_SIDE_PX = 1024


def deepest_pixel(
    mask: BoolArray, without: Float32Array | None = None
) -> tuple[int, int, int] | None:
    """Finds the maximum of the exact Euclidean distance to the nearest pixel outside a mask.

    Everything beyond the image border is outside. Ties: lowest row, then lowest column.

    Args:
        mask: (H, W) bool.
        without: (K, 2) xy of pixels that must not be returned; they still count as inside the
            mask. None excludes no pixel.

    Returns:
        x and y of the pixel, and its squared distance in square pixels, a whole number; None if
        the mask has no pixel that may be returned.
    """
    box = tight_box(mask)
    if box is None:
        return None
    left, top, right, bottom = box
    # Cropping is exact: for any pixel outside the tight box, one in the ring around the box,
    # straight up, down or across, is at least as near.
    squares = _squared_distances(np.pad(mask[top:bottom, left:right], 1))
    if without is not None:
        columns, rows = (np.rint(without).astype(np.int64) - (left - 1, top - 1)).T
        inside = (columns > 0) & (columns <= right - left) & (rows > 0) & (rows <= bottom - top)
        squares[rows[inside], columns[inside]] = 0
    # argmax returns the first maximum in row-major order, which is the rule for ties.
    y, x = np.unravel_index(int(np.argmax(squares)), squares.shape)
    if squares[y, x] == 0:
        return None
    return left + int(x) - 1, top + int(y) - 1, int(squares[y, x])


def _squared_distances(padded: BoolArray) -> npt.NDArray[np.floating[Any]]:
    """Squared distance of each pixel to the nearest False one: whole numbers, exact.

    OpenCV is about three times as fast as scipy, but computes in float32: roots of equal squares
    differ in the last digit, which would decide ties. Rounding the squares corrects this as long
    as they are small.
    """
    if max(padded.shape) <= _MAX_FLOAT32_SIDE_PX:
        import cv2

        distances = cv2.distanceTransform(padded.view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    else:
        from scipy import ndimage

        distances = ndimage.distance_transform_edt(padded)
    squares: npt.NDArray[np.floating[Any]] = np.rint(np.square(distances, out=distances))
    return squares


def center_point(mask: BoolArray) -> tuple[int, int]:
    """Returns x and y of the pixel deepest inside an (H, W) bool mask; see `deepest_pixel`.

    Raises:
        DataError: The mask is empty.
    """
    found = deepest_pixel(mask)
    if found is None:
        raise DataError("an empty mask has no centre; leave such annotations out")
    return found[:2]


def next_click(
    prediction: BoolArray, reference: BoolArray, clicked: Float32Array | None = None
) -> tuple[int, int, int] | None:
    """Chooses the next click by the usual protocol of interactive segmentation (RITM, SAM).

    The click goes to the pixel deepest inside either kind of error region, false negatives (in the
    reference only) or false positives (in the prediction only); see `deepest_pixel`. Ties: false
    negatives first. As in RITM, no pixel is clicked twice: a clicked pixel is excluded, but still
    counts as part of its error region.

    Args:
        prediction: (H, W) bool.
        reference: (H, W) bool.
        clicked: (K, 2) xy of the clicks so far, in pixels; None before the first click.

    Returns:
        x, y and label: 1 (foreground) for a false negative, 0 (background) for a false positive.
        None if no pixel is wrong, or if all wrong pixels have been clicked.

    Raises:
        DataError: The masks differ in shape, or are not boolean.
    """
    is_bool = prediction.dtype == np.bool_ and reference.dtype == np.bool_
    if prediction.shape != reference.shape or not is_bool:
        raise DataError(
            f"a click needs two bool masks of one shape; got {prediction.dtype} "
            f"{prediction.shape}, {reference.dtype} {reference.shape}"
        )
    # For booleans, a > b computes a & ~b in one pass.
    missed = deepest_pixel(reference > prediction, clicked)
    wrong = deepest_pixel(prediction > reference, clicked)
    if wrong is not None and (missed is None or wrong[2] > missed[2]):
        return wrong[0], wrong[1], 0
    return None if missed is None else (missed[0], missed[1], 1)
