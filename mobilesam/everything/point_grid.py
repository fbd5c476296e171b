"""Point prompts of automatic mask generation: grids, crops, and the order of the points."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from segment_anything.utils import amg
from torch import Tensor

from mobilesam.errors import UsageError
from mobilesam.inputs import Int64Array, Size

Points = npt.NDArray[np.float64]
Box = tuple[int, int, int, int]

# The hierarchical mode starts with every second point of every second row.
_STRIDES = (2, 1)
# Share of the grid that the hierarchical mode prompts. Chosen on nine training photos: with 0.44 of
# the points, AR@1000 of their annotated objects is the whole grid's, and 0.87 of the grid's own
# masks are found again (0.81 with 0.375 of them). Skipping every point that lies on a mask, as
# former versions did, lost a fifth of that recall.
PROMPTED_SHARE = 7 / 16


@dataclass(frozen=True, slots=True)
class Crop:
    """A part of the image that is segmented by itself."""

    box: Box  # x0, y0, x1, y1 in pixels of the image, half-open
    layer: int  # 0 is the whole image; layer n has 4^n crops

    @property
    def area_px(self) -> int:
        """Pixels of the crop."""
        x0, y0, x1, y1 = self.box
        return (x1 - x0) * (y1 - y0)


def layer_grids(per_side: int, n_layers: int, downscale: int) -> tuple[Points, ...]:
    """A grid for the image and one for the crops of each layer, each with fewer points a side."""
    counts = [int(per_side / downscale**layer) for layer in range(n_layers + 1)]
    if min(counts) < 1:
        raise UsageError(
            f"{per_side} points a side leave none for layer {counts.index(0)} of the crops; give "
            "more points, or a smaller crop_n_points_downscale_factor"
        )
    return tuple(amg.build_all_layer_point_grids(per_side, n_layers, downscale))


def check_grids(grids: Sequence[Points], n_layers: int) -> tuple[Points, ...]:
    """Point grids that the user gave; raises a UsageError unless each is (N, 2) of fractions."""
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


def crops_of(size_hw: Size, n_layers: int, overlap_ratio: float) -> list[Crop]:
    """The whole image, and overlapping crops as in segment-anything: layer n has 2^n a side.

    `overlap_ratio` is the overlap of the first layer's crops, as a share of the shorter side.
    """
    height, width = size_hw
    boxes, layers = amg.generate_crop_boxes(size_hw, n_layers, overlap_ratio)
    if any(x0 >= width or y0 >= height for x0, y0, _, _ in boxes):
        raise UsageError(
            f"an image of {height} x {width} pixels is too small for {n_layers} crop layers; "
            "lower crop_n_layers"
        )
    return [Crop(tuple(box), layer) for box, layer in zip(boxes, layers, strict=True)]


def grid_levels(per_side: int, strides: Sequence[int]) -> Int64Array:
    """Level of each point of a square grid, from coarse to fine: the first that contains it.

    The strides of the levels descend to 1, each dividing the one before. Points of a level are as
    near as possible to the centres of its cells.
    """
    coarse = strides[0]
    index = np.arange(per_side) - min(coarse // 2, (per_side - 1) // 2)
    level = np.full(per_side, len(strides) - 1)
    for number in reversed(range(len(strides))):
        level[index % strides[number] == 0] = number
    found: Int64Array = np.maximum.outer(level, level).reshape(-1)
    return found


class PointSchedule:
    """Order in which the points of a grid are prompted: all of them in order, or `hierarchical`.

    The latter prompts `PROMPTED_SHARE` of a square grid: a coarse grid; then, batch by batch, the
    points that are covered least by masks. A mask covers its points with one minus its share of
    the image: a mask of the background says little about the objects on it.
    """

    def __init__(self, count: int, batch: int, *, hierarchical: bool) -> None:
        self._batch = batch
        self._cover = np.zeros(count)
        self._first, self._budget = np.arange(count), count
        if hierarchical:
            self._first = np.flatnonzero(grid_levels(round(count**0.5), _STRIDES) == 0)
            self._budget = max(len(self._first), round(PROMPTED_SHARE * count))

    def batches(self) -> Iterator[Int64Array]:
        """Yields indices of points to be prompted together."""
        for first in range(0, len(self._first), self._batch):
            yield self._first[first : first + self._batch]
        is_open = np.ones(len(self._cover), np.bool_)
        is_open[self._first] = False
        left = self._budget - len(self._first)
        while left > 0:
            # A stable sort, so that equally covered points are taken in order.
            others = np.flatnonzero(is_open)
            chosen = others[np.argsort(self._cover[others], kind="stable")]
            chosen = np.sort(chosen[: min(left, self._batch)])
            is_open[chosen] = False
            left -= len(chosen)
            yield chosen

    def add_masks(self, masks: Tensor, cells: Points) -> None:
        """Adds (M, h, w) bool masks to the cover of the points, with xy `cells` in the masks."""
        height, width = masks.shape[1:]
        columns, rows = np.clip(cells.astype(np.int64), 0, (width - 1, height - 1)).T
        weights = 1 - masks.flatten(1).float().mean(1)
        self._cover += (weights @ masks[:, rows, columns].float()).numpy()
