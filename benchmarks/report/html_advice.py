"""Which model to run, and why: advice by rules over the rows of a record, never hard-coded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from benchmarks.evaluation.comparison import LEVEL
from benchmarks.prompts.protocols import GROUND_TRUTH
from benchmarks.records.record import ComparisonRow, MiouRow, RunRecord
from benchmarks.report.accuracy_plot import Point, accuracy_points, pareto_front
from benchmarks.tables.formatting import milliseconds, number, percent
from benchmarks.tables.record_queries import (
    Protocol,
    Setup,
    find_latency,
    find_miou,
    has_accuracy,
    headline,
    model_names,
    model_row,
    setups,
    timed,
    unique,
)

Kind = Literal["advice", "fact", "caution"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One statement.

    Attributes:
        kind: `advice` says which model to run, `fact` what was found, `caution` what limits it.
        text: What is found, one sentence.
        why: The numbers that it rests on.
    """

    kind: Kind
    text: str
    why: str


def is_candidate(record: RunRecord, model: str) -> bool:
    """Whether a model may be recommended: it runs trained weights, unlike baselines and dummies."""
    row = model_row(record, model)
    return row is not None and row.status == "ok" and row.weights.kind == "file"


def encode_times(record: RunRecord, setup: Setup, models: Sequence[str]) -> dict[str, float]:
    """Median of `encode` in milliseconds of those of the models that were timed, by name."""
    return {
        model: found[0]
        for model in models
        if (found := timed(find_latency(record, setup, model, "encode")))
    }


def main_protocols(record: RunRecord) -> list[Protocol]:
    """Headline protocols against the ground truth of the dataset with the most objects."""
    found = [p for p in headline(record) if p.reference == GROUND_TRUTH and scored(record, p)]
    if not found:
        return []

    def weight(dataset: str) -> tuple[bool, int]:
        rows = [row for row in record.miou if row.dataset == dataset]
        # Scenes that were drawn say less about photos than photos do.
        return not dataset.startswith("synthetic:"), max(row.n_instances for row in rows)

    best = max(unique(p.dataset for p in found), key=weight)
    return [p for p in found if p.dataset == best]


def scored(record: RunRecord, protocol: Protocol) -> list[MiouRow]:
    """Rows of a protocol with an accuracy, best first."""
    rows = [find_miou(record, protocol, model) for model in model_names(record)]
    return sorted(
        (row for row in rows if row is not None and has_accuracy(row)),
        key=lambda row: -(row.miou or 0),
    )


def accuracies(rows: Sequence[MiouRow]) -> str:
    """Models with their mIoU, such as `mobilesam 71.7 % [69.8, 73.7]`."""
    parts = []
    for row in rows:
        value, _, bounds = percent(row.miou or 0, row.ci95).partition(" ")
        parts.append(f"{row.model} {value} % {bounds}".rstrip())
    return ", ".join(parts)


def comparison(record: RunRecord, protocol: Protocol, one: str, other: str) -> ComparisonRow | None:
    """The paired comparison of two models under a protocol, in whichever order."""
    for row in record.comparisons:
        same = (row.dataset, row.reference, row.protocol) == (
            protocol.dataset,
            protocol.reference,
            protocol.protocol,
        )
        if same and {row.model_a, row.model_b} == {one, other}:
            return row
    return None


def _tied(record: RunRecord, protocol: Protocol, rows: Sequence[MiouRow]) -> list[MiouRow]:
    """The best, and those of the others that a paired comparison cannot tell from it."""
    best = rows[0]
    tied = [best]
    for row in rows[1:]:
        pair = comparison(record, protocol, best.model, row.model)
        if row.miou == best.miou or (pair is not None and pair.p_adjusted > LEVEL):
            tied.append(row)
    return tied


@dataclass(frozen=True, slots=True)
class _Choice:
    """The model to run under one protocol.

    Attributes:
        model: Its name.
        protocol: The protocol.
        reason: Why it and no other.
        accuracy: Its mIoU, and that of those it cannot be told apart from.
        times: Its time, and theirs; the same for all protocols of a setup.
    """

    model: str
    protocol: Protocol
    reason: str
    accuracy: str
    times: str


