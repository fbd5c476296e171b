"""Runs the accuracy protocols: the encoder once an image, the prompts in batches, then IoU."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from pydantic import Field

from baselines.interface import BoolArray, Float32Array, Segmenter
from baselines.registry import build
from benchmarks.cells import CellStore
from benchmarks.data.dataset import BadSample, Dataset, Instance, Sample
from benchmarks.data.masks import iou
from benchmarks.data.prompts import PromptRule
from benchmarks.instances import InstanceRow
from benchmarks.manifests import Manifests
from benchmarks.planning import PlannedModel
from benchmarks.progress import Reporter
from benchmarks.protocols import GROUND_TRUTH, AccuracyProtocol, pick, to_prompts
from benchmarks.records import BySize, Failure, MiouRow, Value, WeightsRow
from benchmarks.statistics import clustered_mean_interval
from mobilesam.errors import FOREIGN_ERRORS, BenchError, UnsupportedError

# Masks of so many prompts are held at the image's size at once.
PROMPT_BATCH = 32
# COCO's classes of annotation area, in square pixels, half-open.
SIZES = {"small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, float("inf"))}
ADAPTER_ERRORS = (BenchError, *FOREIGN_ERRORS)


class ModelAccuracy(Value):
    """All that one model's pass over a dataset gives."""

    rows: tuple[InstanceRow, ...] = ()
    failures: tuple[Failure, ...] = ()
    unsupported: dict[str, str] = Field(default_factory=dict)
    error: str | None = None
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class AccuracyResult:
    """Rows for the record, and the table of instances."""

    rows: tuple[MiouRow, ...]
    instances: tuple[InstanceRow, ...]
    failures: tuple[Failure, ...]


def evaluate(
    models: Sequence[PlannedModel],
    dataset: Dataset,
    protocols: Sequence[AccuracyProtocol],
    manifests: Manifests,
    cells: CellStore,
    reporter: Reporter,
) -> AccuracyResult:
    """Evaluates every model under every protocol.

    A model without trained weights gets rows that say so; one that fails gets rows with its error.

    Args:
        models: In the order of the tables.
        dataset: Images and reference masks.
        protocols: Which prompts are given and which answers scored.
        manifests: The prompts, the same for all models.
        cells: Models that a former, interrupted run has finished.
        reporter: Told about progress.
    """
    rows: list[MiouRow] = []
    instances: list[InstanceRow] = []
    failures: dict[Failure, None] = {}
    for model in models:
        if model.error is not None:
            found = ModelAccuracy(error=model.error)
        elif not model.trained:
            found = ModelAccuracy()
        else:
            found = _one_model(model, dataset, protocols, manifests, cells, reporter)
        rows.extend(_summarise(model, dataset, protocols, manifests, found))
        instances.extend(found.rows)
        failures.update(dict.fromkeys(found.failures))
        if found.error is not None and model.error is None:
            failures[Failure(stage="miou", culprit=model.entry.name, why=found.error)] = None
    return AccuracyResult(tuple(rows), tuple(instances), tuple(failures))


def _one_model(
    model: PlannedModel,
    dataset: Dataset,
    protocols: Sequence[AccuracyProtocol],
    manifests: Manifests,
    cells: CellStore,
    reporter: Reporter,
) -> ModelAccuracy:
    options = model.options
    key = {
        "kind": "accuracy",
        "model": options.name,
        "weights": model.weights.sha256,
        "device": options.device,
        "precision": options.precision,
        "seed": options.seed,
        "dataset": dataset.fingerprint,
        "protocols": [protocol.name for protocol in protocols],
    }
    known = cells.get(key, ModelAccuracy)
    if known is not None:
        reporter.say(f"accuracy of {options.name}: taken from the interrupted run")
        return known
    try:
        segmenter = build(model.entry, options)
        if segmenter.info.weights.kind == "random":
            return ModelAccuracy(error="it was built with random weights, which have no accuracy")
        found = _pass(segmenter, dataset, protocols, manifests, reporter)
    except ADAPTER_ERRORS as error:
        manifests.abandon()
        text = str(error) if isinstance(error, BenchError) else f"{type(error).__name__}: {error}"
        return ModelAccuracy(error=text)
    if not found.failures:  # an image that is mended meanwhile must count when it is run again
        cells.put(key, found)
    return found


def _pass(
    model: Segmenter,
    dataset: Dataset,
    protocols: Sequence[AccuracyProtocol],
    manifests: Manifests,
    reporter: Reporter,
) -> ModelAccuracy:
    unsupported = _unsupported(model, protocols)
    usable = [protocol for protocol in protocols if protocol.name not in unsupported]
    rows: list[InstanceRow] = []
    failures: list[Failure] = []
    start = time.perf_counter()
    if usable:
        with reporter.bar(f"accuracy of {model.info.name}", dataset.n_images) as bar:
            for sample in dataset.samples():
                if isinstance(sample, BadSample):
                    lost = f"{sample.why} ({sample.n_instances} instances left out)"
                    failures.append(Failure(stage="data", culprit=sample.name, why=lost))
                else:
                    rows.extend(_image(model, sample, usable, manifests))
                bar.step()
        manifests.finish(whole=not failures)
    return ModelAccuracy(
        rows=tuple(rows),
        failures=tuple(failures),
        unsupported=unsupported,
        seconds=time.perf_counter() - start,
    )


