"""Static plots of a record by matplotlib, as SVG and PNG files that are equal to the byte."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.prompts.protocols import reference_model
from benchmarks.records.record import LatencyRow, RunRecord
from benchmarks.records.statistics import Float64Array
from benchmarks.report.frames import (
    accuracy_latency_frame,
    area_scale,
    decode_frame,
    decode_notes,
    error_bars_note,
    latency_frame,
    pareto_front,
    percent_limits,
    protocol_frame,
    size_frame,
    size_notes,
    slope_text,
    values_of,
)
from benchmarks.report.labels import nearest_point, place_labels, spread
from benchmarks.report.style import (
    GRID,
    INK,
    MUTED,
    ModelStyle,
    log_axis,
    model_styles,
    new_figure,
    plain,
    plot_style,
    save_figure,
    short_names,
)
from benchmarks.tables.columns import bars_text
from benchmarks.tables.formatting import milliseconds, number, percent, shorten, slug
from benchmarks.tables.record_queries import (
    MOST_HEADLINES,
    WHOLE_MODEL,
    Bounds,
    Protocol,
    Setup,
    find_miou,
    has_random_weights,
    headline,
    miou_percent,
    model_names,
    protocols,
    setup_of,
    setups,
    shipped_models_notes,
    unique,
    used_parameters,
)

SUFFIXES = ("svg", "png")
"""Suffixes of the files that `save_figure` writes."""
HOLLOW = "Hollow: random weights on the exact architecture, whose {what} the same."
KIND_MARKERS = {"decoder": "o", "select": "s", "classical": "^"}
"""Markers of decode kinds."""
COLUMNS, ROW_IN = 3, 0.19
"""Panels side by side, and height of one model in a panel."""
MOST_AREA_PT2, WANTED_LEAST_AREA_PT2, CROSS_AREA_PT2 = 1600.0, 120.0, 64.0
LEADER_PT, LINE_PT, MARKER_PT = 26, 13, 5
MODEL_IN = 0.085
"""Height of one model in the row of a protocol."""
LEGEND_LENGTH = 120
"""Characters of 8 points that fit side by side above the axes."""
_CLICKS = re.compile(r"clicks-([1-9]\d*)")


def write_plots(record: RunRecord, folder: Path) -> list[Path]:
    """Writes `plots/NAME.svg` and `.png` for everything that the record holds.

    Times of different devices, precisions or thread counts and accuracies of different protocols
    (those of `headline`) get separate files; if there are further protocols,
    `protocols-REFERENCE` shows all of them.

    Args:
        record: One run, or several that `merge_records` joined.
        folder: Created if missing; older files of the same names are replaced.

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


def draw_plot(record: RunRecord, kind: str) -> Any | None:
    """Draws the first plot of a kind, such as `latency`; None if the record has nothing for it."""
    with plot_style():
        return next(
            (
                figure
                for stem, figure in _figures(record)
                if stem == kind or stem.startswith(f"{kind}-")
            ),
            None,
        )


def plot_names(record: RunRecord) -> list[str]:
    """Names of the files that `write_plots` writes, without writing them."""
    with plot_style():
        stems = [stem for stem, _ in _figures(record)]
    return [f"{stem}.{suffix}" for stem in stems for suffix in SUFFIXES]


def _figures(record: RunRecord) -> Iterator[tuple[str, Any]]:
    """Stem of the files and figure of every plot that has something to show."""
    jobs: list[tuple[str, Callable[[], Any | None]]] = [("params", partial(params_figure, record))]
    timed, scored, found = setups(record), headline(record), protocols(record)
    stems = _protocol_stems(found)
    for setup in timed:
        suffix = f"-{slug(setup.label)}" if len(timed) > 1 else ""
        jobs.append((f"latency{suffix}", partial(latency_figure, record, setup)))
        jobs.append((f"decode{suffix}", partial(decode_figure, record, setup)))
        jobs += [
            (f"accuracy-latency-{stems[p]}{suffix}", partial(accuracy_figure, record, setup, p))
            for p in scored
        ]
    jobs += [(f"size-{stems[p]}", partial(size_figure, record, p)) for p in scored]
    parts = unique((p.dataset, p.reference) for p in found)
    groups = [[p for p in found if (p.dataset, p.reference) == part] for part in parts]
    datasets = unique(p.dataset for p in found)
    names = _stems([("protocols", *_qualifiers(g[0], datasets, named=True)) for g in groups])
    clicks = _stems([("clicks", *_qualifiers(g[0], datasets)) for g in groups])
    for group_stems, draw in ((names, protocols_figure), (clicks, clicks_figure)):
        pairs = zip(group_stems, groups, strict=True)
        jobs += [(stem, partial(draw, record, group)) for stem, group in pairs]
    for stem, make in jobs:
        figure = make()
        if figure is not None:
            yield stem, figure


