"""Masks laid over an image: colours, outlines, and nothing that depends on a plotting library."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from baselines.interface import BoolArray, UInt8Array
from benchmarks.report.style import BLUE, GREEN, ORANGE, PURPLE, SKY, VERMILLION

YELLOW = "#F0E442"
"""Okabe and Ito's; unreadable as a line on white, but well to be seen on a picture."""

_ONE = BLUE
_CYCLE = (YELLOW, BLUE, VERMILLION, GREEN, PURPLE, SKY, ORANGE)
_OPACITY = 0.55
_EDGE_SHARE = 1 / 300  # an outline's width, of the longer side


def overlay(image: UInt8Array, masks: Sequence[BoolArray]) -> UInt8Array:
    """Lays masks over an image, largest first, each with a white outline.

    Colours come from a fixed cycle in the order of area, so that the same masks always look the
    same; a single mask is blue.

    Args:
        image: (H, W, 3) uint8 RGB.
        masks: (H, W) bool each.

    Returns:
        (H, W, 3) uint8 RGB, a new array.
    """
    colours = (_ONE,) if len(masks) == 1 else _CYCLE
    layer = np.zeros(image.shape, np.float32)
    opacity = np.zeros((*image.shape[:2], 1), np.float32)
    areas = [int(np.count_nonzero(mask)) for mask in masks]
    # Python's sort is stable: equals stay in the order that the model gave them in.
    for rank, index in enumerate(sorted(range(len(masks)), key=lambda each: -areas[each])):
        mask = masks[index]
        layer[mask] = rgb(colours[rank % len(colours)])
        opacity[mask] = _OPACITY
        edge = outline(mask)
        layer[edge] = 255
        opacity[edge] = 1
    blended: UInt8Array = np.round(image * (1 - opacity) + layer * opacity).astype(np.uint8)
    return blended


def outline(mask: BoolArray) -> BoolArray:
    """The outermost pixels of an (H, W) bool mask, as wide as suits the image's size.

    Where a mask ends with the image there is no outline: nothing says that the object ends there.
    """
    from scipy import ndimage

    width_px = max(1, round(max(mask.shape) * _EDGE_SHARE))
    inner: BoolArray = ndimage.binary_erosion(mask, iterations=width_px, border_value=1)
    return mask & ~inner


def with_outlines(image: UInt8Array, masks: Sequence[BoolArray]) -> UInt8Array:
    """Draws outlines in yellow with black around them, which show on any ground."""
    from scipy import ndimage

    if not masks:
        return image
    pixels = image.copy()
    edges = [outline(mask) for mask in masks]
    for mask, edge in zip(masks, edges, strict=True):
        grown = ndimage.binary_dilation(edge, iterations=max(1, round(max(mask.shape) / 400)))
        pixels[grown & ~mask] = 0
    for edge in edges:
        pixels[edge] = rgb(YELLOW)
    return pixels


def rgb(color: str) -> tuple[int, int, int]:
    """Red, green and blue of `#rrggbb`, 0 to 255."""
    return int(color[1:3], 16), int(color[3:5], 16), int(color[5:7], 16)
