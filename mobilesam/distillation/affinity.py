"""What belongs together, asked of the embedding itself: a dense term for training from scratch.

A mask loss reaches the encoder through a decoder that at first knows nothing, and speaks of a few
objects of an image. This term speaks of all of them at once, and costs no decoder.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mobilesam.distillation.batches import Batch
from mobilesam.distillation.config import LossConfig
from mobilesam.distillation.mask_losses import mask_terms

_PADDING = -1
# Cells count as one object's where the cosine of their channels is above a half; the scale makes
# a difference of 0.3 a matter of course (odds of 36 to 1).
_SCALE = 12.0
_THRESHOLD = 0.5
# A third of the channels carries it, counting colours: they are first, so that none of them is one.
# The rest is free for what else a decoder needs.
_CHANNEL_SHARE = 3
# How far around an object its surroundings reach, in its own sides and in cells beyond that.
_NEAR_SHARE = 0.3
_NEAR_CELLS = 2
# Keeps the mean over nothing at 0.
_LEAST_WEIGHT = 1e-6
# Labels a side of a cell of an ideal embedding, and the noise upon the name that it gives.
_IDEAL_SHARES = 4
_IDEAL_NOISE = 0.3


def owners(batch: Batch, cells: int) -> Tensor:
    """(B, cells, cells) int64: whose the middle of each cell is; 0 the ground, -1 the padding.

    Args:
        batch: With labels.
        cells: Side of the embedding.
    """
    side_px = batch.images.shape[-1]
    found = torch.full((len(batch), cells, cells), _PADDING)
    for row, (labels, inner_hw) in enumerate(zip(batch.labels, batch.inner_hw, strict=True)):
        if labels is None:
            continue
        lines = []
        for length, n_labels in zip(inner_hw, labels.shape, strict=True):
            middles = np.arange(cells * length // side_px) + 0.5
            lines.append((middles * side_px / cells * n_labels / length).astype(np.int64))
        seen = labels[np.ix_(*lines)].astype(np.int64)
        found[row, : seen.shape[0], : seen.shape[1]] = torch.from_numpy(seen)
    return found


def affinity(embeddings: Tensor, owner: Tensor) -> Tensor:
    """Cross-entropy of "these two cells are one object's" by the cosine of their channels.

    Pairs are those of a cell of an object with any cell of the image; pairs of one object and
    pairs of two things weigh equally, whatever their number.

    Args:
        embeddings: (B, C, h, w); the first third of the channels is read.
        owner: (B, h, w), see `owners`.

    Returns:
        Scalar: the mean over images; an image that shows no object counts 0.
    """
    owner = owner.flatten(1).to(embeddings.device)
    names = _names(embeddings.flatten(2), dim=1)
    logits = _SCALE * (names.transpose(1, 2) @ names - _THRESHOLD)
    same = (owner[:, :, None] == owner[:, None, :]).float()
    asked = ((owner[:, :, None] > 0) & (owner[:, None, :] != _PADDING)).float()
    pairs = (asked * same, asked * (1 - same))
    return _balanced(logits.flatten(1), *(weight.flatten(1) for weight in pairs))


def _names(values: Tensor, dim: int) -> Tensor:
    """The channels that say whose a cell is, brought to unit length."""
    return F.normalize(values.narrow(dim, 0, n_names(values.shape[dim])).float(), dim=dim)


def n_names(n_channels: int) -> int:
    """How many of an embedding's channels say whose a cell is."""
    return max(1, n_channels // _CHANNEL_SHARE)


def _balanced(logits: Tensor, inside: Tensor, outside: Tensor) -> Tensor:
    """Cross-entropy over the last dimension; both sides weigh equally, whatever their number."""
    entropy = F.softplus(logits)
    halves = [
        (each * weight).sum(-1) / weight.sum(-1).clamp(min=_LEAST_WEIGHT)
        for each, weight in ((entropy - logits, inside), (entropy, outside))
    ]
    return (halves[0] + halves[1]).mean() / 2


def prototype_loss(features: Tensor, batch: Batch, config: LossConfig) -> Tensor:
    """The mask loss of all objects, each found by the mean of its own cells.

    A cell of the embedding is large beside an object: which part of it is whose, its channels must
    say, too. So the single cells of the logits are asked, by what the best of all decoders could
    ask with: the mean of what the object's cells look like. Unlike pairs of cells, masks weigh a
    false cell the more, the smaller the object is.

    Args:
        features: (B, c, g, g), the embedding as the decoder's last layers bring it to the logits'
            size.
        batch: With labels.
        config: Weights of the terms of a mask, and of `surroundings`.

    Returns:
        Scalar: the mean over images; one that shows no object counts 0.
    """
    whose = owners(batch, features.shape[-1]).to(features.device)
    channels = F.normalize(features.float(), dim=1)
    found = [
        _of_prototypes(own, seen[None], config) for own, seen in zip(channels, whose, strict=True)
    ]
    return torch.stack(found).mean()


def _of_prototypes(channels: Tensor, whose: Tensor, config: LossConfig) -> Tensor:
    """The loss of one image: (c, g, g) of unit length, and (1, g, g)."""
    numbers = torch.unique(whose[whose > 0])
    if not len(numbers):
        return channels.sum() * 0
    masks = (whose == numbers[:, None, None]).float()
    means = F.normalize(torch.einsum("cyx,nyx->nc", channels, masks), dim=1)
    logits = _SCALE * (torch.einsum("cyx,nc->nyx", channels, means) - _THRESHOLD)
    valid = (whose != _PADDING).float()
    found = mask_terms(logits[:, None], masks[:, None], valid[None], config).mean()
    if config.surroundings:
        near = _near(masks) * valid
        inside, outside = ((share * near).flatten(1) for share in (masks, 1 - masks))
        found = found + config.surroundings * _balanced(logits.flatten(1), inside, outside)
    return found


def _near(masks: Tensor) -> Tensor:
    """(N, g, g): 1 in each mask's bounding box, widened by some of its sides."""
    spans = []
    for along in (1, 2):
        touched = masks.amax(dim=along) > 0
        places = torch.arange(touched.shape[1], device=masks.device)
        first = torch.where(touched, places, touched.shape[1]).amin(dim=1, keepdim=True)
        last = torch.where(touched, places, -1).amax(dim=1, keepdim=True)
        wider = _NEAR_SHARE * (last - first + 1) + _NEAR_CELLS
        spans.append((places >= first - wider) & (places <= last + wider))
    columns, rows = spans
    return (rows[:, :, None] & columns[:, None, :]).float()


def ideal(batch: Batch, n_channels: int, cells: int) -> Tensor:
    """What an encoder would give that tells all objects apart: for a decoder to begin with.

    The first third of the channels names whose a cell is, by a direction drawn for each thing of
    each image and mixed where a cell shows several; the rest is noise. All are scaled as the last
    layer normalisation of an encoder leaves them.

    Args:
        batch: With labels.
        n_channels: C.
        cells: Side of the embedding.

    Returns:
        (B, C, cells, cells) float32 on the device of the batch.
    """
    whose = owners(batch, cells * _IDEAL_SHARES)
    count = n_names(n_channels)
    found = []
    for seen, rng in zip(whose, batch.generators, strict=True):
        things = F.one_hot(seen + 1).permute(2, 0, 1).float()[1:]
        shares = F.avg_pool2d(things[None], _IDEAL_SHARES)[0]
        names = torch.from_numpy(rng.normal(size=(len(things), count))).float()
        noise = torch.from_numpy(rng.normal(size=(n_channels, cells, cells))).float()
        noise[:count] = _IDEAL_NOISE * noise[:count] + torch.tensordot(names.T, shares, 1)
        found.append(noise)
    stacked = torch.stack(found)
    return (
        F.layer_norm(stacked.permute(0, 2, 3, 1), (n_channels,))
        .permute(0, 3, 1, 2)
        .to(batch.images.device)
    )


def reading(
    embeddings: Tensor, image_index: Tensor, tokens: Tensor, shares: Tensor, valid: Tensor
) -> Tensor:
    """Cross-entropy of "this cell is of the object asked for" by a mask token's own channels.

    Which object is meant, a decoder learns from the place that a prompt's token looks at. The mask
    loss says nothing of that while no token has ever found its object: whatever it looks at, a blob
    around the prompt is the best answer, and training stays there for a long time. Here the token
    itself must look like the cells of its object, which pulls its attention there from the first
    step.

    Args:
        embeddings: (B, C, h, w); the first third of the channels is read.
        image_index: (N,) int64, which image each prompt is of.
        tokens: (N, M, C) mask tokens as they leave the transformer; the same channels.
        shares: (N, 1, k * h, k * w), what the object covers of each logit cell.
        valid: (N, 1, k * h, k * w), 0 in the padding.

    Returns:
        Scalar: the mean over prompts and tokens.
    """
    factor = shares.shape[-1] // embeddings.shape[-1]
    inside = F.avg_pool2d(shares * valid, factor).flatten(2)
    outside = F.avg_pool2d((1 - shares) * valid, factor).flatten(2)
    names = _names(embeddings.flatten(2), dim=1)[image_index]
    logits = _SCALE * (_names(tokens, dim=2) @ names - _THRESHOLD)
    return _balanced(logits, inside, outside)
