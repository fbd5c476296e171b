"""The HTML report's figures of accuracy: against latency, and by the size of objects."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from benchmarks.records.record import RunRecord
from benchmarks.report.accuracy_plot import (
    CROSS_AREA_PT2,
    Point,
    accuracy_points,
    area_scale,
    bars_note,
    pareto_front,
)
from benchmarks.report.html_axes import (
    WIDE_PX,
    Box,
    draw_axes,
    draw_legend,
    draw_y_axis,
    error_bars,
    legend_height,
)
from benchmarks.report.html_figure import Figure, drawings, legend, series
from benchmarks.report.html_svg import FONT_PX, Canvas, Scale, log_scale, text_width
from benchmarks.report.labels import Rect, Spot, marker, nearest_point, place_labels
from benchmarks.report.protocol_plot import percent_limits
from benchmarks.report.style import model_styles, short_names
from benchmarks.tables.columns import ENDS, percent_cell, spread_ends, text_cell
from benchmarks.tables.formatting import interval, slug, spread_text
from benchmarks.tables.record_queries import (
    Protocol,
    Setup,
    find_miou,
    miou_percent,
    model_names,
    setups,
)
from benchmarks.tables.table import Cell, Column, Table

PX_PER_PT = 4 / 3
SIZES = ("small", "medium", "large")
_SIZE_OFFSET_PX = 11.0
_LEAST_PX = 5.0


def accuracy_latency(record: RunRecord, setup: Setup, protocol: Protocol) -> Figure | None:
    """Draws mIoU against latency with error bars and the Pareto front; None without points."""
    points, label, notes = accuracy_points(record, setup, protocol)
    if not points:
        return None
    front = [point.model for point in pareto_front(points)]
    title = f"mIoU against latency: {protocol.label}"
    alt = (
        f"{len(points)} models by latency ({label}) and mIoU. On the Pareto front, from fast to "
        f"slow: {', '.join(front)}."
    )
    wide, narrow = drawings(lambda width: _scatter(record, points, label, width), title, alt)
    return Figure(
        key=slug(f"accuracy-latency-{protocol.label}-{setup.label}"),
        title=title,
        alt=alt,
        wide=wide,
        narrow=narrow,
        table=_points_table(points, label, front),
        notes=(
            f"{setup.label}. {bars_note(points)} Area of a mark: parameters used; a cross has none "
            "or an unknown number. Dashed: the Pareto front, the models that no other beats in "
            "both.",
            *notes,
        ),
        choice=protocol.label if len(setups(record)) == 1 else f"{protocol.label}, {setup.label}",
    )


def _points_table(points: Sequence[Point], label: str, front: Sequence[str]) -> Table:
    columns = (
        Column("Model", ("model",)),
        Column(
            f"Latency, {label}", ("time_ms", *(f"time_{end}_ms" for end in ENDS)), "ms", "right"
        ),
        Column("mIoU", ("miou_percent", "miou_low", "miou_high"), "%", "right"),
        Column("Parameters used", ("parameters",), align="right"),
        Column("Pareto front", ("pareto",)),
    )
    rows = tuple(
        (
            text_cell(p.model),
            Cell(spread_text(p.time_ms, p.time_spread), (p.time_ms, *spread_ends(p.time_spread))),
            Cell(interval(p.miou, p.miou_bounds, 1), (p.miou, *(p.miou_bounds or _NONE))),
            Cell("" if p.parameters is None else f"{p.parameters:,}", (p.parameters,)),
            text_cell("yes" if p.model in front else "no"),
        )
        for p in sorted(points, key=lambda p: p.time_ms)
    )
    return Table("points", "The points of the figure", columns, rows)


_NONE = (None, None)


def _scatter(record: RunRecord, points: Sequence[Point], label: str, width: float) -> Canvas:
    narrow = width < WIDE_PX
    canvas = Canvas(width, 330 if narrow else 400)
    box = Box(38, 28, width - 10, canvas.height_px - 42)
    ends = [e for p in points for e in (p.time_ms, *(p.time_bounds_ms or ())) if e > 0]
    x = log_scale([min(ends) / 1.4, max(ends) * 1.4], box.left, box.right)
    values = [v for p in points for v in (p.miou, *(p.miou_bounds or ()))]
    pad = max(3.0, 0.15 * (max(values) - min(values)))
    y = Scale(max(0, min(values) - pad), min(104, max(values) + pad), box.bottom, box.top)
    draw_axes(canvas, box, x, y, (f"Latency, {label} (ms, log scale)", "mIoU (%)"))
    corners = _front(points, x, y, box.right)
    canvas.polyline(corners, "front")
    share = area_scale([p.parameters for p in points if p.parameters])
    size = PX_PER_PT * (0.6 if narrow else 1)
    spots = [_spot(record, p, x, y, max(_LEAST_PX, size * _radius_pt(p, share))) for p in points]
    numbers, styles = series(record), model_styles(model_names(record))
    # Large marks first, so that small ones lie on top and can be pointed at.
    for point, spot in sorted(zip(points, spots, strict=True), key=lambda pair: -pair[1].radius):
        tip = (
            f"{point.model}: mIoU {interval(point.miou, point.miou_bounds, 1)} %, {label} "
            f"{spread_text(point.time_ms, point.time_spread)} ms"
        )
        with canvas.mark(tip, numbers[point.model]):
            kind = styles[point.model].marker if point.parameters else "x"
            canvas.marker(kind, spot.x, spot.y, spot.radius, "area" if point.parameters else "line")
            error_bars(
                canvas,
                (spot.x, spot.y),
                None if point.time_bounds_ms is None else _both(x, point.time_bounds_ms),
                None if point.miou_bounds is None else _both(y, point.miou_bounds),
            )
    bars = [bar for p, s in zip(points, spots, strict=True) for bar in _bars(p, s, x, y)]
    _names(canvas, box, points, spots, record, corners, bars)
    return canvas


def _bars(point: Point, spot: Spot, x: Scale, y: Scale) -> list[Rect]:
    """Where the error bars of a point lie, with a little room."""
    top, bottom = (y(end) for end in reversed(point.miou_bounds or (point.miou, point.miou)))
    left, right = (x(end) for end in point.time_bounds_ms or (point.time_ms, point.time_ms))
    return [
        Rect(spot.x - 5, top - 3, spot.x + 5, bottom + 3),
        Rect(left - 3, spot.y - 5, right + 3, spot.y + 5),
    ]


def _both(scale: Scale, ends: tuple[float, float]) -> tuple[float, float]:
    return scale(ends[0]), scale(ends[1])


def _radius_pt(point: Point, share: float) -> float:
    area = share * point.parameters if point.parameters else CROSS_AREA_PT2
    return math.sqrt(area / math.pi)


def _spot(record: RunRecord, point: Point, x: Scale, y: Scale, radius: float) -> Spot:
    name = short_names(model_names(record))[point.model]
    return Spot(x(point.time_ms), y(point.miou), radius, text_width(name) + 4, FONT_PX + 2)


def _front(
    points: Sequence[Point], x: Scale, y: Scale, right_px: float
) -> list[tuple[float, float]]:
    """Corners of the staircase along the Pareto front, in pixels."""
    corners: list[tuple[float, float]] = []
    for point in pareto_front(points):
        at = (x(point.time_ms), y(point.miou))
        corners += [(at[0], corners[-1][1]), at] if corners else [at]
    return [*corners, (right_px, corners[-1][1])]


def _names(
    canvas: Canvas,
    box: Box,
    points: Sequence[Point],
    spots: Sequence[Spot],
    record: RunRecord,
    corners: Sequence[tuple[float, float]],
    bars: Sequence[Rect],
) -> None:
    """Writes the names where they hide neither each other nor the marks."""
    names, numbers = short_names(model_names(record)), series(record)
    lines = [
        Rect(min(a[0], b[0]) - 2, min(a[1], b[1]) - 2, max(a[0], b[0]) + 2, max(a[1], b[1]) + 2)
        for a, b in pairwise(corners)
    ]
    obstacles = [*(marker(spot) for spot in spots), *lines, *bars]
    frame = Rect(box.left, box.top, box.right, box.bottom)
    for point, spot, place in zip(
        points, spots, place_labels(spots, obstacles, frame), strict=True
    ):
        with canvas.group(f"label s{numbers[point.model]}", data_series=numbers[point.model]):
            near = nearest_point(spot, place)
            if math.dist(near, (spot.x, spot.y)) > spot.radius + 12:
                canvas.line(spot.x, spot.y, *near, "leader")
            middle = ((place.x0 + place.x1) / 2, (place.y0 + place.y1) / 2)
            canvas.text(middle[0], middle[1] + 4, names[point.model], "name", "middle")


def accuracy_by_size(record: RunRecord, protocol: Protocol) -> Figure | None:
    """Draws mIoU over all objects and by their size; None without an accuracy."""
    models = [m for m in model_names(record) if miou_percent(find_miou(record, protocol, m))]
    if not models:
        return None
    title = f"mIoU by object size: {protocol.label}"
    alt = f"mIoU of {', '.join(models)} over all objects, small, medium and large ones."
    wide, narrow = drawings(lambda width: _sizes(record, protocol, models, width), title, alt)
    missing = [model for model in model_names(record) if model not in models]
    left_out = [f"No accuracy under this protocol: {', '.join(missing)}."] if missing else []
    return Figure(
        key=slug(f"size-{protocol.label}"),
        title=title,
        alt=alt,
        wide=wide,
        narrow=narrow,
        table=_sizes_table(record, protocol, models),
        notes=(
            "Bars: 95 % bootstrap interval over images, for all objects. Small < 32^2 <= medium < "
            "96^2 <= large, in pixels of annotation area; n: objects.",
            *left_out,
        ),
        choice=protocol.label,
    )


def _of_size(
    record: RunRecord, protocol: Protocol, model: str, size: str
) -> tuple[float | None, float | None]:
    """Mean IoU (fraction) of a size class, or of all objects, and how many they are."""
    row = find_miou(record, protocol, model)
    if row is None:
        return None, None
    if size == "all":
        return row.miou, row.n_instances
    return getattr(row.by_size, size), getattr(row.n_by_size, size)


def _sizes_table(record: RunRecord, protocol: Protocol, models: Sequence[str]) -> Table:
    shown = ("all", *SIZES)
    columns = (
        Column("Model", ("model",)),
        *(Column(size.capitalize(), (f"miou_{size}", f"n_{size}"), "%", "right") for size in shown),
    )
    rows = []
    for model in models:
        cells = [text_cell(model)]
        for size in shown:
            value, n = _of_size(record, protocol, model, size)
            text = percent_cell(value).text
            cells.append(Cell(text, (value, None if n is None else int(n))))
        rows.append(tuple(cells))
    return Table("sizes", "The values of the figure", columns, tuple(rows))


def _sizes(record: RunRecord, protocol: Protocol, models: Sequence[str], width: float) -> Canvas:
    items = legend(record, models)
    canvas = Canvas(width, 296 + legend_height(items, width))
    box = Box(38, 28, width - 10, 252)
    shown = ("all", *SIZES)
    means = {m: miou_percent(find_miou(record, protocol, m)) for m in models}
    values = [100 * v for m in models for s in shown if (v := _of_size(record, protocol, m, s)[0])]
    values += [end for mean in means.values() if mean for end in mean[1] or ()]
    y = Scale(*percent_limits(values or [0.0]), box.bottom, box.top)
    draw_y_axis(canvas, box, y, "mIoU (%)")
    canvas.line(box.left, box.bottom, box.right, box.bottom, "axis")
    numbers, styles = series(record), model_styles(model_names(record))
    slot = (box.right - box.left) / len(shown)
    step = min(_SIZE_OFFSET_PX, 0.8 * slot / len(models))
    for index, size in enumerate(shown):
        middle = box.left + slot * (index + 0.5)
        counts = {_of_size(record, protocol, model, size)[1] for model in models}
        count = counts.pop() if len(counts) == 1 else None
        canvas.text(middle, box.bottom + 16, size, "name", "middle")
        canvas.text(middle, box.bottom + 32, f"n = {count or 0:.0f}", "tick", "middle")
        for place, model in enumerate(models):
            value, _ = _of_size(record, protocol, model, size)
            if value is None:
                continue
            at = (middle + step * (place - (len(models) - 1) / 2), y(100 * value))
            bounds = (means[model] or (0, None))[1] if size == "all" else None
            tip = f"{model}, {size} objects: mIoU {interval(100 * value, bounds, 1)} %"
            with canvas.mark(tip, numbers[model]):
                error_bars(canvas, at, None, None if bounds is None else _both(y, bounds))
                canvas.marker(styles[model].marker, *at, 5, "dot")
    draw_legend(canvas, items, box.bottom + 42)
    return canvas
