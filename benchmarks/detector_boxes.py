"""Protocol `detector-box`: a detector's boxes as prompts, judged by COCO AP.

The detector's score is the score of the mask, since COCO's AP ranks detections of a whole dataset
and a model's own estimate of a mask says nothing of its class. At most 100 boxes of each category
of an image are decoded: pycocotools counts no others.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import quote

import numpy as np

from baselines.interface import Prompts, Segmenter
from benchmarks.cells import CellStore
from benchmarks.coco_eval import FoundMask, average_precision, encode_found
from benchmarks.data.coco import CocoDataset
from benchmarks.data.dataset import BadSample, Sample
from benchmarks.data.detections import (
    DetectedBox,
    Detections,
    Truth,
    TruthImage,
    best_boxes,
    boxes_from_annotations,
    read_detections,
    read_truth,
)
from benchmarks.data.images import files_state, load_from_folder
from benchmarks.data.parsing import read_file
from benchmarks.model_pass import PROMPT_BATCH, take_turn
from benchmarks.planning import PlannedModel
from benchmarks.progress import Reporter
from benchmarks.records import DetectorRow, Failure, Status, Value, write_atomic
from mobilesam.errors import DataError, UnsupportedError

__all__ = ["DetectorInput", "boxes_from_annotations", "evaluate_detections", "results_path"]

MaskChoice = Literal["single", "multi"]

STAGE = "detector-box"
# COCO's own limit, of each category of an image.
MAX_BOXES = 100
_PROBLEMS_SHOWN = 5


@dataclass(frozen=True, slots=True)
class DetectorInput:
    """What is evaluated.

    Attributes:
        dataset: Made from the two paths below, with its limit.
        images: Folder of the image files. It is read for the images without any instance, which
            are not in the dataset and count in COCO's AP.
        annotations: The instances JSON.
        detections: The COCO results file with the boxes.
    """

    dataset: CocoDataset
    images: Path
    annotations: Path
    detections: Path


class _Cell(Value):
    """A finished row, and the hash of the results file that belongs to it."""

    row: DetectorRow
    results_sha256: str


@dataclass(frozen=True, slots=True)
class _Task:
    """All that is the same for every model."""

    source: DetectorInput
    truth: Truth
    detections: Detections
    mask: MaskChoice
    out: Path
    reporter: Reporter


def results_path(out: Path, model: str, mask: MaskChoice = "single") -> Path:
    """Where the masks of a model are written: `detections-MODEL.json`, or `...-multi.json`."""
    suffix = "" if mask == "single" else f"-{mask}"
    return out / f"detections-{quote(model, safe='')}{suffix}.json"


def evaluate_detections(
    models: Sequence[PlannedModel],
    source: DetectorInput,
    cells: CellStore,
    out: Path,
    reporter: Reporter,
    mask: MaskChoice = "single",
) -> tuple[list[DetectorRow], list[Failure]]:
    """Evaluates every model on the boxes of a detector.

    The masks of each model are also written as a COCO results file (`results_path`), on which
    pycocotools gives the same AP.

    Args:
        models: In the order of the tables.
        source: Boxes, images and ground truth.
        cells: Models that a former, interrupted run has finished.
        out: Folder for the results files.
        reporter: Told about progress, and about boxes that are left out.
        mask: `single`, or of three the one with the model's highest score (`multi`).

    Returns:
        One row a model, and what went wrong. `why` of a good row counts the boxes left out.

    Raises:
        DataError: The detections or annotations are unusable.
    """
    truth = read_truth(source.annotations, source.dataset)
    detections = read_detections(source.detections, truth)
    _report_left_out(detections, reporter)
    task = _Task(source, truth, detections, mask, out, reporter)
    rows: list[DetectorRow] = []
    failures: dict[Failure, None] = {}
    for model in models:
        row, failed = _one_model(model, task, cells)
        rows.append(row)
        failures.update(dict.fromkeys(failed))
    return rows, list(failures)


def _report_left_out(detections: Detections, reporter: Reporter) -> None:
    summary = detections.summary()
    if summary is not None:
        reporter.say(f"{detections.name}: {summary}")
    for problem in detections.problems[:_PROBLEMS_SHOWN]:
        reporter.warn(problem)
    unseen = len(detections.problems) - _PROBLEMS_SHOWN
    if unseen > 0:
        reporter.warn(f"{detections.name}: {unseen} more boxes left out like these")


def _one_model(
    model: PlannedModel, task: _Task, cells: CellStore
) -> tuple[DetectorRow, list[Failure]]:
    options = model.options
    key = {
        "kind": STAGE,
        **model.key,
        "dataset": task.source.dataset.fingerprint,
        "images": (task.source.dataset.images_state, _state_of_others(task)),
        "detections": task.detections.sha256,
        "mask": task.mask,
    }
    path = results_path(task.out, options.name, task.mask)
    known = cells.get(key, _Cell)
    if known is not None and path.is_file() and _sha256(path) == known.results_sha256:
        task.reporter.say(f"{STAGE} of {options.name}: taken from the interrupted run")
        return known.row, []

    def blank(status: Status, why: str) -> DetectorRow:
        return _row(model, task).model_copy(update={"status": status, "why": why})

    def measure(segmenter: Segmenter) -> tuple[DetectorRow, list[Failure]]:
        try:
            segmenter.require(Prompts(boxes=np.array([[0, 0, 1, 1]], np.float32)))
        except UnsupportedError as error:
            return blank("skipped", str(error)), []
        return _measure(segmenter, model, task)

    row, failures = take_turn(model, STAGE, blank, measure)
    if row.status == "ok" and not failures:
        cells.put(key, _Cell(row=row, results_sha256=_sha256(path)))
    return row, failures


def _sha256(path: Path) -> str:
    return hashlib.sha256(read_file(path)).hexdigest()


def _row(model: PlannedModel, task: _Task) -> DetectorRow:
    return DetectorRow(
        model=model.entry.name,
        dataset=task.source.dataset.name,
        detections=task.detections.name,
        detections_sha256=task.detections.sha256,
        mask=task.mask,
        weights=model.weights,
    )


def _measure(
    segmenter: Segmenter, model: PlannedModel, task: _Task
) -> tuple[DetectorRow, list[Failure]]:
    start = time.perf_counter()
    found, sizes, failures = _pass(segmenter, task)
    results = [mask.to_result() for mask in found]
    path = results_path(task.out, model.entry.name, task.mask)
    write_atomic(path, json.dumps(results, separators=(",", ":")).encode())
    scored = average_precision(sizes, task.truth.masks, found)
    if scored.ap is None:
        raise DataError(f"{task.source.dataset.name} has no instance on the images that are read")
    return _row(model, task).model_copy(
        update={
            "n_images": len(sizes),
            "n_detections": len(found),
            "ap": scored.ap,
            "ap50": scored.ap50,
            "ap75": scored.ap75,
            "ap_by_size": scored.by_size,
            "why": task.detections.summary(),
            "seconds": time.perf_counter() - start,
        }
    ), failures


def _pass(
    segmenter: Segmenter, task: _Task
) -> tuple[list[FoundMask], dict[int, tuple[int, int]], list[Failure]]:
    """Masks of all boxes, sizes of all images that could be read, and those that could not."""
    found: list[FoundMask] = []
    sizes: dict[int, tuple[int, int]] = {}
    failures: list[Failure] = []
    detected = task.detections.by_image
    total = sum(each.in_dataset or key in detected for key, each in task.truth.images.items())
    with task.reporter.bar(f"{STAGE} of {segmenter.info.name}", total) as bar:
        for sample in _samples(task):
            boxes = detected.get(sample.image_id, ())
            if isinstance(sample, BadSample):
                lost = f"{sample.n_instances} instances and {len(boxes)} boxes left out"
                why = f"{sample.why} ({lost})"
                failures.append(Failure(stage="data", culprit=sample.name, why=why))
            else:
                sizes[sample.image_id] = _size_hw(sample)
                found.extend(_image(segmenter, sample, best_boxes(boxes, MAX_BOXES), task.mask))
            bar.step()
    if not found:
        raise DataError(f"none of the images with boxes of {task.detections.name} can be read")
    return found, sizes, failures


def _size_hw(sample: Sample) -> tuple[int, int]:
    height, width = sample.image.shape[:2]
    return int(height), int(width)


def _samples(task: _Task) -> Iterator[Sample | BadSample]:
    """All images of the evaluation: those of the dataset, then those without an instance.

    An image that has neither an instance nor a box changes nothing, and is not read.
    """
    dataset = task.source.dataset
    for sample in dataset.samples():
        image = task.truth.images.get(sample.image_id)
        if isinstance(sample, Sample) and (image is None or not image.in_dataset):
            raise DataError(
                f"{task.source.annotations.name} has no instance on image {sample.image_id}, which "
                "the dataset has; give the annotations that it was made from"
            )
        yield sample
    for key, image in task.truth.images.items():
        if not image.in_dataset and key in task.detections.by_image:
            yield _read(task.source.images, key, image, dataset.max_pixels)


def _state_of_others(task: _Task) -> str:
    """The state of the images that are read although the dataset does not have them."""
    return files_state(
        (task.source.images, image.file_name)
        for key, image in task.truth.images.items()
        if not image.in_dataset and key in task.detections.by_image
    )


def _read(folder: Path, image_id: int, image: TruthImage, max_pixels: int) -> Sample | BadSample:
    name = image.file_name
    try:
        pixels = load_from_folder(folder, name, image.size_hw, max_pixels)
    except DataError as error:
        return BadSample(image_id, name, str(error))
    return Sample(image_id, name, pixels, ())


def _image(
    model: Segmenter, sample: Sample, boxes: Sequence[DetectedBox], mask: MaskChoice
) -> Iterator[FoundMask]:
    """The masks of one image's boxes, in their order; without boxes the encoder does not run."""
    if not boxes:
        return
    embedding = model.encode(model.prepare(sample.image))
    for start in range(0, len(boxes), PROMPT_BATCH):
        part = boxes[start : start + PROMPT_BATCH]
        prompts = Prompts(boxes=np.stack([each.box for each in part]))
        answer = model.decode(embedding, prompts, multimask=mask == "multi")
        if len(answer) != len(part):
            raise DataError(f"{model.info.name} gave {len(answer)} answers to {len(part)} boxes")
        best = answer.scores.argmax(axis=1) if mask == "multi" else np.zeros(len(part), np.int64)
        for row, each in enumerate(part):
            rle = encode_found(
                answer.masks[row, best[row]],
                each.score,
                _size_hw(sample),
                model.info.name,
                sample.name,
            )
            yield FoundMask(each.image_id, each.category_id, rle, each.score)
