"""The recipe of `sam-mini`: from scratch on synthetic scenes, in stages.

A whole SAM that is trained from nothing stays for a long time with one answer, a blob around the
prompt: its decoder has no reason to look at the picture while the embedding does not tell objects
apart, and the embedding learns little through a decoder that does not look. So each learns its own
part first: the decoder, on embeddings that are ideal, what a box and a point ask for; the encoder,
without prompts, what belongs together. Then both are trained as one, on parts of pictures at the
size that they will have in the end, then on whole pictures, where the losses of the first two fall
away for most of the time, and all three candidates come to learn, also from points in the middle of
a box; and at last the decoder learns to live with an encoder that no longer changes, and how good
its own masks are. Batches are small, since in the beginning the number of steps counts, not that of
images.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from segment_anything.modeling import Sam

from benchmarks.distillation.scenes import ScenesSpec
from mobilesam.distillation.config import LossConfig, PromptConfig, TrainConfig
from mobilesam.distillation.loop import Listener, train
from mobilesam.distillation.process_group import World
from mobilesam.distillation.samples import TrainingSet
from mobilesam.distillation.schemes import DecoderFirst, Grouping, HeadsAlone, Scheme, Supervised
from mobilesam.model.mini import SamMiniConfig, build_sam_mini
from mobilesam.process_state import seeded

TRAINING_SCENES = ScenesSpec(n_scenes=6000, seed=7_306_142, side_px=256)
"""Never the scenes of an evaluation, whose default seed is 0."""

_POSITIONS = "image_encoder.pos_embed"


@dataclass(frozen=True, slots=True)
class Stage:
    """A part of the recipe: what is trained, at how many pixels, and how."""

    name: str
    scheme: type[Scheme]
    side_px: int
    config: TrainConfig


_USUAL = TrainConfig(
    steps=2000,
    batch_size=8,
    micro_batch=4,
    learning_rate=1.5e-3,
    final_rate_share=0.2,
    orthogonal=10,
    warmup_steps=30,
    ema_decay=0.98,
    augment=True,
    zoom=1,
    zoom_least=0.35,
    seed=1,
    checkpoint_every=100,
    losses=LossConfig(focal=0, cross_entropy=0.3, affinity=1, surroundings=1, reading=1),
    prompts=PromptConfig(objects_per_image=3),
)


def _changed(**changes: Any) -> TrainConfig:
    return _USUAL.model_copy(update=changes)


_MOSTLY_WHOLE = {"zoom": 0.5, "zoom_least": 0.5, "final_rate_share": 0.01}

_MASKS_ALONE = _USUAL.losses.model_copy(update={"affinity": 0, "reading": 0.2})
_ALL_CANDIDATES = _MASKS_ALONE.model_copy(update={"candidates": 1})
"""Every object of a scene is a whole: three candidates have no reason to mean different things."""

_BOX_MIDDLES = PromptConfig(objects_per_image=3, center_share=0.33, box_center_share=0.34)
"""The middle of an object's box, which the protocol `center` clicks, may show another object: what
is meant then can be learnt from such clicks alone.
"""


def _whole(name: str, **changes: Any) -> Stage:
    """Everything learns, mostly on whole pictures."""
    config = _changed(ema_decay=0.995, **_MOSTLY_WHOLE, **changes)
    return Stage(name, Supervised, 256, config)


STAGES = (
    Stage(
        "decoder",
        DecoderFirst,
        64,
        _changed(
            steps=400,
            losses=_USUAL.losses.model_copy(update={"reading": 0.5}),
            prompts=PromptConfig(objects_per_image=6),
        ),
    ),
    Stage("grouping", Grouping, 128, _changed(steps=1500, learning_rate=2.5e-3)),
    Stage(
        "parts", Supervised, 128, _changed(steps=1500, learning_rate=1e-3, final_rate_share=0.02)
    ),
    _whole("whole", steps=1300, learning_rate=6e-4),
    _whole("long", steps=3000, learning_rate=6e-4, precision="bf16", losses=_MASKS_ALONE),
    _whole(
        "again",
        steps=2000,
        learning_rate=5e-4,
        precision="bf16",
        losses=_ALL_CANDIDATES,
        prompts=_BOX_MIDDLES,
    ),
    Stage(
        "heads",
        HeadsAlone,
        256,
        _changed(
            steps=400,
            learning_rate=3e-4,
            ema_decay=0.99,
            precision="bf16",
            losses=_ALL_CANDIDATES.model_copy(update={"quality": 4}),
            prompts=_BOX_MIDDLES,
            **_MOSTLY_WHOLE,
        ),
    ),
)


Watch = Callable[[str, TrainConfig], AbstractContextManager[Listener]]
"""Given the name and settings of a part of a recipe: who is told of its steps."""


def train_teacher(data: TrainingSet, folder: Path, *, world: World, watch: Watch) -> Sam:
    """Trains `sam-mini` by all stages, taking up whatever the folder holds of them.

    Args:
        data: Scenes.
        folder: Each stage has a folder of its own in it.
        world: This process among those that train together.
        watch: Gives, for each stage, who is told of its steps.

    Returns:
        The trained model at its final size, in evaluation mode.
    """
    found = None
    for stage in STAGES:
        usual = SamMiniConfig()
        shape = replace(usual, encoder=replace(usual.encoder, image_size_px=stage.side_px))
        with seeded(stage.config.seed):
            model = build_sam_mini(shape)
        if found is not None:
            model.load_state_dict(resized_positions(found, stage.side_px // 16))
        scheme = stage.scheme(model, stage.config)
        with watch(stage.name, stage.config) as listen:
            state = train(scheme, data, folder / stage.name, world=world, on_step=listen)
        found = state.result()
        model.load_state_dict(found)
    return model.eval()


def resized_positions(state: dict[str, torch.Tensor], side: int) -> dict[str, torch.Tensor]:
    """The state dict with the tokens' positions interpolated to a grid of `side` x `side`."""
    old = state[_POSITIONS]
    n_old = int(old.shape[1] ** 0.5)
    grid = old.transpose(1, 2).reshape(1, -1, n_old, n_old)
    grid = F.interpolate(grid, (side, side), mode="bicubic", align_corners=False)
    return {**state, _POSITIONS: grid.flatten(2).transpose(1, 2).contiguous()}
