"""The recipe of `mobilesam-mini`: decoupled distillation from `sam-mini` on the same scenes."""

from __future__ import annotations

from pathlib import Path

from segment_anything.modeling import Sam

from mobilesam.distillation.config import PromptConfig, TrainConfig
from mobilesam.distillation.imitation import Decoupled
from mobilesam.distillation.loop import Listener, train
from mobilesam.distillation.samples import TrainingSet
from mobilesam.distillation.students import build_student
from mobilesam.distillation.teachers import OnlineTeacher
from mobilesam.distillation.world import World
from mobilesam.mini import mobile_sam_mini_shape

CONFIG = TrainConfig(
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


def train_student(
    teacher: Sam,
    sha256: str,
    data: TrainingSet,
    folder: Path,
    *,
    world: World,
    on_step: Listener | None = None,
) -> Sam:
    """Distils `mobilesam-mini`, taking up whatever the folder holds of it.

    The teacher's encoder runs beside the student's, on pictures that are mirrored and recoloured:
    at this size that costs less than a fifth of a step, and stored embeddings would tie the
    student to the pictures as they are.

    Args:
        teacher: `sam-mini`.
        sha256: Of its weights.
        data: Scenes.
        folder: For the checkpoint.
        world: This process among those that train together.
        on_step: Told of every step.

    Returns:
        The trained student, in evaluation mode.
    """
    shape, heads = mobile_sam_mini_shape()
    student = build_student(shape, heads, CONFIG.seed)
    source = OnlineTeacher(teacher, sha256, shape.image_size_px)
    scheme = Decoupled(student, teacher, source, CONFIG)
    state = train(scheme, data, folder, world=world, on_step=on_step)
    student.load_state_dict(state.result())
    return student.eval()
