"""The HTML report's figures of time: a waterfall by phase, and decoding against prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.records.record import LatencyRow, RunRecord
from benchmarks.report.decode_plot import decode_series, slope_ms, slope_text, times_shown
from benchmarks.report.html_axes import (
    WIDE_PX,
    Box,
    dash_array,
    draw_axes,
    draw_legend,
    error_bars,
    legend_height,
)
from benchmarks.report.html_figure import Figure, drawings, legend, series
from benchmarks.report.html_svg import Canvas, log_scale
from benchmarks.report.style import model_styles, short_names
from benchmarks.tables.columns import bars_text, median_cell, median_column, sample_notes, text_cell
from benchmarks.tables.formatting import milliseconds, number, slug, spread_text
from benchmarks.tables.record_queries import (
    Setup,
    find_latency,
    has_random_weights,
    model_names,
    setup_of,
    spread_of,
    timed,
)
from benchmarks.tables.table import Cell, Column, Table

_LANE_PX, _HEAD_PX, _GAP_PX = 15.0, 34.0, 12.0
_GUTTER_PX = 32.0
_LABELS_PX = 142.0


@dataclass(frozen=True, slots=True)
class Fall:
    """The phases of one prompt of one model, in the order in which they happen.

    Attributes:
        model: Its name.
        steps: Rows with a time; the name of each as printed.
        whole: The row of all of it in one call, where that was timed.
    """

    model: str
    steps: tuple[tuple[str, LatencyRow], ...]
    whole: LatencyRow | None

    @property
    def sum_ms(self) -> float:
        """Sum of the medians."""
        return sum(row.median_ms or 0 for _, row in self.steps)


def falls(record: RunRecord, setup: Setup) -> list[Fall]:
    """Every model with a timed encoder, from fast to slow."""
    found = []
    for model in model_names(record):
        rows = [row for row in record.latency if row.model == model and setup_of(row) == setup]
        # A detector's search for masks belongs to the image, and happens before any prompt.
        order = (
            ("preprocess", "preprocess", None),
            ("encode", "encode", None),
            ("search", "postprocess", None),
            ("decode", "decode", 1),
            ("postprocess", "postprocess", 1),
        )
        steps = tuple(
            (name, row)
            for name, phase, n in order
            for row in rows
            if (row.phase, row.n_prompts) == (phase, n) and timed(row)
        )
        if any(name == "encode" for name, _ in steps):
            whole = find_latency(record, setup, model, "end_to_end")
            found.append(Fall(model, steps, whole if timed(whole) else None))
    return sorted(found, key=lambda fall: fall.sum_ms)


def waterfall(record: RunRecord, setup: Setup) -> Figure | None:
    """Where the time of one image and one prompt goes; None where no encoder was timed."""
    found = falls(record, setup)
    if not found:
        return None
    title = f"Latency by phase, one image and one prompt: {setup.label}"
    parts = (f"{fall.model} {milliseconds(fall.sum_ms)}" for fall in found)
    alt = f"Phases of each model one after the other. Sums: {', '.join(parts)}."
    wide, narrow = drawings(lambda width: _waterfall(record, found, width), title, alt)
    notes = [
        "Every model on a scale of its own: the bars show where its time goes, the numbers how "
        f"much it is. Medians; thin lines: {_bars(found)}. End to end is one call of all phases, "
        "timed by itself: it need not be their sum.",
        *sample_notes(row for fall in found for row in _rows(fall)),
    ]
    random = [fall.model for fall in found if has_random_weights(record, fall.model)]
    if random:
        notes.append(
            "Outlined: random weights on the exact architecture, whose time is the same: "
            f"{', '.join(random)}."
        )
    table = _waterfall_table(found)
    return Figure(
        slug(f"waterfall-{setup.label}"), title, alt, wide, narrow, table, tuple(notes), setup.label
    )


def _rows(fall: Fall) -> list[LatencyRow]:
    return [*(row for _, row in fall.steps), *([fall.whole] if fall.whole else [])]


def _bars(found: Sequence[Fall]) -> str:
    return bars_text(spread_of(row) for fall in found for row in _rows(fall))


def _waterfall_table(found: Sequence[Fall]) -> Table:
    columns = (
        Column("Model", ("model",)),
        Column("Phase", ("phase",)),
        median_column(row for fall in found for row in _rows(fall)),
        Column("Of the sum", ("share",), "%", "right"),
    )
    rows = []
    for fall in found:
        for name, row in (*fall.steps, *([("end to end", fall.whole)] if fall.whole else [])):
            share = None if row is fall.whole else (row.median_ms or 0) / fall.sum_ms
            rows.append(
                (
                    text_cell(fall.model),
                    text_cell(name),
                    median_cell(row),
                    Cell("" if share is None else number(100 * share, 1), (share,)),
                )
            )
    return Table("waterfall", "The values of the figure", columns, tuple(rows))


def _waterfall(record: RunRecord, found: Sequence[Fall], width: float) -> Canvas:
    columns = 2 if width >= WIDE_PX and len(found) > 1 else 1
    rows = [found[index : index + columns] for index in range(0, len(found), columns)]
    heights = [_HEAD_PX + _GAP_PX + _LANE_PX * max(len(fall.steps) for fall in row) for row in rows]
    canvas = Canvas(width, sum(heights))
    room = (width - _GUTTER_PX * (columns - 1)) / columns
    top = 0.0
    for row, height in zip(rows, heights, strict=True):
        for place, fall in enumerate(row):
            left = place * (room + _GUTTER_PX)
            _fall(canvas, record, fall, (left, top, left + room))
        top += height
    return canvas


def _fall(canvas: Canvas, record: RunRecord, fall: Fall, at: tuple[float, float, float]) -> None:
    left, top, right = at
    series_number = series(record)[fall.model]
    name = short_names(model_names(record))[fall.model]
    total = f"sum {milliseconds(fall.sum_ms)}"
    if fall.whole:
        total += f", end to end {milliseconds(fall.whole.median_ms or 0)}"
    canvas.text(left, top + 12, name, "strong")
    canvas.text(left, top + 27, total, "small muted")
    canvas.line(left, top + _HEAD_PX - 2, right, top + _HEAD_PX - 2, "grid")
    start = left + _LABELS_PX
    scale = (right - start - 2) / fall.sum_ms
    before = 0.0
    for lane, (phase, row) in enumerate(fall.steps):
        median = row.median_ms or 0.0
        x, y = start + scale * before, top + _HEAD_PX + _LANE_PX * lane
        spread = spread_of(row)
        tip = f"{fall.model}, {phase}: {spread_text(median, spread)} ms"
        canvas.text(left, y + _LANE_PX - 4, phase, "small")
        canvas.text(start - 8, y + _LANE_PX - 4, milliseconds(median), "small", "end")
        with canvas.mark(tip, series_number):
            css = "block hollow" if has_random_weights(record, fall.model) else "block"
            length = max(1.5, scale * median)
            canvas.add("rect", css, x=x, y=y + 2, width=length, height=_LANE_PX - 5)
            if spread is not None and scale * (spread.bounds[1] - spread.bounds[0]) > 2:
                low, high = (min(right, start + scale * (before + end)) for end in spread.bounds)
                error_bars(canvas, (x, y + _LANE_PX / 2 - 0.5), (low, high))
        before += median


def decode_prompts(record: RunRecord, setup: Setup) -> Figure | None:
    """Decode time against the number of prompts; None without times."""
    found = decode_series(record, setup)
    if not found:
        return None
    title = f"Decode time by number of prompts: {setup.label}"
    alt = f"Decode time of {', '.join(found)} against the prompts in one call."
    wide, narrow = drawings(lambda width: _decode(record, found, width), title, alt)
    missing = [model for model in model_names(record) if model not in found]
    notes = (
        f"Error bars: {bars_text(spread_of(row) for part in found.values() for row in part)}. "
        "Beside the names: what one more prompt costs. Different kinds of decoding do different "
        "work: their times do not compare.",
        *sample_notes(row for part in found.values() for row in part),
        *(["Hollow: random weights, whose time is the same."] if _hollow(record, found) else []),
        *([f"Not timed: {', '.join(missing)}."] if missing else []),
    )
    table = _decode_table(found)
    return Figure(
        slug(f"decode-{setup.label}"), title, alt, wide, narrow, table, notes, setup.label
    )


def _hollow(record: RunRecord, models: Mapping[str, object]) -> bool:
    return any(has_random_weights(record, model) for model in models)


def _decode_table(found: Mapping[str, Sequence[LatencyRow]]) -> Table:
    columns = (
        Column("Model", ("model",)),
        Column("Decode kind", ("decode_kind",)),
        Column("Prompts", ("n_prompts",), align="right"),
        median_column(row for part in found.values() for row in part),
    )
    rows = tuple(
        (
            text_cell(model),
            Cell(row.decode_kind or "", (row.decode_kind,)),
            Cell(str(row.n_prompts), (row.n_prompts,)),
            median_cell(row),
        )
        for model, part in found.items()
        for row in part
    )
    return Table("decode", "The values of the figure", columns, rows)


def _decode(record: RunRecord, found: Mapping[str, Sequence[LatencyRow]], width: float) -> Canvas:
    items = []
    for item, (model, rows) in zip(
        legend(record, list(found), line=True), found.items(), strict=True
    ):
        slope = slope_ms(rows)
        label = short_names(list(found))[model]
        items.append(item.labelled(label if slope is None else f"{label}: {slope_text(slope)}"))
    canvas = Canvas(width, 372 + legend_height(items, width))
    box = Box(52, 28, width - 14, 322)
    rows = [row for part in found.values() for row in part]
    times = times_shown(rows)
    y = log_scale(times, box.bottom, box.top)
    x = log_scale([row.n_prompts or 1 for row in rows], box.left, box.right)
    draw_axes(canvas, box, x, y, ("Prompts in one call (log scale)", "Decode (ms, log scale)"))
    styles = model_styles(model_names(record))
    for item, (model, part) in zip(items, found.items(), strict=True):
        points = [(x(row.n_prompts or 1), y(row.median_ms or 0)) for row in part]
        with canvas.group(f"line-of s{item.series}", data_series=item.series):
            canvas.polyline(points, "line", dash_array(styles[model].dash))
        for row, at in zip(part, points, strict=True):
            tip = (
                f"{model}, {row.n_prompts} prompt{'s' * (row.n_prompts != 1)}: "
                f"{spread_text(row.median_ms or 0, spread_of(row))} ms"
            )
            with canvas.mark(tip, item.series):
                spread = spread_of(row)
                ends = None if spread is None else (y(spread.bounds[0]), y(spread.bounds[1]))
                error_bars(canvas, at, None, ends)
                css = "hollow" if item.hollow else "dot"
                canvas.marker(styles[model].marker, *at, 5, css)
    draw_legend(canvas, items, box.bottom + 46)
    return canvas
