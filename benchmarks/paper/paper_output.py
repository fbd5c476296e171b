"""Output of verdicts: the tables of the papers, the ledger, and the text for a terminal."""

from __future__ import annotations

import json
import textwrap
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from importlib import resources
from itertools import groupby
from pathlib import Path
from typing import Any

from benchmarks.paper.verdicts import (
    Bound,
    ClaimVerdict,
    Verdict,
    tally,
    tally_by_basis,
    tally_text,
)
from benchmarks.records.record import RunRecord, write_atomic
from benchmarks.tables.columns import RowColumn, build_table, text_column, value_column
from benchmarks.tables.formatting import clean, number, slug
from benchmarks.tables.record_queries import grouped, unique
from benchmarks.tables.table import Cell, Column, Raw, Table
from mobilesam.errors import DataError

FOLDER = "paper"
LEDGER = "ledger"
"""Stem of the files with the whole ledger."""
CLAIMS_NAME = "claims.json"
WIDTH = 100
"""Characters in a line of the terminal."""
_SIGNS = {"at least": "≥ ", "at most": "≤ ", None: ""}
_UNITS = {"M parameters": " M", "ratio": " times", "parameters": "", "mIoU %": " %"}
_UNITS |= {"AP %": " % AP", "AR %": " % AR"}
_CLAIMED, _MEASURED, _VERDICT = 15, 17, 18
_Line = tuple[str, Callable[[ClaimVerdict], str], Callable[[ClaimVerdict], Raw]]


def _figure(value: float, unit: str, bound: Bound | None = None) -> str:
    """A measured value with the digits that suit its unit, without the unit."""
    if unit == "parameters":
        return f"{value:,.0f}"
    if unit == "M parameters":
        return f"{value:.4g}"
    if unit == "mIoU":
        return f"{value:.3f}"
    return f"{value:.1f}" if unit.endswith("%") else number(value, bound=bound)


def _claimed(verdict: ClaimVerdict) -> str:
    """The figure as it was published, with large integers in groups of three digits."""
    text = verdict.printed
    grouped = text.isdecimal() and (verdict.unit == "parameters" or len(text) > 4)
    return f"{int(text):,}" if grouped else text


def _measured(verdict: ClaimVerdict) -> str:
    """The measured value, such as `≥ 3,294`; empty if there is none."""
    if verdict.measured is None:
        return ""
    return f"{_SIGNS[verdict.bound]}{_figure(verdict.measured, verdict.unit, verdict.bound)}"


def _with_unit(text: str, verdict: ClaimVerdict) -> str:
    unit = _UNITS.get(verdict.unit, f" {verdict.unit}")
    unit = unit.removesuffix("s") if text == "1" else unit
    return f"{text}{unit}" if text else ""


def _ratio(verdict: ClaimVerdict) -> str:
    if verdict.ratio is None:
        return ""
    return f"{_SIGNS[verdict.bound]}{number(verdict.ratio, bound=verdict.bound)}"


def paper_tables(verdicts: Sequence[ClaimVerdict]) -> list[Table]:
    """The tables of the papers, with the measured values below the published ones."""
    by_id = {verdict.id: verdict for verdict in verdicts}
    text = resources.files("benchmarks.paper").joinpath("tables.toml").read_text(encoding="utf-8")
    return [_paper_table(layout, by_id) for layout in tomllib.loads(text)["table"]]


def _paper_table(layout: Mapping[str, Any], by_id: Mapping[str, ClaimVerdict]) -> Table:
    rows = []
    shown: list[ClaimVerdict] = []
    for label, *names in layout["rows"]:
        lost = [name for name in names if name and name not in by_id]
        if lost:
            raise DataError(f"{layout['name']} shows {lost[0]}, which is not in the ledger")
        cells = [by_id.get(name) for name in names]
        known = [verdict for verdict in cells if verdict is not None]
        shown += known
        for index, (line, text, raw) in enumerate(_lines(known)):
            first = Cell(label if index == 0 else "", (label,))
            values = (Cell("", (None,)) if v is None else Cell(text(v), (raw(v),)) for v in cells)
            rows.append((first, Cell(line, (line,)), *values))
    columns = (
        Column(layout["corner"], ("row",)),
        Column("", ("line",)),
        *(
            Column(head.replace("^2", "²"), (slug(head).replace("-", "_"),), align="right")
            for head in layout["heads"]
        ),
    )
    named = ", ".join(filter(None, _references(shown)))
    title = f"{layout['title']} (in brackets: measured with {named})" if named else layout["title"]
    return Table(f"{FOLDER}-{layout['name']}", title, columns, tuple(rows), _notes(shown))


