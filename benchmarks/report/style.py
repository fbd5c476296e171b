"""Colours and markers of models, the frame of matplotlib figures, and the themes of the report."""

from __future__ import annotations

import hashlib
import io
import math
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from baselines.registry import split_size
from benchmarks.records.record import write_atomic
from benchmarks.tables.formatting import clean, shorten

WIDTH_IN = 8.0
"""A README shows images about 800 px wide; at 100 px per inch fonts keep their size there."""
PNG_DPI = 200
SUFFIXES = ("svg", "png")
NAME_LENGTH = 26
TITLE_LENGTH, MESSAGE_LENGTH, NOTE_LENGTH = 84, 110, 118

INK = "#222222"
MUTED = "#666666"
GRID = "#dddddd"

WHITE = "#ffffff"
LEAST_GRAPHIC, LEAST_TEXT = 3.0, 4.5
"""Least contrast of marks and of text with the background (WCAG 2.2, 1.4.11 and 1.4.3)."""

# The colour-blind safe palette of Okabe and Ito; its yellow, unreadable as a thin line on white, is
# replaced by a grey.
BLACK, ORANGE, SKY, GREEN = "#000000", "#e69f00", "#56b4e9", "#009e73"
BLUE, VERMILLION, PURPLE, GREY = "#0072b2", "#d55e00", "#cc79a7", "#808080"
PALETTE = (VERMILLION, BLUE, SKY, GREEN, ORANGE, PURPLE, BLACK, GREY)

Dash = str | tuple[int, tuple[float, ...]]

_VARIANTS: tuple[tuple[str, Dash, float], ...] = (
    ("o", "-", 0.0),
    ("s", (0, (5, 1.5)), -0.45),
    ("^", (0, (1.2, 1.2)), 0.45),
    ("D", (0, (5, 1.5, 1.2, 1.5)), 0.25),
    ("v", (0, (8, 2)), -0.25),
    ("P", (0, (3, 3)), 0.6),
    ("X", (0, (1, 4)), -0.6),
)
"""Marker, line and shade of the variants of a model: a share of black (below 0) or white."""
_KNOWN: dict[str, tuple[str, int]] = {
    "mobilesam": (VERMILLION, 0),
    "mobilesam-onnx": (VERMILLION, 1),
    "mobilesam-openvino": (VERMILLION, 2),
    "mobilesam-mini": (VERMILLION, 3),
    "mobilesam-fast": (VERMILLION, 4),
    "mobilesam-onnx-int8": (VERMILLION, 5),
    "mobilesam-openvino-int8": (VERMILLION, 6),
    "sam-vit-h": (BLUE, 0),
    "sam-vit-l": (SKY, 0),
    "sam-vit-b": (GREEN, 0),
    "sam-mini": (BLUE, 3),
    "fastsam-x": (ORANGE, 0),
    "fastsam-s": (PURPLE, 0),
    "grabcut": (BLACK, 0),
    "box": (GREY, 0),
    "dummy": (GREY, 1),
}


class ModelStyle(NamedTuple):
    """Colour (hex RGB), matplotlib marker and matplotlib line style of a model.

    Variants of a model have shades of one colour.
    """

    color: str
    marker: str
    dash: Dash


def model_styles(names: Sequence[str]) -> dict[str, ModelStyle]:
    """Style of every model, the same in all plots and distinct for up to 48 models.

    The style of a model that is not of this project follows from a hash of its name; on a collision
    the model later in the alphabet takes the next free style. Input sizes of one model share its
    shade.
    """
    bases = {split_size(name)[0] for name in names}
    free = [pair for pair in product(PALETTE, range(len(_VARIANTS))) if pair not in _KNOWN.values()]
    taken: dict[str, tuple[str, int]] = {}
    for name in sorted(bases):
        if name in _KNOWN:
            taken[name] = _KNOWN[name]
            continue
        start = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8])
        ring = [free[(start + step) % len(free)] for step in range(len(free))]
        used = set(taken.values())
        taken[name] = next((pair for pair in ring if pair not in used), ring[0])
    styles = {base: (mixed(c, _VARIANTS[v][2]), v) for base, (c, v) in taken.items()}
    for name in sorted(set(names) - bases):
        shade, first = styles[split_size(name)[0]]
        used = set(styles.values())
        pairs = [(shade, (first + step) % len(_VARIANTS)) for step in range(1, len(_VARIANTS))]
        styles[name] = next((pair for pair in pairs if pair not in used), (shade, first))
    return {
        name: ModelStyle(shade, *_VARIANTS[variant][:2])
        for name, (shade, variant) in styles.items()
        if name in names
    }


def print_styles(names: Sequence[str]) -> dict[str, ModelStyle]:
    """The styles of models on white paper, where every colour has the contrast of marks."""
    found = model_styles(names)
    return {n: each._replace(color=mark_color(each.color, LIGHT)) for n, each in found.items()}


