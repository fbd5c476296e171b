"""The papers' own tables with the measured values below the published ones, and the ledger."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.paper.judge import tally_text
from benchmarks.paper.layouts import LAYOUTS, Layout
from benchmarks.paper.verdicts import ClaimVerdict
from benchmarks.records.record import write_atomic
from benchmarks.tables.columns import text_cell
from benchmarks.tables.formatting import number, slug
from benchmarks.tables.record_queries import unique
from benchmarks.tables.table import Cell, Column, Raw, Table
from mobilesam.errors import DataError

FOLDER = "paper"
LEDGER = "ledger"
"""Stem of the files that hold the whole ledger."""
_SIGNS = {"at least": ">= ", "at most": "<= ", None: ""}
_UNITS = {"M parameters": " M", "ratio": " x", "parameters": "", "mIoU %": " %"}


def figure(value: float, unit: str) -> str:
    """A measured value with as many digits as its kind of unit deserves, without the unit."""
    if unit == "parameters":
        return f"{value:,.0f}"
    if unit == "M parameters":
        return f"{value:.4g}"
    if unit == "mIoU":
        return f"{value:.3f}"
    if unit.endswith("%"):
        return f"{value:.1f}"
    return number(value)


def measured_text(verdict: ClaimVerdict) -> str:
    """What was measured, such as `>= 3294`; empty where nothing was."""
    if verdict.measured is None:
        return ""
    return f"{_SIGNS[verdict.bound]}{figure(verdict.measured, verdict.unit)}"


def with_unit(text: str, unit: str) -> str:
    """A figure with its unit, such as `8 ms`; empty text stays empty."""
    return f"{text}{_UNITS.get(unit, f' {unit}')}" if text else ""


def claimed_text(verdict: ClaimVerdict) -> str:
    """The figure as it was published, large whole numbers in groups of three digits."""
    text = verdict.printed
    grouped = text.isdecimal() and (verdict.unit == "parameters" or len(text) > 4)
    return f"{int(text):,}" if grouped else text


def paper_tables(verdicts: Sequence[ClaimVerdict]) -> tuple[Table, ...]:
    """Every table of `LAYOUTS`.

    Raises:
        DataError: A cell's claim is not in the ledger.
    """
    by_id = {verdict.id: verdict for verdict in verdicts}
    return tuple(_paper_table(layout, by_id) for layout in LAYOUTS)


@dataclass(frozen=True, slots=True)
class _Line:
    """One printed line of a row: its label and what it shows of a verdict."""

    label: str
    text: Callable[[ClaimVerdict], str]
    raw: Callable[[ClaimVerdict], Raw]


def _paper_table(layout: Layout, by_id: Mapping[str, ClaimVerdict]) -> Table:
    names = [name for _, cells in layout.rows for name in cells if name is not None]
    lost = [name for name in names if name not in by_id]
    if lost:
        raise DataError(f"{layout.name} shows {lost[0]}, which is not in the ledger")
    shown = [by_id[name] for name in names]
    columns = (
        Column(layout.corner, ("row",)),
        Column("", ("line",)),
        *(Column(head, (slug(head).replace("-", "_"),), align="right") for head in layout.heads),
    )
    rows = []
    for label, cells in layout.rows:
        found = [None if name is None else by_id[name] for name in cells]
        for index, line in enumerate(_lines([each for each in found if each is not None])):
            rows.append(
                (
                    Cell(label if index == 0 else "", (label,)),
                    text_cell(line.label),
                    *(
                        Cell("", (None,)) if v is None else Cell(line.text(v), (line.raw(v),))
                        for v in found
                    ),
                )
            )
    return Table(
        f"{FOLDER}-{layout.name}", _title(layout, shown), columns, tuple(rows), _notes(shown)
    )


def _title(layout: Layout, shown: Sequence[ClaimVerdict]) -> str:
    """The layout's title, and whose masks are the reference where no cell could be measured."""
    others = unique(v.orientation.reference for v in shown if v.orientation is not None)
    named = ", ".join(reference for reference in others if reference)
    return f"{layout.title} (in brackets: measured with {named})" if named else layout.title


