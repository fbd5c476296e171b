"""The trainings of an experiment, several side by side: one thread each wastes the least."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from concurrent.futures import as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import active_children
from pathlib import Path
from typing import TypeVar

from baselines.options import Checkpoint
from benchmarks.child_processes import process_executor
from benchmarks.config.model_resolution import ResolvedModel
from benchmarks.distillation.experiment import Finished, LossPoint, PlannedRun
from benchmarks.distillation.scenes import SceneCache, ScenesSpec
from benchmarks.distillation.training import run_training, sam_teacher, use_memory_well
from benchmarks.records.environment import use_threads
from benchmarks.records.progress import Reporter
from mobilesam.distillation.imitation import SCHEMES
from mobilesam.distillation.process_group import World
from mobilesam.distillation.state import METRICS_NAME
from mobilesam.distillation.students import build_student, heads_of
from mobilesam.distillation.teachers import StoredTeacher
from mobilesam.errors import TrainingError
from mobilesam.model.tiny_vit import TinyVitConfig
from mobilesam.weights.cache import digest_file

_CURVE_POINTS = 60

_Task = TypeVar("_Task")
_Found = TypeVar("_Found")


@dataclass(frozen=True, slots=True)
class Training:
    """All that another process must know to train one student.

    Attributes:
        run: Scheme and settings.
        student: Its encoder's shape.
        teacher: Whose heads it gets.
        embeddings: Store of the teacher's.
        folder: Of this training.
        scenes_root: Where the rendered scenes are.
        scenes: Which of them.
    """

    run: PlannedRun
    student: TinyVitConfig
    teacher: ResolvedModel
    embeddings: Path
    folder: Path
    scenes_root: Path
    scenes: ScenesSpec


def train_all(tasks: Sequence[Training], workers: int, reporter: Reporter) -> list[Finished]:
    """Trains all students, taking up what their folders hold.

    Args:
        tasks: In any order.
        workers: So many at a time, each on one thread.
        reporter: Told about progress.

    Returns:
        In the order of the tasks.

    Raises:
        BenchError: As training does, or a process was killed; what is done is kept.
    """
    workers = min(workers, len(tasks))
    if workers == 1:
        return [_train(task, reporter) for task in tasks]
    with reporter.bar(f"{len(tasks)} trainings, {workers} side by side", len(tasks)) as bar:
        return in_processes(_train_quietly, tasks, workers, lambda done: bar.step(done.run.name))


def in_processes(
    function: Callable[[_Task], _Found],
    tasks: Sequence[_Task],
    workers: int,
    on_done: Callable[[_Found], None],
) -> list[_Found]:
    """Calls a function for each task in processes of one thread each, which end with this one.

    Args:
        function: Of a module, as processes are handed its name. It may be ended at any moment.
        tasks: What it is called with.
        workers: Processes.
        on_done: Told of each result as it comes.

    Returns:
        In the order of the tasks.

    Raises:
        TrainingError: A process was killed.
    """
    pool = process_executor(workers, _begin)
    try:
        found = [pool.submit(function, task) for task in tasks]
        for done in as_completed(found):
            on_done(done.result())
        return [done.result() for done in found]
    except BrokenProcessPool as error:
        raise TrainingError(
            "a training was killed, for want of memory perhaps: run the same command again to take "
            f"it up, with fewer than --threads {workers} if it happens again"
        ) from error
    except BaseException:
        # The executor would wait for what runs, and for one more that it has queued already.
        for process in active_children():
            process.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _begin() -> None:
    use_threads(1)
    use_memory_well()


def _train_quietly(task: Training) -> Finished:
    return _train(task, Reporter(quiet=True))


def _train(task: Training, reporter: Reporter) -> Finished:
    teacher = sam_teacher(task.teacher).model
    student = build_student(task.student, heads_of(teacher), task.run.config.seed)
    source = StoredTeacher(task.embeddings)
    scheme = SCHEMES[task.run.scheme](student, teacher, source, task.run.config)
    data = SceneCache(task.scenes_root, task.scenes)
    trained = run_training(scheme, data, task.folder, reporter, World())
    return Finished(
        task.run, trained.path, checkpoint_of(trained.path), trained.seconds, _curve(task.folder)
    )


def checkpoint_of(path: Path) -> Checkpoint:
    """A student of this experiment, as a model takes it."""
    found = digest_file(path)
    return Checkpoint(path, found.sha256, official=False, n_bytes=found.n_bytes, trusted=True)


def _curve(folder: Path) -> tuple[LossPoint, ...]:
    """Means of the loss over equal stretches of a run."""
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
