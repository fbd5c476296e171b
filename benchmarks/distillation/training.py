"""One training as `distill train` runs it, and the evaluation of its student on the way."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from baselines.boundary import naming
from baselines.registry import build
from baselines.sam import SamSegmenter
from benchmarks.config.from_options import make_config
from benchmarks.config.model_resolution import ResolvedModel
from benchmarks.config.options import AccuracyArguments, ModelArguments, OutputArguments
from benchmarks.prompts.protocols import GROUND_TRUTH
from benchmarks.records.progress import Reporter
from benchmarks.records.record import RECORD_NAME, MiouRow, RunRecord
from benchmarks.run import execute
from benchmarks.tables.formatting import percent
from mobilesam.distillation.batches import TrainingSet
from mobilesam.distillation.schemes import Scheme
from mobilesam.distillation.students import shape_of
from mobilesam.distillation.train_config import TrainConfig
from mobilesam.distillation.training_loop import (
    CheckpointCallback,
    ProcessGroup,
    StepCallback,
    StepReport,
    TrainState,
    train,
)
from mobilesam.errors import DataError, UsageError
from mobilesam.files import write_atomic
from mobilesam.model.model_files import save_model

STUDENT_NAME = "student.safetensors"
EVALUATIONS_NAME = "evaluations.jsonl"


@dataclass(frozen=True, slots=True)
class Trained:
    """Result of a training.

    Attributes:
        path: File of the student.
        steps: Number of steps, over all resumed runs.
        seconds: Training time, over all resumed runs.
        loss: Loss of the last step; None if no step was left.
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
    processes: ProcessGroup,
    on_checkpoint: CheckpointCallback | None = None,
) -> Trained:
    """Trains a student, resuming an interrupted run, and writes it.

    Args:
        scheme: The scheme.
        data: Training set.
        folder: Folder for checkpoint, metrics and the student.
        reporter: Reports progress.
        processes: Processes that train together.
        on_checkpoint: As in `mobilesam.distillation.training_loop.train`.

    Raises:
        BenchError: As `train` does.
    """
    losses: list[float] = []
    with progress(scheme.config, f"{scheme.name} distillation", reporter, processes) as show:

        def on_step(report: StepReport) -> None:
            losses[:] = [report.loss]
            show(report)

        state = train(
            scheme,
            data,
            folder,
            processes=processes,
            on_step=on_step,
            on_checkpoint=on_checkpoint,
        )
    path = folder / STUDENT_NAME
    if processes.rank == 0:
        save_model(path, shape_of(scheme.student, training_notes(state)), state.result())
    processes.wait()
    return Trained(path, state.step, state.seconds, losses[0] if losses else None)


def sam_teacher(planned: ResolvedModel) -> SamSegmenter:
    """Builds a teacher.

    Raises:
        UsageError: It has no SAM heads to copy.
    """
    with naming(planned.entry.name):
        model = build(planned.entry, planned.options)
    if not isinstance(model, SamSegmenter):
        raise UsageError(
            f"{planned.entry.name} has no heads of SAM to copy; choose another teacher"
        )
    return model


def training_notes(state: TrainState) -> dict[str, Any]:
    """How a student was trained, for the header of its file."""
    return {**state.identity, "steps": state.step, "seconds": round(state.seconds, 1)}


@contextmanager
def progress(
    config: TrainConfig, title: str, reporter: Reporter, processes: ProcessGroup
) -> Iterator[StepCallback]:
    """A progress bar over the steps of a training, with the loss and the time left.

    Args:
        config: Settings of the run.
        title: Title of the bar.
        reporter: Reports progress, in the first process only.
        processes: Processes that train together.
    """
    shown = reporter if processes.rank == 0 else Reporter(quiet=True)
    with shown.bar(title, config.steps) as bar:

        def on_step(report: StepReport) -> None:
            left_s = report.seconds / report.step * (config.steps - report.step)
            bar.step(f"loss {report.loss:.4f}, {left_s / 60:.1f} min left", done=report.step)

        yield on_step


def training_device(name: str) -> torch.device:
    """Device of this process; with several GPUs the one that `torchrun` assigned."""
    if name == "cuda" and "LOCAL_RANK" in os.environ:
        return torch.device(f"cuda:{os.environ['LOCAL_RANK']}")
    return torch.device(name)


@dataclass(frozen=True, slots=True)
class StudentEvaluation:
    """Evaluates students against their teacher and ground truth, as `mobilesam-bench miou` does.

    Attributes:
        teacher: Registry name of the teacher.
        models: Arguments with devices, threads and the teacher's weights.
        accuracy: Images and protocols; `reference` is not used.
    """

    teacher: str
    models: ModelArguments
    accuracy: AccuracyArguments

    @property
    def student(self) -> str:
        """Registry name under which the student runs."""
        return "mobilesam-fast" if self.teacher == "mobilesam" else "mobilesam"

    def run(self, student: Path, out: Path, reporter: Reporter) -> RunRecord:
        """Evaluates the file of a student.

        Args:
            student: File written by `distill train`.
            out: Folder of the record.
            reporter: Reports progress.

        Raises:
            BenchError: As `mobilesam-bench miou` does.
        """
        request = make_config(
            "miou",
            replace(
                self.models,
                models=self.student,
                weights=(*self.models.weights, f"{self.student}={student}"),
            ),
            OutputArguments(out=out),
            accuracy=replace(self.accuracy, reference=f"teacher:{self.teacher},{GROUND_TRUTH}"),
        )
        return execute(request, reporter)


class CheckpointEvaluator:
    """Evaluates a student at the start and at each checkpoint; appends JSON lines to a file.

    A resumed training does not repeat finished evaluations.
    """

    def __init__(self, evaluation: StudentEvaluation, folder: Path, reporter: Reporter) -> None:
        self._evaluation = evaluation
        self._folder = folder / "evaluation"
        self._path = folder / EVALUATIONS_NAME
        self._reporter = reporter

    def __call__(self, state: TrainState) -> None:
        """Evaluates the student of a training state.

        Raises:
            BenchError: The evaluation failed, or its result cannot be written.
        """
        lines = self._lines()
        if any(line["step"] == state.step for line in lines):
            return
        student = self._folder / "evaluated.safetensors"
        notes = training_notes(state)
        save_model(student, shape_of(state.scheme.student, notes), state.result())
        # The record is of an earlier step; the teacher's predictions beside it are reused.
        (self._folder / RECORD_NAME).unlink(missing_ok=True)
        record = self._evaluation.run(student, self._folder, Reporter(quiet=True))
        found = [_evaluation_line(state.step, row) for row in record.miou]
        text = "".join(f"{json.dumps(line)}\n" for line in [*lines, *found])
        write_atomic(self._path, text.encode())
        scores = ", ".join(
            f"{line['protocol']} vs {line['reference']} "
            + (line["why"] if line["miou"] is None else f"{percent(line['miou'])} %")
            for line in found
        )
        self._reporter.say(f"  after {state.step} steps, mIoU: {scores}")

    def _lines(self) -> list[dict[str, Any]]:
        if not self._path.exists():
            return []
        try:
            return [json.loads(line) for line in self._path.read_text("utf-8").splitlines()]
        except ValueError as error:
            raise DataError(f"{self._path} is damaged: {error}; delete it") from error


def _evaluation_line(step: int, row: MiouRow) -> dict[str, Any]:
    fields = {"protocol", "reference", "miou", "ci95", "n_images", "n_instances", "why"}
    return {"step": step, **row.model_dump(mode="json", include=fields)}
