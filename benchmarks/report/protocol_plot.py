"""Accuracy under all protocols of one dataset and reference, and accuracy by number of clicks."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmarks.prompts.protocols import reference_model
from benchmarks.records.record import MiouRow, RunRecord
from benchmarks.report.style import ModelStyle, model_styles, new_figure, short_names
from benchmarks.tables.formatting import shorten
from benchmarks.tables.record_queries import (
    MOST_HEADLINES,
    Bounds,
    Protocol,
    find_miou,
    miou_percent,
    model_names,
)

BAND = "#f4f4f4"
REASON_LENGTH = 120
MARKER_PT = 5
MODEL_IN = 0.085
"""Height that one model takes in the row of a protocol: a marker, and a little more."""
LEGEND_LENGTH = 120
"""Characters of 8 points that fit side by side above the axes."""
_CLICKS = re.compile(r"clicks-([1-9]\d*)")

Mean = tuple[float, Bounds | None]
"""mIoU in percent, and the ends of its interval where the run gave one."""


def clicks_of(protocol: Protocol) -> int | None:
    """K of `clicks-K`; None for other protocols."""
    match = _CLICKS.fullmatch(protocol.protocol)
    return int(match[1]) if match else None


def percent_limits(values: Sequence[float]) -> tuple[float, float]:
    """Multiples of ten around all values; dots, unlike bars, need no zero.

    Args:
        values: In percent, at least one.
    """
    low = max(0, 10 * math.floor((min(values) - 3) / 10))
    high = min(100, 10 * math.ceil((max(values) + 3) / 10))
    # A dot that lies on the end of the axis is shown whole.
    return low - 2, high + 2


def protocols_figure(record: RunRecord, group: Sequence[Protocol]) -> Any | None:
    """Accuracy under every protocol, a row each, with a dot and an interval for every model.

    Args:
        record: One run, or several that were merged.
        group: The protocols of one dataset and reference, in the order of their rows.

    Returns:
        The matplotlib figure; None for so few protocols that each has plots of its own, and where
        no model has an accuracy.
    """
    means = _means(record, group)
    if len(group) <= MOST_HEADLINES or not means:
        return None
    shown = [p for p in group if any(p in of_model for of_model in means.values())]
    notes = [
        "Bars: 95 % bootstrap intervals over images. The numbers are in the tables of accuracy.",
        *_teacher_note(group[0]),
        *_left_out(record, group),
    ]
    row_in = 0.14 + MODEL_IN * len(means)
    first = group[0]
    title = f"mIoU by protocol: vs {first.reference}, {first.dataset}"
    figure = new_figure(1.0 + row_in * len(shown), title, notes)
    ax = figure.subplots()
    _draw_bands(ax, [p.protocol for p in shown])
    styles = model_styles(model_names(record))
    step = MODEL_IN / row_in
    for index, (model, of_model) in enumerate(means.items()):
        offset = step * (index - (len(means) - 1) / 2)
        rows = [(shown.index(p) + offset, mean) for p, mean in of_model.items()]
        _draw_rows(ax, rows, styles[model])
    ax.set_xlim(*percent_limits(_values(means.values())))
    ax.set_xlabel("mIoU (%)")
    _legend(ax, list(means), styles, lines=False)
    return figure


def clicks_figure(record: RunRecord, group: Sequence[Protocol]) -> Any | None:
    """Accuracy against the number of clicks, a line for every model.

    Args:
        record: One run, or several that were merged.
        group: The protocols of one dataset and reference; only `clicks-K` are looked at.

    Returns:
        The matplotlib figure; None where no model has an accuracy after two clicks or more.
    """
    clicked = {p: number for p in group if (number := clicks_of(p))}
    means = _means(record, list(clicked))
    most = max((clicked[p] for of_model in means.values() for p in of_model), default=0)
    if most < 2:
        return None
    notes = [
        "The first click is the centre of the object, each further one that of the largest error. "
        "Bars: 95 % bootstrap intervals over images. The dots of a click stand side by side.",
        *_left_out(record, list(clicked)),
    ]
    first = group[0]
    title = f"mIoU by number of clicks: vs {first.reference}, {first.dataset}"
    figure = new_figure(4.0, title, notes)
    ax = figure.subplots()
    ax.grid(visible=True, axis="y")
    styles = model_styles(model_names(record))
    step = min(0.06, 0.5 / len(means))
    for index, (model, of_model) in enumerate(means.items()):
        offset = step * (index - (len(means) - 1) / 2)
        points = sorted((clicked[p] + offset, mean) for p, mean in of_model.items())
        _draw_line(ax, points, styles[model])
    ax.set_xticks(range(1, most + 1))
    ax.set_xlim(0.5, most + 0.5)
    ax.set_ylim(*percent_limits(_values(means.values())))
    ax.set_xlabel("Clicks")
    ax.set_ylabel("mIoU (%)")
    _legend(ax, list(means), styles, lines=True)
    return figure


def _means(record: RunRecord, group: Sequence[Protocol]) -> dict[str, dict[Protocol, Mean]]:
    """Accuracies by model and protocol; models and protocols without any are absent."""
    found = {
        model: {p: mean for p in group if (mean := miou_percent(find_miou(record, p, model)))}
        for model in model_names(record)
    }
    return {model: of_model for model, of_model in found.items() if of_model}


def _values(means: Iterable[Mapping[Protocol, Mean]]) -> list[float]:
    return [
        each
        for of_model in means
        for value, bounds in of_model.values()
        for each in (value, *(bounds or ()))
    ]


def _left_out(record: RunRecord, group: Sequence[Protocol]) -> list[str]:
    """Why dots are missing: one note for all models with the same reason in the same protocols."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for p in group:
        for model in model_names(record):
            row = find_miou(record, p, model)
            if row is not None and miou_percent(row) is None:
                reasons.setdefault((_why(row), model), []).append(p.protocol)
    together: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for (why, model), names in reasons.items():
        together.setdefault((why, tuple(names)), []).append(model)
    return [
        f"No dot in {_named(names, group)}: {', '.join(models)} ({shorten(why, REASON_LENGTH)})."
        for (why, names), models in together.items()
    ]


