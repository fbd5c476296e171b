"""Display of median times: with an interval, or with a range if there are too few processes."""

from __future__ import annotations

from collections.abc import Iterable

from benchmarks.records.record import EverythingRow, LatencyRow
from benchmarks.records.statistics import MIN_PROCESSES, Spread
from benchmarks.tables.formatting import spread_text
from benchmarks.tables.record_queries import spread_of, unique
from benchmarks.tables.table import Cell, Column

Row = LatencyRow | EverythingRow
ENDS = ("ci95_low", "ci95_high", "range_low", "range_high")
NO_ENDS: tuple[None, None, None, None] = (None, None, None, None)
_HEADERS = {
    frozenset[bool](): "",
    frozenset((False,)): " [95 % CI]",
    frozenset((True,)): " (range)",
    frozenset((False, True)): " [95 % CI] or (range)",
}


def median_column(rows: Iterable[Row]) -> Column:
    """Column of median times in ms; its header says whether intervals or ranges are shown."""
    header = f"Median{_HEADERS[frozenset(_kinds(map(spread_of, rows)))]}"
    return Column(header, ("median_ms", *(f"{end}_ms" for end in ENDS)), "ms", "right")


def median_cell(row: Row) -> Cell:
    """Cell of a row in the column of medians."""
    if row.median_ms is None:
        return Cell("", (None, *NO_ENDS))
    spread = spread_of(row)
    return Cell(spread_text(row.median_ms, spread), (row.median_ms, *spread_ends(spread)))


def spread_ends(spread: Spread | None) -> tuple[float | None, ...]:
    """Ends of the interval, then of the range; at least one of the two pairs is empty."""
    if spread is None:
        return NO_ENDS
    return (None, None, *spread.bounds) if spread.is_range else (*spread.bounds, None, None)


def spread_notes(spreads: Iterable[Spread | None]) -> tuple[str, ...]:
    """Explains intervals and ranges of times, one note for each kind that occurs."""
    kinds, notes = _kinds(spreads), []
    if False in kinds:
        notes.append("Intervals of times: 95 %, over processes.")
    if True in kinds:
        notes.append(
            "Range of times: least and greatest median of the processes, or call where there was "
            f"one process; fewer than {MIN_PROCESSES} processes give no interval."
        )
    return tuple(notes)


def bars_text(spreads: Iterable[Spread | None]) -> str:
    """Describes the error bars of times, for a caption; spreads may be None."""
    kinds = _kinds(spreads)
    ranges = f"range (fewer than {MIN_PROCESSES} processes)"
    if kinds == {True}:
        return ranges
    return f"95 % interval or {ranges}" if True in kinds else "95 % interval"


def _kinds(spreads: Iterable[Spread | None]) -> set[bool]:
    return {spread.is_range for spread in spreads if spread is not None}


def sample_notes(rows: Iterable[LatencyRow]) -> tuple[str, ...]:
    """Warnings of few or unstable samples: one note for each warning, with all its rows."""
    found: dict[str, list[str]] = {}
    for row in rows:
        name = row.phase if row.n_prompts is None else f"{row.phase} at {row.n_prompts}"
        for warning in row.warnings:
            found.setdefault(warning, []).append(f"{row.model} {name}")
    return tuple(
        f"{warning[:1].upper()}{warning[1:]}: {', '.join(unique(names))}."
        for warning, names in found.items()
    )
