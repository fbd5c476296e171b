"""Losses of distillation and of training from scratch.

Every loss is a mean over images or prompts of values that depend on no other image or prompt. The
mean over two halves of a batch is therefore the loss of the whole batch, so that processes can
share a batch and micro-batches can be accumulated.

Losses of masks take logits (N, M, g, g), targets (N, 1, g, g) or (N, M, g, g) in [0, 1], and
`valid` (N, 1, g, g), which is 1 where a cell covers the image and 0 in the padding.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mobilesam.distillation.batches import Batch
from mobilesam.distillation.prompts import DecoderOutput
from mobilesam.distillation.train_config import LossConfig

_PADDING = -1
# Two cells are predicted to belong to one object if the cosine of their identity channels is above
# the threshold; the scale turns a difference of 0.3 into odds of 36 to 1.
_SCALE = 12.0
_THRESHOLD = 0.5
# A third of the channels are identity channels. They come first; colour channels come last.
_IDENTITY_SHARE = 3
# Surroundings of an object: its bounding box, widened by a share of its sides and by cells.
_SURROUNDINGS_SHARE = 0.3
_SURROUNDINGS_CELLS = 2
_MIN_WEIGHT = 1e-6  # keeps the mean of an empty set at 0
# Labels a side of a cell of an ideal embedding, and the noise on its identity channels.
_IDEAL_LABELS = 4
_IDEAL_NOISE = 0.3


@dataclass(frozen=True, slots=True, eq=False)
class Loss:
    """A scalar with gradients, and the values of its terms for the log."""

    total: Tensor
    parts: dict[str, float]


def masked_mse(student: Tensor, teacher: Tensor, valid: Tensor) -> Tensor:
    """Mean squared error of (B, C, h, w) embeddings over cells with `valid` (B, 1, h, w)."""
    error = (student.float() - teacher.float()).square().mean(dim=1, keepdim=True)
    return ((error * valid).sum((1, 2, 3)) / valid.sum((1, 2, 3))).mean()


def masked_cosine(student: Tensor, teacher: Tensor, valid: Tensor) -> Tensor:
    """One minus the cosine between the embeddings of each cell; arguments as in `masked_mse`."""
    far = 1 - F.cosine_similarity(student.float(), teacher.float(), dim=1)[:, None]
    return ((far * valid).sum((1, 2, 3)) / valid.sum((1, 2, 3))).mean()


def focal(logits: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """(N, M) focal loss (gamma 2, no class weight) of each mask."""
    target = target.expand_as(logits)
    entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    wrong = (torch.sigmoid(logits) - target).square()
    return (wrong * entropy * valid).sum((2, 3)) / valid.sum((2, 3))


def cross_entropy(logits: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """(N, M) binary cross-entropy of each mask."""
    target = target.expand_as(logits)
    entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return (entropy * valid).sum((2, 3)) / valid.sum((2, 3))


def dice(logits: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """(N, M) Dice loss of each mask."""
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


def _mask_terms(logits: Tensor, target: Tensor, valid: Tensor, config: LossConfig) -> Tensor:
    """(N, M) weighted sum of focal, dice and cross-entropy loss of each mask."""
    terms = ((config.focal, focal), (config.dice, dice), (config.cross_entropy, cross_entropy))
    total = logits.new_zeros(logits.shape[:2])
    for weight, term in terms:
        if weight:
            total = total + weight * term(logits, target, valid)
    return total


def mask_loss(
    logits: Tensor, qualities: Tensor, target: Tensor, valid: Tensor, config: LossConfig
) -> Loss:
    """SAM's loss of the decoder's four masks and their (N, 4) predicted IoUs (SAM, section 3).

    The single mask is first. Of the three candidates only the best one contributes, unless
    `config.candidates` is set.
    """
    each = _mask_terms(logits, target, valid, config)
    masks = (each[:, 0] + each[:, 1:].min(dim=1).values).mean()
    masks = masks + config.candidates * each[:, 1:].mean()
    with torch.no_grad():
        found = iou(logits, target, valid)
    quality = (qualities - found).square().mean()
    parts = {
        "masks": float(masks.detach()),
        "quality": float(quality.detach()),
        "iou": float(found[:, 0].mean()),
        "iou_best": float(found[:, 1:].max(dim=1).values.mean()),
    }
    return Loss(masks + config.quality * quality, parts)


def imitation_loss(
    student: DecoderOutput, teacher: DecoderOutput, valid: Tensor, config: LossConfig
) -> Loss:
    """Loss of each of the student's four masks against the teacher's mask of the same index."""
    target = (teacher.logits > 0).float()
    masks = _mask_terms(student.logits, target, valid, config).mean()
    quality = (student.qualities - teacher.qualities).square().mean()
    with torch.no_grad():
        agreement = iou(student.logits, target, valid)
    parts = {
        "masks": float(masks.detach()),
        "quality": float(quality.detach()),
        "agreement": float(agreement[:, 0].mean()),
    }
    return Loss(masks + config.quality * quality, parts)


def object_ids(batch: Batch, cells: int) -> Tensor:
    """(B, cells, cells) int64 object id at each cell centre; 0 is background, -1 padding."""
    side_px = batch.images.shape[-1]
    ids = torch.full((len(batch), cells, cells), _PADDING)
    for row, (labels, inner_hw) in enumerate(zip(batch.labels, batch.inner_hw, strict=True)):
        if labels is None:
            continue
        lines = []
        for length, n_labels in zip(inner_hw, labels.shape, strict=True):
            centres = np.arange(cells * length // side_px) + 0.5
            lines.append((centres * side_px / cells * n_labels / length).astype(np.int64))
        sampled = labels[np.ix_(*lines)].astype(np.int64)
        ids[row, : sampled.shape[0], : sampled.shape[1]] = torch.from_numpy(sampled)
    return ids


def n_identity_channels(n_channels: int) -> int:
    """Number of channels of an embedding that tell objects apart: the first third."""
    return max(1, n_channels // _IDENTITY_SHARE)


def _identities(values: Tensor, dim: int) -> Tensor:
    """Identity channels at unit length."""
    identities = values.narrow(dim, 0, n_identity_channels(values.shape[dim]))
    return F.normalize(identities.float(), dim=dim)


def _balanced_entropy(logits: Tensor, inside: Tensor, outside: Tensor) -> Tensor:
    """Cross-entropy over the last dimension with equal weight of both classes."""
    entropy = F.softplus(logits)
    halves = [
        (each * weight).sum(-1) / weight.sum(-1).clamp(min=_MIN_WEIGHT)
        for each, weight in ((entropy - logits, inside), (entropy, outside))
    ]
    return (halves[0] + halves[1]).mean() / 2


def affinity_loss(embeddings: Tensor, ids: Tensor) -> Tensor:
    """Cross-entropy of "two cells show one object", predicted by the cosine of their channels.

    Pairs consist of a cell of an object and any cell of the same image; pairs of equal and of
    different objects have equal weight. Unlike a mask loss, it covers all objects of an image at
    once and needs no decoder. Embeddings are (B, C, h, w), `ids` (B, h, w) from `object_ids`.
    """
    ids = ids.flatten(1).to(embeddings.device)
    identities = _identities(embeddings.flatten(2), dim=1)
    logits = _SCALE * (identities.transpose(1, 2) @ identities - _THRESHOLD)
    same = (ids[:, :, None] == ids[:, None, :]).float()
    used = ((ids[:, :, None] > 0) & (ids[:, None, :] != _PADDING)).float()
    pairs = (used * same, used * (1 - same))
    return _balanced_entropy(logits.flatten(1), *(weight.flatten(1) for weight in pairs))


def prototype_loss(features: Tensor, batch: Batch, config: LossConfig) -> Tensor:
    """Mask loss of all objects, each segmented by its prototype, the mean of its own cells.

    It works at the resolution of the logits, on (B, c, g, g) features after the decoder's
    upsampling, where `affinity_loss` works on embedding cells, and weights an error by the size of
    its object, as mask losses do. An image without objects counts 0.
    """
    losses = []
    all_ids = object_ids(batch, features.shape[-1]).to(features.device)
    for channels, ids in zip(F.normalize(features.float(), dim=1), all_ids[:, None], strict=True):
        numbers = torch.unique(ids[ids > 0])
        if not len(numbers):
            losses.append(channels.sum() * 0)
            continue
        masks = (ids == numbers[:, None, None]).float()
        prototypes = F.normalize(torch.einsum("cyx,nyx->nc", channels, masks), dim=1)
        logits = _SCALE * (torch.einsum("cyx,nc->nyx", channels, prototypes) - _THRESHOLD)
        valid = (ids != _PADDING).float()
        loss = _mask_terms(logits[:, None], masks[:, None], valid[None], config).mean()
        if config.surroundings:
            near = _surroundings(masks) * valid
            inside, outside = ((share * near).flatten(1) for share in (masks, 1 - masks))
            entropy = _balanced_entropy(logits.flatten(1), inside, outside)
            loss = loss + config.surroundings * entropy
        losses.append(loss)
    return torch.stack(losses).mean()


def _surroundings(masks: Tensor) -> Tensor:
    """(N, g, g): 1 in the widened bounding box of each mask."""
    spans = []
    for along in (1, 2):
        touched = masks.amax(dim=along) > 0
        places = torch.arange(touched.shape[1], device=masks.device)
        first = torch.where(touched, places, touched.shape[1]).amin(dim=1, keepdim=True)
        last = torch.where(touched, places, -1).amax(dim=1, keepdim=True)
        margin = _SURROUNDINGS_SHARE * (last - first + 1) + _SURROUNDINGS_CELLS
        spans.append((places >= first - margin) & (places <= last + margin))
    columns, rows = spans
    return (rows[:, :, None] & columns[:, None, :]).float()


def token_affinity_loss(
    embeddings: Tensor, image_index: Tensor, tokens: Tensor, shares: Tensor, valid: Tensor
) -> Tensor:
    """Cross-entropy of "this cell shows the prompted object", predicted by each mask token.

    It trains the token's attention to find its object, where a mask loss alone has a plateau: as
    long as no token finds its object, a blob around the prompt is the best mask.

    Embeddings are (B, C, h, w), tokens (N, M, C) of prompts on the images `image_index` (N,), and
    `shares` (N, 1, k * h, k * w) the share of each logit cell that the object covers.
    """
    factor = shares.shape[-1] // embeddings.shape[-1]
    inside = F.avg_pool2d(shares * valid, factor).flatten(2)
    outside = F.avg_pool2d((1 - shares) * valid, factor).flatten(2)
    identities = _identities(embeddings.flatten(2), dim=1)[image_index]
    logits = _SCALE * (_identities(tokens, dim=2) @ identities - _THRESHOLD)
    return _balanced_entropy(logits, inside, outside)


def ideal_embeddings(batch: Batch, n_channels: int, cells: int) -> Tensor:
    """(B, C, cells, cells) embeddings that separate all objects, to train a decoder before them.

    Identity channels hold a random direction for each object of each image, mixed in cells that
    show several objects. The other channels are noise. All are layer-normalised, as the last layer
    of an encoder does.
    """
    n_identity = n_identity_channels(n_channels)
    found = []
    for ids, rng in zip(object_ids(batch, cells * _IDEAL_LABELS), batch.generators, strict=True):
        objects = F.one_hot(ids + 1).permute(2, 0, 1).float()[1:]
        shares = F.avg_pool2d(objects[None], _IDEAL_LABELS)[0]
        directions = torch.from_numpy(rng.normal(size=(len(objects), n_identity))).float()
        noise = torch.from_numpy(rng.normal(size=(n_channels, cells, cells))).float()
        mixed = torch.tensordot(directions.T, shares, 1)
        noise[:n_identity] = _IDEAL_NOISE * noise[:n_identity] + mixed
        found.append(noise)
    normalised = F.layer_norm(torch.stack(found).permute(0, 2, 3, 1), (n_channels,))
    return normalised.permute(0, 3, 1, 2).to(batch.images.device)
