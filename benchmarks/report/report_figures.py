"""Figures of the HTML report: a chart, its values as a table, and notes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.records.record import RunRecord
from benchmarks.report import charts
from benchmarks.report.frames import (
    accuracy_latency_frame,
    day,
    decode_frame,
    decode_notes,
    error_bars_note,
    history_frames,
    pareto_front,
    size_frame,
    size_notes,
    slope_text,
    waterfall_frame,
)
from benchmarks.tables.columns import (
    ENDS,
    MODEL,
    RowColumn,
    bars_text,
    build_table,
    count_column,
    median_cell,
    median_column,
    percent_cell,
    sample_notes,
    spread_ends,
    text_column,
    value_column,
)
from benchmarks.tables.formatting import interval, milliseconds, number, slug, spread_text
from benchmarks.tables.record_queries import Protocol, Setup, model_names, setups, unique
from benchmarks.tables.table import Cell, Column, Table


@dataclass(frozen=True, slots=True)
class Figure:
    """A Vega-Lite specification with its values and texts.

    Attributes:
        key: Stem of saved files; unique on a page.
        alt: Description for readers who cannot see the chart.
        choice: Name among the figures of its kind, such as a protocol.
    """

    key: str
    title: str
    alt: str
    chart: dict[str, Any]
    table: Table
    notes: tuple[str, ...]
    choice: str


def _figure(
    name: str,
    title: str,
    alt: str,
    chart: Any,
    columns: Sequence[RowColumn],
    rows: Iterable[Any],
    notes: Iterable[str],
    choice: str,
) -> Figure:
    key = slug(name)
    table = build_table(key, "The values of the figure", columns, rows)
    spec = chart.properties(description=f"{title}. {alt}").to_dict()
    return Figure(key, title, alt, spec, table, tuple(notes), choice)


def accuracy_latency(record: RunRecord, setup: Setup, protocol: Protocol) -> Figure | None:
    """Accuracy against latency; None if no model has both."""
    points, label, notes = accuracy_latency_frame(record, setup, protocol)
    if points.empty:
        return None
    front = list(pareto_front(points)["model"])
    points = points.sort_values("ms")
    tips = [
        f"{p.model}: mIoU {interval(p.value, p.bounds, 1)} %, {label} "
        f"{spread_text(p.ms, p.spread)} ms"
        for p in points.itertuples()
    ]
    columns = (
        MODEL,
        RowColumn(
            Column(
                f"Latency, {label}", ("time_ms", *(f"time_{e}_ms" for e in ENDS)), "ms", "right"
            ),
            lambda p: Cell(spread_text(p.ms, p.spread), (p.ms, *spread_ends(p.spread))),
        ),
        RowColumn(
            Column("mIoU", ("miou_percent", "miou_low", "miou_high"), "%", "right"),
            lambda p: Cell(interval(p.value, p.bounds, 1), (p.value, p.low, p.high)),
        ),
        value_column("Parameters used", "parameters", show="{:,}".format),
        text_column("Pareto front", "pareto", get=[lambda p: "yes" if p.model in front else "no"]),
    )
    return _figure(
        f"accuracy-latency-{protocol.label}-{setup.label}",
        f"mIoU against latency: {protocol.label}",
        f"{len(points)} models by latency ({label}) and mIoU. On the Pareto front, from fast to "
        f"slow: {', '.join(front)}.",
        charts.accuracy_latency_chart(points.assign(tip=tips), model_names(record), label),
        columns,
        points.itertuples(),
        (f"{setup.label}. {error_bars_note(points)}", *notes),
        protocol.label if len(setups(record)) == 1 else f"{protocol.label}, {setup.label}",
    )


def accuracy_by_size(record: RunRecord, protocol: Protocol) -> Figure | None:
    """Accuracy over all objects and by size class; None without an accuracy."""
    frame = size_frame(record, protocol)
    if frame.empty:
        return None
    models = unique(frame["model"])
    tips = [
        f"{r.model}, {r.size} objects: mIoU {interval(r.value or 0, r.bounds, 1)} %"
        for r in frame.itertuples()
    ]

    def size_column(index: int, size: str) -> RowColumn:
        def cell(rows: Any) -> Cell:
            row = rows[index]
            n = None if row.n is None else int(row.n)
            return Cell(percent_cell(row.miou).text, (row.miou, n))

        heads = (f"miou_{size}", f"n_{size}")
        return RowColumn(Column(size.capitalize(), heads, "%", "right"), cell)

    sizes = enumerate(unique(frame["size"]))
    return _figure(
        f"size-{protocol.label}",
        f"mIoU by object size: {protocol.label}",
        f"mIoU of {', '.join(models)} over all objects, small, medium and large ones.",
        charts.size_chart(frame.assign(tip=tips), model_names(record)),
        (text_column("Model", "model", get=["0.model"]), *(size_column(*each) for each in sizes)),
        [list(part.itertuples()) for _, part in frame.groupby("model", sort=False)],
        size_notes(record, frame),
        protocol.label,
    )


def waterfall(record: RunRecord, setup: Setup) -> Figure | None:
    """Times of the steps of one image and one prompt; None if no encoder was timed."""
    frame = waterfall_frame(record, setup)
    if frame.empty:
        return None
    sums = dict(zip(frame["model"], frame["sum"], strict=True))
    random = unique(frame["model"][frame["random"].astype(bool)])
    notes = [
        "Every model has a scale of its own: the bars show the share of each phase, the numbers "
        f"its time. Medians; thin lines: {bars_text(frame['spread'])}. End to end is one call of "
        "all phases, timed separately: it need not equal their sum.",
        *sample_notes(frame["row"]),
    ]
    if random:
        notes.append(
            "Outlined: random weights on the exact architecture, whose time is the same: "
            f"{', '.join(random)}."
        )
    tips = [f"{r.model}, {r.step}: {spread_text(r.value, r.spread)} ms" for r in frame.itertuples()]
    columns = (
        MODEL,
        text_column("Phase", "phase", get=["step"]),
        RowColumn(median_column(frame["row"]), lambda r: median_cell(r.row)),
        value_column(
            "Share of the sum",
            "share",
            show=lambda share: number(100 * share, 1),
            unit="%",
            get=[lambda r: None if r.start is None else r.value / r.sum],
        ),
    )
    return _figure(
        f"waterfall-{setup.label}",
        f"Latency by phase, one image and one prompt: {setup.label}",
        "Phases of each model one after the other. Sums: "
        f"{', '.join(f'{model} {milliseconds(total)}' for model, total in sums.items())}.",
        charts.waterfall_chart(frame.assign(tip=tips), model_names(record)),
        columns,
        frame.itertuples(),
        notes,
        setup.label,
    )


def decode_prompts(record: RunRecord, setup: Setup) -> Figure | None:
    """Decode time against the number of prompts; None without times."""
    frame = decode_frame(record, setup)
    if frame.empty:
        return None
    models = unique(frame["model"])
    slopes = {r.model: r.slope_ms for r in frame.itertuples() if r.slope_ms is not None}
    costs = ", ".join(f"{model} {slope_text(slope)}" for model, slope in slopes.items())
    notes = [*decode_notes(record, setup, frame), *sample_notes(frame["row"])]
    if costs:
        notes.append(f"Cost of one more prompt: {costs}.")
    tips = [
        f"{r.model}, {r.n_prompts} prompt{'s' * (r.n_prompts != 1)}: "
        f"{spread_text(r.value, r.spread)} ms"
        for r in frame.itertuples()
    ]
    columns = (
        MODEL,
        text_column("Decode kind", "decode_kind"),
        count_column("Prompts", "n_prompts"),
        RowColumn(median_column(frame["row"]), median_cell),
    )
    return _figure(
        f"decode-{setup.label}",
        f"Decode time by number of prompts: {setup.label}",
        f"Decode time of {', '.join(models)} against the prompts in one call.",
        charts.decode_chart(frame.assign(tip=tips), model_names(record)),
        columns,
        frame["row"],
        notes,
        setup.label,
    )


def history(runs: Sequence[RunRecord], models: Sequence[str]) -> list[Figure]:
    """One figure for every quantity that at least two runs measured.

    Args:
        runs: Runs in any order.
        models: All models of the page; others are left out.
    """
    return [
        _history(name, unit, frame, models)
        for name, (unit, frame) in history_frames(runs, models).items()
    ]


def _history(name: str, unit: str, frame: Any, models: Sequence[str]) -> Figure:
    def text(r: Any) -> str:
        return interval(r.value, r.bounds, 1) if unit == "%" else spread_text(r.value, r.spread)

    notes = [f"Runs in the order of time, evenly spaced. Bars: {bars_text(frame['spread'])}."]
    if unit == "ms":
        notes.append("Lines join runs of the same machine, threads and allocator only.")
    if any(frame["teacher"]):
        notes.append("Lines join runs of the same machine and weights of the teacher only.")
    tips = [f"{r.model}, {r.run.id}, {day(r.run)}: {text(r)} {unit}" for r in frame.itertuples()]
    columns = (
        text_column("Run", "run", get=["run.id"]),
        text_column("Date", "created_utc", get=["run.created_utc"]),
        MODEL,
        RowColumn(
            Column("Value", ("value", *ENDS), unit, "right"),
            lambda r: Cell(text(r), (r.value, *spread_ends(r.spread))),
        ),
        RowColumn(Column("Commit", ("git_commit",)), _commit_cell),
        text_column("Machine", "machine", get=["where"]),
    )
    n_runs = len(unique(run.id for run in frame["run"]))
    return _figure(
        f"history-{name}",
        f"History: {name}",
        f"{name} of {', '.join(unique(frame['model']))} over {n_runs} runs.",
        charts.history_chart(frame.assign(tip=tips), models, unit),
        columns,
        frame.itertuples(),
        notes,
        name,
    )


def _commit_cell(row: Any) -> Cell:
    commit = row.run.environment.git_commit
    return Cell((commit or "")[:12], (commit,))
