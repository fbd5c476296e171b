"""Tables as the HTML report shows them: cells with the values that they are sorted by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.records.record import RunRecord, WeightsRow
from benchmarks.tables.columns import text_cell
from benchmarks.tables.formatting import clean, number
from benchmarks.tables.table import Align, Cell, Column, Table

MOST_OPEN_ROWS = 30
"""A table of more rows is folded, so that the page can be read."""
LEAST_FILTER_ROWS = 15


@dataclass(frozen=True, slots=True)
class CellView:
    """One cell.

    Attributes:
        text: What people read.
        value: What it is sorted by where that is not the text; empty for a cell without a number.
        align: Of its column.
    """

    text: str
    value: str | None
    align: Align


@dataclass(frozen=True, slots=True)
class TableView:
    """A table on the page.

    Attributes:
        key: Unique within the page; stem of the file it is saved as.
        title: One line.
        heads: Title and alignment of every column.
        rows: Cells, the first of which names the row.
        notes: Plain sentences.
        csv: The untouched values.
        folded: Shown only when asked.
        filtered: Has a field that filters rows.
    """

    key: str
    title: str
    heads: tuple[tuple[str, Align], ...]
    rows: tuple[tuple[CellView, ...], ...]
    notes: tuple[str, ...]
    csv: str
    folded: bool
    filtered: bool


def table_view(table: Table, key: str = "", *, folded: bool | None = None) -> TableView:
    """A table for the page.

    Args:
        table: Rows and columns.
        key: Instead of the table's own name.
        folded: Whether it is folded; by its length unless told.
    """
    shown = [i for i, column in enumerate(table.columns) if not column.csv_only]
    rows = tuple(tuple(_cell(row[i], table.columns[i].align) for i in shown) for row in table.rows)
    return TableView(
        key=key or table.name,
        title=table.title,
        heads=tuple((clean(table.columns[i].title), table.columns[i].align) for i in shown),
        rows=rows,
        notes=table.footnotes,
        csv=table.to_csv(),
        folded=len(rows) > MOST_OPEN_ROWS if folded is None else folded,
        filtered=len(rows) >= LEAST_FILTER_ROWS,
    )


def _cell(cell: Cell, align: Align) -> CellView:
    first = cell.raw[0] if cell.raw else None
    value: str | None = None
    if isinstance(first, int | float):
        value = repr(float(first))
    elif first is None:
        value = ""
    return CellView(clean(cell.text), value, align)


def environment_table(record: RunRecord) -> Table:
    """The machine, the libraries and the code, one row each."""
    env = record.environment
    cores = f"{env.cpu_physical_cores or '?'} physical, {env.cpu_logical_cores} logical"
    commit = env.git_commit or "unknown, or several"
    dirty = {True: "yes", False: "no", None: "unknown, or several"}[env.git_dirty]
    facts = [
        ("CPU", env.cpu),
        ("Cores", cores),
        ("CPU features", ", ".join(env.cpu_features) or "unknown"),
        ("GPU", ", ".join(env.gpu) or "none"),
        ("RAM", f"{number(env.ram_bytes / 2**30)} GiB"),
        ("Operating system", env.os),
        ("Python", env.python),
        ("Threads", f"{env.threads}, between operators {env.interop_threads}"),
        ("Allocator", env.allocator),
        ("Load before the run", "unknown" if env.load_1min is None else f"{env.load_1min:.1f}"),
        ("Commit", commit),
        ("Uncommitted changes", dirty),
        *((f"Library {name}", version) for name, version in sorted(env.libraries.items())),
    ]
    return _facts("environment", "Environment", facts)


def models_table(record: RunRecord) -> Table:
    """Every model with its licence and its weights."""
    columns = tuple(
        Column(head, (raw,))
        for head, raw in (
            ("Model", "model"),
            ("Family", "family"),
            ("Decode kind", "decode_kind"),
            ("Licence", "licence"),
            ("Weights", "weights"),
            ("SHA-256 of the weights", "sha256"),
            ("Status", "status"),
            ("Why", "why"),
        )
    )
    rows = tuple(
        tuple(
            text_cell(text)
            for text in (
                row.model,
                row.family,
                row.decode_kind,
                row.licence,
                _weights_text(row.weights),
                row.weights.sha256 or "",
                row.status,
                row.why or row.weights.why or "",
            )
        )
        for row in record.models
    )
    return Table("models", "Models and their weights", columns, rows)


def failures_table(record: RunRecord) -> Table:
    """What went wrong and was survived."""
    columns = (
        Column("Stage", ("stage",)),
        Column("Culprit", ("culprit",)),
        Column("Why", ("why",)),
    )
    rows = tuple(
        (text_cell(each.stage), text_cell(each.culprit), text_cell(each.why))
        for each in record.failures
    )
    return Table("failures", "Failures", columns, rows)


def _facts(name: str, title: str, facts: Sequence[tuple[str, str]]) -> Table:
    columns = (Column("What", ("what",)), Column("Value", ("value",)))
    rows = tuple((text_cell(what), text_cell(value)) for what, value in facts)
    return Table(name, title, columns, rows)


def _weights_text(weights: WeightsRow) -> str:
    """Kind of the weights, whether they are official, and where shipped ones come from."""
    if weights.shipped is not None:
        return f"shipped ({weights.shipped}), not official"
    return f"{weights.kind}{', official' if weights.official else ''}"
