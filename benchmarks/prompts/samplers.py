"""How the prompt of an object is derived from its annotation, and where a simulated user clicks."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from baselines.interface import BoolArray, Float32Array, Int64Array, Prompts
from benchmarks.datasets.dataset import Instance
from benchmarks.datasets.masks import center_point, deepest_pixel
from mobilesam.errors import DataError, UsageError

_NAME = re.compile(r"(box|center|annotation-point)|(?:(random|two-point)-([1-9][0-9]{0,3}))")


@dataclass(frozen=True, slots=True)
class PromptSampler:
    """Derives the prompt of an instance from its annotation; `number` is the K or D in the name.

    - `box`: the box of the annotation.
    - `center`: the pixel deepest inside the mask, see `center_point`.
    - `annotation-point`: the first point stored with the annotation (SA-1B's `point_coords`),
      unchanged; none if there is none.
    - `random-K`: K distinct pixels of the mask, each drawn uniformly from the remaining ones. The
      generator is seeded by annotation id and seed only, so `random-3` begins with the point of
      `random-1`. None for a mask of fewer than K pixels.
    - `two-point-D`: the centre as foreground and a background pixel at a distance that rounds to D
      pixels, drawn uniformly from all such pixels inside the image and outside the mask; none if
      there is no such pixel. The MobileSAM paper (Table 7) states neither images nor points nor
      directions: this is the choice of this suite.
    """

    name: str
    kind: str
    number: int = 1

    @property
    def labels(self) -> tuple[int, ...] | None:
        """Labels of the points in order, 1 foreground and 0 background; None for a box."""
        if self.kind == "box":
            return None
        return (1, 0) if self.kind == "two-point" else (1,) * self.number

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the D values of a prompt."""
        if self.labels is None:
            return ("x0", "y0", "x1", "y1")
        if len(self.labels) == 1:
            return ("x", "y")
        return tuple(f"{axis}{index}" for index in range(len(self.labels)) for axis in "xy")

    def sample(self, instance: Instance, mask: BoolArray, seed: int) -> Float32Array | None:
        """Makes the (D,) prompt in pixels of an instance with its decoded mask, or None.

        It depends only on the arguments: not on other instances, nor on their order.
        """
        match self.kind:
            case "box":
                return instance.box
            case "center":
                return np.array(center_point(mask), dtype=np.float32)
            case "annotation-point":
                if instance.points is None or len(instance.points) == 0:
                    return None
                return np.array(instance.points[0], dtype=np.float32)
            case "random":
                return _random_points(self.number, instance.annotation_id, mask, seed)
            case _:
                return _two_points(self.number, instance.annotation_id, mask, seed)


def prompt_sampler(name: str) -> PromptSampler:
    """Returns the sampler of a name; raises `UsageError` for an unknown one."""
    match = _NAME.fullmatch(name)
    if match is None:
        raise UsageError(
            f"unknown prompt sampler {name!r}; known: box, center, annotation-point, random-K, "
            "two-point-D, K and D whole numbers from 1 to 9999 without leading zeros"
        )
    return PromptSampler(name, match[1] or match[2], int(match[3] or 1))


def to_prompts(sampler: PromptSampler, values: Float32Array) -> Prompts:
    """Converts (N, D) sampled prompts of one image, N at least 1, to the input of a model."""
    if values.ndim != 2 or values.shape[1] != len(sampler.columns):
        raise UsageError(
            f"{sampler.name} prompts have {len(sampler.columns)} columns; got shape {values.shape}"
        )
    labels = sampler.labels
    if labels is None:
        return Prompts(boxes=values)
    return Prompts(
        points=values.reshape(len(values), len(labels), 2),
        labels=np.tile(np.array(labels, np.int64), (len(values), 1)),
    )


def _random_points(
    count: int, annotation_id: int, mask: BoolArray, seed: int
) -> Float32Array | None:
    pixels = np.flatnonzero(mask)
    if len(pixels) < count:
        return None
    generator = _generator(annotation_id, seed)
    # A Fisher-Yates shuffle stopped after `count` swaps, which keeps only the moved places.
    moved: dict[int, int] = {}
    chosen = []
    for place in range(count):
        other = place + _draw_below(generator, len(pixels) - place)
        chosen.append(moved.get(other, other))
        moved[other] = moved.get(place, place)
    rows, columns = np.divmod(pixels[chosen], mask.shape[1])
    return np.stack([columns, rows], axis=1).astype(np.float32).ravel()


def _two_points(
    distance_px: int, annotation_id: int, mask: BoolArray, seed: int
) -> Float32Array | None:
    height, width = mask.shape
    if distance_px > math.hypot(height, width):
        return None
    x, y = center_point(mask)
    around = _ring(distance_px) + np.array((x, y), np.int64)
    inside = ((around >= 0) & (around < (width, height))).all(axis=1)
    around = around[inside]
    background = around[~mask[around[:, 1], around[:, 0]]]
    if len(background) == 0:
        return None
    generator = _generator(annotation_id, distance_px, seed)
    chosen = background[_draw_below(generator, len(background))]
    return np.array((x, y, *chosen), dtype=np.float32)


@lru_cache(maxsize=16)
def _ring(radius_px: int) -> Int64Array:
    """Offsets (N, 2) xy whose length rounds to the radius, ordered by row, then column.

    The band is one pixel wide, so its pixels are spread evenly over all directions. Only integers
    are compared (r - 1/2 < length < r + 1/2 is r*r - r < length^2 <= r*r + r), so the set is the
    same on every platform.
    """
    offsets = []
    for dy in range(-radius_px, radius_px + 1):
        farthest = math.isqrt(radius_px * (radius_px + 1) - dy * dy)
        too_near = radius_px * (radius_px - 1) - dy * dy
        nearest = 0 if too_near < 0 else math.isqrt(too_near) + 1
        dx = range(nearest, farthest + 1)
        offsets += [(-each, dy) for each in reversed(dx) if each] + [(each, dy) for each in dx]
    ring = np.array(offsets, dtype=np.int64)
    ring.setflags(write=False)
    return ring


def _generator(*key: int) -> np.random.Generator:
    # Two words per number, always: else (2**32, 0) and (0, 1) could be the same seed.
    words = np.array(key, dtype="<i8").view("<u4")
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(words.tolist())))


