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
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import numpy as np

from baselines import boundary
from baselines.boundary import adapter_call
from baselines.interface import Prompts, Segmenter
from benchmarks.config.model_resolution import ResolvedModel
from benchmarks.config.run_config import DetectorInput, MaskChoice
from benchmarks.datasets.dataset import Sample, UnreadableImage
from benchmarks.datasets.detections import (
    DetectedBox,
    Detections,
    GroundTruth,
    GroundTruthImage,
    best_boxes,
    boxes_from_annotations,
    read_detections,
    read_ground_truth,
)
from benchmarks.datasets.images import files_state, load_from_folder
from benchmarks.datasets.masks import encode_mask
from benchmarks.datasets.parsing import read_file
from benchmarks.evaluation.coco_eval import FoundMask, average_precision
from benchmarks.evaluation.run_model import (
    PROMPT_BATCH,
    TIMED_ELSEWHERE,
    Trials,
    left_out_text,
    take_turn,
)
from benchmarks.records.environment import timed_with
from benchmarks.records.progress import Reporter
from benchmarks.records.record import DetectorRow, Failure, Status, write_atomic
from benchmarks.records.result_cache import ResultCache
from mobilesam.errors import BenchError, DataError, UnsupportedError
from mobilesam.frozen_model import FrozenModel

__all__ = ["DetectorInput", "boxes_from_annotations", "evaluate_detections", "results_path"]


STAGE = "detector-box"
# COCO's own limit, of each category of an image.
MAX_BOXES = 100
_PROBLEMS_SHOWN = 5


class _Cell(FrozenModel):
    """A finished row.

    Attributes:
        row: The row.
        results_sha256: Hash of the results file that belongs to it.
        timed_with: Conditions of its time, as by `environment.timed_with`.
    """

    row: DetectorRow
    results_sha256: str
    timed_with: tuple[str, ...]

    def resumed(self, device: str) -> DetectorRow:
        """The row, without its time if that was taken under other conditions than here.

        The conditions are not part of the key, since the AP does not depend on them.
        """
        if self.timed_with == timed_with(device):
            return self.row
        why = "; ".join(filter(None, (self.row.why, TIMED_ELSEWHERE)))
        return self.row.model_copy(update={"seconds": None, "why": why})


@dataclass(frozen=True, slots=True)
class _Task:
    """All that is the same for every model."""

    source: DetectorInput
    truth: GroundTruth
    detections: Detections
    mask: MaskChoice
    out: Path
    reporter: Reporter

    @property
    def left_out(self) -> str | None:
        """One line with the number of unused boxes and instances; None if all are used."""
        n = self.truth.n_uncategorised
        of_truth = f"{n} annotations left out: their category_id is no whole number" if n else None
        return "; ".join(filter(None, (self.detections.summary(), of_truth))) or None


def results_path(out: Path, model: str, mask: MaskChoice = "single") -> Path:
    """Where the masks of a model are written: `detections-MODEL.json`, or `...-multi.json`."""
    suffix = "" if mask == "single" else f"-{mask}"
    return out / f"detections-{quote(model, safe='')}{suffix}.json"


