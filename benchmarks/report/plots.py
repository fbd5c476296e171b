"""Static plots of a record by matplotlib, as SVG and PNG files that are equal to the byte."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.latency.timer import NOTHING_MS
from benchmarks.prompts.protocols import reference_model
from benchmarks.records.record import RunRecord
from benchmarks.report import captions, frames, style
from benchmarks.report.captions import STEPS, Caption
from benchmarks.report.labels import prompt_label
from benchmarks.report.placement import clusters, place_labels, spread
from benchmarks.report.style import (
    GRID,
    INK,
    LEAST_TEXT,
    LIGHT,
    MUTED,
    print_styles,
    short_names,
)
from benchmarks.tables import record_queries as queries
from benchmarks.tables.columns import bars_text
from benchmarks.tables.formatting import MILLION, milliseconds, number, percent, shorten, slug
from benchmarks.tables.record_queries import Bounds, Protocol, Setup, model_names, unique

HOLLOW = "Hollow: random weights on the exact architecture, whose {what} the same."
COLUMNS, ROW_IN = 3, 0.19
"""Panels side by side, and height of one model in a panel."""
MOST_AREA_PT2, WANTED_LEAST_AREA_PT2, LEAST_AREA_PT2 = 1600.0, 120.0, 64.0
SAMPLE_PT, LINE_PT, MARKER_PT = 30, 13, 5
"""Length of a sample of a line, distance of two lines of text, and size of a marker."""
MODEL_IN, PROMPT_LENGTH = 0.085, 32
"""Height of one model in the row of a prompt, and characters in a line of its label."""
LEGEND_LENGTH, MOST_NAMED = 120, 3
"""Characters of 8 points that fit side by side above the axes, and prompts named in a note."""
EDGE = 0.012
"""Distance of points beyond the left edge from it, as a share of the axis."""
OFF_SCALE = 10
"""A model without a network is drawn at the edge if it is faster by this factor than all others."""


class Plot(NamedTuple):
    """A plot that a record has values for: stem of its files, caption, and what draws it."""

    stem: str
    caption: Caption
    draw: Callable[[], Any]


def write_plots(record: RunRecord, folder: Path) -> list[Path]:
    """Writes `plots/NAME.svg` and `.png` for everything that the record holds; returns the files.

    Times of different devices, precisions or thread counts and accuracies of different protocols
    (those of `headline`) get separate files; if there are further protocols,
    `protocols-REFERENCE` shows all of them.
    """
    written: list[Path] = []
    with style.plot_style():
        for plot in plots_of(record):
            written += style.save_figure(plot.draw(), folder / "plots", plot.stem)
    return written


def draw_plot(record: RunRecord, kind: str) -> Any | None:
    """Draws the first plot of a kind, such as `latency`; None if the record has nothing for it."""
    with style.plot_style():
        for plot in plots_of(record):
            if plot.stem == kind or plot.stem.startswith(f"{kind}-"):
                return plot.draw()
    return None


def plots_of(record: RunRecord) -> list[Plot]:
    """All plots that a record has values for; nothing is drawn yet."""
    timed, scored = queries.setups(record), queries.headline(record)
    found = queries.protocols(record)
    datasets = unique(p.dataset for p in found)

    def stem_of(first: str, protocol: Protocol, *, named: bool = False) -> str:
        """Adds the reference if it is a model or `named`, and the dataset if there are several."""
        parts = [first]
        if named or reference_model(protocol.reference) is not None:
            parts.append(protocol.reference)
        if len(datasets) > 1:
            parts.append(protocol.dataset)
        return "-".join(map(slug, parts))

    stems = dict(zip(found, _numbered([stem_of(p.protocol, p) for p in found]), strict=True))
    groups = [list(each) for _, each in groupby(found, lambda p: (p.dataset, p.reference))]
    made: list[tuple[str, Caption | None, Callable[[], Any]]] = []

    def add(stem: str, caption: Callable[..., Any], draw: Callable[..., Any], *of: Any) -> None:
        """Adds a plot; both functions get the record and `of`."""
        made.append((stem, caption(record, *of), partial(draw, record, *of)))

    add("params", captions.parameters, params_figure)
    for setup in timed:
        suffix = f"-{slug(setup.label)}" if len(timed) > 1 else ""
        add(f"latency{suffix}", captions.latency, latency_figure, setup)
        add(f"decode{suffix}", captions.decode, decode_figure, setup)
        for p in scored:
            stem = f"accuracy-latency-{stems[p]}{suffix}"
            add(stem, captions.accuracy_latency, accuracy_figure, setup, p)
    for p in scored:
        add(f"size-{stems[p]}", captions.by_size, size_figure, p)
    for name, caption, draw, more in (
        ("protocols", captions.by_protocol, protocols_figure, ()),
        ("clicks", captions.by_clicks, clicks_figure, ()),
        ("clicks-multi", captions.by_clicks, clicks_figure, ("clicks-multi",)),
    ):
        names = _numbered([stem_of(name, g[0], named=name == "protocols") for g in groups])
        for stem, group in zip(names, groups, strict=True):
            add(stem, caption, draw, group, *more)
    for (clean, family), frame in frames.robustness_frames(record).items():
        stem = stem_of(f"robustness-{family}", clean)
        add(stem, captions.robustness, robustness_figure, clean, family, frame)
    return [Plot(stem, caption, draw) for stem, caption, draw in made if caption is not None]


def _numbered(names: Sequence[str]) -> list[str]:
    """The names, with a number where two are equal."""
    return [f"{name}-{i}" if name in names[:i] else name for i, name in enumerate(names)]


class Dot(NamedTuple):
    """One value of one model in a panel, with the text beside it and the ends of its error bar.

    A hollow dot was measured with random weights. On a log axis only positive values are drawn.
    """

    value: float
    text: str
    bounds: Bounds | None = None
    hollow: bool = False


class Panel(NamedTuple):
    """One quantity: a dot for each model, or text in its place."""

    title: str
    dots: Mapping[str, Dot | str]

    @property
    def drawn(self) -> list[Dot]:
        """The dots."""
        return [dot for dot in self.dots.values() if isinstance(dot, Dot)]


def panel_figure(
    caption: Caption,
    panels: Sequence[Panel],
    models: Sequence[str],
    x_label: str,
    *,
    notes: Sequence[str] = (),
    linear: tuple[float, float] | None = None,
    columns: int = COLUMNS,
) -> Any:
    """Draws panels of dots that share both axes, with every value printed.

    There is at least one positive dot. The axis is logarithmic without the limits `linear`.
    """
    columns = 2 if len(panels) == 4 and linear is None else min(len(panels), columns)
    n_rows = -(-len(panels) // columns)
    height_in = 0.55 + n_rows * (0.62 + ROW_IN * len(models))
    figure = style.new_figure(height_in, caption.title, notes, caption.message)
    grid = figure.subplots(n_rows, columns, sharex=True, sharey=True, squeeze=False)
    flat = grid.ravel()
    styles = print_styles(models)
    for ax, panel in zip(flat, panels, strict=False):
        ax.set_title(panel.title, loc="left", fontweight="bold")
        _rows_only(ax)
        for line, model in enumerate(models):
            ax.axhline(line, color=GRID, linewidth=0.7, zorder=0)
            dot = panel.dots.get(model, "")
            text, ink = (dot, MUTED) if isinstance(dot, str) else (dot.text, INK)
            # Printed beside the panel, where no dot can be.
            look: dict[str, Any] = {"xytext": (4, 0), "textcoords": "offset points"}
            look |= {"va": "center", "fontsize": 8, "color": ink, "annotation_clip": False}
            ax.annotate(text, (1, line), xycoords=ax.get_yaxis_transform(), **look)
            if isinstance(dot, str):
                continue
            color = styles[model].color
            if dot.bounds is not None:
                ax.plot(dot.bounds, (line, line), color=color, linewidth=1.6, alpha=0.8)
            face = "white" if dot.hollow else color
            look = {"marker": styles[model].marker, "markersize": 5, "markeredgewidth": 1.4}
            ax.plot(dot.value, line, linestyle="none", color=color, markerfacecolor=face, **look)
    for ax in flat[len(panels) :]:
        ax.set_visible(False)
    flat[0].set_ylim(len(models) - 0.4, -0.6)
    if linear is None:
        dots = [dot for panel in panels for dot in panel.drawn]
        values = [x for dot in dots for x in (dot.value, *(dot.bounds or ())) if x > 0]
        ticks = 4 if len(panels) > 1 else 9
        style.log_axis(flat[0].xaxis, min(values), max(values), ticks=ticks)
    else:
        flat[0].set_xlim(*linear)
    flat[0].set_yticks(range(len(models)), list(short_names(models).values()))
    for index in range(max(0, len(panels) - columns), len(panels)):
        flat[index].set_xlabel(x_label)
        # A panel above an empty place of the grid is the last of its column.
        flat[index].tick_params(axis="x", labelbottom=True)
    return figure


def _axis(protocol: Protocol) -> str:
    """Label of an axis of accuracies."""
    return f"{queries.accuracy_name(protocol.reference, title=True)} (%)"


def _rows_only(ax: Any) -> None:
    """Removes the y axis from axes whose rows are named."""
    ax.grid(visible=True, axis="x")
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)


def _random_note(record: RunRecord, models: Sequence[str], what: str) -> list[str]:
    hollow = any(queries.has_random_weights(record, model) for model in models)
    return [HOLLOW.format(what=what)] if hollow else []


def _by_value(panel: Panel, models: Iterable[str], sign: int = 1) -> list[str]:
    """Models in the order of the values of a panel, those without a value last."""

    def key(model: str) -> tuple[bool, float]:
        """Whether the value is missing, and the value as printed: equal ones keep their order."""
        dot = panel.dots.get(model, "")
        return (True, 0.0) if isinstance(dot, str) else (False, sign * float(f"{dot.value:.3g}"))

    return sorted(models, key=key)


def params_figure(record: RunRecord) -> Any | None:
    """Parameters used in the forward pass, a panel for every component, on a log axis."""
    caption = captions.parameters(record)
    if caption is None:
        return None
    models = model_names(record)

    def count(model: str, used: int | None, missing: str) -> Dot | str:
        """A dot for a positive number, else a text."""
        if not used:
            return missing if used is None else "none"
        hollow = queries.has_random_weights(record, model)
        return Dot(used / 1e6, number(used / 1e6), hollow=hollow)

    totals = {model: queries.used_parameters(record, model) for model in models}
    whole = {model: count(model, used, "not counted") for model, used in totals.items()}
    panels = [Panel("whole model", whole)]
    for name in unique(row.component for row in record.params):
        if name not in queries.WHOLE_MODEL:
            dots: dict[str, Dot | str] = dict.fromkeys(models, "-")
            for row in record.params:
                if row.component == name:
                    dots[row.model] = count(row.model, row.used, row.status)
            panels.append(Panel(name.replace("_", " "), dots))
    ordered, notes = _by_value(panels[0], models), _random_note(record, models, "size is")
    return panel_figure(caption, panels, ordered, f"{MILLION} parameters (log scale)", notes=notes)


def latency_figure(record: RunRecord, setup: Setup) -> Any | None:
    """Times to encode, to decode a prompt and end to end, with intervals or ranges.

    All other phases are in the table of latency.
    """
    caption = captions.latency(record, setup)
    if caption is None:
        return None
    frame = frames.latency_frame(record, setup)
    models = [model for model in model_names(record) if model in set(frame["model"])]
    panels, shown = [], []
    for label, phase in STEPS:
        rows = captions.step_rows(record, setup, phase)
        if n := next((row.n_prompts for row in rows), None):
            label = f"{label}, {n} prompt{'s' * (n != 1)}"
        dots: dict[str, Dot | str] = {}
        for r in frame.itertuples():
            if r.row in rows and r.value is not None and r.value >= NOTHING_MS:
                dots[r.model] = Dot(r.value, milliseconds(r.value), r.bounds, r.random)
            elif r.row in rows:
                dots[r.model] = r.row.status if r.value is None else f"< {NOTHING_MS:g} ms"
        if Panel(label, dots).drawn:
            panels.append(Panel(label, dots))
            shown += rows
    missing = queries.grouped(
        ((row.status, row.why or "no reason recorded"), row.model)
        for row in shown
        if row.status != "ok"
    )
    notes = [
        f"Dots: medians; bars: their {bars_text(frame['spread'])}, often inside of the dot. The "
        "other phases are in the table of latency.",
        *_random_note(record, models, "time is"),
        *(
            f"{status}, {', '.join(unique(without))}: {shorten(why, 160)}."
            for (status, why), without in missing.items()
        ),
        *queries.shipped_models_notes(record, models),
        *frames.without_times(record, models),
    ]
    ordered = _by_value(panels[-1], models)
    return panel_figure(caption, panels, ordered, "ms (log scale)", notes=notes)


def size_figure(record: RunRecord, protocol: Protocol) -> Any | None:
    """Accuracy over all objects and by size class; None without an accuracy."""
    frame, caption = frames.size_frame(record, protocol), captions.by_size(record, protocol)
    if caption is None:
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
        panels.append(Panel(f"{size}, n = {counts[0]:,.0f}" if known else str(size), dots))
    models = _by_value(panels[0], unique(frame["model"]), -1)
    look: dict[str, Any] = {"notes": frames.size_notes(record, protocol, frame)}
    look |= {"linear": frames.percent_limits(frames.values_of(frame)), "columns": len(panels)}
    return panel_figure(caption, panels, models, _axis(protocol), **look)


def decode_figure(record: RunRecord, setup: Setup) -> Any | None:
    """Decode time against the number of prompts on log axes; None without times."""
    frame, caption = frames.decode_frame(record, setup), captions.decode(record, setup)
    if caption is None:
        return None
    notes = frames.decode_notes(record, setup, frame)
    notes.append("Next to the names: cost of one more prompt.")
    height_in = max(3.6, 1.4 + 0.2 * len(unique(frame["model"])))
    figure = style.new_figure(height_in, caption.title, notes, caption.message)
    ax = figure.subplots()
    times = [time for time in frames.values_of(frame) if time > 0]
    style.log_axis(ax.yaxis, min(times), max(times), ticks=9)
    style.log_axis(ax.xaxis, min(frame["n_prompts"]), max(frame["n_prompts"]), ticks=6)
    ax.set(xlabel="Prompts in one call (log scale)", ylabel="Decode (ms, log scale)")
    ax.grid(visible=True)
    styles = print_styles(model_names(record))
    ends = []
    for model, part in frame.groupby("model", sort=False):
        look = _line_look(styles[str(model)], hollow=part["random"].iloc[0])
        yerr = _lengths(part["value"], part["low"], part["high"])
        x, y = part["n_prompts"].tolist(), part["value"].tolist()
        ax.errorbar(x, y, yerr=yerr, capsize=2.5, **look)
        slope, kind = part["slope_ms"].iloc[-1], part["row"].iloc[0].decode_kind
        extra = "" if kind in (None, "decoder") else f" ({kind})"
        extra += "" if slope is None else f"  {frames.slope_text(slope)}"
        ends.append(LineEnd(str(model), x[-1], y[-1], extra, look))
    _name_lines(figure, ax, ends)
    return figure


def _line_look(of: style.ModelStyle, *, hollow: bool = False) -> dict[str, Any]:
    """Keywords of matplotlib for a model's line with its markers."""
    look = {"color": of.color, "linestyle": of.dash, "linewidth": 1.6, "marker": of.marker}
    face = "white" if hollow else of.color
    return look | {"markersize": MARKER_PT, "markeredgewidth": 1.4, "markerfacecolor": face}


