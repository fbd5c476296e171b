"""COCO AP of masks for a detector's boxes: against pycocotools itself, and against perfection."""

from __future__ import annotations

import contextlib
import io
import json
import sys
import types
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from evaluation_doubles import resolved, run_config

from baselines.dummy import DummySegmenter
from baselines.interface import Embedding, Masks, ModelOptions, Prepared, Prompts, Segmenter
from baselines.pixels import box_pixels, fill_boxes
from benchmarks.config.model_resolution import ResolvedModel
from benchmarks.config.run_config import DetectorInput
from benchmarks.datasets.coco import CocoDataset
from benchmarks.datasets.dataset import Sample
from benchmarks.datasets.detections import boxes_from_annotations
from benchmarks.datasets.masks import encode_mask, rle_area_px
from benchmarks.evaluation.detector_boxes import evaluate_detections, results_path
from benchmarks.records import environment
from benchmarks.records.progress import Reporter
from benchmarks.records.record import DetectorRow, Failure, WeightsRow

Rows = tuple[list[DetectorRow], list[Failure]]


class Oracle(Segmenter):
    """Predicts the reference mask for the box of an instance, and the box itself for others."""

    def __init__(self, name: str, dataset: CocoDataset) -> None:
        self.info = DummySegmenter(name).info
        self._dataset = dataset
        self.encoded = 0
        self.batches: list[int] = []

    def prepare(self, image: Any) -> Any:
        return Prepared(image, image.shape[:2])

    def encode(self, prepared: Any) -> Embedding:
        self.encoded += 1
        return Embedding(prepared.payload, prepared.size_hw, self.info.name)

    def decode(self, embedding: Embedding, prompts: Prompts, *, multimask: bool = False) -> Masks:
        assert prompts.boxes is not None
        self.batches.append(len(prompts))
        size = embedding.size_hw
        masks = fill_boxes(box_pixels(prompts.boxes, size), size)[:, None]
        for sample in self._dataset.samples():
            if isinstance(sample, Sample) and np.array_equal(sample.image, embedding.payload):
                for row, each in product(range(len(prompts)), sample.instances):
                    if np.allclose(each.box, prompts.boxes[row], atol=0.01):
                        masks[row, 0] = each.mask()
        return Masks(masks, np.ones((len(prompts), 1), np.float32))


Oracles = tuple[ResolvedModel, list[Oracle]]


BOX = resolved("box", "baselines.classical:BoxSegmenter")
DUMMY = resolved("dummy", "detector_doubles:quick")


