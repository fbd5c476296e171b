"""Recipes of the shipped models: `sam-mini` from scratch, `mobilesam-mini` distilled from it.

A SAM trained from random weights has a long plateau with one answer, a blob around the prompt: the
decoder ignores the image as long as the embedding does not separate objects, and the embedding
learns little through a decoder that ignores it. `sam-mini` is therefore trained in stages: the
decoder on ideal embeddings; the encoder without prompts; both together on crops, then on whole
images, where most steps drop the losses of the first two stages; later with all three candidate
masks and points at box centres; at last the decoder behind the frozen encoder. Batches are small,
because at first the number of steps matters, not that of images.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from segment_anything.modeling import Sam

from benchmarks.distillation.scenes import SceneCache, ScenesSpec, render_with_progress
from benchmarks.distillation.training import progress
from benchmarks.records.progress import Reporter
from mobilesam.distillation import schemes
from mobilesam.distillation.students import build_student, shape_of
from mobilesam.distillation.train_config import LossConfig, PromptConfig, TrainConfig
from mobilesam.distillation.training_loop import ProcessGroup, train
from mobilesam.model.mini import SamMiniConfig, build_sam_mini, mobile_sam_mini_shape
from mobilesam.model.mobile_sam import load_sam_mini
from mobilesam.model.model_files import save_model
from mobilesam.process_state import seeded

TEACHER_NAME = "sam-mini.safetensors"
STUDENT_NAME = "mobilesam-mini.safetensors"
TRAINING_SCENES = ScenesSpec(n_scenes=6000, seed=7_306_142, side_px=256)
"""Scenes of another seed than those of evaluations, whose default seed is 0."""

_POSITIONS = "image_encoder.pos_embed"

_BASE = TrainConfig(
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
_MOSTLY_WHOLE = {"zoom": 0.5, "zoom_least": 0.5, "final_rate_share": 0.01}
_MASK_LOSSES = _BASE.losses.model_copy(update={"affinity": 0, "reading": 0.2})
# Every object of a scene is whole, so that the three candidates need not differ in meaning.
_ALL_CANDIDATES = _MASK_LOSSES.model_copy(update={"candidates": 1})
# The centre of an object's box, which protocol `center` clicks, may show another object.
_BOX_CENTRES = PromptConfig(objects_per_image=3, center_share=0.33, box_center_share=0.34)


@dataclass(frozen=True, slots=True)
class Stage:
    """A stage of the recipe of `sam-mini`."""

    name: str  # of its folder
    scheme: type[schemes.Scheme]
    side_px: int  # of the input
    config: TrainConfig


def _changed(**changes: Any) -> TrainConfig:
    return _BASE.model_copy(update=changes)


def _whole_images(name: str, **changes: Any) -> Stage:
    """A stage that trains the whole model, mostly on whole images."""
    return Stage(
        name, schemes.Supervised, 256, _changed(ema_decay=0.995, **_MOSTLY_WHOLE, **changes)
    )


_DECODER = _changed(
    steps=400,
    losses=_BASE.losses.model_copy(update={"reading": 0.5}),
    prompts=PromptConfig(objects_per_image=6),
)
_PARTS = _changed(steps=1500, learning_rate=1e-3, final_rate_share=0.02)
_AGAIN = {"losses": _ALL_CANDIDATES, "prompts": _BOX_CENTRES}
_HEADS = _changed(
    steps=400,
    learning_rate=3e-4,
    ema_decay=0.99,
    precision="bf16",
    losses=_ALL_CANDIDATES.model_copy(update={"quality": 4}),
    prompts=_BOX_CENTRES,
    **_MOSTLY_WHOLE,
)
STAGES = (
    Stage("decoder", schemes.DecoderFirst, 64, _DECODER),
    Stage("grouping", schemes.Grouping, 128, _changed(steps=1500, learning_rate=2.5e-3)),
    Stage("parts", schemes.Supervised, 128, _PARTS),
    _whole_images("whole", steps=1300, learning_rate=6e-4),
    _whole_images("long", steps=3000, learning_rate=6e-4, precision="bf16", losses=_MASK_LOSSES),
    _whole_images("again", steps=2000, learning_rate=5e-4, precision="bf16", **_AGAIN),
    Stage("heads", schemes.TrainDecoderOnly, 256, _HEADS),
)

_FIRST_ROUND = TrainConfig(
    steps=1400,
    batch_size=16,
    micro_batch=8,
    learning_rate=2e-3,
    warmup_steps=50,
    ema_decay=0.998,
    precision="bf16",
    augment=True,
    seed=2,
    checkpoint_every=100,
    prompts=PromptConfig(objects_per_image=3),
)
ROUNDS = {
    "first": _FIRST_ROUND,
    "second": _FIRST_ROUND.model_copy(update={"learning_rate": 1.5e-3, "seed": 3}),
}
"""Rounds of the distillation of `mobilesam-mini`; each continues with the weights of the last."""


def make_family(
    out: Path,
    scenes_root: Path,
    reporter: Reporter,
    processes: ProcessGroup,
    *,
    workers: int,
    only_teacher: bool = False,
) -> tuple[Path, ...]:
    """Runs the recipes of both models, resuming an interrupted run; returns their files.

    Scenes are rendered by `workers` processes below `scenes_root`; checkpoints, metrics and the two
    files are written into `out`.
    """

    def save(name: str, model: Sam, notes: dict[str, str]) -> Path:
        """Writes a model from the first process; returns its file when all processes are here."""
        path = out / name
        if processes.rank == 0:
            save_model(path, shape_of(model, notes), model.state_dict(), half=True)
        processes.wait()
        return path

    def trained(scheme: schemes.Scheme, title: str, folder: Path) -> dict[str, torch.Tensor]:
        with progress(scheme.config, title, reporter, processes) as on_step:
            return train(scheme, data, folder, processes=processes, on_step=on_step).result()

    if processes.rank == 0:
        render_with_progress(scenes_root, TRAINING_SCENES, workers, reporter)
    processes.wait()
    data = SceneCache(scenes_root, TRAINING_SCENES)
    notes = {"recipe": __name__, "data": data.fingerprint}
    state: dict[str, torch.Tensor] | None = None
    for stage in STAGES:
        usual = SamMiniConfig()
        shape = replace(usual, encoder=replace(usual.encoder, image_size_px=stage.side_px))
        with seeded(stage.config.seed):
            teacher = build_sam_mini(shape)
        if state is not None:
            teacher.load_state_dict(resize_positions(state, stage.side_px // 16))
        scheme, folder = stage.scheme(teacher, stage.config), out / "sam-mini" / stage.name
        state = trained(scheme, f"sam-mini, stage {stage.name}", folder)
        teacher.load_state_dict(state)
    path = save(TEACHER_NAME, teacher.eval(), notes)
    if only_teacher:
        return (path,)
    # Loaded from the file, because the student must imitate its float16 weights.
    teacher = load_sam_mini(path)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    student_shape, heads = mobile_sam_mini_shape()
    student = build_student(student_shape, heads, _FIRST_ROUND.seed)
    # The teacher's encoder runs in every step, because images are augmented.
    source = schemes.OnlineTeacher(teacher, sha256, student_shape.image_size_px)
    for name, config in ROUNDS.items():
        decoupled = schemes.Decoupled(student, teacher, source, config)
        folder = out / "mobilesam-mini" / name
        student.load_state_dict(trained(decoupled, f"mobilesam-mini, {name} round", folder))
    return path, save(STUDENT_NAME, student.eval(), {**notes, "teacher": sha256})


def resize_positions(state: dict[str, torch.Tensor], side: int) -> dict[str, torch.Tensor]:
    """Returns the state dict with position embeddings interpolated to `side` x `side` tokens."""
    old = state[_POSITIONS]
    n_old = int(old.shape[1] ** 0.5)
    grid = old.transpose(1, 2).reshape(1, -1, n_old, n_old)
    grid = F.interpolate(grid, (side, side), mode="bicubic", align_corners=False)
    return {**state, _POSITIONS: grid.flatten(2).transpose(1, 2).contiguous()}
