"""Plots of the comparison of schemes, and all files derived from its record."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.distillation.comparison_tables import (
    RunGroup,
    compute_table,
    full_budget,
    groups,
    over_seeds,
    schemes_table,
)
from benchmarks.distillation.experiment import DistillationRecord
from benchmarks.report.style import (
    BLUE,
    GREY,
    INK,
    ORANGE,
    VERMILLION,
    new_figure,
    plot_style,
    save_figure,
)

_STYLES: Mapping[str, tuple[str, str]] = {
    "decoupled": (VERMILLION, "o"),
    "semi-coupled": (BLUE, "s"),
    "coupled": (ORANGE, "^"),
}
"""Colour and marker of each scheme."""


def write_outputs(record: DistillationRecord, folder: Path) -> list[Path]:
    """Writes tables and plots beside the record; returns their paths."""
    paths = [*schemes_table(record).write(folder), *compute_table(record).write(folder)]
    with plot_style():
        paths += save_figure(schemes_figure(record), folder, "distillation-schemes")
        paths += save_figure(curves_figure(record), folder, "distillation-losses")
    return paths


def schemes_figure(record: DistillationRecord) -> Any:
    """Agreement with the teacher against training time: runs, and means with intervals."""
    from matplotlib.lines import Line2D

    notes = [
        "Small: one run each. Large: mean over seeds with its 95 % t interval. Hollow: other "
        "budgets of the decoupled scheme. The teacher's embeddings are stored, and not in the time."
    ]
    figure = new_figure(4.2, "Agreement with the teacher by training time", notes)
    ax = figure.subplots()
    full = {each.scheme: each for each in full_budget(record)}
    for group in groups(record):
        _draw_group(ax, group, hollow=group.runs != full[group.scheme].runs)
    if record.untrained_agreement is not None:
        ax.axhline(100 * record.untrained_agreement, color=GREY, linewidth=1, linestyle=":")
        ax.annotate(
            "untrained student",
            (0.99, 100 * record.untrained_agreement),
            xycoords=("axes fraction", "data"),
            ha="right",
            va="bottom",
            fontsize=8,
            color=INK,
        )
    ax.set_xlabel("Training of one student (s)")
    ax.set_ylabel("mIoU with the teacher's mask, center (%)")
    ax.set_xlim(0, 1.06 * max(row.train_seconds for row in record.students))
    ax.grid(visible=True)
    handles = [
        Line2D(
            [], [], linestyle="none", marker=_STYLES[name][1], color=_STYLES[name][0], label=name
        )
        for name in full
    ]
    # Above the axes, so that it covers no run.
    ax.legend(
        handles=handles,
        frameon=False,
        fontsize=8,
        ncols=len(full),
        loc="lower right",
        bbox_to_anchor=(1, 1),
        borderaxespad=0,
    )
    return figure


def _draw_group(ax: Any, group: RunGroup, *, hollow: bool) -> None:
    color, marker = _STYLES[group.scheme]
    values = [100 * row.agreement for row in group.runs]
    ax.plot(
        [row.train_seconds for row in group.runs],
        values,
        linestyle="none",
        marker=marker,
        markersize=3.5,
        color=color,
        alpha=0.6,
    )
    found = over_seeds(values)
    low, high = found.ci95 or (found.mean, found.mean)
    ax.errorbar(
        [group.seconds],
        [found.mean],
        yerr=[[found.mean - low], [high - found.mean]],
        color=color,
        marker=marker,
        markersize=8,
        markerfacecolor="white" if hollow else color,
        markeredgewidth=1.4,
        capsize=3,
        linewidth=1.4,
    )


def curves_figure(record: DistillationRecord) -> Any:
    """Losses of all runs at the full budget, one panel a scheme because their units differ."""
    full = full_budget(record)
    notes = [
        "One line a seed; means over short stretches. Decoupled: mean squared error between "
        "embeddings. The others: focal and dice on the teacher's masks. The units do not compare."
    ]
    figure = new_figure(3.0, "Losses", notes)
    axes = figure.subplots(1, len(full), squeeze=False)[0]
    for ax, group in zip(axes, full, strict=True):
        for row in group.runs:
            ax.plot(
                [point.step for point in row.curve],
                [point.loss for point in row.curve],
                color=_STYLES[group.scheme][0],
                linewidth=1.1,
                alpha=0.8,
            )
        ax.set_title(group.scheme, loc="left")
        ax.set_xlabel("Step")
        ax.set_ylim(bottom=0)
        ax.grid(visible=True)
    axes[0].set_ylabel("Loss")
    return figure
