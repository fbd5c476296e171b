"""Segment everything: average recall against a literal computation of it, and its time."""

from __future__ import annotations

import contextlib
import io
import sys
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from baselines.dummy import DummySegmenter
from baselines.interface import BoolArray, MaskRecord
from baselines.options import ModelOptions
from baselines.registry import ModelEntry
from benchmarks import coco_eval
from benchmarks.cells import CellStore
from benchmarks.coco_eval import FoundMask, average_recall
from benchmarks.data.dataset import BadSample, Dataset, Instance, Sample
from benchmarks.data.detections import TruthMask
from benchmarks.data.make import write_sa1b
from benchmarks.data.masks import encode_mask, rle_box
from benchmarks.data.sa1b import Sa1bDataset
from benchmarks.data.synthetic import SyntheticDataset
from benchmarks.everything import LIMITS, evaluate_everything
from benchmarks.planning import PlannedModel
from benchmarks.progress import Reporter
from benchmarks.records import EverythingRow, Failure, WeightsRow
from mobilesam.errors import UsageError

Answer = Sequence[tuple[BoolArray, float]]
SIZE = (40, 50)


class Listed(Dataset):
    """Images whose objects are given, with ids that must not matter."""

    def __init__(self, objects: Sequence[Sequence[BoolArray] | BadSample]) -> None:
        self._objects = objects

    name = "listed"
    fingerprint = "f"

    @property
    def n_images(self) -> int:
        return len(self._objects)

    def samples(self) -> Iterator[Sample | BadSample]:
        for number, masks in enumerate(self._objects):
            if isinstance(masks, BadSample):
                yield masks
                continue
            rles = [encode_mask(mask) for mask in masks]
            instances = [
                Instance(index, "", float(mask.sum()), rle_box(rle), rle)
                for index, (mask, rle) in enumerate(zip(masks, rles, strict=True))
            ]
            yield Sample(0, f"{number}.png", picture(number), tuple(instances))


def picture(number: int) -> Any:
    return np.full((*SIZE, 3), number, np.uint8)


class Told(DummySegmenter):
    """Answers image i with the masks it was told, in their order."""

    answers: Mapping[int, Answer]

    def __init__(self, name: str, answers: Mapping[int, Answer]) -> None:
        super().__init__(name, {})
        self.answers = answers
        self.encoded = 0

    def encode(self, prepared: Any) -> Any:
        self.encoded += 1
        return super().encode(prepared)

    def everything(self, image: Any) -> list[MaskRecord]:
        box = np.zeros(4, np.float32)
        return [MaskRecord(mask, score, box) for mask, score in self.answers[int(image[0, 0, 0])]]