def short_names(names: Sequence[str]) -> dict[str, str]:
    """Distinct names of about `NAME_LENGTH` characters at most, for plots."""
    short: dict[str, str] = {}
    for name in names:
        label = shorten(clean(name), NAME_LENGTH)
        if label in short.values():
            label = f"{shorten(clean(name), NAME_LENGTH - 4)} #{len(short)}"
        short[name] = label
    return short


@contextmanager
def plot_style() -> Iterator[None]:
    """Sets the style of matplotlib, independent of the settings of the user."""
    from matplotlib import style

    settings: dict[str, Any] = {
        **dict.fromkeys(("font.size", "axes.titlesize", "axes.labelsize", "ytick.labelsize"), 9),
        "xtick.labelsize": 8,
        "font.family": "DejaVu Sans",
        **dict.fromkeys(("text.color", "axes.labelcolor"), INK),
        **dict.fromkeys(("xtick.labelcolor", "ytick.labelcolor"), INK),
        **dict.fromkeys(("axes.edgecolor", "xtick.color", "ytick.color"), MUTED),
        **dict.fromkeys(("axes.spines.top", "axes.spines.right"), False),
        "axes.axisbelow": True,
        "grid.color": GRID,
        "grid.linewidth": 0.7,
        "hatch.linewidth": 0.8,
        # The name of a model may contain a dollar sign.
        "text.parse_math": False,
        "svg.hashsalt": "mobilesam-bench",
    }
    with style.context(["default", settings]):
        yield


def wrapped_title(title: str) -> list[str]:
    """Lines of the title of a figure."""
    return textwrap.wrap(clean(title), TITLE_LENGTH, break_on_hyphens=False)


def new_figure(height_in: float, title: str, notes: Sequence[str], message: str = "") -> Any:
    """A matplotlib figure with a title and a message on top, and notes at the bottom.

    Messages and notes add to its height.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    wrapped = [textwrap.wrap(clean(note), NOTE_LENGTH, break_on_hyphens=False) for note in notes]
    lines = [line for note in wrapped for line in note]
    heading = wrapped_title(title)
    said = textwrap.wrap(clean(message), MESSAGE_LENGTH, break_on_hyphens=False)
    top_in = 0.08 + 0.19 * len(heading) + 0.17 * len(said)
    size_in = (WIDTH_IN, height_in + 0.17 * len(said) + 0.16 * len(lines))
    rect = (0, 0, 1, 1 - top_in / size_in[1])
    layout = ConstrainedLayoutEngine(w_pad=0.06, h_pad=0.06, rect=rect)
    figure = Figure(figsize=size_in, layout=layout, facecolor="white")
    FigureCanvasAgg(figure)
    look: dict[str, Any] = {"x": 0.01, "ha": "left", "va": "top"}
    above = 1 - 0.08 / size_in[1]
    figure.suptitle("\n".join(heading), y=above, fontsize=11, fontweight="bold", **look)
    if said:
        below = above - 0.19 * len(heading) / size_in[1]
        figure.text(y=below, s="\n".join(said), fontsize=9.5, **look)
    if lines:
        figure.supxlabel("\n".join(lines), x=0.01, ha="left", fontsize=8, color=MUTED)
    return figure


def plain(value: float) -> str:
    """Formats the number of a tick without an exponent: 0.01, 1, 1,000, 10k."""
    if value >= 1e4:
        return f"{plain(value / 1e3)}k"
    return f"{value:,.6f}".rstrip("0").rstrip(".")


def log_limits(low: float, high: float) -> tuple[float, float]:
    """Limits of a log axis around positive values: at least a decade, and a margin of 7 %."""
    first, last = math.log10(low), math.log10(high)
    missing = max(0.0, 1 - (last - first)) / 2
    first, last = first - missing, last + missing
    margin = 0.07 * (last - first)
    return 10 ** (first - margin), 10 ** (last + margin)


def log_axis(axis: Any, low: float, high: float, ticks: int) -> None:
    """Sets `ax.xaxis` or `ax.yaxis` to a log scale around positive values, with few labels."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    name = axis.axis_name
    limits = log_limits(low, high)
    getattr(axis.axes, f"set_{name}scale")("log")
    getattr(axis.axes, f"set_{name}lim")(*limits)
    # The margins are a part of the axis.
    decades = math.log10(limits[1] / limits[0]) / 1.14
    subs = (1, 2, 5) if decades < 1.5 else (1,)
    axis.set_major_locator(LogLocator(subs=subs, numticks=ticks))
    axis.set_major_formatter(FuncFormatter(lambda value, _: plain(value)))
    axis.set_minor_formatter(NullFormatter())


