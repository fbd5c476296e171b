"""Tables and plots of the comparison of schemes: at one budget, and one scheme at several."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, repeat
from pathlib import Path
from typing import Any

from benchmarks.distillation.experiment import DECOUPLED, DistillationRecord, StudentRow
from benchmarks.report import style
from benchmarks.report.captions import Caption
from benchmarks.tables.columns import RowColumn, build_table, count_column, text_column
from benchmarks.tables.formatting import number, percent
from benchmarks.tables.table import Cell, Column, Table

CONFIDENCE = 0.95
_PAPER_TABLE_2 = {"coupled": "0.72", "semi-coupled": "not stated", "decoupled": "0.75"}
# Batch 4, 50k steps; batch 8, 50k steps; batch 8, 100k steps.
_PAPER_TABLE_4 = ("0.7057", "0.7286", "0.7447")
_STYLES: Mapping[str, tuple[str, str]] = {
    "decoupled": (style.VERMILLION, "o"),
    "semi-coupled": (style.BLUE, "s"),
    "coupled": (style.ORANGE, "^"),
}
"""Colour and marker of each scheme."""


@dataclass(frozen=True, slots=True)
class SeedMean:
    """A mean over runs that differ in their seed only."""

    mean: float
    ci95: tuple[float, float] | None  # Student's t interval; None for fewer than two runs


def over_seeds(values: Sequence[float]) -> SeedMean:
    """Mean of at least one value, with its interval.

    The interval covers other seeds on the same images and evaluation, but no other data.
    """
    from scipy import stats

    n = len(values)
    mean = math.fsum(values) / n
    if n < 2:
        return SeedMean(mean, None)
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
    half = float(stats.t.ppf(0.5 + CONFIDENCE / 2, n - 1)) * deviation / math.sqrt(n)
    return SeedMean(mean, (mean - half, mean + half))


@dataclass(frozen=True, slots=True)
class RunGroup:
    """Runs that differ in their seed only, in the order of the record."""

    scheme: str
    batch_size: int
    steps: int
    runs: tuple[StudentRow, ...]
    paper: str = ""  # figure of the paper for the same scheme or budget

    @property
    def images_seen(self) -> int:
        """Number of training images, with repetitions."""
        return self.batch_size * self.steps

    @property
    def seeds(self) -> int:
        """Number of runs."""
        return len(self.runs)

    @property
    def seconds(self) -> float:
        """Mean training time."""
        return over_seeds([row.train_seconds for row in self.runs]).mean


def groups(record: DistillationRecord) -> list[RunGroup]:
    """Groups the runs by scheme, batch and steps, in the order of the record."""
    found: dict[tuple[str, int, int], list[StudentRow]] = {}
    for row in record.students:
        found.setdefault((row.scheme, row.batch_size, row.steps), []).append(row)
    return [RunGroup(*key, tuple(rows)) for key, rows in found.items()]


def full_budget(record: DistillationRecord) -> list[RunGroup]:
    """The group of each scheme at the full budget."""
    wanted = (record.config["batch_size"], record.config["steps"])
    return [
        replace(each, paper=_PAPER_TABLE_2[each.scheme])
        for each in groups(record)
        if (each.batch_size, each.steps) == wanted
    ]


def _mean_column(title: str, name: str, value: Callable[[StudentRow], float]) -> RowColumn:
    def cell(group: RunGroup) -> Cell:
        found = over_seeds([value(row) for row in group.runs])
        low, high = found.ci95 or (None, None)
        return Cell(percent(found.mean, found.ci95), (found.mean, low, high))

    return RowColumn(Column(title, (name, f"{name}_low", f"{name}_high"), "%", "right"), cell)


def _paper_column(title: str) -> RowColumn:
    column = Column(title, ("paper",), align="right")
    return RowColumn(column, lambda group: Cell(group.paper, (group.paper,)))


_AGREEMENT = _mean_column("Agreement with the teacher", "agreement", lambda row: row.agreement)
_SECONDS = RowColumn(
    Column("Training", ("train_seconds",), "s", "right"),
    lambda group: Cell(number(group.seconds), (group.seconds,)),
)


def schemes_table(record: DistillationRecord) -> Table:
    """Results of each scheme at the full budget, over seeds."""

    def truth_column(protocol: str) -> RowColumn:
        title, name = f"Ground truth, {protocol}", protocol.replace("-", "_")
        return _mean_column(title, name, lambda row: row.ground_truth[protocol])

    columns = (
        text_column("Scheme", "scheme"),
        _AGREEMENT,
        *map(truth_column, ("box", "center", "center-multi")),
        count_column("Images seen", "images_seen"),
        _SECONDS,
        count_column("Seeds", "seeds"),
        _paper_column("Paper, Table 2"),
    )
    untrained = record.untrained_agreement
    baseline = (
        "" if untrained is None else f"An untrained student reaches {number(100 * untrained)} %."
    )
    truth = ", ".join(
        f"{name} {number(100 * value)} %" for name, value in record.teacher_ground_truth.items()
    )
    notes = (
        *verdicts(record),
        f"Teacher {record.teacher} ({(record.teacher_sha256 or '')[:8]}), the same student, "
        f"{record.n_training_scenes} scenes, {record.config['steps']} steps of "
        f"{record.config['batch_size']} images each; {record.evaluation}, "
        f"{record.n_evaluation_instances} objects.",
        "Agreement: mIoU of the student's mask with the teacher's for the same single point, "
        f"protocol center; what the paper calls mIoU. {baseline}",
        "[low, high]: 95 % t interval of the mean over seeds; says nothing of other data.",
        f"Teacher against ground truth: {truth}.",
        f"The teacher's embeddings took {record.embed_seconds:.0f} s, once for all runs; not in "
        "the times shown. Each training had one thread, and as a rule others ran at the same time.",
        "Paper, Table 2: ViT-B against ViT-H; coupled is the official SAM ViT-B. Its figures do "
        "not compare with these.",
    )
    title = "Three schemes at one budget"
    return build_table("distillation-schemes", title, columns, full_budget(record), notes)


def verdicts(record: DistillationRecord) -> tuple[str, ...]:
    """Compares the decoupled scheme with each other scheme at the full budget.

    Once at the same number of steps, and once at the larger number that takes about the time of the
    others. Runs of one seed share initial weights and the order of images, and are compared in
    pairs.
    """
    budget = {each.scheme: each.runs for each in full_budget(record)}
    size, steps = record.config["batch_size"], record.config["steps"]
    found = list(_comparisons("Decoupled", budget.get(DECOUPLED, ()), budget))
    for each in groups(record):
        if each.scheme == DECOUPLED and each.batch_size == size and each.steps > steps:
            found += _comparisons(f"Decoupled of {each.steps} steps", each.runs, budget)
    return tuple(found)


def _comparisons(
    title: str, own_rows: Sequence[StudentRow], others: Mapping[str, Sequence[StudentRow]]
) -> Iterator[str]:
    own = {row.seed: row for row in own_rows}
    for scheme, rows in others.items():
        pairs = [(own[row.seed], row) for row in rows if row.seed in own]
        if scheme == DECOUPLED or not pairs:
            continue
        gain = over_seeds([100 * (ours.agreement - theirs.agreement) for ours, theirs in pairs])
        share = sum(ours.train_seconds for ours, _ in pairs) / sum(
            theirs.train_seconds for _, theirs in pairs
        )
        bounds, conclusion = "", "of which one seed shows nothing"
        if gain.ci95 is not None:
            low, high = gain.ci95
            bounds, conclusion = f" [{low:+.1f}, {high:+.1f}]", "which shows no difference"
            if low > 0:
                conclusion = "so it is the better one"
            elif high < 0:
                conclusion = "so it is the worse one"
        yield (
            f"{title} against {scheme}, seed by seed ({len(pairs)}): agreement "
            f"{gain.mean:+.1f}{bounds} points, {conclusion}; {share:.2f} of the time."
        )


def compute_table(record: DistillationRecord) -> Table:
    """The decoupled scheme at rising budgets, as in the paper's Table 4."""
    columns = (
        count_column("Batch", "batch_size"),
        count_column("Steps", "steps"),
        _AGREEMENT,
        _SECONDS,
        count_column("Seeds", "seeds"),
        _paper_column("Paper, Table 4"),
    )
    found = [each for each in groups(record) if each.scheme == DECOUPLED]
    found.sort(key=lambda each: (each.images_seen, each.steps))
    # The paper has no figure beyond its largest budget.
    papers = chain(_PAPER_TABLE_4, repeat("none"))
    rows = [replace(each, paper=paper) for each, paper in zip(found, papers, strict=False)]
    notes = (
        "Paper: batch 4, 50k steps; batch 8, 50k steps; batch 8, 100k steps, with SAM ViT-H as the "
        "teacher on its own test set. Ratios of batch and steps are those; figures do not compare.",
    )
    title = "Decoupled distillation with more compute"
    return build_table("distillation-compute", title, columns, rows, notes)


