"""What is made of a reference mask to prompt a model: the rules, by name."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache, partial

import numpy as np

from baselines.interface import BoolArray, Float32Array, Int64Array, Prompts
from benchmarks.datasets.dataset import Instance
from benchmarks.prompts.centers import center_point
from mobilesam.errors import UsageError

KNOWN_RULES = ("box", "center", "annotation-point", "random-K", "two-point-D")
"""All names, with a letter where a whole number goes."""

_NUMBERED = re.compile(r"(random|two-point)-([1-9][0-9]{0,3})")
_BOX_COLUMNS = ("x0", "y0", "x1", "y1")

_Maker = Callable[[Instance, BoolArray, int], Float32Array | None]


@dataclass(frozen=True, slots=True)
class PromptRule:
    """How the prompt of an instance is made; two rules of one name are equal.

    Attributes:
        name: `box`, `center`, `annotation-point`, `random-3` or `two-point-100`, for example.
        columns: Names of the D values of a prompt.
        labels: Label of each of its points, in order, 1 foreground and 0 background; None for a
            box.
    """

    name: str
    columns: tuple[str, ...]
    labels: tuple[int, ...] | None
    _maker: _Maker = field(repr=False, compare=False)

    def make(self, instance: Instance, mask: BoolArray, seed: int) -> Float32Array | None:
        """Makes the prompt of one instance, in pixels of the original image.

        It depends on nothing but its arguments: not on other instances, nor on their order.

        Args:
            instance: Whose prompt it is.
            mask: (H, W) bool, its reference mask, decoded; not empty.
            seed: Of the draw; rules that draw nothing ignore it.

        Returns:
            (D,) float32, xyxy for a box, xy of each point in turn otherwise; None if this
            instance has no such prompt, so that it is left out for all models.
        """
        return self._maker(instance, mask, seed)


def prompt_rule(name: str) -> PromptRule:
    """Looks a rule up by its name.

    - `box`: the annotation's own box.
    - `center`: the pixel deepest inside the mask, see `center_point`.
    - `annotation-point`: the first of the points stored with the annotation (SA-1B's
      `point_coords`), unchanged; none where it has none.
    - `random-K`: K different pixels of the mask, each draw uniform over those that are left. The
      generator is seeded by annotation and seed alone, so that `random-3` begins with the point of
      `random-1`. None for a mask of fewer than K pixels.
    - `two-point-D`: the centre as foreground and a background pixel D pixels away from it (a
      distance that rounds to D), drawn uniformly among all such pixels inside the image and
      outside the mask; none where there is no such pixel. The MobileSAM paper (Table 7) states
      neither images nor points nor directions: this is the suite's choice.

    Raises:
        UsageError: There is no such rule, or its number is not a whole one from 1 to 9999.
    """
    match name:
        case "box":
            return PromptRule(name, _BOX_COLUMNS, None, _box)
        case "center":
            return PromptRule(name, _columns(1), (1,), _center)
        case "annotation-point":
            return PromptRule(name, _columns(1), (1,), _annotation_point)
    numbered = _NUMBERED.fullmatch(name)
    if numbered is None:
        raise UsageError(
            f"unknown prompt rule {name!r}; known: {', '.join(KNOWN_RULES)}, "
            "K and D whole numbers from 1 to 9999 without leading zeros"
        )
    number = int(numbered[2])
    if numbered[1] == "random":
        return PromptRule(name, _columns(number), (1,) * number, partial(_random_points, number))
    return PromptRule(name, _columns(2), (1, 0), partial(_two_points, number))


def to_prompts(rule: PromptRule, values: Float32Array) -> Prompts:
    """Turns prompts of one image into what models take.

    Args:
        rule: That made them.
        values: (N, D) float32, at least one row.

    Raises:
        UsageError: No row, or a width other than that of the rule.
    """
    if values.ndim != 2 or values.shape[1] != len(rule.columns):
        raise UsageError(
            f"{rule.name} prompts have {len(rule.columns)} columns; got shape {values.shape}"
        )
    if rule.labels is None:
        return Prompts(boxes=values)
    n_points = len(rule.labels)
    return Prompts(
        points=values.reshape(len(values), n_points, 2),
        labels=np.tile(np.array(rule.labels, np.int64), (len(values), 1)),
    )


def _columns(n_points: int) -> tuple[str, ...]:
    if n_points == 1:
        return ("x", "y")
    return tuple(f"{axis}{index}" for index in range(n_points) for axis in "xy")


def _box(instance: Instance, mask: BoolArray, seed: int) -> Float32Array:
    del mask, seed
    return instance.box


def _center(instance: Instance, mask: BoolArray, seed: int) -> Float32Array:
    del instance, seed
    return np.array(center_point(mask), dtype=np.float32)


def _annotation_point(instance: Instance, mask: BoolArray, seed: int) -> Float32Array | None:
    del mask, seed
    if instance.points is None or len(instance.points) == 0:
        return None
    return np.array(instance.points[0], dtype=np.float32)


def _random_points(
    count: int, instance: Instance, mask: BoolArray, seed: int
) -> Float32Array | None:
    pixels = np.flatnonzero(mask)
    if len(pixels) < count:
        return None
    draws = _generator(instance.annotation_id, seed)
    # A shuffle cut short after `count` swaps, of which only the moved places are kept.
    moved: dict[int, int] = {}
    chosen = []
    for place in range(count):
        other = place + _draw_below(draws, len(pixels) - place)
        chosen.append(moved.get(other, other))
        moved[other] = moved.get(place, place)
    rows, columns = np.divmod(pixels[chosen], mask.shape[1])
    return np.stack([columns, rows], axis=1).astype(np.float32).ravel()


def _two_points(
    distance_px: int, instance: Instance, mask: BoolArray, seed: int
) -> Float32Array | None:
    height, width = mask.shape
    if distance_px > math.hypot(height, width):
        return None
    x, y = center_point(mask)
    around = _ring(distance_px) + np.array((x, y), np.int64)
    inside = ((around >= 0) & (around < (width, height))).all(axis=1)
    around = around[inside]
    free = around[~mask[around[:, 1], around[:, 0]]]
    if len(free) == 0:
        return None
    draws = _generator(instance.annotation_id, distance_px, seed)
    return np.array((x, y, *free[_draw_below(draws, len(free))]), dtype=np.float32)


@lru_cache(maxsize=16)
def _ring(radius_px: int) -> Int64Array:
    """Offsets (N, 2) xy whose length rounds to the radius, ordered by row, then column.

    The band is one pixel wide, so that its pixels are spread evenly over all directions. Whole
    numbers decide (r - 1/2 < length < r + 1/2 is r*r - r < length^2 <= r*r + r), and the set is
    the same on every platform.
    """
    offsets = []
    for dy in range(-radius_px, radius_px + 1):
        farthest = math.isqrt(radius_px * (radius_px + 1) - dy * dy)
        too_near = radius_px * (radius_px - 1) - dy * dy
        nearest = 0 if too_near < 0 else math.isqrt(too_near) + 1
        side = range(nearest, farthest + 1)
        offsets += [(-dx, dy) for dx in reversed(side) if dx]
        offsets += [(dx, dy) for dx in side]
    ring = np.array(offsets, dtype=np.int64)
    ring.setflags(write=False)
    return ring


def _generator(*key: int) -> np.random.Generator:
    # Two words a number, always: else (2**32, 0) and (0, 1) could be the same seed.
    words = np.array(key, dtype="<i8").view("<u4")
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(words.tolist())))


def _draw_below(generator: np.random.Generator, bound: int) -> int:
    # numpy promises to keep the raw stream as it is, but not what `integers` makes of it, and a
    # manifest's hash must outlive a release of numpy. The bias is below bound / 2**64.
    return int(generator.bit_generator.random_raw()) * bound >> 64
