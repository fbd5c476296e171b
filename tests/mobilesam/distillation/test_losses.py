"""Losses of embeddings, masks and objects."""

from __future__ import annotations

from dataclasses import replace

import torch
from small_models import SIDE_PX
from small_training import CELLS, batch

from mobilesam.distillation.losses import (
    affinity_loss,
    cross_entropy,
    dice,
    focal,
    ideal_embeddings,
    iou,
    mask_loss,
    masked_cosine,
    masked_mse,
    object_ids,
    prototype_loss,
    token_affinity_loss,
)
from mobilesam.distillation.train_config import LossConfig

MASKS = LossConfig(focal=0, cross_entropy=0.3)


def test_masked_losses_ignore_padding() -> None:
    first, second = torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 4, 4)
    valid = torch.zeros(2, 1, 4, 4)
    valid[:, :, :2] = 1
    second[:, :, 2:] = 100
    assert masked_mse(first, second, valid) == 0
    second[:, :, :2] = 2
    assert masked_mse(first, second, valid) == 4
    same = torch.ones(2, 3, 4, 4)
    other = same.clone()
    other[:, :, 2:] = -1
    assert masked_cosine(same, other, valid).abs() < 1e-6


def test_mask_losses_decrease_towards_the_target() -> None:
    target = torch.zeros(1, 1, 8, 8)
    target[..., :4] = 1
    valid = torch.ones(1, 1, 8, 8)
    right = (target - 0.5) * 20
    for loss in (focal, dice, cross_entropy):
        values = [float(loss(logits, target, valid)) for logits in (-right, 0 * right, right)]
        assert values[0] > values[1] > values[2]
        assert values[2] < 0.01
    assert iou(right, target, valid) == 1
    assert iou(-right, target, valid) == 0
    assert iou(torch.full_like(target, -1), 0 * target, valid) == 1


def test_focal_loss_of_half_covered_cells() -> None:
    target, valid = torch.full((1, 1, 2, 2), 0.5), torch.ones(1, 1, 2, 2)
    values = [float(focal(torch.full((1, 1, 2, 2), x), target, valid)) for x in (-1.0, 0.0, 1.0)]
    assert values[1] < min(values[0], values[2])


def test_best_candidate_or_all_contribute() -> None:
    logits = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    target, valid = torch.zeros(2, 1, 8, 8), torch.ones(2, 1, 8, 8)
    target[..., :4] = 1

    def learning_masks(candidates: float) -> list[int]:
        found = logits.clone().requires_grad_()
        config = MASKS.model_copy(update={"candidates": candidates})
        mask_loss(found, torch.zeros(2, 4), target, valid, config).total.backward()
        assert found.grad is not None
        return (found.grad.abs().sum(dim=(2, 3)) > 0).sum(dim=1).tolist()

    assert learning_masks(0) == [2, 2]
    assert learning_masks(1) == [4, 4]


