"""Baselines without learning: the prompt box itself, and OpenCV's GrabCut started from the prompt.

Any learnt model has to beat them by a margin; where it does not, the protocol measures the prompt.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from baselines.interface import (
    BoolArray,
    Embedding,
    Int64Array,
    Masks,
    ModelInfo,
    Prepared,
    Prompts,
    Segmenter,
    UInt8Array,
    WeightsInfo,
    check_image,
)
from baselines.options import ModelOptions
from baselines.pixels import box_pixels, fill_boxes, point_pixels

# Longest side at which GrabCut works; larger windows are shrunk. Its time grows with the pixels,
# and the edge of its masks hardly gains from more.
WORKING_SIDE_PX = 256
ITERATIONS = 3
# What is seen around a box, to learn the background from: a part of the box's side, and a minimum.
MARGIN = 0.25
MARGIN_MIN_PX = 8
# Radius of what is taken for the object at first around a foreground point: a part of the image's
# shorter side.
DISC_RADIUS = 0.1
# GrabCut at times takes the object for background; what is left of it then is no answer.
COLLAPSED = 0.1
# Colours in each of GrabCut's two models; fewer pixels than that cannot be told apart.
_COLOURS = 5


def build_box(options: ModelOptions) -> Segmenter:
    """The prompt box as a mask."""
    return BoxSegmenter(options)


def build_grabcut(options: ModelOptions) -> Segmenter:
    """GrabCut (Rother et al., 2004) from a box, from points, or from both."""
    return GrabCutSegmenter(options)


class BoxSegmenter(Segmenter):
    """Answers a box with the pixels whose centres lie in it, score 1; takes no points."""

    def __init__(self, options: ModelOptions) -> None:
        self.info = ModelInfo(
            name=options.name,
            family="classical",
            input_size_px=0,
            licence="Apache-2.0",
            weights=WeightsInfo("none"),
            decode_kind="classical",
            supports=frozenset(("boxes",)),
        )

    def prepare(self, image: UInt8Array) -> Prepared:
        """Keeps the size; the pixels are not looked at."""
        return Prepared(None, check_image(image))

    def encode(self, prepared: Prepared) -> Embedding:
        """Nothing to do."""
        return Embedding(None, prepared.size_hw, self.info.name)

    def decode(self, embedding: Embedding, prompts: Prompts, *, multimask: bool = False) -> Masks:
        """Draws every box, cut to the image; C is 1, and `multimask` is ignored."""
        del multimask
        self.check_embedding(embedding)
        self.require(prompts)
        assert prompts.boxes is not None  # noqa: S101 - points alone have just been refused
        masks = fill_boxes(box_pixels(prompts.boxes, embedding.size_hw), embedding.size_hw)
        return _answer(masks)


class GrabCutSegmenter(Segmenter):
    """OpenCV's GrabCut, one prompt at a time, each independent of the others and of their order.

    From a box: all outside of it is background, all inside probably the object. Only a window
    around the box is looked at: the box and a margin of a quarter of its sides (at least 8 px).

    From points: a disc around each foreground point, with a radius of a tenth of the image's
    shorter side, is probably the object, the image's outermost pixels are background, everything
    else probably background. Foreground and background points themselves are certain. Of the
    result, only the connected parts that hold a foreground point remain. Without a foreground
    point on the image there is no object.

    From both: as from the box, with the points certain.

    The window is worked on at no more than 256 pixels a side and in 3 iterations, which keeps a
    prompt below about 0.2 s on one core; the mask is brought back by linear interpolation. Where
    there is nothing to learn from (fewer than 5 pixels of object or background, or one colour
    only), the initial guess is the answer: for a box that covers the image, the box. GrabCut has no
    notion of its own quality: the score is 1, or 0 for an empty mask. OpenCV's thread count stays
    as the caller has set it.
    """

    def __init__(self, options: ModelOptions) -> None:
        self.info = ModelInfo(
            name=options.name,
            family="classical",
            input_size_px=0,
            licence="Apache-2.0",
            weights=WeightsInfo("none"),
            decode_kind="classical",
            supports=frozenset(("points", "boxes")),
        )
        self._seed = options.seed

    def prepare(self, image: UInt8Array) -> Prepared:
        """Keeps a copy of the image, so that the caller may change theirs."""
        size = check_image(image)
        return Prepared(np.array(image, order="C"), size)

    def encode(self, prepared: Prepared) -> Embedding:
        """Nothing to do: all the work depends on the prompt."""
        return Embedding(prepared.payload, prepared.size_hw, self.info.name)

    def decode(self, embedding: Embedding, prompts: Prompts, *, multimask: bool = False) -> Masks:
        """Runs GrabCut for every prompt; C is 1, and `multimask` is ignored."""
        del multimask
        self.check_embedding(embedding)
        self.require(prompts)
        masks = np.zeros((len(prompts), *embedding.size_hw), np.bool_)
        for row, hint in enumerate(_hints(prompts, embedding.size_hw)):
            if hint is not None:
                _segment(embedding.payload, hint, self._seed, out=masks[row])
        return _answer(masks)


@dataclass(frozen=True, slots=True, eq=False)
class _Hint:
    """A prompt in pixels of the image.

    Attributes:
        box: (4,) half-open range x0, y0, x1, y1 with at least one pixel; None without a box.
        points: (K, 2) xy on the image.
        foreground: (K,) bool.
    """

    box: Int64Array | None
    points: Int64Array
    foreground: BoolArray


def _hints(prompts: Prompts, size_hw: tuple[int, int]) -> list[_Hint | None]:
    """One hint a prompt; None where there can be no object on the image."""
    count = len(prompts)
    points, foreground = [np.zeros((0, 2), np.int64)] * count, [np.zeros(0, np.bool_)] * count
    if prompts.points is not None and prompts.labels is not None:
        pixels, inside = point_pixels(prompts.points, size_hw)
        points = [xy[kept] for xy, kept in zip(pixels, inside, strict=True)]
        foreground = [is_1[kept] for is_1, kept in zip(prompts.labels == 1, inside, strict=True)]
    if prompts.boxes is None:
        return [
            _Hint(None, xy, marks) if marks.any() else None
            for xy, marks in zip(points, foreground, strict=True)
        ]
    boxes = box_pixels(prompts.boxes, size_hw)
    return [
        _Hint(box, xy, marks) if (box[2:] > box[:2]).all() else None
        for box, xy, marks in zip(boxes, points, foreground, strict=True)
    ]


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
        found = _parts_with(found, _shrunk(hint.points[hint.foreground], low, scale))
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
    """What GrabCut starts from, at the working size: (h, w) of cv2.GC_*."""
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
    """Runs GrabCut as long as it has both an object and a background to learn from."""
    import cv2

    # Both foreground values of OpenCV, certain and probable, are odd.
    found: BoolArray = trimap % 2 == 1
    objects = np.count_nonzero(found)
    if min(objects, found.size - objects) < _COLOURS or (image == image[0, 0]).all():
        return found
    # OpenCV's generator is local to the thread: unseeded, results would depend on earlier prompts.
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


def _parts_with(mask: BoolArray, points: Int64Array) -> BoolArray:
    """The connected parts of a mask that hold one of the points, (K, 2) xy."""
    import cv2

    _, parts = cv2.connectedComponents(mask.astype(np.uint8), connectivity=4)
    wanted = np.setdiff1d(parts[points[:, 1], points[:, 0]], [0])
    return np.isin(parts, wanted)


def _answer(masks: BoolArray) -> Masks:
    """(N, H, W) masks as an answer: score 1, or 0 for an empty mask."""
    scores = np.array([mask.any() for mask in masks], np.float32)
    return Masks(masks[:, None], scores[:, None])
