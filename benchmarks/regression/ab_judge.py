"""Judges the sessions of an A/B measurement; measures nothing, so that it can be done again.

A turn counts with its fastest call, since other work on the machine only adds to a time; medians
are taken over turns. A benchmark is worse where the whole interval of its ratio is beyond the
threshold in the first stage and in the repetition. It is unclear where the ratio is beyond the
threshold and the interval is not, or where too few processes give no interval; further processes of
the same stage may settle this. A head that fails in all of several processes is broken; one that
fails in some of them is broken if it fails again in the repetition, since a process may also be
killed by other work on the machine. On a fixed set of scenes accuracy has no noise at all: its test
says whether a loss is limited to these scenes, and a large loss counts in any case.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

import numpy as np

from benchmarks.records.ratios import Ratio, ratio_in_turns
from benchmarks.records.statistics import MIN_SAMPLES_FOR_INTERVAL, clustered_mean
from benchmarks.regression.ab_records import Answers, Samples, Session, Side, Stage, Turns
from benchmarks.regression.ab_turns import LOAD, MEMORY, Key
from benchmarks.regression.compare import phase_label, ratio_verdict
from mobilesam.errors import UsageError
from mobilesam.frozen_model import FrozenModel

THRESHOLD = 1.10
"""Ratio of times, or of peaks of memory, from which on a change is a regression."""
LOSS = 0.005
"""A loss of mIoU on the scenes (a fraction) that counts whatever its interval."""
FEW_SETS = f"fewer than {MIN_SAMPLES_FOR_INTERVAL} sets of processes: no interval"
DUST = 0.001
"""A loss of mIoU that never counts: the last digits of floats."""

Verdict = Literal[
    "worse",
    "broken",
    "suspect",
    "unclear",
    "not confirmed",
    "better",
    "same",
    "vanished",
    "appeared",
]
FAILING: frozenset[Verdict] = frozenset(("worse", "broken"))


class Judged(FrozenModel):
    """One benchmark.

    Attributes:
        model: Whose.
        what: Phase, memory or protocol, as printed.
        phase: Phase, `memory` or protocol.
        n_prompts: Of decoding.
        unit: Of `base` and `head`: `ms`, `bytes` or `fraction`.
        base: Median, or mean IoU, in the first stage.
        head: Likewise.
        change: Ratio head / base; for accuracy the difference head - base.
        ci95: Of the change.
        floor: The change between two sets of processes of the base: noise.
        floor_ci95: Of that.
        again: The change in the repetition; None if it was not repeated.
        again_ci95: Of that.
        verdict: `suspect` (slower, larger or less accurate, or the head failed in one process) has
            not been repeated, `not confirmed` has; for `unclear`, the ratio is beyond the threshold
            in the last stage that was measured and its interval is not, or there are too few sets
            of processes for an interval.
        why: The error, or why there is no interval.
    """

    model: str
    what: str
    phase: str
    n_prompts: int | None = None
    unit: str
    base: float | None = None
    head: float | None = None
    change: float | None = None
    ci95: tuple[float, float] | None = None
    floor: float | None = None
    floor_ci95: tuple[float, float] | None = None
    again: float | None = None
    again_ci95: tuple[float, float] | None = None
    verdict: Verdict = "same"
    why: str | None = None

    @property
    def key(self) -> Key:
        """What makes it the same benchmark in another session."""
        return self.model, self.phase, self.n_prompts


class Judgement(FrozenModel):
    """All benchmarks, and whether the head may pass."""

    threshold: float
    benchmarks: tuple[Judged, ...]

    @property
    def passed(self) -> bool:
        """Nothing is worse or broken."""
        return not any(each.verdict in FAILING for each in self.benchmarks)

    @property
    def suspects(self) -> tuple[Key, ...]:
        """What a repetition has to confirm."""
        return tuple(each.key for each in self.benchmarks if each.verdict == "suspect")

    def unclear(self, stage: Stage) -> tuple[Key, ...]:
        """What more processes of a stage may settle."""
        return tuple(
            each.key
            for each in self.benchmarks
            if each.verdict == "unclear" and (each.again is None) == (stage == "first")
        )

    @property
    def noise_floor(self) -> float | None:
        """The largest ratio, taken upwards, between two sets of processes of the same version."""
        found = [max(each.floor, 1 / each.floor) for each in self.benchmarks if each.floor]
        return max(found, default=None)


def judge(sessions: Sequence[Session], threshold: float = THRESHOLD) -> Judgement:
    """Judges the first stage, confirmed or not by the repetition.

    Args:
        sessions: At least one of the first stage, in order.
        threshold: Ratio from which on a change is a regression; above 1.

    Raises:
        UsageError: The threshold is not above 1.
    """
    if not threshold > 1:
        raise UsageError(f"--threshold is a ratio above 1, such as {THRESHOLD}; got {threshold}")
    first = {each.key: each for each in _judge_stage(sessions, "first", threshold)}
    again = {each.key: each for each in _judge_stage(sessions, "repetition", threshold)}
    for key, each in first.items():
        if key in again:
            first[key] = _confirmed(each, again[key])
        elif each.verdict == "suspect" and any(each.stage == "repetition" for each in sessions):
            first[key] = _confirmed(each, _without_row(each, again.values()))
    return Judgement(threshold=threshold, benchmarks=tuple(first.values()))


def _confirmed(first: Judged, again: Judged) -> Judged:
    verdict = first.verdict
    if verdict == "suspect":
        verdict = _CONFIRMED.get(again.verdict, "not confirmed")
    why = again.why if verdict == "broken" else first.why
    return first.model_copy(
        update={"again": again.change, "again_ci95": again.ci95, "verdict": verdict, "why": why}
    )


_CONFIRMED: dict[Verdict, Verdict] = {
    "suspect": "worse",
    "unclear": "unclear",
    "broken": "broken",
}


def _without_row(first: Judged, again: Iterable[Judged]) -> Judged:
    """Verdict of the repetition for a benchmark that has no row in the repetition.

    If the head failed before this benchmark was reached, the row states that failure. Otherwise an
    error of the first stage, such as one during loading of a model, did not occur again.
    """
    failed = (each for each in again if each.model == first.model and each.verdict == "broken")
    blank = first.model_copy(update={"verdict": "same", "change": None, "ci95": None})
    return next(failed, blank).model_copy(update={"change": None, "ci95": None})


def _judge_stage(sessions: Sequence[Session], stage: Stage, threshold: float) -> Iterator[Judged]:
    own = [session for session in sessions if session.stage == stage]
    pooled: dict[Key, Samples] = {}
    for samples in (each for session in own for each in session.samples):
        known = pooled.get(samples.key)
        pooled[samples.key] = samples if known is None else known.plus(samples)
    n_pairs = sum(session.settings.pairs for session in own)
    running = {each.model for each in pooled.values() if any(each.sides.get("head", ()))}
    for samples in pooled.values():
        for row in _judge_samples(samples, threshold):
            has_run = any(samples.sides.get("head", ()))
            if samples.phase == LOAD:
                has_run = samples.model in running
            yield _once_more(row, stage, again=has_run or n_pairs < _SEVERAL)
    for answers in (each for session in own for each in session.answers):
        yield _once_more(_judge_answers(answers), stage, again=True)


_SEVERAL = 2  # from so many processes on, a failure of all of them needs no repetition


def _once_more(row: Judged, stage: Stage, *, again: bool) -> Judged:
    """Changes `broken` to `suspect` in the first stage if the failure must be repeated."""
    if row.verdict == "broken" and again and stage == "first":
        return row.model_copy(update={"verdict": "suspect"})
    return row


def _judge_samples(samples: Samples, threshold: float) -> Iterator[Judged]:
    is_memory = samples.phase == MEMORY
    row = Judged(
        model=samples.model,
        what="peak memory" if is_memory else phase_label(samples.phase, samples.n_prompts),
        phase=samples.phase,
        n_prompts=samples.n_prompts,
        unit="bytes" if is_memory else "ms",
    )
    base, head, again = (_turn_values(samples.sides.get(side, ())) for side in _ORDER)
    error = samples.errors.get("head")
    if error is not None:
        # If the base cannot run either, the failure says nothing about the change.
        failed_before = "base" in samples.errors and not base
        verdict = "vanished" if failed_before else "broken"
        yield row.model_copy(update={"verdict": verdict, "why": error})
    elif samples.phase == LOAD:
        why = next(iter(samples.errors.values()), None)
        yield row.model_copy(update={"verdict": "appeared", "why": why})
    elif not base or not head:
        verdict = "appeared" if head else "vanished"
        yield row.model_copy(update={"verdict": verdict, "why": samples.errors.get("base")})
    else:
        ratio, floor = _ratio(base, head), _ratio(base, again) if again else None
        found = _VERDICTS.get(ratio_verdict(ratio.ci95, threshold), "same")
        if ratio.ci95 is None or (found == "same" and ratio.value > threshold):
            found = "unclear"
        yield row.model_copy(
            update={
                "base": float(np.median(np.concatenate(base))),
                "head": float(np.median(np.concatenate(head))),
                "change": ratio.value,
                "ci95": ratio.ci95,
                "floor": None if floor is None else floor.value,
                "floor_ci95": None if floor is None else floor.ci95,
                "verdict": found,
                "why": FEW_SETS if ratio.ci95 is None else None,
            }
        )


_ORDER: tuple[Side, ...] = ("base", "head", "again")
_VERDICTS: dict[str, Verdict] = {"worse": "suspect", "better": "better"}


def _turn_values(pairs: Sequence[Turns]) -> list[list[float]]:
    """A turn's fastest call: that others interrupted the rest tells of the machine alone."""
    return [[min(turn) for turn in turns] for turns in pairs if turns]


