"""Silhouettes of synthetic objects, drawn large and reduced so that their edges are soft."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from baselines.interface import Float32Array
from benchmarks.datasets.textures import smooth_noise

if TYPE_CHECKING:
    from PIL import Image, ImageDraw

Outline = npt.NDArray[np.float64]
"""(N, 2) xy of a closed outline inside the unit disc."""

_MARGIN_PX = 2


def draw_shape(rng: np.random.Generator, kind: str, extent_px: int) -> Float32Array:
    """Draws one random silhouette.

    Args:
        rng: Source of all randomness.
        kind: One of `SHAPES`.
        extent_px: Diameter of the disc that it fits into.

    Returns:
        (S, S) float32 coverage in [0, 1], S a little more than `extent_px`; what is covered by at
        least half belongs to the object.
    """
    return _SHAPES[kind](rng, extent_px)


class _Canvas:
    """A drawing board on which the unit disc is the patch, some times larger than asked for."""

    def __init__(self, extent_px: int) -> None:
        from PIL import Image, ImageDraw

        self.scale = 4 if extent_px < 160 else 2
        side = (extent_px + 2 * _MARGIN_PX) * self.scale
        self.radius = extent_px * self.scale / 2
        self.image: Image.Image = Image.new("L", (side, side))
        self.pen: ImageDraw.ImageDraw = ImageDraw.Draw(self.image)

    def fill(self, outline: Outline, value: int = 255) -> None:
        self.pen.polygon(self._points(outline), fill=value)

    def stroke(self, path: Outline, width: float) -> None:
        """Draws a round-ended line whose width is in units of the disc's radius."""
        points = self._points(path)
        half = max(width * self.radius / 2, 1.0)
        self.pen.line(points, fill=255, width=round(2 * half))
        # A disc at every bend: Pillow's own joints leave cracks.
        for x, y in points:
            self.pen.ellipse((x - half, y - half, x + half, y + half), fill=255)

    def alpha(self) -> Float32Array:
        reduced = np.asarray(self.image.reduce(self.scale), dtype=np.float32)
        return reduced / np.float32(255)

    def _points(self, outline: Outline) -> list[tuple[float, float]]:
        center = self.radius + _MARGIN_PX * self.scale
        return [(center + x * self.radius, center + y * self.radius) for x, y in outline.tolist()]


def _rotate(rng: np.random.Generator, outline: Outline) -> Outline:
    angle = rng.uniform(0, 2 * math.pi)
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    return np.asarray(outline @ turn.T)


def _circle(n: int) -> Outline:
    angles = np.arange(n) * (2 * math.pi / n)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _oval(rng: np.random.Generator) -> Outline:
    """From lozenge over ellipse to a box with round corners."""
    circle = _circle(96)
    power = 2 / rng.choice([1.3, 2.0, 2.0, 3.0, 6.0])
    outline = np.sign(circle) * np.abs(circle) ** power
    outline[:, 1] *= rng.uniform(0.35, 1.0)
    return _rotate(rng, outline / np.linalg.norm(outline, axis=1).max())


