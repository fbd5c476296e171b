"""Segment everything: its rows, its time, and what becomes of a model or an image that fails."""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from listed_dataset import ListedDataset

from baselines.dummy import DummySegmenter
from baselines.interface import BoolArray, MaskRecord
from baselines.options import ModelOptions
from baselines.registry import ModelEntry
from benchmarks.config.model_resolution import ResolvedModel
from benchmarks.config.run_config import ShardingConfig
from benchmarks.datasets.dataset import Dataset, Instance, Sample, UnreadableImage
from benchmarks.datasets.masks import encode_mask, rle_box
from benchmarks.datasets.sa1b import Sa1bDataset
from benchmarks.datasets.synthetic import SyntheticDataset
from benchmarks.datasets.writers import write_sa1b
from benchmarks.evaluation.everything import evaluate_everything
from benchmarks.evaluation.whole_images import whole_image_plan
from benchmarks.records import environment
from benchmarks.records.progress import Reporter
from benchmarks.records.record import EverythingRow, Failure, WeightsRow
from benchmarks.records.result_cache import ResultCache
from mobilesam.errors import UsageError

Answer = Sequence[tuple[BoolArray, float]]
SIZE = (40, 50)


def listed(objects: Sequence[Sequence[BoolArray] | UnreadableImage]) -> ListedDataset:
    """Images whose objects are given, with ids that must not matter."""

    def samples() -> Iterator[Sample | UnreadableImage]:
        for number, masks in enumerate(objects):
            if isinstance(masks, UnreadableImage):
                yield masks
                continue
            rles = [encode_mask(mask) for mask in masks]
            instances = [
                Instance(index, "", float(mask.sum()), rle_box(rle), rle)
                for index, (mask, rle) in enumerate(zip(masks, rles, strict=True))
            ]
            yield Sample(0, f"{number}.png", picture(number), tuple(instances))

    return ListedDataset(samples, len(objects))


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


def planned(name: str, weights: WeightsRow | None = None) -> ResolvedModel:
    entry = ModelEntry(name, f"everything_doubles:{name}", "a double")
    return ResolvedModel(entry, ModelOptions(name), weights or WeightsRow(kind="none"))


def tell(doubles: types.ModuleType, answers: Mapping[int, Answer]) -> ResolvedModel:
    doubles.told = lambda options: Told(options.name, answers)  # type: ignore[attr-defined]
    return planned("told")


@pytest.fixture
def evaluate(tmp_path: Path) -> Any:
    def call(
        models: Sequence[ResolvedModel], dataset: Dataset, limit: int | None = None
    ) -> tuple[list[EverythingRow], list[Failure]]:
        cells = ResultCache(tmp_path / "cells")
        return evaluate_everything(models, dataset, cells, Reporter(quiet=True), limit)

    return call


def block(x0: int, y0: int, x1: int, y1: int) -> BoolArray:
    mask = np.zeros(SIZE, np.bool_)
    mask[y0:y1, x0:x1] = True
    return mask


def test_masks_are_ranked_by_score(doubles: types.ModuleType, evaluate: Any) -> None:
    wanted = block(5, 5, 20, 20)
    wrong = [(block(30, 30, 31 + index, 31), 0.9) for index in range(10)]
    (row,), _ = evaluate([tell(doubles, {0: [(wanted, 0.1), *wrong]})], listed([[wanted]]))
    assert (row.ar10, row.ar100, row.ar1000) == (0.0, 1.0, 1.0)


