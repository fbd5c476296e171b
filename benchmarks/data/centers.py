"""The pixel of a mask that lies deepest inside it: where a careful user would click."""

from __future__ import annotations

import numpy as np

from baselines.interface import BoolArray
from benchmarks.data.masks import tight_box
from mobilesam.errors import DataError


def deepest_pixel(mask: BoolArray) -> tuple[int, int, float] | None:
    """Finds the maximum of the exact Euclidean distance to the nearest pixel outside a mask.

    Beyond the image's border all is outside. Of equals the lowest row, then the lowest column.

    Args:
        mask: (H, W) bool.

    Returns:
        x and y of the pixel and its distance, in pixels; None for an empty mask.
    """
    from scipy import ndimage

    box = tight_box(mask)
    if box is None:
        return None
    left, top, right, bottom = box
    # Cropping loses nothing: for any pixel outside the tight box there is one in the ring around
    # the box, straight up, down or across, that is at least as near.
    padded = np.pad(mask[top:bottom, left:right], 1)
    distance = ndimage.distance_transform_edt(padded)
    # argmax takes the first in row-major order, which is the rule for ties.
    y, x = np.unravel_index(int(np.argmax(distance)), padded.shape)
    return left + int(x) - 1, top + int(y) - 1, float(distance[y, x])


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
