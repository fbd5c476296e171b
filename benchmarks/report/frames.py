"""Data frames behind the plots and charts of a record, one row per plotted value.

Columns of several frames: `model`, `value` (ms or percent), `bounds` (ends of its error bar, None
without one), `low` and `high` (the same), `spread` (interval or range of a time) and `random`
(random weights). All columns have dtype object: an absent value is None, numbers are Python's.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from itertools import product
from typing import Any

from baselines.registry import split_size
from benchmarks.prompts.protocols import disturbance
from benchmarks.records.environment import NOISY
from benchmarks.records.record import Environment, MiouRow, RunRecord
from benchmarks.records.statistics import Spread
from benchmarks.report.style import short_names
from benchmarks.tables import record_queries as queries
from benchmarks.tables.columns import bars_text
from benchmarks.tables.formatting import clean, milliseconds
from benchmarks.tables.record_queries import Bounds, Protocol, Setup, model_names, timed, unique

HISTORY_TIMES = (
    ("end to end", "end_to_end", 1),
    ("encode", "encode", None),
    ("decode", "decode", 1),
)
INTERVALS = f"95 % intervals over images (bootstrap-t), of at least {queries.MIN_IMAGES} images"
_RUNTIMES = ("torch", "onnxruntime", "openvino")
"""Libraries that determine times."""


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
    found = (row for row in record.latency if queries.setup_of(row) == setup)
    return object_frame(
        {
            "model": row.model,
            "phase": row.phase,
            "n_prompts": row.n_prompts,
            **_time(row.median_ms if row.status == "ok" else None, queries.spread_of(row)),
            "random": row.weights == "random" or queries.has_random_weights(record, row.model),
            "row": row,
        }
        for row in sorted(found, key=queries.phase_order)
    )


def decode_frame(record: RunRecord, setup: Setup) -> Any:
    """Decode times by model and number of prompts.

    Columns: those of `latency_frame`, and slope_ms (time of one more prompt, between the fewest and
    the most prompts; None for a single number of prompts).
    """
    found = []
    rows = [
        row
        for row in latency_frame(record, setup).to_dict("records")
        if row["phase"] == "decode" and row["n_prompts"] and timed(row["row"])
    ]
    for model in model_names(record):
        own = [row for row in rows if row["model"] == model]
        if own:
            more = own[-1]["n_prompts"] - own[0]["n_prompts"]
            slope = (own[-1]["value"] - own[0]["value"]) / more if more else None
            found += [{**row, "slope_ms": slope} for row in own]
    return object_frame(found)


def decode_notes(record: RunRecord, setup: Setup, frame: Any) -> list[str]:
    """Notes of a plot of a decode frame."""
    models = unique(frame["model"])
    hollow = "Hollow: random weights on the exact architecture, whose time is the same"
    random = unique(frame["model"][frame["random"].astype(bool)])
    return [
        f"{setup.label}. Error bars: {bars_text(frame['spread'])}. Different kinds of decoding do "
        "different work: their times do not compare.",
        *queries.group_notes({hollow: random}),
        *without_times(record, models),
    ]


def without_times(record: RunRecord, models: Sequence[str]) -> list[str]:
    """A note on the models of a record that are not among those with times."""
    missing = [model for model in model_names(record) if model not in models]
    return queries.group_notes({"No such time in the table": missing})


def slope_text(slope_ms: float) -> str:
    """A slope as printed, such as `20.1 ms / prompt`; a slope below zero is printed as zero."""
    return f"{milliseconds(slope_ms)} / prompt" if slope_ms > 0 else "0 / prompt"


def accuracy_latency_frame(
    record: RunRecord, setup: Setup, protocol: Protocol
) -> tuple[Any, str, list[str]]:
    """Accuracy against latency, one row per model with both; label of the time; notes.

    Without rows if of networks and baselines with an accuracy, only baselines have a time.

    The time is that of `queries.steps_of`, the same for all models. Columns: model, value (mIoU in
    percent), low, high, ms, ms_low, ms_high, spread (of ms), run (that measured the time, in merged
    records), calls (least number in a phase; 0 if unknown), front (no other model is measurably
    faster and no less accurate: `queries.beats`), parameters (used in the forward pass; None if not
    counted), label (printed beside the point),
    size_px (of the network's input; None if unknown), curve (model whose style and line the points
    of several input sizes share; None for a single point).
    """
    models = model_names(record)
    rows_of = {model: queries.find_miou(record, protocol, model) for model in models}
    means = {model: queries.miou_percent(row) for model, row in rows_of.items()}
    accurate = {model: mean for model, mean in means.items() if mean is not None}
    left_out: dict[str, list[str]] = {}
    for model in list(accurate):
        found = rows_of[model]
        if found is not None and (why := queries.incomparable(record, found)) is not None:
            left_out.setdefault(f"Left out, {why}", []).append(model)
            del accurate[model]
    steps = queries.steps_of(record, setup, protocol.protocol, list(accurate))
    label, rows = steps.label, list[dict[str, Any]]()
    for model in accurate:
        if (time := steps.time(record, setup, model)) is not None:
            low, high = (None, None) if time.spread is None else time.spread.bounds
            row = {"model": model, "ms": time.ms, "ms_low": low, "ms_high": high}
            row |= {"spread": time.spread, "run": time.run, "calls": time.calls}
            row["parameters"] = queries.used_parameters(record, model)
            rows.append(row | _value(*accurate[model]))
    networks = {model for model in accurate if not queries.is_floor(record, model)}
    if networks and networks.isdisjoint(row["model"] for row in rows):
        rows = []
    points = [
        (own, queries.bounds_of(row["ms"], row["spread"]))
        for row in rows
        if (own := rows_of[row["model"]]) is not None
    ]
    for row, point in zip(rows, points, strict=True):
        row["front"] = not any(queries.beats(record, other, point) for other in points)
    shown = [row["model"] for row in rows]
    left_out |= queries.without_value(record, [model for model in models if means[model] is None])
    left_out[f"No time ({label}) in this setup"] = [m for m in accurate if m not in shown]
    notes = [*queries.shipped_models_notes(record, shown), *queries.group_notes(left_out)]
    if _join_input_sizes(record, rows):
        notes.insert(0, "Lines join the input sizes of one model; labels give the side in pixels.")
    return object_frame(rows), label, notes


def _join_input_sizes(record: RunRecord, rows: Sequence[dict[str, Any]]) -> bool:
    """Adds `label`, `size_px` and `curve` to rows of models; whether there is a curve."""
    names = short_names([row["model"] for row in rows])
    curves = queries.grouped((split_size(row["model"])[0], row) for row in rows)
    for base, points in curves.items():
        for index, row in enumerate(points):
            info = queries.model_row(record, row["model"])
            size = split_size(row["model"])[1] or (info.input_size_px if info else None)
            row |= {"label": names[row["model"]], "size_px": size, "curve": None}
            if len(points) > 1:
                text = f"{size} px" if size else "own size"
                row["label"] = text if index else f"{clean(base)}, {text}"
                row["curve"] = points[0]["model"]
    return len(curves) < len(rows)


def pareto_front(points: Any) -> Any:
    """Rows of an accuracy-latency frame that no other row beats, fastest first."""
    front = points[points["front"].astype(bool)]
    return front.sort_values(["ms", "value", "model"], ascending=[True, False, True])


def area_scale(points: Any, wanted_least: float, most: float) -> float:
    """Marker area per parameter, equal for all points; 0 without parameters.

    The smallest model gets the wanted area unless the largest one would exceed `most`.
    """
    sizes = [n for n in points["parameters"] if n]
    return min(wanted_least / min(sizes), most / max(sizes)) if sizes else 0.0


def error_bars_note(points: Any, reference: str) -> str:
    """Explains error bars, markers and the front of a plot of an accuracy-latency frame."""
    times = bars_text(points["spread"])
    same = times == "95 % interval"
    noun = queries.accuracy_name(reference)
    text = "95 % intervals" if same else f"95 % interval of {noun}, {times} of time"
    return (
        f"Error bars: {text}. Marker area: parameters used; hollow: none or an unknown number. "
        "Dashed: Pareto front: no other model is measurably faster and, to within a point, as "
        "accurate or more."
    )


def size_frame(record: RunRecord, protocol: Protocol) -> Any:
    """Accuracy over all objects and by size class, for the models with an accuracy.

    Columns: model, size ("all", "small", ...), miou (fraction), value (percent), low, high, n
    (objects; None if unknown). Values are None where a class holds no object.
    """
    rows = []
    for model in model_names(record):
        row = queries.find_miou(record, protocol, model)
        mean = queries.miou_percent(row)
        if row is None or mean is None or queries.is_own_reference(row):
            continue
        rows.append({"model": model, "size": "all", "miou": row.miou, "n": row.n_instances})
        rows[-1] |= _value(*mean)
        for size in ("small", "medium", "large"):
            miou, n = getattr(row.by_size, size), getattr(row.n_by_size, size)
            value = _value(None if miou is None else 100 * miou, None)
            rows.append({"model": model, "size": size, "miou": miou, "n": n, **value})
    return object_frame(rows)


def size_notes(record: RunRecord, protocol: Protocol, frame: Any) -> list[str]:
    """Notes of a plot of a size frame."""
    shown = unique(frame["model"])
    missing = {m: queries.find_miou(record, protocol, m) for m in model_names(record)}
    own = [m for m, row in missing.items() if row is not None and queries.is_own_reference(row)]
    without = [model for model in missing if model not in (*shown, *own)]
    return [
        f"Bars, of all objects alone: {INTERVALS}. Small < 32² ≤ medium < 96² ≤ large, in pixels "
        "of annotation area.",
        *queries.group_notes(
            {**queries.without_value(record, without), queries.OWN_REFERENCE: own}
        ),
        *queries.shipped_models_notes(record, shown),
    ]


def protocol_frame(record: RunRecord, group: Sequence[Protocol]) -> Any:
    """Accuracies under several protocols: columns model, protocol, value, low, high."""
    return object_frame(
        {"model": model, "protocol": protocol, **_value(*mean)}
        for model in model_names(record)
        for protocol in group
        if (row := queries.find_miou(record, protocol, model)) is not None
        and not queries.is_own_reference(row)
        and (mean := queries.miou_percent(row))
    )


def robustness_frames(record: RunRecord) -> dict[tuple[Protocol, str], Any]:
    """Accuracy by the percentage of disturbance, for each clean protocol and family with several.

    Columns: model, percent (0 for the clean prompt), value, low, high.
    """
    found: dict[tuple[Protocol, str], dict[float, Protocol]] = {}
    for row in record.robustness:
        disturbed = disturbance(row.protocol)
        if disturbed is not None:
            family, percent = disturbed
            clean = Protocol(row.dataset, row.reference, row.clean)
            protocols = found.setdefault((clean, family), {0.0: clean})
            protocols[percent] = queries.protocol_of(row)
    frames = {
        key: object_frame(
            {"model": model, "percent": percent, **_value(*mean)}
            for model in model_names(record)
            for percent, protocol in sorted(protocols.items())
            if (mean := queries.miou_percent(queries.find_miou(record, protocol, model)))
        )
        for key, protocols in found.items()
        if len(protocols) > 2
    }
    return {key: frame for key, frame in frames.items() if not frame.empty}


def robustness_note(clean: Protocol) -> str:
    """Explains a plot of a robustness frame."""
    return (
        f"0 %: {clean.protocol}, the undisturbed prompt. Bars: {INTERVALS}. "
        "The losses are paired by instance: their intervals, in the table of robustness, "
        "are narrower."
    )


DISTURBANCES = {
    "box-jitter": "Largest move of a side (% of the box)",
    "point-offset": "Largest move of the point (% of the box)",
}
"""Axis labels of the families of disturbed prompts."""


def percent_limits(values: Iterable[float]) -> tuple[float, float]:
    """Axis limits around values in percent: multiples of ten, widened by 2 for whole markers."""
    known = list(values) or [0.0]
    low = max(0, 10 * math.floor((min(known) - 3) / 10))
    high = min(100, 10 * math.ceil((max(known) + 3) / 10))
    return low - 2, high + 2


def machine_label(environment: Environment) -> str:
    """CPU, its features, GPUs, threads and allocator."""
    threads = f"{environment.threads} thread{'s' * (environment.threads != 1)}"
    features = [" ".join(environment.cpu_features)] if environment.cpu_features else []
    parts = (environment.cpu, *features, *environment.gpu, threads, environment.allocator)
    return clean(", ".join(parts))


def _time_conditions(run: RunRecord) -> str:
    """Conditions that must be equal for times of two runs to compare."""
    versions = run.environment.libraries
    libraries = (f"{name} {versions[name]}" for name in _RUNTIMES if name in versions)
    busy = [f"busy machine, run {run.id}"] if any(w.startswith(NOISY) for w in run.warnings) else []
    return clean(", ".join((machine_label(run.environment), *libraries, *busy)))


def _accuracy_conditions(row: MiouRow) -> str:
    """Data, prompts and weights, which must be equal for accuracies of two runs to compare."""
    hashes = {"prompts": row.manifest_sha256, "weights": row.weights.sha256}
    if row.reference_weights is not None:
        hashes["reference"] = row.reference_weights.sha256
    known = (f"{name} {sha256[: queries.SHA_DIGITS]}" for name, sha256 in hashes.items() if sha256)
    return ", ".join((f"{row.n_images:,} images, {row.n_instances:,} objects", *known))


def day(run: RunRecord) -> str:
    """Date of a run, such as `2026-11-24`."""
    try:
        return datetime.fromisoformat(run.created_utc).date().isoformat()
    except ValueError:
        return clean(run.created_utc)[:10]


def history_frames(
    runs: Sequence[RunRecord], models: Sequence[str]
) -> dict[tuple[str, Setup | Protocol], Any]:
    """Values of each quantity and its conditions that two runs or more measured.

    For times, machines are in the order of their first run, and the runs of each in the order of
    time; for accuracies, which hardly depend on it, there is one machine without a name.
    Columns: run (the `RunRecord`), model, machine, where (conditions that must be equal for values
    to share a line), value (ms or percent), low, high, spread.
    """
    by_time = sorted(runs, key=lambda run: (run.created_utc, run.id))
    by_machine = queries.grouped((machine_label(run.environment), run) for run in by_time)
    times = unique(setup for run in by_time for setup in queries.setups(run))
    accuracies = unique(p for run in by_time for p in queries.headline(run))
    keys: list[tuple[str, Setup | Protocol]] = [
        *((name, setup) for name, _, _ in HISTORY_TIMES for setup in times),
        *((queries.accuracy_name(protocol.reference), protocol) for protocol in accuracies),
    ]
    found: dict[tuple[str, Setup | Protocol], list[dict[str, Any]]] = {key: [] for key in keys}
    for machine, run in ((machine, run) for machine, own in by_machine.items() for run in own):
        where = _time_conditions(run)
        for model, setup in product((m for m in model_names(run) if m in models), times):
            same = {"run": run, "model": model, "machine": machine, "where": where}
            for name, phase, n in HISTORY_TIMES:
                time = timed(queries.find_latency(run, setup, model, phase, n))
                if time is not None:
                    found[name, setup].append(same | _time(*time))
    for run in by_time:
        for model, protocol in product((m for m in model_names(run) if m in models), accuracies):
            row = queries.find_miou(run, protocol, model)
            mean = queries.miou_percent(row)
            if row is None or mean is None or queries.is_own_reference(row):
                continue
            spread = None if mean[1] is None else Spread(mean[1], is_range=False)
            where = ", ".join(
                filter(None, (_accuracy_conditions(row), run.config.get("precision")))
            )
            same = {"run": run, "model": model, "machine": "", "where": where}
            key = queries.accuracy_name(protocol.reference), protocol
            found[key].append(same | _time(mean[0], spread))
    return {
        key: object_frame(own)
        for key, own in found.items()
        if len({row["run"].id for row in own}) >= 2
    }
