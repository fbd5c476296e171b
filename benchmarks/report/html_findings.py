"""What a record says in plain words: which model where, and why. Rules over rows, nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from benchmarks.evaluation.comparison import LEVEL
from benchmarks.paper.verdicts import ClaimVerdict, tally_text
from benchmarks.records.record import RunRecord
from benchmarks.report.decode_plot import decode_series, slope_ms, slope_text
from benchmarks.report.html_advice import (
    Finding,
    accuracies,
    advice,
    comparison,
    encode_times,
    is_candidate,
    main_protocols,
    scored,
)
from benchmarks.tables.formatting import MIB, milliseconds, number, percent
from benchmarks.tables.record_queries import (
    Setup,
    find_memory,
    has_random_weights,
    model_names,
    model_row,
    setups,
    unique,
)


def findings(record: RunRecord, verdicts: Sequence[ClaimVerdict]) -> list[Finding]:
    """Everything that the rules find in a record, advice first."""
    found = [*advice(record), *_accuracy_facts(record), *_time_facts(record)]
    if verdicts:
        text = "Every published claim in the ledger was judged by this record."
        found.append(Finding("fact", text, f"{tally_text(verdicts)}."))
    found += _cautions(record)
    if not any(each.kind == "advice" for each in found):
        why = "advice needs trained weights and an accuracy or a time of them"
        found.insert(0, Finding("caution", "This record cannot say which model to run.", why))
    return sorted(found, key=lambda each: ("advice", "fact", "caution").index(each.kind))


def _accuracy_facts(record: RunRecord) -> Iterator[Finding]:
    for protocol in main_protocols(record)[:1]:
        rows = scored(record, protocol)
        candidates = [row for row in rows if is_candidate(record, row.model)]
        floors = [row for row in rows if not is_candidate(record, row.model)]
        if candidates and floors:
            best, floor = candidates[0], floors[0]
            pair = comparison(record, protocol, best.model, floor.model)
            told = pair is None or pair.p_adjusted <= LEVEL
            above = number(100 * ((best.miou or 0) - (floor.miou or 0)), 1)
            yield Finding(
                "fact",
                f"{floor.model}, which has learnt nothing, is the floor of {protocol.protocol} "
                f"prompts: {best.model} lies {above} points above it"
                + ("." if told else ", which is within what chance allows."),
                f"mIoU {accuracies([best, floor])} ({protocol.dataset}).",
            )
        for row in candidates[:1]:
            sizes = row.by_size
            if sizes.small is not None and sizes.large is not None:
                yield Finding(
                    "fact",
                    f"Objects by size, {row.model}, {protocol.protocol}: small "
                    f"{percent(sizes.small)} %, large {percent(sizes.large)} %.",
                    f"n = {row.n_by_size.small or 0:.0f} and {row.n_by_size.large or 0:.0f} "
                    f"({protocol.dataset}).",
                )


def _time_facts(record: RunRecord) -> Iterator[Finding]:
    for setup in setups(record):
        networks = [
            model
            for model in model_names(record)
            if (row := model_row(record, model)) is not None and row.weights.kind != "none"
        ]
        times = encode_times(record, setup, networks)
        if len(times) > 1:
            fast, slow = (f(times, key=lambda each: times[each]) for f in (min, max))
            yield Finding(
                "fact",
                f"Image encoders on {setup.label}: {fast} is the fastest, {slow} takes "
                f"{number(times[slow] / times[fast])} times as long.",
                f"encode {milliseconds(times[fast])} and {milliseconds(times[slow])}.",
            )
        yield from _many_prompts(record, setup)
        yield from _memory(record, setup)


def _many_prompts(record: RunRecord, setup: Setup) -> Iterator[Finding]:
    found = decode_series(record, setup)
    slopes = {
        model: slope
        for model, rows in found.items()
        if is_candidate(record, model)
        and rows[0].decode_kind == "decoder"
        and (slope := slope_ms(rows)) is not None
    }
    if slopes:
        least = min(slopes, key=lambda each: slopes[each])
        rows = found[least]
        yield Finding(
            "fact",
            f"Many prompts on one image cost least with {least}: {slope_text(slopes[least])}.",
            "; ".join(f"{milliseconds(r.median_ms or 0)} for {r.n_prompts}" for r in rows) + ".",
        )


def _memory(record: RunRecord, setup: Setup) -> Iterator[Finding]:
    found = {
        model: row.peak_rss_bytes
        for model in model_names(record)
        if is_candidate(record, model) or has_random_weights(record, model)
        if (row := find_memory(record, setup.device, model)) is not None
    }
    if len(found) > 1:
        least, most = (f(found, key=lambda each: found[each]) for f in (min, max))
        yield Finding(
            "fact",
            f"Memory: {least} needs the least, {most} the most.",
            f"peak RSS {found[least] / MIB:.0f} and {found[most] / MIB:.0f} MiB.",
        )


def _cautions(record: RunRecord) -> Iterator[Finding]:
    random = [model for model in model_names(record) if has_random_weights(record, model)]
    any_timed = any(row.model in random for row in record.latency)
    if random:
        yield Finding(
            "caution",
            f"Nothing can be said about the accuracy of {', '.join(random)}.",
            "No trained weights were at hand."
            + " The exact architecture was timed with random ones." * any_timed,
        )
    custom = [r.model for r in record.models if r.weights.kind == "file" and not r.weights.official]
    if custom:
        yield Finding(
            "caution",
            f"{', '.join(custom)} did not run the published weights.",
            "Their accuracy is that of the weights whose hash stands in the tables.",
        )
    if (p := next(iter(main_protocols(record)), None)) and p.dataset.startswith("synthetic:"):
        yield Finding(
            "caution",
            "Accuracy was measured on drawn scenes, not on photos.",
            f"Dataset {p.dataset}.",
        )
    failed = unique(row.model for row in record.models if row.status == "error")
    if record.failures or failed:
        names = unique((*failed, *(each.culprit for each in record.failures)))
        yield Finding(
            "caution", f"Something failed: {', '.join(names)}.", "See warnings and failures."
        )
    noisy = [each.removeprefix("noisy: ") for each in record.warnings if each.startswith("noisy")]
    if noisy:
        yield Finding("caution", "The machine was busy during a run.", f"{'; '.join(noisy)}.")
    once = [model for model in model_names(record) if _processes(record, model) == {1}]
    if once:
        yield Finding(
            "caution",
            f"Timed in one process only: {', '.join(once)}.",
            "Ranges over its calls leave out what differs from process to process; use a longer "
            "profile.",
        )


def _processes(record: RunRecord, model: str) -> set[int]:
    return {row.processes for row in record.latency if row.model == model and row.status == "ok"}
