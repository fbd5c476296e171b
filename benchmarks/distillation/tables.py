"""Tables of the experiment: the schemes at one budget, and one scheme at several."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain, repeat

from benchmarks.distillation.experiment import DECOUPLED, DistillationRecord, StudentRow
from benchmarks.distillation.seeds import SeedMean, over_seeds
from benchmarks.tables.formatting import number, percent
from benchmarks.tables.table import Cell, Column, Table

_PAPER_TABLE_2 = {"coupled": "0.72", "semi-coupled": "not stated", "decoupled": "0.75"}
# In the order of rising compute: batch 4, 50k steps; batch 8, 50k; batch 8, 100k.
_PAPER_TABLE_4 = ("0.7057", "0.7286", "0.7447")

_Value = Callable[[StudentRow], float]


def groups(record: DistillationRecord) -> dict[tuple[str, int, int], list[StudentRow]]:
    """Runs that differ in their seed alone, by scheme, batch and steps, in the record's order."""
    found: dict[tuple[str, int, int], list[StudentRow]] = {}
    for row in record.students:
        found.setdefault((row.scheme, row.batch_size, row.steps), []).append(row)
    return found


def full_budget(record: DistillationRecord) -> dict[str, list[StudentRow]]:
    """The runs of each scheme at the full budget."""
    wanted = (record.config["batch_size"], record.config["steps"])
    return {key[0]: rows for key, rows in groups(record).items() if key[1:] == wanted}


def schemes_table(record: DistillationRecord) -> Table:
    """What each scheme came to, over seeds, at the same number of steps."""
    columns = (
        Column("Scheme", ("scheme",)),
        _interval_column("Agreement with the teacher", "agreement"),
        _interval_column("Ground truth, box", "box"),
        _interval_column("Ground truth, center", "center"),
        _interval_column("Ground truth, center-multi", "center_multi"),
        Column("Images seen", ("images_seen",), align="right"),
        Column("Training", ("train_seconds",), "s", "right"),
        Column("Seeds", ("seeds",), align="right"),
        Column("Paper, Table 2", ("paper",), align="right"),
    )
    rows = tuple(
        (
            Cell(scheme, (scheme,)),
            _percent(runs, lambda row: row.agreement),
            _percent(runs, lambda row: row.ground_truth["box"]),
            _percent(runs, lambda row: row.ground_truth["center"]),
            _percent(runs, lambda row: row.ground_truth["center-multi"]),
            _count(runs[0].batch_size * runs[0].steps),
            _seconds(runs),
            _count(len(runs)),
            Cell(_PAPER_TABLE_2[scheme], (_PAPER_TABLE_2[scheme],)),
        )
        for scheme, runs in full_budget(record).items()
    )
    return Table(
        "distillation-schemes", "Three schemes at one budget", columns, rows, _notes(record)
    )


def verdicts(record: DistillationRecord) -> tuple[str, ...]:
    """The paper's question answered: the decoupled scheme against each other, at the full budget.

    Once at as many steps, and once at as many more as its record holds, which is about the time of
    the others. Runs of one seed have the same first weights and the same pictures in the same
    order, so their difference varies less than either.
    """
    budget = full_budget(record)
    steps = record.config["steps"]
    found = list(_against("Decoupled", budget.get(DECOUPLED, ()), budget))
    size = record.config["batch_size"]
    for (scheme, batch, n_steps), rows in groups(record).items():
        if scheme == DECOUPLED and batch == size and n_steps > steps:
            found += _against(f"Decoupled of {n_steps} steps", rows, budget)
    return tuple(found)


def _against(
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
        yield (
            f"{title} against {scheme}, seed by seed ({len(pairs)}): agreement "
            f"{gain.mean:+.1f}{_bounds(gain)} points, {_judged(gain)}; {share:.2f} of the time."
        )


def _bounds(gain: SeedMean) -> str:
    return "" if gain.ci95 is None else f" [{gain.ci95[0]:+.1f}, {gain.ci95[1]:+.1f}]"


def _judged(gain: SeedMean) -> str:
    if gain.ci95 is None:
        return "of which one seed shows nothing"
    low, high = gain.ci95
    if low > 0:
        return "so it is the better one"
    return "so it is the worse one" if high < 0 else "which shows no difference"


def compute_table(record: DistillationRecord) -> Table:
    """The decoupled scheme at rising budgets, as in the paper's Table 4."""
    columns = (
        Column("Batch", ("batch_size",), align="right"),
        Column("Steps", ("steps",), align="right"),
        _interval_column("Agreement with the teacher", "agreement"),
        Column("Training", ("train_seconds",), "s", "right"),
        Column("Seeds", ("seeds",), align="right"),
        Column("Paper, Table 4", ("paper",), align="right"),
    )
    found = [(key, runs) for key, runs in groups(record).items() if key[0] == DECOUPLED]
    found.sort(key=lambda each: (each[0][1] * each[0][2], each[0][2]))
    # The paper has no figure for what is beyond its largest budget.
    papers = chain(_PAPER_TABLE_4, repeat("none"))
    rows = tuple(
        (
            _count(batch),
            _count(steps),
            _percent(runs, lambda row: row.agreement),
            _seconds(runs),
            _count(len(runs)),
            Cell(paper, (paper,)),
        )
        for ((_, batch, steps), runs), paper in zip(found, papers, strict=False)
    )
    notes = (
        "Paper: batch 4, 50k steps; batch 8, 50k steps; batch 8, 100k steps, with SAM ViT-H as the "
        "teacher on its own test set. Ratios of batch and steps are those; figures do not compare.",
    )
    return Table(
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


def _interval_column(title: str, name: str) -> Column:
    return Column(title, (name, f"{name}_low", f"{name}_high"), "%", "right")


def _percent(runs: Sequence[StudentRow], value: _Value) -> Cell:
    found: SeedMean = over_seeds([value(row) for row in runs])
    low, high = found.ci95 if found.ci95 is not None else (None, None)
    return Cell(percent(found.mean, found.ci95), (found.mean, low, high))


def _seconds(runs: Sequence[StudentRow]) -> Cell:
    mean = over_seeds([row.train_seconds for row in runs]).mean
    return Cell(number(mean), (mean,))


def _count(value: int) -> Cell:
    return Cell(str(value), (value,))
