"""Statements about a record in plain words: which model to run, facts and cautions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

from benchmarks.evaluation.comparison import LEVEL
from benchmarks.paper.verdicts import ClaimVerdict, tally_text
from benchmarks.prompts.protocols import GROUND_TRUTH
from benchmarks.records.record import MiouRow, RunRecord
from benchmarks.report.frames import accuracy_latency_frame, decode_frame, pareto_front, slope_text
from benchmarks.tables import record_queries as queries
from benchmarks.tables.formatting import MIB, milliseconds, number, percent
from benchmarks.tables.record_queries import Protocol, Setup, model_names, unique

Statement = tuple[str, str]
"""A sentence, and the numbers behind it."""


class Finding(NamedTuple):
    """One statement, and the numbers behind it.

    Of the kinds, `advice` recommends a model, `fact` is a result, `caution` a limitation.
    """

    kind: Literal["advice", "fact", "caution"]
    text: str
    why: str


def findings(record: RunRecord, verdicts: Sequence[ClaimVerdict]) -> list[Finding]:
    """All statements about a record, advice first."""
    advice, facts = list(_advice(record)), list(_accuracy_facts(record))
    for setup in queries.setups(record):
        facts += _time_facts(record, setup)
    if verdicts:
        text = "All published claims of the ledger were judged by this record."
        facts.append((text, f"{tally_text(verdicts)}."))
    cautions = list(_cautions(record))
    if not advice:
        why = "advice needs trained weights and an accuracy or a time of them"
        cautions.insert(0, ("This record cannot say which model to run.", why))
    found = [Finding("advice", *each) for each in advice]
    found += [Finding("fact", *each) for each in facts]
    return found + [Finding("caution", *each) for each in cautions]


def main_protocols(record: RunRecord) -> list[Protocol]:
    """Headline protocols against the ground truth of the dataset with the most objects.

    A synthetic dataset is used only if there is no other.
    """
    found = [p for p in queries.headline(record) if p.reference == GROUND_TRUTH]
    found = [p for p in found if _scored(record, p)]

    def weight(dataset: str) -> tuple[bool, int]:
        rows = [row for row in record.miou if row.dataset == dataset]
        return not dataset.startswith("synthetic:"), max(row.n_instances for row in rows)

    best = max(unique(p.dataset for p in found), key=weight, default=None)
    return [p for p in found if p.dataset == best]


def _is_candidate(record: RunRecord, model: str) -> bool:
    """Whether a model runs trained weights, unlike baselines and dummies."""
    row = queries.model_row(record, model)
    return row is not None and row.status == "ok" and row.weights.kind == "file"


def _scored(record: RunRecord, protocol: Protocol) -> list[MiouRow]:
    """Rows of a protocol with an accuracy, best first."""
    rows = (queries.find_miou(record, protocol, model) for model in model_names(record))
    accurate = [row for row in rows if row is not None and queries.has_accuracy(row)]
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
    rows = {model: queries.find_latency(record, setup, model, "encode") for model in models}
    return {model: time[0] for model, row in rows.items() if (time := queries.timed(row))}


def _may_be_equal(record: RunRecord, protocol: Protocol, one: MiouRow, other: MiouRow) -> bool:
    """Whether a paired comparison under a protocol cannot tell two models apart."""
    return any(
        row.p_adjusted > LEVEL
        for row in record.comparisons
        if Protocol(row.dataset, row.reference, row.protocol) == protocol
        and {row.model_a, row.model_b} == {one.model, other.model}
    )


def _tied(record: RunRecord, protocol: Protocol, rows: Sequence[MiouRow]) -> list[MiouRow]:
    """The best row, which is the first, and the rows that cannot be told apart from it."""
    best, *others = rows
    tied = (r for r in others if r.miou == best.miou or _may_be_equal(record, protocol, best, r))
    return [best, *tied]


def _advice(record: RunRecord) -> Iterator[Statement]:
    """The trained model to run in every setup; protocols with the same choice share a statement."""
    shown, timings = main_protocols(record), queries.setups(record)
    for setup in timings:
        choices: dict[tuple[str, str, str], list[tuple[Protocol, str]]] = {}
        faster: list[Statement] = []
        for protocol in shown:
            points, label, _ = accuracy_latency_frame(record, setup, protocol)
            choice = _choose(record, protocol, points, label)
            if choice is not None:
                choices.setdefault(choice[:3], []).append((protocol, choice[3]))
                if protocol == shown[0]:
                    faster += _faster(record, protocol, choice[0], points, label)
        for (model, reason, times), same in choices.items():
            names = ", ".join(protocol.protocol for protocol, _ in same)
            accuracy = "; ".join(f"{protocol.protocol}: {text}" for protocol, text in same)
            yield (
                f"On {setup.label}, run {model} for prompts of {names}: {reason}.",
                f"mIoU on {same[0][0].dataset}, {accuracy}. Time, {times}.",
            )
        yield from faster
        encode = _encode_times(
            record, setup, [model for model in model_names(record) if _is_candidate(record, model)]
        )
        if encode and not shown:
            model = min(encode, key=lambda each: encode[each])
            yield (
                f"By time alone, run {model} on {setup.label}; no accuracy was measured.",
                f"encode {milliseconds(encode[model])}, the least of {len(encode)}.",
            )
    for protocol in () if timings else shown:
        rows = _candidates(record, protocol)
        if rows:
            names = " or ".join(row.model for row in _tied(record, protocol, rows))
            yield (
                f"For prompts of {protocol.protocol}, run {names}: the most accurate here.",
                f"mIoU on {protocol.dataset}: {_accuracies(rows)}. No time was measured.",
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
) -> Iterator[Statement]:
    """Candidates on the Pareto front that are faster and less accurate than the chosen model."""
    points = points[[_is_candidate(record, each) for each in points["model"]]]
    chosen = points[points["model"] == model].iloc[0]
    front = pareto_front(points)
    for point in front[front["ms"] < chosen["ms"]].to_dict("records"):
        yield (
            f"Where time matters more, run {point['model']}: it takes "
            f"{number(point['ms'] / chosen['ms'])} of the time of {model}, for "
            f"{number(chosen['value'] - point['value'], 1)} points of mIoU less with "
            f"{protocol.protocol}.",
            f"{label} {milliseconds(point['ms'])} against {milliseconds(chosen['ms'])}; mIoU "
            f"{number(point['value'], 1)} % against {number(chosen['value'], 1)} %.",
        )


def _accuracy_facts(record: RunRecord) -> Iterator[Statement]:
    for protocol in main_protocols(record)[:1]:
        candidates = _candidates(record, protocol)
        baselines = [row for row in _scored(record, protocol) if row not in candidates]
        if not candidates:
            return
        best, sizes, n = candidates[0], candidates[0].by_size, candidates[0].n_by_size
        if baselines:
            base = baselines[0]
            above = number(100 * ((best.miou or 0) - (base.miou or 0)), 1)
            chance = _may_be_equal(record, protocol, best, base)
            yield (
                f"{base.model}, which is not trained, is the baseline for {protocol.protocol} "
                f"prompts: {best.model} is {above} points above it"
                f"{', which may be chance' if chance else ''}.",
                f"mIoU {_accuracies([best, base])} ({protocol.dataset}).",
            )
        if sizes.small is not None and sizes.large is not None:
            yield (
                f"Objects by size, {best.model}, {protocol.protocol}: small "
                f"{percent(sizes.small)} %, large {percent(sizes.large)} %.",
                f"n = {n.small or 0:.0f} and {n.large or 0:.0f} ({protocol.dataset}).",
            )


def _time_facts(record: RunRecord, setup: Setup) -> Iterator[Statement]:
    names = model_names(record)
    rows = [queries.model_row(record, model) for model in names]
    networks = [row.model for row in rows if row is not None and row.weights.kind != "none"]
    encode = _encode_times(record, setup, networks)
    if len(encode) > 1:
        fast, slow = (f(encode, key=lambda each: encode[each]) for f in (min, max))
        ratio = number(encode[slow] / encode[fast])
        text = f"{fast} is the fastest, {slow} takes {ratio} times as long."
        why = f"encode {milliseconds(encode[fast])} and {milliseconds(encode[slow])}."
        yield (f"Image encoders on {setup.label}: {text}", why)
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
        yield (f"Many prompts on one image cost least with {cost}", f"{why}.")
    memory = {
        model: found.peak_rss_bytes / MIB
        for model in names
        if _is_candidate(record, model) or queries.has_random_weights(record, model)
        if (found := queries.find_memory(record, setup.device, model)) is not None
    }
    if len(memory) > 1:
        least, most = (f(memory, key=lambda each: memory[each]) for f in (min, max))
        why = f"peak RSS {memory[least]:.0f} and {memory[most]:.0f} MiB."
        yield (f"Memory: {least} needs the least, {most} the most.", why)


def _cautions(record: RunRecord) -> Iterator[Statement]:
    names = model_names(record)
    random = [model for model in names if queries.has_random_weights(record, model)]
    unknown = "No trained weights were available."
    if any(row.model in random for row in record.latency):
        unknown += " The exact architecture was timed with random weights."
    custom = [r.model for r in record.models if r.weights.kind == "file" and not r.weights.official]
    dataset = next((protocol.dataset for protocol in main_protocols(record)), "")
    drawn = [dataset] if dataset.startswith("synthetic:") else []
    errors = [row.model for row in record.models if row.status == "error"]
    failed = unique((*errors, *(each.culprit for each in record.failures)))
    noisy = [each.removeprefix("noisy: ") for each in record.warnings if each.startswith("noisy")]
    processes: dict[str, set[int]] = {name: set() for name in names}
    for row in record.latency:
        if row.status == "ok":
            processes[row.model].add(row.processes)
    once = [model for model in names if processes[model] == {1}]
    other_weights = "Their accuracy is that of the weights whose hash is in the tables."
    ranges = "Ranges over its calls leave out the variation between processes"
    table: tuple[tuple[Sequence[str], str, str], ...] = (
        (random, "The accuracy of {} is unknown.", unknown),
        (custom, "{} did not run the published weights.", other_weights),
        (drawn, "Accuracy was measured on drawn scenes, not on photos.", f"Dataset {dataset}."),
        (failed, "Something failed: {}.", "See warnings and failures."),
        (noisy, "The machine was busy during a run.", f"{'; '.join(noisy)}."),
        (once, "Timed in one process only: {}.", f"{ranges}; use a longer profile."),
    )
    for subjects, text, why in table:
        if subjects:
            yield text.replace("{}", ", ".join(subjects)), why