def _lengths(values: Any, lows: Any, highs: Any) -> list[list[float]]:
    """Lengths of error bars below and above values, zero without an end."""
    return [
        [
            0.0 if end is None else max(0.0, sign * (end - value))
            for value, end in zip(values, ends, strict=True)
        ]
        for sign, ends in ((-1, lows), (1, highs))
    ]


def _legend(ax: Any, handles: Sequence[Any], place: str = "lower left", **look: Any) -> None:
    """A further legend above the axes, in one row by default."""
    anchor = (0, 1) if place == "lower left" else (1, 1)
    look = {"ncols": len(handles), "frameon": False, "fontsize": 8, "borderaxespad": 0, **look}
    earlier = ax.get_legend()
    ax.legend(handles=handles, loc=place, bbox_to_anchor=anchor, **look)
    if earlier is not None:
        ax.add_artist(earlier)


class LineEnd(NamedTuple):
    """Right end of a line in the data, text after the model's name, and the line's look."""

    model: str
    x: float
    y: float
    extra: str
    look: dict[str, Any]


def _name_lines(figure: Any, ax: Any, ends: Sequence[LineEnd]) -> None:
    """Writes names to the right of the axes in the order of the line ends, each with a sample."""
    names = short_names([end.model for end in ends])
    texts = [f"{names[end.model]}{end.extra}" for end in ends]
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    labels = [ax.text(0, 0, text, va="center", fontsize=9, color=INK) for text in texts]
    # The axes get narrower by the width of the widest label and its sample.
    renderer, point = figure.canvas.get_renderer(), figure.dpi / 72
    widest = max(label.get_window_extent(renderer).width for label in labels)
    needed = (widest + (SAMPLE_PT + 16) * point) / figure.bbox.width
    place = ax.get_position()
    ax.set_position((place.x0, place.y0, 1 - needed - place.x0, place.height))
    box = ax.get_window_extent()
    to_axes = (ax.transData - ax.transAxes).transform
    rows = [float(to_axes((end.x, end.y))[1]) for end in ends]
    heights = spread(rows, LINE_PT * point / box.height, 0.02, 0.98)
    left, right = (1 + offset * point / box.width for offset in (8, 8 + SAMPLE_PT))
    for end, label, height in zip(ends, labels, heights, strict=True):
        label.set(transform=ax.transAxes, position=(right + 4 * point / box.width, height))
        x = (left, (left + right) / 2, right)
        ax.plot(x, [height] * 3, markevery=[1], transform=ax.transAxes, clip_on=False, **end.look)


