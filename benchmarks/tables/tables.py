"""Tables of a record: parameters, latency, accuracy, and one summary with a row a model.

Rows that were skipped or failed stay in their table, with the reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.records.record import LatencyRow, ParamsRow, RunRecord, WeightsRow, write_atomic
from benchmarks.tables.accuracy_tables import accuracy_tables, category_tables
from benchmarks.tables.cells import WEIGHTS_COLUMN, Reasons, text_cell, weights_cell
from benchmarks.tables.formatting import MIB, escape_markdown, number
from benchmarks.tables.record_queries import (
    model_names,
    model_row,
    phase_order,
    setups,
    spread_of,
    unique,
)
from benchmarks.tables.summary import provenance, summary_table
from benchmarks.tables.table import Cell, Column, Table
from benchmarks.tables.times import median_cell, median_column, sample_notes, spread_notes

__all__ = [
    "latency_table",
    "params_table",
    "summary_table",
    "write_tables",
]

_STATUS = Column("Status", ("status", "why"))
_MODEL = Column("Model", ("model",))


def params_table(record: RunRecord) -> Table:
    """Parameters, arithmetic and bytes of every component.

    Counts are given whole, in units of 10^6 and of 2^20: published "M" are either, often unsaid.
    """
    columns = (
        _MODEL,
        Column("Component", ("component",)),
        Column("Total", ("total",), align="right"),
        Column("Total", ("total_1e6",), "10^6", "right"),
        Column("Total", ("total_2_20",), "2^20", "right"),
        Column("Used", ("used",), align="right"),
        Column("Used", ("used_1e6",), "10^6", "right"),
        Column("Used", ("used_2_20",), "2^20", "right"),
        Column("Arithmetic", ("flops",), "GFLOP", "right"),
        Column("Weights", ("weight_bytes",), "MiB", "right"),
        _STATUS,
    )
    notes = ["Total: every parameter. Used: those that take part in the forward pass."]
    if any(row.flops is not None for row in record.params):
        notes.append(
            "One multiply-add is 2 FLOP. Encoder: one image; prompt encoder and mask decoder: one "
            "point prompt."
        )
    left_out = sorted({op for row in record.params for op in row.flops_not_counted})
    if left_out:
        notes.append(f"FLOP leave out: {', '.join(left_out)}; by component in the record.")
    reasons = Reasons()
    rows = tuple(_params_cells(row, reasons) for row in record.params)
    return Table(
        "params", "Parameters and arithmetic", columns, rows, (*unique(notes), *reasons.notes())
    )


def _params_cells(row: ParamsRow, reasons: Reasons) -> tuple[Cell, ...]:
    return (
        text_cell(row.model),
        text_cell(row.component),
        *_count(row.total),
        *_count(row.used),
        Cell("" if row.flops is None else number(row.flops / 1e9), (row.flops,)),
        Cell(
            "" if row.weight_bytes is None else number(row.weight_bytes / MIB),
            (row.weight_bytes,),
        ),
        reasons.status_cell(row.status, row.why),
    )


def _count(value: int | None) -> tuple[Cell, Cell, Cell]:
    """A count of parameters: whole, / 10^6, / 2^20, from the integer and nothing else."""
    if value is None:
        return (Cell("", (None,)),) * 3
    return (
        Cell(f"{value:,}", (value,)),
        Cell(f"{value / 1e6:.3f}", (value / 1e6,)),
        Cell(f"{value / MIB:.3f}", (value / MIB,)),
    )


def latency_table(record: RunRecord) -> Table:
    """Times of every phase: median with interval or range, and percentiles if n is large enough."""
    timed = setups(record)
    one_setup = len(timed) == 1
    columns = (
        _MODEL,
        WEIGHTS_COLUMN,
        Column("Device", ("device",), csv_only=one_setup),
        Column("Precision", ("precision",), csv_only=one_setup),
        Column("Threads", ("threads",), align="right", csv_only=one_setup),
        Column("Phase", ("phase",)),
        Column("Prompts", ("n_prompts",), align="right"),
        Column("Decode kind", ("decode_kind",)),
        median_column(record.latency),
        Column("Mean", ("mean_ms",), "ms", "right"),
        Column("Min", ("min_ms",), "ms", "right"),
        Column("p95", ("p95_ms",), "ms", "right"),
        Column("p99", ("p99_ms",), "ms", "right"),
        Column("Calls", ("n",), align="right"),
        Column("Processes", ("processes",), align="right"),
        _STATUS,
    )
    order = model_names(record)
    rows = sorted(record.latency, key=lambda row: (order.index(row.model), phase_order(row)))
    notes = []
    if any(row.status == "ok" for row in rows):
        notes.append("A percentile is empty where there are too few calls to carry it.")
    if any(row.weights == "random" for row in rows):
        notes.append(
            "random: seeded random weights on the exact architecture, whose time is the same."
        )
    if len({row.decode_kind for row in rows}) > 1:
        notes.append(
            "Decode kind: `decoder` runs a network for each prompt, `select` picks among masks "
            "that encode has found, `classical` runs an algorithm; their times do not compare."
        )
    notes += [*spread_notes(map(spread_of, rows)), *sample_notes(rows)]
    if one_setup:
        notes.insert(0, f"Measured on {timed[0].label}.")
    reasons = Reasons()
    cells = tuple(_latency_cells(record, row, reasons) for row in rows)
    return Table("latency", "Latency", columns, cells, (*unique(notes), *reasons.notes()))


def _latency_cells(record: RunRecord, row: LatencyRow, reasons: Reasons) -> tuple[Cell, ...]:
    info = model_row(record, row.model)
    same = info is not None and info.weights.kind == row.weights
    weights = info.weights if same and info is not None else WeightsRow(kind=row.weights)
    return (
        text_cell(row.model),
        weights_cell(weights),
        text_cell(row.device),
        text_cell(row.precision),
        Cell(str(row.threads), (row.threads,)),
        text_cell(row.phase),
        Cell("" if row.n_prompts is None else str(row.n_prompts), (row.n_prompts,)),
        # Elsewhere the kind of decoding has no bearing on the time.
        Cell((row.decode_kind or "") if row.phase == "decode" else "", (row.decode_kind,)),
        median_cell(row),
        *(
            Cell("" if value is None else number(value), (value,))
            for value in (row.mean_ms, row.min_ms, row.p95_ms, row.p99_ms)
        ),
        Cell(str(row.n), (row.n,)),
        Cell(str(row.processes), (row.processes,)),
        reasons.status_cell(row.status, row.why),
    )


def write_tables(record: RunRecord, folder: Path) -> list[Path]:
    """Writes every table as `tables/NAME.md`, `.csv` and `.tex`, and `summary.md` with all of it.

    Args:
        record: One run, or several that `merge_records` joined.
        folder: Made where absent; older files of the same names are replaced.

    Returns:
        The files, in the order of writing. A table without rows is not written.

    Raises:
        DataError: The folder cannot be written.
    """
    shown = (
        summary_table(record),
        params_table(record),
        latency_table(record),
        *accuracy_tables(record),
    )
    tables = (*shown, *category_tables(record))
    written = []
    for table in tables:
        if not table.rows:
            continue
        for suffix, text in (
            ("md", table.to_markdown()),
            ("csv", table.to_csv()),
            ("tex", table.to_latex()),
        ):
            path = folder / "tables" / f"{table.name}.{suffix}"
            write_atomic(path, text.encode())
            written.append(path)
    path = folder / "summary.md"
    write_atomic(path, summary_document(record, shown).encode())
    return [*written, path]


def summary_document(record: RunRecord, tables: Sequence[Table]) -> str:
    """One Markdown document: where the run was made, all tables, failures and warnings."""
    parts = [
        f"# Run {escape_markdown(record.id)}\n",
        "".join(f"- {escape_markdown(line)}\n" for line in provenance(record)),
        *(table.to_markdown() for table in tables if table.rows),
    ]
    if not any(table.rows for table in tables):
        parts.append("Nothing was measured.\n")
    if record.failures:
        lines = (
            f"{failure.stage}, {failure.culprit}: {failure.why}" for failure in record.failures
        )
        parts.append("## Failures\n\n" + "".join(f"- {escape_markdown(x)}\n" for x in lines))
    if record.warnings:
        parts.append(
            "## Warnings\n\n" + "".join(f"- {escape_markdown(x)}\n" for x in record.warnings)
        )
    return "\n".join(parts)