@pytest.fixture
def doubles(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """A module that models are built from, with a dummy that does not wait."""
    module = types.ModuleType("detector_doubles")
    module.quick = lambda options: DummySegmenter(options.name, {})  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module


class Case:
    """Scenes and a results file for them."""

    def __init__(self, scenes: Any, folder: Path) -> None:
        self.images: Path = scenes.images
        self.annotations: Path = scenes.annotations
        self.limit: int | None = None
        self.out = folder / "out"
        self.detections = folder / "boxes.json"

    @property
    def dataset(self) -> CocoDataset:
        return CocoDataset(self.images, self.annotations, self.limit)

    def write(self, boxes: list[dict[str, Any]]) -> None:
        self.detections.write_text(json.dumps(boxes))

    def evaluate(self, *models: ResolvedModel, mask: Any = "single") -> Rows:
        source = DetectorInput(self.dataset, self.images, self.annotations, self.detections)
        config = run_config(self.out, detector=source, detector_masks=(mask,))
        found = evaluate_detections(config, models, Reporter(quiet=True))
        return list(found.detector), list(found.failures)


@pytest.fixture
def case(scenes: Any, tmp_path: Path) -> Case:
    made = Case(scenes, tmp_path)
    made.write(boxes_from_annotations(made.annotations))
    return made


@pytest.fixture
def oracle(doubles: types.ModuleType, case: Case) -> Oracles:
    made: list[Oracle] = []

    def build(options: ModelOptions) -> Segmenter:
        made.append(Oracle(options.name, case.dataset))
        return made[-1]

    doubles.oracle = build  # type: ignore[attr-defined]
    return resolved("oracle", "detector_doubles:oracle"), made


def direct(annotations: Path, results: Path) -> list[float]:
    """The six APs as pycocotools gives them for two files."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(annotations))
        evaluation = COCOeval(truth, truth.loadRes(str(results)), "segm")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return [float(value) for value in evaluation.stats[:6]]


def figures(row: DetectorRow) -> list[float]:
    sizes = row.ap_by_size
    values = (row.ap, row.ap50, row.ap75, sizes.small, sizes.medium, sizes.large)
    return [-1.0 if value is None else value for value in values]


def noisy(boxes: list[dict[str, Any]], seed: int) -> list[dict[str, Any]]:
    """What a detector makes of perfect boxes: shifted, scored, doubled, some of another class."""
    rng = np.random.default_rng(seed)
    categories = sorted({box["category_id"] for box in boxes})
    found = []
    for box in boxes * 2:
        x, y, width, height = box["bbox"]
        dx, dy, dw, dh = rng.normal(0, 0.08, 4) * (width, height, width, height)
        category = box["category_id"] if rng.random() < 0.8 else int(rng.choice(categories))
        moved = [x + dx, y + dy, max(1.0, width + dw), max(1.0, height + dh)]
        score = round(float(rng.random()), 1)  # ties
        found.append({**box, "category_id": category, "bbox": moved, "score": score})
    return found


def test_perfect_boxes_and_perfect_masks_give_ap_1(
    case: Case, oracle: Oracles, capsys: pytest.CaptureFixture[str]
) -> None:
    (row,), failures = case.evaluate(oracle[0])
    assert failures == []
    assert (row.status, row.ap, row.ap50, row.ap75) == ("ok", 1.0, 1.0, 1.0)
    results = json.loads(results_path(case.out, "oracle").read_text())
    # With a `bbox`, pycocotools would sort detections into size classes by the box's area.
    assert not any("bbox" in each for each in results)
    assert row.n_detections == len(boxes_from_annotations(case.annotations))
    assert (row.n_images, row.detections) == (3, "boxes.json")
    assert row.why is None
    assert capsys.readouterr().out == ""


def test_an_annotation_id_of_0_is_found_like_any_other(
    case: Case, scenes: Any, oracle: Oracles
) -> None:
    document = scenes.read()
    document["annotations"][0]["id"] = 0
    scenes.write(document)
    assert case.evaluate(oracle[0])[0][0].ap == 1.0


@pytest.mark.parametrize("mask", ["single", "multi"])
def test_pycocotools_gives_the_same_for_the_written_file(
    case: Case, doubles: types.ModuleType, mask: str
) -> None:
    case.write(noisy(boxes_from_annotations(case.annotations), seed=1))
    rows, _ = case.evaluate(DUMMY, BOX, mask=mask)
    for row in rows:
        assert row.status == "ok"
        assert 0 < figures(row)[0] < 1
        path = results_path(case.out, row.model, row.mask)
        assert figures(row) == direct(case.annotations, path)


@pytest.mark.shared
def test_pycocotools_gives_the_same_on_real_annotations_with_crowds(
    shared: Path, tmp_path: Path
) -> None:
    coco = shared / "data" / "coco"
    images, annotations = coco / "images" / "val2017_dev", coco / "instances_val2017_dev.json"
    case = Case(types.SimpleNamespace(images=images, annotations=annotations), tmp_path)
    perfect = boxes_from_annotations(annotations)
    assert len(perfect) == 929
    case.write(noisy(perfect, seed=2))
    (row,), failures = case.evaluate(BOX)
    assert (failures, row.n_images, row.n_detections) == ([], 100, 2 * 929)
    assert figures(row) == direct(annotations, results_path(case.out, "box"))


def test_multi_takes_the_mask_with_the_highest_score_and_has_its_own_file(
    case: Case, doubles: types.ModuleType
) -> None:
    case.write([{"image_id": 0, "category_id": 1, "bbox": [0, 0, 20, 10], "score": 0.25}])
    areas = []
    for mask in ("single", "multi"):
        case.evaluate(DUMMY, mask=mask)
        (result,) = json.loads(results_path(case.out, "dummy", mask).read_text())  # type: ignore[arg-type]
        areas.append(rle_area_px(result["segmentation"]))
        assert result["score"] == 0.25  # the detector's, not the model's
    assert areas == [15 * 10, 16 * 10]


def test_the_encoder_runs_once_an_image_with_boxes_and_boxes_come_in_batches(
    case: Case, oracle: Oracles
) -> None:
    box = boxes_from_annotations(case.annotations)[0]
    case.write([{**box, "score": index / 100} for index in range(70)])
    (row,), _ = case.evaluate(oracle[0])
    assert oracle[1][0].encoded == 1
    assert oracle[1][0].batches == [32, 32, 6]
    assert row.n_images == 3


def test_a_box_in_a_crowd_is_no_false_alarm(case: Case, scenes: Any, oracle: Oracles) -> None:
    boxes = boxes_from_annotations(case.annotations)
    category = boxes[0]["category_id"]
    extra = {"image_id": boxes[0]["image_id"], "category_id": category, "bbox": [0, 0, 8, 8]}
    case.write([*boxes, {**extra, "score": 2.0}])

    assert (case.evaluate(oracle[0])[0][0].ap or 0) < 1
    document = scenes.read()
    corner = np.zeros((96, 128), np.bool_)
    corner[:20, :20] = True  # as an object, its IoU with the answer would be 0.16
    crowd = {
        "id": 999, "image_id": boxes[0]["image_id"], "category_id": category, "iscrowd": 1,
        "segmentation": dict(encode_mask(corner)), "bbox": [0, 0, 20, 20], "area": 400,
    }  # fmt: skip
    document["annotations"].append(crowd)
    scenes.write(document)
    assert case.evaluate(oracle[0])[0][0].ap == 1.0


def test_a_detection_on_an_image_without_instances_is_a_false_alarm(
    case: Case, scenes: Any, oracle: Oracles
) -> None:
    document = scenes.read()
    document["annotations"] = [row for row in document["annotations"] if row["image_id"] != 2]
    boxes = boxes_from_annotations(case.annotations)
    scenes.write(document)
    wrong = {"image_id": 2, "category_id": boxes[0]["category_id"], "bbox": [0, 0, 9, 9]}
    case.write([*(box for box in boxes if box["image_id"] != 2), {**wrong, "score": 2.0}])
    (row,), failures = case.evaluate(oracle[0])
    assert failures == []
    assert row.ap is not None
    assert row.ap < 1
    assert figures(row) == direct(case.annotations, results_path(case.out, "oracle"))


def test_a_limited_dataset_leaves_out_what_lies_behind_it(case: Case, oracle: Oracles) -> None:
    case.limit = 2
    boxes = boxes_from_annotations(case.annotations)
    behind = sum(box["image_id"] == 2 for box in boxes)
    (row,), _ = case.evaluate(oracle[0])
    assert (row.ap, row.n_images, row.n_detections) == (1.0, 2, len(boxes) - behind)
    assert row.why == f"boxes left out: {behind} on an image that is not evaluated"


def test_a_model_without_boxes_is_skipped_and_a_broken_one_does_not_stop_the_next(
    case: Case, doubles: types.ModuleType
) -> None:
    def points_only(options: ModelOptions) -> Segmenter:
        model = DummySegmenter(options.name, {})
        model.info = replace(model.info, supports=frozenset({"points"}))
        return model

    class Short(DummySegmenter):
        def decode(self, embedding: Any, prompts: Any, *, multimask: bool = False) -> Masks:
            found = super().decode(embedding, prompts, multimask=multimask)
            return Masks(found.masks[..., 1:], found.scores)

    doubles.points_only = points_only  # type: ignore[attr-defined]
    doubles.short = lambda options: Short(options.name, {})  # type: ignore[attr-defined]
    rows, failures = case.evaluate(
        resolved("points", "detector_doubles:points_only"),
        resolved("random", "detector_doubles:quick", WeightsRow(kind="random", why="no network")),
        resolved("short", "detector_doubles:short"),
        DUMMY,
    )
    assert [row.status for row in rows] == ["skipped", "skipped", "error", "ok"]
    assert rows[0].why == "points takes no boxes as prompts"
    assert rows[1].why == "no accuracy from random weights: no network"
    said = "short.decode gave bool masks of shape ("
    assert said in (rows[2].why or "")
    assert "96, 127); wanted bool masks of shape (" in (rows[2].why or "")
    assert all(row.ap is None for row in rows[:3])
    assert [(each.stage, each.culprit) for each in failures] == [("detector-box", "short")]


def test_an_image_that_cannot_be_read_is_reported_and_its_instances_do_not_count(
    case: Case, oracle: Oracles
) -> None:
    next(iter(sorted(case.images.iterdir()))).write_bytes(b"no picture")
    (row,), failures = case.evaluate(oracle[0])
    assert (row.status, row.ap, row.n_images) == ("ok", 1.0, 2)
    (failure,) = failures
    assert failure.stage == "data"
    assert "boxes left out" in failure.why
    for path in case.images.iterdir():
        path.write_bytes(b"no picture")
    (row,), failures = case.evaluate(oracle[0])
    assert (row.status, row.ap) == ("error", None)
    assert row.why == "none of the images with boxes of boxes.json can be read"
    assert len(failures) == 3


def test_an_image_that_a_model_fails_at_is_left_out_for_it_alone(
    case: Case, doubles: types.ModuleType
) -> None:
    class Picky(DummySegmenter):
        seen = 0

        def encode(self, prepared: Any) -> Embedding:
            self.seen += 1
            if self.seen == 2:
                raise cv2.error("too green")
            return super().encode(prepared)

    doubles.picky = lambda options: Picky(options.name, {})  # type: ignore[attr-defined]
    rows, failures = case.evaluate(resolved("picky", "detector_doubles:picky"), DUMMY)
    assert [(row.status, row.n_images) for row in rows] == [("ok", 2), ("ok", 3)]
    (failure,) = failures
    assert failure.stage == "detector-box"
    assert failure.culprit == sorted(each.name for each in case.images.iterdir())[1]
    assert "picky fails at it: error: too green (in encode)" in failure.why


@pytest.mark.parametrize("what", ["cpu_name", "allocator", "threads"])
def test_a_result_of_another_machine_is_resumed_without_its_time(
    case: Case, oracle: Oracles, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    (first,), _ = case.evaluate(oracle[0])
    assert first.seconds is not None
    assert case.evaluate(oracle[0])[0] == [first]
    if what == "threads":
        monkeypatch.setattr(torch, "get_num_threads", lambda: 999)
    else:
        monkeypatch.setattr(environment, what, lambda: "another")
    (moved,), failures = case.evaluate(oracle[0])
    assert failures == []
    assert len(oracle[1]) == 1  # it did not run again
    assert moved == first.model_copy(update={"seconds": None, "why": moved.why})
    assert (moved.why or "").startswith("time left out")


def test_a_finished_model_is_not_run_again_unless_its_file_is_damaged(
    case: Case, oracle: Oracles
) -> None:
    first = case.evaluate(oracle[0])
    assert case.evaluate(oracle[0]) == first
    assert len(oracle[1]) == 1
    path = results_path(case.out, "oracle")
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    case.evaluate(oracle[0])
    assert len(oracle[1]) == 2
    assert path.read_bytes() == whole
    case.evaluate(oracle[0], mask="multi")
    assert len(oracle[1]) == 3
    # The same masks either way, yet each keeps its own row.
    for mask in ("single", "multi"):
        assert case.evaluate(oracle[0], mask=mask)[0][0].mask == mask
    assert len(oracle[1]) == 3


def test_a_name_from_elsewhere_stays_in_the_folder(tmp_path: Path) -> None:
    assert results_path(tmp_path, "mobilesam").name == "detections-mobilesam.json"
    assert results_path(tmp_path, "../a/b").parent == tmp_path
    assert results_path(tmp_path, "a/b") != results_path(tmp_path, "a-b")
