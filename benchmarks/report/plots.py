"""Every plot of a record, as SVG and PNG. A plot with nothing to show leaves no file."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.records import LatencyRow, ParamsRow, RunRecord
from benchmarks.report.accuracy_plot import accuracy_figure
from benchmarks.report.cells import percent
from benchmarks.report.decode_plot import decode_figure
from benchmarks.report.formatting import milliseconds, number, shorten, slug
from benchmarks.report.panels import Dot, Panel, panel_figure
from benchmarks.report.style import plot_style, save_figure
from benchmarks.report.view import (
    WHOLE_MODEL,
    Protocol,
    Setup,
    find_miou,
    has_accuracy,
    has_random_weights,
    model_names,
    phase_order,
    protocols,
    setup_of,
    setups,
    unique,
    used_parameters,
)

REASON_LENGTH = 160
SIZES = ("small", "medium", "large")
HOLLOW = "Hollow: random weights on the exact architecture, whose {what} the same."


def params_figure(record: RunRecord) -> Any | None:
    """Parameters used, a panel a component, on a log axis: dots, since bars on one have no base."""
    components = unique(row.component for row in record.params if row.component not in WHOLE_MODEL)
    models = model_names(record)
    whole: dict[str, Dot | str] = {}
    for model in models:
        used = used_parameters(record, model)
        whole[model] = "not counted" if used is None else _count(record, model, used)
    panels = [Panel("whole model", whole)]
    panels += [Panel(name, _component(record, name, models)) for name in components]
    if not _has_dots(panels):
        return None
    return panel_figure(
        "Parameters used in the forward pass",
        panels,
        models,
        "10^6 parameters (log scale)",
        notes=_random_note(record, models, "size is"),
    )


def _component(record: RunRecord, component: str, models: Sequence[str]) -> dict[str, Dot | str]:
    rows: dict[str, ParamsRow] = {r.model: r for r in record.params if r.component == component}
    found: dict[str, Dot | str] = {}
    for model in models:
        row = rows.get(model)
        if row is None:
            found[model] = "-"
            continue
        found[model] = row.status if row.used is None else _count(record, model, row.used)
    return found


def _count(record: RunRecord, model: str, used: int) -> Dot | str:
    if used == 0:
        return "none"
    return Dot(used / 1e6, number(used / 1e6), hollow=has_random_weights(record, model))


def latency_figure(record: RunRecord, setup: Setup) -> Any | None:
    """Times by phase, a panel a phase, on one log axis, with 95 % intervals."""
    rows = [row for row in record.latency if setup_of(row) == setup]
    models = unique(model for model in model_names(record) if any(r.model == model for r in rows))
    keys = unique((row.phase, row.n_prompts) for row in sorted(rows, key=phase_order))
    panels = []
    for phase, n_prompts in keys:
        same = {r.model: r for r in rows if (r.phase, r.n_prompts) == (phase, n_prompts)}
        title = _phase_title(phase, n_prompts)
        panel = Panel(title, {model: _time(record, row) for model, row in same.items()})
        if _has_dots([panel]):  # a phase that nobody could be timed in is told in the notes
            panels.append(panel)
    if not panels:
        return None
    notes = [f"{setup.label}. Dots: medians; bars: their 95 % intervals, often inside of the dot."]
    notes += _random_note(record, models, "time is") + _reasons(rows)
    return panel_figure("Latency by phase", panels, models, "ms (log scale)", notes=notes)


def _reasons(rows: Sequence[LatencyRow]) -> list[str]:
    """One note for each reason why times are missing, with the models that it holds for."""
    found: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        if row.status != "ok":
            found.setdefault((row.status, row.why or "no reason recorded"), []).append(row.model)
    return [
        f"{status}, {', '.join(unique(models))}: {shorten(why, REASON_LENGTH)}."
        for (status, why), models in found.items()
    ]


def _phase_title(phase: str, n_prompts: int | None) -> str:
    name = phase.replace("_", " ")
    if n_prompts is None or phase not in ("decode", "postprocess"):
        return name
    return f"{name}, {n_prompts} prompt{'s' * (n_prompts != 1)}"


def _time(record: RunRecord, row: LatencyRow) -> Dot | str:
    if row.status != "ok" or row.median_ms is None:
        return row.status
    hollow = row.weights == "random" or has_random_weights(record, row.model)
    return Dot(row.median_ms, milliseconds(row.median_ms), row.ci95_ms, hollow)


def size_figure(record: RunRecord, protocol: Protocol) -> Any | None:
    """Accuracy over all objects and by their size; None where no model has an accuracy."""
    rows = {model: find_miou(record, protocol, model) for model in model_names(record)}
    accurate = {model: row for model, row in rows.items() if row and has_accuracy(row)}
    if not accurate:
        return None
    everything = {
        model: Dot(100 * (row.miou or 0), percent(row.miou or 0), _percent_bounds(row.ci95))
        for model, row in accurate.items()
    }
    n_all = unique(row.n_instances for row in accurate.values())
    panels = [Panel(_counted("all", n_all), everything)]
    for size in SIZES:
        values = {model: getattr(row.by_size, size) for model, row in accurate.items()}
        counts = unique(getattr(row.n_by_size, size) for row in accurate.values())
        dots: dict[str, Dot | str] = {
            model: "no object" if value is None else Dot(100 * value, percent(value))
            for model, value in values.items()
        }
        panels.append(Panel(_counted(size, counts), dots))
    missing = [model for model in rows if model not in accurate]
    notes = [
        "Bars: 95 % bootstrap interval over images. Small < 32^2 <= medium < 96^2 <= large, in "
        "pixels of annotation area."
    ]
    if missing:
        notes.append(f"No accuracy under this protocol: {', '.join(missing)}.")
    return panel_figure(
        f"mIoU by object size: {protocol.label}",
        panels,
        list(accurate),
        "mIoU (%)",
        notes=notes,
        linear=_percent_limits(panels),
        columns=len(panels),
    )


def _counted(title: str, counts: Sequence[float | None]) -> str:
    """Adds the number of objects where all models were scored on equally many."""
    if len(counts) == 1 and counts[0] is not None:
        return f"{title}, n = {counts[0]:.0f}"
    return title


def _percent_limits(panels: Sequence[Panel]) -> tuple[float, float]:
    """Multiples of ten around all dots and bars; dots, unlike bars, need no zero."""
    dots = [dot for panel in panels for dot in panel.dots.values() if isinstance(dot, Dot)]
    values = [value for dot in dots for value in (dot.value, *(dot.bounds or ()))]
    low = max(0, 10 * math.floor((min(values) - 3) / 10))
    high = min(100, 10 * math.ceil((max(values) + 3) / 10))
    # A dot that lies on the end of the axis is shown whole.
    return low - 2, high + 2


def _percent_bounds(bounds: tuple[float, float] | None) -> tuple[float, float] | None:
    return None if bounds is None else (100 * bounds[0], 100 * bounds[1])


def _has_dots(panels: Sequence[Panel]) -> bool:
    dots = (dot for panel in panels for dot in panel.dots.values())
    return any(isinstance(dot, Dot) and dot.value > 0 for dot in dots)


def _random_note(record: RunRecord, models: Sequence[str], what: str) -> list[str]:
    hollow = any(has_random_weights(record, model) for model in models)
    return [HOLLOW.format(what=what)] if hollow else []


def write_plots(record: RunRecord, folder: Path) -> list[Path]:
    """Writes `plots/NAME.svg` and `.png` for all that the record holds.

    Times of different devices, precisions or thread counts, and accuracies of different
    protocols, each get a file of their own.

    Args:
        record: One run, or several that `merge_records` joined.
        folder: Made where absent; older files of the same names are replaced.

    Returns:
        The files, in the order of writing.

    Raises:
        DataError: The folder cannot be written.
    """
    jobs: list[tuple[str, Callable[[], Any | None]]] = [("params", partial(params_figure, record))]
    timed, scored = setups(record), protocols(record)
    for setup in timed:
        suffix = f"-{slug(setup.label)}" if len(timed) > 1 else ""
        jobs.append((f"latency{suffix}", partial(latency_figure, record, setup)))
        jobs.append((f"decode{suffix}", partial(decode_figure, record, setup)))
        jobs += [
            (
                f"accuracy-latency-{_stem(scored, p)}{suffix}",
                partial(accuracy_figure, record, setup, p),
            )
            for p in scored
        ]
    jobs += [(f"size-{_stem(scored, p)}", partial(size_figure, record, p)) for p in scored]
    written: list[Path] = []
    with plot_style():
        for stem, make in jobs:
            figure = make()
            if figure is not None:
                written += save_figure(figure, folder / "plots", stem)
    return written


def _stem(scored: Sequence[Protocol], protocol: Protocol) -> str:
    """The protocol's name, with dataset and reference where the record holds several of these."""
    stems: list[str] = []
    several = len({(p.dataset, p.reference) for p in scored}) > 1
    for p in scored:
        parts = (p.protocol, p.reference, p.dataset) if several else (p.protocol,)
        stem = "-".join(slug(part) for part in parts)
        stems.append(f"{stem}-{len(stems)}" if stem in stems else stem)
    return stems[list(scored).index(protocol)]
