"""Prompts: drawn objects, corrections, decoding of a batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from small_models import SIDE_PX
from small_training import CELLS, batch, teacher

from mobilesam.distillation.prompts import (
    PromptBatch,
    add_correction_clicks,
    decode,
    draw_prompts,
)
from mobilesam.distillation.train_config import PromptConfig


def test_drawn_prompts_match_their_objects() -> None:
    found = batch(4)
    config = PromptConfig(objects_per_image=3, box_jitter=0.0)
    drawn = draw_prompts(found, config, CELLS)
    assert drawn.targets is not None
    n = 4 * 3
    assert drawn.prompts.boxes.shape == (n, 4)
    assert drawn.prompts.points.shape == (2 * n, 1, 2)
    assert torch.equal(drawn.prompts.image_index[:n], drawn.prompts.image_index[n:])
    scale = CELLS / SIDE_PX
    for row in range(n):
        target = drawn.targets[n + row, 0]
        x, y = ((drawn.prompts.points[n + row, 0] + 0.5) * scale).tolist()
        assert target[int(y), int(x)] > 0
        rows, columns = torch.nonzero(target.any(1))[:, 0], torch.nonzero(target.any(0))[:, 0]
        left, top, right, bottom = (drawn.prompts.boxes[row] * scale).tolist()
        assert abs(left - columns[0]) <= 1
        assert abs(right - columns[-1] - 1) <= 1
        assert abs(top - rows[0]) <= 1
        assert abs(bottom - rows[-1] - 1) <= 1


def test_points_at_box_centres() -> None:
    config = PromptConfig(
        objects_per_image=3, box_jitter=0.0, center_share=0.0, box_center_share=1.0
    )
    prompts = draw_prompts(batch(4), config, CELLS).prompts
    left_top, right_bottom = prompts.boxes[:, :2], prompts.boxes[:, 2:]
    middles = (left_top + right_bottom) / 2 - 0.5
    assert torch.allclose(prompts.points[len(middles) :, 0], middles, atol=1e-4)
    mixed = PromptConfig(objects_per_image=8, box_jitter=0.0, center_share=0, box_center_share=0.5)
    points = draw_prompts(batch(4), mixed, CELLS).prompts
    middles = (points.boxes[:, :2] + points.boxes[:, 2:]) / 2 - 0.5
    n_middles = ((points.points[len(middles) :, 0] - middles).abs().amax(dim=1) < 1e-4).sum()
    assert 0.2 * len(middles) < n_middles < 0.8 * len(middles)
    with pytest.raises(ValidationError, match="more than 1 together"):
        PromptConfig(center_share=0.6, box_center_share=0.5)


def test_images_without_labels_get_random_points() -> None:
    found = batch(4, labelled=False)
    drawn = draw_prompts(found, PromptConfig(objects_per_image=5), CELLS)
    assert drawn.targets is None
    assert len(drawn.prompts.boxes) == 0
    for row, (point,) in enumerate(drawn.prompts.points):
        height, width = found.inner_hw[row // 5]
        assert 0 <= point[0] <= width - 1
        assert 0 <= point[1] <= height - 1


def test_correction_clicks_are_in_wrong_cells() -> None:
    found = batch(2)
    drawn = draw_prompts(found, PromptConfig(objects_per_image=1), CELLS)
    assert drawn.targets is not None
    nothing = torch.full((4, CELLS, CELLS), -5.0)
    again = add_correction_clicks(drawn, nothing, drawn.targets, SIDE_PX, np.random.default_rng(0))
    assert again.labels[:, 1].tolist() == [1.0] * 4
    perfect = (drawn.targets[:, 0] - 0.5) * 10
    again = add_correction_clicks(drawn, perfect, drawn.targets, SIDE_PX, np.random.default_rng(0))
    assert again.labels[:, 1].tolist() == [-1.0] * 4
    model = teacher()
    logits = decode(model, model.image_encoder(found.images), again).logits
    assert torch.isfinite(logits).all()


def test_decode_equals_segment_anything() -> None:
    model = teacher()
    images = batch(2).images
    embeddings = model.image_encoder(images)
    boxes = torch.tensor([[5.0, 6, 40, 30], [2, 3, 20, 44]])
    points = torch.tensor([[[9.0, 9]], [[30, 20]]])
    prompts = PromptBatch(
        torch.tensor([0, 1, 1, 0]),
        boxes,
        torch.cat([torch.zeros(2, 1, 2), points]),
        torch.ones(4, 1),
    )
    answers = decode(model, embeddings, prompts)
    logits, qualities = answers.logits, answers.qualities
    asked = [
        (0, None, boxes[:1]),
        (1, None, boxes[1:]),
        (1, points[:1], None),
        (0, points[1:], None),
    ]
    for row, (image, point, box) in enumerate(asked):
        given = None if point is None else (point, torch.ones(1, 1))
        sparse, dense = model.prompt_encoder(points=given, boxes=box, masks=None)
        wanted, quality = model.mask_decoder.predict_masks(
            image_embeddings=embeddings[image : image + 1],
            image_pe=model.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
        )
        torch.testing.assert_close(logits[row], wanted[0])
        torch.testing.assert_close(qualities[row], quality[0])
