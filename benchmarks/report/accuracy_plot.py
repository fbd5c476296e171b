"""Accuracy against time: one point a model, with its intervals, its size and its name."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from benchmarks.records.record import RunRecord
from benchmarks.records.statistics import Spread
from benchmarks.report.labels import Rect, Spot, marker, nearest_point, place_labels
from benchmarks.report.style import (
    INK,
    MUTED,
    ModelStyle,
    log_axis,
    model_styles,
    new_figure,
    plain,
    short_names,
)
from benchmarks.tables.columns import bars_text
from benchmarks.tables.record_queries import (
    Bounds,
    Protocol,
    Setup,
    find_latency,
    find_miou,
    has_accuracy,
    has_random_weights,
    model_names,
    shipped_models_notes,
    timed,
    used_parameters,
)

MOST_AREA_PT2 = 1600.0
WANTED_LEAST_AREA_PT2 = 120.0
CROSS_AREA_PT2 = 64.0


@dataclass(frozen=True, slots=True)
class Point:
    """One model in the plot of accuracy against time.

    Attributes:
        model: Its name.
        time_ms: Median time.
        time_spread: Interval or range of the time; None where it is not known.
        miou: In percent.
        miou_bounds: In percent; None where the run gave no interval.
        parameters: Used in the forward pass; None where not counted.
    """

    model: str
    time_ms: float
    time_spread: Spread | None
    miou: float
    miou_bounds: Bounds | None
    parameters: int | None

    @property
    def time_bounds_ms(self) -> Bounds | None:
        """Ends of the error bar of the time."""
        return None if self.time_spread is None else self.time_spread.bounds


def pareto_front(points: Sequence[Point]) -> list[Point]:
    """Points that no other beats in both time and accuracy, from fast to slow."""
    front: list[Point] = []
    for point in sorted(points, key=lambda p: (p.time_ms, -p.miou, p.model)):
        if not front or point.miou > front[-1].miou:
            front.append(point)
    return front


def _end_to_end(record: RunRecord, setup: Setup, model: str) -> tuple[float, Spread | None] | None:
    return timed(find_latency(record, setup, model, "end_to_end"))


def _encode_decode(
    record: RunRecord, setup: Setup, model: str
) -> tuple[float, Spread | None] | None:
    """Sum of two medians; the ends of the intervals are added too, which is the cautious side."""
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


def accuracy_points(
    record: RunRecord, setup: Setup, protocol: Protocol
) -> tuple[list[Point], str, list[str]]:
    """What the plot of accuracy against time shows.

    The axis is end to end for all models, or encode plus one decode for all, never a mixture: the
    latter only where end to end is missing for some accurate model and this leaves out no more.

    Returns:
        Points, the label of the time axis, and notes about shipped weights and models left out.
    """
    models = model_names(record)
    rows = {model: find_miou(record, protocol, model) for model in models}
    accurate = [model for model in models if has_accuracy(rows[model])]
    whole = {model: _end_to_end(record, setup, model) for model in accurate}
    sums = {model: _encode_decode(record, setup, model) for model in accurate}
    n_whole, n_sums = (sum(time is not None for time in each.values()) for each in (whole, sums))
    use_sums = n_whole < len(accurate) and n_sums >= n_whole
    times = sums if use_sums else whole
    label = "encode + decode of one prompt" if use_sums else "end to end"
    points = []
    for model in accurate:
        row, time = rows[model], times[model]
        if row is None or row.miou is None or time is None:
            continue
        bounds = None if row.ci95 is None else (100 * row.ci95[0], 100 * row.ci95[1])
        parameters = used_parameters(record, model)
        points.append(Point(model, *time, 100 * row.miou, bounds, parameters))
    untimed = set(accurate) - {point.model for point in points}
    notes = [
        *shipped_models_notes(record, [point.model for point in points]),
        *_left_out(record, accurate, [m for m in accurate if m in untimed], label),
    ]
    return points, label, notes


def _left_out(
    record: RunRecord, accurate: Sequence[str], untimed: Sequence[str], label: str
) -> list[str]:
    """One note about each group of models that the plot does not show."""
    models = model_names(record)
    random = [m for m in models if m not in accurate and has_random_weights(record, m)]
    other = [m for m in models if m not in accurate and m not in random]
    groups = (
        ("Random weights, so no accuracy", random),
        ("No accuracy under this protocol", other),
        (f"No time ({label}) in this setup", untimed),
    )
    return [f"{text}: {', '.join(names)}." for text, names in groups if names]


def accuracy_figure(record: RunRecord, setup: Setup, protocol: Protocol) -> Any | None:
    """Accuracy against time with the Pareto front; None without points.

    The area of a marker stands for the parameters used.
    """
    points, label, notes = accuracy_points(record, setup, protocol)
    if not points:
        return None
    notes = [
        f"{setup.label}. {bars_note(points)} Marker area: parameters used; a cross has none or an "
        "unknown number. Dashed: Pareto front, the models that no other beats in both.",
        *notes,
    ]
    figure = new_figure(4.3, f"mIoU against latency: {protocol.label}", notes)
    ax = figure.subplots()
    ax.grid(visible=True)
    ends = [end for p in points for end in (p.time_ms, *(p.time_bounds_ms or ())) if end > 0]
    # Room for names beside the outermost points.
    log_axis(ax.xaxis, min(ends) / 1.3, max(ends) * 1.3, ticks=9)
    values = [value for p in points for value in (p.miou, *(p.miou_bounds or ()))]
    pad = max(3.0, 0.15 * (max(values) - min(values)))
    ax.set_ylim(min(values) - pad, max(values) + pad)
    ax.set_xlabel(f"Latency, {label} (ms, log scale)")
    ax.set_ylabel("mIoU (%)")
    corners = _front_corners(points, ax.get_xlim()[1])
    if len(points) > 1:
        ax.plot(*zip(*corners, strict=True), color=MUTED, lw=1, linestyle=(0, (4, 2)), zorder=1)
    styles = model_styles(model_names(record))
    scale = area_scale([point.parameters for point in points if point.parameters])
    for point in points:
        _draw_point(ax, point, styles[point.model], scale)
    _size_legend(ax, points, scale)
    _name_points(figure, ax, points, corners, scale)
    return figure


def bars_note(points: Sequence[Point]) -> str:
    """Explains the error bars of times and of accuracies."""
    times = bars_text(point.time_spread for point in points)
    same = times == "95 % interval"
    text = "95 % intervals" if same else f"95 % interval of mIoU, {times} of time"
    return f"Error bars: {text}."


def area_scale(parameters: Sequence[int]) -> float:
    """Marker area in square points of one parameter.

    The same for all models of a plot, so that areas compare: the smallest model is made easy to
    see unless the largest would then cover its neighbours.
    """
    if not parameters:
        return 0.0
    return min(WANTED_LEAST_AREA_PT2 / min(parameters), MOST_AREA_PT2 / max(parameters))


def _front_corners(points: Sequence[Point], right_ms: float) -> list[tuple[float, float]]:
    """Corners of the staircase along the Pareto front, in data coordinates."""
    front = pareto_front(points)
    corners: list[tuple[float, float]] = []
    for point in front:
        if corners:
            corners.append((point.time_ms, corners[-1][1]))
        corners.append((point.time_ms, point.miou))
    return [*corners, (right_ms, corners[-1][1])]


def _area_pt2(point: Point, scale: float) -> float:
    return scale * point.parameters if point.parameters else CROSS_AREA_PT2


def _draw_point(ax: Any, point: Point, style: ModelStyle, scale: float) -> None:
    def lengths(value: float, bounds: Bounds | None) -> list[list[float]] | None:
        if bounds is None:
            return None
        return [[max(0.0, value - bounds[0])], [max(0.0, bounds[1] - value)]]

    ax.errorbar(
        point.time_ms,
        point.miou,
        xerr=lengths(point.time_ms, point.time_bounds_ms),
        yerr=lengths(point.miou, point.miou_bounds),
        color=style.color,
        elinewidth=1.1,
        capsize=2,
        linestyle="none",
        zorder=4,
    )
    sized = bool(point.parameters)
    # A large marker lets its error bars be seen; a small one lies on top so as to be seen itself.
    large = _area_pt2(point, scale) > 2 * WANTED_LEAST_AREA_PT2
    ax.scatter(
        point.time_ms,
        point.miou,
        s=_area_pt2(point, scale),
        color=style.color,
        marker=style.marker if sized else "x",
        alpha=0.5 if large else 1,
        linewidths=0 if sized else 1.8,
        zorder=3 if large else 5,
    )


def _size_legend(ax: Any, points: Sequence[Point], scale: float) -> None:
    sizes = [point.parameters for point in points if point.parameters]
    if not sizes:
        return
    first = round(math.log10(min(sizes)))
    # The larger one is never larger than the largest marker of the plot.
    ends = (first, max(first, math.floor(math.log10(max(sizes)))))
    handles = [
        ax.scatter(
            [],
            [],
            s=scale * size,
            color=MUTED,
            linewidths=0,
            label=f"{plain(size / 1e6)} x 10^6 parameters",
        )
        for size in sorted({10**end for end in ends})
    ]
    ax.legend(
        handles=handles,
        loc="lower right",
        bbox_to_anchor=(1, 1),
        ncols=len(handles),
        frameon=False,
        fontsize=8,
        borderaxespad=0,
    )


def _name_points(
    figure: Any,
    ax: Any,
    points: Sequence[Point],
    corners: Sequence[tuple[float, float]],
    scale: float,
) -> None:
    """Writes the names once the layout stands, since their places depend on it."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    names = short_names([point.model for point in points])
    to_px = ax.transData.transform
    spots, obstacles = [], []
    for point in points:
        x, y = to_px((point.time_ms, point.miou))
        radius = math.sqrt(_area_pt2(point, scale) / math.pi) * figure.dpi / 72
        spot = Spot(x, y, radius, *_text_size(figure, ax, names[point.model]))
        spots.append(spot)
        low, high = point.miou_bounds or (point.miou, point.miou)
        left, right = point.time_bounds_ms or (point.time_ms, point.time_ms)
        obstacles += [
            marker(spot),
            _segment(to_px((point.time_ms, low)), to_px((point.time_ms, high))),
            _segment(to_px((max(left, 1e-9), point.miou)), to_px((right, point.miou))),
        ]
    pixels = [to_px(corner) for corner in corners]
    obstacles += [_segment(a, b) for a, b in pairwise(pixels)]
    box = ax.get_window_extent()
    places = place_labels(spots, obstacles, Rect(box.x0, box.y0, box.x1, box.y1))
    for point, spot, place in zip(points, spots, places, strict=True):
        _write_name(ax, names[point.model], spot, place)


