"""How the prompt of an object is derived from its annotation, and where a simulated user clicks."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np

from baselines.interface import BoolArray, Float32Array, Int64Array, MaskFrame, Prompts
from benchmarks.datasets.dataset import Instance
from benchmarks.datasets.masks import center_point, deepest_pixel
from benchmarks.prompts import coarse_masks
from mobilesam.errors import DataError, UsageError

PERCENT = r"100|[1-9][0-9]?(?:\.[0-9]{0,2}[1-9])?"
"""A number from 1 to 100 with up to three decimals, written without trailing zeros."""
_NAME = re.compile(
    r"(box|center|annotation-point|mask|mask-eroded|mask-dilated)"
    r"|(random|two-point)-([1-9][0-9]{0,3})"
    rf"|(box-jitter|point-offset)-({PERCENT})"
)
_MOST_DRAWS = 100
"""Draws of a box until it is valid; a draw is not with a probability of 1/8 at most per axis."""
_BOX_KEY, _POINT_KEY = -1, -2
"""Parts of the seed that keep the draws of moved boxes and points apart."""


@dataclass(frozen=True, slots=True)
class PromptSampler:
    """Derives the prompt of an instance from its annotation; `number` is K, D or P in the name.

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
    - `box-jitter-P`: the box, each side moved by an amount drawn uniformly from plus or minus P %
      of the box's width (left, right) or height (top, bottom), and cut at the border of the image;
      drawn again until its width and height are positive.
    - `point-offset-P`: the centre, x moved by up to P % of the box's width and y by up to P % of
      its height, drawn in the same way, and cut at the border of the image. The point is foreground
      for the model wherever it lies.
    - `mask`: the reference mask on a grid of 64 cells along the longer side of the image, with the
      box of these cells, see `coarse_masks`; `mask-eroded` and `mask-dilated`: the same after an
      erosion or a dilation by 10 % of the square root of its area.

    Draws for different P are the same numbers, scaled, so that results vary with P alone.
    """

    name: str
    kind: str
    number: float = 1

    @property
    def prompt(self) -> Literal["points", "boxes", "masks"]:
        """The kind of prompt that a model is given."""
        if self.kind.startswith("mask"):
            return "masks"
        return "boxes" if self.kind in ("box", "box-jitter") else "points"

    @property
    def labels(self) -> tuple[int, ...] | None:
        """Labels of the points in order, 1 foreground and 0 background; None if there are none."""
        if self.prompt != "points":
            return None
        if self.kind == "two-point":
            return 1, 0
        return (1,) * (int(self.number) if self.kind == "random" else 1)

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the D values of a prompt."""
        if self.prompt == "masks":  # packed; see `coarse_masks`
            return tuple(f"cells{index}" for index in range(coarse_masks.N_VALUES))
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
                return _random_points(int(self.number), instance.annotation_id, mask, seed)
            case "two-point":
                return _two_points(int(self.number), instance.annotation_id, mask, seed)
            case "box-jitter":
                return _moved_box(self.number / 100, instance, mask.shape, seed)
            case "point-offset":
                return _moved_point(self.number / 100, instance, mask, seed)
            case "mask-eroded":
                mask = coarse_masks.changed(mask, "eroded")
            case "mask-dilated":
                mask = coarse_masks.changed(mask, "dilated")
        return coarse_masks.pack(coarse_masks.coarse_mask(mask))


def prompt_sampler(name: str) -> PromptSampler:
    """Returns the sampler of a name; raises `UsageError` for an unknown one."""
    match = _NAME.fullmatch(name)
    if match is None:
        raise UsageError(
            f"unknown prompt sampler {name!r}; known: box, center, annotation-point, random-K, "
            "two-point-D, K and D whole numbers from 1 to 9999 without leading zeros; "
            "box-jitter-P, point-offset-P, P a number from 1 to 100; mask, mask-eroded, "
            "mask-dilated"
        )
    kind = match[1] or match[2] or match[4]
    return PromptSampler(name, kind, float(match[5]) if match[5] else int(match[3] or 1))


def to_prompts(
    sampler: PromptSampler, values: Float32Array, frame: MaskFrame | None = None
) -> Prompts:
    """Converts (N, D) sampled prompts of one image, N at least 1, to the input of a model.

    Masks need the `mask_frame` of the model.
    """
    if values.ndim != 2 or values.shape[1] != len(sampler.columns):
        raise UsageError(
            f"{sampler.name} prompts have {len(sampler.columns)} columns; got shape {values.shape}"
        )
    if sampler.prompt == "masks":
        if frame is None:
            raise UsageError(f"{sampler.name} prompts need the mask frame of the model")
        return coarse_masks.mask_prompts(values, frame)
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


def _moved_box(
    share: float, instance: Instance, size_hw: tuple[int, ...], seed: int
) -> Float32Array:
    sides = instance.box.astype(np.float64)
    reach = share * np.tile(sides[2:] - sides[:2], 2)
    # A side that an annotation puts outside of the image moves no further out.
    high = np.maximum(sides, (*size_hw[::-1], *size_hw[::-1]))
    generator = _generator(instance.annotation_id, seed, _BOX_KEY)
    for _ in range(_MOST_DRAWS):
        moved = sides + reach * [_draw_symmetric(generator) for _ in range(4)]
        found = np.clip(moved, np.minimum(sides, 0), high).astype(np.float32)
        if (found[2:] > found[:2]).all():
            return found
    return instance.box  # it is not valid itself


def _moved_point(share: float, instance: Instance, mask: BoolArray, seed: int) -> Float32Array:
    reach = share * (instance.box[2:] - instance.box[:2]).astype(np.float64)
    generator = _generator(instance.annotation_id, seed, _POINT_KEY)
    moved = center_point(mask) + reach * [_draw_symmetric(generator) for _ in range(2)]
    last = np.array(mask.shape[::-1]) - 1
    return np.clip(moved, 0, last).astype(np.float32)


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


def _draw_symmetric(generator: np.random.Generator) -> float:
    """A number from -1 to 1, drawn uniformly; from the raw stream, as `_draw_below`."""
    return (int(generator.bit_generator.random_raw()) >> 11) / 2**52 - 1


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
