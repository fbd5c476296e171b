"""Judges the sessions of an A/B measurement, and writes the judgement as a table, page and plot.

Each turn counts with its fastest call, since other work on the machine only adds to a time; medians
are taken over turns. A benchmark is worse if the whole interval of its ratio is beyond the
threshold in the first stage and in the repetition. It is unclear if the ratio is beyond the
threshold and its interval is not, or if there are too few processes for an interval; further
processes of the same stage may settle this. A head that fails in all of several processes has
failed; if it fails in some of them, it must fail again in the repetition, since a process may also
be killed by other work on the machine. Accuracy on fixed scenes has no noise: its test shows
whether a loss is limited to these scenes, and a large loss counts in any case.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from benchmarks.records.record import write_atomic
from benchmarks.records.statistics import (
    MIN_PROCESSES,
    MIN_SAMPLES_FOR_INTERVAL,
    Ratio,
    clustered_mean,
    ratio_in_turns,
)
from benchmarks.regression.compare import (
    amount_column,
    change_text,
    check_threshold,
    phase_label,
    ratio_verdict,
)
from benchmarks.regression.sessions import (
    LOAD,
    MEMORY,
    AccuracySamples,
    Key,
    Samples,
    Session,
    Side,
    Stage,
)
from benchmarks.regression.worktrees import TreeInfo
from benchmarks.tables.columns import build_table, interval_column, text_column
from benchmarks.tables.formatting import escape_markdown
from benchmarks.tables.table import Table
from mobilesam.frozen_model import FrozenModel

THRESHOLD = 1.10
"""Ratio of times, or of peaks of memory, from which on a change is a regression."""
MAX_LOSS = 0.005
"""Loss of mIoU (a fraction) that counts whatever its interval."""
MIN_LOSS = 0.001
"""Smaller losses of mIoU never count."""
FEW_SETS = f"fewer than {MIN_SAMPLES_FOR_INTERVAL} sets of processes: no interval"
SUMMARY, VERDICT = "summary.md", "verdict.json"
_SEVERAL = 2  # processes, all of which fail: needs no repetition
_SHORT_COMMIT = 12

Bounds = tuple[float, float] | None
Verdict = Literal[
    "worse", "failed", "suspect", "unclear", "not confirmed", "better", "same", "missing", "new"
]
FAILING: frozenset[Verdict] = frozenset(("worse", "failed"))
_CONFIRMED: dict[Verdict, Verdict] = {"suspect": "worse", "unclear": "unclear", "failed": "failed"}
"""Verdict of a suspect benchmark by that of its repetition; otherwise `not confirmed`."""


class Judged(FrozenModel):
    """Verdict on one benchmark; values are in `unit`: `ms`, `bytes` or `fraction`.

    `change` is the ratio head / base, for accuracy the difference head - base; `floor` is the same
    for two sets of processes of the base, which is noise; `again` is the change in the repetition.

    The verdict is `suspect` if the head is slower, larger or less accurate, or failed in one
    process, and this was not repeated yet; `unclear` if the ratio is beyond the threshold in the
    last stage and its interval is not, or if there are too few sets of processes for an interval;
    `missing` or `new` in the head.
    """

    model: str
    what: str
    phase: str
    n_prompts: int | None = None
    unit: str
    base: float | None = None
    head: float | None = None
    change: float | None = None
    ci95: Bounds = None
    floor: float | None = None
    floor_ci95: Bounds = None
    again: float | None = None
    again_ci95: Bounds = None
    verdict: Verdict = "same"
    why: str | None = None

    @property
    def key(self) -> Key:
        """Identifies the benchmark in other sessions."""
        return self.model, self.phase, self.n_prompts


class Judgement(FrozenModel):
    """Verdicts on all benchmarks."""

    threshold: float
    benchmarks: tuple[Judged, ...]

    @property
    def passed(self) -> bool:
        """Whether nothing is worse or failed."""
        return not any(each.verdict in FAILING for each in self.benchmarks)

    @property
    def suspects(self) -> tuple[Key, ...]:
        """Benchmarks that need a repetition."""
        return tuple(each.key for each in self.benchmarks if each.verdict == "suspect")

    def unclear(self, stage: Stage) -> tuple[Key, ...]:
        """Benchmarks that need more processes in a stage."""
        return tuple(
            each.key
            for each in self.benchmarks
            if each.verdict == "unclear" and (each.again is None) == (stage == "first")
        )

    @property
    def noise_floor(self) -> float | None:
        """Largest ratio, above 1, between two sets of processes of the base."""
        found = [max(each.floor, 1 / each.floor) for each in self.benchmarks if each.floor]
        return max(found, default=None)


def judge(sessions: Sequence[Session], threshold: float = THRESHOLD) -> Judgement:
    """Judges the first stage, confirmed or not by the repetition; the threshold is above 1."""
    check_threshold(threshold, THRESHOLD)
    first = {each.key: each for each in _judge_stage(sessions, "first", threshold)}
    again = {each.key: each for each in _judge_stage(sessions, "repetition", threshold)}
    repeated = any(each.stage == "repetition" for each in sessions)
    for key, each in first.items():
        found = again.get(key)
        if found is None and repeated and each.verdict == "suspect":
            # If the head failed before this benchmark was reached, that failure is its result;
            # otherwise an error of the first stage, such as in loading, did not occur again.
            blank = each.model_copy(update={"verdict": "same"})
            failed = (r for r in again.values() if r.model == each.model and r.verdict == "failed")
            found = next(failed, blank).model_copy(update={"change": None, "ci95": None})
        if found is not None:
            verdict = each.verdict
            if verdict == "suspect":
                verdict = _CONFIRMED.get(found.verdict, "not confirmed")
            why = found.why if verdict == "failed" else each.why
            update = {"again": found.change, "again_ci95": found.ci95}
            first[key] = each.model_copy(update={**update, "verdict": verdict, "why": why})
    return Judgement(threshold=threshold, benchmarks=tuple(first.values()))


def _judge_stage(sessions: Sequence[Session], stage: Stage, threshold: float) -> Iterator[Judged]:
    own = [session for session in sessions if session.stage == stage]
    pooled: dict[Key, Samples] = {}
    for samples in (each for session in own for each in session.samples):
        known = pooled.get(samples.key)
        pooled[samples.key] = samples if known is None else known.plus(samples)
    n_pairs = sum(session.settings.pairs for session in own)
    running = {each.model for each in pooled.values() if any(each.sides.get("head", ()))}
    # One failure must be repeated, unless the head has failed in all of several processes.
    repeated: Verdict = "suspect" if stage == "first" else "failed"
    for samples in pooled.values():
        has_run = any(samples.sides.get("head", ()))
        if samples.phase == LOAD:
            has_run = samples.model in running
        failing = repeated if has_run or n_pairs < _SEVERAL else "failed"
        yield _judge_samples(samples, threshold, failing)
    for accuracy in (each for session in own for each in session.answers):
        yield _judge_accuracy(accuracy, repeated)


def _judge_samples(samples: Samples, threshold: float, failing: Verdict) -> Judged:
    is_memory = samples.phase == MEMORY
    row = Judged(
        model=samples.model,
        what="peak memory" if is_memory else phase_label(samples.phase, samples.n_prompts),
        phase=samples.phase,
        n_prompts=samples.n_prompts,
        unit="bytes" if is_memory else "ms",
    )
    # The fastest call of each turn, by process.
    sides: tuple[Side, ...] = ("base", "head", "again")
    base, head, again = (
        [[min(turn) for turn in turns] for turns in samples.sides.get(side, ()) if turns]
        for side in sides
    )
    if "head" not in samples.errors and samples.phase == LOAD:
        why = next(iter(samples.errors.values()), None)
        return row.model_copy(update={"verdict": "new", "why": why})
    if "head" in samples.errors or not base or not head:
        return row.model_copy(update=_incomplete(samples.errors, base, head, failing))
    ratio = _ratio(base, head)
    floor = _ratio(base, again) if again else None
    found = ratio_verdict(ratio.ci95, threshold)
    if found == "same" and ratio.value > threshold:
        found = "unclear"
    return row.model_copy(
        update={
            "base": float(np.median(np.concatenate(base))),
            "head": float(np.median(np.concatenate(head))),
            "change": ratio.value,
            "ci95": ratio.ci95,
            "floor": None if floor is None else floor.value,
            "floor_ci95": None if floor is None else floor.ci95,
            "verdict": "suspect" if found == "worse" else found,
            "why": FEW_SETS if ratio.ci95 is None else None,
        }
    )


def _incomplete(
    errors: Mapping[Side, str], base: Sequence[object], head: Sequence[object], failing: Verdict
) -> dict[str, Any]:
    """Verdict and reason of a benchmark without samples of both versions."""
    if "head" in errors:
        # If the base cannot run either, the failure does not come from the change.
        failed_before = "base" in errors and not base
        return {"verdict": "missing" if failed_before else failing, "why": errors["head"]}
    return {"verdict": "new" if head else "missing", "why": errors.get("base")}


def _ratio(old: Sequence[Sequence[float]], new: Sequence[Sequence[float]]) -> Ratio:
    # A process that failed leaves fewer pairs or turns on its side: only common ones count.
    counts = [min(map(len, pair)) for pair in zip(old, new, strict=False)]
    before, after = (
        [turns[:count] for turns, count in zip(side, counts, strict=False)] for side in (old, new)
    )
    return ratio_in_turns(before, after)


def _judge_accuracy(samples: AccuracySamples, failing: Verdict) -> Judged:
    row = Judged(
        model=samples.model,
        what=f"mIoU {samples.protocol}",
        phase=samples.protocol,
        unit="fraction",
        base=float(np.mean(samples.base)) if samples.base else None,
        head=float(np.mean(samples.head)) if samples.head else None,
    )
    if "head" in samples.errors or not samples.base or not samples.head:
        update = _incomplete(samples.errors, samples.base, samples.head, failing)
        return row.model_copy(update=update)
    gains = np.array(samples.head) - np.array(samples.base)
    test = clustered_mean(gains, np.array(samples.images, np.int64))
    low, high = test.ci95 or (-np.inf, np.inf)
    lost = test.mean <= -MAX_LOSS or (test.mean <= -MIN_LOSS and high < 0)
    gained = test.mean >= MIN_LOSS and low > 0
    verdict = "suspect" if lost else "better" if gained else "same"
    return row.model_copy(update={"change": test.mean, "ci95": test.ci95, "verdict": verdict})


def judgement_table(judgement: Judgement) -> Table:
    """Table with one row for each benchmark; those that fail come first."""

    def change(row: Judged, value: float, ci95: Bounds) -> str:
        is_accuracy = row.unit == "fraction"
        text = change_text(value, ci95, is_difference=is_accuracy)
        return f"{text} points" if is_accuracy else f"x {text}"

    change_column = partial(interval_column, show=change, unit="")
    columns = (
        text_column("Model", "model"),
        text_column("Benchmark", "benchmark", "unit", get=("what", "unit")),
        amount_column("Base", "base"),
        amount_column("Head", "head"),
        change_column("Change", "change", "ci95", raw=("change", "low", "high")),
        change_column(
            "Noise (A/A)", "floor", "floor_ci95", raw=("floor", "floor_low", "floor_high")
        ),
        change_column(
            "Repetition", "again", "again_ci95", raw=("again", "again_low", "again_high")
        ),
        text_column("Verdict", "verdict", "why", text=_verdict_and_reason),
    )
    rows = sorted(judgement.benchmarks, key=lambda each: each.verdict not in FAILING)
    return build_table("regress", f"Head against base: {verdict_text(judgement)}", columns, rows)


def _verdict_and_reason(row: Judged) -> str:
    return row.verdict if row.why is None else f"{row.verdict}: {row.why}"


def verdict_text(judgement: Judgement) -> str:
    """The verdict in a few words, with the names of benchmarks that fail."""
    failing = [each for each in judgement.benchmarks if each.verdict in FAILING]
    if failing:
        names = [f"{each.model} {each.what} ({_verdict_and_reason(each)})" for each in failing]
        return "FAILED: " + "; ".join(names)
    if judgement.suspects:
        names = [f"{model} {phase}" for model, phase, _ in judgement.suspects]
        return "suspect, to be repeated: " + "; ".join(names)
    unclear = [each for each in judgement.benchmarks if each.verdict == "unclear"]
    names = [f"{each.model} {each.what}" for each in unclear]
    return f"passed; unclear: {'; '.join(names)}" if names else "passed"


def notes(sessions: Sequence[Session], judgement: Judgement) -> tuple[str, ...]:
    """What was compared, where, for how long, and the noise."""
    first = sessions[0]
    seconds = sum(session.duration_s for session in sessions)
    few = first.settings.pairs < MIN_PROCESSES
    caution = f" (few: with fewer than {MIN_PROCESSES} sets it may cover less)" if few else ""

    def tree(info: TreeInfo) -> str:
        changed = ", with changes" if info.dirty else ""
        return f"{info.ref} ({info.commit[:_SHORT_COMMIT]}{changed})"

    found = [
        f"Base: {tree(first.base)}. Head: {tree(first.head)}.",
        f"{first.environment.cpu}, {first.settings.threads} thread(s), "
        f"{first.settings.pairs} sets of fresh processes, {len(sessions)} session(s), "
        f"{seconds:.0f} s.",
        "Change and noise: ratio of medians over turns [bootstrap interval, nominally 95 %, over "
        f"sets of processes{caution}], each turn with its fastest call; or mIoU in points [95 % "
        "interval over scenes]. It fails where the whole interval is beyond "
        f"{judgement.threshold:g} and the repetition confirms it.",
    ]
    if judgement.noise_floor is not None:
        share = 100 * (judgement.noise_floor - 1)
        found.append(f"Noise floor: the base differed from itself by at most {share:.1f} %.")
    found += [f"Warning: {text}" for session in sessions for text in session.warnings]
    return tuple(found)


def _figure(rows: Sequence[Judged], judgement: Judgement) -> Any:
    """Plot of the ratios of head to base next to the noise."""
    from benchmarks.report.style import BLUE, GREY, INK, VERMILLION, new_figure

    figure = new_figure(
        0.9 + 0.36 * len(rows),
        "Head against base",
        ("Dots: ratio of medians with its bootstrap interval. Grey: the base against itself.",),
        verdict_text(judgement),
    )
    ax = figure.subplots()
    for line, each in enumerate(rows):
        color = VERMILLION if each.verdict in (*FAILING, "suspect") else BLUE
        for value, ci95, shift, shade in (
            (each.change, each.ci95, -0.12, color),
            (each.floor, each.floor_ci95, 0.18, GREY),
        ):
            if value is not None:
                ax.plot(ci95 or (value, value), [line + shift] * 2, color=shade, linewidth=1.8)
                ax.plot(value, line + shift, "o", color=shade, markersize=5)
    ax.axvline(1, color=INK, linewidth=0.8)
    ax.axvline(judgement.threshold, color=VERMILLION, linewidth=0.8, linestyle="--")
    ax.set_yticks(range(len(rows)), [f"{each.model}: {each.what}" for each in rows])
    ax.set_ylim(len(rows) - 0.4, -0.6)
    ax.grid(visible=True, axis="x")
    ax.set_xlabel("head / base (dashed: threshold)")
    return figure


def write_judgement(judgement: Judgement, sessions: Sequence[Session], folder: Path) -> list[Path]:
    """Writes `verdict.json`, `summary.md`, `regress.csv` and the plot next to the sessions."""
    from benchmarks.report.style import plot_style, save_figure

    table = judgement_table(judgement)
    lines = "".join(f"- {escape_markdown(note)}\n" for note in notes(sessions, judgement))
    texts = {
        VERDICT: judgement.model_dump_json(indent=1) + "\n",
        SUMMARY: f"{table.to_markdown()}\n{lines}",
        f"{table.name}.csv": table.to_csv(),
    }
    for name, text in texts.items():
        write_atomic(folder / name, text.encode())
    written = [folder / name for name in texts]
    rows = [each for each in judgement.benchmarks if each.change and each.unit != "fraction"]
    if rows:
        with plot_style():
            written += save_figure(_figure(rows, judgement), folder, table.name)
    return written
