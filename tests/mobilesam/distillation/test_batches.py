"""Batches: order of images, padding, crops, augmentation."""

from __future__ import annotations

import numpy as np
import torch
from small_models import SIDE_PX
from small_training import CELLS, Pictures, batch

from mobilesam.distillation.batches import TrainingSample, make_batch, step_indices
from mobilesam.distillation.prompts import (
    draw_prompts,
)
from mobilesam.distillation.train_config import PromptConfig


class Telling:
    """Pictures ids brightness is the number of the object: 40 a step."""

    fingerprint = "telling"

    def __len__(self) -> int:
        return 8

    def sample(self, index: int) -> TrainingSample:
        rng = np.random.default_rng(index)
        coarse = rng.integers(0, 5, (6, 8)).astype(np.uint8)
        labels = np.kron(coarse, np.ones((32, 32), np.uint8))
        grey = np.kron(coarse * 40, np.ones((16, 16), np.uint8))
        return TrainingSample(str(index), np.repeat(grey[:, :, None], 3, axis=2), labels)


def test_every_epoch_has_each_image_once_in_another_order() -> None:
    first = [index for step in range(3) for index in step_indices(12, 4, 5, step)]
    second = [index for step in range(3, 6) for index in step_indices(12, 4, 5, step)]
    assert sorted(first) == sorted(second) == list(range(12))
    assert first != second
    assert step_indices(5, 4, 0, 1) == step_indices(5, 4, 0, 1)


def test_samples_do_not_depend_on_their_batch() -> None:
    whole = batch(4, augment=True)
    alone = make_batch(Pictures(8), [2], [2], side_px=SIDE_PX, seed=0, step=0, augment=True)
    assert torch.equal(whole.images[2], alone.images[0])


def test_padding() -> None:
    found = batch(2)
    (high_h, high_w), (wide_h, wide_w) = found.inner_hw
    assert (high_h, high_w, wide_h, wide_w) == (64, 40, 48, 64)
    assert not found.images[0, :, :, high_w:].any()
    assert not found.images[1, :, wide_h:].any()
    valid = found.valid(8)
    assert valid[0, 0].sum() == 8 * 5
    assert valid[1, 0].sum() == 6 * 8


def test_targets_turn_with_the_picture() -> None:
    found = batch(8, augment=True, step=3)
    drawn = draw_prompts(found, PromptConfig(objects_per_image=1), CELLS)
    assert drawn.targets is not None
    for row, image in enumerate(found.images):
        inside = torch.nn.functional.interpolate(drawn.targets[row][None], SIDE_PX)[0, 0] > 0.9
        height, width = found.inner_hw[row]
        outside = torch.ones_like(inside)
        outside[height:], outside[:, width:] = False, False
        # An object has one colour, the ground is noise.
        assert image[:, inside].std(dim=1).max() < 0.8 * image[:, outside].std(dim=1).max()


def test_labels_are_cropped_with_the_image() -> None:
    def taken(zoom: float):
        return make_batch(
            Telling(),
            list(range(8)),
            list(range(8)),
            side_px=SIDE_PX,
            seed=0,
            step=0,
            augment=True,
            zoom=zoom,
        )

    whole, part = taken(0.0), taken(1.0)
    assert sum(torch.equal(a, b) for a, b in zip(whole.images, part.images, strict=True)) < 2
    for row, labels in enumerate(part.labels):
        height, width = part.inner_hw[row]
        assert max(height, width) == SIDE_PX
        rows = (np.arange(height) + 0.5) * labels.shape[0] / height
        columns = (np.arange(width) + 0.5) * labels.shape[1] / width
        there = labels[np.ix_(rows.astype(int), columns.astype(int))].ravel().astype(float)
        seen = part.images[row].mean(0)[:height, :width].numpy().ravel()
        # Contrast, brightness and blurred seams leave them all but proportional.
        assert np.corrcoef(there, seen)[0, 1] > 0.95


def test_small_crops_contain_an_object() -> None:
    found = batch(8, zoom=1.0, zoom_least=0.1)
    assert all(labels.any() for labels in found.labels)
    assert min(labels.size for labels in found.labels) < batch(1).labels[0].size / 10
