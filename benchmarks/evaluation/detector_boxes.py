"""Protocol `detector-box`: boxes of a detector as prompts, evaluated by COCO AP.

The score of a mask is the detector's: COCO's AP ranks the detections of a whole dataset, and a
model's own estimate of a mask does not depend on its class. At most 100 boxes of each category of
an image are decoded, since pycocotools ignores all others. AP does not add up over parts of a
dataset, so the dataset is always one shard.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from urllib.parse import quote

import numpy as np

from baselines import boundary
from baselines.boundary import adapter_call
from baselines.interface import Masks, Prompts, Segmenter
from benchmarks.config.model_resolution import ResolvedModel
from benchmarks.config.run_config import (
    DEFAULT_PREFETCH_THREADS,
    DetectorInput,
    MaskChoice,
    RunConfig,
)
from benchmarks.datasets.coco import read_sample
from benchmarks.datasets.dataset import Sample, Shard, ShardDataset
from benchmarks.datasets.detections import (
    DetectedBox,
    Detections,
    GroundTruth,
    best_boxes,
    read_detections,
    read_ground_truth,
)
from benchmarks.datasets.images import files_state
from benchmarks.datasets.masks import encode_mask
from benchmarks.datasets.parsing import read_file
from benchmarks.evaluation.coco_eval import FoundMask, average_precision
from benchmarks.evaluation.comparison import unshared_images
from benchmarks.evaluation.evaluate import EvaluationResult
from benchmarks.evaluation.run_model import (
    PROMPT_BATCH,
    TIMED_ELSEWHERE,
    ImageLoop,
    ModelResult,
    Prefetcher,
    Stopwatch,
    build_trained,
    left_out_text,
    run_model,
)
from benchmarks.evaluation.run_shards import whole_shard
from benchmarks.evaluation.shard_store import ShardSummary
from benchmarks.prompts.protocols import DETECTOR_BOX
from benchmarks.records.environment import timed_with
from benchmarks.records.progress import Reporter
from benchmarks.records.record import DetectorRow, Failure, write_atomic
from benchmarks.records.result_cache import CACHE_FOLDER, ResultCache
from mobilesam.errors import DataError, UnsupportedError

MAX_BOXES = 100
"""COCO's own limit, for each category of an image."""
_PROBLEMS_SHOWN = 5


class _DetectorResult(ModelResult):
    """Result of one model; the row is None if the model cannot be run."""

    row: DetectorRow | None = None
    results_sha256: str = ""


def results_path(out: Path, model: str, mask: MaskChoice = "single") -> Path:
    """File of the masks of a model: `detections-MODEL.json`, or `detections-MODEL-multi.json`."""
    suffix = "" if mask == "single" else f"-{mask}"
    return out / f"detections-{quote(model, safe='')}{suffix}.json"


def evaluate_detections(
    config: RunConfig, models: Sequence[ResolvedModel], reporter: Reporter
) -> EvaluationResult:
    """Evaluates every model on the boxes of a detector.

    The masks of each model are also written as a COCO results file (`results_path`), for which
    pycocotools gives the same AP. The result is empty if no boxes are configured.

    Raises:
        DataError: The detections or annotations are unusable.
    """
    source = config.detector
    if source is None:
        return EvaluationResult()
    truth = read_ground_truth(source.annotations, source.dataset)
    detections = read_detections(source.detections, truth)
    n = truth.n_uncategorised
    of_truth = f"{n} annotations left out: their category_id is no whole number" if n else None
    left_out = "; ".join(filter(None, (detections.summary(), of_truth))) or None
    if left_out is not None:
        reporter.say(f"{detections.name}: {left_out}")
    for problem in detections.problems[:_PROBLEMS_SHOWN]:
        reporter.warn(problem)
    n_more = len(detections.problems) - _PROBLEMS_SHOWN
    if n_more > 0:
        reporter.warn(f"{detections.name}: {n_more} more boxes left out like these")
    shard = _shard(source, truth, detections)
    evaluation = _DetectorEvaluation(
        config.out, source, truth, detections, left_out, reporter, shard
    )
    rows: list[DetectorRow] = []
    warnings: list[str] = []
    failures: list[Failure] = []
    for mask in config.detector_masks:
        found = [evaluation.run(model, mask) for model in models]
        of_mask = [row for row, _ in found]
        rows += of_mask
        failures += (failure for _, failed in found for failure in failed)
        warnings += unshared_images(of_mask, f"{DETECTOR_BOX} ({mask})")
    data = ShardSummary.of_dataset(source.dataset)
    data.n_images = len(truth.images)
    return EvaluationResult(
        detector=tuple(rows),
        failures=tuple(dict.fromkeys([*failures, *data.failures])),
        warnings=(*warnings, *data.all_warnings),
    )


