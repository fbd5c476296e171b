"""Masks over images, side by side: a row an image, first the prompt, then a column a model."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from baselines.interface import BoolArray, Float32Array, Int64Array, Prompts, UInt8Array
from benchmarks.records.record import write_atomic
from benchmarks.report.mask_overlay import overlay, rgb, with_outlines
from benchmarks.report.style import (
    BLACK,
    GREEN,
    INK,
    MUTED,
    ORANGE,
    VERMILLION,
    WIDTH_IN,
    new_figure,
    plot_style,
)
from benchmarks.tables.formatting import clean, shorten

MODELS_A_LINE = 3
"""Further models go on below, so that panels stay large enough to see an outline."""
GRID_DPI = 150
"""Below the plots' resolution: a photo's pixels, unlike lines, make a file of megabytes."""

_COLOURS = 256
_MARGIN_IN, _GAP_IN = 0.08, 0.1
_HEADING_IN, _HEADING_LINE_IN = 0.2, 0.2
_LABEL_LINE_IN, _LABEL_GAP_IN, _ROW_GAP_IN = 0.145, 0.03, 0.16
_ASPECTS = (0.4, 1.3)  # flattest and tallest panel, height by width
_EMPTY = "#f0f0f0"


@dataclass(frozen=True, slots=True, eq=False)
class MaskPanel:
    """What one model answered.

    Attributes:
        title: The model.
        caption: Its weights.
        value: What came of it, such as an IoU; may be empty.
        masks: Any number of (H, W) bool. One is drawn in one colour, several in a cycle of them.
        message: Stands in the picture's place where there is no answer.
    """

    title: str
    caption: str = ""
    value: str = ""
    masks: tuple[BoolArray, ...] = ()
    message: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class MaskRow:
    """One image, what was asked about it, and the answers.

    Attributes:
        title: The image's name.
        image: (H, W, 3) uint8 RGB.
        prompts: One prompt, drawn into every picture; None for segment everything.
        references: (H, W) bool masks whose outlines are drawn beside the prompt.
        panels: One a model, in the same order in every row.
        caption: Second line below the title.
        value: Third line.
    """

    title: str
    image: UInt8Array
    prompts: Prompts | None
    references: tuple[BoolArray, ...]
    panels: tuple[MaskPanel, ...]
    caption: str = ""
    value: str = ""


def mask_grid(title: str, rows: Sequence[MaskRow], notes: Sequence[str] = ()) -> Any:
    """Draws the grid.

    Args:
        title: Of the whole figure.
        rows: At least one, all with panels for the same models.
        notes: Printed below.

    Returns:
        The matplotlib figure, 8 inches wide, to be used within `plot_style`.
    """
    columns = 1 + min(MODELS_A_LINE, max(len(row.panels) for row in rows))
    width_in = (WIDTH_IN - 2 * _MARGIN_IN - (columns - 1) * _GAP_IN) / columns
    lines = [line for row in rows for line in _lines(row, width_in)]
    heading_in = _HEADING_IN + _HEADING_LINE_IN * len(textwrap.wrap(clean(title), 88))
    body_in = sum(line.label_in + line.height_in + _ROW_GAP_IN for line in lines)
    figure = new_figure(heading_in + body_in + _MARGIN_IN, title, notes)
    figure.set_layout_engine("none")
    # Without a layout engine the title would hang at a share of the height, not at its edge.
    figure.texts[0].set_y(1 - _MARGIN_IN / figure.get_figheight())
    top_in = figure.get_figheight() - heading_in
    for line in lines:
        for column, cell in enumerate(line.cells):
            if cell is not None:
                left_in = _MARGIN_IN + column * (width_in + _GAP_IN)
                _label(figure, cell, left_in, top_in, width_in)
                place = (left_in, top_in - line.label_in - line.height_in, width_in, line.height_in)
                _draw_cell(_add_axes(figure, place), line.row, cell, width_in)
        top_in -= line.label_in + line.height_in + _ROW_GAP_IN
    return figure


@dataclass(frozen=True, slots=True, eq=False)
class _Line:
    """Pictures beside each other: the prompt's first, or nothing where a row goes on below."""

    row: MaskRow
    cells: tuple[MaskPanel | None, ...]
    label_in: float
    height_in: float


