"""Tables of the comparison of schemes: schemes at one budget, one scheme at several budgets."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, repeat

from benchmarks.distillation.experiment import DECOUPLED, DistillationRecord, StudentRow
from benchmarks.tables.columns import RowColumn, build_table, count_column, text_column
from benchmarks.tables.formatting import number, percent
from benchmarks.tables.table import Cell, Column, Table

CONFIDENCE = 0.95
_PAPER_TABLE_2 = {"coupled": "0.72", "semi-coupled": "not stated", "decoupled": "0.75"}
# Batch 4, 50k steps; batch 8, 50k steps; batch 8, 100k steps.
_PAPER_TABLE_4 = ("0.7057", "0.7286", "0.7447")


@dataclass(frozen=True, slots=True)
class SeedMean:
    """A mean over runs that differ in their seed only.

    Attributes:
        mean: Mean of all runs.
        ci95: Student's t interval of the mean; None for fewer than two runs.
        n: Number of runs.
    """

    mean: float
    ci95: tuple[float, float] | None
    n: int


def over_seeds(values: Sequence[float]) -> SeedMean:
    """Mean of at least one value, with its interval.

    The interval covers other seeds on the same images and evaluation, but no other data.
    """
    from scipy import stats

    n = len(values)
    mean = math.fsum(values) / n
    if n < 2:
        return SeedMean(mean, None, n)
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
    half = float(stats.t.ppf(0.5 + CONFIDENCE / 2, n - 1)) * deviation / math.sqrt(n)
    return SeedMean(mean, (mean - half, mean + half), n)


@dataclass(frozen=True, slots=True)
class RunGroup:
    """Runs that differ in their seed only.

    Attributes:
        scheme: Scheme of the runs.
        batch_size: Images a step.
        steps: Number of steps.
        runs: The runs in the order of the record.
        paper: Figure of the paper for the same scheme or budget.
    """

    scheme: str
    batch_size: int
    steps: int
    runs: tuple[StudentRow, ...]
    paper: str = ""

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
        RunGroup(*key, each.runs, _PAPER_TABLE_2[each.scheme])
        for each in groups(record)
        if (key := (each.scheme, each.batch_size, each.steps))[1:] == wanted
    ]


def schemes_table(record: DistillationRecord) -> Table:
    """Results of each scheme at the full budget, over seeds."""
    columns = (
        text_column("Scheme", "scheme"),
        _mean_column("Agreement with the teacher", "agreement", lambda row: row.agreement),
        _mean_column("Ground truth, box", "box", lambda row: row.ground_truth["box"]),
        _mean_column("Ground truth, center", "center", lambda row: row.ground_truth["center"]),
        _mean_column(
            "Ground truth, center-multi",
            "center_multi",
            lambda row: row.ground_truth["center-multi"],
        ),
        count_column("Images seen", "images_seen"),
        _SECONDS,
        count_column("Seeds", "seeds"),
        _paper_column("Paper, Table 2"),
    )
    return build_table(
        "distillation-schemes",
        "Three schemes at one budget",
        columns,
        full_budget(record),
        _notes(record),
    )


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
        bounds = "" if gain.ci95 is None else f" [{gain.ci95[0]:+.1f}, {gain.ci95[1]:+.1f}]"
        yield (
            f"{title} against {scheme}, seed by seed ({len(pairs)}): agreement "
            f"{gain.mean:+.1f}{bounds} points, {_conclusion(gain)}; {share:.2f} of the time."
        )


def _conclusion(gain: SeedMean) -> str:
    if gain.ci95 is None:
        return "of which one seed shows nothing"
    low, high = gain.ci95
    if low > 0:
        return "so it is the better one"
    return "so it is the worse one" if high < 0 else "which shows no difference"


def compute_table(record: DistillationRecord) -> Table:
    """The decoupled scheme at rising budgets, as in the paper's Table 4."""
    columns = (
        count_column("Batch", "batch_size"),
        count_column("Steps", "steps"),
        _mean_column("Agreement with the teacher", "agreement", lambda row: row.agreement),
        _SECONDS,
        count_column("Seeds", "seeds"),
        _paper_column("Paper, Table 4"),
    )
    found = [each for each in groups(record) if each.scheme == DECOUPLED]
    found.sort(key=lambda each: (each.images_seen, each.steps))
    # The paper has no figure beyond its largest budget.
    papers = chain(_PAPER_TABLE_4, repeat("none"))
    rows = [
        RunGroup(each.scheme, each.batch_size, each.steps, each.runs, paper)
        for each, paper in zip(found, papers, strict=False)
    ]
    notes = (
        "Paper: batch 4, 50k steps; batch 8, 50k steps; batch 8, 100k steps, with SAM ViT-H as the "
        "teacher on its own test set. Ratios of batch and steps are those; figures do not compare.",
    )
    return build_table(
        "distillation-compute", "Decoupled distillation with more compute", columns, rows, notes
    )


def _notes(record: DistillationRecord) -> tuple[str, ...]:
    untrained = record.untrained_agreement
    return (
        *verdicts(record),
        f"Teacher {record.teacher} ({(record.teacher_sha256 or '')[:8]}), the same student, "
        f"{record.n_training_scenes} scenes, {record.config['steps']} steps of "
        f"{record.config['batch_size']} images each; {record.evaluation}, "
        f"{record.n_evaluation_instances} objects.",
        "Agreement: mIoU of the student's mask with the teacher's for the same single point, "
        "protocol center; what the paper calls mIoU. "
        + (
            ""
            if untrained is None
            else f"An untrained student reaches {number(100 * untrained)} %."
        ),
        "[low, high]: 95 % t interval of the mean over seeds; says nothing of other data.",
        "Teacher against ground truth: "
        + ", ".join(
            f"{name} {number(100 * value)} %" for name, value in record.teacher_ground_truth.items()
        )
        + ".",
        f"The teacher's embeddings took {record.embed_seconds:.0f} s, once for all runs; not in "
        "the times shown. Each training had one thread, and as a rule others beside it.",
        "Paper, Table 2: ViT-B against ViT-H; coupled is the official SAM ViT-B. Its figures do "
        "not compare with these.",
    )


def _mean_column(title: str, name: str, value: Callable[[StudentRow], float]) -> RowColumn:
    def cell(group: RunGroup) -> Cell:
        found = over_seeds([value(row) for row in group.runs])
        low, high = found.ci95 or (None, None)
        return Cell(percent(found.mean, found.ci95), (found.mean, low, high))

    return RowColumn(Column(title, (name, f"{name}_low", f"{name}_high"), "%", "right"), cell)


def _paper_column(title: str) -> RowColumn:
    column = Column(title, ("paper",), align="right")
    return RowColumn(column, lambda group: Cell(group.paper, (group.paper,)))


_SECONDS = RowColumn(
    Column("Training", ("train_seconds",), "s", "right"),
    lambda group: Cell(number(group.seconds), (group.seconds,)),
)
