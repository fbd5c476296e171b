"""Writes the experiment's record, and the tables and plots that are derived from it."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from benchmarks.distillation.experiment import DistillationRecord
from benchmarks.distillation.plots import curves_figure, schemes_figure
from benchmarks.distillation.tables import compute_table, schemes_table
from benchmarks.records.record import RECORD_NAME, document_of, write_atomic
from benchmarks.report.style import plot_style, save_figure
from mobilesam.errors import DataError
from mobilesam.validation import first_problem


def save(record: DistillationRecord, folder: Path) -> Path:
    """Writes the record into a folder; returns its path."""
    path = folder / RECORD_NAME
    write_atomic(path, document_of(record, path, indent=1))
    return path


def load(folder: Path) -> DistillationRecord:
    """Reads the record of a folder.

    Raises:
        DataError: It is missing or of another version.
    """
    path = folder / RECORD_NAME
    try:
        return DistillationRecord.model_validate_json(path.read_bytes())
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    except ValidationError as error:
        raise DataError(
            f"{path} is no record of distill compare: {first_problem(error)}"
        ) from error


def documents(record: DistillationRecord) -> dict[str, str]:
    """Text of each table's files, by name."""
    found = {}
    for table in (schemes_table(record), compute_table(record)):
        found[f"{table.name}.md"] = table.to_markdown()
        found[f"{table.name}.csv"] = table.to_csv()
        found[f"{table.name}.tex"] = table.to_latex()
    return found


def derive(record: DistillationRecord, folder: Path) -> list[Path]:
    """Writes tables and plots beside the record; returns their paths."""
    paths = []
    for name, text in documents(record).items():
        write_atomic(folder / name, text.encode())
        paths.append(folder / name)
    with plot_style():
        for name, figure in (
            ("distillation-schemes", schemes_figure(record)),
            ("distillation-losses", curves_figure(record)),
        ):
            paths += save_figure(figure, folder, name)
    return paths
