"""Prompts for training: drawn from label maps or at random, and decoded for a whole batch.

segment-anything's forward pass decodes the prompts of one image a call; training decodes those of
all images of a batch at once, with gradients.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage
from segment_anything.modeling import MaskDecoder, PromptEncoder, Sam
from torch import Tensor

from mobilesam.distillation.batches import Batch, Labels, object_numbers
from mobilesam.distillation.train_config import PromptConfig

_LABELS_PER_CELL = 4  # labels a side of a logit cell, so that targets are multiples of 1/16
_NOT_A_POINT = -1.0  # segment-anything's label of padding points


@dataclass(frozen=True, slots=True, eq=False)
class PromptBatch:
    """N prompts in pixels of the network's input: first those with a box, then those without."""

    image_index: Tensor  # (N,) int64, image of each prompt in the batch
    boxes: Tensor  # (A, 4) float32 xyxy of the first A prompts
    points: Tensor  # (N, K, 2) float32 xy, K possibly 0
    labels: Tensor  # (N, K) float32, 1 foreground, 0 background
    masks: Tensor | None = None  # (N, 1, g, g) float32 logits of an earlier prediction


@dataclass(frozen=True, slots=True, eq=False)
class DecoderOutput:
    """Predictions for N prompts."""

    logits: Tensor  # (N, 4, 4h, 4w) float32, the single mask first
    qualities: Tensor  # (N, 4) float32 predicted IoUs
    tokens: Tensor  # (N, 4, C) mask tokens after the transformer


def _embed_prompts(encoder: PromptEncoder, prompts: PromptBatch) -> tuple[Tensor, Tensor]:
    """Sparse (N, T, C) and dense (N, C, h, w) embeddings.

    A box counts two tokens, and points without a box get one padding token. A box with K points
    and K + 1 points without a box therefore have the same number of tokens T.
    """
    n_boxes = len(prompts.boxes)
    parts = []
    with _full_precision(prompts.points):
        if n_boxes:
            points = (prompts.points[:n_boxes, 1:], prompts.labels[:n_boxes, 1:])
            parts.append(encoder(points if points[0].shape[1] else None, prompts.boxes, None)[0])
        if n_boxes < len(prompts.points):
            points = (prompts.points[n_boxes:], prompts.labels[n_boxes:])
            parts.append(encoder(points, None, None)[0])
        sparse = torch.cat(parts)
    if prompts.masks is not None:
        return sparse, encoder.mask_downscaling(prompts.masks)
    height, width = encoder.image_embedding_size
    dense = encoder.no_mask_embed.weight.reshape(1, -1, 1, 1)
    return sparse, dense.expand(len(sparse), -1, height, width)


def _full_precision(tensor: Tensor) -> torch.autocast:
    """Disables autocast: positions need more than the eight mantissa bits of bfloat16."""
    return torch.autocast(tensor.device.type, enabled=False)


def decode(model: Sam, embeddings: Tensor, prompts: PromptBatch) -> DecoderOutput:
    """Predicts all four masks of each prompt on its image's embedding (B, C, h, w)."""
    sparse, dense = _embed_prompts(model.prompt_encoder, prompts)
    decoder: MaskDecoder = model.mask_decoder
    source = embeddings[prompts.image_index] + dense
    with _full_precision(source):
        positions = model.prompt_encoder.get_dense_pe().expand_as(source)
    own = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
    tokens = torch.cat([own[None].expand(len(sparse), -1, -1), sparse], dim=1)
    found, mixed = decoder.transformer(source, positions, tokens)
    grid = decoder.output_upscaling(mixed.transpose(1, 2).reshape(source.shape))
    masks = found[:, 1 : 1 + decoder.num_mask_tokens]
    heads = enumerate(decoder.output_hypernetworks_mlps)
    filters = torch.stack([head(masks[:, number]) for number, head in heads], dim=1)
    logits = (filters @ grid.flatten(2)).reshape(len(sparse), -1, *grid.shape[2:])
    qualities = decoder.iou_prediction_head(found[:, 0])
    return DecoderOutput(logits.float(), qualities.float(), masks)


@dataclass(frozen=True, slots=True, eq=False)
class DrawnPrompts:
    """N prompts with (N, 1, g, g) float32 targets."""

    prompts: PromptBatch
    targets: Tensor | None  # share of each logit cell that the object covers; None if unknown
    valid: Tensor  # 0 in the padding


