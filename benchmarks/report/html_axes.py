"""Axes, error bars and legends of the HTML report's drawings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from benchmarks.report.html_svg import SMALL_PX, Canvas, Scale, text_width
from benchmarks.report.style import Dash, ModelStyle, plain

WIDE_PX, NARROW_PX = 760.0, 344.0
"""Widths of the two drawings of a figure: for a desk, and for a window of 400 px."""
_CAP_PX = 3.0
_LEGEND_ROW_PX = 20.0
_LEGEND_GAP_PX = 18.0
_SWATCH_PX = 24.0
_TICK_ROOM_PX = 64.0
_TICK_HEIGHT_PX = 30.0
_DASH_PX = 1.6


@dataclass(frozen=True, slots=True)
class Box:
    """The rectangle between the axes, in pixels, y downwards."""

    left: float
    top: float
    right: float
    bottom: float


def draw_axes(canvas: Canvas, box: Box, x: Scale, y: Scale, labels: tuple[str, str]) -> None:
    """Grid, ticks and names of two numeric axes.

    Args:
        canvas: Where to draw.
        box: Where the axes end.
        x: From `box.left` to `box.right`.
        y: From `box.bottom` to `box.top`.
        labels: Quantity and unit of x and of y.
    """
    for value in x.ticks(max(2, int((box.right - box.left) / _TICK_ROOM_PX))):
        canvas.line(x(value), box.top, x(value), box.bottom, "grid")
        canvas.text(x(value), box.bottom + 15, plain(value), "tick", "middle")
    draw_y_axis(canvas, box, y, labels[1])
    canvas.line(box.left, box.bottom, box.right, box.bottom, "axis")
    canvas.text((box.left + box.right) / 2, box.bottom + 33, labels[0], "name", "middle")


def draw_y_axis(canvas: Canvas, box: Box, y: Scale, label: str) -> None:
    """Horizontal grid lines with their values, and the axis's name above them."""
    for value in y.ticks(max(2, int((box.bottom - box.top) / _TICK_HEIGHT_PX))):
        canvas.line(box.left, y(value), box.right, y(value), "grid")
        canvas.text(box.left - 6, y(value) + 4, plain(value), "tick", "end")
    canvas.text(4, box.top - 9, label, "name")


def error_bars(
    canvas: Canvas,
    at: tuple[float, float],
    x_ends: tuple[float, float] | None = None,
    y_ends: tuple[float, float] | None = None,
) -> None:
    """Bars with caps through a point, all in pixels."""
    x, y = at
    if x_ends is not None:
        canvas.line(x_ends[0], y, x_ends[1], y, "bar")
        for end in x_ends:
            canvas.line(end, y - _CAP_PX, end, y + _CAP_PX, "bar")
    if y_ends is not None:
        canvas.line(x, y_ends[0], x, y_ends[1], "bar")
        for end in y_ends:
            canvas.line(x - _CAP_PX, end, x + _CAP_PX, end, "bar")


def dash_array(dash: Dash) -> str:
    """A matplotlib line style as `stroke-dasharray`; empty for a solid line."""
    if isinstance(dash, str):
        return ""
    return " ".join(f"{_DASH_PX * part:.1f}" for part in dash[1])


@dataclass(frozen=True, slots=True)
class LegendItem:
    """A model in a legend.

    Attributes:
        series: Its number.
        label: As printed.
        style: Its look.
        hollow: Measured with random weights.
        line: Whether its values are joined.
    """

    series: int
    label: str
    style: ModelStyle
    hollow: bool = False
    line: bool = False

    def labelled(self, label: str) -> LegendItem:
        """The same item with another text."""
        return replace(self, label=label)


def legend_height(items: Sequence[LegendItem], width_px: float) -> float:
    """Height that `draw_legend` takes."""
    return _LEGEND_ROW_PX * (1 + max((row for row, _ in _places(items, width_px)), default=-1))


def draw_legend(canvas: Canvas, items: Sequence[LegendItem], top: float) -> None:
    """Names with their markers, in as many rows as they need; scripts make them switches."""
    for item, (row, x) in zip(items, _places(items, canvas.width_px), strict=True):
        y = top + _LEGEND_ROW_PX * (row + 0.5)
        with canvas.group(f"key s{item.series}", data_series=item.series):
            width = _SWATCH_PX + text_width(item.label, SMALL_PX) + 6
            canvas.add("rect", "hit", x=x - 4, y=y - 10, width=width, height=_LEGEND_ROW_PX, rx=4)
            if item.line:
                dash = dash_array(item.style.dash)
                canvas.polyline([(x, y), (x + 18, y)], "line", dash)
            css = "hollow" if item.hollow else "dot"
            canvas.marker(item.style.marker, x + 9, y, 4.5, css)
            canvas.text(x + _SWATCH_PX, y + 4, item.label, "small")


def _places(items: Sequence[LegendItem], width_px: float) -> list[tuple[int, float]]:
    """Row and left end of every item."""
    found: list[tuple[int, float]] = []
    row, x = 0, 6.0
    for item in items:
        width = _SWATCH_PX + text_width(item.label, SMALL_PX)
        if x > 6 and x + width > width_px:
            row, x = row + 1, 6.0
        found.append((row, x))
        x += width + _LEGEND_GAP_PX
    return found
