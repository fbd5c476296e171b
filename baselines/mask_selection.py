"""What FastSAM does around its network: which detections count, and which mask answers a prompt.

The semantics are those of its authors' code without its slips: prompts keep their order and number,
nothing of the caller's is changed, and points outside the image hold no mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from baselines.pixels import point_pixels
from baselines.values import BoolArray, Float32Array, Int64Array, Prompts


@dataclass(frozen=True, slots=True)
class MaskSearch:
    """How masks are found in the network's output; the defaults are FastSAM's own.

    Attributes:
        confidence: Detections at or below this are dropped.
        nms_iou: Of two boxes that overlap by more than this, the less confident is dropped.
        max_masks: At most so many masks an image.
        border_px: Edges of boxes nearer than this to the border of the network's input move onto
            it; 0 leaves them alone.
        full_iou: A box that overlaps by more than this with the whole input becomes the whole
            input; 1 switches that off.
    """

    confidence: float = 0.4
    nms_iou: float = 0.9
    max_masks: int = 300
    border_px: float = 20
    full_iou: float = 0.9


@dataclass(frozen=True, slots=True, eq=False)
class FoundMasks:
    """All masks of one image.

    Attributes:
        masks: (M, H, W) bool; M may be 0.
        boxes: (M, 4) float32 xyxy in pixels of the image.
        scores: (M,) float32, confidence.
        areas: (M,) int64, pixels of each mask; derived.
    """

    masks: BoolArray
    boxes: Float32Array
    scores: Float32Array
    areas: Int64Array = field(init=False)

    def __post_init__(self) -> None:
        # A count a mask is many times faster than one call with `axis`.
        areas = np.array([np.count_nonzero(mask) for mask in self.masks], np.int64)
        object.__setattr__(self, "areas", areas)

    def without_empty(self) -> FoundMasks:
        """The masks that have a pixel, in the same order."""
        if self.areas.all():
            return self
        keep = self.areas > 0
        return FoundMasks(self.masks[keep], self.boxes[keep], self.scores[keep])


def snap_to_border(boxes: Tensor, input_hw: Sequence[int], search: MaskSearch) -> Tensor:
    """FastSAM's rule for boxes near the border; see `MaskSearch.border_px` and `full_iou`.

    Args:
        boxes: (M, 4) xyxy in pixels of the network's input.
        input_hw: Its height and width.
        search: The limits.

    Returns:
        (M, 4), a new tensor.
    """
    height, width = input_hw
    near = search.border_px
    x0, y0, x1, y1 = boxes.unbind(1)
    x0, y0 = x0.masked_fill(x0 < near, 0), y0.masked_fill(y0 < near, 0)
    x1, y1 = x1.masked_fill(x1 > width - near, width), y1.masked_fill(y1 > height - near, height)
    snapped = torch.stack((x0, y0, x1, y1), 1)
    # Where the limit is 0, boxes may still reach beyond the input.
    overlap = (x1.clamp(max=width) - x0.clamp(min=0)) * (y1.clamp(max=height) - y0.clamp(min=0))
    union = width * height + (x1 - x0) * (y1 - y0) - overlap
    full = boxes.new_tensor((0, 0, width, height))
    return torch.where((overlap / union > search.full_iou)[:, None], full, snapped)


def select(found: FoundMasks, prompts: Prompts) -> tuple[BoolArray, Float32Array]:
    """Answers every prompt.

    Points: masks are visited from large to small; one that holds a foreground point is merged into
    the answer, one that holds a background point is erased from it, and one that holds several
    points goes by the last of them. The score is the highest confidence among the merged.

    A box: the one mask whose IoU with the box is highest, and its confidence.

    Both: as for the box, but only among masks that hold no background point and, if the prompt
    has foreground points, at least one of them. (The authors' code does not combine them.)

    Args:
        found: M masks of size H, W.
        prompts: N prompts.

    Returns:
        (N, H, W) bool masks and (N,) float32 scores; an empty mask, score 0, where nothing fits.
    """
    if prompts.boxes is None:
        held, foreground = _held_points(found, prompts)
        return _merge(found, held, foreground)
    allowed = np.ones((len(prompts), len(found.masks)), np.bool_)
    if prompts.points is not None:
        held, foreground = _held_points(found, prompts)
        wants_any = foreground.any(axis=1, keepdims=True)
        allowed &= (held & foreground[:, None]).any(axis=2) | ~wants_any
        allowed &= ~(held & ~foreground[:, None]).any(axis=2)
    return _best_for_boxes(found, prompts.boxes, allowed)


def _held_points(found: FoundMasks, prompts: Prompts) -> tuple[BoolArray, BoolArray]:
    """(N, M, K) whether a mask holds a point, and (N, K) whether that is a foreground point."""
    assert prompts.points is not None  # noqa: S101 - the caller has looked
    assert prompts.labels is not None  # noqa: S101 - guaranteed by Prompts
    pixels, inside = point_pixels(prompts.points, found.masks.shape[1:])
    held = found.masks[:, pixels[..., 1], pixels[..., 0]] & inside
    return held.transpose(1, 0, 2), prompts.labels == 1


def _merge(
    found: FoundMasks, held: BoolArray, foreground: BoolArray
) -> tuple[BoolArray, Float32Array]:
    count, _, n_points = held.shape
    masks = np.zeros((count, *found.masks.shape[1:]), np.bool_)
    scores = np.zeros(count, np.float32)
    large_to_small = np.argsort(-found.areas, kind="stable")
    # Merging and erasing the same mask in turn leaves the effect of the last turn alone.
    last_held = n_points - 1 - held[..., ::-1].argmax(axis=2)
    merges = np.take_along_axis(foreground, last_held, axis=1)
    touched: BoolArray = np.any(held, axis=2)
    for row in range(count):
        answer = masks[row]
        for each in large_to_small[touched[row, large_to_small]]:
            if merges[row, each]:
                answer |= found.masks[each]
                scores[row] = max(scores[row], found.scores[each])
            else:
                np.greater(answer, found.masks[each], out=answer)  # answer and not mask
        if scores[row] and not answer.any():
            scores[row] = 0
    return masks, scores


def _best_for_boxes(
    found: FoundMasks, boxes: Float32Array, allowed: BoolArray
) -> tuple[BoolArray, Float32Array]:
    height, width = found.masks.shape[1:]
    masks = np.zeros((len(boxes), height, width), np.bool_)
    scores = np.zeros(len(boxes), np.float32)
    # Half to even, then cut to the image: a box outside, or thinner than a pixel, becomes empty.
    rounded = np.clip(np.rint(boxes), 0, (width, height, width, height)).astype(np.int64)
    for row, (x0, y0, x1, y1) in enumerate(rounded):
        among = np.flatnonzero(allowed[row])
        if not len(among) or x0 == x1 or y0 == y1:
            continue
        common = np.array([np.count_nonzero(found.masks[i, y0:y1, x0:x1]) for i in among])
        union = (y1 - y0) * (x1 - x0) + found.areas[among] - common
        best = int(np.argmax(common / union))
        if common[best]:
            masks[row] = found.masks[among[best]]
            scores[row] = found.scores[among[best]]
    return masks, scores
