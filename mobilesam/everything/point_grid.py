"""Point prompts of automatic mask generation: grids, crops, and the choice of points."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from segment_anything.utils import amg

from mobilesam.errors import UsageError
from mobilesam.fast.preview import RoughMasks
from mobilesam.inputs import Int64Array, Size

Points = npt.NDArray[np.float64]
Box = tuple[int, int, int, int]

# The hierarchical mode looks at rough masks first. These values were chosen on eleven images of
# COCO: 19 % of the points find 95.4 % of the 547 masks of a 32 x 32 grid. With other values it was
# 94.5 % with 17 % of the points, and 96.3 % with 23 %. The masks come from 5 % of the points.
# The stability of rough masks is lower; so is its limit, by this much.
STABILITY_MARGIN = 0.08
# Rough masks with a larger IoU show the same object, and that many points of it are prompted.
SAME_IOU = 0.75
POINTS_PER_OBJECT = 3
# Weight of the stability beside the predicted IoU, in the order of the masks.
STABILITY_WEIGHT = 0.25


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


class RoughLimits(NamedTuple):
    """What rough masks have to exceed; -inf keeps all."""

    least_score: float
    least_stability: float

    @classmethod
    def of(cls, least_score: float, least_stability: float) -> RoughLimits:
        """From the limits of exact masks, of which 0 or less keeps all."""
        return cls(
            least_score if least_score > 0 else -math.inf,
            least_stability - STABILITY_MARGIN if least_stability > 0 else -math.inf,
        )


def distinct_points(rough: RoughMasks, limits: RoughLimits) -> Int64Array:
    """Indices of the points, ascending, whose masks are good and unlike those of better points."""
    scores, stability = (each.cpu().numpy() for each in (rough.scores, rough.stability))
    good = (scores > limits.least_score) & (stability > limits.least_stability)
    points, columns = np.nonzero(good)
    flat = rough.cells.cpu()[points, columns].float()
    shared, area = flat @ flat.t(), flat.sum(1)
    alike = (shared > SAME_IOU * (area[:, None] + area - shared)).numpy()
    chosen = np.zeros(len(scores), np.bool_)
    known = np.zeros(len(points), np.int64)  # how many chosen points have such a mask
    for index in np.argsort(-(scores + STABILITY_WEIGHT * stability)[good], kind="stable"):
        if known[index] < POINTS_PER_OBJECT:
            chosen[points[index]] = True
        if chosen[points[index]]:
            known[alike[index]] += 1
    found: Int64Array = np.flatnonzero(chosen)
    return found
