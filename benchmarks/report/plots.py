"""Static plots of a record by matplotlib, as SVG and PNG files that are equal to the byte."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.prompts.protocols import click_sequence, reference_model
from benchmarks.records.record import RunRecord
from benchmarks.report import frames, style
from benchmarks.report.labels import nearest_point, place_labels, spread
from benchmarks.report.style import GRID, INK, MUTED, ModelStyle, model_styles, short_names
from benchmarks.tables import record_queries as queries
from benchmarks.tables.columns import bars_text
from benchmarks.tables.formatting import milliseconds, number, percent, shorten, slug
from benchmarks.tables.record_queries import Bounds, Protocol, Setup, model_names, unique

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


def write_plots(record: RunRecord, folder: Path) -> list[Path]:
    """Writes `plots/NAME.svg` and `.png` for everything that the record holds; returns the files.

    Times of different devices, precisions or thread counts and accuracies of different protocols
    (those of `headline`) get separate files; if there are further protocols,
    `protocols-REFERENCE` shows all of them.
    """
    written: list[Path] = []
    with style.plot_style():
        for stem, figure in _figures(record):
            written += style.save_figure(figure, folder / "plots", stem)
    return written


def draw_plot(record: RunRecord, kind: str) -> Any | None:
    """Draws the first plot of a kind, such as `latency`; None if the record has nothing for it."""
    with style.plot_style():
        for stem, figure in _figures(record):
            if stem == kind or stem.startswith(f"{kind}-"):
                return figure
    return None


def plot_names(record: RunRecord) -> list[str]:
    """Names of the files that `write_plots` writes, without writing them."""
    with style.plot_style():
        return [f"{stem}.{suffix}" for stem, _ in _figures(record) for suffix in style.SUFFIXES]


def _figures(record: RunRecord) -> Iterator[tuple[str, Any]]:
    """Stem of the files and figure of every plot that has something to show."""
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
    jobs: list[tuple[str, Callable[..., Any], tuple[Any, ...]]] = [("params", params_figure, ())]
    for setup in timed:
        suffix = f"-{slug(setup.label)}" if len(timed) > 1 else ""
        jobs.append((f"latency{suffix}", latency_figure, (setup,)))
        jobs.append((f"decode{suffix}", decode_figure, (setup,)))
        jobs += [
            (f"accuracy-latency-{stems[p]}{suffix}", accuracy_figure, (setup, p)) for p in scored
        ]
    jobs += [(f"size-{stems[p]}", size_figure, (p,)) for p in scored]
    more: tuple[tuple[str, Callable[..., Any]], ...] = (
        ("protocols", protocols_figure),
        ("clicks", clicks_figure),
        ("clicks-multi", partial(clicks_figure, kind="clicks-multi")),
    )
    for name, draw in more:
        names = _numbered([stem_of(name, g[0], named=name == "protocols") for g in groups])
        jobs += [(stem, draw, (group,)) for stem, group in zip(names, groups, strict=True)]
    for (clean, family), frame in frames.robustness_frames(record).items():
        stem = stem_of(f"robustness-{family}", clean)
        jobs.append((stem, robustness_figure, (clean, family, frame)))
    for stem, draw, arguments in jobs:
        figure = draw(record, *arguments)
        if figure is not None:
            yield stem, figure


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

    There is at least one positive dot. The axis is logarithmic without the limits `linear`.
    """
    columns = 2 if len(panels) == 4 and linear is None else min(len(panels), columns)
    n_rows = -(-len(panels) // columns)
    figure = style.new_figure(0.55 + n_rows * (0.62 + ROW_IN * len(models)), title, notes)
    grid = figure.subplots(n_rows, columns, sharex=True, sharey=True, squeeze=False)
    flat = grid.ravel()
    styles = model_styles(models)
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


def _rows_only(ax: Any) -> None:
    """Removes the y axis from axes whose rows are named."""
    ax.grid(visible=True, axis="x")
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)


def _has_dots(panels: Sequence[Panel]) -> bool:
    return any(dot.value > 0 for panel in panels for dot in panel.drawn)


def _random_note(record: RunRecord, models: Sequence[str], what: str) -> list[str]:
    hollow = any(queries.has_random_weights(record, model) for model in models)
    return [HOLLOW.format(what=what)] if hollow else []