def test_an_image_without_any_mask_counts_as_nothing_found(
    doubles: types.ModuleType, evaluate: Any
) -> None:
    wanted = block(5, 5, 20, 20)
    dataset = listed([[wanted], [wanted]])
    (row,), _ = evaluate([tell(doubles, {0: [], 1: [(wanted, 1.0)]})], dataset)
    assert (row.ar1000, row.masks_per_image, row.n_images, row.n_objects) == (0.5, 0.5, 2, 2)
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
    assert row.ci95_ms is None  # one process
    assert row.range_ms[0] <= row.median_ms <= row.range_ms[1]
    assert row.masks_per_image == 4
    assert capsys.readouterr().out == ""
    told = Told("told", dict.fromkeys(range(3), ()))
    doubles.told = lambda _: told  # type: ignore[attr-defined]
    (row,), _ = evaluate([planned("told")], listed([[block(0, 0, 9, 9)]] * 2))
    assert told.encoded == 1
    assert row.range_ms[0] < row.median_ms < row.range_ms[1]


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
        def everything(self, image: Any) -> list[Any]:
            """Records of its own, which nothing has checked."""
            found = super().everything(image)
            return [types.SimpleNamespace(mask=each.mask, score=np.nan) for each in found]

    doubles.broken = lambda options: Broken(options.name, {})  # type: ignore[attr-defined]
    doubles.unsure = lambda options: Unsure(options.name, {})  # type: ignore[attr-defined]
    box = ResolvedModel(
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
    said = "fails at its only image: RuntimeError: out of colours (in everything)"
    assert rows[3].why == said
    assert "unsure.everything gave a SimpleNamespace; wanted MaskRecord" in rows[4].why
    assert all(row.ar1000 is None and row.median_ms is None for row in rows[:5])
    assert [each.culprit for each in failures] == ["broken", "unsure"]


def test_a_bad_image_is_counted_and_the_row_is_not_kept_as_finished(
    doubles: types.ModuleType, evaluate: Any
) -> None:
    wanted = block(5, 5, 20, 20)
    bad = UnreadableImage(7, "torn.jpg", "cut off", 3)
    answers: dict[int, Answer] = {1: [(wanted, 1.0)]}
    (row,), failures = evaluate([tell(doubles, answers)], listed([bad, [wanted]]))
    assert (row.ar1000, row.n_images) == (1.0, 1)
    assert failures == [
        Failure(stage="data", culprit="torn.jpg", why="cut off (3 instances left out)")
    ]
    (again,), failures = evaluate([tell(doubles, answers)], listed([[wanted], [wanted]]))
    assert (again.status, again.n_images) == ("ok", 1)  # it ran: image 0 has no answer
    (failure,) = failures
    assert (failure.stage, failure.culprit) == ("everything", "0.png")
    assert "told fails at it: KeyError: 0 (in everything)" in failure.why
    (nothing,), failures = evaluate([tell(doubles, answers)], listed([bad, bad]))
    assert nothing.status == "error"
    assert nothing.why == "none of the 2 images can be read: nothing was measured"
    assert [each.why for each in failures] == ["cut off (3 instances left out)"]
    (none,), (failure,) = evaluate([tell(doubles, answers)], listed([]))
    assert none.status == "error"
    assert failure.why == "there is no image with an instance: nothing was measured"


def test_a_finished_model_is_not_run_again(doubles: types.ModuleType, evaluate: Any) -> None:
    dataset = SyntheticDataset(2, seed=1, size_hw=(48, 48))
    first = evaluate([planned("quick")], dataset)
    del doubles.quick
    assert evaluate([planned("quick")], dataset) == first
    (row,), _ = evaluate([planned("quick")], dataset, limit=1)
    assert row.status == "error"


@pytest.mark.parametrize("what", ["cpu_name", "allocator"])
def test_a_time_of_another_machine_or_allocator_is_not_taken(
    doubles: types.ModuleType, evaluate: Any, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    dataset = SyntheticDataset(1, seed=1, size_hw=(48, 48))
    evaluate([planned("quick")], dataset)
    del doubles.quick
    monkeypatch.setattr(environment, what, lambda: "another")
    (row,), _ = evaluate([planned("quick")], dataset)
    assert row.status == "error"


def test_chunks_of_another_machine_or_allocator_are_not_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def keys() -> tuple[str, str]:
        models = [planned("quick")]
        here, there = (
            whole_image_plan(models, 1, ShardingConfig(cluster=cluster)).run
            for cluster in (None, "ray://elsewhere")
        )
        return here, there

    before = keys()
    monkeypatch.setattr(environment, "allocator", lambda: "another")
    after = keys()
    assert before[0] != after[0]
    assert before[1] == after[1]
