"""The recipe of `mobilesam-mini`: decoupled distillation from `sam-mini` on the same scenes."""

from __future__ import annotations

from pathlib import Path

from segment_anything.modeling import Sam

from benchmarks.distillation.mini_teacher import Watch
from mobilesam.distillation.config import PromptConfig, TrainConfig
from mobilesam.distillation.imitation import Decoupled
from mobilesam.distillation.loop import train
from mobilesam.distillation.process_group import World
from mobilesam.distillation.samples import TrainingSet
from mobilesam.distillation.students import build_student
from mobilesam.distillation.teachers import OnlineTeacher
from mobilesam.model.mini import mobile_sam_mini_shape

_FIRST = TrainConfig(
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
    "first": _FIRST,
    "second": _FIRST.model_copy(update={"learning_rate": 1.5e-3, "seed": 3}),
}
"""By name; each takes up what the one before has found, at a rate that rises and falls again."""


def train_student(
    teacher: Sam,
    sha256: str,
    data: TrainingSet,
    folder: Path,
    *,
    world: World,
    watch: Watch,
) -> Sam:
    """Distils `mobilesam-mini`, taking up whatever the folder holds of it.

    The teacher's encoder runs beside the student's, on pictures that are mirrored and recoloured:
    stored embeddings would tie the student to the pictures as they are.

    Args:
        teacher: `sam-mini`.
        sha256: Of its weights.
        data: Scenes.
        folder: Each round has a folder of its own in it.
        world: This process among those that train together.
        watch: Gives, for each round, who is told of its steps.

    Returns:
        The trained student, in evaluation mode.
    """
    shape, heads = mobile_sam_mini_shape()
    student = build_student(shape, heads, _FIRST.seed)
    source = OnlineTeacher(teacher, sha256, shape.image_size_px)
    for name, config in ROUNDS.items():
        scheme = Decoupled(student, teacher, source, config)
        with watch(name, config) as listen:
            state = train(scheme, data, folder / name, world=world, on_step=listen)
        student.load_state_dict(state.result())
    return student.eval()