def params_figure(record: RunRecord) -> Any | None:
    """Parameters used in the forward pass, a panel for every component, on a log axis."""
    models = model_names(record)

    def count(model: str, used: int | None, missing: str) -> Dot | str:
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
            panels.append(Panel(name, dots))
    if not _has_dots(panels):
        return None
    title, notes = "Parameters used in the forward pass", _random_note(record, models, "size is")
    return panel_figure(title, panels, models, "10^6 parameters (log scale)", notes=notes)


def latency_figure(record: RunRecord, setup: Setup) -> Any | None:
    """Times by phase, a panel for every phase, with intervals or ranges."""
    frame = frames.latency_frame(record, setup)
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
    missing: dict[tuple[str, str], list[str]] = {}
    for row in record.latency:
        if queries.setup_of(row) == setup and row.status != "ok":
            missing.setdefault((row.status, row.why or "no reason recorded"), []).append(row.model)
    notes = [
        f"{setup.label}. Dots: medians; bars: their {bars_text(frame['spread'])}, often inside of "
        "the dot.",
        *_random_note(record, models, "time is"),
        *(
            f"{status}, {', '.join(unique(without))}: {shorten(why, 160)}."
            for (status, why), without in missing.items()
        ),
        *queries.shipped_models_notes(record, models),
    ]
    return panel_figure("Latency by phase", panels, models, "ms (log scale)", notes=notes)


def size_figure(record: RunRecord, protocol: Protocol) -> Any | None:
    """Accuracy over all objects and by size class; None without an accuracy."""
    frame = frames.size_frame(record, protocol)
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
    title, models = f"mIoU by object size: {protocol.label}", unique(frame["model"])
    notes, limits = (
        frames.size_notes(record, protocol, frame),
        frames.percent_limits(frames.values_of(frame)),
    )
    columns = len(panels)
    return panel_figure(
        title, panels, models, "mIoU (%)", notes=notes, linear=limits, columns=columns
    )


def decode_figure(record: RunRecord, setup: Setup) -> Any | None:
    """Decode time against the number of prompts on log axes; None without times."""
    from matplotlib.lines import Line2D

    frame = frames.decode_frame(record, setup)
    if frame.empty:
        return None
    notes = frames.decode_notes(record, setup, frame)
    notes.append("Beside the names: cost of one more prompt.")
    height_in = max(3.6, 1.4 + 0.2 * len(unique(frame["model"])))
    figure = style.new_figure(height_in, "Decode time by number of prompts", notes)
    ax = figure.subplots()
    times = [time for time in frames.values_of(frame) if time > 0]
    style.log_axis(ax.yaxis, min(times), max(times), ticks=9)
    style.log_axis(ax.xaxis, min(frame["n_prompts"]), max(frame["n_prompts"]), ticks=6)
    ax.set(xlabel="Prompts in one call (log scale)", ylabel="Decode (ms, log scale)")
    ax.grid(visible=True)
    styles = model_styles(model_names(record))
    look: dict[str, Any]
    for model, part in frame.groupby("model", sort=False):
        color, dash = styles[str(model)].color, styles[str(model)].dash
        marker = KIND_MARKERS[part["row"].iloc[0].decode_kind or "decoder"]
        face = "white" if part["random"].iloc[0] else color
        look = {"marker": marker, "markersize": 6, "markeredgewidth": 1.4, "markerfacecolor": face}
        look |= {"color": color, "linestyle": dash, "linewidth": 1.6, "capsize": 2.5}
        yerr = _lengths(part["value"], part["low"], part["high"])
        ax.errorbar(part["n_prompts"].tolist(), part["value"].tolist(), yerr=yerr, **look)
    kinds = unique(row.decode_kind for row in frame["row"] if row.decode_kind)
    look = {"linestyle": "none", "color": MUTED}
    _legend(ax, [Line2D([], [], marker=KIND_MARKERS[k], label=k, **look) for k in kinds])
    _name_lines(figure, ax, frame, styles)
    return figure


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
    slopes = ["" if ms is None else f"  {frames.slope_text(ms)}" for ms in last["slope_ms"]]
    texts = [f"{names[model]}{slope}" for model, slope in zip(last["model"], slopes, strict=True)]
    labels = [ax.text(0, 0, text, va="center", fontsize=9, color=INK) for text in texts]
    # The axes get narrower by the width of the widest label and its leader line.
    renderer = figure.canvas.get_renderer()
    widest = max(label.get_window_extent(renderer).width for label in labels)
    needed = (widest + (LEADER_PT + 6) * figure.dpi / 72) / figure.bbox.width
    place = ax.get_position()
    ax.set_position((place.x0, place.y0, 1 - needed - place.x0, place.height))
    to_axes = (ax.transData - ax.transAxes).transform
    ends = [to_axes(end) for end in zip(last["n_prompts"], last["value"], strict=True)]
    box = ax.get_window_extent()
    gap = LINE_PT * figure.dpi / 72 / box.height
    heights = spread([float(end[1]) for end in ends], gap, 0.02, 0.98)
    left = 1 + LEADER_PT * figure.dpi / 72 / box.width
    look = {"linewidth": 0.8, "zorder": 1, "transform": ax.transAxes, "clip_on": False}
    for model, label, (x, y), height in zip(last["model"], labels, ends, heights, strict=True):
        label.set(transform=ax.transAxes, position=(left, height))
        ax.plot((x, left - 0.01), (y, height), color=styles[model].color, **look)