def _lines(row: MaskRow, width_in: float) -> list[_Line]:
    prompt = MaskPanel(row.title, row.caption, row.value)
    height_in = _panel_height_in(row.image, width_in)
    lines = []
    for start in range(0, max(1, len(row.panels)), MODELS_A_LINE):
        cells = (None if start else prompt, *row.panels[start : start + MODELS_A_LINE])
        n_labels = 3 if any(cell.value for cell in cells if cell is not None) else 2
        lines.append(_Line(row, cells, n_labels * _LABEL_LINE_IN + _LABEL_GAP_IN, height_in))
    return lines


def _panel_height_in(image: UInt8Array, panel_in: float) -> float:
    low, high = _ASPECTS
    return float(panel_in * min(high, max(low, image.shape[0] / image.shape[1])))


def _add_axes(figure: Any, place_in: tuple[float, float, float, float]) -> Any:
    """Axes without any frame, at (left, bottom, width, height) in inches."""
    width_in, height_in = figure.get_size_inches()
    left, bottom, width, height = place_in
    ax = figure.add_axes(
        (left / width_in, bottom / height_in, width / width_in, height / height_in)
    )
    ax.set_xticks([])
    ax.set_yticks([])
    for spine in ax.spines.values():
        spine.set_visible(False)
    return ax


def _draw_cell(ax: Any, row: MaskRow, cell: MaskPanel, width_in: float) -> None:
    if cell.message is not None:
        _message(ax, row.image.shape, cell.message, width_in)
        return
    is_prompt = not any(cell is panel for panel in row.panels)
    pixels = (
        with_outlines(row.image, row.references) if is_prompt else overlay(row.image, cell.masks)
    )
    ax.imshow(pixels, interpolation="antialiased")
    ax.set_anchor("NW")
    if row.prompts is not None:
        _draw_prompt(ax, row.prompts)


def _label(figure: Any, cell: MaskPanel, left_in: float, top_in: float, width_in: float) -> None:
    total_in = figure.get_size_inches()
    # The last is the width of a letter in DejaVu Sans, a little more than the mean.
    looks: tuple[tuple[str, str, float, str, float], ...] = (
        (cell.title, INK, 9, "bold", 0.088),
        (cell.caption, MUTED, 8, "normal", 0.072),
        (cell.value, INK, 8, "normal", 0.072),
    )
    for line, (text, color, size, weight, letter_in) in enumerate(looks):
        figure.text(
            left_in / total_in[0],
            (top_in - _LABEL_LINE_IN * (line + 0.5)) / total_in[1],
            shorten(clean(text), int(width_in / letter_in)),
            color=color,
            fontsize=size,
            fontweight=weight,
            va="center",
        )


def _message(ax: Any, shape: tuple[int, ...], text: str, width_in: float) -> None:
    """A grey panel of the image's shape that says why there is no mask."""
    ax.set_xlim(0, shape[1])
    ax.set_ylim(shape[0], 0)
    ax.set_aspect("equal", anchor="NW")
    ax.set_facecolor(_EMPTY)
    ax.patch.set_hatch("//")
    ax.patch.set_edgecolor("#dddddd")
    wrapped = "\n".join(textwrap.wrap(clean(text), int(width_in / 0.085)))
    ax.text(
        0.5,
        0.5,
        wrapped,
        transform=ax.transAxes,
        ha="center",
        va="center",
        fontsize=9,
        color=INK,
        bbox={"facecolor": _EMPTY, "edgecolor": "none", "pad": 3},
    )