def accuracy_figure(record: RunRecord, setup: Setup, protocol: Protocol) -> Any | None:
    """Accuracy against latency with the Pareto front; None without points.

    The marker area is proportional to the parameters used.
    """
    points, label, notes = frames.accuracy_latency_frame(record, setup, protocol)
    caption = captions.accuracy_latency(record, setup, protocol)
    if caption is None:
        return None
    notes = [f"{setup.label}. {frames.error_bars_note(points, protocol.reference)}", *notes]
    points, off_scale = _on_scale(points)
    notes += ["Arrow at the edge: faster than the axis shows, with its time."] * bool(off_scale)
    figure = style.new_figure(4.3, caption.title, notes, caption.message)
    ax = figure.subplots()
    ax.grid(visible=True)
    times = [ms for name in ("ms", "ms_low", "ms_high") for ms in points[name] if ms]
    # Room for names next to the outermost points, and to those at the edge.
    room = 1.8 if off_scale else 1.15
    style.log_axis(ax.xaxis, min(times) / room, max(times) * 1.3, ticks=9)
    # Just inside, so that their error bars are not on the axis.
    left, right = ax.get_xlim()
    points["ms"] = [max(ms, left * (right / left) ** EDGE) for ms in points["ms"]]
    values = frames.values_of(points)
    pad = max(3.0, 0.15 * (max(values) - min(values)))
    ax.set_ylim(min(values) - pad, max(values) + pad)
    ax.set(xlabel=f"Latency, {label} (ms, log scale)", ylabel=_axis(protocol))
    corners: list[tuple[float, float]] = []
    for r in frames.pareto_front(points).itertuples():
        if corners and r.value <= corners[-1][1]:
            continue  # no measurable difference of the times
        corners += [(r.ms, corners[-1][1])] if corners else []
        corners.append((r.ms, r.value))
    if len(corners) > 1:
        ax.plot(*zip(*corners, strict=True), color=MUTED, lw=1, linestyle=(0, (4, 2)), zorder=1)
    styles = print_styles(model_names(record))
    for curve, part in points.dropna(subset="curve").groupby("curve", sort=False):
        sizes = part.sort_values("ms")
        ax.plot(sizes["ms"], sizes["value"], color=styles[str(curve)].color, lw=1.6, zorder=2)
    scale = frames.area_scale(points, WANTED_LEAST_AREA_PT2, MOST_AREA_PT2)
    areas = [scale * n if n else LEAST_AREA_PT2 for n in points["parameters"]]
    bar = {"elinewidth": 1.1, "capsize": 2, "linestyle": "none", "zorder": 4, "clip_on": False}
    for r, area in zip(points.itertuples(), areas, strict=True):
        look_of = styles[r.curve or r.model]
        color = look_of.color
        xerr = None if r.ms_low is None else _lengths([r.ms], [r.ms_low], [r.ms_high])
        yerr = None if r.low is None else _lengths([r.value], [r.low], [r.high])
        ax.errorbar(r.ms, r.value, xerr=xerr, yerr=yerr, color=color, **bar)
        # Error bars are visible through a large marker; a small one is drawn on top of them.
        large = area > 2 * WANTED_LEAST_AREA_PT2
        look: dict[str, Any] = {"alpha": 0.5 if large else 1, "zorder": 3 if large else 5}
        look |= {"linewidths": 0 if r.parameters else 1.8, "edgecolor": color, "clip_on": False}
        look["facecolor"] = color if r.parameters else "white"
        marker = "<" if r.model in off_scale else look_of.marker
        ax.scatter(r.ms, r.value, s=area, marker=marker, **look)
    decades = [math.log10(n) for n in points["parameters"] if n]
    if decades:
        first = round(min(decades))
        # The larger one is never larger than the largest marker of the plot.
        sizes = sorted({10**first, 10 ** max(first, math.floor(max(decades)))})
        texts = [f"{style.plain(n / 1e6)} × {MILLION} parameters" for n in sizes]
        handles = [
            ax.scatter([], [], s=scale * n, label=text, color=MUTED, linewidths=0)
            for n, text in zip(sizes, texts, strict=True)
        ]
        _legend(ax, handles, "lower right")
    _name_points(figure, ax, points, corners, areas)
    return figure