def _teacher_note(protocol: Protocol) -> list[str]:
    teacher = reference_model(protocol.reference)
    if teacher is None:
        return []
    return [f"Agreement with the masks of {teacher}, which is not accuracy; its own is 100 %."]


def _why(row: MiouRow) -> str:
    if row.weights.kind == "random" and row.status != "error":
        return "no trained weights"
    return row.why or f"{row.status}, no reason recorded"


def _named(names: Sequence[str], group: Sequence[Protocol]) -> str:
    return "every protocol" if len(names) == len(group) else ", ".join(names)


def _draw_bands(ax: Any, names: Sequence[str]) -> None:
    """One row a name from top to bottom, every other one shaded."""
    ax.grid(visible=True, axis="x")
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    for line in range(0, len(names), 2):
        ax.axhspan(line - 0.5, line + 0.5, color=BAND, linewidth=0, zorder=0)
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(len(names) - 0.5, -0.5)


def _draw_rows(ax: Any, rows: Sequence[tuple[float, Mean]], style: ModelStyle) -> None:
    for line, (_, bounds) in rows:
        if bounds is not None:
            ax.plot(bounds, (line, line), color=style.color, linewidth=1.4, alpha=0.8)
    ax.plot(
        [value for _, (value, _) in rows],
        [line for line, _ in rows],
        linestyle="none",
        marker=style.marker,
        markersize=MARKER_PT,
        color=style.color,
        clip_on=False,
        zorder=3,
    )


def _draw_line(ax: Any, points: Sequence[tuple[float, Mean]], style: ModelStyle) -> None:
    for x, (_, bounds) in points:
        if bounds is not None:
            ax.plot((x, x), bounds, color=style.color, linewidth=1.2, alpha=0.8)
    ax.plot(
        [x for x, _ in points],
        [value for _, (value, _) in points],
        linestyle=style.dash,
        linewidth=1.4,
        marker=style.marker,
        markersize=MARKER_PT,
        color=style.color,
        zorder=3,
    )


def _legend(
    ax: Any, models: Sequence[str], styles: Mapping[str, ModelStyle], *, lines: bool
) -> None:
    """Names above the axes, in as many columns as fit."""
    from matplotlib.lines import Line2D

    names = short_names(models)
    handles = [
        Line2D(
            [],
            [],
            color=styles[model].color,
            marker=styles[model].marker,
            markersize=MARKER_PT,
            linestyle=styles[model].dash if lines else "none",
            label=names[model],
        )
        for model in models
    ]
    fit = max(1, LEGEND_LENGTH // (max(map(len, names.values())) + (8 if lines else 5)))
    n_rows = -(-len(models) // fit)
    ax.legend(
        handles=handles,
        loc="lower left",
        bbox_to_anchor=(0, 1),
        ncols=-(-len(models) // n_rows),
        frameon=False,
        fontsize=8,
        borderaxespad=0,
        columnspacing=1.2,
        handlelength=2.4 if lines else 1,
    )
