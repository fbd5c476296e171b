"""Scenes of overlapping textured objects, rendered from a seed with exact masks.

Silhouettes are drawn enlarged and reduced, so their edges are soft. Surfaces are patterns between
two colours of one palette, or crops of photos from scikit-image. Every random number comes from an
explicit generator, so a seed gives the same bytes everywhere; see `RECIPE`.
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter

from baselines.interface import BoolArray, Float32Array, UInt8Array
from benchmarks.datasets.dataset import IndexedDataset, Instance, LoadedImage, Sample
from benchmarks.datasets.images import load_image
from benchmarks.datasets.parsing import fingerprint
from mobilesam.errors import DataError, UsageError

RECIPE = 1
"""To be increased whenever the same seed would give other scenes; part of every fingerprint."""

DEFAULT_SIZE_HW = (480, 640)
DEFAULT_OBJECTS = (3, 8)
MIN_SIDE_PX = 48
MIN_VISIBLE_PX = 24
"""Every instance shows at least this many pixels."""
MAX_OBJECTS = 200
SHAPES = ("oval", "polygon", "blob", "ring", "stroke", "compound", "cloud")
"""Names of all kinds of silhouettes; their order is part of the recipe."""
GROUND_PHOTOS = ("brick", "grass", "gravel")
OBJECT_PHOTOS = (*GROUND_PHOTOS, "astronaut", "camera", "chelsea", "coffee")
"""Photos inside scikit-image's wheel that are CC0 or in the public domain by its own notes.