def _on_scale(points: Any) -> tuple[Any, set[str]]:
    """Moves models without a network that are far faster than all networks to the left edge.

    Returns the points, whose labels then tell the time, and the names of the models moved.
    """
    networks = [r.ms for r in points.itertuples() if r.parameters]
    limit = min(networks, default=0.0) / OFF_SCALE
    moved = {r.model: r.ms for r in points.itertuples() if not r.parameters and r.ms < limit}
    points = points.copy()
    for index, r in zip(points.index, points.itertuples(), strict=True):
        if r.model in moved:
            points.at[index, "label"] = f"{r.label}, {milliseconds(r.ms)}"
            points.loc[index, ["ms", "ms_low", "ms_high"]] = [0.0, None, None]
    return points, set(moved)


def _name_points(
    figure: Any, ax: Any, points: Any, corners: Sequence[Bounds], areas: Sequence[float]
) -> None:
    """Writes the names of the points next to them, names of points on one place together.

    Names without a free place are numbers, which a key above the axes explains; a single one is in
    the key alone.
    """
    from matplotlib.lines import Line2D

    rows, styles = list(points.itertuples()), print_styles(list(points["model"]))
    looks = [styles[r.model] for r in rows]
    radii = np.sqrt(np.array(areas) / math.pi) * figure.dpi / 72
    figure.draw_without_rendering()
    groups = clusters(ax.transData.transform(points[["ms", "value"]].to_numpy(float)), radii)
    texts = [[str(rows[i].label) for i in group] for group in groups]
    places = _label_places(figure, ax, points, corners, radii, groups, texts)
    if lost := [k for k, place in enumerate(places) if np.isnan(place).any()]:
        key = {i: n for n, i in enumerate((i for k in lost for i in groups[k]), 1)}
        dots = [_line_look(looks[i]) | {"linestyle": "none"} for i in key]
        # A single one is known by its marker.
        numbered = len(key) > 1
        names = [f"{n}  " * numbered + str(rows[i].label) for i, n in key.items()]
        handles = [Line2D([], [], label=t, **d) for t, d in zip(names, dots, strict=True)]
        _legend(ax, handles, ncols=1 + (len(key) > 4), columnspacing=1.2, handlelength=1)
        for k in lost:
            texts[k] = [", ".join(str(key[i]) for i in groups[k])]
        # Names first: they need more room.
        order = sorted(range(len(groups)), key=lambda k: k in lost)
        order = order if numbered else [k for k in order if k not in lost]
        groups, texts = [groups[k] for k in order], [texts[k] for k in order]
        figure.draw_without_rendering()
        places = _label_places(figure, ax, points, corners, radii, groups, texts, force=True)
    figure.set_layout_engine("none")
    to_axes = ax.transAxes.inverted().transform
    look = {"fontsize": 9, "ha": "center", "va": "center", "zorder": 6}
    for group, lines, place in zip(groups, texts, places, strict=True):
        inks = [style.mark_color(looks[i].color, LIGHT, LEAST_TEXT) for i in group]
        for line, text in enumerate(lines):
            height = place[3] - (line + 0.5) * (place[3] - place[1]) / len(lines)
            position = to_axes(((place[0] + place[2]) / 2, height))
            color = inks[line] if len(lines) == len(group) else INK
            ax.text(*position, text, transform=ax.transAxes, color=color, **look)