def evaluate_detections(
    models: Sequence[ResolvedModel],
    source: DetectorInput,
    cells: ResultCache,
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
    truth = read_ground_truth(source.annotations, source.dataset)
    detections = read_detections(source.detections, truth)
    task = _Task(source, truth, detections, mask, out, reporter)
    _report_left_out(task)
    rows: list[DetectorRow] = []
    failures: dict[Failure, None] = {}
    for model in models:
        row, failed = _one_model(model, task, cells)
        rows.append(row)
        failures.update(dict.fromkeys(failed))
    return rows, list(failures)


def _report_left_out(task: _Task) -> None:
    detections, reporter = task.detections, task.reporter
    if task.left_out is not None:
        reporter.say(f"{detections.name}: {task.left_out}")
    for problem in detections.problems[:_PROBLEMS_SHOWN]:
        reporter.warn(problem)
    unseen = len(detections.problems) - _PROBLEMS_SHOWN
    if unseen > 0:
        reporter.warn(f"{detections.name}: {unseen} more boxes left out like these")


def _one_model(
    model: ResolvedModel, task: _Task, cells: ResultCache
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
        return known.resumed(options.device), []

    def blank(status: Status, why: str) -> DetectorRow:
        return _row(model, task).model_copy(update={"status": status, "why": why})

    def measure(segmenter: Segmenter) -> tuple[DetectorRow, list[Failure]]:
        try:
            with adapter_call("require"):
                segmenter.require(Prompts(boxes=np.array([[0, 0, 1, 1]], np.float32)))
        except UnsupportedError as error:
            return blank("skipped", str(error)), []
        found = _pass(segmenter, task)
        why = found.why_nothing(task)
        if why is not None:
            return blank("error", why), found.failures(options.name)
        row = _measure(found, model, task)
        failures = found.failures(options.name)
        if row.why is not None and row.status == "error":
            failures.append(Failure(stage=STAGE, culprit=options.name, why=row.why))
        return row, failures

    row, failures = take_turn(model, STAGE, blank, measure)
    if row.status == "ok" and not failures:
        here = timed_with(options.device)
        cells.put(key, _Cell(row=row, results_sha256=_sha256(path), timed_with=here))
    return row, failures


def _sha256(path: Path) -> str:
    return hashlib.sha256(read_file(path)).hexdigest()


def _row(model: ResolvedModel, task: _Task) -> DetectorRow:
    return DetectorRow(
        model=model.entry.name,
        dataset=task.source.dataset.name,
        detections=task.detections.name,
        detections_sha256=task.detections.sha256,
        mask=task.mask,
        weights=model.weights,
    )


@dataclass(slots=True)
class _Found:
    """Result of one model's pass over the images.

    Attributes:
        trials: Counts of images that the model answered and failed on.
        masks: Masks of all boxes of the answered images.
        sizes_hw: Height and width of the answered images and of images without a box, by id.
        unread: Images that cannot be read.
        seconds: Wall time of the pass.
    """

    trials: Trials
    masks: list[FoundMask] = field(default_factory=list)
    sizes_hw: dict[int, tuple[int, int]] = field(default_factory=dict)
    unread: list[Failure] = field(default_factory=list)
    seconds: float = 0.0

    def failures(self, model: str) -> list[Failure]:
        """Failures of unreadable images and of images the model failed on, or of the model."""
        return [*self.unread, *self.trials.attempts.listed(model)]

    def why_nothing(self, task: _Task) -> str | None:
        """Why there is nothing to score; None if there is something."""
        broken = self.trials.attempts.broken
        if broken is None and not self.masks:
            return f"none of the images with boxes of {task.detections.name} can be read"
        return broken


def _measure(found: _Found, model: ResolvedModel, task: _Task) -> DetectorRow:
    start = time.perf_counter()
    results = [mask.to_result() for mask in found.masks]
    path = results_path(task.out, model.entry.name, task.mask)
    write_atomic(path, json.dumps(results, separators=(",", ":")).encode())
    scored = average_precision(found.sizes_hw, task.truth.masks, found.masks)
    if scored.ap is None:
        why = f"{task.source.dataset.name} has no instance on the images that are read"
        return _row(model, task).model_copy(update={"status": "error", "why": why})
    unusable = left_out_text(len(found.unread) + found.trials.attempts.n_failed)
    return _row(model, task).model_copy(
        update={
            "n_images": len(found.sizes_hw),
            "n_detections": len(found.masks),
            "ap": scored.ap,
            "ap50": scored.ap50,
            "ap75": scored.ap75,
            "ap_by_size": scored.by_size,
            "why": "; ".join(filter(None, (task.left_out, unusable))) or None,
            "seconds": found.seconds + time.perf_counter() - start,
        }
    )


def _pass(segmenter: Segmenter, task: _Task) -> _Found:
    """Predicts masks for all boxes of all images; skips unreadable images and model failures."""
    start = time.perf_counter()
    found = _Found(Trials(segmenter.info.name, STAGE))
    detected = task.detections.by_image
    total = sum(each.in_dataset or key in detected for key, each in task.truth.images.items())
    with task.reporter.bar(f"{STAGE} of {segmenter.info.name}", total) as bar:
        for sample in _samples(task):
            boxes = detected.get(sample.image_id, ())
            if isinstance(sample, UnreadableImage):
                lost = f"{sample.n_instances} instances and {len(boxes)} boxes left out"
                why = f"{sample.reason} ({lost})"
                found.unread.append(Failure(stage="data", culprit=sample.name, why=why))
            else:
                _take(segmenter, sample, best_boxes(boxes, MAX_BOXES), task.mask, found)
            bar.step()
            if found.trials.given_up:
                break
    found.seconds = time.perf_counter() - start
    return found


def _take(
    segmenter: Segmenter,
    sample: Sample,
    boxes: Sequence[DetectedBox],
    mask: MaskChoice,
    found: _Found,
) -> None:
    """Adds the masks of one image; an image that the model fails on is not evaluated."""
    if boxes:  # without boxes the model is not run
        try:
            found.masks.extend(_image(segmenter, sample, boxes, mask))
        except BenchError as error:
            found.trials.failed(sample, error)
            return
        found.trials.answered()
    found.sizes_hw[sample.image_id] = _size_hw(sample)


def _size_hw(sample: Sample) -> tuple[int, int]:
    height, width = sample.image.shape[:2]
    return int(height), int(width)


def _samples(task: _Task) -> Iterator[Sample | UnreadableImage]:
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
    """State of the files of images that are read here but are not part of the dataset."""
    return files_state(
        (task.source.images, name)
        for key, image in task.truth.images.items()
        if not image.in_dataset and key in task.detections.by_image
        for name in image.names
    )


def _read(
    folder: Path, image_id: int, image: GroundTruthImage, max_pixels: int
) -> Sample | UnreadableImage:
    name = image.names[0]
    try:
        pixels = load_from_folder(folder, image.names, image.size_hw, max_pixels)
    except DataError as error:
        return UnreadableImage(image_id, name, str(error))
    return Sample(image_id, name, pixels, ())


def _image(
    model: Segmenter, sample: Sample, boxes: Sequence[DetectedBox], mask: MaskChoice
) -> list[FoundMask]:
    """The masks of one image's boxes, in their order.

    Raises:
        BenchError: The model fails on the image, or its masks violate the interface.
    """
    size_hw = _size_hw(sample)
    embedding = boundary.encode(model, sample.image)
    found: list[FoundMask] = []
    for start in range(0, len(boxes), PROMPT_BATCH):
        part = boxes[start : start + PROMPT_BATCH]
        prompts = Prompts(boxes=np.stack([each.box for each in part]))
        answer = boundary.decode(model, embedding, prompts, size_hw, multimask=mask == "multi")
        best = answer.scores.argmax(axis=1) if mask == "multi" else np.zeros(len(part), np.int64)
        for row, each in enumerate(part):
            rle = encode_mask(answer.masks[row, best[row]])
            found.append(FoundMask(each.image_id, each.category_id, rle, each.score))
    return found
