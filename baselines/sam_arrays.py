"""SAM's work before and after its networks, in numpy: for runtimes that go without torch."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from baselines.values import BoolArray, Float32Array, UInt8Array

# Matrices of this many image sizes are kept.
_KEPT_SIZES = 16
# Low-resolution logits are brought to the input's size first, which is this many times theirs.
_LOGIT_STRIDE = 4


def inner_size(size_hw: tuple[int, int], side_px: int) -> tuple[int, int]:
    """Height and width of an image whose longest side is brought to `side_px`."""
    scale = side_px / max(size_hw)
    height, width = (int(length * scale + 0.5) for length in size_hw)
    return height, width


def normalised(
    image: UInt8Array, side_px: int, mean: Sequence[float], std: Sequence[float]
) -> Float32Array:
    """Resizes, normalises and pads below and to the right, as SAM's predictor does.

    Args:
        image: (H, W, 3) uint8 RGB.
        side_px: Side of the network's input.
        mean: Of the three channels, in units of 8-bit pixels.
        std: Likewise.

    Returns:
        (1, 3, S, S) float32, equal to the torch adapter's to the last bit.
    """
    from PIL import Image

    height, width = inner_size(image.shape[:2], side_px)
    resized = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
    pixels = np.asarray(resized, np.float32).transpose(2, 0, 1)
    padded = np.zeros((1, 3, side_px, side_px), np.float32)
    part = padded[0, :, :height, :width]
    np.subtract(pixels, np.array(mean, np.float32)[:, None, None], out=part)
    np.divide(part, np.array(std, np.float32)[:, None, None], out=part)
    return padded


def to_input(points: Float32Array, size_hw: tuple[int, int], side_px: int) -> Float32Array:
    """Points (..., 2) xy of the image in pixels of the network's input."""
    height, width = inner_size(size_hw, side_px)
    scale = np.array([width / size_hw[1], height / size_hw[0]])
    scaled: Float32Array = (points.astype(np.float64) * scale).astype(np.float32)
    return scaled


def masks_at(
    logits: Float32Array, size_hw: tuple[int, int], side_px: int, threshold: float
) -> BoolArray:
    """Brings logits to the image's size as SAM does, and thresholds them.

    SAM interpolates twice: to the network's input, from which the padding is cut, and to the image.
    Both are linear in rows and columns apart, so each pair is one sparse matrix.

    Args:
        logits: (N, C, S/4, S/4).
        size_hw: Height and width of the image, in pixels.
        side_px: Side S of the network's input.
        threshold: Logits above it belong to the mask.

    Returns:
        (N, C, H, W).
    """
    inner = inner_size(size_hw, side_px)
    rows = _twice_interpolated(logits.shape[2], side_px, inner[0], size_hw[0])
    columns = _twice_interpolated(logits.shape[3], side_px, inner[1], size_hw[1])
    masks = np.empty((*logits.shape[:2], *size_hw), np.bool_)
    for index in np.ndindex(*logits.shape[:2]):
        wide = np.ascontiguousarray((columns @ np.ascontiguousarray(logits[index].T)).T)
        np.greater(rows @ wide, threshold, out=masks[index])
    return masks


@lru_cache(maxsize=2 * _KEPT_SIZES)
def _twice_interpolated(n_low: int, side_px: int, n_inner: int, n_out: int) -> Any:
    """(n_out, n_low) float32 sparse matrix: to the input, without the padding, to the image."""
    from scipy.sparse import csr_array

    whole = _interpolation(n_low, side_px)[:n_inner]
    return csr_array(_interpolation(n_inner, n_out) @ whole, dtype=np.float32)


def _interpolation(n_in: int, n_out: int) -> Any:
    """(n_out, n_in) sparse matrix of linear interpolation between the centres of pixels.

    The positions are rounded as torch rounds them: at 1000 px float32 is 6e-5 px coarse.
    """
    from scipy.sparse import csr_array

    scale = np.float32(n_in) / np.float32(n_out)
    half = np.float32(0.5)
    where = np.maximum(scale * (np.arange(n_out, dtype=np.float32) + half) - half, np.float32(0))
    low = np.minimum(where.astype(np.int64), n_in - 1)
    high = np.minimum(low + 1, n_in - 1)
    share = (where - low).astype(np.float64)
    line = np.arange(n_out)
    values = np.concatenate([1 - share, share])
    places = np.concatenate([line, line]), np.concatenate([low, high])
    return csr_array((values, places), shape=(n_out, n_in))