def _protocol_stems(found: Sequence[Protocol]) -> dict[Protocol, str]:
    datasets = unique(p.dataset for p in found)
    stems = _stems([(p.protocol, *_qualifiers(p, datasets)) for p in found])
    return dict(zip(found, stems, strict=True))


def _qualifiers(
    protocol: Protocol, datasets: Sequence[str], *, named: bool = False
) -> tuple[str, ...]:
    """The reference if it is a model or `named`, and the dataset if there are several."""
    shown = named or reference_model(protocol.reference) is not None
    reference = (protocol.reference,) if shown else ()
    return (*reference, *((protocol.dataset,) if len(datasets) > 1 else ()))


def _stems(names: Sequence[Sequence[str]]) -> list[str]:
    """Distinct stems of files from the parts of names, numbered if two would be equal."""
    stems: list[str] = []
    for parts in names:
        stem = "-".join(slug(part) for part in parts)
        stems.append(f"{stem}-{len(stems)}" if stem in stems else stem)
    return stems


@dataclass(frozen=True, slots=True)
class Dot:
    """One value of one model in a panel, with the text beside it and the ends of its error bar.

    A hollow dot was measured with random weights. On a log axis only positive values are drawn.
    """

    value: float
    text: str
    bounds: Bounds | None = None
    hollow: bool = False


@dataclass(frozen=True, slots=True)
class Panel:
    """One quantity: a dot for each model, or text in its place."""

    title: str
    dots: Mapping[str, Dot | str]

    @property
    def drawn(self) -> list[Dot]:
        """The dots."""
        return [dot for dot in self.dots.values() if isinstance(dot, Dot)]