def _references(verdicts: Sequence[ClaimVerdict]) -> tuple[str | None, ...]:
    """References of the figures for orientation."""
    return unique(v.orientation.reference for v in verdicts if v.orientation is not None)


def _lines(row: Sequence[ClaimVerdict]) -> Iterator[_Line]:
    """Label, text and raw value of the lines of a row: published, measured, ratio, verdict."""
    yield "published", _claimed, lambda v: v.claimed
    if any(v.measured is not None for v in row):
        counted = all(v.basis == "count" for v in row)
        yield "counted" if counted else "measured", _measured, lambda v: v.measured
    else:
        for reference in _references(row):
            value = partial(_orientation, reference=reference)
            yield "orientation", partial(_in_brackets, reference=reference), value
    if any(v.ratio is not None for v in row):
        yield "times the claim", _ratio, lambda v: v.ratio
    yield "verdict", lambda v: v.verdict, lambda v: v.verdict


def _orientation(verdict: ClaimVerdict, reference: str | None) -> float | None:
    found = verdict.orientation
    return found.value if found is not None and found.reference == reference else None


def _in_brackets(verdict: ClaimVerdict, reference: str | None) -> str:
    value = _orientation(verdict, reference)
    return "" if value is None else f"({_figure(value, verdict.unit)})"


def _notes(shown: Sequence[ClaimVerdict]) -> tuple[str, ...]:
    notes = []
    for verdict in shown:
        if verdict.verdict in ("explained", "not reproduced"):
            notes.append(f"{verdict.what}, {verdict.printed}: {verdict.why}.")
        found = verdict.orientation
        if found is not None and verdict.measured is None:
            against = f" against {found.reference}" if found.reference else ""
            notes.append(f"In brackets, no evidence: measured{against}, {found.made_with}.")
    if any(" + " in (verdict.measured_from or "") for verdict in shown):
        notes.append("Measured times of several phases are sums; end to end is timed in one call.")
    if any(verdict.bound for verdict in shown):
        notes.append("≥ and ≤: without the phases that need trained weights; see the ledger.")
    return unique(notes)


def ledger_table(verdicts: Sequence[ClaimVerdict]) -> Table:
    """All claims with their verdicts, by source, and the number of claims with each verdict."""
    columns = (
        text_column("Claim", "id"),
        text_column("Source", "source"),
        text_column("What", "what"),
        text_column("Basis", "basis", rank=1),
        value_column("Claimed", "claimed", "unit", text=lambda v: _with_unit(_claimed(v), v)),
        value_column("Measured", "measured", "bound", text=lambda v: _with_unit(_measured(v), v)),
        value_column("Times the claim", "ratio", text=_ratio),
        text_column("Verdict", "verdict"),
        value_column("Why", "why", "measured_from", text=lambda v: v.why, align="left"),
        text_column("What would settle it", "settle"),
    )
    title = "Published claims and their verdicts"
    notes = [
        f"{tally_text(verdicts)}.",
        "Measured, with a verdict that needs something: on other hardware, which tests nothing.",
        "Basis: measurement (a time or an accuracy), training (a result or a condition of it), "
        "count (of parameters, for which nothing is measured), or arithmetic (of other published "
        "figures).",
    ]
    return build_table(f"{FOLDER}-{LEDGER}", title, columns, _by_source(verdicts), notes)


