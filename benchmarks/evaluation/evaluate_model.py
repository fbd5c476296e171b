"""Evaluates one model on the images of a shard under the protocols that have prompts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import Field

from baselines.boundary import adapter_call
from baselines.interface import BoolArray, Segmenter
from benchmarks.config.model_resolution import ResolvedModel
from benchmarks.config.run_config import RunConfig
from benchmarks.datasets.dataset import Instance, Sample, ShardDataset
from benchmarks.evaluation.predictions import (
    Prediction,
    PredictionsInfo,
    predictions_path,
    references_path,
    save_predictions,
    save_references,
    to_prediction,
)
from benchmarks.evaluation.prefetch import ImageLoop, Prefetcher, Stopwatch, loop_fields
from benchmarks.evaluation.prompt_runner import (
    EmbeddingCache,
    ImagePrompts,
    PromptRunner,
    QueryMasks,
)
from benchmarks.evaluation.run_model import ModelResult
from benchmarks.evaluation.scoring import Pair, ReferenceModel, Scorer, Targets
from benchmarks.prompts.manifests import ManifestStore
from benchmarks.prompts.protocols import AccuracyProtocol
from benchmarks.prompts.samplers import prompt_sampler, to_prompts
from benchmarks.records.environment import timed_with
from benchmarks.records.instances import InstanceRow
from benchmarks.records.progress import Reporter
from benchmarks.records.record import AccuracyTimeRow
from mobilesam.errors import UnsupportedError

STAGE = "miou"


class AccuracyResult(ModelResult):
    """Result of one model on a shard.

    Attributes:
        unsupported: Reason why the model does not support a protocol, by protocol name.
    """

    rows: tuple[InstanceRow, ...] = ()
    unsupported: dict[str, str] = Field(default_factory=dict)
    time: AccuracyTimeRow | None = None


@dataclass(frozen=True, slots=True)
class ShardContext:
    """What all models of a shard share.

    Attributes:
        is_whole: Whether the shard is the whole dataset, so that a model that fails on each of the
            first images is stopped, and prompts are kept in `folder`.
    """

    config: RunConfig
    dataset: ShardDataset
    manifests: ManifestStore
    folder: Path
    prefetcher: Prefetcher
    reporter: Reporter
    is_whole: bool


def unsupported_protocols(
    model: Segmenter, protocols: Sequence[AccuracyProtocol]
) -> dict[str, str]:
    """Reason why a model does not support a protocol, by protocol name."""
    found = {}
    for protocol in protocols:
        sampler = prompt_sampler(protocol.prompt)
        example = np.zeros((1, len(sampler.columns)), np.float32)
        if sampler.labels is None:
            example[0, 2:] = 1
        try:
            with adapter_call("require"):
                model.require(to_prompts(sampler, example))
        except UnsupportedError as error:
            found[protocol.name] = str(error)
    return found


def evaluate_model(
    segmenter: Segmenter,
    model: ResolvedModel,
    context: ShardContext,
    protocols: Sequence[AccuracyProtocol],
    pairs: Sequence[Pair],
    reference_models: Mapping[str, ReferenceModel],
    key: str | None = None,
) -> AccuracyResult:
    """Runs a model on all prompts of all images of a shard, and scores its masks.

    Images that cannot be read, or that the model fails on, become failures in the result. Masks are
    stored if there is a key for them.

    Raises:
        BenchError: The predictions cannot be written.
    """
    name, config, dataset = segmenter.info.name, context.config, context.dataset
    clock = Stopwatch()
    unsupported = unsupported_protocols(segmenter, protocols)
    usable = [protocol for protocol in protocols if protocol.name not in unsupported]
    if not usable:
        return AccuracyResult(unsupported=unsupported, time=clock.row(name, dataset.name))
    prompts = context.manifests.begin_pass()
    cache = EmbeddingCache(config.embeddings, model.options.precision, model.options.device)
    task = _PromptedImages(
        PromptRunner(segmenter, usable, prompts, clock, cache),
        Scorer(name, pairs),
        reference_models,
        clock,
        boundary=config.boundary,
        keep=key is not None,
    )
    loop = ImageLoop(task, dataset, name, STAGE, context.prefetcher, clock, stop=context.is_whole)
    found: list[_ImageScore] = []
    lost_ids: list[int] = []
    instances: list[tuple[int, Instance]] = []
    with (
        context.reporter.bar(f"accuracy of {name}", dataset.n_images) as bar,
        closing(loop.run(bar)) as images,
    ):
        for image, scores in images:
            found.extend(scores or ())
            if scores is None:
                lost_ids.append(image.image_id)
            if isinstance(image, Sample) and key is not None:
                # Other models need the reference masks even if this one failed.
                instances.extend((image.image_id, each) for each in image.instances)
    result = AccuracyResult(
        **loop_fields(loop, dataset),
        unsupported=unsupported,
        timed_with=timed_with(model.options.device),
    )
    if loop.is_stopped:
        return result
    with clock("writing"):
        prompts.finish(whole=context.is_whole and not loop.unreadable)
        if key is not None:
            info = _predictions_info(model, context, usable, lost_ids, key)
            predictions = [prediction for score in found for prediction in score.predictions]
            save_predictions(predictions_path(context.folder, name), info, predictions)
            save_references(references_path(context.folder), dataset.fingerprint, instances)
    rows = tuple(row for score in found for row in score.rows)
    return result.model_copy(update={"rows": rows, "time": clock.row(name, dataset.name)})


def _predictions_info(
    model: ResolvedModel,
    context: ShardContext,
    protocols: Sequence[AccuracyProtocol],
    lost_ids: Sequence[int],
    key: str,
) -> PredictionsInfo:
    samplers = sorted({protocol.prompt for protocol in protocols})
    hashes = {name: context.manifests.sha256(name) for name in samplers}
    return PredictionsInfo(
        model=model.entry.name,
        dataset=context.dataset.name,
        fingerprint=context.dataset.fingerprint,
        weights=model.weights,
        protocols=tuple(protocol.name for protocol in protocols),
        manifests={name: sha256 for name, sha256 in hashes.items() if sha256 is not None},
        left_out={name: context.manifests.left_out(name) for name in samplers},
        lost_ids=tuple(lost_ids),
        key=key,
    )


@dataclass(frozen=True, slots=True, eq=False)
class _PromptedImage:
    """An image with its reference masks and prompts."""

    sample: Sample
    targets: Targets
    masks: list[BoolArray]
    prompts: ImagePrompts

    @property
    def n_bytes(self) -> int:
        return sum(mask.nbytes for mask in self.masks)


@dataclass(frozen=True, slots=True)
class _ImageScore:
    """Rows of some masks of an image, and the masks themselves if they are kept."""

    rows: list[InstanceRow]
    predictions: list[Prediction]


class _PromptedImages:
    """How the protocols that have prompts predict and score an image."""

    def __init__(
        self,
        runner: PromptRunner,
        scorer: Scorer,
        reference_models: Mapping[str, ReferenceModel],
        clock: Stopwatch,
        *,
        boundary: bool,
        keep: bool,
    ) -> None:
        self._runner = runner
        self._scorer = scorer
        self._reference_models = reference_models
        self._clock = clock
        self._boundary = boundary
        self._keep = keep

    def load(self, sample: Sample) -> _PromptedImage:
        masks = [instance.mask() for instance in sample.instances]
        targets = Targets(
            sample.image_id,
            sample.instances,
            masks,
            self._reference_models,
            boundary=self._boundary,
        )
        with self._clock("prompts"):
            prompts = self._runner.prompts(sample, masks)
        return _PromptedImage(sample, targets, masks, prompts)

    def predict(self, batch: _PromptedImage) -> Iterator[QueryMasks]:
        return self._runner.predict(batch.sample, batch.masks, batch.prompts)

    def score(self, batch: _PromptedImage, predictions: Sequence[QueryMasks]) -> _ImageScore:
        rows = [row for each in predictions for row in self._scorer.score(each, batch.targets)]
        kept: list[Prediction] = []
        if self._keep:
            with self._clock("writing"):
                kept = [to_prediction(each, batch.sample) for each in predictions]
        return _ImageScore(rows, kept)