def _lines(row: Sequence[ClaimVerdict]) -> list[_Line]:
    """Published, measured (or a figure for orientation, in brackets), times the claim, verdict."""
    lines = [_Line("published", claimed_text, lambda v: v.claimed)]
    measured = any(v.measured is not None for v in row)
    references = unique(v.orientation.reference for v in row if v.orientation is not None)
    if measured:
        lines.append(_Line("measured", measured_text, lambda v: v.measured))
    if not measured:
        lines += [_orientation_line(reference) for reference in references]
    if any(v.ratio is not None for v in row):
        lines.append(_Line("times the claim", _ratio_text, lambda v: v.ratio))
    lines.append(_Line("verdict", lambda v: v.verdict, lambda v: v.verdict))
    return lines


def _orientation_line(reference: str | None) -> _Line:
    def value(verdict: ClaimVerdict) -> float | None:
        found = verdict.orientation
        return found.value if found is not None and found.reference == reference else None

    def text(verdict: ClaimVerdict) -> str:
        found = value(verdict)
        return "" if found is None else f"({figure(found, verdict.unit)})"

    return _Line("orientation", text, value)


def _ratio_text(verdict: ClaimVerdict) -> str:
    return "" if verdict.ratio is None else f"{_SIGNS[verdict.bound]}{number(verdict.ratio)}"


def _notes(shown: Sequence[ClaimVerdict]) -> tuple[str, ...]:
    notes = []
    for verdict in shown:
        if verdict.verdict in ("explained", "not reproduced"):
            notes.append(f"{verdict.what}, {verdict.printed}: {verdict.why}.")
        other = verdict.orientation
        if other is not None and verdict.measured is None:
            against = f" against {other.reference}" if other.reference else ""
            notes.append(f"In brackets, no evidence: measured{against}, {other.made_with}.")
    if any(verdict.bound for verdict in shown):
        notes.append(">= and <=: phases that need trained weights are not in it; see the ledger.")
    return unique(notes)


def ledger_table(verdicts: Sequence[ClaimVerdict]) -> Table:
    """All claims with their verdicts, by source, and how many have which verdict."""
    columns = (
        Column("Claim", ("id",)),
        Column("Source", ("source",)),
        Column("What", ("what",)),
        Column("Claimed", ("claimed", "unit"), align="right"),
        Column("Measured", ("measured", "bound"), align="right"),
        Column("Times the claim", ("ratio",), align="right"),
        Column("Verdict", ("verdict",)),
        Column("Why", ("why", "measured_from")),
        Column("What would settle it", ("settle",)),
    )
    sources = unique(verdict.source for verdict in verdicts)
    ordered = sorted(verdicts, key=lambda verdict: sources.index(verdict.source))
    rows = tuple(
        (
            text_cell(v.id),
            text_cell(v.source),
            text_cell(v.what),
            Cell(with_unit(claimed_text(v), v.unit), (v.claimed, v.unit)),
            Cell(with_unit(measured_text(v), v.unit), (v.measured, v.bound)),
            Cell(_ratio_text(v), (v.ratio,)),
            text_cell(v.verdict),
            Cell(v.why, (v.why, v.measured_from)),
            Cell(v.settle or "", (v.settle,)),
        )
        for v in ordered
    )
    notes = (f"{tally_text(verdicts)}.",)
    return Table(f"{FOLDER}-{LEDGER}", "Published claims and their verdicts", columns, rows, notes)


def write_paper_tables(verdicts: Sequence[ClaimVerdict], folder: Path) -> list[Path]:
    """Writes every table as `paper/NAME.md`, `.csv` and `.tex`.

    Args:
        verdicts: On the whole ledger.
        folder: `paper` is made below it; older files of the same names are replaced.

    Raises:
        DataError: The folder cannot be written.
    """
    written = []
    for table in (*paper_tables(verdicts), ledger_table(verdicts)):
        stem = table.name.removeprefix(f"{FOLDER}-")
        for suffix, text in (
            ("md", table.to_markdown()),
            ("csv", table.to_csv()),
            ("tex", table.to_latex()),
        ):
            path = folder / FOLDER / f"{stem}.{suffix}"
            write_atomic(path, text.encode())
            written.append(path)
    return written