def _label_places(
    figure: Any,
    ax: Any,
    points: Any,
    corners: Sequence[Bounds],
    radii: Any,
    groups: Sequence[Sequence[int]],
    texts: Sequence[Sequence[str]],
    *,
    force: bool = False,
) -> Any:
    """Places of the texts of groups of points; see `place_labels`."""
    to_pixels = ax.transData.transform
    centres = to_pixels(points[["ms", "value"]].to_numpy(float))
    segments: list[Any] = [*pairwise(corners)]
    uprights = []
    for r in points.itertuples():
        low, high = r.bounds or (r.value, r.value)
        left, right = (r.ms, r.ms) if r.ms_low is None else (max(r.ms_low, 1e-9), r.ms_high)
        uprights.append(((r.ms, low), (r.ms, high)))
        segments.append(((left, r.value), (right, r.value)))
    for _, part in points.dropna(subset="curve").groupby("curve", sort=False):
        line = part.sort_values("ms")[["ms", "value"]].to_numpy(float)
        # In short pieces, since labels keep clear of the rectangle around each.
        steps = np.interp(np.linspace(0, len(line) - 1, 40), range(len(line)), np.log(line[:, 0]))
        heights = np.interp(np.linspace(0, len(line) - 1, 40), range(len(line)), line[:, 1])
        segments += [*pairwise(zip(np.exp(steps).tolist(), heights.tolist(), strict=True))]

    def rectangles(ends: Sequence[Any]) -> Any:
        """Lines with 3 px of room, as rectangles."""
        corners_px = to_pixels(np.reshape(ends, (-1, 2))).reshape(-1, 2, 2)
        return np.hstack([corners_px.min(axis=1) - 3, corners_px.max(axis=1) + 3])

    bars = rectangles(uprights)
    markers = np.hstack([centres - radii[:, None], centres + radii[:, None]])
    around, spans = (
        np.array([[*each[g].min(axis=0)[:2], *each[g].max(axis=0)[2:]] for g in map(list, groups)])
        for each in (markers, bars)
    )
    sizes = []
    for lines in texts:
        label = ax.text(0, 0, "\n".join(lines), fontsize=9, linespacing=1.1)
        sizes.append(label.get_window_extent(figure.canvas.get_renderer()).size + 2)
        label.remove()
    obstacles = np.vstack([markers, bars, rectangles(segments)])
    frame = np.array(ax.get_window_extent().extents)
    return place_labels(around, spans, np.array(sizes), obstacles, frame, force=force)