def save_figure(
    figure: Any, folder: Path, stem: str, suffixes: Sequence[str] = SUFFIXES, dpi: int = PNG_DPI
) -> list[Path]:
    """Writes `STEM.svg` and `STEM.png`; equal figures give equal bytes."""
    paths = [folder / f"{stem}.{suffix}" for suffix in suffixes]
    undated = {"svg": {"Date": None, "Creator": None}, "png": {"Software": None}}
    for path, suffix in zip(paths, suffixes, strict=True):
        buffer = io.BytesIO()
        figure.savefig(buffer, format=suffix, dpi=dpi, metadata=undated[suffix])
        write_atomic(path, buffer.getvalue())
    return paths


Theme = Mapping[str, str]
_COLORS = {
    "page": ("#f4f4f1", "#121518"),
    "surface": ("#ffffff", "#1b1f23"),
    "raised": ("#ecece8", "#2a3036"),  # background of controls
    "ink": ("#1c1c1c", "#ededed"),
    "muted": ("#545454", "#b4bac0"),
    "line": ("#dcdcd8", "#353c43"),  # rules without information
    "edge": ("#7a7a76", "#8a929a"),  # borders of controls
    "accent": ("#0a58a6", "#86bdff"),  # links, focus and pressed buttons
    "good": ("#126b3a", "#7fd6a2"),  # texts, like "bad"
    "bad": ("#a3230f", "#ff9d8a"),
}
LIGHT, DARK = ({name: pair[dark] for name, pair in _COLORS.items()} for dark in (0, 1))
"""Colours of the HTML report."""


def rgb(color: str) -> tuple[int, int, int]:
    """Red, green and blue of `#rrggbb`, 0 to 255."""
    red, green, blue = bytes.fromhex(color[1:])
    return red, green, blue


def contrast(one: str, other: str) -> float:
    """Contrast ratio of two colours, 1 to 21 (WCAG 2.2, relative luminance)."""

    def luminance(color: str) -> float:
        parts = (channel / 255 for channel in rgb(color))
        r, g, b = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
        return 0.2126 * r + 0.7152 * g + 0.0722 * b

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def mixed(color: str, share: float) -> str:
    """A colour with a share of white or, below 0, of black."""
    if share == 0:
        return color
    target = WHITE if share > 0 else BLACK
    pairs = zip(rgb(color), rgb(target), strict=True)
    return "#" + "".join(f"{round(a + abs(share) * (b - a)):02x}" for a, b in pairs)


def mark_color(color: str, theme: Theme, contrast_wanted: float = 0.0) -> str:
    """The colour itself, or mixed with as little black or white as the theme's contrast needs.

    Thin lines on a dark background need the contrast of text.
    """
    dark = contrast(theme["surface"], WHITE) >= contrast(theme["surface"], BLACK)
    if dark and color == BLACK:
        return WHITE  # a grey would be the colour of another model
    least, target = (LEAST_TEXT, WHITE) if dark else (LEAST_GRAPHIC, BLACK)
    for step in range(101):
        found = mixed(color, step / 100 if target == WHITE else -step / 100)
        if contrast(found, theme["surface"]) >= max(least, contrast_wanted):
            return found
    return target


def theme_css() -> str:
    """CSS custom properties of both themes; `data-theme` of the root overrides the system."""
    light, dark = (
        "".join(f"--{name}:{value};" for name, value in theme.items()) for theme in (LIGHT, DARK)
    )
    return (
        f":root{{color-scheme:light;{light}}}"
        "@media (prefers-color-scheme:dark){"
        f":root:not([data-theme=light]){{color-scheme:dark;{dark}}}}}"
        f":root[data-theme=dark]{{color-scheme:dark;{dark}}}"
    )


def vega_config(theme: Theme, models: Sequence[str]) -> dict[str, Any]:
    """Vega-Lite configuration of a theme, in which all `models` of a page have their colours."""
    styles = model_styles(models)
    text = {"labelColor": theme["muted"], "titleColor": theme["ink"], "labelFontSize": 11}
    return {
        "background": theme["surface"],
        "font": "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif",
        "range": {"category": [mark_color(styles[model].color, theme) for model in models]},
        "view": {"stroke": None},
        "title": {"color": theme["ink"], "anchor": "start", "fontSize": 13, "offset": 12},
        "axis": text
        | {"titleFontWeight": "normal", "titleFontSize": 12, "ticks": False, "labelPadding": 6}
        | {"gridColor": theme["line"], "domainColor": theme["edge"]},
        "legend": {**text, "labelColor": theme["ink"], "labelFontSize": 12, "symbolStrokeWidth": 0}
        | {"symbolBaseFillColor": theme["ink"], "symbolBaseStrokeColor": theme["ink"]},
        "text": {"color": theme["ink"], "fontSize": 12},
        "style": {
            "front": {"color": theme["muted"], "strokeDash": [5, 4], "strokeWidth": 1.4},
            "dot": {"fill": theme["accent"], "fillOpacity": 0.45, "stroke": theme["accent"]},
            "hollow": {"fill": theme["surface"], "strokeWidth": 2},
            "heading": {"fontWeight": "bold", "fontSize": 13},
            "muted": {"color": theme["muted"], "fontSize": 11},
        },
    }
