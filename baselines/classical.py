"""Baselines without learning: the prompt box itself, and OpenCV's GrabCut started from the prompt.

A learnt model should beat them by a margin; otherwise the protocol mostly measures the prompt.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from baselines.interface import (
    BoolArray,
    Embedding,
    Float32Array,
    Int64Array,
    Masks,
    ModelInfo,
    ModelOptions,
    Prepared,
    PromptKind,
    Prompts,
    Segmenter,
    UInt8Array,
    WeightsInfo,
    check_image,
)
from baselines.pixels import box_pixels, fill_boxes, point_pixels

# Longest side for GrabCut; larger windows are shrunk. Its time grows with the number of pixels,
# and more pixels hardly improve the edges of its masks.
WORKING_SIDE_PX = 256
ITERATIONS = 3
# Margin around a box, to learn the background from: a share of the box's side, and a minimum.
MARGIN = 0.25
MARGIN_MIN_PX = 8
# Radius of the initial object around a foreground point, as a share of the image's shorter side.
DISC_RADIUS = 0.1
# GrabCut sometimes assigns the object to the background; a result that keeps less than this share
# of the initial object is discarded.
COLLAPSED = 0.1
# Components of each of GrabCut's two colour models, which need at least as many pixels.
_COLOURS = 5


class ImageSegmenter(Segmenter):
    """A model without a network, which takes the image together with the prompts."""

    def __init__(
        self, name: str, family: str, licence: str, supports: Iterable[PromptKind]
    ) -> None:
        weights, kinds = WeightsInfo("none"), frozenset(supports)
        self.info = ModelInfo(name, family, 0, licence, weights, "classical", kinds)

    def prepare(self, image: UInt8Array) -> Prepared:
        """Checks the image."""
        return Prepared(image, check_image(image))

    def encode(self, prepared: Prepared) -> Embedding:
        """Nothing to do: all computation depends on the prompt."""
        return Embedding(prepared.payload, prepared.size_hw, self.info.name)

    def decode(self, embedding: Embedding, prompts: Prompts, *, multimask: bool = False) -> Masks:
        """One mask for each prompt; C is 1, and `multimask` is ignored."""
        del multimask
        self.check_embedding(embedding)
        self.require(prompts)
        masks, scores = self._answer(embedding.payload, prompts, embedding.size_hw)
        return Masks(masks[:, None], scores[:, None])

    @abstractmethod
    def _answer(
        self, image: UInt8Array, prompts: Prompts, size_hw: tuple[int, int]
    ) -> tuple[BoolArray, Float32Array]:
        """(N, H, W) masks and (N,) scores."""


class BoxSegmenter(ImageSegmenter):
    """Predicts the pixels whose centres lie in a box, with score 1; supports no points."""

    def __init__(self, options: ModelOptions) -> None:
        super().__init__(options.name, "classical", "Apache-2.0", ("boxes",))

    def _answer(
        self, image: UInt8Array, prompts: Prompts, size_hw: tuple[int, int]
    ) -> tuple[BoolArray, Float32Array]:
        del image
        assert prompts.boxes is not None  # noqa: S101 - points alone are refused before
        masks = fill_boxes(box_pixels(prompts.boxes, size_hw), size_hw)
        return masks, _present(masks)


class GrabCutSegmenter(ImageSegmenter):
    """OpenCV's GrabCut (Rother et al., 2004), for each prompt independently.

    From a box: all outside of it is background, all inside probably the object. Only a window
    around the box is used: the box and a margin of a quarter of its sides (at least 8 px).

    From points: a disc around each foreground point, with a radius of a tenth of the image's
    shorter side, is probably the object, the image's outermost pixels are background, everything
    else probably background. Foreground and background points themselves are certain. Of the
    result, only the connected parts that contain a foreground point remain. Without a foreground
    point on the image the mask is empty.

    From both: as from the box, with the points certain.

    The window is shrunk to at most 256 pixels a side and processed in 3 iterations, which keeps a
    prompt below about 0.2 s on one core; the mask is enlarged by linear interpolation. With fewer
    than 5 pixels of object or background, or one colour only, the initial guess is the result: for
    a box that covers the image, the box. GrabCut does not estimate its quality: the score is 1, or
    0 for an empty mask. OpenCV's thread count is not changed.
    """

    def __init__(self, options: ModelOptions) -> None:
        super().__init__(options.name, "classical", "Apache-2.0", ("points", "boxes"))
        self._seed = options.seed

    def prepare(self, image: UInt8Array) -> Prepared:
        """Copies the image."""
        size = check_image(image)
        return Prepared(np.array(image, order="C"), size)

    def _answer(
        self, image: UInt8Array, prompts: Prompts, size_hw: tuple[int, int]
    ) -> tuple[BoolArray, Float32Array]:
        masks = np.zeros((len(prompts), *size_hw), np.bool_)
        for row, hint in enumerate(_hints(prompts, size_hw)):
            if hint is not None:
                _segment(image, hint, self._seed, out=masks[row])
        return masks, _present(masks)


def _present(masks: BoolArray) -> Float32Array:
    """Scores (N,) of (N, H, W) masks: 1, or 0 for an empty mask."""
    return np.array([mask.any() for mask in masks], np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class _Hint:
    """A prompt in pixels of the image."""

    box: Int64Array | None  # (4,) half-open range x0, y0, x1, y1 with at least one pixel
    points: Int64Array  # (K, 2) xy on the image
    foreground: BoolArray  # (K,)


def _hints(prompts: Prompts, size_hw: tuple[int, int]) -> list[_Hint | None]:
    """One hint for each prompt; None where the mask is empty."""
    count = len(prompts)
    points, foreground = [np.zeros((0, 2), np.int64)] * count, [np.zeros(0, np.bool_)] * count
    if prompts.points is not None and prompts.labels is not None:
        pixels, inside = point_pixels(prompts.points, size_hw)
        points = [xy[kept] for xy, kept in zip(pixels, inside, strict=True)]
        foreground = [is_1[kept] for is_1, kept in zip(prompts.labels == 1, inside, strict=True)]
    if prompts.boxes is None:
        hints = (_Hint(None, *each) for each in zip(points, foreground, strict=True))
        return [hint if hint.foreground.any() else None for hint in hints]
    boxes = box_pixels(prompts.boxes, size_hw)
    rows = zip(boxes, points, foreground, strict=True)
    return [_Hint(*row) if (row[0][2:] > row[0][:2]).all() else None for row in rows]


def _segment(image: UInt8Array, hint: _Hint, seed: int, *, out: BoolArray) -> None:
    """Draws the object of one prompt into `out`, (H, W) and all False."""
    import cv2

    size = np.array(image.shape[1::-1])
    low, high = np.zeros(2, np.int64), size
    if hint.box is not None:
        start, stop = hint.box[:2], hint.box[2:]
        margin = np.maximum(MARGIN_MIN_PX, np.ceil(MARGIN * (stop - start))).astype(np.int64)
        low, high = np.maximum(start - margin, 0), np.minimum(stop + margin, size)
    window = np.s_[low[1] : high[1], low[0] : high[0]]
    shrink = min(1.0, WORKING_SIDE_PX / int((high - low).max()))
    small_size = np.maximum(1, np.rint((high - low) * shrink)).astype(np.int64)
    small = cv2.resize(image[window], small_size.tolist(), interpolation=cv2.INTER_AREA)
    scale = small_size / (high - low)
    trimap = _trimap(hint, low, scale, small_size, radius=DISC_RADIUS * size.min() * scale)
    found = _grab_cut(small, trimap, seed)
    if hint.box is None:
        # Only the connected parts that contain a foreground point remain.
        _, parts = cv2.connectedComponents(found.astype(np.uint8), connectivity=4)
        x, y = _shrunk(hint.points[hint.foreground], low, scale).T
        found = np.isin(parts, np.setdiff1d(parts[y, x], [0]))
    large = found.astype(np.uint8) * 255
    large = cv2.resize(large, (high - low).tolist(), interpolation=cv2.INTER_LINEAR)
    out[window] = large > 127
    if hint.box is not None:
        out &= fill_boxes(hint.box[None], out.shape)[0]


def _shrunk(points: Int64Array, low: Int64Array, scale: np.ndarray) -> Int64Array:
    """Pixels of the window's working copy that hold these pixels of the image."""
    shrunk: Int64Array = ((points - low + 0.5) * scale).astype(np.int64)
    return shrunk


