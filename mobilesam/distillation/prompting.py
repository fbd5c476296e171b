"""Draws prompts for training: objects of known masks, or anywhere where none are known."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mobilesam.distillation.batches import Batch, Labels
from mobilesam.distillation.config import PromptConfig
from mobilesam.distillation.decoding import PromptBatch

# Labels a side of one cell of the logits: its target is a share in sixteenths.
_LABELS_PER_CELL = 4


@dataclass(frozen=True, slots=True, eq=False)
class Drawn:
    """Prompts with what they ask for.

    Attributes:
        prompts: N prompts.
        targets: (N, 1, g, g) float32, share of each logit cell that the object covers; None where
            no ground truth is known.
        valid: (N, 1, g, g) float32, 0 in the padding.
    """

    prompts: PromptBatch
    targets: Tensor | None
    valid: Tensor


def draw_prompts(batch: Batch, config: PromptConfig, cells: int) -> Drawn:
    """Draws a box and a point for each of some objects of each image, with what they should find.

    Where an image has no labels, points are drawn anywhere in it and nothing is known of the
    answer.

    Args:
        batch: Its images.
        config: How many and how.
        cells: Side g of the logits.
    """
    with_objects = all(labels is not None for labels in batch.labels)
    boxes, points, targets = [], [], []
    side = batch.images.shape[-1]
    for inner_hw, labels, rng in zip(batch.inner_hw, batch.labels, batch.generators, strict=True):
        for _ in range(config.objects_per_image):
            if labels is None or not with_objects:
                points.append(rng.uniform(0, 1, 2) * (inner_hw[1] - 1, inner_hw[0] - 1))
                continue
            mask = _draw_object(rng, _at_cells(labels, inner_hw, side, cells))
            scale = inner_hw[1] / mask.shape[1]
            boxes.append(_jittered(rng, _box(mask) * scale, config.box_jitter))
            points.append(_point(rng, mask, config.center_share) * scale)
            targets.append(_coverage(mask, cells))
    per_image = config.objects_per_image
    image_index = torch.arange(len(batch)).repeat_interleave(per_image)
    point_rows = torch.from_numpy(np.array(points, np.float32))[:, None]
    valid = batch.valid(cells)[image_index]
    if not with_objects:
        none = torch.zeros(0, 4)
        prompts = PromptBatch(image_index, none, point_rows, torch.ones(len(point_rows), 1))
        return Drawn(prompts, None, valid)
    # The row of a box has a point, too, so that all rows have equal lengths; it is never read.
    labels_2 = torch.cat([torch.full((len(boxes), 1), -1.0), torch.ones(len(points), 1)])
    prompts = PromptBatch(
        image_index.repeat(2),
        torch.from_numpy(np.array(boxes, np.float32)),
        point_rows.repeat(2, 1, 1),
        labels_2,
    )
    wanted = torch.from_numpy(np.stack(targets))[:, None]
    return Drawn(prompts, wanted.repeat(2, 1, 1, 1), valid.repeat(2, 1, 1, 1))


def correct(
    drawn: Drawn, logits: Tensor, targets: Tensor, rng: np.random.Generator
) -> PromptBatch:
    """The same prompts with a click where the answer is wrong, and the answer fed back.

    Args:
        drawn: The first prompts.
        logits: (N, g, g) of their answers, detached.
        targets: (N, 1, g, g).
        rng: Draws which of the wrong cells is clicked.
    """
    wanted = targets[:, 0] > 0.5
    wrong = ((logits > 0) != wanted) & (drawn.valid[:, 0] > 0)
    prompts = drawn.prompts
    cells = logits.shape[-1]
    where = torch.zeros(len(logits), 1, 2)
    which = torch.full((len(logits), 1), -1.0)
    for row, choices in enumerate(wrong):
        found = torch.nonzero(choices)
        if len(found):
            y, x = found[int(rng.integers(len(found)))].tolist()
            where[row, 0] = torch.tensor([x + 0.5, y + 0.5]) * drawn_scale(drawn, cells)
            which[row, 0] = float(wanted[row, y, x])
    return PromptBatch(
        prompts.image_index,
        prompts.boxes,
        torch.cat([prompts.points, where], dim=1),
        torch.cat([prompts.labels, which], dim=1),
        logits[:, None],
    )
