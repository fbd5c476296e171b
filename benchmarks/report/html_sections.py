"""The sections of the HTML report: which figures and tables stand where."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from benchmarks.paper.paper_output import ledger_table, paper_tables
from benchmarks.paper.verdicts import ClaimVerdict
from benchmarks.records.record import RunRecord
from benchmarks.report.html_accuracy import accuracy_by_size, accuracy_latency
from benchmarks.report.html_figure import Figure, series
from benchmarks.report.html_history import history, runs_table
from benchmarks.report.html_latency import decode_prompts, waterfall
from benchmarks.report.html_tables import (
    TableView,
    environment_table,
    failures_table,
    models_table,
    table_view,
)
from benchmarks.tables.accuracy_tables import accuracy_tables, category_tables
from benchmarks.tables.record_queries import headline, setups
from benchmarks.tables.record_tables import latency_table, params_table, summary_table
from benchmarks.tables.table import Table

GALLERY = "gallery"


@dataclass(frozen=True, slots=True)
class FigureView:
    """A figure with its values as a table."""

    figure: Figure
    values: TableView


@dataclass(frozen=True, slots=True)
class Group:
    """Figures of one kind, of which one is shown at a time where scripts run.

    Attributes:
        key: Unique within the page.
        label: What is chosen, such as `Protocol`.
        figures: At least one.
    """

    key: str
    label: str
    figures: tuple[FigureView, ...]


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the page.

    Attributes:
        key: Its anchor.
        short: Its name where room is short.
        title: Its heading.
        lead: What to look for, in one or two sentences.
        groups: Figures.
        tables: Tables.
        empty: What is said where there is neither.
        items: Plain lines, such as warnings.
    """

    key: str
    short: str
    title: str
    lead: str
    groups: tuple[Group, ...] = ()
    tables: tuple[TableView, ...] = ()
    empty: str = "Nothing of this was measured."
    items: tuple[str, ...] = ()


def sections(
    record: RunRecord,
    runs: Sequence[RunRecord],
    apart: dict[str, str],
    verdicts: Sequence[ClaimVerdict],
) -> tuple[Section, ...]:
    """Every section but the summary, in order; that of the gallery is empty.

    Args:
        record: One run, or several that were merged.
        runs: All runs, for the history.
        apart: Id of each run that is not in `record`, with the reason.
        verdicts: On the ledger of claims.
    """
    return (
        *_measured(record),
        *_scored(record),
        Section(
            GALLERY,
            "Gallery",
            "Gallery",
            "The same image and prompt through every model, beside the ground truth.",
        ),
        _claims(verdicts),
        _history(record, runs, apart),
        Section(
            "environment",
            "Environment",
            "Environment and provenance",
            "Where and with what the newest run was made.",
            tables=(table_view(environment_table(record)), table_view(models_table(record))),
        ),
        _warnings(record),
    )


def _measured(record: RunRecord) -> tuple[Section, ...]:
    timed, scored = setups(record), headline(record)
    return (
        Section(
            "glance",
            "Models",
            "Models at a glance",
            "One row a model; a cell without a number says why.",
            tables=_tables([summary_table(record)]),
        ),
        Section(
            "accuracy-latency",
            "Trade-off",
            "Accuracy against latency",
            "Up and to the left is better.",
            groups=_group(
                "accuracy-latency",
                "Protocol",
                [accuracy_latency(record, setup, p) for setup in timed for p in scored],
            ),
            empty="This needs an accuracy and a time of the same model.",
        ),
        Section(
            "latency",
            "Latency",
            "Latency by phase",
            "What one image and one prompt cost, and where that time goes.",
            groups=_group("waterfall", "Setup", [waterfall(record, setup) for setup in timed]),
            tables=_tables([latency_table(record)]),
        ),
        Section(
            "decode",
            "Decoder",
            "Decoder time against prompts",
            "The image is encoded once; every further prompt costs this much.",
            groups=_group("decode", "Setup", [decode_prompts(record, setup) for setup in timed]),
        ),
    )


def _scored(record: RunRecord) -> tuple[Section, ...]:
    sizes = [accuracy_by_size(record, protocol) for protocol in headline(record)]
    categories = (
        table_view(each, f"{each.name}-{index}", folded=True)
        for index, each in enumerate(category_tables(record))
        if each.rows
    )
    return (
        Section(
            "accuracy",
            "Accuracy",
            "Accuracy",
            "By the size of objects, by protocol, and with what cannot be told apart.",
            groups=_group("size", "Protocol", sizes),
            tables=(*_tables(accuracy_tables(record)), *categories),
        ),
        Section(
            "parameters",
            "Parameters",
            "Parameters and arithmetic",
            "Exact counts by component.",
            tables=_tables([params_table(record)]),
        ),
    )


def _claims(verdicts: Sequence[ClaimVerdict]) -> Section:
    tables: tuple[TableView, ...] = ()
    if verdicts:
        shown = (table_view(each, folded=True) for each in paper_tables(verdicts))
        tables = (table_view(ledger_table(verdicts), folded=False), *shown)
    return Section(
        "claims",
        "Claims",
        "Published claims",
        "Every published figure of the ledger with what was measured or counted here, and a "
        "verdict.",
        tables=tables,
    )


def _history(record: RunRecord, runs: Sequence[RunRecord], apart: dict[str, str]) -> Section:
    lead = "How times and accuracies went from run to run."
    if len(runs) < 2:
        lead = "A history needs two runs at least: name more, or the folder that holds them."
    return Section(
        "history",
        "History",
        "History",
        lead,
        groups=_group("history", "Quantity", history(runs, series(record))),
        tables=_tables([runs_table(runs, apart)]),
    )


def _warnings(record: RunRecord) -> Section:
    return Section(
        "warnings",
        "Warnings",
        "Warnings and failures",
        "What may spoil the numbers above.",
        tables=_tables([failures_table(record)]),
        items=record.warnings,
        empty="No warning, and nothing failed.",
    )


def _tables(tables: Iterable[Table]) -> tuple[TableView, ...]:
    return tuple(table_view(t) for t in tables if t.rows)


def _group(key: str, label: str, figures: Iterable[Figure | None]) -> tuple[Group, ...]:
    found = tuple(
        FigureView(figure, table_view(figure.table, f"{figure.key}-values", folded=True))
        for figure in figures
        if figure is not None
    )
    return (Group(key, label, found),) if found else ()
