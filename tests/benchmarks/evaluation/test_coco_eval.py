"""COCO's AP and AR on small cases: against literal computations, and against its own summary."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from baselines.interface import BoolArray
from benchmarks.datasets.detections import DetectedBox, GroundTruthMask, best_boxes
from benchmarks.datasets.masks import encode_mask
from benchmarks.evaluation import coco_eval
from benchmarks.evaluation.coco_eval import (
    AverageRecall,
    FoundMask,
    average_precision,
    average_recall,
)
from benchmarks.evaluation.everything import LIMITS

Answer = Sequence[tuple[BoolArray, float]]
SIZE = (40, 50)


def block(x0: int, y0: int, x1: int, y1: int) -> BoolArray:
    mask = np.zeros(SIZE, np.bool_)
    mask[y0:y1, x0:x1] = True
    return mask


def random_blocks(rng: np.random.Generator, n: int) -> list[BoolArray]:
    """Overlapping rectangles with ragged edges, so that IoUs of all sizes occur."""
    masks = []
    for _ in range(n):
        x, y = rng.integers(0, 30), rng.integers(0, 25)
        mask = block(x, y, x + rng.integers(8, 20), y + rng.integers(8, 15))
        masks.append(mask & (rng.random(SIZE) < 0.97))
    return masks


def nudged(rng: np.random.Generator, mask: BoolArray) -> BoolArray:
    shift = rng.integers(-2, 3, size=2)
    return np.roll(mask, tuple(shift), axis=(0, 1))


def literal_recall(
    truth: Sequence[Sequence[BoolArray]],
    answers: Sequence[Answer],
    limit: int,
    areas: tuple[float, float] = (0, np.inf),
) -> float:
    """AR by definition: masks of an image by score each take the best object that is not taken."""
    recalls = []
    for threshold in np.arange(50, 100, 5) / 100:
        taken = total = 0
        for objects, answer in zip(truth, answers, strict=True):
            free = [mask for mask in objects if areas[0] <= mask.sum() <= areas[1]]
            total += len(free)
            for mask, _ in sorted(answer, key=lambda each: -each[1])[:limit]:
                ious = [(mask & each).sum() / (mask | each).sum() for each in free]
                if ious and max(ious) >= threshold:
                    free.pop(int(np.argmax(ious)))
                    taken += 1
        recalls.append(taken / total)
    return float(np.mean(recalls))


def random_case(seed: int) -> tuple[list[list[BoolArray]], list[Answer]]:
    rng = np.random.default_rng(seed)
    truth = [random_blocks(rng, int(rng.integers(1, 7))) for _ in range(4)]
    answers: list[Answer] = [
        [
            (mask, float(rng.random()))
            for mask in [nudged(rng, each) for each in objects * 3] + random_blocks(rng, 5)
        ]
        for objects in truth
    ]
    return truth, answers


def recall_of(
    truth: Sequence[Sequence[BoolArray]], answers: Sequence[Answer], limits: Sequence[int]
) -> AverageRecall:
    expected = [
        GroundTruthMask(image, index % 3, encode_mask(mask), float(mask.sum()))
        for image, objects in enumerate(truth)
        for index, mask in enumerate(objects)
    ]
    found = [
        FoundMask(image, index % 2, encode_mask(mask), score)
        for image, answer in enumerate(answers)
        for index, (mask, score) in enumerate(answer)
    ]
    return average_recall(dict.fromkeys(range(len(truth)), SIZE), expected, found, limits)


@pytest.mark.parametrize("seed", range(8))
def test_recall_equals_greedy_matching_without_categories(
    seed: int,
) -> None:
    truth, answers = random_case(seed)
    recall = recall_of(truth, answers, tuple(LIMITS.values())).at
    by_definition = [literal_recall(truth, answers, limit) for limit in LIMITS.values()]
    assert recall == pytest.approx(by_definition, abs=1e-12)
    assert 0.2 < by_definition[0] < by_definition[1] < 1


@pytest.mark.parametrize("seed", range(4))
def test_recall_at_other_limits_and_by_size(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    truth, answers = random_case(seed)
    monkeypatch.setattr(coco_eval, "_evaluate", with_areas(coco_eval._evaluate))
    recall = recall_of(truth, answers, (1, 3, 8))
    assert recall.at == pytest.approx([literal_recall(truth, answers, n) for n in (1, 3, 8)])
    by_size = recall.by_size
    assert (by_size.small, by_size.medium) == pytest.approx(
        [literal_recall(truth, answers, 8, areas) for areas in ((0, 120), (120, 1000))]
    )
    assert by_size.large is None


def with_areas(evaluate: Any) -> Any:
    """COCO's size classes brought down to the size of these pictures."""
    from pycocotools import cocoeval

    def call(*arguments: Any) -> Any:
        with pytest.MonkeyPatch.context() as patch:
            ranges = [[0, 1e10], [0, 120], [120, 1000], [1000, 1e10]]
            original = cocoeval.Params.setDetParams

            def small(self: Any) -> None:
                original(self)
                self.areaRng = ranges

            patch.setattr(cocoeval.Params, "setDetParams", small)
            return evaluate(*arguments)

    return call


def test_the_summary_of_pycocotools_is_equal_at_its_limits() -> None:
    rng = np.random.default_rng(0)
    truth = [
        GroundTruthMask(image, 1, encode_mask(mask), float(mask.sum()))
        for image in range(3)
        for mask in random_blocks(rng, 5)
    ]
    found = [
        FoundMask(mask.image_id, 1, encode_mask(nudged(rng, coco_mask)), float(rng.random()))
        for mask in truth
        for coco_mask in random_blocks(rng, 8)
    ]
    sizes = dict.fromkeys(range(3), SIZE)
    recall = average_recall(sizes, truth, found, tuple(LIMITS.values()))
    evaluation = coco_eval._evaluate(sizes, truth, found, tuple(LIMITS.values()))
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.summarize()
    assert recall.at == pytest.approx(tuple(evaluation.stats[6:9]))
    assert recall.by_size.small == pytest.approx(evaluation.stats[9])


def test_the_best_100_of_a_category_are_all_that_counts() -> None:
    rng = np.random.default_rng(3)
    boxes = tuple(
        DetectedBox(0, 1 + (index % 40 == 0), np.array([0, 0, 1, 1], np.float32), score)
        for index, score in enumerate(rng.integers(0, 30, 130) / 30)
    )
    kept = best_boxes(boxes, 100)
    assert [box.category_id for box in kept].count(1) == 100
    assert [box.category_id for box in kept].count(2) == 4
    masks = {id(box): rng.random((6, 6)) < 0.6 for box in boxes}
    truth = [GroundTruthMask(0, 1, encode_mask(rng.random((6, 6)) < 0.6), 20.0) for _ in range(9)]

    def ap(chosen: tuple[DetectedBox, ...]) -> object:
        found = [FoundMask(0, b.category_id, encode_mask(masks[id(b)]), b.score) for b in chosen]
        return average_precision({0: (6, 6)}, truth, found)

    assert ap(kept) == ap(boxes)
    assert ap(kept[:60]) != ap(boxes)
