"""Schemes: trained parts, terms of the losses, refused combinations."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from small_models import HEADS, SIDE_PX, STUDENT, TEACHER
from small_training import batch, scheme, seeded, settings, teacher

from mobilesam.distillation.losses import (
    masked_mse,
)
from mobilesam.distillation.schemes import (
    DecoderFirst,
    Decoupled,
    Grouping,
    OnlineTeacher,
    TrainDecoderOnly,
)
from mobilesam.distillation.students import build_student, heads_of
from mobilesam.distillation.train_config import LossConfig, PromptConfig
from mobilesam.errors import UsageError
from mobilesam.model.mini import build_sam_mini
from mobilesam.model.mobile_sam import build_mobile_sam


def learning(scheme) -> set[str]:
    """Parts of the student that a step of a scheme changes."""
    scheme.loss(batch(4)).total.backward()
    named = scheme.student.named_parameters()
    return {name for name, value in named if value.grad is not None and value.grad.any()}


def colored(channels: int = 96):
    """A teacher and a student ids embeddings carry colours."""
    heads = replace(HEADS, channels=channels)
    shape = replace(TEACHER, encoder=replace(TEACHER.encoder, cell_colors=True), heads=heads)
    config = replace(STUDENT, neck_channels=channels, cell_colors=True)
    return seeded(lambda: build_sam_mini(shape), 1), seeded(
        lambda: build_mobile_sam(config, heads), 0
    )


def test_grouping_trains_encoder_and_upsampling() -> None:
    changed = learning(Grouping(teacher(), settings()))
    last = {name for name in changed if name.startswith("mask_decoder.output_upscaling")}
    assert last
    assert changed - last
    assert all(name.startswith("image_encoder") for name in changed - last)


def test_train_decoder_only_freezes_the_encoder() -> None:
    changed = learning(TrainDecoderOnly(teacher(), settings()))
    assert any(name.startswith("mask_decoder.transformer") for name in changed)
    assert any(name.startswith("prompt_encoder") for name in changed)
    assert not any(name.startswith("image_encoder") for name in changed)


def test_decoder_first_does_not_run_the_encoder() -> None:
    changed = learning(DecoderFirst(teacher(), settings()))
    assert any(name.startswith("mask_decoder.transformer") for name in changed)
    assert any(name.startswith("prompt_encoder") for name in changed)
    assert not any(name.startswith("image_encoder") for name in changed)


def test_decoder_first_appends_color_channels() -> None:
    model, _ = colored()
    prompts = PromptConfig(objects_per_image=2, refine=0)
    first = DecoderFirst(model, settings(prompts=prompts))
    plain, dark = batch(2), batch(2)
    dark = replace(dark, images=dark.images * 0)
    assert first.loss(plain).parts["masks"] != first.loss(dark).parts["masks"]
    again = batch(2)
    assert first.loss(again).parts["masks"] == first.loss(batch(2)).parts["masks"]


def test_students_that_do_not_fit_are_refused() -> None:
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


def test_student_without_color_channels_is_refused() -> None:
    model, own = colored()
    plain = replace(own.image_encoder.config, cell_colors=False)
    source = OnlineTeacher(model, None, SIDE_PX)
    Decoupled(own, model, source, settings())
    other = build_mobile_sam(plain, heads_of(model))
    with pytest.raises(UsageError, match="cell_colors"):
        Decoupled(other, model, source, settings())


def test_color_channels_are_not_in_the_loss() -> None:
    model, own = colored()
    found = batch(2)
    scheme = Decoupled(own, model, OnlineTeacher(model, None, SIDE_PX), settings())
    with torch.no_grad():
        wanted, got = model.image_encoder(found.images), own.image_encoder(found.images)
    assert torch.equal(wanted[:, -48:], got[:, -48:])
    valid = found.valid(got.shape[-1])
    expected = masked_mse(got[:, :-48], wanted[:, :-48], valid)
    own.eval()
    with torch.no_grad():
        assert torch.allclose(scheme.loss(found).total, expected)
    with_masks = settings(losses=LossConfig(prompts=1.0))
    scheme = Decoupled(own, model, OnlineTeacher(model, None, SIDE_PX), with_masks)
    assert "masks" in scheme.loss(found).parts


def test_colors_may_not_replace_identity_channels() -> None:
    with pytest.raises(UsageError, match="colour channels"):
        Grouping(colored(channels=64)[0], settings())


def test_training_from_scratch_needs_masks() -> None:
    with pytest.raises(UsageError, match="needs images with masks"):
        scheme("supervised", settings()).loss(batch(2, labelled=False))


def test_optional_terms_of_decoupled() -> None:
    config = settings(losses={"cosine": 0.5, "prompts": 0.1})
    plain, rich = scheme("decoupled", settings()), scheme("decoupled", config)
    parts = rich.loss(batch(2)).parts
    assert {"mse", "cosine", "masks", "agreement"} <= parts.keys()
    assert plain.loss(batch(2)).parts.keys() == {"mse"}
