"""Protocol `everything`: how many objects of an image are found without a prompt, and how fast.

Recall does not depend on categories; masks of objects that are not annotated cost nothing, since no
dataset here is annotated completely. Crowd regions are not part of the ground truth.

Recall adds up: how many objects of an image are found does not depend on other images. So each
image and model has a row, and the mean over images, weighted by their objects, is the recall.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from baselines import boundary
from baselines.boundary import adapter_call
from baselines.interface import BoolArray, MaskRecord, Segmenter
from benchmarks.config.model_resolution import ResolvedModel
from benchmarks.config.run_config import RunConfig
from benchmarks.datasets.dataset import Sample, Shard, ShardDataset
from benchmarks.datasets.detections import GroundTruthMask
from benchmarks.datasets.masks import decode_mask, encode_mask
from benchmarks.evaluation.coco_eval import AGNOSTIC, FoundMask, average_recall
from benchmarks.evaluation.comparison import unshared_images
from benchmarks.evaluation.evaluate import EvaluationResult
from benchmarks.evaluation.run_model import ImageLoop, ModelResult, Stopwatch
from benchmarks.evaluation.run_shards import (
    EvaluationTask,
    ModelWorker,
    is_local,
    machine_of,
    run_task,
)
from benchmarks.evaluation.shard_store import ShardResult, ShardSummary
from benchmarks.evaluation.summaries import SIZES
from benchmarks.latency.timer import milliseconds, time_once
from benchmarks.prompts.protocols import EVERYTHING
from benchmarks.records.instances import read_instances
from benchmarks.records.progress import Reporter
from benchmarks.records.record import BySize, EverythingRow
from benchmarks.records.statistics import Float64Array, summarise_times
from mobilesam.frozen_model import FrozenModel

LIMITS = {"ar10": 10, "ar100": 100, "ar1000": 1000}
"""Numbers of masks per image at which recall is given."""
IMAGE_RECALL_NAME = "whole-images.parquet"
_MAX_AREA_PX = 1e10  # of COCO's size classes: objects beyond it are not large either


class ImageRecall(FrozenModel):
    """Recall of one model on one image, with the best 10, 100 or 1000 masks; None without objects.

    By size of the object, it is with the best 1000.
    """

    image_id: int
    name: str
    model: str
    n_objects: int
    n_found: int
    duration_ms: float
    ar10: float | None
    ar100: float | None
    ar1000: float | None
    n_small: int
    n_medium: int
    n_large: int
    small: float | None
    medium: float | None
    large: float | None


class EverythingResult(ModelResult):
    """Result of one model on a shard."""

    rows: tuple[ImageRecall, ...] = ()


def evaluate_everything(
    config: RunConfig, models: Sequence[ResolvedModel], reporter: Reporter
) -> EvaluationResult:
    """Segments all objects with every model that can do so, and measures recall and time.

    A call of `everything` is timed from the image in memory to its masks in memory; the image
    encoder has run once before, so that lazy initialization is not part of the first time. Without
    shards nothing else runs meanwhile. The result is empty if the protocol is not configured.

    Raises:
        DataError: The folder cannot be written.
        UsageError: The cluster cannot be used.
    """
    if config.dataset is None or not config.everything:
        return EvaluationResult()
    task = EvaluationTask.of_run(
        config,
        models,
        (),
        EverythingWorker,
        # Results hold times, so those of another machine are not used. On a cluster it is not
        # known which machine makes which shard.
        machine=machine_of(models) if is_local(config.sharding) else (),
    )
    files, summary = run_task(task, config.dataset, IMAGE_RECALL_NAME, reporter)
    sums: dict[str, RecallSums] = {}
    for file in files:
        frame = read_instances(file, tuple(ImageRecall.model_fields))
        for name, rows in frame.groupby("model", sort=False):
            sums.setdefault(str(name), RecallSums()).add(rows)
    found = tuple(_row(model, sums, summary) for model in models)
    return EvaluationResult(
        everything=found,
        failures=summary.failures,
        warnings=(*summary.all_warnings, *unshared_images(found, EVERYTHING)),
    )


def _row(
    model: ResolvedModel, sums: Mapping[str, RecallSums], summary: ShardSummary
) -> EverythingRow:
    name = model.entry.name
    row = EverythingRow(model=name, dataset=summary.dataset, weights=model.weights)
    if name in sums and name not in summary.broken:
        figures = {**sums[name].fields(), "why": summary.left_out_text(name)}
        return row.model_copy(update=figures)
    why = summary.broken.get(name)
    if why is None and name in summary.unavailable:
        return row.model_copy(update=summary.unavailable[name].model_dump())
    return row.model_copy(update={"status": "error", "why": why or summary.why_nothing(name)})


class RecallSums:
    """Sums over the rows of a model, and the time of each image."""

    def __init__(self) -> None:
        self._n_images = self._n_objects = self._n_found = 0
        self._recalled = dict.fromkeys((*LIMITS, *SIZES), 0.0)
        self._n_by_size = dict.fromkeys(SIZES, 0)
        self._times_ms: list[Float64Array] = []

    def add(self, rows: Any) -> None:
        """Adds a data frame with the columns of `ImageRecall`."""
        self._n_images += len(rows)
        self._n_objects += int(rows["n_objects"].sum())
        self._n_found += int(rows["n_found"].sum())
        self._times_ms.append(rows["duration_ms"].to_numpy())
        for name in LIMITS:
            self._recalled[name] += float((rows[name] * rows["n_objects"]).sum())
        for name in SIZES:
            self._n_by_size[name] += int(rows[f"n_{name}"].sum())
            self._recalled[name] += float((rows[name] * rows[f"n_{name}"]).sum())

    def fields(self) -> dict[str, Any]:
        """Fields of an `EverythingRow`."""
        counts = {**dict.fromkeys(LIMITS, self._n_objects), **self._n_by_size}
        recall = {
            name: self._recalled[name] / count if count else None for name, count in counts.items()
        }
        # One process is timed, so times have a range, and no interval.
        times = summarise_times([np.concatenate(self._times_ms).tolist()])
        return {
            "n_images": self._n_images,
            "n_objects": self._n_objects,
            **{name: recall[name] for name in LIMITS},
            "ar1000_by_size": BySize(**{name: recall[name] for name in SIZES}),
            "masks_per_image": self._n_found / self._n_images,
            "median_ms": times.median_ms,
            "range_ms": times.range_ms,
        }


class EverythingWorker(ModelWorker):
    """Segments all objects of the images of shards."""

    stage = title = EVERYTHING
    threads_unsharded = 0  # nothing else runs during a call that is timed

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._warm: set[str] = set()

    def run(self, shard: Shard, poison: Mapping[int, str] | None = None) -> ShardResult:
        """Evaluates all models on a shard; see `ShardWorker.run`."""
        shard = shard.without(poison or {})
        results = {model.entry.name: self._evaluate(model, shard) for model in self.task.models}
        rows = [row for found in results.values() for row in found.rows]
        return self.result(shard, results, ImageRecall, rows)

    def _evaluate(self, model: ResolvedModel, shard: Shard) -> EverythingResult:
        name = model.entry.name
        key = {
            "kind": EVERYTHING,
            **model.key,
            "threads": self.task.threads,
            "machine": machine_of([model]),
            "dataset": shard.fingerprint,
            "images": shard.images_state,
        }

        def measure(segmenter: Segmenter) -> EverythingResult:
            return self._measure(segmenter, name, ShardDataset(shard))

        found, is_cached = self.run_model(model, EverythingResult, key, measure)
        recalled = [(row.n_objects, row.ar1000) for row in found.rows if row.ar1000 is not None]
        if recalled and not is_cached:
            n_objects = sum(n for n, _ in recalled)
            recall = sum(n * each for n, each in recalled) / n_objects
            median_ms = float(np.median([row.duration_ms for row in found.rows]))
            self.reporter.result(
                f"{name}: everything AR@1000 {recall:.1%}, {milliseconds(median_ms)} an image "
                f"({len(found.rows)} images, {n_objects} objects)"
            )
        return found

    def _measure(self, segmenter: Segmenter, name: str, dataset: ShardDataset) -> EverythingResult:
        if EVERYTHING not in segmenter.info.supports:
            why = f"{name} has no mode that needs no prompt"
            return EverythingResult(status="skipped", why=why)

        def predict(sample: Sample) -> Iterator[_SegmentedImage]:
            """All masks of an image, and the time it took."""
            image = sample.image
            if name not in self._warm:
                boundary.encode(segmenter, image)
                self._warm.add(name)
            records: list[MaskRecord] = []
            with adapter_call("everything"):
                duration_ms = time_once(
                    lambda: records.extend(segmenter.everything(image)), segmenter.synchronize
                )
            boundary.check_records(segmenter, records, (image.shape[0], image.shape[1]))
            yield _SegmentedImage(duration_ms, records)

        def score(sample: Sample, predictions: Sequence[_SegmentedImage]) -> ImageRecall:
            """Recall of the masks of an image, without ignored pixels."""
            (predicted,) = predictions
            counted = counted_pixels(sample)
            found = [
                FoundMask(0, AGNOSTIC, encode_mask(record.mask & counted), float(record.score))
                for record in predicted.records
            ]
            return image_recall(sample, name, predicted.duration_ms, found)

        loop = ImageLoop(
            lambda sample: sample,
            predict,
            score,
            dataset,
            name,
            EVERYTHING,
            self.prefetcher,
            Stopwatch(),
            stop=self.is_whole,
        )
        with loop.run(self.reporter, EVERYTHING) as images:
            rows = tuple(row for _, scores in images for row in scores or ())
        return EverythingResult(rows=rows, **loop.fields())


@dataclass(frozen=True, slots=True, eq=False)
class _SegmentedImage:
    """Masks of all objects of an image, and the time they took."""

    duration_ms: float
    records: list[MaskRecord]

    @property
    def n_bytes(self) -> int:
        return sum(record.mask.nbytes for record in self.records)


def counted_pixels(sample: Sample) -> BoolArray:
    """The (H, W) pixels that are scored: all but those that every object of the image ignores."""
    counted = np.ones(sample.image.shape[:2], bool)
    ignored = [each.ignored for each in sample.instances if each.ignored is not None]
    if ignored and len(ignored) == len(sample.instances):
        counted &= ~np.logical_and.reduce([decode_mask(rle) for rle in ignored])
    return counted


def image_recall(
    sample: Sample, model: str, duration_ms: float, found: Sequence[FoundMask]
) -> ImageRecall:
    """Recall of one model on one image; masks have image id 0."""
    truth = [
        GroundTruthMask(0, AGNOSTIC, instance.rle, instance.area_px)
        for instance in sample.instances
    ]
    at: tuple[float | None, ...] = (None,) * len(LIMITS)
    by_size = BySize()
    if truth:
        size_hw = (sample.image.shape[0], sample.image.shape[1])
        recall = average_recall({0: size_hw}, truth, found, tuple(LIMITS.values()))
        at, by_size = recall.at, recall.by_size
    figures: dict[str, Any] = dict(zip(LIMITS, at, strict=True))
    for name, (low, high) in SIZES.items():
        # Unlike in means of IoU, an object on the border between two sizes counts in both.
        top = min(high, _MAX_AREA_PX)
        figures[f"n_{name}"] = sum(low <= mask.area_px <= top for mask in truth)
        figures[name] = getattr(by_size, name)
    return ImageRecall(
        image_id=sample.image_id,
        name=sample.name,
        model=model,
        n_objects=len(truth),
        n_found=len(found),
        duration_ms=duration_ms,
        **figures,
    )