def advice(record: RunRecord) -> list[Finding]:
    """Which trained model to run, for every setup; protocols that agree share a statement."""
    shown = main_protocols(record)
    timings = setups(record)
    found: list[Finding] = []
    for setup in timings:
        choices = [c for p in shown if (c := _choice(record, setup, p)) is not None]
        groups = unique((c.model, c.reason, c.times) for c in choices)
        for group in groups:
            same = [c for c in choices if (c.model, c.reason, c.times) == group]
            found.append(_say(setup.label, same))
        for protocol in shown[:1]:
            found += _faster(record, setup, protocol)
    if not timings:
        found += [_untimed(record, protocol) for protocol in shown if _usable(record, protocol)]
    if not shown:
        found += _fastest(record)
    return found


def _usable(record: RunRecord, protocol: Protocol) -> list[MiouRow]:
    """Rows of candidates, best first."""
    return [row for row in scored(record, protocol) if is_candidate(record, row.model)]


def _say(where: str, same: Sequence[_Choice]) -> Finding:
    names = ", ".join(choice.protocol.protocol for choice in same)
    accuracy = "; ".join(f"{choice.protocol.protocol}: {choice.accuracy}" for choice in same)
    first = same[0]
    return Finding(
        "advice",
        f"On {where}, run {first.model} for prompts of {names}: {first.reason}.",
        f"mIoU on {first.protocol.dataset}, {accuracy}. Time, {first.times}.",
    )


def _choice(record: RunRecord, setup: Setup, protocol: Protocol) -> _Choice | None:
    points, label, _ = accuracy_points(record, setup, protocol)
    times = {p.model: p.time_ms for p in points}
    rows = [row for row in _usable(record, protocol) if row.model in times]
    if not rows:
        return None
    tied = _tied(record, protocol, rows)
    chosen = min(tied, key=lambda row: times[row.model])
    others = [row for row in tied if row is not chosen]
    if others:
        reason = "nobody is measurably more accurate, and of the best it is the fastest"
    elif len(rows) > 1:
        reason = "it is the most accurate"
    else:
        reason = "it alone has trained weights, an accuracy and a time here"
    own = times[chosen.model]
    ratios = (
        f"{row.model} {milliseconds(times[row.model])}, {number(times[row.model] / own)} times as "
        "long"
        for row in others
    )
    said = "; ".join((f"{label}: {chosen.model} {milliseconds(own)}", *ratios))
    return _Choice(chosen.model, protocol, reason, accuracies([chosen, *others]), said)


def _untimed(record: RunRecord, protocol: Protocol) -> Finding:
    rows = _usable(record, protocol)
    names = " or ".join(row.model for row in _tied(record, protocol, rows))
    return Finding(
        "advice",
        f"For prompts of {protocol.protocol}, run {names}: the most accurate here.",
        f"mIoU on {protocol.dataset}: {accuracies(rows)}. No time was measured.",
    )


def _faster(record: RunRecord, setup: Setup, protocol: Protocol) -> Iterator[Finding]:
    """What else lies on the Pareto front: less time for less accuracy."""
    choice = _choice(record, setup, protocol)
    points, label, _ = accuracy_points(record, setup, protocol)
    points = [point for point in points if is_candidate(record, point.model)]
    chosen = next((p for p in points if choice is not None and p.model == choice.model), None)
    if chosen is None:
        return
    for point in pareto_front(points):
        if point.time_ms < chosen.time_ms:
            yield _trade(point, chosen, protocol, label)


def _trade(point: Point, chosen: Point, protocol: Protocol, label: str) -> Finding:
    return Finding(
        "advice",
        f"Where time matters more, run {point.model}: it takes "
        f"{number(point.time_ms / chosen.time_ms)} of the time of {chosen.model}, for "
        f"{number(chosen.miou - point.miou, 1)} points of mIoU less with {protocol.protocol}.",
        f"{label} {milliseconds(point.time_ms)} against {milliseconds(chosen.time_ms)}; mIoU "
        f"{number(point.miou, 1)} % against {number(chosen.miou, 1)} %.",
    )


def _fastest(record: RunRecord) -> Iterator[Finding]:
    """Advice by time alone, where nothing was scored."""
    for setup in setups(record):
        candidates = [model for model in model_names(record) if is_candidate(record, model)]
        times = encode_times(record, setup, candidates)
        if times:
            model = min(times, key=lambda each: times[each])
            yield Finding(
                "advice",
                f"By time alone, run {model} on {setup.label}; no accuracy was measured.",
                f"encode {milliseconds(times[model])}, the least of {len(times)}.",
            )