def _draw_prompt(ax: Any, prompts: Prompts) -> None:
    """Draws the first prompt: discs for the object, crosses for the background, and the box."""
    if prompts.boxes is not None:
        _draw_box(ax, prompts.boxes[0])
    if prompts.points is not None and prompts.labels is not None:
        _draw_points(ax, prompts.points[0], prompts.labels[0])


def _draw_box(ax: Any, box: Float32Array) -> None:
    from matplotlib.patches import Rectangle

    # Edges lie between pixels, and matplotlib's pixel centres at whole numbers.
    x0, y0, x1, y1 = (float(value) - 0.5 for value in box)
    for color, line_pt in ((BLACK, 2.4), (ORANGE, 1.4)):
        ax.add_patch(
            Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, edgecolor=color, linewidth=line_pt)
        )


def _draw_points(ax: Any, points: Float32Array, labels: Int64Array) -> None:
    for (x, y), label in zip(points, labels, strict=True):
        for size_pt, edge, edge_pt in ((7.5, BLACK, 1.2), (6.5, "white", 1.2)):
            ax.plot(
                float(x),
                float(y),
                linestyle="none",
                marker="o" if label else "X",
                markersize=size_pt,
                color=GREEN if label else VERMILLION,
                markeredgecolor=edge,
                markeredgewidth=edge_pt,
                clip_on=False,
            )


def write_grid(
    title: str,
    rows: Sequence[MaskRow],
    notes: Sequence[str],
    folder: Path,
    stem: str,
    *,
    svg: bool = False,
) -> list[Path]:
    """Draws a grid and writes `STEM.png`, with 256 colours; the same grid gives the same bytes.

    Args:
        title: Of the whole figure.
        rows: As `mask_grid` takes them.
        notes: Printed below.
        folder: Made where absent.
        stem: File name without suffix.
        svg: Write `STEM.svg`, too. It holds the pictures unreduced and is several times larger.

    Raises:
        DataError: The folder cannot be written.
    """
    with plot_style():
        figure = mask_grid(title, rows, notes)
        figure.set_dpi(GRID_DPI)
        figure.canvas.draw()
        pixels = np.ascontiguousarray(np.asarray(figure.canvas.buffer_rgba())[:, :, :3])
        paths = [folder / f"{stem}.png"]
        write_atomic(paths[0], _small_png(pixels))
        if svg:
            drawing = io.BytesIO()
            metadata = {"Date": None, "Creator": None}
            figure.savefig(drawing, format="svg", dpi=GRID_DPI, metadata=metadata)
            paths.append(folder / f"{stem}.svg")
            write_atomic(paths[1], drawing.getvalue())
    return paths


def _small_png(pixels: UInt8Array) -> bytes:
    """An eighth of the size of all colours, and hardly to be told from it."""
    from PIL import Image

    picture = Image.fromarray(pixels)
    # The usual choice of colours follows their frequency: a cat's eye would lose its green, and
    # the prompt's mark its colour.
    fixed = [rgb(color) for color in ("#ffffff", _EMPTY)]
    n_chosen = _COLOURS - len(fixed)
    chosen = picture.quantize(n_chosen, method=Image.Quantize.FASTOCTREE).getpalette() or []
    palette = Image.new("P", (1, 1))
    values = [*chosen[: 3 * n_chosen], *(value for color in fixed for value in color)]
    palette.putpalette(values)
    reduced = picture.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG)
    # Plain grounds stay plain: the library takes one of several similar colours for them.
    indices = np.array(reduced)
    for index, color in enumerate(fixed, start=len(values) // 3 - len(fixed)):
        indices[(pixels == color).all(axis=2)] = index
    exact = Image.frombytes("P", picture.size, indices.tobytes())
    exact.putpalette(values)
    buffer = io.BytesIO()
    exact.save(buffer, "PNG", optimize=True, dpi=(GRID_DPI, GRID_DPI))
    return buffer.getvalue()
