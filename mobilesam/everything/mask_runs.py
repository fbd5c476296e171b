"""Masks of automatic mask generation: run lengths, measuring at full resolution, and filtering."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from segment_anything.utils import amg
from torch import Tensor

from mobilesam.everything.point_grid import Box, Crop
from mobilesam.fast.upsampling import Span, Upsampler
from mobilesam.inputs import BoolArray, Float32Array, Int64Array, Size

# A mask whose box ends nearer than this to the edge of a crop is considered cut off by it
# (segment-anything's value).
CROP_EDGE_PX = 20.0


@dataclass(frozen=True, slots=True, eq=False)
class MaskRuns:
    """A mask as runs of pixels down the columns, as in COCO: small for images of any size."""

    size_hw: Size  # of the image, in pixels
    edges: Int64Array  # (2 R,) ascending: start and end (exclusive) of each of R runs

    @property
    def area_px(self) -> int:
        """Pixels of the mask."""
        return int((self.edges[1::2] - self.edges[::2]).sum())

    def counts(self) -> list[int]:
        """Alternating lengths of runs outside and inside, outside first (COCO's `counts`)."""
        height, width = self.size_hw
        bounds = np.concatenate(([0], self.edges, [height * width]))
        counts: list[int] = np.diff(bounds).tolist()
        if len(counts) > 1 and counts[-1] == 0:
            counts.pop()
        return counts

    def uncompressed(self) -> dict[str, Any]:
        """COCO's uncompressed notation: `size` and `counts` as numbers."""
        return {"size": list(self.size_hw), "counts": self.counts()}

    def compressed(self) -> dict[str, Any]:
        """COCO's compressed notation, with `counts` as text so that it can be stored in JSON."""
        found: dict[str, Any] = amg.coco_encode_rle(self.uncompressed())
        return found

    def to_mask(self) -> BoolArray:
        """(H, W) bool, new, in column order."""
        height, width = self.size_hw
        counts = self.counts()
        values = np.arange(len(counts)) % 2 == 1
        return np.repeat(values, counts).reshape(width, height).T

    def box(self) -> Box:
        """x0, y0, x1, y1 of the first and last columns and rows; zeros for an empty mask."""
        height = self.size_hw[0]
        first, last = self.edges[::2], self.edges[1::2] - 1
        if len(first) == 0:
            return 0, 0, 0, 0
        low, high = int(first[0]) // height, int(last[-1]) // height
        if np.any(first // height != last // height):
            # A run that continues in the next column touches the bottom and the top.
            return low, 0, high, height - 1
        return low, int((first % height).min()), high, int((last % height).max())


def strip_edges(strip: BoolArray, left: int, top: int, height: int) -> Int64Array:
    """Edges of the runs of (columns, rows) pixels that begin at (left, top) of an image.

    A run that continues in the next column is in two parts.
    """
    columns, rows = strip.shape
    padded = np.zeros((columns, rows + 2), np.bool_)
    padded[:, 1:-1] = strip
    changes = np.flatnonzero(padded[:, 1:] != padded[:, :-1])
    column, row = np.divmod(changes, rows + 1)
    edges: Int64Array = (column + left) * height + row + top
    return edges


def join_edges(parts: Iterable[Int64Array]) -> Int64Array:
    """Concatenates the edges of neighbouring strips, and joins runs that touch."""
    edges = np.concatenate([np.empty(0, np.int64), *parts])
    same = np.flatnonzero(edges[1:-1:2] == edges[2::2]) * 2 + 1
    return np.delete(edges, np.concatenate((same, same + 1)))


def runs_of_mask(mask: BoolArray) -> MaskRuns:
    """The runs of an (H, W) mask."""
    height, width = (int(side) for side in mask.shape)
    return MaskRuns((height, width), join_edges([strip_edges(mask.T, 0, 0, height)]))


class MeasuredMask(NamedTuple):
    """A mask in full resolution, in the frame of the whole image."""

    runs: MaskRuns
    box: Box
    stability: float  # IoU of the masks of a higher and a lower threshold; 0 if both are empty


def measure(
    logits: Tensor,
    upsampler: Upsampler,
    crop: Crop,
    image_hw: Size,
    *,
    threshold: float,
    offset: float,
    least_stability: float = 0.0,
) -> MeasuredMask | None:
    """Upsamples the part of one mask that can be above the threshold, strip by strip.

    Interpolated values are means of (h, w) float32 logits: where no logit is above the lowest
    threshold, no pixel is, so leaving that part out is exact. The threshold is shifted by `offset`
    in both directions for the stability; None is returned for masks below `least_stability`.
    """
    low_rows, low_columns = support(logits, threshold - abs(offset))
    rows, columns = upsampler.rows.image_span(low_rows), upsampler.columns.image_span(low_columns)
    inner = outer = 0
    left, top = crop.box[0] + columns.low, crop.box[1] + rows.low
    edges = []
    for strip in upsampler.column_strips(logits, rows, columns):
        values = strip.numpy()
        inner += int(np.count_nonzero(values > threshold + offset))
        outer += int(np.count_nonzero(values > threshold - offset))
        edges.append(strip_edges(values > threshold, left, top, image_hw[0]))
        left += len(values)
    stability = float(np.float32(inner) / np.float32(outer)) if outer else 0.0
    if least_stability > 0 and stability < least_stability:
        return None
    runs = MaskRuns(image_hw, join_edges(edges))
    return MeasuredMask(runs, runs.box(), stability)


def support(logits: Tensor, above: float) -> tuple[Span, Span]:
    """The rows and columns of (h, w) logits outside of which none is above a value."""
    found = logits > above
    rows, columns = (np.flatnonzero(found.any(axis).numpy()) for axis in (1, 0))
    if len(rows) == 0:
        return Span(0, 0), Span(0, 0)
    return Span(int(rows[0]), int(rows[-1]) + 1), Span(int(columns[0]), int(columns[-1]) + 1)


def suppressed(boxes: Float32Array, scores: Float32Array, iou: float) -> list[int]:
    """Non-maximum suppression of (N, 4) xyxy boxes: those to keep, the best first.

    Torchvision's, to the last digit; importing that takes longer than a second.
    """
    low, high = boxes[:, :2], boxes[:, 2:]
    area, kept = np.prod(high - low, 1), []
    left = np.argsort(-scores, kind="stable")
    while len(left):
        best, left = left[0], left[1:]
        kept.append(int(best))
        sides = np.minimum(high[best], high[left]) - np.maximum(low[best], low[left])
        both = np.prod(np.maximum(sides, 0), 1)
        with np.errstate(invalid="ignore"):  # boxes without area
            overlap = both / (area[best] + area[left] - both)
        left = left[~(overlap > np.float64(iou))]
    return kept


def cut_by_crop(box: Box, crop: Crop, image_hw: Size) -> bool:
    """Whether a box ends at the edge of the crop, but not of the image."""
    height, width = image_hw
    return any(
        abs(side - edge) <= CROP_EDGE_PX and abs(side - border) > CROP_EDGE_PX
        for side, edge, border in zip(box, crop.box, (0, 0, width, height), strict=True)
    )


def without_small_regions(runs: MaskRuns, least_px: float) -> tuple[MaskRuns, bool]:
    """Fills holes and drops islands of fewer pixels, but the largest; also whether it changed."""
    filled, has_holes = amg.remove_small_regions(runs.to_mask(), least_px, "holes")
    final, has_islands = amg.remove_small_regions(filled, least_px, "islands")
    return (runs_of_mask(final), True) if has_holes or has_islands else (runs, False)
