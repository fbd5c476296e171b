"""Draws prompts for training: objects of known masks, or anywhere where none are known."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mobilesam.distillation.batches import Batch, Labels, objects_in
from mobilesam.distillation.config import PromptConfig
from mobilesam.distillation.decoding import PromptBatch

# Labels a side of one cell of the logits: its target is a share in sixteenths.
_LABELS_PER_CELL = 4
# segment-anything's label of a point that is none.
_NO_POINT = -1.0


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

    def to(self, device: torch.device) -> Drawn:
        """The same on a device; drawing itself happens on the CPU."""
        targets = None if self.targets is None else self.targets.to(device)
        return Drawn(self.prompts.to(device), targets, self.valid.to(device))


def draw_prompts(batch: Batch, config: PromptConfig, cells: int) -> Drawn:
    """Draws a box and a point for each of some objects of each image, with what they should find.

    Where an image has no labels, points are drawn anywhere in it and nothing is known of the
    answer.

    Args:
        batch: Its images.
        config: How many and how.
        cells: Side g of the logits.

    Returns:
        On the device of the batch.
    """
    return _drawn(batch, config, cells).to(batch.images.device)


def _drawn(batch: Batch, config: PromptConfig, cells: int) -> Drawn:
    image_index = torch.arange(len(batch)).repeat_interleave(config.objects_per_image)
    valid = batch.valid(cells).cpu()[image_index]
    known_labels = [labels for labels in batch.labels if labels is not None]
    if len(known_labels) < len(batch):
        points = _points_anywhere(batch, config.objects_per_image)
        prompts = PromptBatch(image_index, torch.zeros(0, 4), points, torch.ones(len(points), 1))
        return Drawn(prompts, None, valid)
    objects = _Objects(batch.images.shape[-1], cells)
    for inner_hw, labels, rng in zip(batch.inner_hw, known_labels, batch.generators, strict=True):
        fine = objects.resampled(labels, inner_hw)
        for _ in range(config.objects_per_image):
            objects.draw(rng, fine, config)
    # The row of a box has a point, too, so that all rows have equal lengths; it is never read.
    points = objects.points().repeat(2, 1, 1)
    known = torch.ones(len(points), 1)
    prompts = PromptBatch(image_index.repeat(2), objects.boxes(), points, known)
    targets = objects.targets().repeat(2, 1, 1, 1)
    return Drawn(prompts, targets, valid.repeat(2, 1, 1, 1))


def correct(
    drawn: Drawn, logits: Tensor, targets: Tensor, side_px: int, rng: np.random.Generator
) -> PromptBatch:
    """The same prompts with a click where the answer is wrong, and the answer fed back.

    Args:
        drawn: The first prompts.
        logits: (N, g, g) of their answers, detached.
        targets: (N, 1, g, g).
        side_px: Side of the network's input.
        rng: Draws which of the wrong cells is clicked.
    """
    wanted = (targets[:, 0] > 0.5).cpu()
    wrong = ((logits.cpu() > 0) != wanted) & (drawn.valid[:, 0].cpu() > 0)
    scale = side_px / logits.shape[-1]
    where = torch.zeros(len(logits), 1, 2)
    which = torch.full((len(logits), 1), _NO_POINT)
    for row, choices in enumerate(wrong):
        found = torch.nonzero(choices)
        if len(found):
            y, x = found[int(rng.integers(len(found)))].tolist()
            where[row, 0] = torch.tensor([x + 0.5, y + 0.5]) * scale - 0.5
            which[row, 0] = float(wanted[row, y, x])
    prompts = drawn.prompts
    return PromptBatch(
        prompts.image_index,
        prompts.boxes,
        torch.cat([prompts.points, where.to(logits.device)], dim=1),
        torch.cat([prompts.labels, which.to(logits.device)], dim=1),
        logits[:, None],
    )


def _points_anywhere(batch: Batch, count: int) -> Tensor:
    rows = [
        rng.uniform(0, 1, 2) * (width - 1, height - 1)
        for (height, width), rng in zip(batch.inner_hw, batch.generators, strict=True)
        for _ in range(count)
    ]
    return torch.from_numpy(np.array(rows, np.float32))[:, None]


class _Objects:
    """Collects the prompts of objects, measured on a grid finer than that of the logits."""

    def __init__(self, side_px: int, cells: int) -> None:
        self._side_px = side_px
        self._cells = cells
        self._fine = cells * _LABELS_PER_CELL
        self._scale = side_px / self._fine
        self._boxes: list[npt.NDArray[np.float64]] = []
        self._points: list[npt.NDArray[np.float64]] = []
        self._targets: list[npt.NDArray[np.float32]] = []

    def resampled(self, labels: Labels, inner_hw: tuple[int, int]) -> Labels:
        """The labels on the fine grid, without the padding, by their nearest neighbour."""
        lines = []
        for length, n_labels in zip(inner_hw, labels.shape, strict=True):
            count = max(1, round(length / self._scale))
            lines.append(((np.arange(count) + 0.5) * n_labels / count).astype(np.int64))
        return labels[np.ix_(*lines)]

    def draw(self, rng: np.random.Generator, fine: Labels, config: PromptConfig) -> None:
        """Draws one object, its box and its point; the whole image where it has no object."""
        numbers = objects_in(fine)
        if len(numbers):
            mask = fine == numbers[int(rng.integers(len(numbers)))]
        else:
            mask = np.ones(fine.shape, np.bool_)
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        box = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], np.float64)
        if rng.random() < 0.5:
            sides = np.tile(box[2:] - box[:2], 2)
            moved = box + rng.normal(0, config.box_jitter, 4) * np.minimum(sides, self._fine / 4)
            box = np.clip(moved, 0, np.tile(fine.shape[::-1], 2))
        kind = rng.random()
        if kind < config.center_share:
            x, y = _deepest(mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])
            x, y = x + columns[0], y + rows[0]
        elif kind < config.center_share + config.box_center_share:
            x, y = (columns[0] + columns[-1]) / 2, (rows[0] + rows[-1]) / 2
        else:
            inside = np.flatnonzero(mask)
            y, x = divmod(int(inside[int(rng.integers(len(inside)))]), mask.shape[1])
        self._boxes.append(box * self._scale)
        self._points.append((np.array([x, y]) + 0.5) * self._scale - 0.5)
        padded = np.zeros((self._fine, self._fine), np.float32)
        padded[: mask.shape[0], : mask.shape[1]] = mask
        blocks = padded.reshape(self._cells, _LABELS_PER_CELL, self._cells, _LABELS_PER_CELL)
        self._targets.append(blocks.mean(axis=(1, 3)))

    def boxes(self) -> Tensor:
        return torch.from_numpy(np.array(self._boxes, np.float32))

    def points(self) -> Tensor:
        return torch.from_numpy(np.array(self._points, np.float32))[:, None]

    def targets(self) -> Tensor:
        return torch.from_numpy(np.stack(self._targets))[:, None]


def _deepest(mask: npt.NDArray[np.bool_]) -> tuple[int, int]:
    """The pixel (x, y) farthest from the outside."""
    from scipy import ndimage

    distances = ndimage.distance_transform_edt(np.pad(mask, 1))
    y, x = np.unravel_index(int(np.argmax(distances)), distances.shape)
    return int(x) - 1, int(y) - 1