def test_object_ids_are_labels_at_cell_centres() -> None:
    found = batch(4)
    cells = SIDE_PX // 8
    ids = object_ids(found, cells)
    for row, labels in enumerate(found.labels):
        height, width = (side // 8 for side in found.inner_hw[row])
        assert (ids[row, height:] == -1).all()
        assert (ids[row, :, width:] == -1).all()
        factor = labels.shape[0] // found.inner_hw[row][0]
        for y in range(height):
            for x in range(width):
                middle = labels[int((y + 0.5) * 8 * factor), int((x + 0.5) * 8 * factor)]
                assert ids[row, y, x] == middle
    assert (object_ids(batch(2, labelled=False), cells) == -1).all()


def test_affinity_loss_is_low_for_separated_objects() -> None:
    ids = torch.zeros(2, 4, 4, dtype=torch.int64)
    ids[:, :2, :2], ids[:, 2:, 2:], ids[:, 3] = 1, 2, -1
    directions = torch.eye(9)
    apart = directions[ids.clamp(min=0)].permute(0, 3, 1, 2)
    alike = torch.ones_like(apart)
    assert affinity_loss(apart, ids) < 0.01 < affinity_loss(alike, ids)
    # What lies in the padding, and in the channels that are not read, changes nothing.
    other = apart.clone()
    other[:, :, 3], other[:, 3:] = 7, -5
    assert affinity_loss(other, ids) == affinity_loss(apart, ids)
    assert affinity_loss(apart, torch.zeros_like(ids)) == 0


def test_affinity_loss_is_a_mean_over_images() -> None:
    generator = torch.Generator().manual_seed(0)
    embeddings = torch.randn(4, 6, 4, 4, generator=generator)
    ids = torch.randint(-1, 3, (4, 4, 4), generator=generator)
    halves = (affinity_loss(embeddings[:2], ids[:2]) + affinity_loss(embeddings[2:], ids[2:])) / 2
    assert torch.allclose(affinity_loss(embeddings, ids), halves)


def test_token_affinity_loss_is_low_for_matching_tokens() -> None:
    ids = torch.zeros(2, 4, 4, dtype=torch.int64)
    ids[:, :2, :2], ids[:, 2:, 2:] = 1, 2
    directions = torch.eye(9)
    embeddings = directions[ids].permute(0, 3, 1, 2)
    fine = ids.repeat_interleave(4, 1).repeat_interleave(4, 2)[:, None]
    shares = (fine == torch.tensor([1, 2]).view(2, 1, 1, 1)).float()
    valid = torch.ones_like(shares)
    each = torch.arange(2)
    right = directions[[1, 2]][:, None].repeat(1, 4, 1)
    found = token_affinity_loss(embeddings, each, right, shares, valid)
    assert found < 0.01 < token_affinity_loss(embeddings, each, right.flip(0), shares, valid)
    # What lies in the padding changes nothing, nor do channels that are not read.
    valid[:, :, :, 12:] = 0
    padded, other = token_affinity_loss(embeddings, each, right, shares, valid), embeddings.clone()
    other[..., 3], other[:, 3:] = 7, -5
    assert torch.allclose(token_affinity_loss(other, each, right, shares, valid), padded)
    halves = [
        token_affinity_loss(embeddings, each[i:][:1], right[i:][:1], shares[i:][:1], valid[i:][:1])
        for i in (0, 1)
    ]
    assert torch.allclose(sum(halves) / 2, padded)


def test_token_affinity_loss_of_small_objects_is_finite() -> None:
    embeddings = torch.randn(1, 6, 4, 4, generator=torch.Generator().manual_seed(0))
    tokens = torch.ones(1, 4, 6, requires_grad=True)
    shares = torch.zeros(1, 1, 16, 16)
    shares[..., 3, 3] = 0.2
    for target in (shares, torch.zeros_like(shares), torch.ones_like(shares)):
        found = token_affinity_loss(
            embeddings, torch.tensor([0]), tokens, target, torch.ones_like(shares)
        )
        found.backward()
        assert torch.isfinite(found)
        assert tokens.grad is not None
        assert torch.isfinite(tokens.grad).all()


def test_ideal_embeddings_separate_objects() -> None:
    found = batch(4)
    cells = SIDE_PX // 8
    embedding = ideal_embeddings(found, 96, cells)
    assert embedding.shape == (4, 96, cells, cells)
    assert torch.allclose(embedding.mean(1), torch.zeros(4, cells, cells), atol=1e-5)
    assert torch.allclose(embedding.var(1, unbiased=False), torch.ones(4, cells, cells), atol=1e-2)
    ids = object_ids(found, cells)
    generator = torch.Generator().manual_seed(0)
    anything = torch.randn(embedding.shape, generator=generator)
    assert affinity_loss(embedding, ids) < 0.5 * affinity_loss(anything, ids)


def test_prototype_loss_is_low_for_separated_objects() -> None:
    ids = object_ids(batch(4), CELLS)
    apart = torch.eye(int(ids.max()) + 1)[ids.clamp(min=0)].permute(0, 3, 1, 2)
    assert (
        prototype_loss(apart, batch(4), MASKS)
        < 0.02
        < prototype_loss(torch.ones_like(apart), batch(4), MASKS)
    )
    # What lies in the padding changes nothing.
    other = torch.where((ids == -1)[:, None], 5.0, apart)
    assert torch.allclose(
        prototype_loss(other, batch(4), MASKS), prototype_loss(apart, batch(4), MASKS)
    )
    assert prototype_loss(apart, batch(4, labelled=False), MASKS) == 0


def test_surroundings_ignore_distant_cells() -> None:
    shown = batch(1)
    ids = object_ids(shown, CELLS)
    apart = torch.eye(int(ids.max()) + 1)[ids.clamp(min=0)].permute(0, 3, 1, 2).clone()
    rows, columns = torch.where(ids[0] > 0)
    config = LossConfig(focal=0, dice=0, surroundings=1)
    usual = prototype_loss(apart, shown, config)
    # A cell of the ground that looks like an object: beside one, and as far from all as can be.
    distance = torch.cdist(
        torch.nonzero(ids[0] == 0).float(), torch.stack([rows, columns], dim=1).float()
    ).amin(dim=1)
    ground = torch.nonzero(ids[0] == 0)
    changed = {}
    for name, place in (("near", ground[distance.argmin()]), ("far", ground[distance.argmax()])):
        other = apart.clone()
        y, x = place.tolist()
        other[0, :, y, x] = torch.eye(apart.shape[1])[1]
        changed[name] = prototype_loss(other, shown, config)
    assert distance.max() > 10
    assert changed["far"] == usual
    assert changed["near"] > usual


def test_prototype_loss_is_a_mean_over_images() -> None:
    features = torch.randn(4, 6, CELLS, CELLS, generator=torch.Generator().manual_seed(0))
    whole = batch(4)
    each = []
    for row in range(4):
        fields = ("images", "inner_hw", "keys", "labels", "generators")
        one = replace(whole, **{name: getattr(whole, name)[row : row + 1] for name in fields})
        each.append(prototype_loss(features[row : row + 1], one, MASKS))
    assert torch.allclose(prototype_loss(features, whole, MASKS), torch.stack(each).mean())
