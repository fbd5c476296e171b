"""Small SVG drawings for the HTML report: elements with everything escaped, scales and axes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from markupsafe import Markup, escape

from benchmarks.tables.formatting import clean

FONT_PX = 12.0
SMALL_PX = 11.0
GLYPH = 0.56
"""Mean width of a character, as a share of the font's size: no browser is there to be asked."""

Attribute = str | float | int
_POLYGONS: dict[str, tuple[tuple[float, float], ...]] = {
    "s": ((-0.88, -0.88), (0.88, -0.88), (0.88, 0.88), (-0.88, 0.88)),
    "^": ((0, -1.15), (1.05, 0.8), (-1.05, 0.8)),
    "v": ((0, 1.15), (1.05, -0.8), (-1.05, -0.8)),
    "D": ((0, -1.2), (1.2, 0), (0, 1.2), (-1.2, 0)),
    "P": (
        (-0.4, -1.1), (0.4, -1.1), (0.4, -0.4), (1.1, -0.4), (1.1, 0.4), (0.4, 0.4), (0.4, 1.1),
        (-0.4, 1.1), (-0.4, 0.4), (-1.1, 0.4), (-1.1, -0.4), (-0.4, -0.4),
    ),
}  # fmt: skip
"""Outlines of matplotlib's markers, in radii."""


def text_width(text: str, size_px: float = FONT_PX) -> float:
    """About how wide a text is, in pixels."""
    return GLYPH * size_px * len(text)


@dataclass(frozen=True, slots=True)
class Scale:
    """From values to pixels.

    Attributes:
        low: Value at `start_px`.
        high: Value at `end_px`.
        start_px: Left or bottom end.
        end_px: Right or top end.
        log: Whether it is logarithmic.
    """

    low: float
    high: float
    start_px: float
    end_px: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """Pixel of a value; on a log scale, what is not positive lies at the low end."""
        if self.log:
            low, high = math.log10(self.low), math.log10(self.high)
            at = math.log10(value) if value > 0 else low
        else:
            low, high, at = self.low, self.high, value
        return self.start_px + (at - low) / (high - low) * (self.end_px - self.start_px)

    def ticks(self, most: int) -> list[float]:
        """At most so many round values within the scale, ascending."""
        return _log_ticks(self.low, self.high, most) if self.log else self._linear_ticks(most)

    def _linear_ticks(self, most: int) -> list[float]:
        span = self.high - self.low
        power = 10.0 ** math.floor(math.log10(span / most))
        step = next(m * power for m in (1, 2, 5, 10, 20) if span / (m * power) <= most - 0.5)
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [index * step for index in range(first, last + 1)]


def log_scale(values: Sequence[float], start_px: float, end_px: float) -> Scale:
    """A log scale around all values (positive): at least a decade, with a margin."""
    first, last = math.log10(min(values)), math.log10(max(values))
    missing = max(0.0, 1 - (last - first)) / 2
    first, last = first - missing, last + missing
    margin = 0.07 * (last - first)
    return Scale(10 ** (first - margin), 10 ** (last + margin), start_px, end_px, log=True)


def _log_ticks(low: float, high: float, most: int) -> list[float]:
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for multiples in ((1, 2, 5), (1, 3), (1,)):
        found = [m * 10.0**d for d in decades for m in multiples if low <= m * 10.0**d <= high]
        if len(found) <= most:
            return found
    return found[:: -(-len(found) // most)]


class Canvas:
    """Collects the elements of one drawing.

    Args:
        width_px: Of its view box.
        height_px: Of its view box.
    """

    def __init__(self, width_px: float, height_px: float) -> None:
        self.width_px = width_px
        self.height_px = height_px
        self._parts: list[str] = []

    def add(self, tag: str, css: str, **attributes: Attribute) -> None:
        """An element without content; `stroke_width=2` is written `stroke-width="2"`."""
        self._parts.append(f"<{tag}{_attributes(css, attributes)}/>")

    def line(self, x0: float, y0: float, x1: float, y1: float, css: str) -> None:
        """A straight line."""
        self.add("line", css, x1=x0, y1=y0, x2=x1, y2=y1)

    def polyline(self, points: Sequence[tuple[float, float]], css: str, dash: str = "") -> None:
        """Lines from point to point."""
        text = " ".join(_pairs([at for point in points for at in point]))
        extra = {"stroke_dasharray": dash} if dash else {}
        self.add("polyline", css, points=text, **extra)

    def text(self, x: float, y: float, text: str, css: str = "tick", anchor: str = "start") -> None:
        """Text on the base line y; css names its size and colour."""
        self._parts.append(
            f"<text{_attributes(css, {'x': x, 'y': y, 'text_anchor': anchor})}>"
            f"{escape(clean(text))}</text>"
        )

    def marker(self, kind: str, x: float, y: float, radius: float, css: str) -> None:
        """A marker of matplotlib's kinds: a circle unless it is a known polygon or a cross."""
        if kind == "x":
            r = 0.8 * radius
            corners = (x - r, y - r, x + r, y + r, x - r, y + r, x + r, y - r)
            self.add("path", css, d="M{}L{}M{}L{}".format(*_pairs(corners)))
        elif kind in _POLYGONS:
            outline = [
                at for dx, dy in _POLYGONS[kind] for at in (x + radius * dx, y + radius * dy)
            ]
            self.add("polygon", css, points=" ".join(_pairs(outline)))
        else:
            self.add("circle", css, cx=x, cy=y, r=radius)

    @contextmanager
    def group(self, css: str, title: str = "", **attributes: Attribute) -> Iterator[None]:
        """Elements that belong together; a title is what hovering and screen readers tell."""
        self._parts.append(f"<g{_attributes(css, attributes)}>")
        if title:
            self._parts.append(f"<title>{escape(clean(title))}</title>")
        yield
        self._parts.append("</g>")

    @contextmanager
    def mark(self, tip: str, series: int) -> Iterator[None]:
        """A group for one value of the model of that number."""
        with self.group(f"mark s{series}", tip, data_series=series):
            yield

    def render(self, title: str, css: str) -> Markup:
        """The whole drawing as one element that names itself."""
        box = f"0 0 {_number(self.width_px)} {_number(self.height_px)}"
        # Every part was escaped where it was made.
        return Markup(  # noqa: S704
            f'<svg class="{escape(css)}" viewBox="{box}" width="{_number(self.width_px)}" '
            f'height="{_number(self.height_px)}" role="group" '
            f'aria-label="{escape(clean(title))}" xmlns="http://www.w3.org/2000/svg">{"".join(self._parts)}</svg>'
        )


def _attributes(css: str, values: Mapping[str, Attribute]) -> str:
    pairs = {"class": css, **{name.replace("_", "-"): value for name, value in values.items()}}
    return "".join(
        f' {name}="{_number(value) if isinstance(value, float) else escape(value)}"'
        for name, value in pairs.items()
        if value != ""
    )


def _number(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def _pairs(values: Sequence[float]) -> list[str]:
    """`x,y` of every point of a flat list."""
    pairs = zip(values[::2], values[1::2], strict=True)
    return [f"{_number(x)},{_number(y)}" for x, y in pairs]
