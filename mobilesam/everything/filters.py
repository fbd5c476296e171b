"""Which masks of segment everything stay: by stability, place, overlap and size of regions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mobilesam.everything.point_grid import Crop
from mobilesam.everything.run_length import (
    BoolArray,
    MaskRuns,
    join_edges,
    runs_of_mask,
    strip_edges,
)
from mobilesam.fast.upsampling import Span, Upsampler

# Nearer than this to the edge of a crop, a mask is taken to be cut off by it (segment-anything's).
CROP_EDGE_PX = 20.0

Box = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class MeasuredMask:
    """A mask in full resolution.

    Attributes:
        runs: Its pixels, in the frame of the whole image.
        box: x0, y0, x1, y1 of its first and last columns and rows; zeros for an empty mask.
        stability: IoU between the masks of a higher and a lower threshold; 0 if both are empty.
    """

    runs: MaskRuns
    box: Box
    stability: float


def support(logits: Tensor, above: float) -> tuple[Span, Span]:
    """The rows and columns of (h, w) logits outside of which none is above a value."""
    found = logits > above
    spans = []
    for axis in (1, 0):
        where = np.flatnonzero(found.any(axis).numpy())
        spans.append(Span(int(where[0]), int(where[-1]) + 1) if len(where) else Span(0, 0))
    return spans[0], spans[1]


def measure(
    logits: Tensor,
    upsampler: Upsampler,
    crop: Crop,
    image_hw: tuple[int, int],
    *,
    threshold: float,
    offset: float,
    least_stability: float = 0.0,
) -> MeasuredMask | None:
    """Upsamples one mask, but no more of it than matters, and without keeping it.

    Interpolated values are means of logits, so that where none is above the lowest threshold,
    nothing is: leaving that part out is exact.

    Args:
        logits: (h, w) float32 on the host.
        upsampler: Of the crop.
        crop: Part of the image that the logits show.
        image_hw: Height and width of the whole image, in pixels.
        threshold: The mask is where logits are above it.
        offset: What the stability adds to the threshold and takes off.
        least_stability: A mask below it is given up.

    Returns:
        None for a mask that is not stable enough.
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
    return MeasuredMask(runs, box_of_runs(runs), stability)


def box_of_runs(runs: MaskRuns) -> Box:
    """x0, y0, x1, y1 of the first and last columns and rows of a mask; zeros for an empty one."""
    height = runs.size_hw[0]
    first, last = runs.edges[::2], runs.edges[1::2] - 1
    if len(first) == 0:
        return 0, 0, 0, 0
    low, high = int(first[0]) // height, int(last[-1]) // height
    if np.any(first // height != last // height):
        # A run that goes on in the next column has reached the bottom, and begins at the top.
        return low, 0, high, height - 1
    return low, int((first % height).min()), high, int((last % height).max())


def cut_by_crop(box: Box, crop: Crop, image_hw: tuple[int, int]) -> bool:
    """Whether a box ends where the crop does, and not where the image does."""
    height, width = image_hw
    return any(
        abs(side - edge) <= CROP_EDGE_PX and abs(side - border) > CROP_EDGE_PX
        for side, edge, border in zip(box, crop.box, (0, 0, width, height), strict=True)
    )


def without_duplicates(
    boxes: Sequence[Box], scores: Sequence[float], iou_threshold: float
) -> list[int]:
    """Non-maximum suppression by torchvision.

    Args:
        boxes: Of N masks.
        scores: (N,), higher is better.
        iou_threshold: Of two boxes that overlap by more, the worse goes.

    Returns:
        The indices that stay, the best first.
    """
    if not boxes:
        return []
    from torchvision.ops import nms

    found = torch.tensor(boxes, dtype=torch.float32)
    kept: list[int] = nms(found, torch.tensor(scores, dtype=torch.float32), iou_threshold).tolist()
    return kept


def without_small_regions(runs: MaskRuns, least_px: float) -> tuple[MaskRuns, bool]:
    """Fills the holes and drops the islands of less than so many pixels.

    If every island is too small, the largest one stays.

    Returns:
        The mask, and whether it has changed.
    """
    mask = np.ascontiguousarray(runs.to_mask())
    filled, has_holes = _without_small(mask, least_px, inside=False)
    final, has_islands = _without_small(filled, least_px, inside=True)
    if not (has_holes or has_islands):
        return runs, False
    return runs_of_mask(final), True


def _without_small(mask: BoolArray, least_px: float, *, inside: bool) -> tuple[BoolArray, bool]:
    """Flips small connected regions inside the mask, or outside of it."""
    import cv2

    of_interest = mask if inside else ~mask
    count, labels, stats, _ = cv2.connectedComponentsWithStats(
        of_interest.view(np.uint8), connectivity=8
    )
    areas = stats[:, cv2.CC_STAT_AREA]
    small = np.flatnonzero(areas < least_px)
    small = small[small > 0]  # label 0 is all the rest
    if len(small) == 0:
        return mask, False
    if inside and len(small) == count - 1:
        small = np.delete(small, int(np.argmax(areas[small])))
    flip = np.zeros(count, np.bool_)
    flip[small] = True
    return mask ^ flip[labels], True
