"""Colours of the HTML report, light and dark: the plots' own, readable on either ground."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from benchmarks.report.style import BLACK, model_styles

LEAST_GRAPHIC = 3.0
"""Least contrast of a mark with its ground (WCAG 2.2, 1.4.11); text needs 4.5 (1.4.3)."""
LEAST_TEXT = 4.5
WHITE = "#ffffff"

Rgb = tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Theme:
    """Colours of one ground, hex RGB.

    Attributes:
        page: The page's ground.
        surface: Ground of cards, tables and plots.
        raised: Ground of buttons and of the heads of tables.
        ink: Text.
        muted: Text that is second to other text.
        line: Rules and grids, which carry no meaning.
        edge: Borders of what can be operated.
        accent: Links, focus and what is pressed.
        good: Text that says that something was reproduced.
        bad: Text that says that something failed.
    """

    page: str
    surface: str
    raised: str
    ink: str
    muted: str
    line: str
    edge: str
    accent: str
    good: str
    bad: str


LIGHT = Theme(
    page="#f4f4f1",
    surface="#ffffff",
    raised="#ecece8",
    ink="#1c1c1c",
    muted="#545454",
    line="#dcdcd8",
    edge="#7a7a76",
    accent="#0a58a6",
    good="#126b3a",
    bad="#a3230f",
)
DARK = Theme(
    page="#121518",
    surface="#1b1f23",
    raised="#2a3036",
    ink="#ededed",
    muted="#b4bac0",
    line="#353c43",
    edge="#8a929a",
    accent="#86bdff",
    good="#7fd6a2",
    bad="#ff9d8a",
)


def luminance(color: str) -> float:
    """Relative luminance of `#rrggbb` in [0, 1], as WCAG defines it."""
    r, g, b = (
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in _channels(color)
    )
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


def contrast(one: str, other: str) -> float:
    """Contrast of two colours, 1 to 21, as WCAG defines it."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def readable(color: str, ground: str, least: float = LEAST_GRAPHIC) -> str:
    """The colour itself, or mixed with as little black or white as gives that contrast.

    Args:
        color: `#rrggbb`.
        ground: `#rrggbb`, what it is drawn on.
        least: Contrast that is wanted.
    """
    dark = luminance(ground) <= 0.18
    if dark and color == BLACK:
        return WHITE  # a grey would be another model's
    target = WHITE if dark else BLACK
    for step in range(101):
        mixed = _mix(color, target, step / 100)
        if contrast(mixed, ground) >= least:
            return mixed
    return target


def mark_color(color: str, theme: Theme) -> str:
    """A model's colour in a theme; on a dark ground thin lines need as much contrast as text."""
    dark = luminance(theme.surface) < luminance(theme.ink)
    return readable(color, theme.surface, LEAST_TEXT if dark else LEAST_GRAPHIC)


def theme_css(models: Sequence[str]) -> str:
    """Custom properties of both themes, and a class `sN` for the N-th model.

    The system's choice holds unless `data-theme` of the root element names one.
    """
    light, dark = (_properties(theme, models) for theme in (LIGHT, DARK))
    series = "".join(f".s{index}{{--c:var(--series-{index})}}" for index in range(len(models)))
    return (
        f":root{{color-scheme:light;{light}}}"
        "@media (prefers-color-scheme:dark){"
        f":root:not([data-theme=light]){{color-scheme:dark;{dark}}}}}"
        f":root[data-theme=dark]{{color-scheme:dark;{dark}}}"
        f"{series}"
    )


def _properties(theme: Theme, models: Sequence[str]) -> str:
    styles = model_styles(models)
    colors = [mark_color(styles[model].color, theme) for model in models]
    named = [f"--{name}:{value};" for name, value in asdict(theme).items()]
    return "".join([*named, *(f"--series-{i}:{color};" for i, color in enumerate(colors))])


def _channels(color: str) -> Rgb:
    return int(color[1:3], 16) / 255, int(color[3:5], 16) / 255, int(color[5:7], 16) / 255


def _mix(color: str, target: str, share: float) -> str:
    pairs = zip(_channels(color), _channels(target), strict=True)
    return "#" + "".join(f"{round(255 * (a + share * (b - a))):02x}" for a, b in pairs)
