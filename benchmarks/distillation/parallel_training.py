"""The trainings of an experiment, several at a time, one thread each."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from baselines.interface import Checkpoint
from benchmarks.config.model_resolution import ResolvedModel
from benchmarks.distillation.experiment import LossPoint, PlannedRun
from benchmarks.distillation.process_map import map_processes
from benchmarks.distillation.scenes import SceneCache, ScenesSpec
from benchmarks.distillation.training import run_training, sam_teacher
from benchmarks.records.environment import use_threads
from benchmarks.records.progress import Reporter
from mobilesam.distillation.schemes import SCHEMES, StoredTeacher
from mobilesam.distillation.students import build_student, heads_of
from mobilesam.distillation.training_loop import METRICS_NAME, ProcessGroup
from mobilesam.fast.allocator import keep_buffers
from mobilesam.model.tiny_vit import TinyVitConfig
from mobilesam.weights.cache import digest_file

_CURVE_POINTS = 60


@dataclass(frozen=True, slots=True)
class TrainingTask:
    """Everything that another process needs to train one student."""

    run: PlannedRun
    student: TinyVitConfig
    teacher: ResolvedModel
    embeddings: Path
    folder: Path
    scenes_root: Path
    scenes: ScenesSpec


@dataclass(frozen=True, slots=True)
class FinishedRun:
    """A trained student, with the loss over the steps of its training."""

    run: PlannedRun
    checkpoint: Checkpoint
    seconds: float
    curve: tuple[LossPoint, ...]


def train_all(tasks: Sequence[TrainingTask], workers: int, reporter: Reporter) -> list[FinishedRun]:
    """Trains all students, resuming interrupted trainings.

    Returns:
        Results in the order of the tasks.

    Raises:
        BenchError: A training failed, or a process was killed; finished trainings are kept.
    """
    workers = min(workers, len(tasks))
    if workers == 1:
        return [_train(task, reporter) for task in tasks]
    with reporter.bar(f"{len(tasks)} trainings, {workers} at a time", len(tasks)) as bar:
        return map_processes(
            _train, tasks, workers, lambda done: bar.step(done.run.name), _single_threaded
        )


def _single_threaded() -> None:
    use_threads(1)
    keep_buffers()


def _train(task: TrainingTask, reporter: Reporter | None = None) -> FinishedRun:
    teacher = sam_teacher(task.teacher).model
    student = build_student(task.student, heads_of(teacher), task.run.config.seed)
    source = StoredTeacher(task.embeddings)
    scheme = SCHEMES[task.run.scheme](student, teacher, source, task.run.config)
    data = SceneCache(task.scenes_root, task.scenes)
    reporter = reporter or Reporter(quiet=True)
    trained = run_training(scheme, data, task.folder, reporter, ProcessGroup())
    return FinishedRun(
        task.run, local_checkpoint(trained.path), trained.seconds, _loss_curve(task.folder)
    )


def local_checkpoint(path: Path) -> Checkpoint:
    """The file of a student as a checkpoint."""
    found = digest_file(path)
    return Checkpoint(path, found.sha256, official=False, n_bytes=found.n_bytes, trusted=True)


def _loss_curve(folder: Path) -> tuple[LossPoint, ...]:
    """Mean losses of equal stretches of a training."""
    lines = (folder / METRICS_NAME).read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    width = max(1, len(rows) // _CURVE_POINTS)
    stretches = [rows[start : start + width] for start in range(0, len(rows), width)]
    return tuple(
        LossPoint(
            step=part[-1]["step"],
            seconds=part[-1]["seconds"],
            loss=sum(row["loss"] for row in part) / len(part),
        )
        for part in stretches
    )