def verdict_tables(verdicts: Sequence[ClaimVerdict]) -> tuple[Table, Table]:
    """Number of claims of each paper by verdict, and one line for each claim."""

    def count(verdict: Verdict) -> RowColumn:
        def value(group: tuple[str, Sequence[ClaimVerdict]]) -> int | None:
            return tally(group[1]).get(verdict)

        return value_column(verdict[0].upper() + verdict[1:], slug(verdict), get=[value], show=str)

    papers = build_table(
        f"{FOLDER}-verdicts",
        "Verdicts by paper",
        (
            text_column("Paper", "paper", get=["0"]),
            value_column("Claims", "claims", get=[lambda group: len(group[1])], show=str),
            *(count(verdict) for verdict in tally(verdicts)),
        ),
        grouped((_paper(verdict), verdict) for verdict in verdicts).items(),
    )
    columns = (
        text_column("Claim", "what"),
        text_column("Source", "source"),
        value_column("Claimed", "claimed", "unit", text=lambda v: _with_unit(_claimed(v), v)),
        value_column("Measured", "measured", "bound", text=lambda v: _with_unit(_measured(v), v)),
        text_column("Verdict", "verdict"),
        value_column("Why, and what would settle it", "why", "settle", text=_reason, align="left"),
        *(text_column(name, name, csv_only=True) for name in ("id", "basis")),
        value_column("ratio", "ratio", csv_only=True),
    )
    title = "All claims, a line each"
    return papers, build_table(f"{FOLDER}-{LEDGER}", title, columns, _by_source(verdicts))


def _paper(verdict: ClaimVerdict) -> str:
    """The paper of a claim; those that are no result of a paper are apart, as in `tally_text`."""
    if not verdict.published:
        return "Counts made by this project"
    return "Figures that follow from others" if verdict.basis == "arithmetic" else verdict.paper


def _reason(verdict: ClaimVerdict) -> str:
    return clean(". ".join(filter(None, (verdict.why, verdict.settle))))


def _by_source(verdicts: Sequence[ClaimVerdict]) -> list[ClaimVerdict]:
    sources = unique(verdict.source for verdict in verdicts)
    return sorted(verdicts, key=lambda verdict: sources.index(verdict.source))


def claim_rows(verdicts: Sequence[ClaimVerdict]) -> list[dict[str, object]]:
    """The verdicts for JSON."""
    return [verdict.model_dump(mode="json") for verdict in verdicts]


def write_claims(record: RunRecord, verdicts: Sequence[ClaimVerdict], folder: Path) -> list[Path]:
    """Writes `paper/claims.json` and every table below a folder; returns the files."""
    document = {
        "run": record.id,
        "verdicts": tally(verdicts),
        "by_basis": tally_by_basis(verdicts),
        "claims": claim_rows(verdicts),
    }
    path = folder / FOLDER / CLAIMS_NAME
    text = json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    write_atomic(path, text.encode())
    written = [path]
    for table in (*paper_tables(verdicts), ledger_table(verdicts)):
        written += table.write(folder / FOLDER, table.name.removeprefix(f"{FOLDER}-"))
    return written


def ledger_text(verdicts: Sequence[ClaimVerdict], width: int = WIDTH) -> str:
    """The ledger as text with `width` characters a line, by source.

    Commands that would give a verdict follow below, each once with the number of its claims.
    """
    lines: list[str] = []
    name_width = width - 2 - _CLAIMED - _MEASURED - _VERDICT - 4
    for source, group in groupby(_by_source(verdicts), key=lambda verdict: verdict.source):
        lines += ["", *_wrapped(clean(source), width, "")]
        for each in group:
            claimed = _with_unit(_claimed(each), each)
            measured = _with_unit(_measured(each), each) or "-"
            figures = f"{claimed:>{_CLAIMED}} {measured:>{_MEASURED}}  {each.verdict:<{_VERDICT}}"
            name = clean(each.id)
            if len(name) <= name_width:
                lines.append(f"  {name:<{name_width}} {figures}".rstrip())
            else:
                lines += [f"  {name}", f"  {figures}".rstrip()]
            if each.measured is not None or each.orientation is not None:
                lines += _wrapped(clean(each.why), width, "      ")
    commands = grouped(((v.settle, v.verdict), v.id) for v in verdicts if v.settle is not None)
    lines += ["", "What would settle the rest"] if commands else []
    for (settle, verdict), ids in commands.items():
        which = ids[0] if len(ids) == 1 else f"{ids[0]} and {len(ids) - 1} more"
        lines += [f"  {verdict}: {which}", *_wrapped(clean(settle or ""), width, "      ")]
    return "\n".join([*lines, "", *_wrapped(tally_text(verdicts), width, ""), ""])


def _wrapped(text: str, width: int, indent: str) -> list[str]:
    return textwrap.wrap(
        text, width, initial_indent=indent, subsequent_indent=indent, break_long_words=False,
        break_on_hyphens=False,
    )  # fmt: skip
