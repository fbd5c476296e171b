"""Output of verdicts: the tables of the papers, the ledger, and the text for a terminal."""

from __future__ import annotations

import json
import textwrap
import tomllib
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from itertools import groupby
from pathlib import Path
from typing import Any

from benchmarks.paper.verdicts import ClaimVerdict, Orientation, tally, tally_text
from benchmarks.records.record import RunRecord, write_atomic
from benchmarks.tables.columns import RowColumn, build_table, text_cell, text_column
from benchmarks.tables.formatting import clean, number, slug
from benchmarks.tables.record_queries import unique
from benchmarks.tables.table import Cell, Column, Raw, Table
from mobilesam.errors import DataError

FOLDER = "paper"
LEDGER = "ledger"
"""Stem of the files with the whole ledger."""
CLAIMS_NAME = "claims.json"
WIDTH = 100
"""Characters in a line of the terminal."""
_TABLES = "tables.toml"
_SIGNS = {"at least": ">= ", "at most": "<= ", None: ""}
_UNITS = {"M parameters": " M", "ratio": " x", "parameters": "", "mIoU %": " %"}
_CLAIMED, _MEASURED, _VERDICT = 15, 17, 18


def _figure(value: float, unit: str) -> str:
    """A measured value with the digits that suit its unit, without the unit."""
    if unit == "parameters":
        return f"{value:,.0f}"
    if unit == "M parameters":
        return f"{value:.4g}"
    if unit == "mIoU":
        return f"{value:.3f}"
    return f"{value:.1f}" if unit.endswith("%") else number(value)


def _claimed(verdict: ClaimVerdict) -> str:
    """The figure as it was published, with large integers in groups of three digits."""
    text = verdict.printed
    grouped = text.isdecimal() and (verdict.unit == "parameters" or len(text) > 4)
    return f"{int(text):,}" if grouped else text


def _measured(verdict: ClaimVerdict) -> str:
    """The measured value, such as `>= 3294`; empty if there is none."""
    if verdict.measured is None:
        return ""
    return f"{_SIGNS[verdict.bound]}{_figure(verdict.measured, verdict.unit)}"


def _claimed_with_unit(verdict: ClaimVerdict) -> str:
    return f"{_claimed(verdict)}{_UNITS.get(verdict.unit, f' {verdict.unit}')}"


def _measured_with_unit(verdict: ClaimVerdict) -> str:
    text = _measured(verdict)
    return f"{text}{_UNITS.get(verdict.unit, f' {verdict.unit}')}" if text else ""


def _ratio(verdict: ClaimVerdict) -> str:
    return "" if verdict.ratio is None else f"{_SIGNS[verdict.bound]}{number(verdict.ratio)}"


def paper_tables(verdicts: Sequence[ClaimVerdict]) -> list[Table]:
    """The tables of the papers, with the measured values below the published ones.

    Raises:
        DataError: The claim of a cell is not in the ledger.
    """
    by_id = {verdict.id: verdict for verdict in verdicts}
    text = resources.files("benchmarks.paper").joinpath(_TABLES).read_text(encoding="utf-8")
    return [_paper_table(layout, by_id) for layout in tomllib.loads(text)["table"]]


def _paper_table(layout: Mapping[str, Any], by_id: Mapping[str, ClaimVerdict]) -> Table:
    rows = []
    shown: list[ClaimVerdict] = []
    for label, *names in layout["rows"]:
        lost = [name for name in names if name and name not in by_id]
        if lost:
            raise DataError(f"{layout['name']} shows {lost[0]}, which is not in the ledger")
        cells = [by_id[name] if name else None for name in names]
        known = [verdict for verdict in cells if verdict is not None]
        shown += known
        for index, (line, text, raw) in enumerate(_lines(known)):
            first = Cell(label if index == 0 else "", (label,))
            values = (Cell("", (None,)) if v is None else Cell(text(v), (raw(v),)) for v in cells)
            rows.append((first, text_cell(line), *values))
    columns = (
        Column(layout["corner"], ("row",)),
        Column("", ("line",)),
        *(Column(head, (slug(head).replace("-", "_"),), align="right") for head in layout["heads"]),
    )
    references = unique(v.orientation.reference for v in shown if v.orientation is not None)
    named = ", ".join(reference for reference in references if reference)
    title = f"{layout['title']} (in brackets: measured with {named})" if named else layout["title"]
    return Table(f"{FOLDER}-{layout['name']}", title, columns, tuple(rows), _notes(shown))


_Line = tuple[str, Callable[[ClaimVerdict], str], Callable[[ClaimVerdict], Raw]]


def _lines(row: Sequence[ClaimVerdict]) -> list[_Line]:
    """The printed lines of a row: label, text and raw value of a verdict.

    Published; measured, or in brackets a figure for orientation; times the claim; verdict.
    """
    lines: list[_Line] = [("published", _claimed, lambda v: v.claimed)]
    if any(v.measured is not None for v in row):
        lines.append(("measured", _measured, lambda v: v.measured))
    else:
        references = unique(v.orientation.reference for v in row if v.orientation is not None)
        lines += [_orientation_line(reference) for reference in references]
    if any(v.ratio is not None for v in row):
        lines.append(("times the claim", _ratio, lambda v: v.ratio))
    return [*lines, ("verdict", lambda v: v.verdict, lambda v: v.verdict)]


def _orientation_line(reference: str | None) -> _Line:
    def value(verdict: ClaimVerdict) -> float | None:
        found = verdict.orientation
        return found.value if found is not None and found.reference == reference else None

    def text(verdict: ClaimVerdict) -> str:
        found = value(verdict)
        return "" if found is None else f"({_figure(found, verdict.unit)})"

    return "orientation", text, value