The ground uses only those without objects: a cat on the ground would be an object without a mask.
"""

_PATTERNS = ("gradient", "stripes", "checks", "clouds", "spots")  # part of the recipe, too
_MIN_VISIBLE_SHARE = 0.25
_ATTEMPTS = 12
_MARGIN_PX = 2

_Rng = np.random.Generator
_Size = tuple[int, int]
_Outline = npt.NDArray[np.float64]  # (N, 2) xy of a closed outline inside the unit disc


class SyntheticDataset(IndexedDataset):
    """Scenes of `render_scene`; scene i depends only on the seed and on i.

    The name, such as `synthetic:seed=0,n=20`, includes size and number of objects if they are not
    the default.

    Args:
        n_images: Number of scenes.
        seed: Not negative.
        size_hw: Height and width of each scene, in pixels.
        n_objects: Smallest and largest number of objects of a scene, both included.

    Raises:
        UsageError: An argument is out of range.
    """

    def __init__(
        self,
        n_images: int,
        seed: int,
        size_hw: _Size = DEFAULT_SIZE_HW,
        n_objects: tuple[int, int] = DEFAULT_OBJECTS,
    ) -> None:
        if n_images < 1 or seed < 0:
            raise UsageError(f"n_images {n_images} must be 1 or more, and seed {seed} 0 or more")
        _check_request(size_hw, n_objects)
        name = f"synthetic:seed={seed},n={n_images}"
        if size_hw != DEFAULT_SIZE_HW:
            name += f",size={size_hw[0]}x{size_hw[1]}"
        if n_objects != DEFAULT_OBJECTS:
            name += f",objects={n_objects[0]}-{n_objects[1]}"
        text = f"recipe={RECIPE} seed={seed} size={size_hw} objects={n_objects}"
        images = [
            (index, f"scene_{index:06d}.png", partial(_load, seed, size_hw, n_objects, index))
            for index in range(n_images)
        ]
        super().__init__(name, fingerprint("synthetic", n_images, [text.encode()]), images)
        self._settings = seed, size_hw, n_objects

    def scene(self, index: int) -> Scene:
        """Renders a scene; the index may be `n_images` or larger."""
        seed, size_hw, n_objects = self._settings
        return render_scene(np.random.default_rng([seed, index]), size_hw, n_objects)

    def sample(self, index: int) -> Sample:
        """Renders a scene with its annotations."""
        scene = self.scene(index)
        # Ids start at 1, since COCO's evaluation treats an annotation id of 0 as "no match".
        ids = count(index * MAX_OBJECTS + 1)
        found = zip(ids, scene.categories, scene.masks, strict=False)
        instances = tuple(Instance.from_mask(*each) for each in found)
        return Sample(index, f"scene_{index:06d}.png", scene.image, instances)

    def samples(self) -> Iterator[Sample]:
        """Yields the scenes in order, each rendered when it is due."""
        return map(self.sample, range(self.n_images))


def _load(seed: int, size_hw: _Size, n_objects: tuple[int, int], index: int) -> LoadedImage:
    return LoadedImage(SyntheticDataset(1, seed, size_hw, n_objects).sample(index))


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """A rendered (H, W, 3) uint8 image with the shapes and (N, H, W) bool masks of its objects.

    Masks are of the visible parts, disjoint, from far to near, of `MIN_VISIBLE_PX` pixels or more.
    """

    image: UInt8Array
    masks: BoolArray
    categories: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class _Placed:
    """A silhouette at its place: `alpha` covers rows and columns from `top` and `left`."""

    kind: str
    alpha: Float32Array
    top: int
    left: int

    @property
    def window(self) -> tuple[slice, slice]:
        height, width = self.alpha.shape
        return np.s_[self.top : self.top + height, self.left : self.left + width]


def render_scene(
    rng: _Rng, size_hw: _Size = DEFAULT_SIZE_HW, n_objects: tuple[int, int] = DEFAULT_OBJECTS
) -> Scene:
    """Renders one scene of overlapping, textured, partly hidden objects.

    Objects are painted from far to near. One that would cover more than three quarters of another,
    or be hardly visible itself, is placed anew, and left out after some attempts: a scene may hold
    fewer objects than drawn, but at least one. Masks depend on the geometry only, not on surfaces.
    Arguments as for `SyntheticDataset`.
    """
    _check_request(size_hw, n_objects)
    geometry = np.random.default_rng(rng.integers(2**63))
    look = np.random.default_rng(rng.integers(2**63))
    labels: UInt8Array = np.zeros(size_hw, dtype=np.uint8)  # 0 for the ground
    placed: list[_Placed] = []
    full_px: list[int] = []
    wanted = int(geometry.integers(n_objects[0], n_objects[1] + 1))
    for _ in range(wanted * _ATTEMPTS):
        item = _place(geometry, size_hw, placed)
        mask = item.alpha >= 0.5
        if _fits(labels, item, mask, full_px):
            placed.append(item)
            full_px.append(int(np.count_nonzero(mask)))
            labels[item.window][mask] = len(placed)
            if len(placed) == wanted:
                break
    image = _paint(look, size_hw, placed)
    masks = labels[None] == np.arange(1, len(placed) + 1, dtype=np.uint8)[:, None, None]
    return Scene(image, masks, tuple(item.kind for item in placed))


def _check_request(size_hw: _Size, n_objects: tuple[int, int]) -> None:
    if min(size_hw) < MIN_SIDE_PX:
        raise UsageError(f"a scene of {size_hw} px is too small; {MIN_SIDE_PX} a side at least")
    if not 1 <= n_objects[0] <= n_objects[1] <= MAX_OBJECTS:
        raise UsageError(f"n_objects {n_objects}: wanted 1 <= fewest <= most <= {MAX_OBJECTS}")


def _place(rng: _Rng, size_hw: _Size, placed: list[_Placed]) -> _Placed:
    """Draws a silhouette and its place: in half of the cases near an earlier object."""
    height, width = size_hw
    kind = SHAPES[int(rng.integers(len(SHAPES)))]
    smallest = 0.3 if kind == "stroke" else 0.07
    # Between tiny and nearly the whole height, with a preference for larger ones.
    share = smallest * (0.85 / smallest) ** math.sqrt(rng.random())
    extent_px = max(9, round(share * min(size_hw)))
    alpha = draw_shape(rng, kind, extent_px)
    y, x = rng.uniform(0, height), rng.uniform(0, width)
    if placed and rng.random() < 0.5:
        near = placed[int(rng.integers(len(placed)))]
        spread = 0.4 * (extent_px + near.alpha.shape[0]) / 2
        y = near.top + near.alpha.shape[0] / 2 + rng.normal(0, spread)
        x = near.left + near.alpha.shape[1] / 2 + rng.normal(0, spread)
    top, left = round(y - alpha.shape[0] / 2), round(x - alpha.shape[1] / 2)
    rows = slice(max(0, -top), max(0, min(alpha.shape[0], height - top)))
    columns = slice(max(0, -left), max(0, min(alpha.shape[1], width - left)))
    return _Placed(kind, alpha[rows, columns], max(0, top), max(0, left))


def _fits(labels: UInt8Array, item: _Placed, mask: BoolArray, full_px: list[int]) -> bool:
    """Whether the new object and all that it covers would still be visible enough."""
    if np.count_nonzero(mask) < MIN_VISIBLE_PX:
        return False
    n = len(full_px) + 1
    covered = np.bincount(labels[item.window][mask], minlength=n)[1:]
    if not covered.any():
        return True
    visible = np.bincount(labels.ravel(), minlength=n)[1:] - covered
    needed = np.maximum(MIN_VISIBLE_PX, _MIN_VISIBLE_SHARE * np.array(full_px))
    return bool((visible >= needed)[covered > 0].all())


def draw_shape(rng: _Rng, kind: str, extent_px: int) -> Float32Array:
    """Draws a silhouette of a kind of `SHAPES`: (S, S) coverage in [0, 1], of the object from 0.5.

    It lies inside a disc of diameter `extent_px`; S is slightly larger.
    """
    if kind == "cloud":
        return _draw_cloud(rng, extent_px)
    scale = 4 if extent_px < 160 else 2
    side = (extent_px + 2 * _MARGIN_PX) * scale
    radius, center = extent_px * scale / 2, side / 2
    image = Image.new("L", (side, side))
    pen = ImageDraw.Draw(image)

    def to_pixels(outline: _Outline) -> list[tuple[float, float]]:
        return [(center + x * radius, center + y * radius) for x, y in outline.tolist()]

    if kind == "stroke":
        points = to_pixels(_curve(rng))
        half = max(float(rng.uniform(0.08, 0.28)) * radius / 2, 1.0)
        pen.line(points, fill=255, width=round(2 * half))
        # A disc at every bend: Pillow's own joints leave gaps.
        for x, y in points:
            pen.ellipse((x - half, y - half, x + half, y + half), fill=255)
    else:
        for outline, value in _outlines(rng, kind):
            pen.polygon(to_pixels(outline), fill=value)
    return np.asarray(image.reduce(scale), dtype=np.float32) / np.float32(255)


def _circle(angles: npt.NDArray[Any]) -> _Outline:
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _rotate(rng: _Rng, outline: _Outline) -> _Outline:
    angle = rng.uniform(0, 2 * math.pi)
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    return np.asarray(outline @ turn.T)


def _oval(rng: _Rng) -> _Outline:
    """A superellipse: from a lozenge over an ellipse to a box with round corners."""
    circle = _circle(np.arange(96) * (2 * math.pi / 96))
    power = 2 / rng.choice([1.3, 2.0, 2.0, 3.0, 6.0])
    outline = np.sign(circle) * np.abs(circle) ** power
    outline[:, 1] *= rng.uniform(0.35, 1.0)
    return _rotate(rng, outline / np.linalg.norm(outline, axis=1).max())


def _polygon(rng: _Rng) -> _Outline:
    """A polygon of three to eight corners, or a star of as many points."""
    n = int(rng.integers(3, 9))
    star = rng.random() < 0.35
    n_points = 2 * n if star else n
    angles = (np.arange(n_points) + rng.uniform(-0.3, 0.3, n_points)) * (2 * math.pi / n_points)
    radii = rng.uniform(0.65, 1.0, n_points)
    if star:
        radii[::2] *= rng.uniform(0.35, 0.6)
    return _rotate(rng, radii[:, None] * _circle(angles))


def _blob(rng: _Rng) -> _Outline:
    """A closed curve with a smoothly varying radius."""
    angles = np.arange(120) * (2 * math.pi / 120)
    order = np.arange(1, 7)
    swing = rng.normal(0, 0.28, 6) / order**0.7
    phase = rng.uniform(0, 2 * math.pi, 6)
    radius = 1 + (swing * np.cos(angles[:, None] * order + phase)).sum(axis=1)
    radius = np.clip(radius, 0.25, None)
    outline = (radius / radius.max())[:, None] * _circle(angles)
    outline[:, 1] *= rng.uniform(0.6, 1.0)
    return _rotate(rng, outline)


def _curve(rng: _Rng) -> _Outline:
    """A curved line through random points, smoothed by corner cutting."""
    knots = rng.uniform(-0.65, 0.65, (int(rng.integers(3, 6)), 2))
    knots = knots[np.argsort(knots[:, 0])]
    for _ in range(4):
        cut = np.empty((2 * len(knots) - 2, 2))
        cut[0::2] = 0.75 * knots[:-1] + 0.25 * knots[1:]
        cut[1::2] = 0.25 * knots[:-1] + 0.75 * knots[1:]
        knots = np.concatenate([knots[:1], cut, knots[-1:]])
    return _rotate(rng, knots)


def _outlines(rng: _Rng, kind: str) -> Iterator[tuple[_Outline, int]]:
    """Outlines of a kind, with their grey value: 255 inside the object, 0 for a hole."""
    if kind == "ring":
        outer = _oval(rng) if rng.random() < 0.5 else _blob(rng)
        yield outer, 255
        yield outer * rng.uniform(0.4, 0.75) + rng.uniform(-0.08, 0.08, 2), 0
    elif kind == "compound":  # a body with one to three protruding parts
        yield _oval(rng) * 0.62, 255
        for _ in range(int(rng.integers(1, 4))):
            angle = rng.uniform(0, 2 * math.pi)
            place = 0.55 * np.array([math.cos(angle), math.sin(angle)])
            part = _oval(rng) if rng.random() < 0.6 else _polygon(rng)
            yield part * rng.uniform(0.25, 0.42) + place, 255
    else:
        yield {"oval": _oval, "polygon": _polygon, "blob": _blob}[kind](rng), 255


def _draw_cloud(rng: _Rng, extent_px: int) -> Float32Array:
    """Thresholded smooth noise: ragged, sometimes with holes; its largest part only."""
    from scipy import ndimage

    side = extent_px + 2 * _MARGIN_PX
    axis = (np.arange(side, dtype=np.float32) - (side - 1) / 2) / (extent_px / 2)
    radius = np.hypot(axis[:, None], axis[None, :])
    field = _smooth_noise(rng, (side, side), cells=int(rng.integers(3, 7))) + 0.42 - radius
    # Noise varies by about its own size from cell to cell; this makes the edge some 2 px wide.
    # The disc bounds it too, or the patch would cut it off in a straight line.
    depth = np.minimum(field * (extent_px / 10), (1 - radius) * (extent_px / 2))
    alpha: Float32Array = np.clip(0.5 + depth, 0, 1).astype(np.float32)
    labels, n_parts = ndimage.label(alpha >= 0.5)
    if n_parts > 1:
        largest = 1 + int(np.argmax(np.bincount(labels.ravel())[1:]))
        near = ndimage.binary_dilation(labels == largest)
        alpha *= near & ((labels == largest) | (labels == 0))
    return alpha


def _paint(rng: _Rng, size_hw: _Size, placed: list[_Placed]) -> UInt8Array:
    # Ground and objects share six colours, so that colour alone does not separate them.
    base = rng.random()
    colours = [
        colorsys.hsv_to_rgb(
            (base + rng.normal(0, 0.22)) % 1.0, rng.uniform(0.05, 0.8), rng.uniform(0.15, 0.95)
        )
        for _ in range(6)
    ]
    palette = np.array(colours, dtype=np.float32)
    canvas = _draw_texture(rng, palette, size_hw, GROUND_PHOTOS).copy()
    if rng.random() < 0.25:
        # A different surface for the lower part, as where a floor meets a wall.
        row = int(rng.uniform(0.3, 0.8) * size_hw[0])
        canvas[row:] = _draw_texture(rng, palette, (size_hw[0] - row, size_hw[1]), GROUND_PHOTOS)
    light = rng.uniform(0, 2 * math.pi)
    for item in placed:
        alpha, window = item.alpha, canvas[item.window]
        halo = _blurred(alpha, max(alpha.shape) / 12)
        surface = _surface(rng, palette, window, alpha, halo)
        height, width = alpha.shape
        y = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
        x = np.linspace(-1, 1, width, dtype=np.float32)[None, :]
        slope = np.float32(math.cos(light)) * x + np.float32(math.sin(light)) * y
        # The halo decreases towards the rim from within, which looks like a round body.
        volume = np.float32(rng.uniform(0.0, 0.5)) * (halo - 1)
        shade = 1 + np.float32(rng.uniform(0.0, 0.25)) * slope + volume
        if rng.random() < 0.6:
            _cast_shadow(canvas, item, light, float(rng.uniform(0.2, 0.5)))
        window += alpha[:, :, None] * (surface * shade[:, :, None] - window)
    return _simulate_camera(rng, canvas)


def _cast_shadow(canvas: Float32Array, item: _Placed, light: float, strength: float) -> None:
    """Darkens the side of an object that is away from the light."""
    step = max(1, max(item.alpha.shape) // 16)
    # Room for the blur, or the shadow would end at the edges of a rectangle.
    room = 3 * step
    shadow = _blurred(np.pad(item.alpha, room), step)
    top = item.top - room - round(step * math.sin(light))
    left = item.left - room - round(step * math.cos(light))
    rows = slice(max(0, top), min(canvas.shape[0], top + shadow.shape[0]))
    columns = slice(max(0, left), min(canvas.shape[1], left + shadow.shape[1]))
    part = shadow[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
    canvas[rows, columns] *= 1 - np.float32(strength) * part[:, :, None]


def _surface(
    rng: _Rng, palette: Float32Array, behind: Float32Array, alpha: Float32Array, halo: Float32Array
) -> Float32Array:
    """Draws up to five surfaces until one differs visibly from the object's surroundings."""
    inside = alpha >= 0.5
    around = (halo > 0.05) & ~inside
    ring = behind[around if around.any() else inside]
    for _ in range(5):
        surface = _draw_texture(rng, palette, alpha.shape, OBJECT_PHOTOS)
        if rng.random() < 0.3:  # a part with another surface, which is not another object
            extent_px = max(4, min(surface.shape[:2]) // 2)
            part = draw_shape(rng, "oval", extent_px)[: surface.shape[0], : surface.shape[1], None]
            top = int(rng.integers(surface.shape[0] - part.shape[0] + 1))
            left = int(rng.integers(surface.shape[1] - part.shape[1] + 1))
            window = surface[top : top + part.shape[0], left : left + part.shape[1]]
            window += part * (_draw_texture(rng, palette, window.shape[:2], OBJECT_PHOTOS) - window)
        body = surface[inside]
        step = np.linalg.norm(body.mean(axis=0) - ring.mean(axis=0))
        grain = abs(float(body.mean(axis=1).std()) - float(ring.mean(axis=1).std()))
        if step > 0.22 or grain > 0.1:
            return surface
    return surface + np.float32(0.3 if float(ring.mean()) < 0.5 else -0.3)


def _blurred(picture: Float32Array, radius_px: float) -> Float32Array:
    """Gaussian blur of values in [0, 1], in eight bits."""
    blurred = Image.fromarray(_to_uint8(picture)).filter(ImageFilter.GaussianBlur(radius_px))
    return np.asarray(blurred, dtype=np.float32) / np.float32(255)


def _to_uint8(canvas: Float32Array) -> UInt8Array:
    return np.round(np.clip(canvas, 0, 1) * 255).astype(np.uint8)


def _simulate_camera(rng: _Rng, canvas: Float32Array) -> UInt8Array:
    """Applies uneven light, contrast, blur, noise and compression."""
    size_hw = canvas.shape[:2]
    canvas *= 1 + np.float32(0.2) * _smooth_noise(rng, size_hw, cells=2)[:, :, None]
    contrast, brightness = rng.uniform(0.75, 1.15), rng.uniform(-0.06, 0.06)
    canvas = (canvas - 0.5) * np.float32(contrast) + np.float32(0.5 + brightness)
    canvas = _blurred(canvas, float(rng.uniform(0.0, 0.9)))
    grain = rng.standard_normal((*size_hw, 3), dtype=np.float32)
    canvas += np.float32(rng.uniform(0.005, 0.04)) * grain
    if rng.random() < 0.3:
        canvas = _compress(canvas, float(rng.uniform(0.02, 0.07)))
    return _to_uint8(canvas)


def _compress(canvas: Float32Array, step: float) -> Float32Array:
    """Quantises the cosine transform of 8 px blocks, coarser for higher frequencies.

    This is the loss of JPEG without its library, whose versions differ in their last bits.
    """
    rows, columns = (side // 8 for side in canvas.shape[:2])
    k = np.arange(8)
    basis = np.cos(math.pi * (2 * k[None, :] + 1) * k[:, None] / 16) / 2
    basis[0] /= math.sqrt(2)
    basis = basis.astype(np.float32)
    blocks = canvas[: rows * 8, : columns * 8].reshape(rows, 8, columns, 8, 3)
    blocks = blocks.transpose(0, 2, 4, 1, 3)
    steps = (step * (1 + k[:, None] + k[None, :])).astype(np.float32)
    rounded = np.round((basis @ blocks @ basis.T) / steps) * steps
    restored = (basis.T @ rounded @ basis).transpose(0, 3, 1, 4, 2)
    result = canvas.copy()
    result[: rows * 8, : columns * 8] = restored.reshape(rows * 8, columns * 8, 3)
    return result


def _smooth_noise(rng: _Rng, size_hw: _Size, cells: int) -> Float32Array:
    """Noise in two octaves, nearly all in [-1, 1], with `cells` values along the shorter side."""
    height, width = size_hw
    shorter = min(size_hw)
    total = np.zeros(size_hw, dtype=np.float32)
    for octave, weight in ((1, 0.42), (2, 0.2)):
        n = max(2, cells * octave)
        grid_hw = (max(2, n * height // shorter), max(2, n * width // shorter))
        grid = Image.fromarray(rng.standard_normal(grid_hw, dtype=np.float32))
        enlarged = np.asarray(grid.resize((width, height), Image.Resampling.BICUBIC))
        total += np.float32(weight) * enlarged
    return total


def _draw_texture(
    rng: _Rng, palette: Float32Array, size_hw: _Size, photos: tuple[str, ...]
) -> Float32Array:
    """Draws a pattern of two colours of the palette, or crops a photo: (H, W, 3) float32."""
    first, second = palette[rng.permutation(len(palette))[:2]]
    photo = _photo_crop(rng, size_hw, photos) if rng.random() < 0.3 else None
    if photo is not None:
        if rng.random() < 0.5:
            return photo
        weight = photo.mean(axis=2)
    else:
        weight = _draw_pattern(rng, size_hw)
        if rng.random() < 0.5:
            cells = max(2, min(size_hw) // 6)
            weight = weight + 0.25 * _smooth_noise(rng, size_hw, cells)
    return np.asarray(first + weight[:, :, None] * (second - first), np.float32)


def _draw_pattern(rng: _Rng, size_hw: _Size) -> Float32Array:
    """Draws one of `_PATTERNS`: (H, W) float32, mostly in [0, 1]."""
    y = np.arange(size_hw[0], dtype=np.float32)[:, None]
    x = np.arange(size_hw[1], dtype=np.float32)[None, :]

    def along_a_direction() -> Float32Array:
        angle = rng.uniform(0, 2 * math.pi)
        return np.asarray(np.float32(math.cos(angle)) * x + np.float32(math.sin(angle)) * y)

    def wavelength_px() -> float:
        longest = max(8.0, min(size_hw) / 3)
        return float(np.exp(rng.uniform(math.log(5.0), math.log(longest))))

    match _PATTERNS[int(rng.integers(len(_PATTERNS)))]:
        case "gradient":
            plane = along_a_direction()
            span = np.float32(max(float(np.ptp(plane)), 1.0))
            return np.asarray((plane - plane.min()) / span)
        case "stripes":
            phase = along_a_direction() * np.float32(2 * math.pi / wavelength_px())
            if rng.random() < 0.5:
                phase = phase + np.float32(rng.uniform(1, 4)) * _smooth_noise(rng, size_hw, 3)
            wave = np.sin(phase)
        case "checks":
            turn = np.float32(math.pi / wavelength_px())
            angle = rng.uniform(0, math.pi / 2)
            y, x = y * turn, x * turn
            c, s = np.float32(math.cos(angle)), np.float32(math.sin(angle))
            wave = np.sin(c * x + s * y) * np.sin(c * y - s * x) * 2
        case "clouds":
            return 0.5 + 0.6 * _smooth_noise(rng, size_hw, cells=int(rng.integers(2, 8)))
        case _:
            cells = max(3, int(min(size_hw) / wavelength_px()))
            return np.asarray(np.clip(0.5 + 4 * _smooth_noise(rng, size_hw, cells), 0, 1))
    # A wave of [-1, 1] becomes a pattern of [0, 1] with soft to crisp edges.
    return np.asarray(np.clip(0.5 + np.float32(rng.uniform(0.5, 3.0)) * wave, 0, 1))


@lru_cache(maxsize=2)
def load_photos(names: tuple[str, ...]) -> tuple[UInt8Array, ...]:
    """Those photos, (H, W, 3) uint8, that the installed scikit-image has; without any download."""
    spec = find_spec("skimage")
    if spec is None or spec.origin is None:
        return ()
    photos = []
    for name in names:
        try:
            photos.append(load_image(Path(spec.origin).parent / "data" / f"{name}.png", name))
        except DataError:
            continue
    return tuple(photos)


def _photo_crop(rng: _Rng, size_hw: _Size, names: tuple[str, ...]) -> Float32Array | None:
    """A random crop of a random photo, mirrored and resized; None without photos."""
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