def _ratio(old: Sequence[Sequence[float]], new: Sequence[Sequence[float]]) -> Ratio:
    # A process that died leaves fewer pairs or turns on its side; what both have is compared.
    shared = [
        (a[: min(len(a), len(b))], b[: min(len(a), len(b))]) for a, b in zip(old, new, strict=False)
    ]
    return ratio_in_turns([a for a, _ in shared], [b for _, b in shared])


def _judge_answers(answers: Answers) -> Judged:
    row = Judged(
        model=answers.model,
        what=f"mIoU {answers.protocol}",
        phase=answers.protocol,
        unit="fraction",
        base=float(np.mean(answers.base)) if answers.base else None,
        head=float(np.mean(answers.head)) if answers.head else None,
    )
    error = answers.errors.get("head")
    if error is not None:
        verdict = "vanished" if "base" in answers.errors else "broken"
        return row.model_copy(update={"verdict": verdict, "why": error})
    if row.base is None or row.head is None:
        verdict = "appeared" if row.base is None else "vanished"
        return row.model_copy(update={"verdict": verdict, "why": answers.errors.get("base")})
    gains = np.array(answers.head) - np.array(answers.base)
    test = clustered_mean(gains, np.array(answers.images, np.int64))
    lost = test.mean <= -LOSS or (test.mean <= -DUST and test.ci95 is not None and test.ci95[1] < 0)
    gained = test.mean >= DUST and test.ci95 is not None and test.ci95[0] > 0
    verdict = "suspect" if lost else "better" if gained else "same"
    return row.model_copy(update={"change": test.mean, "ci95": test.ci95, "verdict": verdict})
