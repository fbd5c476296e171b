"""The parts of training: batches, prompts, losses, decoding, students."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import save_file
from small_models import HEADS, SIDE_PX, STUDENT, TEACHER
from small_training import (
    SHA256,
    Pictures,
    scheme,
    seeded,
    settings,
    student,
    teacher,
)

from mobilesam.distillation import losses
from mobilesam.distillation.affinity import affinity, ideal, owners, prototype_loss, reading
from mobilesam.distillation.batches import make_batch, step_indices
from mobilesam.distillation.config import LossConfig, PromptConfig, TrainConfig
from mobilesam.distillation.decoding import PromptBatch, decode
from mobilesam.distillation.imitation import Decoupled
from mobilesam.distillation.loop import train
from mobilesam.distillation.mask_losses import mask_loss
from mobilesam.distillation.muon import MuonAdamW, orthogonal
from mobilesam.distillation.prompting import correct, draw_prompts
from mobilesam.distillation.samples import TrainingSample
from mobilesam.distillation.schedule import learning_rate, optimizer_for
from mobilesam.distillation.schemes import DecoderFirst, Grouping, HeadsAlone
from mobilesam.distillation.students import build_student, heads_of, load_imagenet, timm_name
from mobilesam.distillation.teachers import OnlineTeacher
from mobilesam.errors import UsageError, WeightsError
from mobilesam.model.mini import build_sam_mini
from mobilesam.model.mobile_sam import build_mobile_sam, load_mobile_sam, load_sam_mini
from mobilesam.model.model_files import ModelShape, save_model
from mobilesam.model.tiny_vit import TinyViT

CELLS = 4 * SIDE_PX // 8
MASKS = LossConfig(focal=0, cross_entropy=0.3)


def batch(
    n: int = 4,
    *,
    augment: bool = False,
    step: int = 0,
    labelled: bool = True,
    **zoom: float,
):
    return make_batch(
        Pictures(8, labelled=labelled),
        list(range(n)),
        list(range(n)),
        side_px=SIDE_PX,
        seed=0,
        step=step,
        augment=augment,
        **zoom,
    )


def test_every_image_comes_once_an_epoch_and_the_order_changes() -> None:
    first = [index for step in range(3) for index in step_indices(12, 4, 5, step)]
    second = [index for step in range(3, 6) for index in step_indices(12, 4, 5, step)]
    assert sorted(first) == sorted(second) == list(range(12))
    assert first != second
    assert step_indices(5, 4, 0, 1) == step_indices(5, 4, 0, 1)


def test_a_sample_does_not_depend_on_the_others_of_its_batch() -> None:
    whole = batch(4, augment=True)
    alone = make_batch(Pictures(8), [2], [2], side_px=SIDE_PX, seed=0, step=0, augment=True)
    assert torch.equal(whole.images[2], alone.images[0])


def test_padding_is_zero_and_known() -> None:
    found = batch(2)
    (high_h, high_w), (wide_h, wide_w) = found.inner_hw
    assert (high_h, high_w, wide_h, wide_w) == (64, 40, 48, 64)
    assert not found.images[0, :, :, high_w:].any()
    assert not found.images[1, :, wide_h:].any()
    valid = found.valid(8)
    assert valid[0, 0].sum() == 8 * 5
    assert valid[1, 0].sum() == 6 * 8


def test_masked_losses_leave_the_padding_out() -> None:
    first, second = torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 4, 4)
    valid = torch.zeros(2, 1, 4, 4)
    valid[:, :, :2] = 1
    second[:, :, 2:] = 100
    assert losses.masked_mse(first, second, valid) == 0
    second[:, :, :2] = 2
    assert losses.masked_mse(first, second, valid) == 4
    same = torch.ones(2, 3, 4, 4)
    other = same.clone()
    other[:, :, 2:] = -1
    assert losses.masked_cosine(same, other, valid).abs() < 1e-6


def test_mask_losses_fall_as_masks_come_nearer() -> None:
    target = torch.zeros(1, 1, 8, 8)
    target[..., :4] = 1
    valid = torch.ones(1, 1, 8, 8)
    right = (target - 0.5) * 20
    for loss in (losses.focal, losses.dice, losses.cross_entropy):
        values = [float(loss(logits, target, valid)) for logits in (-right, 0 * right, right)]
        assert values[0] > values[1] > values[2]
        assert values[2] < 0.01
    assert losses.iou(right, target, valid) == 1
    assert losses.iou(-right, target, valid) == 0
    assert losses.iou(torch.full_like(target, -1), 0 * target, valid) == 1


def test_focal_at_half_covered_cells_is_least_at_zero() -> None:
    target, valid = torch.full((1, 1, 2, 2), 0.5), torch.ones(1, 1, 2, 2)
    values = [
        float(losses.focal(torch.full((1, 1, 2, 2), x), target, valid)) for x in (-1.0, 0.0, 1.0)
    ]
    assert values[1] < min(values[0], values[2])


def test_prompts_belong_to_their_objects() -> None:
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


def test_points_in_the_middle_of_a_box_are_there() -> None:
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


def test_of_three_candidates_the_best_learns_or_all_do() -> None:
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


class Telling:
    """Pictures whose brightness is the number of the object: 40 a step."""

    fingerprint = "telling"

    def __len__(self) -> int:
        return 8

    def sample(self, index: int) -> TrainingSample:
        rng = np.random.default_rng(index)
        coarse = rng.integers(0, 5, (6, 8)).astype(np.uint8)
        labels = np.kron(coarse, np.ones((32, 32), np.uint8))
        grey = np.kron(coarse * 40, np.ones((16, 16), np.uint8))
        return TrainingSample(str(index), np.repeat(grey[:, :, None], 3, axis=2), labels)


def test_labels_follow_the_part_that_is_shown() -> None:
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


def test_owners_are_the_labels_at_the_middles_of_the_cells() -> None:
    found = batch(4)
    cells = SIDE_PX // 8
    whose = owners(found, cells)
    for row, labels in enumerate(found.labels):
        height, width = (side // 8 for side in found.inner_hw[row])
        assert (whose[row, height:] == -1).all()
        assert (whose[row, :, width:] == -1).all()
        factor = labels.shape[0] // found.inner_hw[row][0]
        for y in range(height):
            for x in range(width):
                middle = labels[int((y + 0.5) * 8 * factor), int((x + 0.5) * 8 * factor)]
                assert whose[row, y, x] == middle
    assert (owners(batch(2, labelled=False), cells) == -1).all()


def test_affinity_is_least_where_each_object_has_a_direction_of_its_own() -> None:
    whose = torch.zeros(2, 4, 4, dtype=torch.int64)
    whose[:, :2, :2], whose[:, 2:, 2:], whose[:, 3] = 1, 2, -1
    directions = torch.eye(9)
    apart = directions[whose.clamp(min=0)].permute(0, 3, 1, 2)
    alike = torch.ones_like(apart)
    assert affinity(apart, whose) < 0.01 < affinity(alike, whose)
    # What lies in the padding, and in the channels that are not read, changes nothing.
    other = apart.clone()
    other[:, :, 3], other[:, 3:] = 7, -5
    assert affinity(other, whose) == affinity(apart, whose)
    assert affinity(apart, torch.zeros_like(whose)) == 0


def test_affinity_of_a_batch_is_the_mean_over_its_halves() -> None:
    generator = torch.Generator().manual_seed(0)
    embeddings = torch.randn(4, 6, 4, 4, generator=generator)
    whose = torch.randint(-1, 3, (4, 4, 4), generator=generator)
    halves = (affinity(embeddings[:2], whose[:2]) + affinity(embeddings[2:], whose[2:])) / 2
    assert torch.allclose(affinity(embeddings, whose), halves)


def test_reading_is_least_where_a_token_looks_like_its_object() -> None:
    whose = torch.zeros(2, 4, 4, dtype=torch.int64)
    whose[:, :2, :2], whose[:, 2:, 2:] = 1, 2
    directions = torch.eye(9)
    embeddings = directions[whose].permute(0, 3, 1, 2)
    fine = whose.repeat_interleave(4, 1).repeat_interleave(4, 2)[:, None]
    shares = (fine == torch.tensor([1, 2]).view(2, 1, 1, 1)).float()
    valid = torch.ones_like(shares)
    each = torch.arange(2)
    right = directions[[1, 2]][:, None].repeat(1, 4, 1)
    found = reading(embeddings, each, right, shares, valid)
    assert found < 0.01 < reading(embeddings, each, right.flip(0), shares, valid)
    # What lies in the padding changes nothing, nor do channels that are not read.
    valid[:, :, :, 12:] = 0
    padded, other = reading(embeddings, each, right, shares, valid), embeddings.clone()
    other[..., 3], other[:, 3:] = 7, -5
    assert torch.allclose(reading(other, each, right, shares, valid), padded)
    halves = [
        reading(embeddings, each[i:][:1], right[i:][:1], shares[i:][:1], valid[i:][:1])
        for i in (0, 1)
    ]
    assert torch.allclose(sum(halves) / 2, padded)


def test_reading_of_an_object_smaller_than_a_cell_is_finite() -> None:
    embeddings = torch.randn(1, 6, 4, 4, generator=torch.Generator().manual_seed(0))
    tokens = torch.ones(1, 4, 6, requires_grad=True)
    shares = torch.zeros(1, 1, 16, 16)
    shares[..., 3, 3] = 0.2
    for target in (shares, torch.zeros_like(shares), torch.ones_like(shares)):
        found = reading(embeddings, torch.tensor([0]), tokens, target, torch.ones_like(shares))
        found.backward()
        assert torch.isfinite(found)
        assert tokens.grad is not None
        assert torch.isfinite(tokens.grad).all()


def learning(scheme) -> set[str]:
    """Parts of the student that a step of a scheme changes."""
    scheme.loss(batch(4)).total.backward()
    named = scheme.student.named_parameters()
    return {name for name, value in named if value.grad is not None and value.grad.any()}


def test_grouping_trains_the_encoder_and_the_last_layers_of_the_decoder() -> None:
    changed = learning(Grouping(teacher(), settings()))
    last = {name for name in changed if name.startswith("mask_decoder.output_upscaling")}
    assert last
    assert changed - last
    assert all(name.startswith("image_encoder") for name in changed - last)


def test_heads_alone_learn_behind_an_encoder_that_stays() -> None:
    changed = learning(HeadsAlone(teacher(), settings()))
    assert any(name.startswith("mask_decoder.transformer") for name in changed)
    assert any(name.startswith("prompt_encoder") for name in changed)
    assert not any(name.startswith("image_encoder") for name in changed)


def test_a_decoder_that_goes_first_learns_without_the_encoder() -> None:
    changed = learning(DecoderFirst(teacher(), settings()))
    assert any(name.startswith("mask_decoder.transformer") for name in changed)
    assert any(name.startswith("prompt_encoder") for name in changed)
    assert not any(name.startswith("image_encoder") for name in changed)


def test_a_decoder_that_goes_first_sees_the_colors_of_the_cells() -> None:
    model, _ = colored()
    prompts = PromptConfig(objects_per_image=2, refine=0)
    first = DecoderFirst(model, settings(prompts=prompts))
    plain, dark = batch(2), batch(2)
    dark = replace(dark, images=dark.images * 0)
    assert first.loss(plain).parts["masks"] != first.loss(dark).parts["masks"]
    again = batch(2)
    assert first.loss(again).parts["masks"] == first.loss(batch(2)).parts["masks"]


def test_an_ideal_embedding_tells_all_objects_apart() -> None:
    found = batch(4)
    cells = SIDE_PX // 8
    embedding = ideal(found, 96, cells)
    assert embedding.shape == (4, 96, cells, cells)
    assert torch.allclose(embedding.mean(1), torch.zeros(4, cells, cells), atol=1e-5)
    assert torch.allclose(embedding.var(1, unbiased=False), torch.ones(4, cells, cells), atol=1e-2)
    whose = owners(found, cells)
    generator = torch.Generator().manual_seed(0)
    anything = torch.randn(embedding.shape, generator=generator)
    assert affinity(embedding, whose) < 0.5 * affinity(anything, whose)


def test_prototypes_are_best_where_each_object_has_a_direction_of_its_own() -> None:
    whose = owners(batch(4), CELLS)
    apart = torch.eye(int(whose.max()) + 1)[whose.clamp(min=0)].permute(0, 3, 1, 2)
    assert (
        prototype_loss(apart, batch(4), MASKS)
        < 0.02
        < prototype_loss(torch.ones_like(apart), batch(4), MASKS)
    )
    # What lies in the padding changes nothing.
    other = torch.where((whose == -1)[:, None], 5.0, apart)
    assert torch.allclose(
        prototype_loss(other, batch(4), MASKS), prototype_loss(apart, batch(4), MASKS)
    )
    assert prototype_loss(apart, batch(4, labelled=False), MASKS) == 0


def test_surroundings_count_what_is_near_an_object_and_nothing_far_from_it() -> None:
    shown = batch(1)
    whose = owners(shown, CELLS)
    apart = torch.eye(int(whose.max()) + 1)[whose.clamp(min=0)].permute(0, 3, 1, 2).clone()
    rows, columns = torch.where(whose[0] > 0)
    config = LossConfig(focal=0, dice=0, surroundings=1)
    usual = prototype_loss(apart, shown, config)
    # A cell of the ground that looks like an object: beside one, and as far from all as can be.
    distance = torch.cdist(
        torch.nonzero(whose[0] == 0).float(), torch.stack([rows, columns], dim=1).float()
    ).amin(dim=1)
    ground = torch.nonzero(whose[0] == 0)
    changed = {}
    for name, place in (("near", ground[distance.argmin()]), ("far", ground[distance.argmax()])):
        other = apart.clone()
        y, x = place.tolist()
        other[0, :, y, x] = torch.eye(apart.shape[1])[1]
        changed[name] = prototype_loss(other, shown, config)
    assert distance.max() > 10
    assert changed["far"] == usual
    assert changed["near"] > usual


def test_prototypes_of_a_batch_are_the_mean_over_its_images() -> None:
    features = torch.randn(4, 6, CELLS, CELLS, generator=torch.Generator().manual_seed(0))
    whole = batch(4)
    each = []
    for row in range(4):
        fields = ("images", "inner_hw", "keys", "labels", "generators")
        one = replace(whole, **{name: getattr(whole, name)[row : row + 1] for name in fields})
        each.append(prototype_loss(features[row : row + 1], one, MASKS))
    assert torch.allclose(prototype_loss(features, whole, MASKS), torch.stack(each).mean())


def test_a_small_window_shows_some_object() -> None:
    found = batch(8, zoom=1.0, zoom_least=0.1)
    assert all(labels.any() for labels in found.labels)
    assert min(labels.size for labels in found.labels) < batch(1).labels[0].size / 10


@pytest.mark.parametrize("shape", [(3, 8, 8), (2, 4, 12), (2, 12, 4)])
def test_orthogonal_keeps_directions_and_evens_their_lengths(shape: tuple[int, int, int]) -> None:
    given = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    found = orthogonal(given)
    left, _, right = torch.linalg.svd(given, full_matrices=False)
    inside = left.transpose(1, 2) @ found @ right.transpose(1, 2)
    values = torch.diagonal(inside, dim1=1, dim2=2)
    assert torch.allclose(inside, torch.diag_embed(values), atol=1e-4)
    assert values.min() > 0.4
    assert values.max() < 1.3


def test_orthogonal_steps_are_those_of_torch() -> None:
    generator = torch.Generator().manual_seed(0)
    ours = torch.randn(6, 4, generator=generator).requires_grad_()
    theirs = ours.detach().clone().requires_grad_()
    mine = MuonAdamW(
        [{"params": [ours], "weight_decay": 0.1, "orthogonal": True}], lr=0.1, betas=(0.9, 0.98)
    )
    other = torch.optim.Muon([theirs], lr=0.1, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    for _ in range(3):
        ours.grad = torch.randn(6, 4, generator=generator)
        theirs.grad = ours.grad.clone()
        mine.step()
        other.step()
    # Theirs orthogonalises in bfloat16.
    assert (ours - theirs).abs().max() < 0.02
    assert (ours - theirs).abs().max() < 0.1 * ours.std()


def test_orthogonal_steps_are_taken_up_where_they_were_left() -> None:
    def after(n_steps: int, *, interrupted: bool) -> torch.Tensor:
        generator = torch.Generator().manual_seed(0)
        matrix = torch.randn(6, 4, generator=generator).requires_grad_()
        bias = torch.zeros(6, requires_grad=True)

        def fresh() -> MuonAdamW:
            groups = [{"params": [bias]}, {"params": [matrix], "orthogonal": True}]
            return MuonAdamW(groups, lr=0.1, betas=(0.9, 0.98))

        optimizer = fresh()
        for step in range(n_steps):
            matrix.grad = torch.randn(6, 4, generator=generator)
            bias.grad = torch.randn(6, generator=generator)
            if interrupted and step == 2:
                kept, optimizer = optimizer.state_dict(), fresh()
                optimizer.load_state_dict(kept)
            optimizer.step()
        return torch.cat([matrix.detach().flatten(), bias.detach()])

    assert torch.equal(after(5, interrupted=True), after(5, interrupted=False))


def test_only_linear_layers_of_the_decoder_take_orthogonal_steps() -> None:
    model = build_mobile_sam(STUDENT, HEADS)
    parameters = dict(model.named_parameters())
    names = {id(value): name for name, value in parameters.items()}
    groups = optimizer_for(parameters, settings(orthogonal=5.0)).param_groups
    maps = [names[id(each)] for group in groups if group["orthogonal"] for each in group["params"]]
    assert "mask_decoder.transformer.layers.0.cross_attn_token_to_image.q_proj.weight" in maps
    assert all(name.startswith("mask_decoder.") for name in maps)
    assert not [name for name in maps if "token.weight" in name or "tokens.weight" in name]
    plain = optimizer_for(parameters, settings()).param_groups
    assert not any(group["orthogonal"] for group in plain)
    assert sum(len(group["params"]) for group in groups) == len(parameters)


def test_pictures_without_labels_are_prompted_anywhere_inside() -> None:
    found = batch(4, labelled=False)
    drawn = draw_prompts(found, PromptConfig(objects_per_image=5), CELLS)
    assert drawn.targets is None
    assert len(drawn.prompts.boxes) == 0
    for row, (point,) in enumerate(drawn.prompts.points):
        height, width = found.inner_hw[row // 5]
        assert 0 <= point[0] <= width - 1
        assert 0 <= point[1] <= height - 1


def test_a_correction_clicks_where_the_answer_is_wrong() -> None:
    found = batch(2)
    drawn = draw_prompts(found, PromptConfig(objects_per_image=1), CELLS)
    assert drawn.targets is not None
    nothing = torch.full((4, CELLS, CELLS), -5.0)
    again = correct(drawn, nothing, drawn.targets, SIDE_PX, np.random.default_rng(0))
    assert again.labels[:, 1].tolist() == [1.0] * 4
    perfect = (drawn.targets[:, 0] - 0.5) * 10
    again = correct(drawn, perfect, drawn.targets, SIDE_PX, np.random.default_rng(0))
    assert again.labels[:, 1].tolist() == [-1.0] * 4
    model = teacher()
    logits = decode(model, model.image_encoder(found.images), again).logits
    assert torch.isfinite(logits).all()


def test_decoding_many_images_equals_segment_anything_one_by_one() -> None:
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


def test_the_rate_rises_then_falls_to_its_share() -> None:
    config = settings(steps=100, warmup_steps=10, learning_rate=1.0, final_rate_share=0.1)
    rates = [learning_rate(config, step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[9] == pytest.approx(1.0)
    assert rates[99] == pytest.approx(0.1, abs=0.01)
    assert rates[10:] == sorted(rates[10:], reverse=True)


def test_settings_survive_json_and_refuse_nonsense() -> None:
    config = settings(augment=True)
    assert TrainConfig.model_validate_json(config.model_dump_json()) == config
    with pytest.raises(ValidationError, match="no multiple"):
        settings(batch_size=6, micro_batch=4)
    with pytest.raises(ValidationError):
        settings(surprise=1)


def test_heads_are_read_off_a_model() -> None:
    assert heads_of(teacher()) == HEADS


def test_a_student_loads_wherever_a_mobilesam_does(tmp_path: Path) -> None:
    model = student(3)
    path = tmp_path / "student.safetensors"
    save_model(path, ModelShape("mobilesam", STUDENT, HEADS, {}), model.state_dict())
    found = load_mobile_sam(path)
    image = torch.randn(1, 3, SIDE_PX, SIDE_PX)
    assert torch.equal(found.image_encoder(image), model.image_encoder(image))
    with pytest.raises(WeightsError, match="is a mobilesam, not a sam-mini"):
        load_sam_mini(path)


def test_half_a_file_keeps_the_embedding_to_a_thousandth(tmp_path: Path) -> None:
    model = student(3)
    sizes = []
    for half in (False, True):
        path = tmp_path / f"{half}.safetensors"
        save_model(path, ModelShape("mobilesam", STUDENT, HEADS, {}), model.state_dict(), half=half)
        sizes.append(path.stat().st_size)
    assert sizes[1] < 0.7 * sizes[0]
    image = torch.randn(1, 3, SIDE_PX, SIDE_PX)
    found = load_mobile_sam(path).image_encoder(image)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, model.image_encoder(image), atol=1e-2, rtol=1e-2)


def test_schemes_refuse_what_does_not_fit() -> None:
    model = teacher()
    source = OnlineTeacher(model, None, SIDE_PX)
    wider = seeded(
        lambda: build_mobile_sam(replace(STUDENT, neck_channels=24), replace(HEADS, channels=24))
    )
    with pytest.raises(UsageError, match="heads are not shaped"):
        Decoupled(wider, model, source, settings())
    with pytest.raises(UsageError, match="takes 64 px and the student 128 px"):
        OnlineTeacher(model, None, 128)
    coarse = build_student(replace(STUDENT, strides=(2, 2, 1)), HEADS, 0)
    with pytest.raises(UsageError):
        Decoupled(coarse, model, source, settings()).loss(batch(2))


def colored(channels: int = 96):
    """A teacher and a student whose embeddings carry colours."""
    heads = replace(HEADS, channels=channels)
    shape = replace(TEACHER, encoder=replace(TEACHER.encoder, cell_colors=True), heads=heads)
    config = replace(STUDENT, neck_channels=channels, cell_colors=True)
    return seeded(lambda: build_sam_mini(shape), 1), seeded(
        lambda: build_mobile_sam(config, heads), 0
    )


def test_a_student_without_its_teachers_colors_is_refused() -> None:
    model, own = colored()
    plain = replace(own.image_encoder.config, cell_colors=False)
    source = OnlineTeacher(model, None, SIDE_PX)
    Decoupled(own, model, source, settings())
    other = build_mobile_sam(plain, heads_of(model))
    with pytest.raises(UsageError, match="cell_colors"):
        Decoupled(other, model, source, settings())


def test_what_cannot_differ_is_not_in_the_loss() -> None:
    model, own = colored()
    found = batch(2)
    scheme = Decoupled(own, model, OnlineTeacher(model, None, SIDE_PX), settings())
    with torch.no_grad():
        wanted, got = model.image_encoder(found.images), own.image_encoder(found.images)
    assert torch.equal(wanted[:, -48:], got[:, -48:])
    valid = found.valid(got.shape[-1])
    expected = losses.masked_mse(got[:, :-48], wanted[:, :-48], valid)
    own.eval()
    with torch.no_grad():
        assert torch.allclose(scheme.loss(found).total, expected)
    with_masks = settings(losses=LossConfig(prompts=1.0))
    scheme = Decoupled(own, model, OnlineTeacher(model, None, SIDE_PX), with_masks)
    assert "masks" in scheme.loss(found).parts


def test_colors_may_not_take_the_channels_that_name_objects() -> None:
    with pytest.raises(UsageError, match="colours"):
        Grouping(colored(channels=64)[0], settings())


def test_a_checkpoint_of_another_student_is_refused(tmp_path: Path) -> None:
    train(scheme("decoupled", settings(steps=2)), Pictures(8), tmp_path)
    other = replace(STUDENT, embed_dims=(8, 8, 16, 24))
    model = teacher()
    another = Decoupled(
        build_mobile_sam(other, HEADS),
        model,
        OnlineTeacher(model, SHA256, SIDE_PX),
        settings(steps=2),
    )
    with pytest.raises(UsageError, match="student of another shape"):
        train(another, Pictures(8), tmp_path)


def test_training_from_scratch_needs_masks() -> None:
    with pytest.raises(UsageError, match="needs images with masks"):
        scheme("supervised", settings()).loss(batch(2, labelled=False))


def test_the_optional_terms_of_decoupled_are_added() -> None:
    config = settings(losses={"cosine": 0.5, "prompts": 0.1})
    plain, rich = scheme("decoupled", settings()), scheme("decoupled", config)
    parts = rich.loss(batch(2)).parts
    assert {"mse", "cosine", "masks", "agreement"} <= parts.keys()
    assert plain.loss(batch(2)).parts.keys() == {"mse"}


def test_imagenet_weights_of_timm_are_taken(tmp_path: Path) -> None:
    encoder = student(1).image_encoder
    theirs = {}
    for name, value in student(2).image_encoder.state_dict().items():
        parts = name.split(".")
        if parts[0] == "neck":
            continue
        if parts[0] == "layers":
            shift = 1 if parts[2] == "downsample" else 0
            parts = ["stages", str(int(parts[1]) + shift), *parts[2:]]
        text = ".".join(parts).replace(".c.", ".conv.")
        text = text.replace("patch_embed.seq.0.", "patch_embed.conv1.")
        theirs[text.replace("patch_embed.seq.2.", "patch_embed.conv2.")] = value.contiguous()
    assert all(timm_name(name) in encoder.state_dict() for name in theirs)
    path = tmp_path / "timm.safetensors"
    save_file({**theirs, "head.fc.weight": torch.zeros(2, 2)}, path)
    assert isinstance(encoder, TinyViT)
    assert load_imagenet(encoder, path) == len(theirs)
    wanted = student(2).image_encoder.state_dict()["layers.1.blocks.0.attn.qkv.weight"]
    assert torch.equal(encoder.state_dict()["layers.1.blocks.0.attn.qkv.weight"], wanted)
    save_file({"some.weight": torch.zeros(2)}, path)
    with pytest.raises(WeightsError, match="does not hold a TinyViT of this width"):
        load_imagenet(encoder, path)
