"""How near a student is to its teacher, by the same runner as `mobilesam-bench miou`."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.config.options import AccuracyArguments, ModelArguments, OutputArguments
from benchmarks.config.requests import make_request
from benchmarks.distillation.training import notes, shape_of
from benchmarks.prompts.protocols import GROUND_TRUTH
from benchmarks.records.progress import Reporter
from benchmarks.records.record import RECORD_NAME, MiouRow, RunRecord
from benchmarks.run import execute
from benchmarks.tables.formatting import percent
from mobilesam.distillation.state import TrainState
from mobilesam.errors import DataError
from mobilesam.files import write_atomic
from mobilesam.model.model_files import save_model

EVALUATIONS_NAME = "evaluations.jsonl"
_STUDENT_NAME = "evaluated.safetensors"
_FOLDER = "evaluation"


@dataclass(frozen=True, slots=True)
class Agreement:
    """What a student is evaluated on, and beside whom.

    Attributes:
        teacher: Registry name.
        models: Arguments that say how models are run, and where the teacher's weights are.
        accuracy: Images and protocols; its `reference` is not read.
    """

    teacher: str
    models: ModelArguments
    accuracy: AccuracyArguments

    @property
    def student(self) -> str:
        """Registry name that the student goes by: something that runs a MobileSAM."""
        return "mobilesam-fast" if self.teacher == "mobilesam" else "mobilesam"

    def of(self, student: Path, out: Path, reporter: Reporter) -> RunRecord:
        """Evaluates a student's file against its teacher and against ground truth.

        Args:
            student: As `distill train` writes it.
            out: Folder of the record.
            reporter: Told about progress.

        Raises:
            BenchError: As `mobilesam-bench miou` does.
        """
        request = make_request(
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


class Watcher:
    """Evaluates a training at its start and at each checkpoint; a line of JSON each.

    What has been evaluated before the training was interrupted is not evaluated again.

    Args:
        agreement: On what.
        folder: Of the training.
        reporter: Told about each evaluation.
    """

    def __init__(self, agreement: Agreement, folder: Path, reporter: Reporter) -> None:
        self._agreement = agreement
        self._folder = folder
        self._path = folder / EVALUATIONS_NAME
        self._reporter = reporter

    def __call__(self, state: TrainState) -> None:
        """Evaluates the student as it is, unless that was done before.

        Raises:
            BenchError: As evaluation and writing do.
        """
        lines = self._lines()
        if any(line["step"] == state.step for line in lines):
            return
        out = self._folder / _FOLDER
        student = out / _STUDENT_NAME
        save_model(student, shape_of(state.scheme.student, notes(state)), state.result())
        # Of the student as it was: its figures are among the lines. What else lies there is the
        # teacher's answers, which need not be given again.
        (out / RECORD_NAME).unlink(missing_ok=True)
        record = self._agreement.of(student, out, Reporter(quiet=True))
        found = [_line(state.step, row) for row in record.miou]
        text = "".join(f"{json.dumps(line)}\n" for line in [*lines, *found])
        write_atomic(self._path, text.encode())
        told = ", ".join(
            f"{line['protocol']} vs {line['reference']} "
            + (line["why"] if line["miou"] is None else f"{percent(line['miou'])} %")
            for line in found
        )
        self._reporter.say(f"  after {state.step} steps, mIoU: {told}")

    def _lines(self) -> list[dict[str, Any]]:
        if not self._path.exists():
            return []
        try:
            return [json.loads(line) for line in self._path.read_text("utf-8").splitlines()]
        except ValueError as error:
            raise DataError(f"{self._path} is damaged: {error}; delete it") from error


def _line(step: int, row: MiouRow) -> dict[str, Any]:
    fields = {"protocol", "reference", "miou", "ci95", "n_images", "n_instances", "why"}
    return {"step": step, **row.model_dump(mode="json", include=fields)}