def draw_prompts(batch: Batch, config: PromptConfig, cells: int) -> DrawnPrompts:
    """Draws a box and a point for each of some objects of each image, on the batch's device.

    If an image of the batch has no labels, points are drawn anywhere and there are no targets.
    """
    device, count = batch.images.device, config.objects_per_image
    image_index = torch.arange(len(batch), device=device).repeat_interleave(count)
    valid = batch.valid(cells)[image_index]
    known_labels = [labels for labels in batch.labels if labels is not None]
    if len(known_labels) < len(batch):
        places = [
            rng.uniform(0, 1, 2) * (width - 1, height - 1)
            for (height, width), rng in zip(batch.inner_hw, batch.generators, strict=True)
            for _ in range(count)
        ]
        points = torch.from_numpy(np.array(places, np.float32))[:, None].to(device)
        ones = torch.ones(len(points), 1, device=device)
        no_boxes = torch.zeros(0, 4, device=device)
        return DrawnPrompts(PromptBatch(image_index, no_boxes, points, ones), None, valid)
    side_px = batch.images.shape[-1]
    drawn = []
    for inner_hw, labels, rng in zip(batch.inner_hw, known_labels, batch.generators, strict=True):
        fine = _resample(labels, inner_hw, side_px, cells * _LABELS_PER_CELL)
        drawn += [_draw_object(rng, fine, config, side_px, cells) for _ in range(count)]
    boxes, points, targets = (
        torch.from_numpy(np.array(column, np.float32)).to(device)
        for column in zip(*drawn, strict=True)
    )
    # Prompts with a box have an unused point, so that all rows have equal lengths.
    points = points[:, None].repeat(2, 1, 1)
    ones = torch.ones(len(points), 1, device=device)
    prompts = PromptBatch(image_index.repeat(2), boxes, points, ones)
    return DrawnPrompts(prompts, targets[:, None].repeat(2, 1, 1, 1), valid.repeat(2, 1, 1, 1))


def add_correction_clicks(
    drawn: DrawnPrompts, logits: Tensor, targets: Tensor, side_px: int, rng: np.random.Generator
) -> PromptBatch:
    """Adds to each prompt a click in a wrong cell of its prediction, and the prediction as a mask.

    `logits` (N, g, g) are the detached predictions for the targets (N, 1, g, g).
    """
    wanted = (targets[:, 0] > 0.5).cpu()
    wrong = ((logits.cpu() > 0) != wanted) & (drawn.valid[:, 0].cpu() > 0)
    scale = side_px / logits.shape[-1]
    clicks = torch.zeros(len(logits), 1, 2)
    labels = torch.full((len(logits), 1), _NOT_A_POINT)
    for row, choices in enumerate(wrong):
        found = torch.nonzero(choices)
        if len(found):
            y, x = found[int(rng.integers(len(found)))].tolist()
            clicks[row, 0] = torch.tensor([x + 0.5, y + 0.5]) * scale - 0.5
            labels[row, 0] = float(wanted[row, y, x])
    prompts = drawn.prompts
    return PromptBatch(
        prompts.image_index,
        prompts.boxes,
        torch.cat([prompts.points, clicks.to(logits.device)], dim=1),
        torch.cat([prompts.labels, labels.to(logits.device)], dim=1),
        logits[:, None],
    )


def _resample(labels: Labels, inner_hw: tuple[int, int], side_px: int, n_fine: int) -> Labels:
    """Labels by nearest neighbour on a grid with `n_fine` labels a side, without the padding."""
    lines = []
    for length, n_labels in zip(inner_hw, labels.shape, strict=True):
        count = max(1, round(length / (side_px / n_fine)))
        lines.append(((np.arange(count) + 0.5) * n_labels / count).astype(np.int64))
    return labels[np.ix_(*lines)]


def _draw_object(
    rng: np.random.Generator, fine: Labels, config: PromptConfig, side_px: int, cells: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.float32]]:
    """Draws an object: its box (4,), a point (2,) and its share of each cell (cells, cells).

    The whole image counts as the object of an image without objects.
    """
    n_fine = cells * _LABELS_PER_CELL
    scale = side_px / n_fine
    numbers = object_numbers(fine)
    if len(numbers):
        mask = fine == numbers[int(rng.integers(len(numbers)))]
    else:
        mask = np.ones(fine.shape, np.bool_)
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    (top, bottom), (left, right) = rows[[0, -1]].tolist(), columns[[0, -1]].tolist()
    box = np.array([left, top, right + 1, bottom + 1], np.float64)
    if rng.random() < 0.5:
        sides = np.tile(box[2:] - box[:2], 2)
        moved = box + rng.normal(0, config.box_jitter, 4) * np.minimum(sides, n_fine / 4)
        box = np.clip(moved, 0, np.tile(fine.shape[::-1], 2))
    kind = rng.random()
    x: float
    y: float
    if kind < config.center_share:  # the pixel farthest from the outside
        inside = np.pad(mask[top : bottom + 1, left : right + 1], 1)
        distances = ndimage.distance_transform_edt(inside)
        row, column = np.unravel_index(int(np.argmax(distances)), distances.shape)
        x, y = int(column) - 1 + left, int(row) - 1 + top
    elif kind < config.center_share + config.box_center_share:
        x, y = (left + right) / 2, (top + bottom) / 2
    else:
        places = np.flatnonzero(mask)
        y, x = divmod(int(places[int(rng.integers(len(places)))]), mask.shape[1])
    padded = np.zeros((n_fine, n_fine), np.float32)
    padded[: mask.shape[0], : mask.shape[1]] = mask
    blocks = padded.reshape(cells, _LABELS_PER_CELL, cells, _LABELS_PER_CELL)
    point = (np.array([x, y]) + 0.5) * scale - 0.5
    return box * scale, point, blocks.mean(axis=(1, 3))
