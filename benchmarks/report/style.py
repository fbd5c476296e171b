"""How plots look: colours and markers by model, a figure's frame, and files equal to the byte."""

from __future__ import annotations

import hashlib
import io
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from benchmarks.records.record import write_atomic
from benchmarks.tables.formatting import clean, shorten

WIDTH_IN = 8.0
"""A README shows images about 800 px wide; at 100 px an inch fonts keep their size there."""
PNG_DPI = 200
NAME_LENGTH = 26
NOTE_LENGTH = 118

INK = "#222222"
MUTED = "#666666"
GRID = "#dddddd"

# Okabe and Ito's palette for all kinds of colour vision; its yellow, unreadable as a thin line on
# white, is replaced by a grey.
BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
BLUE, VERMILLION, PURPLE, GREY = "#0072B2", "#D55E00", "#CC79A7", "#808080"
PALETTE = (VERMILLION, BLUE, SKY, GREEN, ORANGE, PURPLE, BLACK, GREY)

Dash = str | tuple[int, tuple[float, ...]]

_VARIANTS: tuple[tuple[str, Dash], ...] = (
    ("o", "-"),
    ("s", (0, (5, 1.5))),
    ("^", (0, (1.2, 1.2))),
    ("D", (0, (5, 1.5, 1.2, 1.5))),
    ("v", (0, (8, 2))),
    ("P", (0, (3, 3))),
)

_KNOWN: dict[str, tuple[str, int]] = {
    "mobilesam": (VERMILLION, 0),
    "mobilesam-onnx": (VERMILLION, 1),
    "mobilesam-openvino": (VERMILLION, 2),
    "mobilesam-mini": (VERMILLION, 3),
    "mobilesam-fast": (VERMILLION, 4),
    "mobilesam-onnx-int8": (VERMILLION, 5),
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


@dataclass(frozen=True, slots=True)
class ModelStyle:
    """A model's colour, and what tells it from others of the same colour.

    Attributes:
        color: Hex RGB.
        marker: Matplotlib marker, for points.
        dash: Matplotlib line style, for lines.
    """

    color: str
    marker: str
    dash: Dash


def model_styles(names: Sequence[str]) -> dict[str, ModelStyle]:
    """Gives every model its style, no two the same up to 48 models.

    The project's own models have fixed styles. Others take the one that a hash of their name
    points at, so that it stays the same from plot to plot; only where two of them meet does the
    one later in the alphabet move on.
    """
    free = [pair for pair in product(PALETTE, range(len(_VARIANTS))) if pair not in _KNOWN.values()]
    taken: dict[str, tuple[str, int]] = {}
    for name in sorted(set(names)):
        if name in _KNOWN:
            taken[name] = _KNOWN[name]
            continue
        start = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8])
        ring = [free[(start + step) % len(free)] for step in range(len(free))]
        used = set(taken.values())
        taken[name] = next((pair for pair in ring if pair not in used), ring[0])
    return {
        name: ModelStyle(color, *_VARIANTS[variant]) for name, (color, variant) in taken.items()
    }


def short_names(names: Sequence[str]) -> dict[str, str]:
    """Names as plots print them: at most `NAME_LENGTH` characters, still distinct."""
    short: dict[str, str] = {}
    for name in names:
        label = shorten(clean(name), NAME_LENGTH)
        if label in short.values():
            label = f"{shorten(clean(name), NAME_LENGTH - 4)} #{len(short)}"
        short[name] = label
    return short


@contextmanager
def plot_style() -> Iterator[None]:
    """Sets matplotlib to this project's look, whatever the user's own settings are."""
    from matplotlib import style

    settings = {
        "font.family": "DejaVu Sans",
        "font.size": 9,
        "axes.titlesize": 9,
        "axes.labelsize": 9,
        "xtick.labelsize": 8,
        "ytick.labelsize": 9,
        "axes.edgecolor": MUTED,
        "axes.labelcolor": INK,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.axisbelow": True,
        "text.color": INK,
        "xtick.color": MUTED,
        "xtick.labelcolor": INK,
        "ytick.color": MUTED,
        "ytick.labelcolor": INK,
        "grid.color": GRID,
        "grid.linewidth": 0.7,
        "hatch.linewidth": 0.8,
        # A model's name may hold a dollar sign.
        "text.parse_math": False,
        "svg.hashsalt": "mobilesam-bench",
    }
    with style.context(["default", settings]):
        yield


def new_figure(height_in: float, title: str, notes: Sequence[str]) -> Any:
    """A figure with a title at the top left and notes at the bottom left.

    Args:
        height_in: Height without the notes, in inches.
        title: One line; longer ones are wrapped.
        notes: Plain sentences.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    lines = [
        line
        for note in notes
        for line in textwrap.wrap(clean(note), NOTE_LENGTH, break_on_hyphens=False)
    ]
    height_in += 0.16 * len(lines)
    layout = ConstrainedLayoutEngine(w_pad=0.06, h_pad=0.06)
    figure = Figure(figsize=(WIDTH_IN, height_in), layout=layout, facecolor="white")
    FigureCanvasAgg(figure)
    heading = "\n".join(textwrap.wrap(clean(title), 88))
    figure.suptitle(heading, x=0.01, ha="left", fontsize=11, fontweight="bold")
    if lines:
        figure.supxlabel("\n".join(lines), x=0.01, ha="left", fontsize=8, color=MUTED)
    return figure


def plain(value: float) -> str:
    """A tick's number without an exponent: 0.01, 1, 1,000, 10k."""
    if value >= 1e4:
        return f"{plain(value / 1e3)}k"
    return f"{value:,.6f}".rstrip("0").rstrip(".")


def log_axis(axis: Any, low: float, high: float, ticks: int) -> None:
    """Sets one axis (`ax.xaxis` or `ax.yaxis`) to a log scale.

    Args:
        axis: The axis.
        low: Smallest value to show, positive.
        high: Largest value to show.
        ticks: Most labelled ticks that there is room for.
    """
    import math

    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    first, last = math.log10(low), math.log10(high)
    # At least a decade, so that there are ticks, and a single value stands in the middle.
    missing = max(0.0, 1 - (last - first)) / 2
    first, last = first - missing, last + missing
    margin = 0.07 * (last - first)
    name = axis.axis_name
    getattr(axis.axes, f"set_{name}scale")("log")
    getattr(axis.axes, f"set_{name}lim")(10 ** (first - margin), 10 ** (last + margin))
    subs = (1, 2, 5) if last - first < 1.5 else (1,)
    axis.set_major_locator(LogLocator(subs=subs, numticks=ticks))
    axis.set_major_formatter(FuncFormatter(lambda value, _: plain(value)))
    axis.set_minor_formatter(NullFormatter())


def save_figure(figure: Any, folder: Path, stem: str) -> list[Path]:
    """Writes `STEM.svg` and `STEM.png`; the same figure gives the same bytes.

    Raises:
        DataError: The folder cannot be written.
    """
    paths = []
    for suffix, metadata in (("svg", {"Date": None, "Creator": None}), ("png", {"Software": None})):
        buffer = io.BytesIO()
        figure.savefig(buffer, format=suffix, dpi=PNG_DPI, metadata=metadata)
        path = folder / f"{stem}.{suffix}"
        write_atomic(path, buffer.getvalue())
        paths.append(path)
    return paths
