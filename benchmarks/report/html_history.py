"""The HTML report's history: how times and accuracies went from run to run."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from benchmarks.records.record import Environment, RunRecord, WeightsRow
from benchmarks.records.statistics import Spread
from benchmarks.report.html_axes import (
    Box,
    LegendItem,
    dash_array,
    draw_legend,
    draw_y_axis,
    error_bars,
    legend_height,
)
from benchmarks.report.html_figure import Figure, drawings
from benchmarks.report.html_svg import Canvas, Scale, log_scale
from benchmarks.report.protocol_plot import percent_limits
from benchmarks.report.style import model_styles, short_names
from benchmarks.tables.columns import ENDS, bars_text, spread_ends, text_cell
from benchmarks.tables.formatting import clean, interval, slug, spread_text
from benchmarks.tables.record_queries import (
    Bounds,
    Protocol,
    Setup,
    find_latency,
    find_miou,
    headline,
    miou_percent,
    model_names,
    setups,
    timed,
    unique,
    weights_label,
)
from benchmarks.tables.table import Cell, Column, Table

TIMES = (("end_to_end", 1, "end to end"), ("encode", None, "encode"), ("decode", 1, "decode"))
_SHORT_DATE = 10
_DATE_PX = 76.0

Value = tuple[float, Spread | None]


@dataclass(frozen=True, slots=True)
class Metric:
    """One quantity over the runs.

    Attributes:
        name: As printed.
        unit: `ms` or `%`.
        find: The value of a model in a run.
        reference: Finds the weights of the teacher in a run, if the value depends on a teacher.
    """

    name: str
    unit: str
    find: Callable[[RunRecord, str], Value | None]
    reference: Callable[[RunRecord, str], WeightsRow | None] = lambda *_: None

    def where(self, run: RunRecord, model: str) -> str:
        """Text of the conditions that must be equal for two values to share a line of the plot."""
        weights = self.reference(run, model)
        teacher = "" if weights is None else f", reference {weights_label(weights)}"
        return f"{machine(run.environment)}{teacher}"


def machine(environment: Environment) -> str:
    """What must be equal for times of two runs to lie on one line, as printed."""
    parts = (environment.cpu, *environment.gpu, f"{environment.threads} threads")
    return clean(", ".join((*parts, environment.allocator)))


def history(
    runs: Sequence[RunRecord], numbers: dict[str, int], protocols: Sequence[Protocol] = ()
) -> list[Figure]:
    """One figure for each quantity that two runs at least have measured.

    Args:
        runs: In any order.
        numbers: Number of every model on this page; others are left out.
        protocols: Accuracies to follow; the headline ones of all runs unless told.
    """
    ordered = sorted(runs, key=lambda run: (run.created_utc, run.id))
    timings = unique(setup for run in ordered for setup in setups(run))
    shown = protocols or unique(p for run in ordered for p in headline(run))
    metrics = [_time(setup, *each) for setup in timings for each in TIMES]
    metrics += [_miou(protocol) for protocol in shown]
    figures = (_figure(metric, ordered, numbers) for metric in metrics)
    return [figure for figure in figures if figure is not None]


def _time(setup: Setup, phase: str, n_prompts: int | None, name: str) -> Metric:
    def find(run: RunRecord, model: str) -> Value | None:
        return timed(find_latency(run, setup, model, phase, n_prompts))

    return Metric(f"{name}, {setup.label}", "ms", find)


def _miou(protocol: Protocol) -> Metric:
    def find(run: RunRecord, model: str) -> Value | None:
        found = miou_percent(find_miou(run, protocol, model))
        if found is None:
            return None
        return found[0], None if found[1] is None else Spread(found[1], is_range=False)

    def reference(run: RunRecord, model: str) -> WeightsRow | None:
        row = find_miou(run, protocol, model)
        return None if row is None else row.reference_weights

    return Metric(f"mIoU {protocol.label}", "%", find, reference)


@dataclass(frozen=True, slots=True)
class _Dot:
    run: int
    model: str
    machine: str
    value: float
    spread: Spread | None

    @property
    def bounds(self) -> Bounds | None:
        return None if self.spread is None else self.spread.bounds

    def text(self, unit: str) -> str:
        """The value with its interval or range."""
        if unit == "%":
            return interval(self.value, self.bounds, 1)
        return spread_text(self.value, self.spread)


def _figure(metric: Metric, runs: Sequence[RunRecord], numbers: dict[str, int]) -> Figure | None:
    dots = [
        _Dot(index, model, metric.where(run, model), *found)
        for index, run in enumerate(runs)
        for model in model_names(run)
        if model in numbers and (found := metric.find(run, model)) is not None
    ]
    if len({dot.run for dot in dots}) < 2:
        return None
    title = f"History: {metric.name}"
    models = unique(dot.model for dot in dots)
    alt = f"{metric.name} of {', '.join(models)} over {len({dot.run for dot in dots})} runs."
    wide, narrow = drawings(lambda width: _draw(metric, runs, dots, numbers, width), title, alt)
    bars = bars_text(dot.spread for dot in dots)
    notes = [f"Runs in the order of time, evenly spaced. Bars: {bars}."]
    if metric.unit == "ms":
        notes.append("Lines join runs of the same machine, threads and allocator only.")
    if any(metric.reference(runs[dot.run], dot.model) for dot in dots):
        notes.append("Lines join runs of the same machine and weights of the teacher only.")
    table = _table(metric, runs, dots)
    key = slug(f"history-{metric.name}")
    return Figure(key, title, alt, wide, narrow, table, tuple(notes), metric.name)


def _table(metric: Metric, runs: Sequence[RunRecord], dots: Sequence[_Dot]) -> Table:
    columns = (
        Column("Run", ("run",)),
        Column("Date", ("created_utc",)),
        Column("Model", ("model",)),
        Column("Value", ("value", *ENDS), metric.unit, "right"),
        Column("Commit", ("git_commit",)),
        Column("Machine", ("machine",)),
    )
    rows = []
    for dot in dots:
        run = runs[dot.run]
        commit = run.environment.git_commit
        rows.append(
            (
                text_cell(run.id),
                text_cell(run.created_utc),
                text_cell(dot.model),
                Cell(dot.text(metric.unit), (dot.value, *spread_ends(dot.spread))),
                Cell((commit or "")[:12], (commit,)),
                text_cell(dot.machine),
            )
        )
    return Table("history", "The values of the figure", columns, tuple(rows))


def _draw(
    metric: Metric,
    runs: Sequence[RunRecord],
    dots: Sequence[_Dot],
    numbers: dict[str, int],
    width: float,
) -> Canvas:
    models = unique(dot.model for dot in dots)
    styles, names = model_styles(list(numbers)), short_names(models)
    items = [LegendItem(numbers[m], names[m], styles[m], line=True) for m in models]
    canvas = Canvas(width, 262 + legend_height(items, width))
    box = Box(52, 28, width - 14, 218)
    values = [v for dot in dots for v in (dot.value, *(dot.bounds or ())) if v > 0]
    if metric.unit == "ms":
        y = log_scale(values, box.bottom, box.top)
    else:
        y = Scale(*percent_limits(values), box.bottom, box.top)
    draw_y_axis(canvas, box, y, f"{metric.unit}{', log scale' * y.log}")
    x = _dates(canvas, box, runs, sorted({dot.run for dot in dots}))
    offset = {m: 5.0 * (i - (len(models) - 1) / 2) for i, m in enumerate(models)}
    for item, model in zip(items, models, strict=True):
        own = [dot for dot in dots if dot.model == model]
        for where in unique(dot.machine for dot in own):
            line = [(x[d.run] + offset[model], y(d.value)) for d in own if d.machine == where]
            with canvas.group(f"line-of s{item.series}", data_series=item.series):
                canvas.polyline(line, "line", dash_array(item.style.dash))
        for dot in own:
            value = dot.text(metric.unit)
            tip = f"{model}, {runs[dot.run].id}, {day(runs[dot.run])}: {value} {metric.unit}"
            with canvas.mark(tip, item.series):
                at = (x[dot.run] + offset[model], y(dot.value))
                ends = None if dot.bounds is None else (y(dot.bounds[0]), y(dot.bounds[1]))
                error_bars(canvas, at, None, ends)
                canvas.marker(item.style.marker, *at, 4.5, "dot")
    draw_legend(canvas, items, box.bottom + 34)
    return canvas


def _dates(
    canvas: Canvas, box: Box, runs: Sequence[RunRecord], shown: Sequence[int]
) -> dict[int, float]:
    """Draws the axis of runs; returns the place of each in pixels."""
    canvas.line(box.left, box.bottom, box.right, box.bottom, "axis")
    slot = (box.right - box.left) / len(shown)
    x = {run: box.left + slot * (place + 0.5) for place, run in enumerate(shown)}
    # Dates must not run into each other: where the room is short, only every n-th is written.
    every = math.ceil(_DATE_PX / slot)
    for place, run in enumerate(shown):
        canvas.line(x[run], box.top, x[run], box.bottom, "grid")
        if place % every == 0:
            canvas.text(x[run], box.bottom + 16, day(runs[run]), "tick", "middle")
    return x


def day(run: RunRecord) -> str:
    """Date of a run, such as `2026-11-24`."""
    try:
        return datetime.fromisoformat(run.created_utc).date().isoformat()
    except ValueError:
        return clean(run.created_utc)[:_SHORT_DATE]


def runs_table(runs: Sequence[RunRecord], apart: dict[str, str]) -> Table:
    """Every run given: where it was made, with what, and whether this page's rows hold it.

    Args:
        runs: In any order; the newest stands first.
        apart: Id of each run that could not be joined with the others, with the reason.
    """
    columns = (
        Column("Run", ("id",)),
        Column("Date", ("created_utc",)),
        Column("Command", ("command",)),
        Column("Profile", ("profile",)),
        Column("Models", ("n_models",), align="right"),
        Column("Duration", ("duration_s",), "s", "right"),
        Column("Machine", ("machine",)),
        Column("Commit", ("git_commit", "git_dirty")),
        Column("On this page", ("joined",)),
    )
    rows = []
    for run in sorted(runs, key=lambda run: (run.created_utc, run.id), reverse=True):
        env = run.environment
        dirty = " with changes" if env.git_dirty else ""
        commit = f"{(env.git_commit or 'unknown')[:12]}{dirty}"
        joined = "rows and history" if run.id not in apart else f"history only: {apart[run.id]}"
        rows.append(
            (
                text_cell(run.id),
                text_cell(run.created_utc),
                text_cell(run.command),
                text_cell(run.profile or ""),
                Cell(str(len(run.models)), (len(run.models),)),
                Cell(f"{run.duration_s:.0f}", (run.duration_s,)),
                text_cell(machine(env)),
                Cell(commit, (env.git_commit, env.git_dirty)),
                text_cell(joined if run.complete else f"interrupted; {joined}"),
            )
        )
    return Table("runs", "Runs", columns, tuple(rows))
