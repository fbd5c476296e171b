"""Segment everything: recall, time and failures, in one shard and in several."""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from evaluation_doubles import resolved, run_config
from hypothesis import given, settings
from hypothesis import strategies as st
from listed_dataset import ListedDataset
from run_outputs import lasting

from baselines.dummy import DummySegmenter
from baselines.interface import BoolArray, MaskRecord, ModelOptions, UInt8Array
from baselines.registry import ModelEntry
from benchmarks.config.model_resolution import ResolvedModel
from benchmarks.config.run_config import ShardingConfig
from benchmarks.datasets.dataset import Dataset, Instance, Sample, UnreadableImage
from benchmarks.datasets.detections import GroundTruthMask
from benchmarks.datasets.masks import Rle, encode_mask, rle_box
from benchmarks.datasets.sa1b import Sa1bDataset
from benchmarks.datasets.synthetic import SyntheticDataset
from benchmarks.datasets.writers import write_sa1b
from benchmarks.evaluation import everything as everything_module
from benchmarks.evaluation.coco_eval import AGNOSTIC, FoundMask, average_recall
from benchmarks.evaluation.everything import (
    IMAGE_RECALL_NAME,
    LIMITS,
    EverythingWorker,
    ImageRecall,
    RecallSums,
    evaluate_everything,
    image_recall,
)
from benchmarks.evaluation.run_shards import EvaluationTask
from benchmarks.evaluation.shard_store import ShardSummary
from benchmarks.records import environment
from benchmarks.records.progress import Reporter
from benchmarks.records.record import EverythingRow, Failure, WeightsRow

TIMES = ("median_ms", "ci95_ms", "range_ms")
Answer = Sequence[tuple[BoolArray, float]]
SIZE = (40, 50)


def listed(
    objects: Sequence[Sequence[BoolArray] | UnreadableImage], ignored: Rle | None = None
) -> ListedDataset:
    """Images with given objects, all with the same id."""

    def samples() -> Iterator[Sample | UnreadableImage]:
        for number, masks in enumerate(objects):
            if isinstance(masks, UnreadableImage):
                yield masks
                continue
            rles = [encode_mask(mask) for mask in masks]
            instances = [
                Instance(index, "", float(mask.sum()), rle_box(rle), rle, ignored=ignored)
                for index, (mask, rle) in enumerate(zip(masks, rles, strict=True))
            ]
            yield Sample(0, f"{number}.png", picture(number), tuple(instances))

    return ListedDataset(samples, len(objects))


def picture(number: int) -> Any:
    return np.full((*SIZE, 3), number, np.uint8)


class Scripted(DummySegmenter):
    """Segments image i with given masks."""

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
    return resolved(name, f"everything_doubles:{name}", weights)


def scripted(doubles: types.ModuleType, answers: Mapping[int, Answer]) -> ResolvedModel:
    doubles.scripted = lambda options: Scripted(options.name, answers)  # type: ignore[attr-defined]
    return planned("scripted")


@pytest.fixture
def evaluate(tmp_path: Path) -> Any:
    def call(
        models: Sequence[ResolvedModel], dataset: Dataset
    ) -> tuple[list[EverythingRow], list[Failure]]:
        config = run_config(tmp_path, dataset=dataset, everything=True)
        found = evaluate_everything(config, models, Reporter(quiet=True))
        return list(found.everything), list(found.failures)

    return call


def block(x0: int, y0: int, x1: int, y1: int) -> BoolArray:
    mask = np.zeros(SIZE, np.bool_)
    mask[y0:y1, x0:x1] = True
    return mask


def test_masks_are_ranked_by_score(doubles: types.ModuleType, evaluate: Any) -> None:
    wanted = block(5, 5, 20, 20)
    wrong = [(block(30, 30, 31 + index, 31), 0.9) for index in range(10)]
    (row,), _ = evaluate([scripted(doubles, {0: [(wanted, 0.1), *wrong]})], listed([[wanted]]))
    assert (row.ar10, row.ar100, row.ar1000) == (0.0, 1.0, 1.0)


@pytest.mark.parametrize("is_ignored", [False, True])
def test_pixels_that_all_objects_ignore_are_not_scored(
    doubles: types.ModuleType, evaluate: Any, is_ignored: bool
) -> None:
    wanted, other = block(5, 5, 20, 20), block(5, 20, 20, 40)
    model = scripted(doubles, {0: [(wanted | other, 0.9)]})
    (row,), _ = evaluate([model], listed([[wanted]], encode_mask(other) if is_ignored else None))
    assert row.ar1000 == float(is_ignored)


