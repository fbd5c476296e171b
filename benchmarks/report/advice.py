"""Statements about a record in plain words: which model to run, facts and cautions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from benchmarks.evaluation.comparison import LEVEL
from benchmarks.paper.verdicts import ClaimVerdict, tally_text
from benchmarks.prompts.protocols import GROUND_TRUTH
from benchmarks.records.record import ComparisonRow, MiouRow, RunRecord
from benchmarks.report.frames import accuracy_latency_frame, decode_frame, pareto_front, slope_text
from benchmarks.tables.formatting import MIB, milliseconds, number, percent
from benchmarks.tables.record_queries import (
    Protocol,
    Setup,
    find_latency,
    find_memory,
    find_miou,
    has_accuracy,
    has_random_weights,
    headline,
    model_names,
    model_row,
    setups,
    timed,
    unique,
)


@dataclass(frozen=True, slots=True)
class Finding:
    """One statement.

    Attributes:
        kind: `advice` recommends a model, `fact` is a result, `caution` a limitation.
        text: One sentence.
        why: The numbers behind it.
    """

    kind: Literal["advice", "fact", "caution"]
    text: str
    why: str


def findings(record: RunRecord, verdicts: Sequence[ClaimVerdict]) -> list[Finding]:
    """All statements about a record, advice first."""
    found = [*_advice(record), *_accuracy_facts(record)]
    for setup in setups(record):
        found += _time_facts(record, setup)
    if verdicts:
        text = "All published claims of the ledger were judged by this record."
        found.append(Finding("fact", text, f"{tally_text(verdicts)}."))
    found += _cautions(record)
    if not any(each.kind == "advice" for each in found):
        why = "advice needs trained weights and an accuracy or a time of them"
        found.insert(0, Finding("caution", "This record cannot say which model to run.", why))
    return sorted(found, key=lambda each: ("advice", "fact", "caution").index(each.kind))


def main_protocols(record: RunRecord) -> list[Protocol]:
    """Headline protocols against the ground truth of the dataset with the most objects.

    A synthetic dataset is used only if there is no other.
    """
    found = [p for p in headline(record) if p.reference == GROUND_TRUTH and _scored(record, p)]
    if not found:
        return []

    def weight(dataset: str) -> tuple[bool, int]:
        rows = [row for row in record.miou if row.dataset == dataset]
        return not dataset.startswith("synthetic:"), max(row.n_instances for row in rows)

    best = max(unique(p.dataset for p in found), key=weight)
    return [p for p in found if p.dataset == best]


def _is_candidate(record: RunRecord, model: str) -> bool:
    """Whether a model runs trained weights, unlike baselines and dummies."""
    row = model_row(record, model)
    return row is not None and row.status == "ok" and row.weights.kind == "file"


def _scored(record: RunRecord, protocol: Protocol) -> list[MiouRow]:
    """Rows of a protocol with an accuracy, best first."""
    rows = (find_miou(record, protocol, model) for model in model_names(record))
    accurate = [row for row in rows if row is not None and has_accuracy(row)]
    return sorted(accurate, key=lambda row: -(row.miou or 0))


def _candidates(record: RunRecord, protocol: Protocol) -> list[MiouRow]:
    return [row for row in _scored(record, protocol) if _is_candidate(record, row.model)]


def _accuracies(rows: Sequence[MiouRow]) -> str:
    """Models with their mIoU, such as `mobilesam 71.7 % [69.8, 73.7]`."""
    parts = []
    for row in rows:
        value, _, bounds = percent(row.miou or 0, row.ci95).partition(" ")
        parts.append(f"{row.model} {value} % {bounds}".rstrip())
    return ", ".join(parts)


def _encode_times(record: RunRecord, setup: Setup, models: Sequence[str]) -> dict[str, float]:
    """Median encode time in ms of the models that were timed."""
    found = {model: timed(find_latency(record, setup, model, "encode")) for model in models}
    return {model: time[0] for model, time in found.items() if time is not None}


def _comparison(
    record: RunRecord, protocol: Protocol, one: str, other: str
) -> ComparisonRow | None:
    """The paired comparison of two models under a protocol, in either order."""
    for row in record.comparisons:
        same = Protocol(row.dataset, row.reference, row.protocol) == protocol
        if same and {row.model_a, row.model_b} == {one, other}:
            return row
    return None


def _tied(record: RunRecord, protocol: Protocol, rows: Sequence[MiouRow]) -> list[MiouRow]:
    """The best row, and the rows that a paired comparison cannot tell apart from it."""
    best = rows[0]
    tied = [best]
    for row in rows[1:]:
        pair = _comparison(record, protocol, best.model, row.model)
        if row.miou == best.miou or (pair is not None and pair.p_adjusted > LEVEL):
            tied.append(row)
    return tied


def _advice(record: RunRecord) -> Iterator[Finding]:
    """The trained model to run in every setup; protocols with the same choice share a statement."""
    shown, timings = main_protocols(record), setups(record)
    for setup in timings:
        choices: dict[tuple[str, str, str], list[tuple[Protocol, str]]] = {}
        points = {p: accuracy_latency_frame(record, setup, p)[:2] for p in shown}
        for protocol in shown:
            choice = _choose(record, protocol, *points[protocol])
            if choice is not None:
                choices.setdefault(choice[:3], []).append((protocol, choice[3]))
        for (model, reason, times), same in choices.items():
            names = ", ".join(protocol.protocol for protocol, _ in same)
            accuracy = "; ".join(f"{protocol.protocol}: {text}" for protocol, text in same)
            yield Finding(
                "advice",
                f"On {setup.label}, run {model} for prompts of {names}: {reason}.",
                f"mIoU on {same[0][0].dataset}, {accuracy}. Time, {times}.",
            )
        for protocol in shown[:1]:
            choice = _choose(record, protocol, *points[protocol])
            if choice is not None:
                yield from _faster(record, protocol, choice[0], *points[protocol])
    if not timings:
        for protocol in shown:
            rows = _candidates(record, protocol)
            if rows:
                names = " or ".join(row.model for row in _tied(record, protocol, rows))
                yield Finding(
                    "advice",
                    f"For prompts of {protocol.protocol}, run {names}: the most accurate here.",
                    f"mIoU on {protocol.dataset}: {_accuracies(rows)}. No time was measured.",
                )
    if not shown:
        for setup in timings:
            candidates = [m for m in model_names(record) if _is_candidate(record, m)]
            encode = _encode_times(record, setup, candidates)
            if encode:
                model = min(encode, key=lambda each: encode[each])
                yield Finding(
                    "advice",
                    f"By time alone, run {model} on {setup.label}; no accuracy was measured.",
                    f"encode {milliseconds(encode[model])}, the least of {len(encode)}.",
                )


def _choose(
    record: RunRecord, protocol: Protocol, points: Any, label: str
) -> tuple[str, str, str, str] | None:
    """Model to run, reason, times and accuracies; None if no candidate has both."""
    times = {} if points.empty else dict(zip(points["model"], points["ms"], strict=True))
    rows = [row for row in _candidates(record, protocol) if row.model in times]
    if not rows:
        return None
    tied = _tied(record, protocol, rows)
    chosen = min(tied, key=lambda row: times[row.model])
    others = [row for row in tied if row is not chosen]
    if others:
        reason = "no other is measurably more accurate, and it is the fastest of the best"
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
    text = "; ".join((f"{label}: {chosen.model} {milliseconds(own)}", *ratios))
    return chosen.model, reason, text, _accuracies([chosen, *others])


def _faster(
    record: RunRecord, protocol: Protocol, model: str, points: Any, label: str
) -> Iterator[Finding]:
    """Candidates on the Pareto front that are faster and less accurate than the chosen model."""
    points = points[[_is_candidate(record, each) for each in points["model"]]]
    chosen = points[points["model"] == model].iloc[0]
    front = pareto_front(points)
    for point in front[front["ms"] < chosen["ms"]].to_dict("records"):
        yield Finding(
            "advice",
            f"Where time matters more, run {point['model']}: it takes "
            f"{number(point['ms'] / chosen['ms'])} of the time of {model}, for "
            f"{number(chosen['value'] - point['value'], 1)} points of mIoU less with "
            f"{protocol.protocol}.",
            f"{label} {milliseconds(point['ms'])} against {milliseconds(chosen['ms'])}; mIoU "
            f"{number(point['value'], 1)} % against {number(chosen['value'], 1)} %.",
        )


def _accuracy_facts(record: RunRecord) -> Iterator[Finding]:
    for protocol in main_protocols(record)[:1]:
        rows, candidates = _scored(record, protocol), _candidates(record, protocol)
        baselines = [row for row in rows if row not in candidates]
        if candidates and baselines:
            best, base = candidates[0], baselines[0]
            pair = _comparison(record, protocol, best.model, base.model)
            chance = pair is not None and pair.p_adjusted > LEVEL
            above = number(100 * ((best.miou or 0) - (base.miou or 0)), 1)
            text = (
                f"{base.model}, which is not trained, is the baseline for {protocol.protocol} "
                f"prompts: {best.model} is {above} points above it"
            )
            why = f"mIoU {_accuracies([best, base])} ({protocol.dataset})."
            yield Finding("fact", f"{text}{', which may be chance' if chance else ''}.", why)
        for row in candidates[:1]:
            sizes, n = row.by_size, row.n_by_size
            if sizes.small is not None and sizes.large is not None:
                small, large = percent(sizes.small), percent(sizes.large)
                text = f"Objects by size, {row.model}, {protocol.protocol}: small {small} %, "
                why = f"n = {n.small or 0:.0f} and {n.large or 0:.0f} ({protocol.dataset})."
                yield Finding("fact", f"{text}large {large} %.", why)


def _time_facts(record: RunRecord, setup: Setup) -> Iterator[Finding]:
    names = model_names(record)
    networks = [m for m in names if (row := model_row(record, m)) and row.weights.kind != "none"]
    encode = _encode_times(record, setup, networks)
    if len(encode) > 1:
        fast, slow = (f(encode, key=lambda each: encode[each]) for f in (min, max))
        ratio = number(encode[slow] / encode[fast])
        text = f"{fast} is the fastest, {slow} takes {ratio} times as long."
        why = f"encode {milliseconds(encode[fast])} and {milliseconds(encode[slow])}."
        yield Finding("fact", f"Image encoders on {setup.label}: {text}", why)
    decoders = [
        row
        for row in decode_frame(record, setup).to_dict("records")
        if _is_candidate(record, row["model"])
        and row["row"].decode_kind == "decoder"
        and row["slope_ms"] is not None
    ]
    if decoders:
        least = min(decoders, key=lambda row: row["slope_ms"])
        own = [row for row in decoders if row["model"] == least["model"]]
        why = "; ".join(f"{milliseconds(r['value'])} for {r['n_prompts']}" for r in own)
        cost = f"{least['model']}: {slope_text(least['slope_ms'])}."
        yield Finding("fact", f"Many prompts on one image cost least with {cost}", f"{why}.")
    memory = {
        model: found.peak_rss_bytes / MIB
        for model in names
        if _is_candidate(record, model) or has_random_weights(record, model)
        if (found := find_memory(record, setup.device, model)) is not None
    }
    if len(memory) > 1:
        least, most = (f(memory, key=lambda each: memory[each]) for f in (min, max))
        why = f"peak RSS {memory[least]:.0f} and {memory[most]:.0f} MiB."
        yield Finding("fact", f"Memory: {least} needs the least, {most} the most.", why)


def _cautions(record: RunRecord) -> Iterator[Finding]:
    names = model_names(record)
    found: list[tuple[Sequence[str], str, str]] = []
    random = [model for model in names if has_random_weights(record, model)]
    timed_too = any(row.model in random for row in record.latency)
    why = " The exact architecture was timed with random weights." if timed_too else ""
    found.append(
        (random, "The accuracy of {} is unknown.", f"No trained weights were available.{why}")
    )
    custom = [r.model for r in record.models if r.weights.kind == "file" and not r.weights.official]
    why = "Their accuracy is that of the weights whose hash is in the tables."
    found.append((custom, "{} did not run the published weights.", why))
    for dataset in [
        p.dataset for p in main_protocols(record)[:1] if p.dataset.startswith("synthetic:")
    ]:
        text = "Accuracy was measured on drawn scenes, not on photos."
        found.append(([dataset], text, f"Dataset {dataset}."))
    errors = [row.model for row in record.models if row.status == "error"]
    failed = unique((*errors, *(each.culprit for each in record.failures)))
    found.append((failed, "Something failed: {}.", "See warnings and failures."))
    noisy = [each.removeprefix("noisy: ") for each in record.warnings if each.startswith("noisy")]
    found.append((noisy, "The machine was busy during a run.", f"{'; '.join(noisy)}."))
    processes = {
        model: {r.processes for r in record.latency if r.model == model and r.status == "ok"}
        for model in names
    }
    once = [model for model in names if processes[model] == {1}]
    why = "Ranges over its calls leave out the variation between processes; use a longer profile."
    found.append((once, "Timed in one process only: {}.", why))
    for names_of, text, why in found:
        if names_of:
            yield Finding("caution", text.replace("{}", ", ".join(names_of)), why)