@pytest.fixture
def doubles(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    module = types.ModuleType("everything_doubles")
    module.quick = lambda options: DummySegmenter(options.name, {})  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module


def planned(name: str, weights: WeightsRow | None = None) -> PlannedModel:
    entry = ModelEntry(name, f"everything_doubles:{name}", "a double")
    return PlannedModel(entry, ModelOptions(name), weights or WeightsRow(kind="none"))


def tell(doubles: types.ModuleType, answers: Mapping[int, Answer]) -> PlannedModel:
    doubles.told = lambda options: Told(options.name, answers)  # type: ignore[attr-defined]
    return planned("told")


@pytest.fixture
def evaluate(tmp_path: Path) -> Any:
    def call(
        models: Sequence[PlannedModel], dataset: Dataset, limit: int | None = None
    ) -> tuple[list[EverythingRow], list[Failure]]:
        cells = CellStore(tmp_path / "cells")
        return evaluate_everything(models, dataset, cells, Reporter(quiet=True), limit)

    return call


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
    """AR by the letter: the best-scored masks of an image each take the best object still free."""
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


@pytest.mark.parametrize("seed", range(8))
def test_recall_is_what_greedy_matching_by_the_letter_gives(
    seed: int, doubles: types.ModuleType, evaluate: Any
) -> None:
    truth, answers = random_case(seed)
    (row,), failures = evaluate([tell(doubles, dict(enumerate(answers)))], Listed(truth))
    assert failures == []
    assert row.ar10 == pytest.approx(literal_recall(truth, answers, 10), abs=1e-12)
    assert row.ar100 == row.ar1000 == pytest.approx(literal_recall(truth, answers, 100), abs=1e-12)
    assert 0.2 < row.ar10 < row.ar100 < 1
    assert row.n_objects == sum(map(len, truth))
    assert row.masks_per_image == pytest.approx(np.mean([len(each) for each in answers]))


@pytest.mark.parametrize("seed", range(4))
def test_recall_at_other_limits_and_by_size_whatever_the_category(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    truth, answers = random_case(seed)
    sizes = dict.fromkeys(range(len(truth)), SIZE)
    expected = [
        TruthMask(image, index % 3, encode_mask(mask), float(mask.sum()))
        for image, objects in enumerate(truth)
        for index, mask in enumerate(objects)
    ]
    found = [
        FoundMask(image, index % 2, encode_mask(mask), score)
        for image, answer in enumerate(answers)
        for index, (mask, score) in enumerate(answer)
    ]
    monkeypatch.setattr(coco_eval, "_evaluate", with_areas(coco_eval._evaluate))
    recall = average_recall(sizes, expected, found, (1, 3, 8))
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


def test_the_summary_of_pycocotools_says_the_same_at_its_own_limits() -> None:
    rng = np.random.default_rng(0)
    truth = [
        TruthMask(image, 1, encode_mask(mask), float(mask.sum()))
        for image in range(3)
        for mask in random_blocks(rng, 5)
    ]
    found = [
        FoundMask(mask.image_id, 1, encode_mask(nudged(rng, coco_mask)), float(rng.random()))
        for mask in truth
        for coco_mask in random_blocks(rng, 8)
    ]
    sizes = dict.fromkeys(range(3), SIZE)
    recall = average_recall(sizes, truth, found, LIMITS)
    evaluation = coco_eval._evaluate(sizes, truth, found, LIMITS)
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.summarize()
    assert recall.at == pytest.approx(tuple(evaluation.stats[6:9]))
    assert recall.by_size.small == pytest.approx(evaluation.stats[9])


def test_masks_are_ranked_by_score(doubles: types.ModuleType, evaluate: Any) -> None:
    wanted = block(5, 5, 20, 20)
    wrong = [(block(30, 30, 31 + index, 31), 0.9) for index in range(10)]
    (row,), _ = evaluate([tell(doubles, {0: [(wanted, 0.1), *wrong]})], Listed([[wanted]]))
    assert (row.ar10, row.ar100, row.ar1000) == (0.0, 1.0, 1.0)


def test_an_image_without_any_mask_counts_as_nothing_found(
    doubles: types.ModuleType, evaluate: Any
) -> None:
    wanted = block(5, 5, 20, 20)
    dataset = Listed([[wanted], [wanted]])
    (row,), _ = evaluate([tell(doubles, {0: [], 1: [(wanted, 1.0)]})], dataset)
    assert row.ar1000 == 0.5
    doubles.told = lambda _: Told("none", {0: [], 1: []})  # type: ignore[attr-defined]
    (row,), _ = evaluate([replace(planned("told"), options=ModelOptions("none"))], dataset)
    assert (row.status, row.ar1000, row.masks_per_image) == ("ok", 0.0, 0.0)


def test_time_is_that_of_the_calls_and_the_encoder_warms_up_once(
    doubles: types.ModuleType, evaluate: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    made = []

    def build(options: ModelOptions) -> DummySegmenter:
        delays = {"prepare": 0.0, "encode": 4.0, "decode": 3.0}
        made.append(DummySegmenter(options.name, delays))
        return made[-1]

    doubles.slow = build  # type: ignore[attr-defined]
    (row,), _ = evaluate([planned("slow")], SyntheticDataset(4, seed=0, size_hw=(64, 64)))
    assert row.median_ms >= 7
    assert row.ci95_ms[0] <= row.median_ms <= row.ci95_ms[1]
    assert row.masks_per_image == 4
    assert capsys.readouterr().out == ""
    told = Told("told", dict.fromkeys(range(3), ()))
    doubles.told = lambda _: told  # type: ignore[attr-defined]
    (row,), _ = evaluate([planned("told")], Listed([[block(0, 0, 9, 9)]] * 2))
    assert told.encoded == 1
    assert row.ci95_ms is None  # two images carry no interval


def test_the_same_scenes_in_another_format_give_the_same_recall(
    tmp_path: Path, doubles: types.ModuleType, evaluate: Any
) -> None:
    scenes = SyntheticDataset(3, seed=1, size_hw=(64, 80), n_objects=(3, 5))
    write_sa1b(scenes, tmp_path / "sa1b")
    (one,), _ = evaluate([planned("quick")], scenes)
    (other,), _ = evaluate([planned("quick")], Sa1bDataset(tmp_path / "sa1b"))
    assert one.ar1000 == other.ar1000
    assert one.ar1000_by_size == other.ar1000_by_size
    assert one.n_objects == other.n_objects
    assert one.dataset != other.dataset


def test_a_limit_takes_the_first_images(doubles: types.ModuleType, evaluate: Any) -> None:
    dataset = SyntheticDataset(3, seed=1, size_hw=(48, 48))
    (row,), _ = evaluate([planned("quick")], dataset, limit=2)
    first = [sample for sample, _ in zip(dataset.samples(), range(2), strict=False)]
    assert (row.n_images, row.n_objects) == (2, sum(len(each.instances) for each in first))
    with pytest.raises(UsageError, match="limit of 0"):
        evaluate([planned("quick")], dataset, limit=0)


def test_models_that_cannot_be_measured_have_rows_that_say_why(
    doubles: types.ModuleType, evaluate: Any
) -> None:
    class Broken(DummySegmenter):
        def everything(self, image: Any) -> list[MaskRecord]:
            raise RuntimeError("out of colours")

    class Unsure(DummySegmenter):
        def everything(self, image: Any) -> list[MaskRecord]:
            return [replace(each, score=float("nan")) for each in super().everything(image)]

    doubles.broken = lambda options: Broken(options.name, {})  # type: ignore[attr-defined]
    doubles.unsure = lambda options: Unsure(options.name, {})  # type: ignore[attr-defined]
    box = PlannedModel(
        ModelEntry("box", "baselines.classical:build_box", ""),
        ModelOptions("box"),
        WeightsRow(kind="none"),
    )
    rows, failures = evaluate(
        [
            box,
            planned("quick", WeightsRow(kind="random", why="no network")),
            replace(planned("quick"), error="truncated file"),
            planned("broken"),
            planned("unsure"),
            planned("quick"),
        ],
        SyntheticDataset(1, seed=1, size_hw=(48, 48)),
    )
    assert [row.status for row in rows] == ["skipped", "skipped", "error", "error", "error", "ok"]
    assert rows[0].why == "box has no mode that needs no prompt"
    assert rows[1].why == "no accuracy from random weights: no network"
    assert rows[2].why == "truncated file"
    assert rows[3].why == "RuntimeError: out of colours"
    assert "score nan" in rows[4].why
    assert all(row.ar1000 is None and row.median_ms is None for row in rows[:5])
    assert [each.culprit for each in failures] == ["broken", "unsure"]


def test_a_bad_image_is_counted_and_the_row_is_not_kept_as_finished(
    doubles: types.ModuleType, evaluate: Any
) -> None:
    wanted = block(5, 5, 20, 20)
    bad = BadSample(7, "torn.jpg", "cut off", 3)
    answers: dict[int, Answer] = {1: [(wanted, 1.0)]}
    (row,), failures = evaluate([tell(doubles, answers)], Listed([bad, [wanted]]))
    assert (row.ar1000, row.n_images) == (1.0, 1)
    assert failures == [
        Failure(stage="data", culprit="torn.jpg", why="cut off (3 instances left out)")
    ]
    (again,), _ = evaluate([tell(doubles, answers)], Listed([[wanted], [wanted]]))
    assert again.status == "error"  # it ran: image 0 has no answer
    (nothing,), _ = evaluate([tell(doubles, answers)], Listed([bad]))
    assert nothing.why == "no image of listed can be read"


def test_a_finished_model_is_not_run_again(doubles: types.ModuleType, evaluate: Any) -> None:
    dataset = SyntheticDataset(2, seed=1, size_hw=(48, 48))
    first = evaluate([planned("quick")], dataset)
    del doubles.quick
    assert evaluate([planned("quick")], dataset) == first
    (row,), _ = evaluate([planned("quick")], dataset, limit=1)
    assert row.status == "error"
