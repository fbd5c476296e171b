"""Small multiples of dots: one panel a quantity, one line a model, every value printed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.report.style import (
    GRID,
    INK,
    MUTED,
    log_axis,
    model_styles,
    new_figure,
    short_names,
)

ROW_IN = 0.19
COLUMNS = 3


@dataclass(frozen=True, slots=True)
class Dot:
    """One value of one model.

    Attributes:
        value: Where the dot stands, in the panel's unit; not drawn on a log axis unless positive.
        text: The value as printed beside it.
        bounds: Ends of its error bar.
        hollow: Measured with random weights.
    """

    value: float
    text: str
    bounds: tuple[float, float] | None = None
    hollow: bool = False


@dataclass(frozen=True, slots=True)
class Panel:
    """One quantity: a dot for each model, or the word that stands in its place."""

    title: str
    dots: Mapping[str, Dot | str]


def panel_figure(
    title: str,
    panels: Sequence[Panel],
    models: Sequence[str],
    x_label: str,
    *,
    notes: Sequence[str] = (),
    linear: tuple[float, float] | None = None,
    columns: int = COLUMNS,
) -> Any:
    """Draws panels that share both axes.

    Args:
        title: Of the whole figure.
        panels: At least one, with at least one positive dot among them.
        models: Lines from top to bottom.
        x_label: Quantity and unit.
        notes: Printed below.
        linear: Limits of a linear axis; without them it is logarithmic.
        columns: Most panels side by side.

    Returns:
        The matplotlib figure.
    """
    columns = 2 if len(panels) == 4 and linear is None else min(len(panels), columns)
    n_rows = -(-len(panels) // columns)
    figure = new_figure(0.55 + n_rows * (0.62 + ROW_IN * len(models)), title, notes)
    grid = figure.subplots(n_rows, columns, sharex=True, sharey=True, squeeze=False)
    flat = grid.ravel()
    for ax, panel in zip(flat, panels, strict=False):
        _draw(ax, panel, models)
    for ax in flat[len(panels) :]:
        ax.set_visible(False)
    _axes_limits(flat[0], panels, len(models), linear)
    flat[0].set_yticks(range(len(models)), list(short_names(models).values()))
    for index in range(max(0, len(panels) - columns), len(panels)):
        flat[index].set_xlabel(x_label)
        # A panel above an empty place of the grid is the last of its column.
        flat[index].tick_params(axis="x", labelbottom=True)
    return figure


def _draw(ax: Any, panel: Panel, models: Sequence[str]) -> None:
    styles = model_styles(models)
    ax.set_title(panel.title, loc="left", fontweight="bold")
    ax.grid(visible=True, axis="x")
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    for line, model in enumerate(models):
        ax.axhline(line, color=GRID, linewidth=0.7, zorder=0)
        dot = panel.dots.get(model, "")
        if isinstance(dot, str):
            _value(ax, line, dot, MUTED)
            continue
        _value(ax, line, dot.text, INK)
        if dot.bounds is not None:
            ax.plot(dot.bounds, (line, line), color=styles[model].color, linewidth=1.6, alpha=0.8)
        ax.plot(
            dot.value,
            line,
            linestyle="none",
            marker=styles[model].marker,
            markersize=5,
            color=styles[model].color,
            markerfacecolor="white" if dot.hollow else styles[model].color,
            markeredgewidth=1.4,
        )


def _value(ax: Any, line: int, text: str, color: str) -> None:
    """Prints beside the panel, where no dot can be."""
    ax.annotate(
        text,
        (1, line),
        xycoords=ax.get_yaxis_transform(),
        xytext=(4, 0),
        textcoords="offset points",
        va="center",
        fontsize=8,
        color=color,
        annotation_clip=False,
    )


def _axes_limits(
    ax: Any, panels: Sequence[Panel], n_models: int, linear: tuple[float, float] | None
) -> None:
    ax.set_ylim(n_models - 0.4, -0.6)
    if linear is not None:
        ax.set_xlim(*linear)
        return
    dots = [dot for panel in panels for dot in panel.dots.values() if isinstance(dot, Dot)]
    values = [value for dot in dots for value in (dot.value, *(dot.bounds or ())) if value > 0]
    log_axis(ax.xaxis, min(values), max(values), ticks=4 if len(panels) > 1 else 9)