def _trimap(
    hint: _Hint, low: Int64Array, scale: np.ndarray, size: Int64Array, *, radius: np.ndarray
) -> UInt8Array:
    """Initial labels at the working size: (h, w) of cv2.GC_*."""
    import cv2

    width, height = size.tolist()
    shrunk = _shrunk(hint.points, low, scale)
    if hint.box is not None:
        trimap = np.full((height, width), cv2.GC_BGD, np.uint8)
        x0, y0 = np.floor((hint.box[:2] - low) * scale).astype(np.int64)
        x1, y1 = np.ceil((hint.box[2:] - low) * scale).astype(np.int64)
        trimap[y0:y1, x0:x1] = cv2.GC_PR_FGD
    else:
        trimap = np.full((height, width), cv2.GC_PR_BGD, np.uint8)
        rows, columns = np.ogrid[:height, :width]
        for x, y in shrunk[hint.foreground]:
            distance = ((columns - x) / radius[0]) ** 2 + ((rows - y) / radius[1]) ** 2
            trimap[distance <= 1] = cv2.GC_PR_FGD
        trimap[[0, -1]] = trimap[:, [0, -1]] = cv2.GC_BGD
    on_window = ((shrunk >= 0) & (shrunk < size)).all(axis=1)
    for is_object, value in ((False, cv2.GC_BGD), (True, cv2.GC_FGD)):
        x, y = shrunk[on_window & (hint.foreground == is_object)].T
        trimap[y, x] = value
    return trimap


def _grab_cut(image: UInt8Array, trimap: UInt8Array, seed: int) -> BoolArray:
    """Runs GrabCut if there are enough pixels of both object and background."""
    import cv2

    # Both foreground values of OpenCV, certain and probable, are odd.
    found: BoolArray = trimap % 2 == 1
    objects = np.count_nonzero(found)
    if min(objects, found.size - objects) < _COLOURS or (image == image[0, 0]).all():
        return found
    # OpenCV's generator belongs to the thread: unseeded, results would depend on earlier prompts.
    cv2.setRNGSeed(seed)
    guess, trimap, models = found, trimap.copy(), (np.zeros((1, 65)), np.zeros((1, 65)))
    mode = cv2.GC_INIT_WITH_MASK
    for _ in range(ITERATIONS):
        cv2.grabCut(image, trimap, None, *models, 1, mode)
        mode = cv2.GC_EVAL
        found = trimap % 2 == 1
        if np.count_nonzero(found) < COLLAPSED * objects or found.all():
            return guess
    return found