_BoxedImage = tuple[Sample, Sequence[DetectedBox]]


@dataclass(frozen=True, slots=True, eq=False)
class _BoxMasks:
    """Masks of some boxes of an image."""

    boxes: Sequence[DetectedBox]
    masks: Masks

    @property
    def n_bytes(self) -> int:
        return self.masks.masks.nbytes


@dataclass(frozen=True, slots=True)
class _DetectorEvaluation:
    """Evaluates models on the boxes of a detector; `left_out` names unused boxes and instances."""

    out: Path
    source: DetectorInput
    truth: GroundTruth
    detections: Detections
    left_out: str | None
    reporter: Reporter
    shard: Shard

    def run(self, model: ResolvedModel, mask: MaskChoice) -> tuple[DetectorRow, list[Failure]]:
        """Row of a model, and what failed."""
        key = {
            "kind": DETECTOR_BOX,
            **model.key,
            "dataset": self.shard.fingerprint,
            "images": self.shard.images_state,
            "detections": self.detections.sha256,
            "mask": mask,
        }
        name = model.entry.name
        path = results_path(self.out, name, mask)
        blank = DetectorRow(
            model=name,
            dataset=self.source.dataset.name,
            detections=self.detections.name,
            detections_sha256=self.detections.sha256,
            mask=mask,
            weights=model.weights,
        )
        found, is_cached = run_model(
            model,
            _DetectorResult,
            lambda segmenter: self._measure(segmenter, model, blank, path),
            build_trained,
            ResultCache(self.out / CACHE_FOLDER),
            key,
            is_intact=lambda known: path.is_file() and _sha256(path) == known.results_sha256,
        )
        row = found.row
        if row is None:
            row = blank.model_copy(update={"status": found.status, "why": found.why})
        if is_cached:
            self.reporter.detail(f"{DETECTOR_BOX} of {name}: taken from the interrupted run")
            # The conditions are not part of the key, since AP does not depend on them.
            if found.timed_with != timed_with(model.options.device):
                why = "; ".join(filter(None, (row.why, TIMED_ELSEWHERE)))
                row = row.model_copy(update={"seconds": None, "why": why})
        if row.ap is not None:
            self.reporter.result(f"{name}: {DETECTOR_BOX} ({row.mask}) AP {row.ap:.1%}")
        return row, [*found.failures_of(model, DETECTOR_BOX), *found.attempts.listed(name)]

    def _measure(
        self, segmenter: Segmenter, model: ResolvedModel, blank: DetectorRow, path: Path
    ) -> _DetectorResult:
        try:
            with adapter_call("require"):
                segmenter.require(Prompts(boxes=np.array([[0, 0, 1, 1]], np.float32)))
        except UnsupportedError as error:
            return _DetectorResult(status="skipped", why=str(error))
        clock, prefetcher = Stopwatch(), Prefetcher(DEFAULT_PREFETCH_THREADS)
        boxes, multimask = self.detections.by_image, blank.mask == "multi"

        def load(sample: Sample) -> _BoxedImage:
            return sample, best_boxes(boxes.get(sample.image_id, ()), MAX_BOXES)

        def predict(batch: _BoxedImage) -> Iterator[_BoxMasks]:
            """Masks of the boxes of an image, batch by batch."""
            sample, all_boxes = batch
            if not all_boxes:
                return
            size_hw = (sample.image.shape[0], sample.image.shape[1])
            embedding = boundary.encode(segmenter, sample.image)
            for start in range(0, len(all_boxes), PROMPT_BATCH):
                part = all_boxes[start : start + PROMPT_BATCH]
                prompts = Prompts(boxes=np.stack([each.box for each in part]))
                yield _BoxMasks(
                    part,
                    boundary.decode(segmenter, embedding, prompts, size_hw, multimask=multimask),
                )

        def score(_: _BoxedImage, predictions: Sequence[_BoxMasks]) -> list[FoundMask]:
            """One mask for each box: of several candidates the one with the highest score."""
            found = []
            for part in predictions:
                best = np.zeros(len(part.boxes), np.int64)
                if multimask:
                    best = part.masks.scores.argmax(axis=1)
                for row, box in enumerate(part.boxes):
                    rle = encode_mask(part.masks.masks[row, best[row]])
                    found.append(FoundMask(box.image_id, box.category_id, rle, box.score))
            return found

        loop = ImageLoop(
            load,
            predict,
            score,
            ShardDataset(self.shard),
            segmenter.info.name,
            DETECTOR_BOX,
            prefetcher,
            clock,
            stop=True,
        )
        masks: list[FoundMask] = []
        sizes_hw: dict[int, tuple[int, int]] = {}
        with closing(prefetcher), loop.run(self.reporter, DETECTOR_BOX) as images:
            for image, scores in images:
                if not isinstance(image, Sample) or scores is None:
                    continue
                if image.instances and image.image_id not in self.truth.in_dataset:
                    raise DataError(
                        f"{self.source.annotations.name} has no instance on image "
                        f"{image.image_id}, which the dataset has; give the annotations that it "
                        "was made from"
                    )
                sizes_hw[image.image_id] = image.image.shape[0], image.image.shape[1]
                masks.extend(each for found in scores for each in found)
        result = _DetectorResult(
            failures=tuple(
                Failure(
                    stage="data",
                    culprit=image.name,
                    why=f"{image.reason} ({image.n_instances} instances and "
                    f"{len(boxes.get(image.image_id, ()))} boxes left out)",
                )
                for image in loop.unreadable
            ),
            attempts=loop.attempts,
            timed_with=timed_with(model.options.device),
        )
        why = loop.attempts.broken
        if why is None and not masks:
            why = f"none of the images with boxes of {self.detections.name} can be read"
        if why is not None:
            row = blank.model_copy(update={"status": "error", "why": why})
            return result.model_copy(update={"row": row})
        document = json.dumps([each.to_result() for each in masks], separators=(",", ":"))
        write_atomic(path, document.encode())
        scored = average_precision(sizes_hw, self.truth.masks, masks)
        if scored.ap is None:
            why = f"{self.source.dataset.name} has no instance on the images that are read"
            return result.model_copy(update={"status": "error", "why": why})
        unusable = left_out_text(len(loop.unreadable) + loop.attempts.n_failed)
        figures = {
            "n_images": len(sizes_hw),
            "n_detections": len(masks),
            "ap": scored.ap,
            "ap50": scored.ap50,
            "ap75": scored.ap75,
            "ap_by_size": scored.by_size,
            "why": "; ".join(filter(None, (self.left_out, unusable))) or None,
            "seconds": clock.wall_s,
        }
        row = blank.model_copy(update=figures)
        return result.model_copy(update={"row": row, "results_sha256": _sha256(path)})


def _shard(source: DetectorInput, truth: GroundTruth, detections: Detections) -> Shard:
    """All images to evaluate: those of the dataset, then those with boxes but without an instance.

    An image that has neither an instance nor a box changes nothing, and is not read.
    """
    whole = whole_shard(source.dataset)
    others = {
        image_id: image
        for image_id, image in truth.images.items()
        if image_id not in truth.in_dataset and image_id in detections.by_image
    }
    state = files_state((source.images, name) for image in others.values() for name in image.names)
    max_pixels = source.dataset.max_pixels
    readers = (partial(read_sample, source.images, each, max_pixels) for each in others.values())
    images = ((image_id, image.names[0]) for image_id, image in others.items())
    return replace(
        whole,
        readers=(*whole.readers, *readers),
        images=(*whole.images, *images),
        images_state=f"{whole.images_state} {state}",
    )


def _sha256(path: Path) -> str:
    return hashlib.sha256(read_file(path)).hexdigest()
