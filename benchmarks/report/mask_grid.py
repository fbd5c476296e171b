"""Masks laid over images, and grids of them: a row for an image, a column for a model."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from baselines.interface import BoolArray, Prompts, UInt8Array
from benchmarks.records.record import write_atomic
from benchmarks.report import style
from benchmarks.report.style import BLUE, GREEN, INK, ORANGE, VERMILLION, rgb
from benchmarks.tables.formatting import clean, shorten

YELLOW = "#F0E442"
"""Yellow of Okabe and Ito: unreadable as a line on white, but visible on a picture."""
MODELS_PER_LINE = 3
"""Further models continue below, so that panels stay large enough to show an outline."""
GRID_DPI = 150
"""Lower than for plots, since the pixels of a photo make a file of megabytes."""
_COLORS = (YELLOW, BLUE, VERMILLION, GREEN, style.PURPLE, style.SKY, ORANGE)
_OPACITY = 0.55
_N_COLORS = 256
_MARGIN_IN, _GAP_IN, _ROW_GAP_IN = 0.08, 0.1, 0.16
_HEADING_IN, _HEADING_LINE_IN = 0.2, 0.2
_LABEL_LINE_IN, _LABEL_GAP_IN = 0.145, 0.03
_ASPECTS = (0.4, 1.3)  # flattest and tallest panel, height by width
_EMPTY = "#f0f0f0"


def overlay(image: UInt8Array, masks: Sequence[BoolArray]) -> UInt8Array:
    """Lays masks over an (H, W, 3) image, largest first, each with a white outline.

    A single mask is blue; several get colours from a fixed cycle in the order of area.
    """
    colors = (BLUE,) if len(masks) == 1 else _COLORS
    layer = np.zeros(image.shape, np.float32)
    opacity = np.zeros((*image.shape[:2], 1), np.float32)
    for rank, mask in enumerate(sorted(masks, key=np.count_nonzero, reverse=True)):
        layer[mask] = rgb(colors[rank % len(colors)])
        opacity[mask] = _OPACITY
        edge = outline(mask)
        layer[edge] = 255
        opacity[edge] = 1
    blended: UInt8Array = np.round(image * (1 - opacity) + layer * opacity).astype(np.uint8)
    return blended


def outline(mask: BoolArray) -> BoolArray:
    """Outermost pixels of an (H, W) bool mask, except where the image cuts it off."""
    from scipy import ndimage

    width_px = max(1, round(max(mask.shape) / 300))
    inner: BoolArray = ndimage.binary_erosion(mask, iterations=width_px, border_value=1)
    return mask & ~inner


def with_outlines(image: UInt8Array, masks: Sequence[BoolArray]) -> UInt8Array:
    """Draws outlines of masks in yellow with a black border, visible on any background."""
    from scipy import ndimage

    pixels = image.copy()
    edges = [outline(mask) for mask in masks]
    for mask, edge in zip(masks, edges, strict=True):
        grown = ndimage.binary_dilation(edge, iterations=max(1, round(max(mask.shape) / 400)))
        pixels[grown & ~mask] = 0
    for edge in edges:
        pixels[edge] = rgb(YELLOW)
    return pixels


@dataclass(frozen=True, slots=True, eq=False)
class MaskPanel:
    """Prediction of one model: (H, W) bool masks, or a message in place of the picture.

    `title`, `caption` and `value` are the lines above, such as name, weights and IoU.
    """

    title: str
    caption: str = ""
    value: str = ""
    masks: tuple[BoolArray, ...] = ()
    message: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class MaskRow:
    """One (H, W, 3) uint8 RGB image with a panel per model, in the same order in every row.

    The prompt is drawn into every picture; None is segment everything. Outlines of the references,
    (H, W) bool masks, are drawn into the first picture, below title, caption and value.
    """

    title: str
    image: UInt8Array
    prompts: Prompts | None
    references: tuple[BoolArray, ...]
    panels: tuple[MaskPanel, ...]
    caption: str = ""
    value: str = ""


def mask_grid(title: str, rows: Sequence[MaskRow], notes: Sequence[str] = ()) -> Any:
    """The matplotlib figure of a grid, 8 inches wide, to be used within `plot_style`."""
    columns = 1 + min(MODELS_PER_LINE, max(len(row.panels) for row in rows))
    width_in = (style.WIDTH_IN - 2 * _MARGIN_IN - (columns - 1) * _GAP_IN) / columns
    lines = []
    for row in rows:
        low, high = _ASPECTS
        height_in = width_in * min(high, max(low, row.image.shape[0] / row.image.shape[1]))
        for start in range(0, max(1, len(row.panels)), MODELS_PER_LINE):
            # The first column holds the prompt, and is empty where a row continues below.
            first = None if start else MaskPanel(row.title, row.caption, row.value)
            cells = (first, *row.panels[start : start + MODELS_PER_LINE])
            n_labels = 3 if any(cell.value for cell in cells if cell is not None) else 2
            lines.append((row, cells, n_labels * _LABEL_LINE_IN + _LABEL_GAP_IN, height_in))
    heading_in = _HEADING_IN + _HEADING_LINE_IN * len(style.wrapped_title(title))
    body_in = sum(label_in + height_in + _ROW_GAP_IN for _, _, label_in, height_in in lines)
    figure = style.new_figure(heading_in + body_in + _MARGIN_IN, title, notes)
    figure.set_layout_engine("none")
    total_in = figure.get_size_inches()
    # Without a layout engine the title would be placed at a share of the height.
    figure.texts[0].set_y(1 - _MARGIN_IN / total_in[1])
    top_in = total_in[1] - heading_in
    for row, cells, label_in, height_in in lines:
        for column, cell in enumerate(cells):
            if cell is None:
                continue
            left_in = _MARGIN_IN + column * (width_in + _GAP_IN)
            # The last number is the width of a letter in DejaVu Sans, slightly more than the mean.
            for line, (text, color, size, weight, letter_in) in enumerate(
                (
                    (cell.title, INK, 9, "bold", 0.088),
                    (cell.caption, style.MUTED, 8, "normal", 0.072),
                    (cell.value, INK, 8, "normal", 0.072),
                )
            ):
                y_in = top_in - _LABEL_LINE_IN * (line + 0.5)
                shown = shorten(clean(text), int(width_in / letter_in))
                look = {"color": color, "fontsize": size, "fontweight": weight, "va": "center"}
                figure.text(left_in / total_in[0], y_in / total_in[1], shown, **look)
            place_in = np.array([left_in, top_in - label_in - height_in, width_in, height_in])
            ax = figure.add_axes(place_in / np.tile(total_in, 2), xticks=[], yticks=[])
            ax.spines[:].set_visible(False)
            if cell.message is not None:
                _draw_message(ax, row.image.shape, cell.message, width_in)
                continue
            is_prompt = not any(cell is panel for panel in row.panels)
            draw, masks = (with_outlines, row.references) if is_prompt else (overlay, cell.masks)
            ax.imshow(draw(row.image, masks), interpolation="antialiased")
            ax.set_anchor("NW")
            if row.prompts is not None:
                _draw_prompt(ax, row.prompts)
        top_in -= label_in + height_in + _ROW_GAP_IN
    return figure


def _draw_message(ax: Any, shape: tuple[int, ...], text: str, width_in: float) -> None:
    """A hatched panel of the shape of the image with a text."""
    ax.set(xlim=(0, shape[1]), ylim=(shape[0], 0), facecolor=_EMPTY)
    ax.set_aspect("equal", anchor="NW")
    ax.patch.set(hatch="//", edgecolor="#dddddd")
    box = {"facecolor": _EMPTY, "edgecolor": "none", "pad": 3}
    look = {"ha": "center", "va": "center", "fontsize": 9, "color": INK, "bbox": box}
    wrapped = "\n".join(textwrap.wrap(clean(text), int(width_in / 0.085)))
    ax.text(0.5, 0.5, wrapped, transform=ax.transAxes, **look)


def _draw_prompt(ax: Any, prompts: Prompts) -> None:
    """Draws the first prompt: its box, discs for foreground and crosses for background points."""
    from matplotlib.patches import Rectangle

    if prompts.boxes is not None:
        # Boxes have edges between pixels; matplotlib has pixel centres at whole numbers.
        x0, y0, x1, y1 = (float(value) - 0.5 for value in prompts.boxes[0])
        for color, line_pt in ((style.BLACK, 2.4), (ORANGE, 1.4)):
            look: dict[str, Any] = {"fill": False, "edgecolor": color, "linewidth": line_pt}
            ax.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, **look))
    if prompts.points is not None and prompts.labels is not None:
        for (x, y), label in zip(prompts.points[0].tolist(), prompts.labels[0], strict=True):
            color, marker = (GREEN, "o") if label else (VERMILLION, "X")
            look = {"linestyle": "none", "marker": marker, "color": color, "clip_on": False}
            for size_pt, edge in ((7.5, style.BLACK), (6.5, style.WHITE)):
                ax.plot(x, y, markersize=size_pt, markeredgecolor=edge, markeredgewidth=1.2, **look)


def write_grid(
    title: str,
    rows: Sequence[MaskRow],
    notes: Sequence[str],
    folder: Path,
    stem: str,
    *,
    svg: bool = False,
) -> list[Path]:
    """Writes a grid as `STEM.png` with 256 colours; equal grids give equal bytes.

    With `svg` it writes `STEM.svg`, too, which is several times larger.
    """
    with style.plot_style():
        figure = mask_grid(title, rows, notes)
        figure.set_dpi(GRID_DPI)
        figure.canvas.draw()
        pixels = np.ascontiguousarray(np.asarray(figure.canvas.buffer_rgba())[:, :, :3])
        paths = [folder / f"{stem}.png"]
        write_atomic(paths[0], _palette_png(pixels))
        if svg:
            paths += style.save_figure(figure, folder, stem, ("svg",), GRID_DPI)
    return paths


def _palette_png(pixels: UInt8Array) -> bytes:
    """PNG with a palette, an eighth of the size of RGB and hardly different."""
    from PIL import Image

    picture = Image.fromarray(pixels)
    # An octree keeps rare colours, such as that of a prompt, which a choice by frequency drops.
    fixed = [rgb(color) for color in ("#ffffff", _EMPTY)]
    n_chosen = _N_COLORS - len(fixed)
    chosen = picture.quantize(n_chosen, method=Image.Quantize.FASTOCTREE).getpalette() or []
    palette = Image.new("P", (1, 1))
    values = [*chosen[: 3 * n_chosen], *(value for color in fixed for value in color)]
    palette.putpalette(values)
    reduced = picture.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG)
    # Plain backgrounds keep one exact colour instead of several similar ones.
    indices = np.array(reduced)
    for index, color in enumerate(fixed, start=len(values) // 3 - len(fixed)):
        indices[(pixels == color).all(axis=2)] = index
    exact = Image.frombytes("P", picture.size, indices.tobytes())
    exact.putpalette(values)
    buffer = io.BytesIO()
    exact.save(buffer, "PNG", optimize=True, dpi=(GRID_DPI, GRID_DPI))
    return buffer.getvalue()