def accuracy_figure(record: RunRecord, setup: Setup, protocol: Protocol) -> Any | None:
    """Accuracy against latency with the Pareto front; None without points.

    The marker area is proportional to the parameters used.
    """
    points, label, notes = frames.accuracy_latency_frame(record, setup, protocol)
    if points.empty:
        return None
    notes = [f"{setup.label}. {frames.error_bars_note(points)}", *notes]
    figure = style.new_figure(4.3, f"mIoU against latency: {protocol.label}", notes)
    ax = figure.subplots()
    ax.grid(visible=True)
    times = [ms for name in ("ms", "ms_low", "ms_high") for ms in points[name] if ms]
    # Room for names beside the outermost points.
    style.log_axis(ax.xaxis, min(times) / 1.3, max(times) * 1.3, ticks=9)
    values = frames.values_of(points)
    pad = max(3.0, 0.15 * (max(values) - min(values)))
    ax.set_ylim(min(values) - pad, max(values) + pad)
    ax.set(xlabel=f"Latency, {label} (ms, log scale)", ylabel="mIoU (%)")
    corners: list[tuple[float, float]] = []
    for r in frames.pareto_front(points).itertuples():
        corners += [(r.ms, corners[-1][1])] if corners else []
        corners.append((r.ms, r.value))
    corners.append((ax.get_xlim()[1], corners[-1][1]))
    if len(points) > 1:
        ax.plot(*zip(*corners, strict=True), color=MUTED, lw=1, linestyle=(0, (4, 2)), zorder=1)
    styles = model_styles(model_names(record))
    for curve, part in points.dropna(subset="curve").groupby("curve", sort=False):
        sizes = part.sort_values("ms")
        ax.plot(sizes["ms"], sizes["value"], color=styles[str(curve)].color, lw=1.6, zorder=2)
    scale = frames.area_scale(points, WANTED_LEAST_AREA_PT2, MOST_AREA_PT2)
    areas = [scale * n if n else CROSS_AREA_PT2 for n in points["parameters"]]
    bar = {"elinewidth": 1.1, "capsize": 2, "linestyle": "none", "zorder": 4}
    for r, area in zip(points.itertuples(), areas, strict=True):
        look_of = styles[r.curve or r.model]
        color = look_of.color
        xerr = None if r.ms_low is None else _lengths([r.ms], [r.ms_low], [r.ms_high])
        yerr = None if r.low is None else _lengths([r.value], [r.low], [r.high])
        ax.errorbar(r.ms, r.value, xerr=xerr, yerr=yerr, color=color, **bar)
        # Error bars are visible through a large marker; a small one is drawn on top of them.
        large = area > 2 * WANTED_LEAST_AREA_PT2
        look = {"alpha": 0.5 if large else 1, "zorder": 3 if large else 5}
        look |= {"linewidths": 0 if r.parameters else 1.8}
        marker = look_of.marker if r.parameters else "x"
        ax.scatter(r.ms, r.value, s=area, color=color, marker=marker, **look)
    decades = [math.log10(n) for n in points["parameters"] if n]
    if decades:
        first = round(min(decades))
        # The larger one is never larger than the largest marker of the plot.
        sizes = sorted({10**first, 10 ** max(first, math.floor(max(decades)))})
        texts = [f"{style.plain(n / 1e6)} x 10^6 parameters" for n in sizes]
        handles = [
            ax.scatter([], [], s=scale * n, label=text, color=MUTED, linewidths=0)
            for n, text in zip(sizes, texts, strict=True)
        ]
        _legend(ax, handles, "lower right")
    _name_points(figure, ax, points, corners, areas)
    return figure