def protocols_figure(record: RunRecord, group: Sequence[Protocol]) -> Any | None:
    """Accuracy of all models under every protocol of one dataset and reference, a row each.

    None if every protocol has plots of its own, or without accuracies.
    """
    from matplotlib.lines import Line2D

    group = queries.listed(group)
    frame, caption = frames.protocol_frame(record, group), captions.by_protocol(record, group)
    if caption is None:
        return None
    shown = [p for p in group if p in set(frame["protocol"])]
    bars = f"Bars: {frames.INTERVALS}. The numbers are in the tables of accuracy."
    teacher = reference_model(group[0].reference)
    agreement = (
        f"Agreement with the masks of {teacher}, which is not accuracy; {teacher} is left out."
    )
    notes = [bars, *([agreement] if teacher else []), *_missing_notes(record, group)]
    labels, edges = [], [0.0]
    for p in shown:
        lines = textwrap.wrap(prompt_label(p.protocol), PROMPT_LENGTH)
        labels.append("\n".join(lines))
        n = sum(frame["protocol"] == p)
        edges.append(edges[-1] + max(0.1 + MODEL_IN * n, 0.08 + 0.14 * len(lines)))
    figure = style.new_figure(1.0 + edges[-1], caption.title, notes, caption.message)
    ax = figure.subplots()
    _rows_only(ax)
    for top, bottom in list(pairwise(edges))[::2]:
        ax.axhspan(top, bottom, color="#f4f4f4", linewidth=0, zorder=0)
    middles = [(top + bottom) / 2 for top, bottom in pairwise(edges)]
    ax.set_yticks(middles, labels, fontsize=8)
    ax.set_ylim(edges[-1], 0)
    looks = _looks(record, frame)
    for middle, p in zip(middles, shown, strict=True):
        rows = list(frame[frame["protocol"] == p].itertuples())
        for index, r in enumerate(rows):
            line = middle + MODEL_IN * (index - (len(rows) - 1) / 2)
            look = looks[r.model] | {"linestyle": "none", "clip_on": False}
            if r.bounds is not None:
                ax.plot(r.bounds, (line, line), color=look["color"], linewidth=1.4, alpha=0.8)
            ax.plot(r.value, line, zorder=3, **look)
    names = short_names(list(looks))
    dots = {model: look | {"linestyle": "none"} for model, look in looks.items()}
    handles = [Line2D([], [], label=names[model], **look) for model, look in dots.items()]
    # Names above the axes, in as many columns as fit.
    fit = max(1, LEGEND_LENGTH // (max(map(len, names.values())) + 5))
    columns = -(-len(names) // -(-len(names) // fit))
    _legend(ax, handles, ncols=columns, columnspacing=1.2, handlelength=1)
    ax.set_xlim(*frames.percent_limits(frames.values_of(frame)))
    ax.set_xlabel(_axis(group[0]))
    return figure


def _looks(record: RunRecord, frame: Any) -> dict[str, dict[str, Any]]:
    """Keywords of matplotlib for the lines of the models of a frame."""
    styles = print_styles(model_names(record))
    return {model: _line_look(styles[model]) for model in unique(frame["model"])}


def clicks_figure(record: RunRecord, group: Sequence[Protocol], kind: str = "clicks") -> Any | None:
    """Accuracy under the protocols `clicks-K` of a group, a line for every model.

    `kind` is `clicks` or `clicks-multi`. None without an accuracy after at least two clicks.
    """
    caption = captions.by_clicks(record, group, kind)
    if caption is None:
        return None
    frame = captions.clicks_frame(record, group, kind)
    masks = "At every click, the best scored of three masks. " if kind == "clicks-multi" else ""
    notes = [
        "The first click is the centre of the object, each further one that of the largest error. "
        f"{masks}Bars: {frames.INTERVALS}. The dots of a click stand side by "
        "side.",
        *_missing_notes(record, unique(frame["protocol"])),
    ]
    return _curves_figure(record, caption, notes, frame, "clicks", "Clicks", _axis(group[0]))


def robustness_figure(record: RunRecord, clean: Protocol, family: str, frame: Any) -> Any:
    """Accuracy by the percentage of disturbance, a line for every model."""
    caption = captions.robustness(record, clean, family, frame)
    notes = [frames.robustness_note(clean), "The dots of a percentage stand side by side."]
    label = frames.DISTURBANCES[family]
    return _curves_figure(record, caption, notes, frame, "percent", label, _axis(clean))


def _curves_figure(
    record: RunRecord,
    caption: Caption,
    notes: Sequence[str],
    frame: Any,
    axis: str,
    label: str,
    y_label: str,
) -> Any:
    """Accuracy against a column of a frame, with intervals and a line for every model."""
    figure = style.new_figure(4.0, caption.title, notes, caption.message)
    ax = figure.subplots()
    ax.grid(visible=True, axis="y")
    ticks, looks = sorted(set(frame[axis])), _looks(record, frame)
    gap = min(high - low for low, high in pairwise(ticks))
    step, ends = min(0.06 * gap, 0.5 * gap / len(looks)), []
    for index, (model, look) in enumerate(looks.items()):
        part = frame[frame["model"] == model].sort_values(axis, kind="stable")
        places = [place + step * (index - (len(looks) - 1) / 2) for place in part[axis]]
        for place, low, high in zip(places, part["low"], part["high"], strict=True):
            if low is not None:
                ax.plot((place, place), (low, high), color=look["color"], linewidth=1.2, alpha=0.8)
        ax.plot(places, part["value"].tolist(), zorder=3, **look)
        ends.append(LineEnd(model, places[-1], part["value"].iloc[-1], "", look))
    ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    ax.set_xlim(ticks[0] - gap / 2, ticks[-1] + gap / 2)
    ax.set_ylim(*frames.percent_limits(frames.values_of(frame)))
    ax.set(xlabel=label, ylabel=y_label)
    _name_lines(figure, ax, ends)
    return figure


def _missing_notes(record: RunRecord, group: Sequence[Protocol]) -> list[str]:
    """Reasons for missing dots, one note for all models with the same reason and protocols."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for p in group:
        for model in model_names(record):
            row = queries.find_miou(record, p, model)
            if row is None or queries.miou_percent(row) is not None:
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
        where = f"in {len(missing)} of {len(group)} rows"
        if len(missing) == len(group):
            where = "at all"
        elif len(missing) <= MOST_NAMED:
            where = f"at {'; '.join(prompt_label(name) for name in missing)}"
        notes.append(f"No dot {where}: {', '.join(models)} ({shorten(why, 120)}).")
    return notes
