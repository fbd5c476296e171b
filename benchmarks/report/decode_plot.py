"""Decode time against the number of prompts: one line a model, its slope beside its name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.records.record import LatencyRow, RunRecord
from benchmarks.report.labels import spread
from benchmarks.report.style import (
    INK,
    MUTED,
    Dash,
    log_axis,
    model_styles,
    new_figure,
    short_names,
)
from benchmarks.tables.columns import bars_text
from benchmarks.tables.formatting import milliseconds
from benchmarks.tables.record_queries import (
    Setup,
    has_random_weights,
    model_names,
    setup_of,
    spread_of,
    timed,
    unique,
)

KIND_MARKERS = {"decoder": "o", "select": "s", "classical": "^"}
LEADER_PT = 26
LINE_PT = 13


def decode_series(record: RunRecord, setup: Setup) -> dict[str, list[LatencyRow]]:
    """Timed decode rows of each model in a setup, by number of prompts."""
    series: dict[str, list[LatencyRow]] = {}
    for row in sorted(record.latency, key=lambda row: row.n_prompts or 0):
        if row.phase == "decode" and row.n_prompts and setup_of(row) == setup and timed(row):
            series.setdefault(row.model, []).append(row)
    return {model: series[model] for model in model_names(record) if model in series}


def times_shown(rows: Sequence[LatencyRow]) -> list[float]:
    """Medians and ends of error bars of rows, without those that a log axis cannot show."""
    spreads = ((row.median_ms, spread_of(row)) for row in rows)
    found = (time for ms, spread in spreads for time in (ms, *(spread.bounds if spread else ())))
    return [time for time in found if time and time > 0]


def slope_ms(rows: Sequence[LatencyRow]) -> float | None:
    """Milliseconds that one more prompt costs, between the fewest and the most prompts."""
    first, last = rows[0], rows[-1]
    if not first.n_prompts or not last.n_prompts or first.n_prompts == last.n_prompts:
        return None
    return ((last.median_ms or 0) - (first.median_ms or 0)) / (last.n_prompts - first.n_prompts)


def decode_figure(record: RunRecord, setup: Setup) -> Any | None:
    """Decode time against the number of prompts, both axes logarithmic; None without times."""
    series = decode_series(record, setup)
    if not series:
        return None
    missing = [model for model in model_names(record) if model not in series]
    bars = bars_text(spread_of(row) for part in series.values() for row in part)
    notes = [
        f"{setup.label}. Error bars: {bars}. Figures: what one more prompt costs. "
        "Different markers do different work: their times do not compare."
    ]
    if random := [model for model in series if has_random_weights(record, model)]:
        notes.append(
            "Hollow: random weights on the exact architecture, whose time is the same: "
            f"{', '.join(random)}."
        )
    if missing:
        notes.append(f"Not timed: {', '.join(missing)}.")
    figure = new_figure(
        max(3.6, 1.4 + 0.2 * len(series)), "Decode time by number of prompts", notes
    )
    ax = figure.subplots()
    rows = [row for part in series.values() for row in part]
    times = times_shown(rows)
    counts = [row.n_prompts or 1 for row in rows]
    log_axis(ax.yaxis, min(times), max(times), ticks=9)
    log_axis(ax.xaxis, min(counts), max(counts), ticks=6)
    ax.set_xlabel("Prompts in one call (log scale)")
    ax.set_ylabel("Decode (ms, log scale)")
    ax.grid(visible=True)
    styles = model_styles(model_names(record))
    for model, part in series.items():
        hollow = has_random_weights(record, model)
        _draw_series(ax, part, styles[model].color, styles[model].dash, hollow=hollow)
    _kind_legend(ax, rows)
    _name_series(figure, ax, series, {m: styles[m].color for m in series})
    return figure


def _draw_series(
    ax: Any, rows: Sequence[LatencyRow], color: str, dash: Dash, *, hollow: bool
) -> None:
    x = [row.n_prompts for row in rows]
    y = [row.median_ms or 0.0 for row in rows]
    spreads = [spread_of(row) for row in rows]
    bounds = [s.bounds if s else (value, value) for s, value in zip(spreads, y, strict=True)]
    low = [max(0.0, value - ends[0]) for value, ends in zip(y, bounds, strict=True)]
    high = [max(0.0, ends[1] - value) for value, ends in zip(y, bounds, strict=True)]
    ax.errorbar(
        x,
        y,
        yerr=[low, high],
        color=color,
        linestyle=dash,
        linewidth=1.6,
        capsize=2.5,
        marker=KIND_MARKERS[rows[0].decode_kind or "decoder"],
        markersize=6,
        markeredgewidth=1.4,
        markerfacecolor="white" if hollow else color,
    )


def _kind_legend(ax: Any, rows: Sequence[LatencyRow]) -> None:
    from matplotlib.lines import Line2D

    kinds = unique(row.decode_kind for row in rows if row.decode_kind)
    handles = [
        Line2D([], [], linestyle="none", marker=KIND_MARKERS[kind], color=MUTED, label=kind)
        for kind in kinds
    ]
    ax.legend(
        handles=handles,
        loc="lower left",
        bbox_to_anchor=(0, 1),
        ncols=len(handles),
        frameon=False,
        fontsize=8,
        borderaxespad=0,
    )


def _name_series(
    figure: Any,
    ax: Any,
    series: Mapping[str, Sequence[LatencyRow]],
    colors: Mapping[str, str],
) -> None:
    """Writes names and slopes beside the axes, each joined to the end of its line."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    names = short_names(list(series))
    texts = {}
    for model, rows in series.items():
        slope = slope_ms(rows)
        texts[model] = names[model] + ("" if slope is None else f"  {slope_text(slope)}")
    labels = {
        model: ax.text(0, 0, text, va="center", fontsize=9, color=INK)
        for model, text in texts.items()
    }
    _make_room(figure, ax, list(labels.values()))
    inverse = ax.transAxes.inverted().transform
    ends = [
        inverse(ax.transData.transform((rows[-1].n_prompts, rows[-1].median_ms)))
        for rows in series.values()
    ]
    box = ax.get_window_extent()
    gap = LINE_PT * figure.dpi / 72 / box.height
    heights = spread([float(end[1]) for end in ends], gap, 0.02, 0.98)
    left = 1 + LEADER_PT * figure.dpi / 72 / box.width
    for (model, label), end, height in zip(labels.items(), ends, heights, strict=True):
        label.set_transform(ax.transAxes)
        label.set_position((left, height))
        ax.plot(
            (end[0], left - 0.01),
            (end[1], height),
            color=colors[model],
            linewidth=0.8,
            zorder=1,
            transform=ax.transAxes,
            clip_on=False,
        )


def _make_room(figure: Any, ax: Any, labels: Sequence[Any]) -> None:
    """Narrows the axes by as much as the widest label and its leader need."""
    renderer = figure.canvas.get_renderer()
    widest = max(label.get_window_extent(renderer).width for label in labels)
    needed = (widest + (LEADER_PT + 6) * figure.dpi / 72) / figure.bbox.width
    place = ax.get_position()
    ax.set_position((place.x0, place.y0, 1 - needed - place.x0, place.height))


def slope_text(slope: float) -> str:
    """A slope as printed: `20.1 ms / prompt`; what does not grow costs nothing."""
    return f"{milliseconds(slope)} / prompt" if slope > 0 else "0 / prompt"
