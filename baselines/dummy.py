"""A model with known masks and known delays, for checking the timer and the metrics."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import numpy as np

from baselines.interface import (
    BoolArray,
    Embedding,
    MaskRecord,
    Masks,
    ModelInfo,
    ModelOptions,
    Prepared,
    Prompts,
    Segmenter,
    UInt8Array,
    WeightsInfo,
    check_image,
)
from baselines.pixels import box_pixels, fill_boxes
from mobilesam.errors import UsageError

DEFAULT_DELAYS_MS: Mapping[str, float] = MappingProxyType(
    {"prepare": 1.0, "encode": 5.0, "decode": 1.0, "decode_per_prompt": 0.1}
)
# The operating system may wake a thread this much too late; the end of a delay is spent in a loop.
_SPIN_MS = 2.0

Answer = Literal["prompt", "box", "disc", "empty"]
AnswerFunction = Callable[[Prompts, tuple[int, int], bool], Masks]


@dataclass(frozen=True, slots=True)
class Candidate:
    """One of the masks predicted for a prompt."""

    part: float  # share of the columns of a box that the mask keeps, from the left
    radius_px: float  # radius of the disc around a point
    score: float  # the model's own estimate of quality


SINGLE = Candidate(part=0.75, radius_px=10, score=0.8)
# The highest score is not the first, and the best mask for a box has not the highest score, so that
# picking the first, the most confident, or the best by an oracle give three different figures.
MULTI = (
    Candidate(part=0.5, radius_px=5, score=0.5),
    Candidate(part=0.8, radius_px=12, score=0.9),
    Candidate(part=0.95, radius_px=20, score=0.7),
)


def build(options: ModelOptions) -> Segmenter:
    """The dummy with its default delays and masks."""
    return DummySegmenter(options.name)


def build_instant(options: ModelOptions) -> Segmenter:
    """The dummy without delays, for measuring the time of the suite itself."""
    return DummySegmenter(options.name, {})


def kept_columns(candidate: Candidate, width_px: int) -> int:
    """Columns that a candidate keeps of a box `width_px` pixels wide.

    The mask is `ceil(part * width)` columns wide and as high as the box, so that its IoU with the
    box is exactly `kept_columns / width`: 0.75 for the single mask and a width divisible by 4.
    """
    # A millionth, since 0.95 * 20 is a little more than 19 in floating point.
    return math.ceil(candidate.part * width_px - 1e-6)


class DummySegmenter(Segmenter):
    """Predicts masks from the prompts alone.

    Args:
        name: Registry name.
        delays_ms: Milliseconds that `prepare`, `encode` and `decode` take, and `decode_per_prompt`
            for each prompt; the default of each is 0. A call lasts as long as its delay, its own
            work included, to within 0.2 ms on an idle machine, if the work is shorter.
            None for `DEFAULT_DELAYS_MS`.
        answer: `prompt`: for a box its left part (`kept_columns`), else a disc around the first
            foreground point, cut to the image (pixels at most `radius_px` from the point; empty if
            there is no foreground point). `box`: the box itself, of every candidate. `disc`:
            discs, around the centre of the box if there are no points. `empty`: nothing. Or a
            function of the prompts, the image's (H, W) and the `multimask` flag.

    Raises:
        UsageError: An unknown delay, a negative one, or an unknown answer.
    """

    def __init__(
        self,
        name: str = "dummy",
        delays_ms: Mapping[str, float] | None = None,
        answer: Answer | AnswerFunction = "prompt",
    ) -> None:
        given = DEFAULT_DELAYS_MS if delays_ms is None else delays_ms
        wrong = [key for key, value in given.items() if key not in DEFAULT_DELAYS_MS or value < 0]
        if wrong:
            raise UsageError(
                f"bad delay {wrong[0]!r}: {given[wrong[0]]}; "
                f"give milliseconds >= 0 for {', '.join(DEFAULT_DELAYS_MS)}"
            )
        if not callable(answer) and answer not in ("prompt", "box", "disc", "empty"):
            raise UsageError(f"unknown answer {answer!r}; choose from prompt, box, disc, empty")
        self._delays_ms = {key: given.get(key, 0.0) for key in DEFAULT_DELAYS_MS}
        self._answer = answer
        self.info = ModelInfo(
            name=name,
            family="dummy",
            input_size_px=0,
            licence="Apache-2.0",
            weights=WeightsInfo("none"),
            decode_kind="decoder",
            supports=frozenset(("points", "boxes", "everything")),
        )

    def prepare(self, image: UInt8Array) -> Prepared:
        """Keeps the size only, after the delay."""
        start_ns = time.perf_counter_ns()
        size = check_image(image)
        wait_until(start_ns, self._delays_ms["prepare"])
        return Prepared(None, size)

    def encode(self, prepared: Prepared) -> Embedding:
        """Returns after the delay."""
        start_ns = time.perf_counter_ns()
        wait_until(start_ns, self._delays_ms["encode"])
        return Embedding(None, prepared.size_hw, self.info.name)

    def decode(self, embedding: Embedding, prompts: Prompts, *, multimask: bool = False) -> Masks:
        """Returns one known mask for each prompt, or three if `multimask`, after the delay."""
        start_ns = time.perf_counter_ns()
        self.check_embedding(embedding)
        self.require(prompts)
        if callable(self._answer):
            answer = self._answer(prompts, embedding.size_hw, multimask)
        else:
            answer = _known(prompts, embedding.size_hw, multimask, self._answer)
        self._wait_decode(start_ns, len(prompts))
        return answer

    def everything(self, image: UInt8Array) -> list[MaskRecord]:
        """The image's four quarters as objects, as if each had been decoded from a prompt."""
        size_hw = self.encode(self.prepare(image)).size_hw
        start_ns = time.perf_counter_ns()
        (height, width), records = size_hw, []
        for y0, y1 in ((0, height // 2), (height // 2, height)):
            for x0, x1 in ((0, width // 2), (width // 2, width)):
                if x0 < x1 and y0 < y1:
                    mask = np.zeros(size_hw, np.bool_)
                    mask[y0:y1, x0:x1] = True
                    box = np.array((x0, y0, x1, y1), np.float32)
                    records.append(MaskRecord(mask, SINGLE.score, box))
        self._wait_decode(start_ns, len(records))
        return records

    def _wait_decode(self, start_ns: int, n_masks: int) -> None:
        per_prompt_ms = self._delays_ms["decode_per_prompt"]
        wait_until(start_ns, self._delays_ms["decode"] + per_prompt_ms * n_masks)


def wait_until(start_ns: int, delay_ms: float) -> None:
    """Returns `delay_ms` milliseconds after `start_ns`, or at once if that has passed.

    `start_ns` is a value of `time.perf_counter_ns`. Sleeps until the last two milliseconds, which
    it spends in a loop.
    """
    end_ns = start_ns + round(delay_ms * 1e6)
    to_sleep_s = (end_ns - time.perf_counter_ns()) / 1e9 - _SPIN_MS / 1e3
    if to_sleep_s > 0:
        time.sleep(to_sleep_s)
    while time.perf_counter_ns() < end_ns:
        pass


def _known(prompts: Prompts, size_hw: tuple[int, int], multimask: bool, answer: Answer) -> Masks:
    """Masks (N, C, H, W) of the built-in answers; the score of an empty mask is 0."""
    candidates = MULTI if multimask else (SINGLE,)
    masks = np.zeros((len(prompts), len(candidates), *size_hw), np.bool_)
    for column, candidate in enumerate(candidates):
        if answer == "disc" or (answer == "prompt" and prompts.boxes is None):
            _draw_discs(masks[:, column], prompts, candidate.radius_px)
        elif answer != "empty" and prompts.boxes is not None:
            ranges = box_pixels(prompts.boxes, size_hw)
            if answer == "prompt":
                widths = (ranges[:, 2] - ranges[:, 0]).tolist()
                ranges[:, 2] = ranges[:, 0] + [kept_columns(candidate, width) for width in widths]
            masks[:, column] = fill_boxes(ranges, size_hw)
    scores = masks.any(axis=(2, 3)) * np.array([each.score for each in candidates], np.float32)
    return Masks(masks, scores.astype(np.float32))


def _draw_discs(masks: BoolArray, prompts: Prompts, radius_px: float) -> None:
    """Discs around the first foreground points, or else around the centres of boxes."""
    rows, columns = np.ogrid[: masks.shape[1], : masks.shape[2]]
    for row, mask in enumerate(masks):
        if prompts.points is not None and prompts.labels is not None:
            foreground = prompts.points[row][prompts.labels[row] == 1]
        elif prompts.boxes is not None:
            # The centre of a half-open box lies half a pixel before the middle of its edges.
            foreground = prompts.boxes[row].reshape(1, 2, 2).mean(axis=1) - 0.5
        if len(foreground):
            x, y = foreground[0].astype(np.float64)
            mask[:] = (columns - x) ** 2 + (rows - y) ** 2 <= radius_px**2
