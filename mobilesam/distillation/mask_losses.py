"""The loss of a decoder's four masks: SAM's, with gradients to whatever is trained."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mobilesam.distillation import losses
from mobilesam.distillation.config import LossConfig


@dataclass(frozen=True, slots=True, eq=False)
class MaskLoss:
    """A scalar to go down, and what it was made of.

    Attributes:
        total: With gradients.
        parts: Plain numbers for the log.
    """

    total: Tensor
    parts: dict[str, float]


def mask_loss(
    logits: Tensor, qualities: Tensor, target: Tensor, valid: Tensor, config: LossConfig
) -> MaskLoss:
    """Loss of the single mask and of the best of three, or of all three; error of the qualities.

    Args:
        logits: (N, 4, g, g), the single mask first.
        qualities: (N, 4) predicted IoU.
        target: (N, 1, g, g) or (N, 4, g, g) shares in [0, 1].
        valid: (N, 1, g, g).
        config: Weights of the terms.
    """
    each = mask_terms(logits, target, valid, config)
    # Of three candidates the best learns most, or all would answer alike (SAM, section 3, where it
    # alone learns; so it is here unless the settings say otherwise).
    masks = (each[:, 0] + each[:, 1:].min(dim=1).values).mean()
    masks = masks + config.candidates * each[:, 1:].mean()
    with torch.no_grad():
        found = losses.iou(logits, target, valid)
    quality = (qualities - found).square().mean()
    parts = {
        "masks": float(masks.detach()),
        "quality": float(quality.detach()),
        "iou": float(found[:, 0].mean()),
        "iou_best": float(found[:, 1:].max(dim=1).values.mean()),
    }
    return MaskLoss(masks + config.quality * quality, parts)


def imitation_loss(
    logits: Tensor,
    qualities: Tensor,
    truth: Tensor,
    worth: Tensor,
    valid: Tensor,
    config: LossConfig,
) -> MaskLoss:
    """Focal and dice loss of each of four masks against the teacher's of the same place.

    Args:
        logits: (N, 4, g, g) of the student.
        qualities: (N, 4) that the student predicts.
        truth: (N, 4, g, g) logits of the teacher; above 0 belongs to its mask.
        worth: (N, 4) that the teacher predicts.
        valid: (N, 1, g, g).
        config: Weights of the terms.
    """
    target = (truth > 0).float()
    each = mask_terms(logits, target, valid, config)
    masks = each.mean()
    quality = (qualities - worth).square().mean()
    with torch.no_grad():
        agreement = losses.iou(logits, target, valid)
    parts = {
        "masks": float(masks.detach()),
        "quality": float(quality.detach()),
        "agreement": float(agreement[:, 0].mean()),
    }
    return MaskLoss(masks + config.quality * quality, parts)


def mask_terms(logits: Tensor, target: Tensor, valid: Tensor, config: LossConfig) -> Tensor:
    """The weighted terms of each mask; one that weighs nothing is not computed.

    Args:
        logits: (N, M, g, g).
        target: (N, 1, g, g) or (N, M, g, g) shares in [0, 1].
        valid: (N, 1, g, g).
        config: Weights of the terms.

    Returns:
        (N, M).
    """
    terms = (
        (config.focal, losses.focal),
        (config.dice, losses.dice),
        (config.cross_entropy, losses.cross_entropy),
    )
    total = logits.new_zeros(logits.shape[:2])
    for weight, term in terms:
        if weight:
            total = total + weight * term(logits, target, valid)
    return total