def _notes(shown: Sequence[ClaimVerdict]) -> tuple[str, ...]:
    notes = []
    for verdict in shown:
        if verdict.verdict in ("explained", "not reproduced"):
            notes.append(f"{verdict.what}, {verdict.printed}: {verdict.why}.")
        if verdict.orientation is not None and verdict.measured is None:
            notes.append(_orientation_note(verdict.orientation))
    if any(verdict.bound for verdict in shown):
        notes.append(">= and <=: without the phases that need trained weights; see the ledger.")
    return unique(notes)


def _orientation_note(orientation: Orientation) -> str:
    against = f" against {orientation.reference}" if orientation.reference else ""
    return f"In brackets, no evidence: measured{against}, {orientation.made_with}."


def _ledger_column(
    header: str, *raw: str, show: Callable[[ClaimVerdict], str], align: Any = "right"
) -> RowColumn:
    def cell(verdict: ClaimVerdict) -> Cell:
        return Cell(show(verdict), tuple(getattr(verdict, name) for name in raw))

    return RowColumn(Column(header, raw, align=align), cell)


_LEDGER_COLUMNS = (
    text_column("Claim", "id"),
    text_column("Source", "source"),
    text_column("What", "what"),
    _ledger_column("Claimed", "claimed", "unit", show=_claimed_with_unit),
    _ledger_column("Measured", "measured", "bound", show=_measured_with_unit),
    _ledger_column("Times the claim", "ratio", show=_ratio),
    text_column("Verdict", "verdict"),
    _ledger_column("Why", "why", "measured_from", show=lambda v: v.why, align="left"),
    text_column("What would settle it", "settle"),
)


def ledger_table(verdicts: Sequence[ClaimVerdict]) -> Table:
    """All claims with their verdicts, by source, and the number of claims with each verdict."""
    title = "Published claims and their verdicts"
    rows = _by_source(verdicts)
    notes = [f"{tally_text(verdicts)}."]
    return build_table(f"{FOLDER}-{LEDGER}", title, _LEDGER_COLUMNS, rows, notes)


def _by_source(verdicts: Sequence[ClaimVerdict]) -> list[ClaimVerdict]:
    sources = unique(verdict.source for verdict in verdicts)
    return sorted(verdicts, key=lambda verdict: sources.index(verdict.source))


def claim_rows(verdicts: Sequence[ClaimVerdict]) -> list[dict[str, object]]:
    """The verdicts for JSON."""
    return [verdict.model_dump(mode="json") for verdict in verdicts]


def write_claims(record: RunRecord, verdicts: Sequence[ClaimVerdict], folder: Path) -> list[Path]:
    """Writes `paper/claims.json`, and every table as `paper/NAME.md`, `.csv` and `.tex`.

    Args:
        record: The run, or several that were merged, that the verdicts are from.
        verdicts: Verdicts on the whole ledger.
        folder: Folder in which `paper` is created; older files of the same names are replaced.

    Returns:
        The files, in the order of writing.

    Raises:
        DataError: The folder cannot be written.
    """
    document = {"run": record.id, "verdicts": tally(verdicts), "claims": claim_rows(verdicts)}
    path = folder / FOLDER / CLAIMS_NAME
    text = json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    write_atomic(path, text.encode())
    written = [path]
    for table in (*paper_tables(verdicts), ledger_table(verdicts)):
        written += table.write(folder / FOLDER, table.name.removeprefix(f"{FOLDER}-"))
    return written


def ledger_text(verdicts: Sequence[ClaimVerdict], width: int = WIDTH) -> str:
    """The ledger as text, by source.

    Claims that lack weights, data or a GPU have no reason of their own: the commands that would
    give a verdict follow below, each once with the number of its claims.

    Args:
        verdicts: Verdicts in any order.
        width: Characters in a line.
    """
    lines: list[str] = []
    for source, group in groupby(_by_source(verdicts), key=lambda verdict: verdict.source):
        lines += ["", clean(source)]
        for verdict in group:
            lines += _entry(verdict, width)
    counts = _wrapped(tally_text(verdicts), width, "")
    return "\n".join([*lines, *_commands(verdicts, width), "", *counts, ""])


def _entry(verdict: ClaimVerdict, width: int) -> list[str]:
    name_width = width - 2 - _CLAIMED - _MEASURED - _VERDICT - 4
    claimed, measured = _claimed_with_unit(verdict), _measured_with_unit(verdict) or "-"
    figures = f"{claimed:>{_CLAIMED}} {measured:>{_MEASURED}}  {verdict.verdict:<{_VERDICT}}"
    name = clean(verdict.id)
    if len(name) <= name_width:
        lines = [f"  {name:<{name_width}} {figures}".rstrip()]
    else:
        lines = [f"  {name}", f"  {figures}".rstrip()]
    if verdict.measured is not None or verdict.orientation is not None:
        lines += _wrapped(clean(verdict.why), width, "      ")
    return lines


def _commands(verdicts: Sequence[ClaimVerdict], width: int) -> list[str]:
    commands: dict[tuple[str, str], list[str]] = {}
    for verdict in verdicts:
        if verdict.settle is not None:
            commands.setdefault((verdict.settle, verdict.verdict), []).append(verdict.id)
    lines = ["", "What would settle the rest"] if commands else []
    for (settle, name), ids in commands.items():
        which = ids[0] if len(ids) == 1 else f"{ids[0]} and {len(ids) - 1} more"
        lines += [f"  {name}: {which}", *_wrapped(clean(settle), width, "      ")]
    return lines


def _wrapped(text: str, width: int, indent: str) -> list[str]:
    return textwrap.wrap(
        text,
        width,
        initial_indent=indent,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
