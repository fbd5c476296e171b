"""Converts prompt coordinates to pixels of an image; defines how they are rounded."""

from __future__ import annotations

import numpy as np

from baselines.interface import BoolArray, Float32Array, Int64Array


def box_pixels(boxes: Float32Array, size_hw: tuple[int, int]) -> Int64Array:
    """Pixels whose centres lie in boxes (N, 4) xyxy, cut to the image.

    Edges are half-open; pixel centres have integer coordinates. Returns (N, 4) half-open ranges x0,
    y0, x1, y1, empty along a side where both ends are equal.
    """
    height, width = size_hw
    return np.clip(np.ceil(boxes), 0, (width, height, width, height)).astype(np.int64)


def point_pixels(points: Float32Array, size_hw: tuple[int, int]) -> tuple[Int64Array, BoolArray]:
    """The nearest pixel (..., 2) xy of each point, and whether (...) the point is on the image.

    Without the latter, a point outside would count as one on the border.
    """
    limits = np.array(size_hw[::-1])
    nearest = np.floor(points.astype(np.float64) + 0.5)
    inside: BoolArray = np.all((nearest >= 0) & (nearest < limits), axis=-1)
    return np.clip(nearest, 0, limits - 1).astype(np.int64), inside


def mask_box(mask: BoolArray) -> tuple[int, int, int, int] | None:
    """x0, y0, x1, y1 of an (H, W) mask, half-open; None for an empty one."""
    rows = np.flatnonzero(mask.any(axis=1))
    if len(rows) == 0:
        return None
    top, bottom = int(rows[0]), int(rows[-1]) + 1
    columns = np.flatnonzero(mask[top:bottom].any(axis=0))
    return int(columns[0]), top, int(columns[-1]) + 1, bottom


def fill_boxes(ranges: Int64Array, size_hw: tuple[int, int]) -> BoolArray:
    """(N, H, W) masks of half-open ranges (N, 4) x0, y0, x1, y1, as returned by `box_pixels`."""
    rows, columns = np.arange(size_hw[0]), np.arange(size_hw[1])
    x0, y0, x1, y1 = (edge[:, None] for edge in ranges.T)
    in_row = (rows >= y0) & (rows < y1)
    in_column = (columns >= x0) & (columns < x1)
    drawn: BoolArray = in_row[:, :, None] & in_column[:, None, :]
    return drawn
