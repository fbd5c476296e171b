"""Sections of the HTML report: the figures and tables of each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from benchmarks.paper.paper_output import ledger_table, paper_tables
from benchmarks.paper.verdicts import ClaimVerdict
from benchmarks.records.record import RunRecord, WeightsRow
from benchmarks.report.charts import (
    Figure,
    accuracy_by_size,
    accuracy_latency,
    decode_prompts,
    history,
    waterfall,
)
from benchmarks.report.frames import machine_label
from benchmarks.tables.accuracy_tables import accuracy_tables, category_tables
from benchmarks.tables.columns import (
    RowColumn,
    build_table,
    count_column,
    text_column,
    value_column,
)
from benchmarks.tables.formatting import number
from benchmarks.tables.record_queries import headline, model_names, setups
from benchmarks.tables.record_tables import latency_table, params_table, summary_table
from benchmarks.tables.table import Cell, Column, Table

MOST_OPEN_ROWS = 30
"""A longer table is collapsed."""
LEAST_FILTER_ROWS = 15
"""A table of at least so many rows has a field that filters rows."""


@dataclass(frozen=True, slots=True)
class ListedTable:
    """A table on the page; its key is unique there and the stem of the saved file."""

    key: str
    table: Table
    folded: bool

    @property
    def filtered(self) -> bool:
        """Whether it has a field that filters rows."""
        return len(self.table.rows) >= LEAST_FILTER_ROWS


@dataclass(frozen=True, slots=True)
class Section:
    """Figures, of which one at a time is shown, and tables of a section of the page."""

    figures: tuple[Figure, ...] = ()
    tables: tuple[ListedTable, ...] = ()


def sections(
    record: RunRecord,
    runs: Sequence[RunRecord],
    apart: dict[str, str],
    verdicts: Sequence[ClaimVerdict],
) -> dict[str, Section]:
    """Content of the sections that hold figures or tables, by the anchors in `page.html`.

    Args:
        record: One run, or several merged ones.
        runs: All runs, for the history.
        apart: Reason by id for every run that is not part of `record`.
        verdicts: Verdicts on published claims.
    """
    timed, scored = setups(record), headline(record)
    trade_offs = (accuracy_latency(record, setup, p) for setup in timed for p in scored)
    categories = tuple(
        replace(listed, key=f"{listed.key}-{index}")
        for index, table in enumerate(category_tables(record))
        for listed in _listed([table], folded=True)
    )
    claims: tuple[ListedTable, ...] = ()
    if verdicts:
        claims = _listed([ledger_table(verdicts)], folded=False)
        claims += _listed(paper_tables(verdicts), folded=True)
    return {
        "glance": Section(tables=_listed([summary_table(record)])),
        "accuracy-latency": Section(_known(trade_offs)),
        "latency": Section(
            _known(waterfall(record, setup) for setup in timed), _listed([latency_table(record)])
        ),
        "decode": Section(_known(decode_prompts(record, setup) for setup in timed)),
        "accuracy": Section(
            _known(accuracy_by_size(record, protocol) for protocol in scored),
            (*_listed(accuracy_tables(record)), *categories),
        ),
        "parameters": Section(tables=_listed([params_table(record)])),
        "claims": Section(tables=claims),
        "history": Section(
            tuple(history(runs, model_names(record))), _listed([runs_table(runs, apart)])
        ),
        "environment": Section(tables=_listed([environment_table(record), models_table(record)])),
        "warnings": Section(tables=_listed([failures_table(record)])),
    }


def _known(figures: Iterable[Figure | None]) -> tuple[Figure, ...]:
    return tuple(figure for figure in figures if figure is not None)


def _listed(tables: Iterable[Table], *, folded: bool | None = None) -> tuple[ListedTable, ...]:
    """Tables that have rows; long ones are collapsed unless told otherwise."""
    return tuple(
        ListedTable(
            table.name, table, len(table.rows) > MOST_OPEN_ROWS if folded is None else folded
        )
        for table in tables
        if table.rows
    )


def sort_key(cell: Cell) -> str | None:
    """Number that a cell is sorted by, empty without one; None if it is sorted by its text."""
    first = cell.raw[0] if cell.raw else None
    return None if isinstance(first, str) else "" if first is None else repr(float(first))


def environment_table(record: RunRecord) -> Table:
    """Machine, libraries and code version, one row each."""
    env = record.environment
    cores = f"{env.cpu_physical_cores or '?'} physical, {env.cpu_logical_cores} logical"
    changes = {True: "yes", False: "no", None: "unknown, or several"}
    rows = [
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
        ("Commit", env.git_commit or "unknown, or several"),
        ("Uncommitted changes", changes[env.git_dirty]),
        *((f"Library {name}", version) for name, version in sorted(env.libraries.items())),
    ]
    columns = (text_column("Property", "what", get=["0"]), text_column("Value", "value", get=["1"]))
    return build_table("environment", "Environment", columns, rows)


def models_table(record: RunRecord) -> Table:
    """Every model with its licence and its weights."""
    columns = (
        text_column("Model", "model"),
        text_column("Family", "family"),
        text_column("Decode kind", "decode_kind"),
        text_column("Licence", "licence"),
        text_column("Weights", "weights", get=[lambda row: _weights_text(row.weights)]),
        text_column("SHA-256 of the weights", "sha256", get=["weights.sha256"]),
        text_column("Status", "status"),
        text_column("Reason", "why", get=[lambda row: row.why or row.weights.why]),
    )
    return build_table("models", "Models and their weights", columns, record.models)


def _weights_text(weights: WeightsRow) -> str:
    if weights.shipped is not None:
        return f"shipped ({weights.shipped}), not official"
    return f"{weights.kind}{', official' if weights.official else ''}"


def failures_table(record: RunRecord) -> Table:
    """Failures that did not end the run."""
    columns = (
        text_column("Stage", "stage"),
        text_column("Source", "culprit"),
        text_column("Reason", "why"),
    )
    return build_table("failures", "Failures", columns, record.failures)


def runs_table(runs: Sequence[RunRecord], apart: dict[str, str]) -> Table:
    """All runs, newest first, with the reason where one is in the history only.

    Args:
        runs: Runs in any order.
        apart: Reason by id for every run that could not be merged with the others.
    """

    def joined(run: RunRecord) -> str:
        text = "rows and history" if run.id not in apart else f"history only: {apart[run.id]}"
        return text if run.complete else f"interrupted; {text}"

    columns = (
        text_column("Run", "id"),
        text_column("Date", "created_utc"),
        text_column("Command", "command"),
        text_column("Profile", "profile"),
        count_column("Models", "n_models", get=[lambda run: len(run.models)]),
        value_column("Duration", "duration_s", show="{:.0f}".format, unit="s"),
        text_column("Machine", "machine", get=[lambda run: machine_label(run.environment)]),
        RowColumn(Column("Commit", ("git_commit", "git_dirty")), _commit_cell),
        text_column("On this page", "joined", get=[joined]),
    )
    ordered = sorted(runs, key=lambda run: (run.created_utc, run.id), reverse=True)
    return build_table("runs", "Runs", columns, ordered)


def _commit_cell(run: RunRecord) -> Cell:
    env = run.environment
    text = f"{(env.git_commit or 'unknown')[:12]}{' with changes' if env.git_dirty else ''}"
    return Cell(text, (env.git_commit, env.git_dirty))