def test_an_image_without_any_mask_counts_as_nothing_found(
    doubles: types.ModuleType, evaluate: Any
) -> None:
    wanted = block(5, 5, 20, 20)
    dataset = listed([[wanted], [wanted]])
    (row,), _ = evaluate([scripted(doubles, {0: [], 1: [(wanted, 1.0)]})], dataset)
    assert (row.ar1000, row.masks_per_image, row.n_images, row.n_objects) == (0.5, 0.5, 2, 2)
    doubles.scripted = lambda _: Scripted("none", {0: [], 1: []})  # type: ignore[attr-defined]
    (row,), _ = evaluate([replace(planned("scripted"), options=ModelOptions("none"))], dataset)
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
    model = Scripted("scripted", dict.fromkeys(range(3), ()))
    doubles.scripted = lambda _: model  # type: ignore[attr-defined]
    (row,), _ = evaluate([planned("scripted")], listed([[block(0, 0, 9, 9)]] * 2))
    assert model.encoded == 1
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


def test_models_that_cannot_be_measured_have_rows_with_a_reason(
    doubles: types.ModuleType, evaluate: Any
) -> None:
    class Broken(DummySegmenter):
        def everything(self, image: Any) -> list[MaskRecord]:
            raise RuntimeError("out of colours")

    class Unsure(DummySegmenter):
        def everything(self, image: Any) -> list[Any]:
            """Returns objects that are not mask records."""
            found = super().everything(image)
            return [types.SimpleNamespace(mask=each.mask, score=np.nan) for each in found]

    doubles.broken = lambda options: Broken(options.name, {})  # type: ignore[attr-defined]
    doubles.unsure = lambda options: Unsure(options.name, {})  # type: ignore[attr-defined]
    box = ResolvedModel(
        ModelEntry("box", "baselines.classical:BoxSegmenter", ""),
        ModelOptions("box"),
        WeightsRow(kind="none"),
    )
    rows, failures = evaluate(
        [
            box,
            planned("random", WeightsRow(kind="random", why="no network")),
            replace(planned("damaged"), error="truncated file"),
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


def test_a_bad_image_is_counted_and_the_result_is_not_cached(
    doubles: types.ModuleType, evaluate: Any
) -> None:
    wanted = block(5, 5, 20, 20)
    bad = UnreadableImage(7, "torn.jpg", "cut off", 3)
    answers: dict[int, Answer] = {1: [(wanted, 1.0)]}
    (row,), failures = evaluate([scripted(doubles, answers)], listed([bad, [wanted]]))
    assert (row.ar1000, row.n_images) == (1.0, 1)
    assert failures == [
        Failure(stage="data", culprit="torn.jpg", why="cut off (3 instances left out)")
    ]
    (again,), failures = evaluate([scripted(doubles, answers)], listed([[wanted], [wanted]]))
    assert (again.status, again.n_images) == ("ok", 1)  # it ran: image 0 has no answer
    (failure,) = failures
    assert (failure.stage, failure.culprit) == ("everything", "0.png")
    assert "scripted fails at it: KeyError: 0 (in everything)" in failure.why
    (nothing,), failures = evaluate([scripted(doubles, answers)], listed([bad, bad]))
    assert nothing.status == "error"
    assert nothing.why == "none of the 2 images can be read: nothing was measured"
    assert [each.why for each in failures] == ["cut off (3 instances left out)"]
    (none,), (failure,) = evaluate([scripted(doubles, answers)], listed([]))
    assert none.status == "error"
    assert failure.why == "there is no image with an instance: nothing was measured"


def test_a_finished_model_is_not_run_again(doubles: types.ModuleType, evaluate: Any) -> None:
    dataset = SyntheticDataset(2, seed=1, size_hw=(48, 48))
    first = evaluate([planned("quick")], dataset)
    del doubles.quick
    assert evaluate([planned("quick")], dataset) == first
    other = SyntheticDataset(1, seed=1, size_hw=(48, 48))
    (row,), _ = evaluate([planned("quick")], other)
    assert row.status == "error"


@pytest.mark.parametrize("what", ["cpu_name", "allocator"])
def test_a_time_of_another_machine_or_allocator_is_not_used(
    doubles: types.ModuleType, evaluate: Any, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    dataset = SyntheticDataset(1, seed=1, size_hw=(48, 48))
    evaluate([planned("quick")], dataset)
    del doubles.quick
    monkeypatch.setattr(environment, what, lambda: "another")
    (row,), _ = evaluate([planned("quick")], dataset)
    assert row.status == "error"


def test_shards_of_another_machine_or_allocator_are_not_used(
    tmp_path: Path, doubles: types.ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys: list[str] = []

    def record(task: EvaluationTask, *_: Any) -> Any:
        keys.append(task.key)
        return [], ShardSummary("d")

    monkeypatch.setattr(everything_module, "run_task", record)

    def keys_of(allocator: str) -> list[str]:
        keys.clear()
        monkeypatch.setattr(environment, "allocator", lambda: allocator)
        for cluster in (None, "ray://elsewhere"):
            sharding = ShardingConfig(cluster=cluster)
            dataset = SyntheticDataset(1, seed=1)
            config = run_config(tmp_path, dataset=dataset, everything=True, sharding=sharding)
            evaluate_everything(config, [planned("quick")], Reporter(quiet=True))
        return list(keys)

    here, there = keys_of("one"), keys_of("another")
    assert here[0] != there[0]
    assert here[1] == there[1]


def everything(run: Any, shards: Path, out: str, *more: str) -> Any:
    models = () if any(each.startswith("--models") for each in more) else ("--models=dummy",)
    return run("everything", "--dataset=sa1b", f"--root={shards}", f"--out={out}",
               "--threads=1", *models, *more, "--json")  # fmt: skip


def rows_of(found: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {name: value for name, value in row.items() if name not in TIMES}
        for row in found["everything"]
    ]


def approximately(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    def close(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: close(each) for name, each in value.items()}
        return pytest.approx(value, abs=1e-12) if isinstance(value, float) else value

    return [{name: close(value) for name, value in row.items()} for row in rows]


@pytest.mark.parametrize("lanes", ["0", "2"])
def test_shards_give_the_rows_of_the_whole(run: Any, shards: Path, lanes: str) -> None:
    standard_output = sys.stdout
    whole = everything(run, shards, "whole", "--models=dummy,box")
    parts = everything(run, shards, "parts", "--models=dummy,box", "--chunk=3", f"--lanes={lanes}")
    assert (whole.code, parts.code) == (0, 0), parts.err
    assert rows_of(parts.json) == approximately(rows_of(whole.json))
    dummy, box = parts.json["everything"]
    assert (dummy["status"], dummy["n_images"]) == ("ok", 11)
    assert dummy["ar1000"] > 0
    assert dummy["median_ms"] > 0
    assert box["status"] == "skipped"
    assert sys.stdout is standard_output
    assert len(list(Path("parts", IMAGE_RECALL_NAME).iterdir())) == 5  # of 4, 4 and 3 images


def test_a_second_start_segments_only_missing_shards(
    run: Any, shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert everything(run, shards, "out", "--chunk=2").code == 0
    before = rows_of(lasting(Path("out")))
    Path("out/record.json").unlink()
    Path("out", IMAGE_RECALL_NAME, "00001-00000.parquet").unlink()
    Path("out", IMAGE_RECALL_NAME, "00002-00001.parquet").write_bytes(b"half of it")
    made: list[str] = []
    whole = EverythingWorker.run

    def counted(self: EverythingWorker, part: Any, poison: Any = None) -> Any:
        made.append(part.name)
        return whole(self, part, poison)

    monkeypatch.setattr(EverythingWorker, "run", counted)
    done = everything(run, shards, "out", "--chunk=2", "--verbose")
    assert done.code == 0
    assert made == ["00001-00000", "00002-00001"]
    assert "4 of 6 chunks were there from before" in done.err
    assert rows_of(lasting(Path("out"))) == before


def test_both_kinds_of_protocol_share_a_folder(run: Any, shards: Path) -> None:
    done = run("miou", "--models=dummy", "--dataset=sa1b", f"--root={shards}", "--out=both",
               "--threads=1", "--protocol=everything,box", "--chunk=4", "--json")  # fmt: skip
    assert done.code == 0, done.err
    assert [row["protocol"] for row in done.json["rows"]] == ["box"]
    assert done.json["everything"][0]["n_images"] == done.json["rows"][0]["n_images"] == 11
    assert done.json["times"]


def test_a_broken_image_is_listed_once_and_counts(run: Any, shards: Path) -> None:
    folder = shards / "loose"
    scenes = SyntheticDataset(n_images=3, seed=5, size_hw=(48, 64), n_objects=(2, 4))
    write_sa1b(scenes, folder, tar=False)
    victim = sorted(folder.rglob("*.jpg"))[1]
    victim.write_text("no picture")
    done = everything(run, folder, "out", "--chunk=2")
    assert done.code == 1
    (failure,) = done.json["failures"]
    assert victim.name in failure["culprit"]
    assert done.json["everything"][0]["n_images"] == 2


class Picky(DummySegmenter):
    """Runs out of memory on some images, identified by their first pixel."""

    pixels: tuple[tuple[int, ...], ...] = ()

    def everything(self, image: UInt8Array) -> list[MaskRecord]:
        if tuple(image[0, 0]) in Picky.pixels:
            np.empty(2**60, np.uint8)  # more than any machine has
        return super().everything(image)


def picky(options: ModelOptions) -> Picky:
    return Picky(options.name, {})


def test_an_image_at_which_memory_runs_out_is_left_out_and_listed(
    run: Any, shards: Path, third_party: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = [each for each in Sa1bDataset(shards).samples() if isinstance(each, Sample)]
    pixels = [tuple(map(int, each.image[0, 0])) for each in samples]
    victim = next(i for i, pixel in enumerate(pixels) if pixels.count(pixel) == 1)
    monkeypatch.setattr(Picky, "pixels", (pixels[victim],))
    third_party("picky", f"{__name__}:picky")
    done = everything(run, shards, "out", "--models=dummy,picky", "--chunk=3")
    assert done.code == 1
    assert [row["n_images"] for row in done.json["everything"]] == [11, 10]
    (failure,) = done.json["failures"]
    assert failure["culprit"] == samples[victim].name
    assert "picky fails at it: " in failure["why"]
    assert "Unable to allocate" in failure["why"]
    whole = everything(run, shards, "whole", "--models=dummy,picky")
    assert rows_of(done.json) == approximately(rows_of(whole.json))
    assert done.json["failures"] == whole.json["failures"]
    for found in (done, whole):
        assert [line for line in found.json["warnings"] if "picky" in line] == [
            "picky answered 10 of 11 images of everything: its figures are on fewer images than "
            "those of the others"
        ]


def test_a_broken_model_has_an_error_in_shards_and_in_the_whole(
    run: Any, shards: Path, third_party: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = [each for each in Sa1bDataset(shards).samples() if isinstance(each, Sample)]
    monkeypatch.setattr(Picky, "pixels", tuple(tuple(map(int, s.image[0, 0])) for s in samples))
    third_party("picky", f"{__name__}:picky")
    done = everything(run, shards, "out", "--models=dummy,picky", "--chunk=4")
    assert done.code == 1
    statuses = [(row["status"], row["n_images"]) for row in done.json["everything"]]
    assert statuses == [("ok", 11), ("error", 0)]
    (failure,) = done.json["failures"]
    assert failure["culprit"] == "picky"
    assert "fails at each of the first 5 images: " in failure["why"]
    whole = everything(run, shards, "whole", "--models=dummy,picky")
    assert done.json["failures"] == whole.json["failures"]
    assert rows_of(done.json) == approximately(rows_of(whole.json))


scores = st.sampled_from([0.1, 0.5, 0.9])


@st.composite
def images(draw: st.DrawFn) -> tuple[list[Any], list[tuple[Any, float]]]:
    size = 40

    def box() -> Any:
        y, x = draw(st.integers(0, 30)), draw(st.integers(0, 30))
        mask = np.zeros((size, size), np.bool_)
        mask[y : y + draw(st.integers(1, size)), x : x + draw(st.integers(1, size))] = True
        return mask

    truth = [box() for _ in range(draw(st.integers(0, 3)))]
    found = [
        (draw(st.sampled_from(truth)) if truth and draw(st.booleans()) else box(), draw(scores))
        for _ in range(draw(st.integers(0, 13)))
    ]
    return truth, found


@settings(max_examples=25, deadline=None)
@given(st.lists(images(), min_size=1, max_size=4), st.sampled_from([32.0**2, 96.0**2, 5.0]))
def test_recall_adds_up_over_images(drawn: list[Any], area: float) -> None:
    sizes, truth, found, rows = {}, [], [], []
    for number, (objects, masks) in enumerate(drawn):
        sizes[number] = (40, 40)
        # A stated area on the border between two sizes belongs to both.
        own = [GroundTruthMask(number, AGNOSTIC, encode_mask(mask), area) for mask in objects]
        given_masks = [FoundMask(number, AGNOSTIC, encode_mask(m), score) for m, score in masks]
        truth += own
        found += given_masks
        alone = [FoundMask(0, AGNOSTIC, each.rle, each.score) for each in given_masks]
        instances = tuple(
            Instance(index, "", area, rle_box(each.rle), each.rle) for index, each in enumerate(own)
        )
        image = Sample(number, str(number), np.zeros((40, 40, 3), np.uint8), instances)
        rows.append(image_recall(image, "model", 1.0, alone))
    if not truth:
        return
    expected = average_recall(sizes, truth, found, tuple(LIMITS.values()))
    sums = RecallSums()
    names = list(ImageRecall.model_fields)
    frame = pd.DataFrame({name: [getattr(row, name) for row in rows] for name in names})
    sums.add(frame.astype({name: float for name in names if name not in ("name", "model")}))
    fields = sums.fields()
    for name, value in zip(("ar10", "ar100", "ar1000"), expected.at, strict=True):
        assert fields[name] == pytest.approx(value, abs=1e-12)
    for name in ("small", "medium", "large"):
        mine, theirs = getattr(fields["ar1000_by_size"], name), getattr(expected.by_size, name)
        assert (mine is None) == (theirs is None)
        if mine is not None:
            assert mine == pytest.approx(theirs, abs=1e-12)
