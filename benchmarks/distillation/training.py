"""Runs one training as a user asked for it, and writes the student that comes out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from segment_anything.modeling import Sam

from baselines.boundary import naming
from baselines.registry import build
from baselines.sam_like import SamSegmenter
from benchmarks.config.model_resolution import ResolvedModel
from benchmarks.records.progress import Reporter
from mobilesam.distillation.config import TrainConfig
from mobilesam.distillation.loop import Listener, StepReport, Watch, train
from mobilesam.distillation.process_group import World
from mobilesam.distillation.samples import TrainingSet
from mobilesam.distillation.schemes import Scheme
from mobilesam.distillation.state import TrainState
from mobilesam.distillation.students import heads_of
from mobilesam.errors import UsageError
from mobilesam.model.mini import MiniVit
from mobilesam.model.model_files import ModelShape, save_model
from mobilesam.model.tiny_vit import TinyViT

STUDENT_NAME = "student.safetensors"


@dataclass(frozen=True, slots=True)
class Trained:
    """What a training left behind.

    Attributes:
        path: The student, as every command takes it.
        steps: That were taken, over all runs.
        seconds: Of training, over all runs.
        loss: Of the last step.
    """

    path: Path
    steps: int
    seconds: float
    loss: float | None


def run_training(
    scheme: Scheme,
    data: TrainingSet,
    folder: Path,
    reporter: Reporter,
    world: World,
    on_checkpoint: Watch | None = None,
) -> Trained:
    """Trains, takes up what was interrupted, and writes the student.

    Args:
        scheme: What is trained.
        data: Images.
        folder: For checkpoint, metrics and the student.
        reporter: Told about progress.
        world: This process among those that train together.
        on_checkpoint: As for `train`.

    Raises:
        BenchError: As `train` does.
    """
    last: list[StepReport] = []
    with progress(scheme.config, f"{scheme.name} distillation", reporter, world) as listen:

        def both(report: StepReport) -> None:
            last[:] = [report]
            listen(report)

        state = train(scheme, data, folder, world=world, on_step=both, on_checkpoint=on_checkpoint)
    path = folder / STUDENT_NAME
    if world.rank == 0:
        save_model(path, shape_of(scheme.student, notes(state)), state.result())
    world.wait()
    return Trained(path, state.step, state.seconds, last[0].loss if last else None)


def sam_teacher(planned: ResolvedModel) -> SamSegmenter:
    """Builds a teacher.

    Raises:
        UsageError: It has no heads that a student could be given.
    """
    with naming(planned.entry.name):
        model = build(planned.entry, planned.options)
    if not isinstance(model, SamSegmenter):
        raise UsageError(
            f"{planned.entry.name} has no heads of SAM to copy; choose another teacher"
        )
    return model


def notes(state: TrainState) -> dict[str, Any]:
    """How a student came to be, for the header of its file."""
    return {**state.identity, "steps": state.step, "seconds": round(state.seconds, 1)}


def shape_of(model: Sam, made_by: Mapping[str, Any]) -> ModelShape:
    """The shape of a model, read off its modules."""
    encoder = model.image_encoder
    if not isinstance(encoder, (TinyViT, MiniVit)):
        raise TypeError(f"no file format for a {type(encoder).__name__}")
    architecture: Any = "mobilesam" if isinstance(encoder, TinyViT) else "sam-mini"
    return ModelShape(architecture, encoder.config, heads_of(model), made_by)


@contextmanager
def progress(
    config: TrainConfig, title: str, reporter: Reporter, world: World
) -> Iterator[Listener]:
    """A live bar with the time left, for the steps of a training.

    Args:
        config: Of the run.
        title: What is being trained.
        reporter: Where it is shown; only the first process shows anything.
        world: This process among those that train together.
    """
    shown = reporter if world.rank == 0 else Reporter(quiet=True)
    with shown.bar(title, config.steps) as bar:

        def listen(report: StepReport) -> None:
            # The mean over all steps: of a run that was taken up, too.
            left_s = report.seconds / report.step * (config.steps - report.step)
            bar.step(f"loss {report.loss:.4f}, {left_s / 60:.1f} min left", done=report.step)

        yield listen


def use_memory_well() -> None:
    """Keeps freed memory for the next step, which on a CPU saves a good part of its time."""
    from mobilesam.fast.allocator import keep_buffers

    keep_buffers()


def device_of(name: str) -> torch.device:
    """The device of this process; of several GPUs the one that `torchrun` gave it."""
    import os

    if name == "cuda" and "LOCAL_RANK" in os.environ:
        return torch.device(f"cuda:{os.environ['LOCAL_RANK']}")
    return torch.device(name)