def _name_points(
    figure: Any, ax: Any, points: Any, corners: Sequence[Bounds], areas: Sequence[float]
) -> None:
    """Writes the names of the points after the layout, on which their places depend."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    radii = np.sqrt(np.array(areas) / math.pi) * figure.dpi / 72
    centres = ax.transData.transform(points[["ms", "value"]].to_numpy(float))
    segments: list[tuple[tuple[float, float], tuple[float, float]]] = [*pairwise(corners)]
    for r in points.itertuples():
        low, high = r.bounds or (r.value, r.value)
        left, right = (r.ms, r.ms) if r.ms_low is None else (max(r.ms_low, 1e-9), r.ms_high)
        segments += [((r.ms, low), (r.ms, high)), ((left, r.value), (right, r.value))]
    for _, part in points.dropna(subset="curve").groupby("curve", sort=False):
        line = part.sort_values("ms")[["ms", "value"]].to_numpy(float)
        # In short pieces, since labels keep clear of the rectangle around each.
        steps = np.interp(np.linspace(0, len(line) - 1, 40), range(len(line)), np.log(line[:, 0]))
        heights = np.interp(np.linspace(0, len(line) - 1, 40), range(len(line)), line[:, 1])
        segments += [*pairwise(zip(np.exp(steps).tolist(), heights.tolist(), strict=True))]
    # Markers, and error bars and the front with 3 px of room, as rectangles.
    ends = ax.transData.transform(np.reshape(segments, (-1, 2))).reshape(-1, 2, 2)
    markers = np.hstack([centres - radii[:, None], centres + radii[:, None]])
    bars = np.hstack([ends.min(axis=1) - 3, ends.max(axis=1) + 3])
    look = {"fontsize": 9, "ha": "center", "va": "center", "color": INK, "zorder": 6}
    labels = [ax.text(0, 0, name, transform=ax.transAxes, **look) for name in points["label"]]
    renderer = figure.canvas.get_renderer()
    sizes = np.array([label.get_window_extent(renderer).size for label in labels])
    frame = np.array(ax.get_window_extent().extents)
    places = place_labels(centres, radii, sizes, np.vstack([markers, bars]), frame)
    to_axes = ax.transAxes.inverted().transform
    for label, centre, radius, place in zip(labels, centres, radii, places, strict=True):
        label.set_position(to_axes((place[:2] + place[2:]) / 2))
        nearest = nearest_point(centre, place)
        if math.dist(nearest, centre) > radius + 10:
            leader = to_axes([centre, nearest])
            ax.plot(*leader.T, color=MUTED, lw=0.7, zorder=2, transform=ax.transAxes)


def protocols_figure(record: RunRecord, group: Sequence[Protocol]) -> Any | None:
    """Accuracy of all models under every protocol of one dataset and reference, a row each.

    None if every protocol has plots of its own, or without accuracies.
    """
    group = queries.listed(group)
    frame = frames.protocol_frame(record, group)
    if len(group) <= queries.MOST_HEADLINES or frame.empty:
        return None
    shown = [p for p in group if p in set(frame["protocol"])]
    bars = "Bars: 95 % bootstrap intervals over images. The numbers are in the tables of accuracy."
    teacher = reference_model(group[0].reference)
    agreement = (
        f"Agreement with the masks of {teacher}, which is not accuracy; {teacher} is left out."
    )
    notes = [bars, *([agreement] if teacher else []), *_missing_notes(record, group)]
    row_in = 0.14 + MODEL_IN * len(unique(frame["model"]))
    title = f"mIoU by protocol: vs {group[0].reference}, {group[0].dataset}"
    figure = style.new_figure(1.0 + row_in * len(shown), title, notes)
    ax = figure.subplots()
    _rows_only(ax)
    for line in range(0, len(shown), 2):
        ax.axhspan(line - 0.5, line + 0.5, color="#f4f4f4", linewidth=0, zorder=0)
    ax.set_yticks(range(len(shown)), [p.protocol for p in shown])
    ax.set_ylim(len(shown) - 0.5, -0.5)
    frame = frame.assign(place=frame["protocol"].map(shown.index))
    _draw_side_by_side(ax, record, frame, MODEL_IN / row_in, lines=False)
    ax.set_xlim(*frames.percent_limits(frames.values_of(frame)))
    ax.set_xlabel("mIoU (%)")
    return figure


def clicks_figure(record: RunRecord, group: Sequence[Protocol], kind: str = "clicks") -> Any | None:
    """Accuracy under the protocols `clicks-K` of a group, a line for every model.

    `kind` is `clicks` or `clicks-multi`. None without an accuracy after at least two clicks.
    """
    steps = {p: click_sequence(p.protocol) for p in group}
    clicked = {p: step[1] for p, step in steps.items() if step is not None and step[0] == kind}
    frame = frames.protocol_frame(record, list(clicked))
    most = 0 if frame.empty else max(clicked[p] for p in frame["protocol"])
    if most < 2:
        return None
    multi = kind == "clicks-multi"
    masks = "At every click, the best scored of three masks. " if multi else ""
    notes = [
        "The first click is the centre of the object, each further one that of the largest error. "
        f"{masks}"
        "Bars: 95 % bootstrap intervals over images. The dots of a click stand side by side.",
        *_missing_notes(record, list(clicked)),
    ]
    best = ", best of three masks" if multi else ""
    title = f"mIoU by number of clicks{best}: vs {group[0].reference}, {group[0].dataset}"
    figure = style.new_figure(4.0, title, notes)
    ax = figure.subplots()
    ax.grid(visible=True, axis="y")
    frame = frame.assign(place=frame["protocol"].map(clicked))
    step = min(0.06, 0.5 / len(unique(frame["model"])))
    _draw_side_by_side(ax, record, frame, step, lines=True)
    ax.set_xticks(range(1, most + 1))
    ax.set_xlim(0.5, most + 0.5)
    ax.set_ylim(*frames.percent_limits(frames.values_of(frame)))
    ax.set(xlabel="Clicks", ylabel="mIoU (%)")
    return figure


def robustness_figure(record: RunRecord, clean: Protocol, family: str, frame: Any) -> Any:
    """Accuracy by the percentage of disturbance, a line for every model."""
    notes = [frames.robustness_note(clean), "The dots of a percentage stand side by side."]
    title = f"mIoU under {family}: vs {clean.reference}, {clean.dataset}"
    figure = style.new_figure(4.0, title, notes)
    ax = figure.subplots()
    ax.grid(visible=True, axis="y")
    percents, models = sorted(set(frame["percent"])), unique(frame["model"])
    gap = min(high - low for low, high in pairwise(percents))
    step = min(0.012 * percents[-1], 0.5 * gap / len(models))
    _draw_side_by_side(ax, record, frame.assign(place=frame["percent"]), step, lines=True)
    ax.set_xticks(percents, [f"{percent:g}" for percent in percents])
    ax.set_ylim(*frames.percent_limits(frames.values_of(frame)))
    ax.set(xlabel=frames.DISTURBANCES[family], ylabel="mIoU (%)")
    return figure


def _draw_side_by_side(ax: Any, record: RunRecord, frame: Any, step: float, *, lines: bool) -> None:
    """Dots, intervals and a legend of all models, moved apart by `step` from their `place`.

    Values are along y and joined by lines, or without `lines` along x.
    """
    from matplotlib.lines import Line2D

    styles, models = model_styles(model_names(record)), unique(frame["model"])
    names, handles = short_names(models), []
    for index, model in enumerate(models):
        part = frame[frame["model"] == model]
        if lines:
            part = part.sort_values("place", kind="stable")
        offset = step * (index - (len(models) - 1) / 2)
        places = [place + offset for place in part["place"]]
        color, dash = styles[model].color, styles[model].dash if lines else "none"
        for place, low, high in zip(places, part["low"], part["high"], strict=True):
            if low is not None:
                bar = ((place, place), (low, high)) if lines else ((low, high), (place, place))
                ax.plot(*bar, color=color, linewidth=1.2 if lines else 1.4, alpha=0.8)
        look: dict[str, Any] = {"color": color, "linestyle": dash}
        look |= {"marker": styles[model].marker, "markersize": MARKER_PT}
        values = part["value"].tolist()
        dots = (places, values) if lines else (values, places)
        ax.plot(*dots, linewidth=1.4, zorder=3, clip_on=lines, **look)
        handles.append(Line2D([], [], label=names[model], **look))
    # Names above the axes, in as many columns as fit.
    fit = max(1, LEGEND_LENGTH // (max(map(len, names.values())) + (8 if lines else 5)))
    columns = -(-len(models) // -(-len(models) // fit))
    _legend(ax, handles, ncols=columns, columnspacing=1.2, handlelength=2.4 if lines else 1)


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
        where = "every protocol" if len(missing) == len(group) else ", ".join(missing)
        notes.append(f"No dot in {where}: {', '.join(models)} ({shorten(why, 120)}).")
    return notes