def _segment(start: Sequence[float], end: Sequence[float]) -> Rect:
    """A horizontal or vertical line in pixels, with a little room on all sides."""
    (x0, x1), (y0, y1) = sorted((start[0], end[0])), sorted((start[1], end[1]))
    return Rect(x0 - 3, y0 - 3, x1 + 3, y1 + 3)


def _text_size(figure: Any, ax: Any, text: str) -> tuple[float, float]:
    probe = ax.text(0, 0, text, fontsize=9)
    extent = probe.get_window_extent(figure.canvas.get_renderer())
    probe.remove()
    return float(extent.width), float(extent.height)


def _write_name(ax: Any, name: str, spot: Spot, place: Rect) -> None:
    to_axes = ax.transAxes.inverted().transform
    centre = ((place.x0 + place.x1) / 2, (place.y0 + place.y1) / 2)
    ax.text(
        *to_axes(centre),
        name,
        fontsize=9,
        ha="center",
        va="center",
        color=INK,
        transform=ax.transAxes,
        zorder=6,
    )
    nearest = nearest_point(spot, place)
    if math.dist(nearest, (spot.x, spot.y)) > spot.radius + 10:
        ends = to_axes([(spot.x, spot.y), nearest])
        ax.plot(*zip(*ends, strict=True), color=MUTED, lw=0.7, zorder=2, transform=ax.transAxes)