def write_outputs(record: DistillationRecord, folder: Path) -> list[Path]:
    """Writes tables and plots to the folder of the record; returns their paths."""
    paths = [*schemes_table(record).write(folder), *compute_table(record).write(folder)]
    with style.plot_style():
        paths += style.save_figure(schemes_figure(record), folder, "distillation-schemes")
        paths += style.save_figure(curves_figure(record), folder, "distillation-losses")
    return paths


def schemes_caption(record: DistillationRecord) -> Caption:
    """Mean agreement and time of the schemes after equally many steps, and the highest of all."""

    def mean(group: RunGroup) -> float:
        """Mean agreement over seeds."""
        return over_seeds([row.agreement for row in group.runs]).mean

    def text(group: RunGroup) -> str:
        """A group with its mean and time."""
        return f"{group.scheme} {percent(mean(group))} % ({group.seconds:.0f} s)"

    full = sorted(full_budget(record), key=mean, reverse=True)
    best = max(groups(record), key=mean)
    message = f"After equally many steps: {', '.join(text(group) for group in full)}."
    if best.runs != full[0].runs:
        message = f"{message[:-1]}; highest of all budgets: {text(best)}."
    return Caption("Agreement with the teacher by training time", message)


def losses_caption(record: DistillationRecord) -> Caption:
    """The change of the mean loss of every scheme over the training."""
    changes = []
    for group in full_budget(record):
        first, last = (
            over_seeds([row.curve[end].loss for row in group.runs]).mean for end in (0, -1)
        )
        changes.append(f"{group.scheme} from {number(first)} to {number(last)}")
    return Caption("Losses during training", f"Mean loss: {'; '.join(changes)}.")


