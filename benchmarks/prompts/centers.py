"""The pixel of a mask that lies deepest inside it: where a careful user would click."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from baselines.interface import BoolArray, Float32Array
from benchmarks.datasets.masks import tight_box
from mobilesam.errors import DataError

# In a crop of this side a distance is at most half of it, and its float32 square is wrong by less
# than 0.05 (measured: 0.01 at 640 px, 0.1 at 1,500 px, 1 at 3,000 px).
_MAX_FLOAT32_SIDE_PX = 1024


def deepest_pixel(
    mask: BoolArray, without: Float32Array | None = None
) -> tuple[int, int, int] | None:
    """Finds the maximum of the exact Euclidean distance to the nearest pixel outside a mask.

    Beyond the image's border all is outside. Of equals the lowest row, then the lowest column.

    Args:
        mask: (H, W) bool.
        without: (K, 2) xy of pixels that must not be returned; they still count as inside the
            mask. None excludes no pixel.

    Returns:
        x and y of the pixel, and the square of its distance in square pixels, which is a whole
        number; None if the mask has no pixel that may be returned.
    """
    box = tight_box(mask)
    if box is None:
        return None
    left, top, right, bottom = box
    # Cropping loses nothing: for any pixel outside the tight box there is one in the ring around
    # the box, straight up, down or across, that is at least as near.
    squares = _squared_distances(np.pad(mask[top:bottom, left:right], 1))
    if without is not None:
        columns, rows = (np.rint(without).astype(np.int64) - (left - 1, top - 1)).T
        inside = (columns > 0) & (columns <= right - left) & (rows > 0) & (rows <= bottom - top)
        squares[rows[inside], columns[inside]] = 0
    # argmax takes the first in row-major order, which is the rule for ties.
    y, x = np.unravel_index(int(np.argmax(squares)), squares.shape)
    if squares[y, x] == 0:
        return None
    return left + int(x) - 1, top + int(y) - 1, int(squares[y, x])


def _squared_distances(padded: BoolArray) -> npt.NDArray[np.floating[Any]]:
    """Squared distance of each pixel to the nearest False one: whole numbers, exact.

    OpenCV is about three times as fast as scipy, but works in float32: roots of equal squares
    differ in the last digit, which would decide ties. Rounding the squares mends it as long as
    they are small.
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
    """Finds the pixel of a mask that lies deepest inside it, as `deepest_pixel` defines it.

    Args:
        mask: (H, W) bool.

    Returns:
        x and y of the pixel.

    Raises:
        DataError: The mask is empty.
    """
    found = deepest_pixel(mask)
    if found is None:
        raise DataError("an empty mask has no centre; leave such annotations out")
    return found[:2]
