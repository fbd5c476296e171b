"""Protocol `everything`: how many of an image's objects are found without a prompt, and how fast.

Recall is counted whatever the category; masks that no annotation knows cost nothing, as no dataset
here is annotated to the last object. Crowd regions are no part of the ground truth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np

from baselines import boundary
from baselines.boundary import adapter_call
from baselines.interface import MaskRecord, Segmenter
from benchmarks.config.model_resolution import ResolvedModel
from benchmarks.datasets.dataset import Dataset, Sample, UnreadableImage
from benchmarks.datasets.detections import GroundTruthMask
from benchmarks.datasets.masks import encode_mask
from benchmarks.datasets.parsing import check_limit
from benchmarks.evaluation.coco_eval import AGNOSTIC, FoundMask, average_recall
from benchmarks.evaluation.dataset_notes import remember
from benchmarks.evaluation.run_model import Trials, left_out_text, lost, nothing_read, take_turn
from benchmarks.latency.timer import milliseconds, time_once
from benchmarks.records import environment
from benchmarks.records.progress import Reporter
from benchmarks.records.record import EverythingRow, Failure, Status
from benchmarks.records.result_cache import ResultCache
from benchmarks.records.statistics import Float64Array, summarise_times
from mobilesam.errors import BenchError
from mobilesam.frozen_model import FrozenModel

STAGE = "everything"
LIMITS = (10, 100, 1000)
"""Masks an image at which recall is given."""


class _Cell(FrozenModel):
    """A finished row."""

    row: EverythingRow


@dataclass(slots=True)
class _Tally:
    """What one pass over the images has gathered."""

    trials: Trials
    sizes_hw: dict[int, tuple[int, int]] = field(default_factory=dict)
    truth: list[GroundTruthMask] = field(default_factory=list)
    found: list[FoundMask] = field(default_factory=list)
    times_ms: list[float] = field(default_factory=list)
    unread: list[Failure] = field(default_factory=list)


def evaluate_everything(
    models: Sequence[ResolvedModel],
    dataset: Dataset,
    cells: ResultCache,
    reporter: Reporter,
    limit: int | None = None,
) -> tuple[list[EverythingRow], list[Failure]]:
    """Lets every model that can segment whole images, and measures recall and time.

    A call of `everything` is timed from the image in memory to its masks in memory; the image
    encoder has run once before, so that lazy set-up is not part of the first time.

    Args:
        models: In the order of the tables.
        dataset: Images and reference masks.
        cells: Models that a former, interrupted run has finished.
        reporter: Told about progress.
        limit: Take only the first so many images of the dataset; unreadable ones count.

    Returns:
        One row a model, and what went wrong.

    Raises:
        UsageError: The limit is below 1.
    """
    check_limit(limit)
    rows: list[EverythingRow] = []
    failures: dict[Failure, None] = {}
    for model in models:
        row, failed = _one_model(model, dataset, cells, reporter, limit)
        rows.append(row)
        failures.update(dict.fromkeys(failed))
    return rows, list(failures)


def _one_model(
    model: ResolvedModel,
    dataset: Dataset,
    cells: ResultCache,
    reporter: Reporter,
    limit: int | None,
) -> tuple[EverythingRow, list[Failure]]:
    import torch

    options = model.options
    key = {
        "kind": STAGE,
        **model.key,
        "threads": torch.get_num_threads(),
        "machine": environment.machine(options.device),
        "dataset": dataset.fingerprint,
        "images": dataset.images_state,
        "limit": limit,
    }
    known = cells.get(key, _Cell)
    if known is not None:
        reporter.say(f"{STAGE} of {options.name}: taken from the interrupted run")
        return known.row, []

    def blank(status: Status, why: str) -> EverythingRow:
        return _row(model, dataset).model_copy(update={"status": status, "why": why})

    def measure(segmenter: Segmenter) -> tuple[EverythingRow, list[Failure]]:
        if "everything" not in segmenter.info.supports:
            return blank("skipped", f"{options.name} has no mode that needs no prompt"), []
        tally = _pass(segmenter, dataset, reporter, limit)
        attempts = tally.trials.attempts
        failures = [*tally.unread, *attempts.listed(options.name)]
        if attempts.broken is not None:
            return blank("error", attempts.broken), failures
        if not tally.sizes_hw:
            why = nothing_read(len(tally.unread))
            none = Failure(stage="data", culprit=dataset.name, why=why)
            return blank("error", why), failures or [none]
        row = _summarise(_row(model, dataset), tally)
        if row.ar1000 is not None and row.median_ms is not None:
            reporter.say(
                f"{options.name}: everything AR@1000 {row.ar1000:.1%}, "
                f"{milliseconds(row.median_ms)} an image ({row.n_images} images, "
                f"{row.n_objects} objects)"
            )
        return row, failures

    row, failures = take_turn(model, STAGE, blank, measure)
    if row.status == "ok" and not failures:
        remember(cells, dataset)
        cells.put(key, _Cell(row=row))
    return row, failures


def _row(model: ResolvedModel, dataset: Dataset) -> EverythingRow:
    return EverythingRow(model=model.entry.name, dataset=dataset.name, weights=model.weights)


def _pass(model: Segmenter, dataset: Dataset, reporter: Reporter, limit: int | None) -> _Tally:
    tally = _Tally(Trials(model.info.name, STAGE))
    counts = [count for count in (dataset.n_images, limit) if count is not None]
    with reporter.bar(f"{STAGE} of {model.info.name}", min(counts, default=None)) as bar:
        for sample in islice(dataset.samples(), limit):
            if isinstance(sample, UnreadableImage):
                tally.unread.append(lost(sample))
            else:
                _image(model, sample, tally)
            bar.step()
            if tally.trials.given_up:
                break
    return tally


def _image(model: Segmenter, sample: Sample, tally: _Tally) -> None:
    # Numbered as they come: the ids of a broken archive or of two folders need not be distinct.
    image_id = len(tally.sizes_hw)
    try:
        if not tally.times_ms:
            warm_up(model, sample)
        duration_ms, found = ask_image(model, sample, image_id)
    except BenchError as error:
        tally.trials.failed(sample, error)
        return
    tally.trials.answered()
    tally.times_ms.append(duration_ms)
    tally.sizes_hw[image_id] = size_of(sample)
    tally.truth.extend(truth_of(sample, image_id))
    tally.found.extend(found)


def warm_up(model: Segmenter, sample: Sample) -> None:
    """Runs the image encoder once, so that lazy initialisation is not included in the times.

    Raises:
        BenchError: The model fails on the image.
    """
    boundary.encode(model, sample.image)


def ask_image(model: Segmenter, sample: Sample, image_id: int = 0) -> tuple[float, list[FoundMask]]:
    """Segments all objects of an image with a model.

    Returns:
        Milliseconds from the image in memory to its masks in memory, and the masks.

    Raises:
        BenchError: The model fails on the image, or its masks violate the interface.
    """
    answers: list[MaskRecord] = []
    with adapter_call("everything"):
        duration_ms = time_once(
            lambda: answers.extend(model.everything(sample.image)), model.synchronize
        )
    boundary.check_records(model, answers, size_of(sample))
    return duration_ms, [
        FoundMask(image_id, AGNOSTIC, encode_mask(record.mask), float(record.score))
        for record in answers
    ]


def size_of(sample: Sample) -> tuple[int, int]:
    """Height and width in pixels."""
    height, width = sample.image.shape[:2]
    return int(height), int(width)


def truth_of(sample: Sample, image_id: int = 0) -> list[GroundTruthMask]:
    """The objects of an image, whatever their category."""
    return [
        GroundTruthMask(image_id, AGNOSTIC, instance.rle, instance.area_px)
        for instance in sample.instances
    ]


def _summarise(row: EverythingRow, tally: _Tally) -> EverythingRow:
    n_images = len(tally.sizes_hw)
    recall = average_recall(tally.sizes_hw, tally.truth, tally.found, LIMITS)
    return row.model_copy(
        update={
            "n_images": n_images,
            "n_objects": len(tally.truth),
            **dict(zip(("ar10", "ar100", "ar1000"), recall.at, strict=True)),
            "ar1000_by_size": recall.by_size,
            "masks_per_image": len(tally.found) / n_images,
            **median_time(np.array(tally.times_ms)),
            "why": left_out_text(len(tally.unread) + tally.trials.attempts.n_failed),
        }
    )


def median_time(times_ms: Float64Array) -> dict[str, Any]:
    """Fields of a row for the median time of an image, with a range since one process is timed."""
    summary = summarise_times([times_ms.tolist()])
    return {"median_ms": summary.median_ms, "range_ms": summary.range_ms}
