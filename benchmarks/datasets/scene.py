"""Renders a scene of overlapping objects with exact masks of what is visible of each."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from baselines.interface import BoolArray, Float32Array, UInt8Array
from benchmarks.datasets.shapes import SHAPES, draw_shape
from benchmarks.datasets.textures import draw_palette, draw_texture, smooth_noise
from mobilesam.errors import UsageError

RECIPE = 1
"""Raised whenever the same seed would give other scenes; part of every fingerprint."""

DEFAULT_SIZE_HW = (480, 640)
DEFAULT_OBJECTS = (3, 8)

MIN_SIDE_PX = 48
MIN_VISIBLE_PX = 24
"""No instance shows fewer pixels than this."""

_MIN_VISIBLE_SHARE = 0.25
_ATTEMPTS = 12
MAX_OBJECTS = 200

LabelArray = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """A rendered picture.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        masks: (N, H, W) bool, from far to near: the visible part of each object, disjoint, each
            of at least `MIN_VISIBLE_PX` pixels.
        categories: N names of shapes.
    """

    image: UInt8Array
    masks: BoolArray
    categories: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class _Placed:
    """A silhouette at its place: `alpha` covers rows and columns from `top`, `left`."""

    kind: str
    alpha: Float32Array
    top: int
    left: int

    @property
    def window(self) -> tuple[slice, slice]:
        height, width = self.alpha.shape
        return slice(self.top, self.top + height), slice(self.left, self.left + width)


def render_scene(
    rng: np.random.Generator,
    size_hw: tuple[int, int] = DEFAULT_SIZE_HW,
    n_objects: tuple[int, int] = DEFAULT_OBJECTS,
) -> Scene:
    """Draws one scene of overlapping, textured, partly hidden objects.

    Objects are painted from far to near. One that would hide another but for a quarter of it, or
    that would itself hardly show, is placed anew, and after some attempts left out: a scene may
    hold fewer objects than were drawn, but at least one. Masks do not depend on how things look,
    only on where they are.

    Args:
        rng: Source of all randomness.
        size_hw: Height and width in pixels, at least `MIN_SIDE_PX` each.
        n_objects: Fewest and most objects, both included.

    Raises:
        UsageError: A size or number of objects that cannot be drawn.
    """
    check_request(size_hw, n_objects)
    geometry = np.random.default_rng(rng.integers(2**63))
    look = np.random.default_rng(rng.integers(2**63))
    placed, labels = _arrange(geometry, size_hw, n_objects)
    image = _paint(look, size_hw, placed)
    masks = labels[None] == np.arange(1, len(placed) + 1, dtype=np.uint8)[:, None, None]
    return Scene(image, masks, tuple(item.kind for item in placed))


def check_request(size_hw: tuple[int, int], n_objects: tuple[int, int]) -> None:
    """Refuses a size or number of objects that `render_scene` cannot draw."""
    if min(size_hw) < MIN_SIDE_PX:
        raise UsageError(f"a scene of {size_hw} px is too small; {MIN_SIDE_PX} a side at least")
    if not 1 <= n_objects[0] <= n_objects[1] <= MAX_OBJECTS:
        raise UsageError(f"n_objects {n_objects}: wanted 1 <= fewest <= most <= {MAX_OBJECTS}")


def _arrange(
    rng: np.random.Generator, size_hw: tuple[int, int], n_objects: tuple[int, int]
) -> tuple[list[_Placed], LabelArray]:
    """Places objects from far to near; returns them and, for each pixel, 1 + the one it shows."""
    labels: LabelArray = np.zeros(size_hw, dtype=np.uint8)
    placed: list[_Placed] = []
    full_px: list[int] = []
    wanted = int(rng.integers(n_objects[0], n_objects[1] + 1))
    for _ in range(wanted * _ATTEMPTS):
        item = _place(rng, size_hw, placed)
        mask = item.alpha >= 0.5
        if not _fits(labels, item, mask, full_px):
            continue
        placed.append(item)
        full_px.append(int(np.count_nonzero(mask)))
        labels[item.window][mask] = len(placed)
        if len(placed) == wanted:
            break
    return placed, labels


def _place(rng: np.random.Generator, size_hw: tuple[int, int], placed: list[_Placed]) -> _Placed:
    """Draws a silhouette and where it lies: half of the time near one that is there already."""
    height, width = size_hw
    kind = SHAPES[int(rng.integers(len(SHAPES)))]
    smallest = 0.3 if kind == "stroke" else 0.07
    # Between tiny and nearly the whole height, leaning towards the larger ones.
    share = smallest * (0.85 / smallest) ** math.sqrt(rng.random())
    extent_px = max(9, round(share * min(size_hw)))
    alpha = draw_shape(rng, kind, extent_px)
    y, x = rng.uniform(0, height), rng.uniform(0, width)
    if placed and rng.random() < 0.5:
        near = placed[int(rng.integers(len(placed)))]
        reach = 0.4 * (extent_px + near.alpha.shape[0]) / 2
        y = near.top + near.alpha.shape[0] / 2 + rng.normal(0, reach)
        x = near.left + near.alpha.shape[1] / 2 + rng.normal(0, reach)
    top, left = round(y - alpha.shape[0] / 2), round(x - alpha.shape[1] / 2)
    rows = slice(max(0, -top), max(0, min(alpha.shape[0], height - top)))
    columns = slice(max(0, -left), max(0, min(alpha.shape[1], width - left)))
    return _Placed(kind, alpha[rows, columns], max(0, top), max(0, left))


def _fits(labels: LabelArray, item: _Placed, mask: BoolArray, full_px: list[int]) -> bool:
    """Tells whether the new object and all that it covers would still show enough."""
    if np.count_nonzero(mask) < MIN_VISIBLE_PX:
        return False
    n = len(full_px) + 1
    covered = np.bincount(labels[item.window][mask], minlength=n)[1:]
    if not covered.any():
        return True
    visible = np.bincount(labels.ravel(), minlength=n)[1:] - covered
    needed = np.maximum(MIN_VISIBLE_PX, _MIN_VISIBLE_SHARE * np.array(full_px))
    return bool((visible >= needed)[covered > 0].all())


def _paint(rng: np.random.Generator, size_hw: tuple[int, int], placed: list[_Placed]) -> UInt8Array:
    palette = draw_palette(rng)
    canvas = draw_texture(rng, palette, size_hw, ground=True).copy()
    if rng.random() < 0.25:
        _split_ground(rng, palette, canvas)
    light = rng.uniform(0, 2 * math.pi)
    for item in placed:
        _paint_object(rng, palette, canvas, item, light)
    return _develop(rng, canvas)


def _split_ground(rng: np.random.Generator, palette: Float32Array, canvas: Float32Array) -> None:
    """Gives the lower part of the ground a surface of its own, as a floor meets a wall."""
    row = int(rng.uniform(0.3, 0.8) * canvas.shape[0])
    size_hw = (canvas.shape[0] - row, canvas.shape[1])
    canvas[row:] = draw_texture(rng, palette, size_hw, ground=True)


def _paint_object(
    rng: np.random.Generator,
    palette: Float32Array,
    canvas: Float32Array,
    item: _Placed,
    light: float,
) -> None:
    """Paints one object with its shadow; the canvas is changed in place."""
    alpha = item.alpha
    halo = _blurred(alpha, max(alpha.shape) / 12)
    surface = _surface(rng, palette, canvas[item.window], alpha, halo)
    height, width = alpha.shape
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    x = np.linspace(-1, 1, width, dtype=np.float32)[None, :]
    slope = np.float32(math.cos(light)) * x + np.float32(math.sin(light)) * y
    # The halo falls off towards the rim from within, which reads as a round body.
    volume = np.float32(rng.uniform(0.0, 0.5)) * (halo - 1)
    shade = 1 + np.float32(rng.uniform(0.0, 0.25)) * slope + volume
    if rng.random() < 0.6:
        _cast_shadow(canvas, item, light, float(rng.uniform(0.2, 0.5)))
    cover = alpha[:, :, None]
    window = canvas[item.window]
    window += cover * (surface * shade[:, :, None] - window)


def _cast_shadow(canvas: Float32Array, item: _Placed, light: float, strength: float) -> None:
    """Darkens what lies beside an object, on the side away from the light."""
    step = max(1, max(item.alpha.shape) // 16)
    # Room for the blur to run out in, or the shadow would end in the edges of a rectangle.
    room = 3 * step
    shadow = _blurred(np.pad(item.alpha, room), step)
    top = item.top - room - round(step * math.sin(light))
    left = item.left - room - round(step * math.cos(light))
    rows = slice(max(0, top), min(canvas.shape[0], top + shadow.shape[0]))
    columns = slice(max(0, left), min(canvas.shape[1], left + shadow.shape[1]))
    part = shadow[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
    canvas[rows, columns] *= 1 - np.float32(strength) * part[:, :, None]


def _surface(
    rng: np.random.Generator,
    palette: Float32Array,
    behind: Float32Array,
    alpha: Float32Array,
    halo: Float32Array,
) -> Float32Array:
    """Draws surfaces until one can be told from what surrounds the object, at most five times."""
    inside = alpha >= 0.5
    around = (halo > 0.05) & ~inside
    if not around.any():
        around = inside
    ring = behind[around]
    for _ in range(5):
        surface = draw_texture(rng, palette, alpha.shape, ground=False)
        if rng.random() < 0.3:
            _add_part(rng, palette, surface)
        body = surface[inside]
        step = np.linalg.norm(body.mean(axis=0) - ring.mean(axis=0))
        grain = abs(float(body.mean(axis=1).std()) - float(ring.mean(axis=1).std()))
        if step > 0.22 or grain > 0.1:
            return surface
    brighter = np.float32(0.3 if float(ring.mean()) < 0.5 else -0.3)
    return surface + brighter


def _add_part(rng: np.random.Generator, palette: Float32Array, surface: Float32Array) -> None:
    """Gives a part of an object another surface: what differs is not always another object."""
    extent_px = max(4, min(surface.shape[:2]) // 2)
    part = draw_shape(rng, "oval", extent_px)
    part = part[: surface.shape[0], : surface.shape[1], None]
    top = int(rng.integers(surface.shape[0] - part.shape[0] + 1))
    left = int(rng.integers(surface.shape[1] - part.shape[1] + 1))
    window = surface[top : top + part.shape[0], left : left + part.shape[1]]
    window += part * (draw_texture(rng, palette, window.shape[:2], ground=False) - window)


def _blurred(alpha: Float32Array, radius_px: float) -> Float32Array:
    from PIL import Image, ImageFilter

    grey = Image.fromarray(np.round(alpha * 255).astype(np.uint8))
    blurred = grey.filter(ImageFilter.GaussianBlur(radius_px))
    return np.asarray(blurred, dtype=np.float32) / np.float32(255)


def _develop(rng: np.random.Generator, canvas: Float32Array) -> UInt8Array:
    """What a camera does to a scene: uneven light, contrast, blur, noise, compression."""
    from PIL import Image, ImageFilter

    size_hw = canvas.shape[:2]
    canvas *= 1 + np.float32(0.2) * smooth_noise(rng, size_hw, cells=2)[:, :, None]
    contrast, brightness = rng.uniform(0.75, 1.15), rng.uniform(-0.06, 0.06)
    canvas = (canvas - 0.5) * np.float32(contrast) + np.float32(0.5 + brightness)
    picture = Image.fromarray(_to_uint8(canvas))
    picture = picture.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.0, 0.9))))
    canvas = np.asarray(picture, dtype=np.float32) / np.float32(255)
    grain = rng.standard_normal((*size_hw, 3), dtype=np.float32)
    canvas += np.float32(rng.uniform(0.005, 0.04)) * grain
    if rng.random() < 0.3:
        canvas = _compress(canvas, float(rng.uniform(0.02, 0.07)))
    return _to_uint8(canvas)


def _compress(canvas: Float32Array, step: float) -> Float32Array:
    """Rounds the cosine transform of blocks of 8 px, the finer the pattern the coarser.

    That is JPEG's loss without its library, whose versions differ in their last bits.
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


def _to_uint8(canvas: Float32Array) -> UInt8Array:
    return np.round(np.clip(canvas, 0, 1) * 255).astype(np.uint8)
