"""Where segment everything asks: grids of points, crops of the image, and coarse points first."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import numpy.typing as npt

from mobilesam.errors import UsageError

Points = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Crop:
    """A part of the image that is segmented by itself.

    Attributes:
        box: x0, y0, x1, y1 in pixels of the image, half-open.
        layer: 0 is the whole image; layer n has 4^n crops.
    """

    box: tuple[int, int, int, int]
    layer: int

    @property
    def area_px(self) -> int:
        """Pixels of the crop."""
        x0, y0, x1, y1 = self.box
        return (x1 - x0) * (y1 - y0)


def point_grid(per_side: int) -> Points:
    """A square grid, each point in the middle of its cell.

    Args:
        per_side: Points along one side.

    Returns:
        (per_side^2, 2) xy as fractions of the image, row by row.
    """
    middle = 1 / (2 * per_side)
    line = np.linspace(middle, 1 - middle, per_side)
    rows, columns = np.meshgrid(line, line, indexing="ij")
    return np.stack((columns, rows), axis=-1).reshape(-1, 2)


def layer_grids(per_side: int, n_layers: int, downscale: int) -> tuple[Points, ...]:
    """A grid for the image and one for the crops of each layer.

    Args:
        per_side: Points along one side of the whole image.
        n_layers: Layers of crops.
        downscale: Each layer has so many times fewer points a side than the one before.

    Raises:
        UsageError: A layer would have no point.
    """
    counts = [int(per_side / downscale**layer) for layer in range(n_layers + 1)]
    if min(counts) < 1:
        raise UsageError(
            f"{per_side} points a side leave none for layer {counts.index(0)} of the crops; give "
            "more points, or a smaller crop_n_points_downscale_factor"
        )
    return tuple(point_grid(count) for count in counts)


def check_grids(grids: Sequence[Points], n_layers: int) -> tuple[Points, ...]:
    """Checks point grids that the user made.

    Raises:
        UsageError: Too few of them, one without points, or one that is not (N, 2) of fractions.
    """
    if len(grids) <= n_layers:
        raise UsageError(f"{len(grids)} point grids for {n_layers + 1} layers; give one for each")
    checked = tuple(np.asarray(grid, np.float64) for grid in grids)
    for layer, grid in enumerate(checked):
        if grid.ndim != 2 or grid.shape[1] != 2 or len(grid) == 0:
            raise UsageError(f"point grid {layer} has shape {grid.shape}; wanted (N, 2), N > 0")
        bad = np.flatnonzero(~((grid >= 0) & (grid <= 1)).all(axis=1))
        if len(bad):
            raise UsageError(
                f"point {bad[0]} of grid {layer} is {grid[bad[0]].tolist()}; wanted fractions of "
                "the image from 0 to 1"
            )
    return checked


def crops_of(size_hw: tuple[int, int], n_layers: int, overlap_ratio: float) -> list[Crop]:
    """The whole image, and crops that overlap, as segment-anything lays them out.

    Args:
        size_hw: Height and width of the image, in pixels.
        n_layers: Layers of crops; layer n has 2^n a side.
        overlap_ratio: Overlap of the first layer's crops, as a share of the shorter side.

    Raises:
        UsageError: The image is too small for so many crops.
    """
    height, width = size_hw
    crops = [Crop((0, 0, width, height), 0)]
    for layer in range(1, n_layers + 1):
        per_side = 2**layer
        overlap = int(overlap_ratio * min(size_hw) * (2 / per_side))
        wide, tall = (
            math.ceil((overlap * (per_side - 1) + side) / per_side) for side in (width, height)
        )
        lefts, tops = ([(side - overlap) * i for i in range(per_side)] for side in (wide, tall))
        if lefts[-1] >= width or tops[-1] >= height:
            raise UsageError(
                f"an image of {height} x {width} pixels is too small for {n_layers} crop layers; "
                "lower crop_n_layers"
            )
        crops += [
            Crop((left, top, min(left + wide, width), min(top + tall, height)), layer)
            for left, top in product(lefts, tops)
        ]
    return crops


def grid_levels(per_side: int, strides: Sequence[int]) -> npt.NDArray[np.int64]:
    """Sorts the points of a square grid into levels, from coarse to fine.

    Args:
        per_side: Points along one side.
        strides: Of the levels in points, descending, each dividing the one before, down to 1.

    Returns:
        (per_side^2,) level of each point of `point_grid`: the first whose sub-grid holds it. The
        points of a sub-grid lie as near as can be to the middles of its cells.
    """
    coarse = strides[0]
    index = np.arange(per_side) - min(coarse // 2, (per_side - 1) // 2)
    level = np.full(per_side, len(strides) - 1)
    for number in reversed(range(len(strides))):
        level[index % strides[number] == 0] = number
    rows, columns = np.meshgrid(level, level, indexing="ij")
    found: npt.NDArray[np.int64] = np.maximum(rows, columns).reshape(-1)
    return found
