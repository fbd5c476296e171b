"""Boundary IoU: how well the outlines of masks agree, while IoU depends mostly on the inside.

Bowen Cheng et al., "Boundary IoU: Improving Object-Centric Image Segmentation Evaluation",
CVPR 2021, arXiv 2103.16562.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from baselines.interface import BoolArray
from baselines.pixels import mask_box
from mobilesam.errors import DataError

BOUNDARY_RATIO = 0.02
"""Width of a boundary as a fraction of the image's diagonal; the paper's choice."""


def boundary_width_px(size_hw: tuple[int, int], ratio: float = BOUNDARY_RATIO) -> int:
    """Width of the boundary of masks in an image of this size, at least one pixel."""
    return max(1, round(ratio * math.hypot(*size_hw)))


@dataclass(frozen=True, slots=True, eq=False)
class Boundary:
    """Boundary of one mask: a (h, w) bool crop of the image at `left` and `top`, or empty."""

    size_hw: tuple[int, int]
    width_px: int
    left: int
    top: int
    crop: BoolArray
    area_px: int

    @classmethod
    def of(cls, mask: BoolArray, ratio: float = BOUNDARY_RATIO) -> Boundary:
        """Pixels of an (H, W) bool mask within d = max(1, round(ratio * diagonal)) of its contour.

        They are those that d erosions by a square of 3 x 3 pixels remove, where everything beyond
        the border of the image is outside. A mask that is not boolean is a DataError.
        """
        if mask.dtype != np.bool_:
            raise DataError(f"a boundary needs a bool mask; got {mask.dtype} {mask.shape}")
        size_hw = (int(mask.shape[0]), int(mask.shape[1]))
        width_px = boundary_width_px(size_hw, ratio)
        box = mask_box(mask)
        if box is None:
            return cls(size_hw, width_px, 0, 0, np.zeros((0, 0), np.bool_), 0)
        left, top, right, bottom = box
        crop = mask[top:bottom, left:right].copy()
        inner = crop[width_px:-width_px, width_px:-width_px]
        if inner.size:
            # Erosion by a square of side 2d + 1, only where the square fits.
            inner &= ~_eroded_rows(_eroded_rows(crop, width_px).T, width_px).T
        return cls(size_hw, width_px, left, top, crop, int(np.count_nonzero(crop)))


def _eroded_rows(crop: BoolArray, distance_px: int) -> BoolArray:
    """Erosion by a column of 2d + 1 pixels; windows double, so the work grows with log d."""
    window = 2 * distance_px + 1
    length = 1
    while length < window:
        step = min(length, window - length)
        crop = crop[:-step] & crop[step:]
        length += step
    return crop


def iou(a: Boundary, b: Boundary) -> float:
    """Intersection over union of two boundaries, in [0, 1]; 1 if both are empty."""
    if (a.size_hw, a.width_px) != (b.size_hw, b.width_px):
        raise DataError(
            f"boundaries of images of {a.size_hw} and {b.size_hw} px, {a.width_px} and "
            f"{b.width_px} px wide, cannot be compared"
        )
    top, left = max(a.top, b.top), max(a.left, b.left)
    bottom = min(a.top + a.crop.shape[0], b.top + b.crop.shape[0])
    right = min(a.left + a.crop.shape[1], b.left + b.crop.shape[1])
    shared = 0
    if bottom > top and right > left:
        of_a = a.crop[top - a.top : bottom - a.top, left - a.left : right - a.left]
        of_b = b.crop[top - b.top : bottom - b.top, left - b.left : right - b.left]
        shared = int(np.count_nonzero(of_a & of_b))
    union = a.area_px + b.area_px - shared
    return shared / union if union else 1.0