def _corners(rng: np.random.Generator) -> Outline:
    """A polygon of three to eight corners, or a star of as many points."""
    n = int(rng.integers(3, 9))
    star = rng.random() < 0.35
    n_points = 2 * n if star else n
    angles = (np.arange(n_points) + rng.uniform(-0.3, 0.3, n_points)) * (2 * math.pi / n_points)
    radii = rng.uniform(0.65, 1.0, n_points)
    if star:
        radii[::2] *= rng.uniform(0.35, 0.6)
    outline = radii[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return _rotate(rng, outline)


def _wave(rng: np.random.Generator) -> Outline:
    """A closed curve whose radius swings smoothly."""
    angles = np.arange(120) * (2 * math.pi / 120)
    order = np.arange(1, 7)
    swing = rng.normal(0, 0.28, 6) / order**0.7
    phase = rng.uniform(0, 2 * math.pi, 6)
    radius = 1 + (swing * np.cos(angles[:, None] * order + phase)).sum(axis=1)
    radius = np.clip(radius, 0.25, None)
    outline = (radius / radius.max())[:, None] * _circle(120)
    outline[:, 1] *= rng.uniform(0.6, 1.0)
    return _rotate(rng, outline)


def _filled(make: Callable[[np.random.Generator], Outline]) -> _Draw:
    def draw(rng: np.random.Generator, extent_px: int) -> Float32Array:
        canvas = _Canvas(extent_px)
        canvas.fill(make(rng))
        return canvas.alpha()

    return draw


def _draw_ring(rng: np.random.Generator, extent_px: int) -> Float32Array:
    canvas = _Canvas(extent_px)
    outer = _oval(rng) if rng.random() < 0.5 else _wave(rng)
    inner = outer * rng.uniform(0.4, 0.75) + rng.uniform(-0.08, 0.08, 2)
    canvas.fill(outer)
    canvas.fill(inner, value=0)
    return canvas.alpha()


def _draw_stroke(rng: np.random.Generator, extent_px: int) -> Float32Array:
    canvas = _Canvas(extent_px)
    knots = rng.uniform(-0.65, 0.65, (int(rng.integers(3, 6)), 2))
    order = np.argsort(knots[:, 0])
    path = _rotate(rng, _smooth(knots[order]))
    canvas.stroke(path, width=float(rng.uniform(0.08, 0.28)))
    return canvas.alpha()


def _smooth(knots: Outline) -> Outline:
    """Rounds a broken line off by cutting its corners, end points kept."""
    for _ in range(4):
        cut = np.empty((2 * len(knots) - 2, 2))
        cut[0::2] = 0.75 * knots[:-1] + 0.25 * knots[1:]
        cut[1::2] = 0.25 * knots[:-1] + 0.75 * knots[1:]
        knots = np.concatenate([knots[:1], cut, knots[-1:]])
    return knots


def _draw_compound(rng: np.random.Generator, extent_px: int) -> Float32Array:
    """A body with one to three parts that stick out of it."""
    canvas = _Canvas(extent_px)
    canvas.fill(_oval(rng) * 0.62)
    for _ in range(int(rng.integers(1, 4))):
        angle = rng.uniform(0, 2 * math.pi)
        place = 0.55 * np.array([math.cos(angle), math.sin(angle)])
        part = _oval(rng) if rng.random() < 0.6 else _corners(rng)
        canvas.fill(part * rng.uniform(0.25, 0.42) + place)
    return canvas.alpha()


def _draw_cloud(rng: np.random.Generator, extent_px: int) -> Float32Array:
    """A threshold of smooth noise: ragged, sometimes with holes; its largest part only."""
    from scipy import ndimage

    side = extent_px + 2 * _MARGIN_PX
    axis = (np.arange(side, dtype=np.float32) - (side - 1) / 2) / (extent_px / 2)
    radius = np.hypot(axis[:, None], axis[None, :])
    field = smooth_noise(rng, (side, side), cells=int(rng.integers(3, 7))) + 0.42 - radius
    # Noise swings by about its own size from cell to cell; this makes the edge some 2 px wide.
    # The disc bounds it too, or the patch would cut it off in a straight line.
    depth = np.minimum(field * (extent_px / 10), (1 - radius) * (extent_px / 2))
    alpha: Float32Array = np.clip(0.5 + depth, 0, 1).astype(np.float32)
    labels, n_parts = ndimage.label(alpha >= 0.5)
    if n_parts > 1:
        largest = 1 + int(np.argmax(np.bincount(labels.ravel())[1:]))
        near = ndimage.binary_dilation(labels == largest)
        alpha *= near & ((labels == largest) | (labels == 0))
    return alpha


_Draw = Callable[[np.random.Generator, int], Float32Array]

_SHAPES: Mapping[str, _Draw] = MappingProxyType(
    {
        "oval": _filled(_oval),
        "polygon": _filled(_corners),
        "blob": _filled(_wave),
        "ring": _draw_ring,
        "stroke": _draw_stroke,
        "compound": _draw_compound,
        "cloud": _draw_cloud,
    }
)

SHAPES: tuple[str, ...] = tuple(_SHAPES)
"""Names of all kinds of silhouettes."""
