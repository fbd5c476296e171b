"""Data frames behind the plots and charts of a record, one row per plotted value.

Columns of several frames: `model`, `value` (ms or percent), `bounds` (ends of its error bar, None
without one), `low` and `high` (the same), `spread` (interval or range of a time) and `random`
(random weights). All columns have dtype object: an absent value is None, numbers are Python's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any

from benchmarks.records.record import Environment, RunRecord
from benchmarks.records.statistics import Spread
from benchmarks.tables.columns import bars_text
from benchmarks.tables.formatting import clean, milliseconds
from benchmarks.tables.record_queries import (
    Bounds,
    Protocol,
    Setup,
    find_latency,
    find_miou,
    has_accuracy,
    has_random_weights,
    headline,
    miou_percent,
    model_names,
    phase_order,
    setup_of,
    setups,
    shipped_models_notes,
    spread_of,
    timed,
    unique,
    used_parameters,
    weights_label,
)

SIZES = ("small", "medium", "large")
WATERFALL = (
    ("preprocess", "preprocess", None),
    ("encode", "encode", None),
    # A detector searches for masks once per image, before any prompt.
    ("search", "postprocess", None),
    ("decode", "decode", 1),
    ("postprocess", "postprocess", 1),
)
"""Label, phase and number of prompts of the steps of one prompt, in the order of execution."""
HISTORY_TIMES = (
    ("end to end", "end_to_end", 1),
    ("encode", "encode", None),
    ("decode", "decode", 1),
)


def object_frame(rows: Iterable[Mapping[str, Any]]) -> Any:
    """A data frame whose columns all have dtype object."""
    import pandas as pd

    return pd.DataFrame(list(rows), dtype=object)


def _value(value: float | None, bounds: Bounds | None) -> dict[str, Any]:
    low, high = bounds or (None, None)
    return {"value": value, "bounds": bounds, "low": low, "high": high}


def _time(value: float | None, spread: Spread | None) -> dict[str, Any]:
    return {"spread": spread, **_value(value, None if spread is None else spread.bounds)}


def values_of(frame: Any) -> list[float]:
    """All values of a frame and the ends of their error bars."""
    return [x for column in ("value", "low", "high") for x in frame[column] if x is not None]


def latency_frame(record: RunRecord, setup: Setup) -> Any:
    """All latency rows of a setup, by phase.

    Columns: model, phase, n_prompts, value, low, high, spread, random, row (the `LatencyRow`).
    """
    rows = sorted((r for r in record.latency if setup_of(r) == setup), key=phase_order)
    return object_frame(
        {
            "model": row.model,
            "phase": row.phase,
            "n_prompts": row.n_prompts,
            **_time(row.median_ms if row.status == "ok" else None, spread_of(row)),
            "random": row.weights == "random" or has_random_weights(record, row.model),
            "row": row,
        }
        for row in rows
    )


def _timed_rows(record: RunRecord, setup: Setup) -> Any:
    frame = latency_frame(record, setup)
    return frame if frame.empty else frame[[timed(row) is not None for row in frame["row"]]]


def decode_frame(record: RunRecord, setup: Setup) -> Any:
    """Decode times by model and number of prompts.

    Columns: those of `latency_frame`, and slope_ms (time of one more prompt, between the fewest and
    the most prompts; None for a single number of prompts).
    """
    frame = _timed_rows(record, setup)
    parts = []
    for model in model_names(record) if len(frame) else ():
        rows = (
            (frame["model"] == model)
            & (frame["phase"] == "decode")
            & frame["n_prompts"].astype(bool)
        )
        part = frame[rows]
        if len(part):
            first, last = part.iloc[0], part.iloc[-1]
            more = last["n_prompts"] - first["n_prompts"]
            slope = (last["value"] - first["value"]) / more if more else None
            parts += part.assign(slope_ms=slope).to_dict("records")
    return object_frame(parts)


def decode_notes(record: RunRecord, setup: Setup, frame: Any) -> list[str]:
    """Notes of a plot of a decode frame."""
    models = unique(frame["model"])
    random = unique(frame["model"][frame["random"].astype(bool)])
    missing = [model for model in model_names(record) if model not in models]
    groups = (
        ("Hollow: random weights on the exact architecture, whose time is the same", random),
        ("Not timed", missing),
    )
    return [
        f"{setup.label}. Error bars: {bars_text(frame['spread'])}. Different kinds of decoding do "
        "different work: their times do not compare.",
        *(f"{text}: {', '.join(names)}." for text, names in groups if names),
    ]


def slope_text(slope_ms: float) -> str:
    """A slope as printed, such as `20.1 ms / prompt`; a slope below zero is printed as zero."""
    return f"{milliseconds(slope_ms)} / prompt" if slope_ms > 0 else "0 / prompt"


def waterfall_frame(record: RunRecord, setup: Setup) -> Any:
    """Steps of one prompt for every model with a timed encoder, fastest model first.

    Columns: those of `latency_frame`, step (label), start (sum of the earlier medians), sum (of the
    medians of all steps). A model whose steps were also timed in one call has a further step
    `end to end` with start None.
    """
    frame = _timed_rows(record, setup)
    found: list[list[dict[str, Any]]] = []
    for model in model_names(record) if len(frame) else ():
        own = frame[frame["model"] == model].to_dict("records")
        steps = [
            {**row, "step": step}
            for step, phase, n in WATERFALL
            for row in own
            if (row["phase"], row["n_prompts"]) == (phase, n)
        ]
        if any(row["step"] == "encode" for row in steps):
            total, start = sum(row["value"] for row in steps), 0.0
            for row in steps:
                row |= {"start": start, "sum": total}
                start += row["value"]
            whole = (row for row in own if row["phase"] == "end_to_end")
            steps += [{**row, "step": "end to end", "start": None, "sum": total} for row in whole]
            found.append(steps)
    return object_frame(row for steps in sorted(found, key=lambda s: s[0]["sum"]) for row in steps)


def accuracy_latency_frame(
    record: RunRecord, setup: Setup, protocol: Protocol
) -> tuple[Any, str, list[str]]:
    """Accuracy against latency, one row per model with both.

    The time is end to end for all models, or encode plus one decode for all: the latter only if end
    to end is missing for a model with an accuracy and the sum is missing for no more models.

    Returns:
        Frame with the columns model, value (mIoU in percent), low, high, ms, ms_low, ms_high,
        spread (of ms), parameters (used in the forward pass; None if not counted); the label of the
        time; notes about shipped weights and models left out.
    """
    models = model_names(record)
    accurate = {m: row for m in models if has_accuracy(row := find_miou(record, protocol, m))}
    whole = {m: timed(find_latency(record, setup, m, "end_to_end")) for m in accurate}
    sums = {m: _encode_decode(record, setup, m) for m in accurate}
    n_whole, n_sums = (sum(time is not None for time in each.values()) for each in (whole, sums))
    use_sums = n_whole < len(accurate) and n_sums >= n_whole
    label = "encode + decode of one prompt" if use_sums else "end to end"
    rows: list[dict[str, Any]] = []
    for model, time in (sums if use_sums else whole).items():
        accuracy = miou_percent(accurate[model])
        if time is None or accuracy is None:
            continue
        low, high = (None, None) if time[1] is None else time[1].bounds
        rows.append(
            {
                "model": model,
                **_value(*accuracy),
                "ms": time[0],
                "ms_low": low,
                "ms_high": high,
                "spread": time[1],
                "parameters": used_parameters(record, model),
            }
        )
    shown = [row["model"] for row in rows]
    random = [m for m in models if m not in accurate and has_random_weights(record, m)]
    groups = (
        ("Random weights, so no accuracy", random),
        (
            "No accuracy under this protocol",
            [m for m in models if m not in accurate and m not in random],
        ),
        (f"No time ({label}) in this setup", [m for m in accurate if m not in shown]),
    )
    left_out = [f"{text}: {', '.join(names)}." for text, names in groups if names]
    return object_frame(rows), label, [*shipped_models_notes(record, shown), *left_out]


def _encode_decode(
    record: RunRecord, setup: Setup, model: str
) -> tuple[float, Spread | None] | None:
    """Sum of two medians; the sum of the ends of their intervals is conservative."""
    parts = [
        timed(find_latency(record, setup, model, "encode")),
        timed(find_latency(record, setup, model, "decode", 1)),
    ]
    known = [part for part in parts if part is not None]
    if len(known) < len(parts):
        return None
    spreads = [spread for _, spread in known if spread is not None]
    total = sum(time for time, _ in known)
    if len(spreads) < len(known):
        return total, None
    low, high = (sum(spread.bounds[end] for spread in spreads) for end in (0, 1))
    return total, Spread((low, high), any(spread.is_range for spread in spreads))


def pareto_front(points: Any) -> Any:
    """Rows of an accuracy-latency frame that no other row beats in both, fastest first."""
    ordered = points.sort_values(["ms", "value", "model"], ascending=[True, False, True])
    accuracy = ordered["value"].astype(float)
    return ordered[accuracy > accuracy.cummax().shift(fill_value=-math.inf)]


def area_scale(points: Any, wanted_least: float, most: float) -> float:
    """Marker area per parameter, equal for all points; 0 without parameters.

    The smallest model gets the wanted area unless the largest one would exceed `most`.
    """
    sizes = [n for n in points["parameters"] if n]
    return min(wanted_least / min(sizes), most / max(sizes)) if sizes else 0.0


def error_bars_note(points: Any) -> str:
    """Explains error bars, markers and the front of a plot of an accuracy-latency frame."""
    times = bars_text(points["spread"])
    same = times == "95 % interval"
    text = "95 % intervals" if same else f"95 % interval of mIoU, {times} of time"
    return (
        f"Error bars: {text}. Marker area: parameters used; a cross has none or an unknown number. "
        "Dashed: Pareto front, the models that no other beats in both."
    )


def size_frame(record: RunRecord, protocol: Protocol) -> Any:
    """Accuracy over all objects and by size class, for the models with an accuracy.

    Columns: model, size ("all", "small", ...), miou (fraction), value (percent), low, high, n
    (objects; None if unknown). Values are None where a class holds no object.
    """
    rows = []
    for model in model_names(record):
        row = find_miou(record, protocol, model)
        mean = miou_percent(row)
        if row is None or mean is None:
            continue
        sizes = [(size, getattr(row.by_size, size), None) for size in SIZES]
        for size, miou, bounds in (("all", row.miou, mean[1]), *sizes):
            n = row.n_instances if size == "all" else getattr(row.n_by_size, size)
            value = None if miou is None else 100 * miou
            same = {"model": model, "size": size, "miou": miou, "n": n}
            rows.append({**same, **_value(value, bounds)})
    return object_frame(rows)


def size_notes(record: RunRecord, frame: Any) -> list[str]:
    """Notes of a plot of a size frame."""
    shown = set(frame["model"])
    missing = [model for model in model_names(record) if model not in shown]
    return [
        "Bars: 95 % bootstrap interval over images. Small < 32^2 <= medium < 96^2 <= large, in "
        "pixels of annotation area.",
        *([f"No accuracy under this protocol: {', '.join(missing)}."] if missing else []),
        *shipped_models_notes(record, unique(frame["model"])),
    ]


def protocol_frame(record: RunRecord, group: Sequence[Protocol]) -> Any:
    """Accuracies under several protocols: columns model, protocol, value, low, high."""
    return object_frame(
        {"model": model, "protocol": protocol, **_value(*mean)}
        for model in model_names(record)
        for protocol in group
        if (mean := miou_percent(find_miou(record, protocol, model)))
    )


def percent_limits(values: Iterable[float]) -> tuple[float, float]:
    """Axis limits around values in percent: multiples of ten, widened by 2 for whole markers."""
    known = list(values) or [0.0]
    low = max(0, 10 * math.floor((min(known) - 3) / 10))
    high = min(100, 10 * math.ceil((max(known) + 3) / 10))
    return low - 2, high + 2


def machine_label(environment: Environment) -> str:
    """CPU, GPUs, threads and allocator, which must be equal for times of two runs to compare."""
    parts = (environment.cpu, *environment.gpu, f"{environment.threads} threads")
    return clean(", ".join((*parts, environment.allocator)))


def day(run: RunRecord) -> str:
    """Date of a run, such as `2026-11-24`."""
    try:
        return datetime.fromisoformat(run.created_utc).date().isoformat()
    except ValueError:
        return clean(run.created_utc)[:10]


def history_frames(runs: Sequence[RunRecord], models: Sequence[str]) -> dict[str, tuple[str, Any]]:
    """Times and accuracies over runs, for every quantity that at least two runs measured.

    Args:
        runs: Runs in any order.
        models: Models to include.

    Returns:
        Unit (`ms` or `%`) and frame by name of the quantity. Columns: run (the `RunRecord`), model,
        where (conditions that must be equal for values to share a line), teacher (whether the value
        is an agreement with another model), value, low, high, spread. Oldest run first.
    """
    ordered = sorted(runs, key=lambda run: (run.created_utc, run.id))

    def collect(find: Callable[[RunRecord, str], dict[str, Any] | None]) -> list[dict[str, Any]]:
        return [
            {"run": run, "model": model, "where": machine_label(run.environment), **found}
            for run in ordered
            for model in model_names(run)
            if model in models and (found := find(run, model)) is not None
        ]

    def time(setup: Setup, phase: str, n: int | None, run: RunRecord, model: str) -> Any:
        row = timed(find_latency(run, setup, model, phase, n))
        return None if row is None else {"teacher": False, **_time(*row)}

    def accuracy(protocol: Protocol, run: RunRecord, model: str) -> Any:
        row = find_miou(run, protocol, model)
        mean = miou_percent(row)
        if row is None or mean is None:
            return None
        spread = None if mean[1] is None else Spread(mean[1], is_range=False)
        found = {"teacher": row.reference_weights is not None, **_time(mean[0], spread)}
        if row.reference_weights is not None:
            reference = weights_label(row.reference_weights)
            found["where"] = f"{machine_label(run.environment)}, reference {reference}"
        return found

    timings = unique(setup for run in ordered for setup in setups(run))
    protocols = unique(p for run in ordered for p in headline(run))
    rows = {
        f"{name}, {setup.label}": ("ms", collect(partial(time, setup, phase, n)))
        for setup in timings
        for name, phase, n in HISTORY_TIMES
    }
    rows |= {f"mIoU {p.label}": ("%", collect(partial(accuracy, p))) for p in protocols}
    return {
        name: (unit, object_frame(found))
        for name, (unit, found) in rows.items()
        if len({row["run"].id for row in found}) >= 2
    }
