"""Columns declared as data: header, CSV names, unit, and how the value of a row is formatted."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from benchmarks.records.record import EverythingRow, LatencyRow, WeightsRow
from benchmarks.records.statistics import MIN_PROCESSES, Spread
from benchmarks.tables.formatting import clean, number, percent, spread_text
from benchmarks.tables.record_queries import (
    accuracy_name,
    shipped_notes,
    spread_of,
    unique,
    weights_label,
)
from benchmarks.tables.table import Align, Cell, Column, Raw, Table

ENDS = ("ci95_low", "ci95_high", "range_low", "range_high")
"""Ends of the interval and of the range of a median time; one of the two pairs is empty."""
MAX_INLINE_REASON = 24
"""Longest reason, in characters, that is displayed in its cell and not as a footnote."""


@dataclass(frozen=True, slots=True)
class RowColumn:
    """A column, and the function that makes its cell from a row of any type."""

    column: Column
    cell: Callable[[Any], Cell]


def build_table(
    name: str,
    title: str,
    columns: Sequence[RowColumn],
    rows: Iterable[Any],
    notes: Iterable[str] = (),
) -> Table:
    """Makes a table with a row for each of `rows`; long reasons become numbered footnotes."""
    numbers: dict[str, int] = {}

    def numbered(cell: Cell) -> Cell:
        if cell.reason is None:
            return cell
        index = numbers.setdefault(cell.reason, len(numbers) + 1)
        return replace(cell, text=f"{cell.text} ({index})", reason=None)

    cells = tuple(tuple(numbered(each.cell(row)) for each in columns) for row in rows)
    reasons = (f"({index}) {reason}" for reason, index in numbers.items())
    heads = tuple(each.column for each in columns)
    return Table(name, title, heads, cells, (*unique(notes), *reasons))


def value_column(
    header: str,
    *raw: str,
    show: Callable[[Any], str] | None = None,
    text: Callable[[Any], str] | None = None,
    unit: str = "",
    get: Sequence[str | Callable[[Any], Raw]] = (),
    align: Align = "right",
    csv_only: bool = False,
    rank: int = 0,
) -> RowColumn:
    """A column of values of the row.

    Args:
        header: Displayed header.
        raw: Names of the CSV columns.
        show: Formats the first value; None is displayed as nothing.
        text: Formats the row, instead of `show`.
        unit: Displayed after the header.
        get: For each CSV column the path of an attribute, such as `by_size.small`, or a function of
            the row; by default the attributes have the names of the CSV columns.
        align: `right` for numbers.
        csv_only: Display the column in the CSV alone.
        rank: Above 0, leave the column out of a narrow terminal; the highest rank goes first.
    """

    def value_at(row: Any, getter: str | Callable[[Any], Raw]) -> Raw:
        """The value that a path or a function finds in a row."""
        if callable(getter):
            return getter(row)
        for name in getter.split("."):
            if row is not None:
                row = row[int(name)] if name.isdigit() else getattr(row, name)
        value: Raw = row
        return value

    def cell(row: Any) -> Cell:
        values = tuple(value_at(row, each) for each in get or raw)
        if text is not None:
            return Cell(text(row), values)
        return Cell("" if values[0] is None or show is None else show(values[0]), values)

    return RowColumn(Column(header, raw, unit, align, csv_only, rank), cell)


def named_for(reference: str, columns: Iterable[RowColumn]) -> tuple[RowColumn, ...]:
    """Columns whose headers call the accuracy as the reference demands."""
    name = accuracy_name(reference, title=True)
    heads = ((each, each.column.header.replace("mIoU", name)) for each in columns)
    return tuple(replace(each, column=replace(each.column, header=head)) for each, head in heads)


text_column = partial(value_column, show=clean, align="left")
count_column = partial(value_column, show="{:,}".format)
number_column = partial(value_column, show=number)
percent_column = partial(value_column, show=percent, unit="%")


def interval_column(
    header: str,
    name: str,
    ci: str,
    show: Callable[[Any, Any, Any], str] = lambda _row, value, bounds: percent(value, bounds),
    raw: Sequence[str] = (),
    unit: str = "%",
    rank: int = 0,
) -> RowColumn:
    """A value with its interval, from two attributes of the row that may be None.

    `show` formats the row, given both; the CSV columns are by default `NAME`, `CI_low`, `CI_high`.
    """

    def text(row: Any) -> str:
        value = getattr(row, name)
        return "" if value is None else show(row, value, getattr(row, ci))

    raw = raw or (name, f"{ci}_low", f"{ci}_high")
    get = (name, f"{ci}.0", f"{ci}.1")
    return value_column(header, *raw, text=text, unit=unit, get=get, rank=rank)


def percent_cell(fraction: float | None) -> Cell:
    """A fraction in percent, or an empty cell for None."""
    return Cell("" if fraction is None else percent(fraction), (fraction,))


def reason_cell(status: str, why: str | None, n_numbers: int) -> Cell:
    """A cell with a reason instead of a number; raw: `n_numbers` empty values, then the reason."""
    why = clean(why or "")
    full = f"{status}: {why}" if why else status
    raw = (*[None] * n_numbers, full)
    if len(why) > MAX_INLINE_REASON:
        return Cell(status, raw, reason=why)
    return Cell(why or status if n_numbers else full, raw)


def _status_cell(row: Any) -> Cell:
    if row.status == "ok":
        return Cell("ok", ("ok", row.why))
    return replace(reason_cell(row.status, row.why, 0), raw=(row.status, row.why))


def weights_cell(weights: WeightsRow) -> Cell:
    """Label of the weights, for `WEIGHTS_COLUMN`."""
    raw = (weights.kind, weights.sha256, int(weights.official), weights.shipped)
    return Cell(weights_label(weights), raw, next(iter(shipped_notes([weights])), None))


WEIGHTS_COLUMN = Column(
    "Weights", ("weights_kind", "weights_sha256", "weights_official", "weights_shipped"), rank=3
)
"""Kind, hash, whether they are the published weights (0 or 1), and origin of shipped weights."""
MODEL = text_column("Model", "model")
WEIGHTS = RowColumn(WEIGHTS_COLUMN, lambda row: weights_cell(row.weights))
STATUS = RowColumn(Column("Status", ("status", "why"), rank=1), _status_cell)


def median_column(rows: Iterable[LatencyRow | EverythingRow]) -> Column:
    """Column of median times in ms; its header says whether intervals or ranges are shown."""
    kinds = _range_kinds(map(spread_of, rows))
    parts = [part for kind, part in ((False, "[95 % CI]"), (True, "(range)")) if kind in kinds]
    header = " ".join(["Median", " or ".join(parts)]).rstrip()
    return Column(header, ("median_ms", *(f"{end}_ms" for end in ENDS)), "ms", "right")


def median_cell(row: LatencyRow | EverythingRow) -> Cell:
    """Cell of a row in the column of medians."""
    if row.median_ms is None:
        return Cell("", (None, *spread_ends(None)))
    spread = spread_of(row)
    return Cell(spread_text(row.median_ms, spread), (row.median_ms, *spread_ends(spread)))


def spread_ends(spread: Spread | None) -> tuple[float | None, ...]:
    """Values of a spread for the CSV columns `ENDS`."""
    if spread is None:
        return (None, None, None, None)
    return (None, None, *spread.bounds) if spread.is_range else (*spread.bounds, None, None)


def spread_notes(spreads: Iterable[Spread | None]) -> tuple[str, ...]:
    """Explains intervals and ranges of times, one note for each kind that occurs."""
    notes = {
        False: "Intervals of times: 95 %, over processes.",
        True: "Range of times: smallest and largest median of the processes, or of the calls of a "
        f"single process; fewer than {MIN_PROCESSES} processes give no interval.",
    }
    kinds = _range_kinds(spreads)
    return tuple(note for kind, note in notes.items() if kind in kinds)


def bars_text(spreads: Iterable[Spread | None]) -> str:
    """Describes the error bars of times, for a caption."""
    kinds = _range_kinds(spreads)
    ranges = f"range (fewer than {MIN_PROCESSES} processes)"
    if kinds == {True}:
        return ranges
    return f"95 % interval or {ranges}" if True in kinds else "95 % interval"


def _range_kinds(spreads: Iterable[Spread | None]) -> set[bool]:
    return {spread.is_range for spread in spreads if spread is not None}


def sample_notes(rows: Iterable[LatencyRow]) -> tuple[str, ...]:
    """Warnings of few or unstable samples: one note for each warning, with all its rows."""
    found: dict[str, list[str]] = {}
    for row in rows:
        name = row.phase.replace("_", " ")
        name = name if row.n_prompts is None else f"{name} at {row.n_prompts}"
        name = name if row.n_images == 1 else f"{name} of {row.n_images} images"
        for warning in row.warnings:
            # Older records have the number of calls of each process.
            warning = re.sub(
                r"few samples: \d+ of (\d+)", r"fewer than \1 calls of a process", warning
            )
            found.setdefault(warning, []).append(f"{row.model} {name}")
    return tuple(
        f"{warning[:1].upper()}{warning[1:]}: {', '.join(unique(names))}."
        for warning, names in found.items()
    )
