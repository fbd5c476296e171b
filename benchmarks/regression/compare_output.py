"""Tables and plots of two runs side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.records.record import write_atomic
from benchmarks.regression.compare import CompareRow, Kind, tally
from benchmarks.tables.formatting import MIB, escape_markdown, interval, milliseconds, number
from benchmarks.tables.table import Cell, Column, Table

_TITLES: dict[Kind, str] = {
    "time": "Times",
    "memory": "Memory",
    "accuracy": "Accuracy",
    "size": "Sizes that changed",
}
MOST_PANELS = 9


def compare_tables(rows: Sequence[CompareRow]) -> tuple[Table, ...]:
    """One table for each kind of quantity that either run has; of sizes only what changed."""
    found = []
    for kind, title in _TITLES.items():
        own = [row for row in rows if row.kind == kind]
        if kind == "size":
            own = [row for row in own if row.verdict != "same"]
        if own:
            found.append(_table(kind, title, _in_short(own)))
    return tuple(found)


def _in_short(rows: Sequence[CompareRow]) -> list[CompareRow]:
    """One row in the place of all those of a model that only one of the runs has."""
    short: dict[object, CompareRow] = {}
    for model in dict.fromkeys(row.model for row in rows):
        own = [row for row in rows if row.model == model]
        (first, *others) = own
        alone = {row.verdict for row in own} in ({"vanished"}, {"appeared"})
        if others and alone:
            text = f"all of {len(own)}"
            short[model] = first.model_copy(
                update={"what": text, "unit": "", "a": None, "b": None, "why": first.why}
            )
        else:
            short.update(((model, index), row) for index, row in enumerate(own))
    return list(short.values())


def _table(kind: Kind, title: str, rows: Sequence[CompareRow]) -> Table:
    change = "B - A (points)" if kind == "accuracy" else "B / A"
    numbers = (Column("A", ("a",), align="right"), Column("B", ("b",), align="right"))
    columns = (
        Column("Model", ("model",)),
        Column("What", ("what", "unit")),
        *numbers,
        Column(change, ("change", "low", "high"), align="right"),
        Column("Verdict", ("verdict",)),
        Column("Note", ("note",)),
    )
    cells = tuple(
        (
            Cell(row.model, (row.model,)),
            Cell(_what(row), (row.what, row.unit)),
            Cell(value_text(row, row.a), (row.a,)),
            Cell(value_text(row, row.b), (row.b,)),
            Cell(change_text(row), (row.change, *(row.ci95 or (None, None)))),
            Cell(row.verdict, (row.verdict,)),
            Cell(row.why or "", (row.why,)),
        )
        for row in rows
    )
    return Table(f"compare-{kind}", title, columns, cells)


def _what(row: CompareRow) -> str:
    return f"{row.what}: {row.unit}" if row.kind == "size" and row.unit else row.what


def value_text(row: CompareRow, value: float | None) -> str:
    """A value with the unit that suits it."""
    if value is None:
        return ""
    if row.kind == "time":
        return milliseconds(value)
    if row.kind == "memory":
        return f"{number(value / MIB)} MiB"
    return f"{100 * value:.2f} %" if row.kind == "accuracy" else f"{value:,.0f}"


def change_text(row: CompareRow) -> str:
    """The change with its interval; accuracy in percentage points."""
    if row.change is None:
        return ""
    if row.kind != "accuracy":
        return interval(row.change, row.ci95, digits=3)
    bounds = None if row.ci95 is None else (100 * row.ci95[0], 100 * row.ci95[1])
    return interval(100 * row.change, bounds, digits=2)


def tally_text(rows: Sequence[CompareRow]) -> str:
    """`1 worse, 3 better, 40 same within noise`."""
    names = {"same": "same within noise"}
    counts = tally(rows)
    return ", ".join(f"{n} {names.get(verdict, verdict)}" for verdict, n in counts.items())


def compare_figures(rows: Sequence[CompareRow]) -> dict[str, Any]:
    """Name of the file to figure: ratios of times by phase, differences of accuracy by protocol."""
    found = {}
    for kind, label, neutral in (
        ("time", "B / A", 1.0),
        ("accuracy", "B - A (percentage points)", 0.0),
    ):
        own = [row for row in rows if row.kind == kind and row.change is not None]
        if own:
            scale = 100.0 if kind == "accuracy" else 1.0
            found[f"compare-{kind}"] = _figure(own, label, neutral, scale)
    return found


def _figure(rows: Sequence[CompareRow], label: str, neutral: float, scale: float) -> Any:
    from benchmarks.report.plots import Dot, Panel, panel_figure
    from benchmarks.report.style import INK, plot_style

    whats = list(dict.fromkeys(row.what for row in rows))[:MOST_PANELS]
    rows = [row for row in rows if row.what in whats]
    models = list(dict.fromkeys(row.model for row in rows))
    panels, ends = [], [neutral]
    for what in whats:
        dots: dict[str, Dot | str] = {}
        for row in rows:
            if row.what != what or row.change is None:
                continue
            bounds = None if row.ci95 is None else (scale * row.ci95[0], scale * row.ci95[1])
            value = scale * row.change
            dots[row.model] = Dot(value, f"{value:.2f} {row.verdict}", bounds)
            ends += [value, *(bounds or ())]
        panels.append(Panel(what, dots))
    margin = 0.08 * (max(ends) - min(ends)) or 0.1
    with plot_style():
        figure = panel_figure(
            f"Two runs: {label}",
            panels,
            models,
            label,
            notes=("Bars: 95 % intervals, often inside of the dot. The line: no change.",),
            linear=(min(ends) - margin, max(ends) + margin),
            columns=2,
        )
        for ax in figure.axes[: len(panels)]:
            ax.axvline(neutral, color=INK, linewidth=0.8, zorder=0.5)
    return figure


def write_comparison(
    rows: Sequence[CompareRow], notes: Sequence[str], title: str, folder: Path
) -> list[Path]:
    """Writes `summary.md`, the tables as CSV, and the plots.

    Raises:
        DataError: The folder cannot be written.
    """
    from benchmarks.report.style import plot_style, save_figure

    tables = compare_tables(rows)
    parts = [f"# {escape_markdown(title)}\n", f"{tally_text(rows)}\n"]
    parts += [table.to_markdown() for table in tables]
    if notes:
        parts.append("".join(f"- {escape_markdown(note)}\n" for note in notes))
    written = [folder / "summary.md"]
    write_atomic(written[0], "\n".join(parts).encode())
    for table in tables:
        written.append(folder / "tables" / f"{table.name}.csv")
        write_atomic(written[-1], table.to_csv().encode())
    with plot_style():
        for stem, figure in compare_figures(rows).items():
            written += save_figure(figure, folder / "plots", stem)
    return written
