"""Every plot of a record, as SVG and PNG. A plot with nothing to show leaves no file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.prompts.protocols import reference_model
from benchmarks.records.record import LatencyRow, ParamsRow, RunRecord
from benchmarks.report.accuracy_plot import accuracy_figure
from benchmarks.report.decode_plot import decode_figure
from benchmarks.report.panels import Dot, Panel, panel_figure
from benchmarks.report.protocol_plot import clicks_figure, percent_limits, protocols_figure
from benchmarks.report.style import plot_style, save_figure
from benchmarks.tables.columns import bars_text
from benchmarks.tables.formatting import milliseconds, number, percent, shorten, slug
from benchmarks.tables.record_queries import (
    WHOLE_MODEL,
    Protocol,
    Setup,
    find_miou,
    has_random_weights,
    headline,
    miou_percent,
    model_names,
    phase_order,
    protocols,
    setup_of,
    setups,
    shipped_models_notes,
    spread_of,
    unique,
    used_parameters,
)

REASON_LENGTH = 160
SUFFIXES = ("svg", "png")
"""Kinds of files that `save_figure` writes."""
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
    """Plots times by phase, one panel for each phase, on one log axis, with intervals or ranges."""
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
    bars = bars_text(spread_of(row) for row in rows)
    notes = [f"{setup.label}. Dots: medians; bars: their {bars}, often inside of the dot."]
    notes += _random_note(record, models, "time is") + _reasons(rows)
    notes += shipped_models_notes(record, models)
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
    spread = spread_of(row)
    bounds = None if spread is None else spread.bounds
    return Dot(row.median_ms, milliseconds(row.median_ms), bounds, hollow)


def size_figure(record: RunRecord, protocol: Protocol) -> Any | None:
    """Accuracy over all objects and by their size; None where no model has an accuracy."""
    rows = {model: find_miou(record, protocol, model) for model in model_names(record)}
    accurate = {model: row for model, row in rows.items() if row and miou_percent(row)}
    if not accurate:
        return None
    everything = {}
    for model, row in accurate.items():
        value, bounds = miou_percent(row) or (0.0, None)
        everything[model] = Dot(value, percent(value / 100), bounds)
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
    notes += shipped_models_notes(record, accurate)
    return panel_figure(
        f"mIoU by object size: {protocol.label}",
        panels,
        list(accurate),
        "mIoU (%)",
        notes=notes,
        linear=percent_limits(_values(panels)),
        columns=len(panels),
    )


def _counted(title: str, counts: Sequence[float | None]) -> str:
    """Adds the number of objects where all models were scored on equally many."""
    if len(counts) == 1 and counts[0] is not None:
        return f"{title}, n = {counts[0]:.0f}"
    return title


def _values(panels: Sequence[Panel]) -> list[float]:
    """All values of dots, and the ends of their bars."""
    dots = [dot for panel in panels for dot in panel.dots.values() if isinstance(dot, Dot)]
    return [value for dot in dots for value in (dot.value, *(dot.bounds or ()))]


def _has_dots(panels: Sequence[Panel]) -> bool:
    dots = (dot for panel in panels for dot in panel.dots.values())
    return any(isinstance(dot, Dot) and dot.value > 0 for dot in dots)


def _random_note(record: RunRecord, models: Sequence[str], what: str) -> list[str]:
    hollow = any(has_random_weights(record, model) for model in models)
    return [HOLLOW.format(what=what)] if hollow else []


def write_plots(record: RunRecord, folder: Path) -> list[Path]:
    """Writes `plots/NAME.svg` and `.png` for all that the record holds.

    Times of different devices, precisions or thread counts, and accuracies of different
    protocols (those of `headline`), each get a file of their own; where that leaves protocols out,
    `protocols-REFERENCE` shows all of them.

    Args:
        record: One run, or several that `merge_records` joined.
        folder: Made where absent; older files of the same names are replaced.

    Returns:
        The files, in the order of writing.

    Raises:
        DataError: The folder cannot be written.
    """
    written: list[Path] = []
    with plot_style():
        for stem, figure in _figures(record):
            written += save_figure(figure, folder / "plots", stem)
    return written


def plot_names(record: RunRecord) -> list[str]:
    """Names of the files that `write_plots` writes, without writing them."""
    with plot_style():
        stems = [stem for stem, _ in _figures(record)]
    return [f"{stem}.{suffix}" for stem in stems for suffix in SUFFIXES]


def _figures(record: RunRecord) -> Iterator[tuple[str, Any]]:
    """Every plot that has something to show, with the stem of its files."""
    for stem, make in _jobs(record):
        figure = make()
        if figure is not None:
            yield stem, figure


def _jobs(record: RunRecord) -> list[tuple[str, Callable[[], Any | None]]]:
    """The stem of every plot, and what draws it or finds that there is nothing to draw."""
    jobs: list[tuple[str, Callable[[], Any | None]]] = [("params", partial(params_figure, record))]
    timed, scored = setups(record), headline(record)
    stems = _stems(protocols(record))
    for setup in timed:
        suffix = f"-{slug(setup.label)}" if len(timed) > 1 else ""
        jobs.append((f"latency{suffix}", partial(latency_figure, record, setup)))
        jobs.append((f"decode{suffix}", partial(decode_figure, record, setup)))
        jobs += [
            (f"accuracy-latency-{stems[p]}{suffix}", partial(accuracy_figure, record, setup, p))
            for p in scored
        ]
    jobs += [(f"size-{stems[p]}", partial(size_figure, record, p)) for p in scored]
    return jobs + _overviews(record)


def _overviews(record: RunRecord) -> list[tuple[str, Callable[[], Any | None]]]:
    """Plots of all protocols of one dataset and reference."""
    found = protocols(record)
    groups = [
        [p for p in found if (p.dataset, p.reference) == part]
        for part in unique((p.dataset, p.reference) for p in found)
    ]
    datasets = unique(p.dataset for p in found)
    names = _distinct([("protocols", g[0].reference, *_dataset(g[0], datasets)) for g in groups])
    clicks = _distinct([("clicks", *_where(g[0], datasets)) for g in groups])
    return [
        *((n, partial(protocols_figure, record, g)) for n, g in zip(names, groups, strict=True)),
        *((n, partial(clicks_figure, record, g)) for n, g in zip(clicks, groups, strict=True)),
    ]


def _stems(scored: Sequence[Protocol]) -> dict[Protocol, str]:
    """The protocol's name, with a teacher's, and the dataset's where there are several."""
    datasets = unique(p.dataset for p in scored)
    stems = _distinct([(p.protocol, *_where(p, datasets)) for p in scored])
    return dict(zip(scored, stems, strict=True))


def _where(protocol: Protocol, datasets: Sequence[str]) -> tuple[str, ...]:
    teacher = () if reference_model(protocol.reference) is None else (protocol.reference,)
    return (*teacher, *_dataset(protocol, datasets))


def _dataset(protocol: Protocol, datasets: Sequence[str]) -> tuple[str, ...]:
    return (protocol.dataset,) if len(datasets) > 1 else ()


def _distinct(names: Sequence[Sequence[str]]) -> list[str]:
    """Parts of file names, made of the parts of names; numbered where two would be the same."""
    stems: list[str] = []
    for parts in names:
        stem = "-".join(slug(part) for part in parts)
        stems.append(f"{stem}-{len(stems)}" if stem in stems else stem)
    return stems