def schemes_figure(record: DistillationRecord) -> Any:
    """Agreement with the teacher against training time: runs, and means with intervals."""
    from matplotlib.lines import Line2D

    notes = [
        "Small: one run each. Large: mean over seeds with its 95 % t interval. Hollow: other "
        "budgets of the decoupled scheme. The teacher's embeddings are stored, and not in the time."
    ]
    caption = schemes_caption(record)
    figure = style.new_figure(4.2, caption.title, notes, caption.message)
    ax = figure.subplots()
    full = {each.scheme: each for each in full_budget(record)}
    for group in groups(record):
        _draw_group(ax, group, hollow=group.runs != full[group.scheme].runs)
    if record.untrained_agreement is not None:
        height = 100 * record.untrained_agreement
        ax.axhline(height, color=style.GREY, linewidth=1, linestyle=":")
        place = {"xycoords": ("axes fraction", "data"), "ha": "right", "va": "bottom"}
        ax.annotate("untrained student", (0.99, height), **place, fontsize=8, color=style.INK)
    ax.set_xlabel("Training of one student (s)")
    ax.set_ylabel("mIoU with the teacher's mask, center (%)")
    ax.set_xlim(0, 1.06 * max(row.train_seconds for row in record.students))
    ax.grid(visible=True)
    handles = [
        Line2D([], [], linestyle="none", marker=marker, color=color, label=name)
        for name in full
        for color, marker in (_STYLES[name],)
    ]
    # Above the axes, so that it covers no run.
    corner: dict[str, Any] = {"loc": "lower right", "bbox_to_anchor": (1, 1), "borderaxespad": 0}
    ax.legend(handles=handles, frameon=False, fontsize=8, ncols=len(full), **corner)
    return figure


def _draw_group(ax: Any, group: RunGroup, *, hollow: bool) -> None:
    color, marker = _STYLES[group.scheme]
    values = [100 * row.agreement for row in group.runs]
    seconds = [row.train_seconds for row in group.runs]
    points = {"linestyle": "none", "marker": marker, "color": color}
    ax.plot(seconds, values, **points, markersize=3.5, alpha=0.6)
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
    caption = losses_caption(record)
    figure = style.new_figure(3.0, caption.title, notes, caption.message)
    axes = figure.subplots(1, len(full), squeeze=False)[0]
    for ax, group in zip(axes, full, strict=True):
        color, _ = _STYLES[group.scheme]
        for row in group.runs:
            steps = [point.step for point in row.curve]
            losses = [point.loss for point in row.curve]
            ax.plot(steps, losses, color=color, linewidth=1.1, alpha=0.8)
        ax.set_title(group.scheme, loc="left")
        ax.set_xlabel("Step")
        ax.set_ylim(bottom=0)
        ax.grid(visible=True)
    axes[0].set_ylabel("Loss")
    return figure
