"""Losses, each the mean over images or prompts of a value that no other image or prompt changes.

So the mean of two halves of a batch is the value of the whole, which is what lets processes share a
batch and small batches add up to a large one.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def masked_mse(student: Tensor, teacher: Tensor, valid: Tensor) -> Tensor:
    """Mean squared error between embeddings, the padding left out.

    Args:
        student: (B, C, h, w).
        teacher: (B, C, h, w).
        valid: (B, 1, h, w), 1 where the image is.

    Returns:
        Scalar: the mean over images of the mean over valid cells and channels.
    """
    error = (student.float() - teacher.float()).square().mean(dim=1, keepdim=True)
    return ((error * valid).sum((1, 2, 3)) / valid.sum((1, 2, 3))).mean()


def masked_cosine(student: Tensor, teacher: Tensor, valid: Tensor) -> Tensor:
    """One minus the cosine between the embeddings of a cell, the padding left out."""
    far = 1 - F.cosine_similarity(student.float(), teacher.float(), dim=1)[:, None]
    return ((far * valid).sum((1, 2, 3)) / valid.sum((1, 2, 3))).mean()


def focal(logits: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """Focal loss (gamma 2, no class weight) of each mask; the target may be a share in [0, 1].

    Args:
        logits: (N, M, g, g).
        target: (N, 1, g, g).
        valid: (N, 1, g, g).

    Returns:
        (N, M).
    """
    target = target.expand_as(logits)
    entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    wrong = (torch.sigmoid(logits) - target).square()
    return (wrong * entropy * valid).sum((2, 3)) / valid.sum((2, 3))


def cross_entropy(logits: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """Binary cross-entropy of each mask; shapes as in `focal`."""
    target = target.expand_as(logits)
    entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return (entropy * valid).sum((2, 3)) / valid.sum((2, 3))


def dice(logits: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """Dice loss of each mask; shapes as in `focal`."""
    share = torch.sigmoid(logits) * valid
    both = (share * target).sum((2, 3))
    return 1 - (2 * both + 1) / (share.sum((2, 3)) + (target * valid).sum((2, 3)) + 1)


def iou(logits: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """(N, M) IoU of thresholded masks; 1 where both are empty."""
    found = (logits > 0) & (valid > 0)
    wanted = (target > 0.5) & (valid > 0)
    union = (found | wanted).sum((2, 3))
    both = (found & wanted).sum((2, 3))
    return torch.where(
        union > 0, both / union.clamp(min=1), torch.ones_like(both, dtype=torch.float32)
    )
