"""Surfaces of synthetic scenes: patterns between two colours of one palette, and bits of photos."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from baselines.interface import Float32Array, UInt8Array
from benchmarks.datasets.images import load_image
from mobilesam.errors import DataError

GROUND_PHOTOS = ("brick", "grass", "gravel")
OBJECT_PHOTOS = (*GROUND_PHOTOS, "astronaut", "camera", "chelsea", "coffee")
"""Photos inside scikit-image's wheel that are CC0 or in the public domain by its own notes.

The ground takes only those that show no things: a cat on the ground would be an object without a
mask.
"""


def smooth_noise(rng: np.random.Generator, size_hw: tuple[int, int], cells: int) -> Float32Array:
    """Draws noise without sharp edges, in two octaves.

    Args:
        rng: Source of all randomness.
        size_hw: Height and width of the result.
        cells: How many independent values fit along the shorter side.

    Returns:
        (H, W) float32 of mean about 0, nearly all within [-1, 1].
    """
    height, width = size_hw
    shorter = min(size_hw)
    total = np.zeros(size_hw, dtype=np.float32)
    for octave, weight in ((1, 0.42), (2, 0.2)):
        n = max(2, cells * octave)
        grid_hw = (max(2, n * height // shorter), max(2, n * width // shorter))
        grid = rng.standard_normal(grid_hw, dtype=np.float32)
        total += np.float32(weight) * _enlarge(grid, size_hw)
    return total


def _enlarge(grid: Float32Array, size_hw: tuple[int, int]) -> Float32Array:
    from PIL import Image

    picture = Image.fromarray(grid).resize((size_hw[1], size_hw[0]), Image.Resampling.BICUBIC)
    return np.asarray(picture)


def draw_palette(rng: np.random.Generator) -> Float32Array:
    """Draws the colours that ground and objects of one scene share: (6, 3) float32 RGB in [0, 1].

    Sharing them is what keeps colour alone from telling an object from its ground.
    """
    import colorsys

    base = rng.random()
    colours = [
        colorsys.hsv_to_rgb(
            (base + rng.normal(0, 0.22)) % 1.0, rng.uniform(0.05, 0.8), rng.uniform(0.15, 0.95)
        )
        for _ in range(6)
    ]
    return np.array(colours, dtype=np.float32)


def draw_texture(
    rng: np.random.Generator, palette: Float32Array, size_hw: tuple[int, int], ground: bool
) -> Float32Array:
    """Draws a surface of two colours of the palette, or cut from a photo.

    Args:
        rng: Source of all randomness.
        palette: (N, 3) float32 RGB in [0, 1], at least two colours.
        size_hw: Height and width of the result.
        ground: For the ground, which shows no photos of things.

    Returns:
        (H, W, 3) float32, about [0, 1].
    """
    first, second = palette[rng.permutation(len(palette))[:2]]
    if rng.random() < 0.3:
        photo = _photo_crop(rng, size_hw, GROUND_PHOTOS if ground else OBJECT_PHOTOS)
        if photo is not None:
            if rng.random() < 0.5:
                return photo
            return _between(first, second, photo.mean(axis=2))
    pattern = _PATTERNS[int(rng.integers(len(_PATTERNS)))](rng, size_hw)
    if rng.random() < 0.5:
        pattern = pattern + 0.25 * smooth_noise(rng, size_hw, cells=max(2, min(size_hw) // 6))
    return _between(first, second, pattern)


def _between(first: Float32Array, second: Float32Array, weight: Float32Array) -> Float32Array:
    return (first + weight[:, :, None] * (second - first)).astype(np.float32, copy=False)


def _plane(rng: np.random.Generator, size_hw: tuple[int, int]) -> Float32Array:
    """(H, W) distance in pixels along a random direction."""
    angle = rng.uniform(0, 2 * math.pi)
    y = np.arange(size_hw[0], dtype=np.float32)[:, None]
    x = np.arange(size_hw[1], dtype=np.float32)[None, :]
    return np.float32(math.cos(angle)) * x + np.float32(math.sin(angle)) * y


def _wavelength_px(rng: np.random.Generator, size_hw: tuple[int, int]) -> float:
    longest = max(8.0, min(size_hw) / 3)
    return float(np.exp(rng.uniform(math.log(5.0), math.log(longest))))


def _gradient(rng: np.random.Generator, size_hw: tuple[int, int]) -> Float32Array:
    plane = _plane(rng, size_hw)
    span = np.float32(max(float(np.ptp(plane)), 1.0))
    return np.asarray((plane - plane.min()) / span)


def _stripes(rng: np.random.Generator, size_hw: tuple[int, int]) -> Float32Array:
    phase = _plane(rng, size_hw) * np.float32(2 * math.pi / _wavelength_px(rng, size_hw))
    if rng.random() < 0.5:
        phase = phase + np.float32(rng.uniform(1, 4)) * smooth_noise(rng, size_hw, cells=3)
    return _sharpened(rng, np.sin(phase))


def _checks(rng: np.random.Generator, size_hw: tuple[int, int]) -> Float32Array:
    turn = np.float32(math.pi / _wavelength_px(rng, size_hw))
    angle = rng.uniform(0, math.pi / 2)
    y = np.arange(size_hw[0], dtype=np.float32)[:, None] * turn
    x = np.arange(size_hw[1], dtype=np.float32)[None, :] * turn
    c, s = np.float32(math.cos(angle)), np.float32(math.sin(angle))
    return _sharpened(rng, np.sin(c * x + s * y) * np.sin(c * y - s * x) * 2)


def _clouds(rng: np.random.Generator, size_hw: tuple[int, int]) -> Float32Array:
    return 0.5 + 0.6 * smooth_noise(rng, size_hw, cells=int(rng.integers(2, 8)))


def _spots(rng: np.random.Generator, size_hw: tuple[int, int]) -> Float32Array:
    cells = max(3, int(min(size_hw) / _wavelength_px(rng, size_hw)))
    return np.asarray(np.clip(0.5 + 4 * smooth_noise(rng, size_hw, cells=cells), 0, 1))


def _sharpened(rng: np.random.Generator, wave: Float32Array) -> Float32Array:
    """Turns a wave of [-1, 1] into a pattern of [0, 1] with edges from soft to crisp."""
    return np.asarray(np.clip(0.5 + np.float32(rng.uniform(0.5, 3.0)) * wave, 0, 1))


_PATTERNS: tuple[Callable[[np.random.Generator, tuple[int, int]], Float32Array], ...] = (
    _gradient, _stripes, _checks, _clouds, _spots,
)  # fmt: skip


@lru_cache(maxsize=2)
def load_photos(names: tuple[str, ...]) -> tuple[UInt8Array, ...]:
    """Reads photos that ship inside scikit-image, nothing from the network.

    Returns:
        (H, W, 3) uint8 each; fewer, or none, where an installation lacks them.
    """
    spec = find_spec("skimage")
    if spec is None or spec.origin is None:
        return ()
    folder = Path(spec.origin).parent / "data"
    photos = []
    for name in names:
        try:
            photos.append(load_image(folder / f"{name}.png", name))
        except DataError:
            continue
    return tuple(photos)


def _photo_crop(
    rng: np.random.Generator, size_hw: tuple[int, int], names: tuple[str, ...]
) -> Float32Array | None:
    """A random part of a random photo, mirrored and resized; None where there are no photos."""
    from PIL import Image

    photos = load_photos(names)
    if not photos:
        return None
    photo = photos[int(rng.integers(len(photos)))]
    height, width = size_hw
    fit = min(photo.shape[0] / height, photo.shape[1] / width)
    zoom = min(fit, float(rng.uniform(0.6, 2.5)))
    crop_h, crop_w = max(1, int(height * zoom)), max(1, int(width * zoom))
    top = int(rng.integers(photo.shape[0] - crop_h + 1))
    left = int(rng.integers(photo.shape[1] - crop_w + 1))
    crop = photo[top : top + crop_h, left : left + crop_w][:, :: int(rng.choice([-1, 1]))]
    picture = Image.fromarray(np.ascontiguousarray(crop))
    resized = picture.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(resized, dtype=np.float32) / np.float32(255)