def panel_figure(
    title: str,
    panels: Sequence[Panel],
    models: Sequence[str],
    x_label: str,
    *,
    notes: Sequence[str] = (),
    linear: tuple[float, float] | None = None,
    columns: int = COLUMNS,
) -> Any:
    """Draws panels of dots that share both axes, with every value printed.

    Args:
        title: Title of the figure.
        panels: At least one, with at least one positive dot among them.
        models: Lines from top to bottom.
        x_label: Quantity and unit.
        notes: Printed below.
        linear: Limits of a linear axis; by default it is logarithmic.
        columns: Most panels side by side.

    Returns:
        The matplotlib figure.
    """
    columns = 2 if len(panels) == 4 and linear is None else min(len(panels), columns)
    n_rows = -(-len(panels) // columns)
    figure = new_figure(0.55 + n_rows * (0.62 + ROW_IN * len(models)), title, notes)
    grid = figure.subplots(n_rows, columns, sharex=True, sharey=True, squeeze=False)
    flat = grid.ravel()
    for ax, panel in zip(flat, panels, strict=False):
        _draw_panel(ax, panel, models)
    for ax in flat[len(panels) :]:
        ax.set_visible(False)
    flat[0].set_ylim(len(models) - 0.4, -0.6)
    if linear is None:
        dots = [dot for panel in panels for dot in panel.drawn]
        values = [x for dot in dots for x in (dot.value, *(dot.bounds or ())) if x > 0]
        ticks = 4 if len(panels) > 1 else 9
        log_axis(flat[0].xaxis, min(values), max(values), ticks=ticks)
    else:
        flat[0].set_xlim(*linear)
    flat[0].set_yticks(range(len(models)), list(short_names(models).values()))
    for index in range(max(0, len(panels) - columns), len(panels)):
        flat[index].set_xlabel(x_label)
        # A panel above an empty place of the grid is the last of its column.
        flat[index].tick_params(axis="x", labelbottom=True)
    return figure


def _draw_panel(ax: Any, panel: Panel, models: Sequence[str]) -> None:
    styles = model_styles(models)
    ax.set_title(panel.title, loc="left", fontweight="bold")
    ax.grid(visible=True, axis="x")
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    for line, model in enumerate(models):
        ax.axhline(line, color=GRID, linewidth=0.7, zorder=0)
        dot = panel.dots.get(model, "")
        # Printed beside the panel, where no dot can be.
        ax.annotate(
            dot if isinstance(dot, str) else dot.text,
            (1, line),
            xycoords=ax.get_yaxis_transform(),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
            color=MUTED if isinstance(dot, str) else INK,
            annotation_clip=False,
        )
        if isinstance(dot, str):
            continue
        color = styles[model].color
        if dot.bounds is not None:
            ax.plot(dot.bounds, (line, line), color=color, linewidth=1.6, alpha=0.8)
        ax.plot(
            dot.value,
            line,
            linestyle="none",
            marker=styles[model].marker,
            markersize=5,
            color=color,
            markerfacecolor="white" if dot.hollow else color,
            markeredgewidth=1.4,
        )


def _has_dots(panels: Sequence[Panel]) -> bool:
    return any(dot.value > 0 for panel in panels for dot in panel.drawn)


def _random_note(record: RunRecord, models: Sequence[str], what: str) -> list[str]:
    hollow = any(has_random_weights(record, model) for model in models)
    return [HOLLOW.format(what=what)] if hollow else []


def params_figure(record: RunRecord) -> Any | None:
    """Parameters used in the forward pass, a panel for every component, on a log axis."""
    models = model_names(record)

    def count(model: str, used: int) -> Dot | str:
        if used == 0:
            return "none"
        return Dot(used / 1e6, number(used / 1e6), hollow=has_random_weights(record, model))

    whole: dict[str, Dot | str] = {}
    for model in models:
        used = used_parameters(record, model)
        whole[model] = "not counted" if used is None else count(model, used)
    panels = [Panel("whole model", whole)]
    for name in unique(row.component for row in record.params):
        if name not in WHOLE_MODEL:
            dots: dict[str, Dot | str] = dict.fromkeys(models, "-")
            for row in record.params:
                if row.component == name:
                    dots[row.model] = row.status if row.used is None else count(row.model, row.used)
            panels.append(Panel(name, dots))
    if not _has_dots(panels):
        return None
    return panel_figure(
        "Parameters used in the forward pass",
        panels,
        models,
        "10^6 parameters (log scale)",
        notes=_random_note(record, models, "size is"),
    )


def latency_figure(record: RunRecord, setup: Setup) -> Any | None:
    """Times by phase, a panel for every phase, with intervals or ranges."""
    frame = latency_frame(record, setup)
    models = [model for model in model_names(record) if model in set(frame["model"])]
    panels = []
    for phase, n_prompts in unique(zip(frame["phase"], frame["n_prompts"], strict=True)):
        title = phase.replace("_", " ")
        if n_prompts is not None and phase in ("decode", "postprocess"):
            title = f"{title}, {n_prompts} prompt{'s' * (n_prompts != 1)}"
        dots: dict[str, Dot | str] = {}
        for r in frame.itertuples():
            if (r.phase, r.n_prompts) == (phase, n_prompts):
                dots[r.model] = r.row.status
                if r.value is not None:
                    dots[r.model] = Dot(r.value, milliseconds(r.value), r.bounds, r.random)
        panel = Panel(title, dots)
        if _has_dots([panel]):  # a phase without any time is explained in the notes
            panels.append(panel)
    if not panels:
        return None
    notes = [
        f"{setup.label}. Dots: medians; bars: their {bars_text(frame['spread'])}, often inside of "
        "the dot.",
        *_random_note(record, models, "time is"),
        *_reasons([row for row in record.latency if setup_of(row) == setup]),
        *shipped_models_notes(record, models),
    ]
    return panel_figure("Latency by phase", panels, models, "ms (log scale)", notes=notes)


def _reasons(rows: Sequence[LatencyRow]) -> list[str]:
    """One note for each reason for missing times, with its models."""
    found: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        if row.status != "ok":
            found.setdefault((row.status, row.why or "no reason recorded"), []).append(row.model)
    return [
        f"{status}, {', '.join(unique(models))}: {shorten(why, 160)}."
        for (status, why), models in found.items()
    ]


def size_figure(record: RunRecord, protocol: Protocol) -> Any | None:
    """Accuracy over all objects and by size class; None without an accuracy."""
    frame = size_frame(record, protocol)
    if frame.empty:
        return None
    panels = []
    for size, part in frame.groupby("size", sort=False):
        counts = unique(part["n"])
        known = len(counts) == 1 and counts[0] is not None
        dots: dict[str, Dot | str] = {}
        for r in part.itertuples():
            dots[r.model] = "no object"
            if r.value is not None:
                dots[r.model] = Dot(r.value, percent(r.value / 100), r.bounds)
        panels.append(Panel(f"{size}, n = {counts[0]:.0f}" if known else str(size), dots))
    models = unique(frame["model"])
    return panel_figure(
        f"mIoU by object size: {protocol.label}",
        panels,
        models,
        "mIoU (%)",
        notes=size_notes(record, frame),
        linear=percent_limits(values_of(frame)),
        columns=len(panels),
    )


def decode_figure(record: RunRecord, setup: Setup) -> Any | None:
    """Decode time against the number of prompts on log axes; None without times."""
    from matplotlib.lines import Line2D

    frame = decode_frame(record, setup)
    if frame.empty:
        return None
    models = unique(frame["model"])
    notes = [*decode_notes(record, setup, frame), "Beside the names: cost of one more prompt."]
    height_in = max(3.6, 1.4 + 0.2 * len(models))
    figure = new_figure(height_in, "Decode time by number of prompts", notes)
    ax = figure.subplots()
    times = [time for time in values_of(frame) if time > 0]
    log_axis(ax.yaxis, min(times), max(times), ticks=9)
    log_axis(ax.xaxis, min(frame["n_prompts"]), max(frame["n_prompts"]), ticks=6)
    ax.set_xlabel("Prompts in one call (log scale)")
    ax.set_ylabel("Decode (ms, log scale)")
    ax.grid(visible=True)
    styles = model_styles(model_names(record))
    for model, part in frame.groupby("model", sort=False):
        color = styles[str(model)].color
        ax.errorbar(
            part["n_prompts"].tolist(),
            part["value"].tolist(),
            yerr=_lengths(part["value"], part["low"], part["high"]),
            color=color,
            linestyle=styles[str(model)].dash,
            linewidth=1.6,
            capsize=2.5,
            marker=KIND_MARKERS[part["row"].iloc[0].decode_kind or "decoder"],
            markersize=6,
            markeredgewidth=1.4,
            markerfacecolor="white" if part["random"].iloc[0] else color,
        )
    kinds = unique(row.decode_kind for row in frame["row"] if row.decode_kind)
    look: dict[str, Any] = {"linestyle": "none", "color": MUTED}
    _legend(ax, [Line2D([], [], marker=KIND_MARKERS[k], label=k, **look) for k in kinds])
    _name_lines(figure, ax, frame, styles)
    return figure


def _lengths(values: Any, lows: Any, highs: Any) -> list[list[float]]:
    """Lengths of error bars below and above values, zero without an end."""
    rows = list(zip(values, lows, highs, strict=True))
    return [
        [0.0 if low is None else max(0.0, value - low) for value, low, _ in rows],
        [0.0 if high is None else max(0.0, high - value) for value, _, high in rows],
    ]


def _legend(ax: Any, handles: Sequence[Any], place: str = "lower left", **look: Any) -> None:
    """A legend above the axes, in one row by default."""
    anchor = (0, 1) if place == "lower left" else (1, 1)
    look = {"ncols": len(handles), "frameon": False, "fontsize": 8, "borderaxespad": 0, **look}
    ax.legend(handles=handles, loc=place, bbox_to_anchor=anchor, **look)


def _name_lines(figure: Any, ax: Any, frame: Any, styles: Mapping[str, ModelStyle]) -> None:
    """Writes names and slopes beside the axes, each joined to the end of its line."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    last = frame.groupby("model", sort=False).tail(1)
    names = short_names(list(last["model"]))
    labels = [
        ax.text(
            0,
            0,
            names[r.model] + ("" if r.slope_ms is None else f"  {slope_text(r.slope_ms)}"),
            va="center",
            fontsize=9,
            color=INK,
        )
        for r in last.itertuples()
    ]
    # The axes get narrower by the width of the widest label and its leader line.
    renderer = figure.canvas.get_renderer()
    widest = max(label.get_window_extent(renderer).width for label in labels)
    needed = (widest + (LEADER_PT + 6) * figure.dpi / 72) / figure.bbox.width
    place = ax.get_position()
    ax.set_position((place.x0, place.y0, 1 - needed - place.x0, place.height))
    inverse = ax.transAxes.inverted().transform
    ends = [
        inverse(ax.transData.transform(end))
        for end in zip(last["n_prompts"], last["value"], strict=True)
    ]
    box = ax.get_window_extent()
    gap = LINE_PT * figure.dpi / 72 / box.height
    heights = spread([float(end[1]) for end in ends], gap, 0.02, 0.98)
    left = 1 + LEADER_PT * figure.dpi / 72 / box.width
    for model, label, end, height in zip(last["model"], labels, ends, heights, strict=True):
        label.set_transform(ax.transAxes)
        label.set_position((left, height))
        ax.plot(
            (end[0], left - 0.01),
            (end[1], height),
            color=styles[model].color,
            linewidth=0.8,
            zorder=1,
            transform=ax.transAxes,
            clip_on=False,
        )


def accuracy_figure(record: RunRecord, setup: Setup, protocol: Protocol) -> Any | None:
    """Accuracy against latency with the Pareto front; None without points.

    The marker area is proportional to the parameters used.
    """
    points, label, notes = accuracy_latency_frame(record, setup, protocol)
    if points.empty:
        return None
    notes = [f"{setup.label}. {error_bars_note(points)}", *notes]
    figure = new_figure(4.3, f"mIoU against latency: {protocol.label}", notes)
    ax = figure.subplots()
    ax.grid(visible=True)
    times = [ms for name in ("ms", "ms_low", "ms_high") for ms in points[name] if ms]
    # Room for names beside the outermost points.
    log_axis(ax.xaxis, min(times) / 1.3, max(times) * 1.3, ticks=9)
    values = values_of(points)
    pad = max(3.0, 0.15 * (max(values) - min(values)))
    ax.set_ylim(min(values) - pad, max(values) + pad)
    ax.set_xlabel(f"Latency, {label} (ms, log scale)")
    ax.set_ylabel("mIoU (%)")
    corners: list[tuple[float, float]] = []
    for r in pareto_front(points).itertuples():
        corners += [(r.ms, corners[-1][1])] if corners else []
        corners.append((r.ms, r.value))
    corners.append((ax.get_xlim()[1], corners[-1][1]))
    if len(points) > 1:
        ax.plot(*zip(*corners, strict=True), color=MUTED, lw=1, linestyle=(0, (4, 2)), zorder=1)
    styles = model_styles(model_names(record))
    sizes = [n for n in points["parameters"] if n]
    scale = area_scale(points, WANTED_LEAST_AREA_PT2, MOST_AREA_PT2)
    areas = [scale * n if n else CROSS_AREA_PT2 for n in points["parameters"]]
    for r, area in zip(points.itertuples(), areas, strict=True):
        style = styles[r.model]
        ax.errorbar(
            r.ms,
            r.value,
            xerr=None if r.ms_low is None else _lengths([r.ms], [r.ms_low], [r.ms_high]),
            yerr=None if r.low is None else _lengths([r.value], [r.low], [r.high]),
            color=style.color,
            elinewidth=1.1,
            capsize=2,
            linestyle="none",
            zorder=4,
        )
        # Error bars are visible through a large marker; a small one is drawn on top of them.
        large = area > 2 * WANTED_LEAST_AREA_PT2
        ax.scatter(
            r.ms,
            r.value,
            s=area,
            color=style.color,
            marker=style.marker if r.parameters else "x",
            alpha=0.5 if large else 1,
            linewidths=0 if r.parameters else 1.8,
            zorder=3 if large else 5,
        )
    if sizes:
        _size_legend(ax, sizes, scale)
    _name_points(figure, ax, points, corners, areas)
    return figure


def _size_legend(ax: Any, sizes: Sequence[int], scale: float) -> None:
    first = round(math.log10(min(sizes)))
    # The larger one is never larger than the largest marker of the plot.
    ends = (first, max(first, math.floor(math.log10(max(sizes)))))
    look = {"color": MUTED, "linewidths": 0}
    handles = [
        ax.scatter([], [], s=scale * n, label=f"{plain(n / 1e6)} x 10^6 parameters", **look)
        for n in sorted({10**end for end in ends})
    ]
    _legend(ax, handles, "lower right")


def _name_points(
    figure: Any,
    ax: Any,
    points: Any,
    corners: Sequence[tuple[float, float]],
    areas: Sequence[float],
) -> None:
    """Writes the names of the points after the layout, on which their places depend."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    names = list(short_names(list(points["model"])).values())
    to_px = ax.transData.transform
    radii = np.sqrt(np.array(areas) / math.pi) * figure.dpi / 72
    centres = to_px(points[["ms", "value"]].to_numpy(float))
    obstacles = [(*(c - r), *(c + r)) for c, r in zip(centres, radii, strict=True)]
    for r in points.itertuples():
        low, high = r.bounds or (r.value, r.value)
        left, right = (r.ms, r.ms) if r.ms_low is None else (r.ms_low, r.ms_high)
        obstacles.append(_segment(to_px(((r.ms, low), (r.ms, high)))))
        obstacles.append(_segment(to_px(((max(left, 1e-9), r.value), (right, r.value)))))
    obstacles += [_segment(np.array(ends)) for ends in pairwise(to_px(corners))]
    sizes = np.array([_text_size(figure, ax, name) for name in names])
    frame = np.array(ax.get_window_extent().extents)
    places = place_labels(centres, radii, sizes, np.array(obstacles), frame)
    to_axes = ax.transAxes.inverted().transform
    for name, centre, radius, place in zip(names, centres, radii, places, strict=True):
        ax.text(
            *to_axes((place[:2] + place[2:]) / 2),
            name,
            fontsize=9,
            ha="center",
            va="center",
            color=INK,
            transform=ax.transAxes,
            zorder=6,
        )
        nearest = nearest_point(centre, place)
        if math.dist(nearest, centre) > radius + 10:
            ends = to_axes([centre, nearest])
            ax.plot(*ends.T, color=MUTED, lw=0.7, zorder=2, transform=ax.transAxes)


def _segment(ends: Float64Array) -> tuple[float, ...]:
    """A horizontal or vertical line in pixels as a rectangle, with 3 px of room."""
    return (*(ends.min(axis=0) - 3), *(ends.max(axis=0) + 3))


def _text_size(figure: Any, ax: Any, text: str) -> tuple[float, float]:
    probe = ax.text(0, 0, text, fontsize=9)
    extent = probe.get_window_extent(figure.canvas.get_renderer())
    probe.remove()
    return float(extent.width), float(extent.height)


def protocols_figure(record: RunRecord, group: Sequence[Protocol]) -> Any | None:
    """Accuracy under every protocol, a row each, with a dot and an interval for every model.

    None if every protocol of the group (of one dataset and reference) has plots of its own, or
    without accuracies.
    """
    frame = protocol_frame(record, group)
    if len(group) <= MOST_HEADLINES or frame.empty:
        return None
    models = unique(frame["model"])
    shown = [p for p in group if p in set(frame["protocol"])]
    first = group[0]
    notes = [
        "Bars: 95 % bootstrap intervals over images. The numbers are in the tables of accuracy."
    ]
    teacher = reference_model(first.reference)
    if teacher is not None:
        notes.append(
            f"Agreement with the masks of {teacher}, which is not accuracy; its own is 100 %."
        )
    row_in = 0.14 + MODEL_IN * len(models)
    title = f"mIoU by protocol: vs {first.reference}, {first.dataset}"
    figure = new_figure(1.0 + row_in * len(shown), title, [*notes, *_missing_notes(record, group)])
    ax = figure.subplots()
    ax.grid(visible=True, axis="x")
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    for line in range(0, len(shown), 2):
        ax.axhspan(line - 0.5, line + 0.5, color="#f4f4f4", linewidth=0, zorder=0)
    ax.set_yticks(range(len(shown)), [p.protocol for p in shown])
    ax.set_ylim(len(shown) - 0.5, -0.5)
    step = MODEL_IN / row_in
    rows = [shown.index(p) for p in frame["protocol"]]
    look: dict[str, Any] = {"linestyle": "none", "clip_on": False}
    styles = model_styles(model_names(record))
    for model, ys, part in _side_by_side(frame.assign(place=rows), step):
        color, marker = styles[model].color, styles[model].marker
        for y, low, high in zip(ys, part["low"], part["high"], strict=True):
            if low is not None:
                ax.plot((low, high), (y, y), color=color, linewidth=1.4, alpha=0.8)
        look |= {"marker": marker, "markersize": MARKER_PT, "color": color, "zorder": 3}
        ax.plot(part["value"].tolist(), ys, **look)
    ax.set_xlim(*percent_limits(values_of(frame)))
    ax.set_xlabel("mIoU (%)")
    _model_legend(ax, models, styles, lines=False)
    return figure


def clicks_figure(record: RunRecord, group: Sequence[Protocol]) -> Any | None:
    """Accuracy under the protocols `clicks-K` of a group, a line for every model.

    None without an accuracy after at least two clicks.
    """
    clicked = {p: int(match[1]) for p in group if (match := _CLICKS.fullmatch(p.protocol))}
    frame = protocol_frame(record, list(clicked))
    most = 0 if frame.empty else max(clicked[p] for p in frame["protocol"])
    if most < 2:
        return None
    notes = [
        "The first click is the centre of the object, each further one that of the largest error. "
        "Bars: 95 % bootstrap intervals over images. The dots of a click stand side by side.",
        *_missing_notes(record, list(clicked)),
    ]
    title = f"mIoU by number of clicks: vs {group[0].reference}, {group[0].dataset}"
    figure = new_figure(4.0, title, notes)
    ax = figure.subplots()
    ax.grid(visible=True, axis="y")
    styles = model_styles(model_names(record))
    models = unique(frame["model"])
    frame = frame.assign(place=frame["protocol"].map(clicked)).sort_values("place", kind="stable")
    for model, xs, part in _side_by_side(frame, min(0.06, 0.5 / len(models)), models):
        color, marker = styles[model].color, styles[model].marker
        for x, low, high in zip(xs, part["low"], part["high"], strict=True):
            if low is not None:
                ax.plot((x, x), (low, high), color=color, linewidth=1.2, alpha=0.8)
        look = {"marker": marker, "markersize": MARKER_PT, "color": color, "zorder": 3}
        ax.plot(xs, part["value"].tolist(), linestyle=styles[model].dash, linewidth=1.4, **look)
    ax.set_xticks(range(1, most + 1))
    ax.set_xlim(0.5, most + 0.5)
    ax.set_ylim(*percent_limits(values_of(frame)))
    ax.set_xlabel("Clicks")
    ax.set_ylabel("mIoU (%)")
    _model_legend(ax, models, styles, lines=True)
    return figure


def _side_by_side(
    frame: Any, step: float, models: Sequence[str] = ()
) -> Iterator[tuple[str, list[float], Any]]:
    """Rows of every model, with its places moved apart from those of the other models."""
    models = models or unique(frame["model"])
    for index, model in enumerate(models):
        part = frame[frame["model"] == model]
        offset = step * (index - (len(models) - 1) / 2)
        yield model, [place + offset for place in part["place"]], part


def _missing_notes(record: RunRecord, group: Sequence[Protocol]) -> list[str]:
    """Reasons for missing dots, one note for all models with the same reason and protocols."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for p in group:
        for model in model_names(record):
            row = find_miou(record, p, model)
            if row is None or miou_percent(row) is not None:
                continue
            why = row.why or f"{row.status}, no reason recorded"
            if row.weights.kind == "random" and row.status != "error":
                why = "no trained weights"
            reasons.setdefault((why, model), []).append(p.protocol)
    together: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for (why, model), names in reasons.items():
        together.setdefault((why, tuple(names)), []).append(model)
    notes = []
    for (why, missing), models in together.items():
        where = "every protocol" if len(missing) == len(group) else ", ".join(missing)
        notes.append(f"No dot in {where}: {', '.join(models)} ({shorten(why, 120)}).")
    return notes


def _model_legend(
    ax: Any, models: Sequence[str], styles: Mapping[str, ModelStyle], *, lines: bool
) -> None:
    """Names above the axes, in as many columns as fit."""
    from matplotlib.lines import Line2D

    names = short_names(models)
    handles = [
        Line2D([], [], color=styles[model].color, marker=styles[model].marker, label=names[model])
        for model in models
    ]
    for model, handle in zip(models, handles, strict=True):
        handle.set(markersize=MARKER_PT, linestyle=styles[model].dash if lines else "none")
    fit = max(1, LEGEND_LENGTH // (max(map(len, names.values())) + (8 if lines else 5)))
    columns = -(-len(models) // -(-len(models) // fit))
    _legend(ax, handles, ncols=columns, columnspacing=1.2, handlelength=2.4 if lines else 1)
