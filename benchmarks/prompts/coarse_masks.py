"""Coarse masks as prompts: the reference mask on a grid of 64 cells, as logits, and its box.

The box goes with the mask as in micro_sam: models of SAM's kind are trained with masks in addition
to other prompts, and find next to nothing for a mask alone (MobileSAM, 16 objects of two shipped
photos: mean IoU 0.00 for the mask alone, 0.70 with its box).
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from baselines.interface import BoolArray, Float32Array, Int64Array, MaskFrame, Prompts

GRID_CELLS = 64
"""Cells along the longer side of the image; a smaller image has one cell a pixel."""
CHANGE = 0.1
"""Distance of erosion and dilation, as a fraction of the square root of the mask's area."""
LOGIT = 10.0
"""Logit inside of a mask, and its negative outside: the values that SAM 2 feeds back of a mask."""
_BITS = 16
N_VALUES = GRID_CELLS**2 // _BITS
"""Values of a packed mask: 16 cells each, whole numbers that a float32 holds exactly."""

Change = Literal["eroded", "dilated"]


def grid_shape(size_hw: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of the grid of an image, at least one of each."""
    cells = min(1.0, GRID_CELLS / max(size_hw))
    return max(1, round(cells * size_hw[0])), max(1, round(cells * size_hw[1]))


def _edges(size_hw: tuple[int, int]) -> list[Int64Array]:
    """First pixel of each row and column of the grid, and the end of the last one."""
    shape = grid_shape(size_hw)
    return [np.arange(n + 1) * side // n for n, side in zip(shape, size_hw, strict=True)]


def coarse_mask(mask: BoolArray) -> BoolArray:
    """Reduces a non-empty (H, W) mask to the grid of its image.

    A cell belongs to the result if at least half of it is covered, or, if there is no such cell, if
    no cell is covered more.
    """
    tops, lefts = _edges((mask.shape[0], mask.shape[1]))
    sums = np.add.reduceat(mask.astype(np.int64), tops[:-1], axis=0)
    sums = np.add.reduceat(sums, lefts[:-1], axis=1)
    # Twice the covered share in units of 1 / (area of all cells), as integers: exact everywhere.
    areas: Int64Array = np.diff(tops)[:, None] * np.diff(lefts)
    found: BoolArray = 2 * sums >= areas
    if found.any():
        return found
    share = sums / areas
    return np.asarray(share == share.max())


def changed(mask: BoolArray, change: Change) -> BoolArray:
    """Erodes or dilates a non-empty (H, W) mask by a square, by `CHANGE` of its size.

    The distance is at least one pixel. Everything beyond the border of the image is outside. An
    erosion that would leave nothing ends with the last distance that leaves a pixel.
    """
    import cv2

    distance_px = max(1, round(CHANGE * math.sqrt(np.count_nonzero(mask))))
    apply = cv2.erode if change == "eroded" else cv2.dilate
    pixels = mask.view(np.uint8)
    while distance_px:
        square = np.ones((2 * distance_px + 1,) * 2, np.uint8)
        found = apply(pixels, square, borderType=cv2.BORDER_CONSTANT, borderValue=0)
        if found.any():
            return np.asarray(found).view(np.bool_)
        distance_px -= 1
    return mask


def pack(grid: BoolArray) -> Float32Array:
    """Packs a grid into (`N_VALUES`,) float32, for a manifest."""
    cells = np.zeros((GRID_CELLS, GRID_CELLS), np.int64)
    cells[: grid.shape[0], : grid.shape[1]] = grid
    return np.asarray(cells.reshape(-1, _BITS) @ (1 << np.arange(_BITS)), np.float32)


def unpack(values: Float32Array, size_hw: tuple[int, int]) -> BoolArray:
    """The grid of an image of this size, from its packed values."""
    bits = values.astype(np.int64)[:, None] >> np.arange(_BITS) & 1
    rows, columns = grid_shape(size_hw)
    return bits.reshape(GRID_CELLS, GRID_CELLS)[:rows, :columns].astype(np.bool_)


def mask_prompts(values: Float32Array, frame: MaskFrame) -> Prompts:
    """Boxes in pixels of the image and mask inputs of a model, from (N, `N_VALUES`) packed grids.

    The grid is enlarged linearly to the part of the input that the image covers; the rest is
    outside of the mask.
    """
    import cv2

    height, width = frame.image_hw
    tops, lefts = _edges(frame.size_hw)
    boxes = np.empty((len(values), 4), np.float32)
    logits = np.full((len(values), 1, *frame.input_hw), -LOGIT, np.float32)
    for row, packed in enumerate(values):
        grid = unpack(packed, frame.size_hw)
        rows, columns = np.nonzero(grid)
        boxes[row, 0::2] = lefts[columns.min()], lefts[columns.max() + 1]
        boxes[row, 1::2] = tops[rows.min()], tops[rows.max() + 1]
        signed = np.where(grid, np.float32(LOGIT), np.float32(-LOGIT))
        logits[row, 0, :height, :width] = cv2.resize(signed, (width, height))
    return Prompts(boxes=boxes, mask_inputs=logits)