def _unsupported(model: Segmenter, protocols: Sequence[AccuracyProtocol]) -> dict[str, str]:
    found = {}
    examples: Mapping[PromptRule, Float32Array] = {
        "box": np.array([[0, 0, 1, 1]], np.float32),
        "center": np.array([[0, 0]], np.float32),
    }
    for protocol in protocols:
        try:
            model.require(to_prompts(protocol.prompt, examples[protocol.prompt]))
        except UnsupportedError as error:
            found[protocol.name] = str(error)
    return found


def _image(
    model: Segmenter,
    sample: Sample,
    protocols: Sequence[AccuracyProtocol],
    manifests: Manifests,
) -> Iterator[InstanceRow]:
    """Rows of one image; protocols that ask the same question share its answer."""
    references = [instance.mask() for instance in sample.instances]
    embedding = model.encode(model.prepare(sample.image))

    prompts = {
        kind: np.stack([manifests.prompt(kind, sample, each) for each in sample.instances])
        for kind in {protocol.prompt for protocol in protocols}
    }

    def question(protocol: AccuracyProtocol) -> tuple[PromptRule, bool]:
        return protocol.prompt, protocol.multimask

    for (kind, multimask), group in groupby(sorted(protocols, key=question), key=question):
        asked = tuple(group)
        start = 0
        for batch in to_prompts(kind, prompts[kind]).batches(PROMPT_BATCH):
            masks = model.decode(embedding, batch, multimask=multimask)
            for row in range(len(batch)):
                yield from _score(
                    model.info.name,
                    sample,
                    sample.instances[start + row],
                    references[start + row],
                    masks.masks[row],
                    masks.scores[row],
                    asked,
                )
            start += len(batch)


def _score(
    model: str,
    sample: Sample,
    instance: Instance,
    reference: BoolArray,
    candidates: BoolArray,
    scores: Float32Array,
    protocols: Sequence[AccuracyProtocol],
) -> Iterator[InstanceRow]:
    ious = [iou(candidate, reference) for candidate in candidates]
    for protocol in protocols:
        chosen = pick(protocol, scores, ious)
        yield InstanceRow(
            image_id=sample.image_id,
            annotation_id=instance.annotation_id,
            model=model,
            protocol=protocol.name,
            reference=GROUND_TRUTH,
            iou=ious[chosen],
            score=float(scores[chosen]),
            area=instance.area_px,
        )


def _summarise(
    model: PlannedModel,
    dataset: Dataset,
    protocols: Sequence[AccuracyProtocol],
    manifests: Manifests,
    found: ModelAccuracy,
) -> Iterator[MiouRow]:
    for protocol in protocols:
        rows = [row for row in found.rows if row.protocol == protocol.name]
        known = {
            "model": model.entry.name,
            "dataset": dataset.name,
            "protocol": protocol.name,
            "reference": GROUND_TRUTH,
            "weights": model.weights,
        }
        if found.error is not None:
            yield MiouRow.model_validate({**known, "status": "error", "why": found.error})
        elif not model.trained:
            why = f"no accuracy from random weights: {model.weights.why}"
            yield MiouRow.model_validate({**known, "status": "skipped", "why": why})
        elif not rows:
            why = found.unsupported.get(protocol.name, "the dataset has no usable instance")
            yield MiouRow.model_validate({**known, "status": "skipped", "why": why})
        else:
            sha256 = manifests.sha256(protocol.prompt)
            yield summarise(rows, dataset.name, model.weights, sha256, found.seconds)


def summarise(
    rows: Sequence[InstanceRow],
    dataset: str,
    weights: WeightsRow,
    manifest_sha256: str | None,
    seconds: float | None,
) -> MiouRow:
    """Summarises the instances of one model under one protocol.

    Args:
        rows: At least one, all of the same model, protocol and reference.
        dataset: Its name.
        weights: The weights behind the rows.
        manifest_sha256: Of the prompts.
        seconds: Wall time of the model's pass over the dataset.
    """
    ious = np.array([row.iou for row in rows])
    images = np.array([row.image_id for row in rows], np.int64)
    areas = np.array([row.area for row in rows])
    _, index = np.unique(images, return_inverse=True)
    per_image = np.bincount(index, weights=ious) / np.bincount(index)
    classes = {name: (areas >= low) & (areas < high) for name, (low, high) in SIZES.items()}
    return MiouRow(
        model=rows[0].model,
        dataset=dataset,
        protocol=rows[0].protocol,
        reference=rows[0].reference,
        n_images=len(per_image),
        n_instances=len(rows),
        miou=float(ious.mean()),
        ci95=clustered_mean_interval(ious, images),
        miou_per_image=float(per_image.mean()),
        by_size=BySize(
            **{name: float(ious[inside].mean()) for name, inside in classes.items() if inside.any()}
        ),
        n_by_size=BySize(**{name: float(inside.sum()) for name, inside in classes.items()}),
        weights=weights,
        manifest_sha256=manifest_sha256,
        seconds=seconds,
    )
