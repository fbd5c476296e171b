"""Image files whose pixels are numbers: grey levels, indices of a palette, or colours."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from baselines.interface import Int64Array
from benchmarks.datasets.images import opened_bitmap
from benchmarks.datasets.parsing import read_file
from mobilesam.errors import DataError

MAX_OBJECTS = 255
"""Largest number of different values in a label map of 8 bits a channel."""


def read_label_map(
    source: Path | bytes, name: str, max_pixels: int, *, ids_16_bit: bool = False
) -> Int64Array:
    """Reads one number a pixel, (H, W) int64; 0 is the background.

    Grey levels and indices of a palette are the numbers themselves; a palette whose first colour is
    not black is refused, since it does not say what the background is. The colours of an RGB image
    are numbered as in Pascal VOC's colour map, so that black is 0; transparent pixels are 0, too.

    Raises:
        DataError: Not an image, damaged, of another kind of pixel, of more than 255 different
            values, or of 16 bits a pixel without `ids_16_bit`.
    """
    data = source if isinstance(source, bytes) else read_file(source)
    with opened_bitmap(data, name, max_pixels) as picture:
        picture.load()
        labels = _labels(picture, name, ids_16_bit=ids_16_bit)
    n_values = len(np.unique(labels[labels > 0]))
    if n_values > MAX_OBJECTS and not ids_16_bit:
        raise DataError(
            f"{name} has {n_values:,} different values, and a label map at most {MAX_OBJECTS}; are "
            "these ids above 255, or the pixels of a photo?"
        )
    return labels


def _labels(picture: Image.Image, name: str, *, ids_16_bit: bool) -> Int64Array:
    mode = picture.mode
    if mode == "P":
        palette = picture.getpalette() or []
        if any(palette[:3]):
            raise DataError(
                f"{name} is a palette image whose colour 0 is not black, so that the background is "
                "unknown; save it as grey levels, 0 for the background"
            )
    elif mode == "I" or mode.startswith("I;16"):
        if not ids_16_bit:
            raise DataError(
                f"{name} has 16 bits a pixel; save it with 8, or give --ids-16-bit if its pixels "
                "are ids of objects"
            )
    elif mode in ("RGB", "RGBA", "LA"):
        pixels = np.asarray(picture.convert("RGBA")).astype(np.int64)
        colours, is_visible = pixels[..., :3], pixels[..., 3] > 0
        if (colours == colours[..., :1]).all():
            return colours[..., 0] * is_visible
        return colour_numbers(colours) * is_visible
    elif mode not in ("1", "L"):
        raise DataError(f"{name} has pixels of kind {mode}; save it as grey levels of 8 bits")
    return np.asarray(picture).astype(np.int64)


def colour_numbers(colours: Int64Array) -> Int64Array:
    """Numbers of (..., 3) RGB colours in Pascal VOC's colour map: bits of R, G, B in turns."""
    numbers = np.zeros(colours.shape[:-1], np.int64)
    for bit in range(8):
        for channel in range(3):
            numbers |= ((colours[..., channel] >> (7 - bit)) & 1) << (3 * bit + channel)
    return numbers
