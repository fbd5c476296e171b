"""Plots of the experiment: what was reached, at what cost, and how the losses fell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.distillation.experiment import DistillationRecord, StudentRow
from benchmarks.distillation.seeds import over_seeds
from benchmarks.distillation.tables import full_budget, groups
from benchmarks.report.style import BLUE, GREY, INK, ORANGE, VERMILLION, new_figure

_COLORS: Mapping[str, str] = {
    "decoupled": VERMILLION,
    "semi-coupled": BLUE,
    "coupled": ORANGE,
}
_MARKERS: Mapping[str, str] = {"decoupled": "o", "semi-coupled": "s", "coupled": "^"}


def schemes_figure(record: DistillationRecord) -> Any:
    """Agreement with the teacher against training time, a point a run, a bar a scheme's interval.

    The other budgets of the decoupled scheme are hollow.
    """
    notes = [
        "Small: one run each. Large: mean over seeds with its 95 % t interval. Hollow: other "
        "budgets of the decoupled scheme. The teacher's embeddings are stored, and not in the time."
    ]
    figure = new_figure(4.2, "Agreement with the teacher by training time", notes)
    ax = figure.subplots()
    full = full_budget(record)
    for (scheme, _, _), runs in groups(record).items():
        _draw_group(ax, scheme, runs, hollow=runs != full[scheme])
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
    # Above the plot, where no run can lie beneath it.
    ax.legend(
        handles=_handles(list(full)),
        frameon=False,
        fontsize=8,
        ncols=len(full),
        loc="lower right",
        bbox_to_anchor=(1, 1),
        borderaxespad=0,
    )
    return figure


def _draw_group(ax: Any, scheme: str, runs: Sequence[StudentRow], *, hollow: bool) -> None:
    color, marker = _COLORS[scheme], _MARKERS[scheme]
    face = "white" if hollow else color
    seconds = [row.train_seconds for row in runs]
    values = [100 * row.agreement for row in runs]
    ax.plot(
        seconds, values, linestyle="none", marker=marker, markersize=3.5, color=color, alpha=0.6
    )
    found = over_seeds(values)
    low, high = found.ci95 or (found.mean, found.mean)
    ax.errorbar(
        [over_seeds(seconds).mean],
        [found.mean],
        yerr=[[found.mean - low], [high - found.mean]],
        color=color,
        marker=marker,
        markersize=8,
        markerfacecolor=face,
        markeredgewidth=1.4,
        capsize=3,
        linewidth=1.4,
    )


def curves_figure(record: DistillationRecord) -> Any:
    """The losses of all runs at the full budget, a panel a scheme: their units differ."""
    full = full_budget(record)
    notes = [
        "One line a seed; means over short stretches. Decoupled: mean squared error between "
        "embeddings. The others: focal and dice on the teacher's masks. The units do not compare."
    ]
    figure = new_figure(3.0, "Losses", notes)
    axes = figure.subplots(1, len(full), squeeze=False)[0]
    for ax, (scheme, runs) in zip(axes, full.items(), strict=True):
        for row in runs:
            ax.plot(
                [point.step for point in row.curve],
                [point.loss for point in row.curve],
                color=_COLORS[scheme],
                linewidth=1.1,
                alpha=0.8,
            )
        ax.set_title(scheme, loc="left")
        ax.set_xlabel("Step")
        ax.set_ylim(bottom=0)
        ax.grid(visible=True)
    axes[0].set_ylabel("Loss")
    return figure


def _handles(schemes: Sequence[str]) -> list[Any]:
    from matplotlib.lines import Line2D

    return [
        Line2D([], [], linestyle="none", marker=_MARKERS[name], color=_COLORS[name], label=name)
        for name in schemes
    ]