def _draw_below(generator: np.random.Generator, bound: int) -> int:
    # numpy guarantees its raw stream across versions, but not `integers`, and the hash of a
    # manifest must not change with the version of numpy. The bias is below bound / 2**64.
    return int(generator.bit_generator.random_raw()) * bound >> 64


def next_click(
    prediction: BoolArray, reference: BoolArray, clicked: Float32Array | None = None
) -> tuple[int, int, int] | None:
    """Chooses the next click by the usual protocol of interactive segmentation (RITM, SAM).

    The click goes to the pixel deepest inside either kind of error region, false negatives (in the
    reference only) or false positives (in the prediction only); see `deepest_pixel`. Ties: false
    negatives first. As in RITM, no pixel is clicked twice: a clicked pixel, (K, 2) xy, is excluded,
    but still counts as part of its error region.

    Returns:
        x, y and label: 1 (foreground) for a false negative, 0 (background) for a false positive.
        None if no pixel is wrong, or if all wrong pixels have been clicked.
    """
    is_bool = prediction.dtype == np.bool_ and reference.dtype == np.bool_
    if prediction.shape != reference.shape or not is_bool:
        raise DataError(
            f"a click needs two bool masks of one shape; got {prediction.dtype} "
            f"{prediction.shape}, {reference.dtype} {reference.shape}"
        )
    # For booleans, a > b computes a & ~b in one pass.
    missed = deepest_pixel(reference > prediction, clicked)
    wrong = deepest_pixel(prediction > reference, clicked)
    if wrong is not None and (missed is None or wrong[2] > missed[2]):
        return wrong[0], wrong[1], 0
    return None if missed is None else (missed[0], missed[1], 1)
