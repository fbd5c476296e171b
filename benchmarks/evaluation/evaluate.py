"""Evaluates models under the protocols that have prompts; see the package for an overview."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, fields
from itertools import chain, product
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from baselines.boundary import adapter_call
from baselines.interface import BoolArray, MaskFrame, Segmenter
from benchmarks.config.model_resolution import ResolvedModel
from benchmarks.config.run_config import RunConfig
from benchmarks.datasets.dataset import Instance, Sample, Shard, ShardDataset
from benchmarks.evaluation import predictions as stored
from benchmarks.evaluation.comparison import compare_tables, unshared_prompt_lines
from benchmarks.evaluation.predictions import Prediction, PredictionsInfo, to_prediction
from benchmarks.evaluation.prompt_runner import (
    EmbeddingCache,
    ImagePrompts,
    PromptRunner,
    QueryMasks,
)
from benchmarks.evaluation.rescore import rescore
from benchmarks.evaluation.robustness import robustness_rows
from benchmarks.evaluation.run_model import (
    TIMED_ELSEWHERE,
    ImageLoop,
    ModelResult,
    Stopwatch,
    run_model,
)
from benchmarks.evaluation.run_shards import EvaluationTask, ModelWorker, machine_of, run_task
from benchmarks.evaluation.scoring import CLICKS_NEED_TRUTH, Pair, ReferenceModel, Scorer, Targets
from benchmarks.evaluation.shard_store import ShardResult, ShardSummary, ShardTimes, shard_key
from benchmarks.evaluation.summaries import count_clicks, headline, sum_tables
from benchmarks.prompts.manifests import ManifestStore, PassPrompts
from benchmarks.prompts.protocols import (
    GROUND_TRUTH,
    TEACHER_PREFIX,
    AccuracyProtocol,
    listed_protocols,
    reference_model,
)
from benchmarks.prompts.samplers import prompt_sampler, to_prompts
from benchmarks.records.environment import timed_with
from benchmarks.records.instances import InstanceRow, read_instances
from benchmarks.records.progress import Reporter
from benchmarks.records.record import (
    INSTANCES_NAME,
    AccuracyTimeRow,
    ComparisonRow,
    DetectorRow,
    EverythingRow,
    Failure,
    MiouRow,
    RobustnessRow,
    Status,
)
from benchmarks.records.result_cache import content_key
from mobilesam.errors import UnsupportedError
from mobilesam.fast.allocator import keep_buffers


@dataclass(frozen=True, slots=True)
class EvaluationResult:
    """Rows for the record; fields are named as in `RunRecord`."""

    miou: tuple[MiouRow, ...] = ()
    comparisons: tuple[ComparisonRow, ...] = ()
    robustness: tuple[RobustnessRow, ...] = ()
    accuracy_times: tuple[AccuracyTimeRow, ...] = ()
    detector: tuple[DetectorRow, ...] = ()
    everything: tuple[EverythingRow, ...] = ()
    failures: tuple[Failure, ...] = ()
    warnings: tuple[str, ...] = ()

    def rows(self) -> dict[str, tuple[Any, ...]]:
        """Rows by field of the record."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def evaluate(
    config: RunConfig,
    models: Sequence[ResolvedModel],
    reference_models: Sequence[ResolvedModel],
    reporter: Reporter,
) -> EvaluationResult:
    """Evaluates every model under every protocol, against every reference.

    Instances are stored in `config.out`, as one file or as one for each shard. A model without
    trained weights has rows with a reason; a model that fails has rows with its error. Reference
    models need not be among the models. Without protocols the result is empty.

    Raises:
        DataError: The folder cannot be written.
        UsageError: The cluster cannot be used.
    """
    if config.dataset is None or not config.protocols:
        return EvaluationResult()
    task = EvaluationTask.of_run(
        config,
        models,
        reference_models,
        AccuracyWorker,
        protocols=[protocol.name for protocol in config.protocols],
        references=list(config.references),
        seed=config.seed,
        boundary=config.boundary,
    )
    tables, summary = run_task(task, config.dataset, INSTANCES_NAME, reporter)
    if summary.untimed is not None:
        reporter.warn(summary.untimed)
        summary.warnings.append(summary.untimed)
    by_name = {model.entry.name: model for model in (*models, *reference_models)}
    sums = sum_tables(tables)
    clicks = count_clicks(tables, config.protocols, config.noc_ious)
    broken = summary.broken
    rows: list[MiouRow] = []
    for model, reference, protocol in product(models, config.references, config.protocols):
        name, other = model.entry.name, reference_model(reference)
        row = MiouRow(
            model=name,
            dataset=summary.dataset,
            protocol=protocol.name,
            reference=reference,
            weights=model.weights,
            reference_weights=None if other is None else by_name[other].weights,
        )
        group = (name, protocol.name, reference)
        update: dict[str, Any]
        if group in sums and name not in broken and other not in broken:
            row = sums[group].summarize(row)
            time = summary.times.get(name)
            update = {
                "n_left_out": summary.no_prompt[protocol.prompt],
                "clicks": clicks.get(group[:2]) if other is None else None,
                "why": summary.left_out_text(name),
                "manifest_sha256": summary.manifest(protocol.prompt),
                "seconds": None if time is None else time.wall_s,
            }
        else:
            why_not = _why_no_reference(
                summary, None if other is None else by_name[other], protocol
            )
            status, why = _why_empty(summary, name, protocol, reference, why_not)
            update = {"status": status, "why": why}
        rows.append(row.model_copy(update=update))
    comparisons: tuple[ComparisonRow, ...] = ()
    unshared: tuple[str, ...] = ()
    if len(models) > 1:
        compared = listed_protocols(protocol.name for protocol in config.protocols)
        frames = (frame[frame["protocol"].isin(compared)] for frame in map(read_instances, tables))
        comparisons, n_prompts = compare_tables(frames, config.dataset.name, without=broken)
        unshared = unshared_prompt_lines(n_prompts)
    return EvaluationResult(
        miou=tuple(rows),
        comparisons=comparisons,
        robustness=robustness_rows(rows, tables, config.protocols),
        accuracy_times=tuple(summary.times.values()),
        failures=summary.failures,
        warnings=(*summary.all_warnings, *unshared),
    )


def _why_empty(
    summary: ShardSummary, model: str, protocol: AccuracyProtocol, reference: str, why: str | None
) -> tuple[Status, str]:
    """Status and reason of a row without figures; `why` if the reference cannot be used."""
    if model in summary.unavailable:
        return summary.unavailable[model].status, summary.unavailable[model].why
    if model in summary.broken:
        return "error", summary.broken[model]
    why = why or summary.unsupported.get(model, {}).get(protocol.name)
    n_without = summary.no_prompt[protocol.prompt]
    if why is None and n_without:
        why = f"none of the {n_without} instances has a prompt {protocol.prompt}"
    if why is not None:
        return "skipped", why
    if summary.attempts[model].n_answered and not summary.n_given_up:
        return "error", f"no image was answered both by {model} and by {reference}"
    return "error", summary.why_nothing(model)


def _why_no_reference(
    summary: ShardSummary, model: ResolvedModel | None, protocol: AccuracyProtocol
) -> str | None:
    """Reason why a protocol cannot be scored against a reference model; None if it can."""
    if model is None:
        return None
    if protocol.n_clicks is not None:
        return CLICKS_NEED_TRUTH
    name = model.entry.name
    reference = f"{TEACHER_PREFIX}{name}"
    if model.error is not None:
        return f"{reference} cannot be used: {model.error}"
    if not model.trained:
        return f"{reference} has no trained weights: {model.weights.why}"
    if name in summary.unavailable:
        return f"{reference} failed: {summary.unavailable[name].why}"
    if name in summary.broken:
        return f"{reference} failed: {summary.broken[name]}"
    if (why := summary.unsupported.get(name, {}).get(protocol.name)) is not None:
        return f"{reference} has no answer: {why}"
    return None


class AccuracyResult(ModelResult):
    """Result of one model on a shard; `unsupported` has reasons by protocol name."""

    rows: tuple[InstanceRow, ...] = ()
    unsupported: dict[str, str] = Field(default_factory=dict)
    time: AccuracyTimeRow | None = None


class AccuracyWorker(ModelWorker):
    """Evaluates models; reference models are run before those that are compared with them."""

    stage = "miou"
    title = "accuracy"

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        # No time is taken that is compared with others, and fresh memory pages for every call
        # would take half of the time.
        keep_buffers()

    def run(self, shard: Shard, poison: Mapping[int, str] | None = None) -> ShardResult:
        """Evaluates all models on a shard; see `ShardWorker.run`."""
        shard = shard.without(poison or {})
        config = self.task.config
        with ExitStack() as stack:
            folder, fingerprint = config.out, shard.fingerprint
            if not self.is_whole:
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
                # Prompts of a part belong to the dataset by name: states of files differ by
                # machine.
                fingerprint = shard.dataset
            manifests = ManifestStore(fingerprint, config.seed, folder)
            evaluation = ShardEvaluation(self, ShardDataset(shard), manifests, folder)
            rows = evaluation.run()
            hashes, no_prompt = _described(manifests, config.protocols)
        results = evaluation.results
        times = tuple(found.time for found in results.values() if found.time is not None)
        here = machine_of(self.task.models) if times else ()
        return self.result(
            shard,
            results,
            InstanceRow,
            rows,
            ShardTimes(key=shard_key(self.task.key, shard), times=times, machine=here),
            evaluation.warnings,
            unsupported={name: found.unsupported for name, found in results.items()},
            manifests=hashes,
            no_prompt=no_prompt,
        )


def _described(
    manifests: ManifestStore, protocols: Sequence[AccuracyProtocol]
) -> tuple[dict[str, str], dict[str, int]]:
    """Hash of the prompts, and number of instances without one, by prompt sampler."""
    samplers = sorted({protocol.prompt for protocol in protocols})
    hashes = {name: manifests.sha256(name) for name in samplers}
    known = {name: sha256 for name, sha256 in hashes.items() if sha256 is not None}
    return known, {name: manifests.left_out(name) for name in samplers}


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


@dataclass(slots=True, eq=False)
class ShardEvaluation:
    """Evaluation of all models on one shard.

    Prompts of the shard come from `manifests`, the same for all models; predictions go to `folder`,
    and `stored` names the models that have some.
    """

    worker: ModelWorker
    dataset: ShardDataset
    manifests: ManifestStore
    folder: Path
    reference_models: dict[str, ReferenceModel] = field(default_factory=dict)
    results: dict[str, AccuracyResult] = field(default_factory=dict)
    stored: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def run(self) -> list[InstanceRow]:
        """Evaluates all models of the task."""
        task = self.worker.task
        config = task.config
        names = {model.entry.name for model in task.models}
        truth = self._pairs([each for each in config.references if each == GROUND_TRUTH])
        for model in task.reference_models:
            self._evaluate(model, truth if model.entry.name in names else (), keep=True)
        pairs = self._pairs(config.references)
        for model in task.models:
            if model.entry.name not in self.results:
                self._evaluate(model, pairs, keep=config.save_masks or config.n_pictures > 0)
        if config.save_masks and self.stored:
            from benchmarks.evaluation.coco_export import export_coco

            export_coco(self.folder, self.stored)
        rows: list[InstanceRow] = []
        for name in (model.entry.name for model in task.models):
            rows += self.results[name].rows
            if name in self.reference_models:  # scored against others by its stored masks
                against = [pair for pair in pairs if pair[1] != GROUND_TRUTH]
                rows += rescore(
                    name,
                    self.reference_models[name].predictions,
                    stored.load_references(stored.references_path(self.folder)).instances,
                    against,
                    self.reference_models,
                    boundary=config.boundary,
                )
        return rows

    def _pairs(self, references: Sequence[str]) -> tuple[Pair, ...]:
        """What can be scored against these references, as far as they have been run."""
        return tuple(
            (protocol, reference)
            for reference in references
            for protocol in self.worker.task.config.protocols
            if (name := reference_model(reference)) is None
            or (
                name in self.reference_models
                and protocol.n_clicks is None
                and protocol.name not in self.results[name].unsupported
            )
        )

    def _evaluate(self, model: ResolvedModel, pairs: tuple[Pair, ...], *, keep: bool) -> None:
        """Sets the result of a model, and the reference model if it is one."""
        name, worker, config = model.entry.name, self.worker, self.worker.task.config
        if not pairs and not keep:
            # Nothing to score: the model is not built, and has a result only for its weights.
            self.results[name] = AccuracyResult()
            if model.error is not None or not model.trained:
                self.results[name], _ = run_model(
                    model, AccuracyResult, lambda _: AccuracyResult(), worker.build
                )
            return
        references = {each.entry.name: each.weights for each in worker.task.reference_models}
        parts = {
            "kind": worker.stage,
            **model.key,
            "dataset": self.dataset.fingerprint,
            "images": self.dataset.images_state,
            "protocols": [protocol.name for protocol in config.protocols],
            "pairs": [(protocol.name, reference) for protocol, reference in pairs],
            "teachers": {name: references[name].sha256 for name in self.reference_models},
            "keep": keep,
            "pictures": config.n_pictures,
            "boundary": config.boundary,
        }
        key = content_key(parts) if keep else None
        path = stored.predictions_path(self.folder, name)
        protocols = tuple(dict.fromkeys(protocol for protocol, _ in pairs))
        if keep:  # masks after clicks are not used as references
            protocols = tuple(
                protocol
                for protocol in config.protocols
                if protocol in protocols or protocol.n_clicks is None
            )
        found, is_cached = worker.run_model(
            model,
            AccuracyResult,
            parts,
            lambda segmenter: self.measure(segmenter, model, protocols, pairs, key),
            lambda _: key is None or stored.predictions_key(path) == key,
        )
        if found.rows and found.time is not None:
            seconds = "measured before" if is_cached else f"{found.time.wall_s:.0f} s"
            worker.reporter.result(f"{name}: {headline(found.rows)}, {seconds}")
        if (
            is_cached
            and found.time is not None
            and found.timed_with != timed_with(model.options.device)
        ):
            # The conditions are not part of the key, since accuracy does not depend on them.
            warning = f"accuracy of {name}: {TIMED_ELSEWHERE}"
            self.warnings.append(warning)
            worker.reporter.warn(warning)
            found = found.model_copy(update={"time": None})
        self.results[name] = found
        is_stopped = worker.is_whole and found.attempts.has_failed_first_images
        if not keep or is_stopped or stored.predictions_key(path) != key:
            return
        self.stored.append(name)
        if name in references:
            info, predictions = stored.load_predictions(path)
            self.reference_models[name] = ReferenceModel(name, predictions, info.lost_ids)

    def measure(
        self,
        segmenter: Segmenter,
        model: ResolvedModel,
        protocols: Sequence[AccuracyProtocol],
        pairs: Sequence[Pair],
        key: str | None = None,
    ) -> AccuracyResult:
        """Runs a model on all prompts of all images of the shard, and scores its masks.

        Images that cannot be read, or that the model fails on, become failures in the result.
        Masks are stored if there is a key for them.
        """
        name, config, dataset = segmenter.info.name, self.worker.task.config, self.dataset
        clock = Stopwatch()
        unsupported = {}
        for protocol in protocols:
            sampler = prompt_sampler(protocol.prompt)
            example = np.ones((1, len(sampler.columns)), np.float32)
            if sampler.prompt == "boxes":
                example[0, :2] = 0
            frame = MaskFrame((1, 1), (1, 1), (1, 1))
            try:
                with adapter_call("require"):
                    segmenter.require(to_prompts(sampler, example, frame))
            except UnsupportedError as error:
                unsupported[protocol.name] = str(error)
        usable = [protocol for protocol in protocols if protocol.name not in unsupported]
        if not usable:
            return AccuracyResult(unsupported=unsupported, time=clock.row(name, dataset.name))
        prompts = PassPrompts(self.manifests)
        options = model.options
        cache = EmbeddingCache(
            config.embeddings, options.precision, options.device, model.entry.file_sha256
        )
        runner = PromptRunner(segmenter, usable, prompts, clock, cache)
        scorer = Scorer(name, pairs)
        is_reference = any(each.entry.name == name for each in self.worker.task.reference_models)
        keeps_all = config.save_masks or is_reference
        choice = stored.ImageChoice(config.n_pictures)
        pictures_path = stored.pictures_path(self.folder)
        known_pictures = stored.load_pictures(pictures_path, dataset.fingerprint)

        def load(sample: Sample) -> _PromptedImage:
            masks = [instance.mask() for instance in sample.instances]
            targets = Targets(
                sample.image_id, sample.instances, masks, self.reference_models, config.boundary
            )
            with clock("prompts"):
                return _PromptedImage(sample, targets, masks, runner.prompts(sample, masks))

        def score(
            batch: _PromptedImage, predictions: Sequence[QueryMasks]
        ) -> tuple[list[InstanceRow], list[Prediction], int]:
            """Rows of some masks of an image, those masks that are kept, and the number of all."""
            rows = [row for each in predictions for row in scorer.score(each, batch.targets)]
            if key is None or not (keeps_all or choice.wants(batch.sample.image_id)):
                return rows, [], len(predictions)
            kept = (each for each in predictions if keeps_all or each.index < stored.MOST_OBJECTS)
            with clock("writing"):
                masks = [to_prediction(each, batch.sample) for each in kept]
            return rows, masks, len(predictions)

        loop = ImageLoop(
            load,
            lambda batch: runner.predict(batch.sample, batch.masks, batch.prompts),
            score,
            dataset,
            name,
            self.worker.stage,
            self.worker.prefetcher,
            clock,
            stop=self.worker.is_whole,
        )
        rows: list[InstanceRow] = []
        predictions: dict[int, list[Prediction]] = {}
        lost_ids: list[int] = []
        instances: dict[int, Sequence[Instance]] = {}
        file_names: dict[int, str] = {}
        pictures: dict[int, stored.StoredPicture] = {}
        n_prompts = 0
        with loop.run(self.worker.reporter, self.worker.title) as images:
            for image, scores in images:
                image_id, masks = image.image_id, []
                for scored, kept, n_answered in scores or ():
                    rows += scored
                    masks += kept
                    n_prompts += n_answered
                if scores is None:
                    lost_ids.append(image_id)
                if not isinstance(image, Sample) or key is None:
                    continue
                # Other models need the reference masks even if this one failed.
                shown = choice.wants(image_id)
                if shown or keeps_all:
                    predictions[image_id] = masks
                    instances[image_id] = image.instances
                    file_names[image_id] = image.name
                if shown:
                    if image_id not in known_pictures:
                        with clock("writing"):
                            pictures[image_id] = stored.StoredPicture.of(image)
                    for dropped in choice.add(image_id):
                        pictures.pop(dropped, None)
                        if not keeps_all:
                            del predictions[dropped], instances[dropped], file_names[dropped]
        result = AccuracyResult(
            **loop.fields(), unsupported=unsupported, timed_with=timed_with(model.options.device)
        )
        if loop.is_stopped:
            return result
        with clock("writing"):
            prompts.finish(whole=self.worker.is_whole and not loop.unreadable)
            if key is not None:
                hashes, no_prompt = _described(self.manifests, usable)
                info = PredictionsInfo(
                    model=name,
                    dataset=dataset.name,
                    fingerprint=dataset.fingerprint,
                    weights=model.weights,
                    protocols=tuple(protocol.name for protocol in usable),
                    manifests=hashes,
                    left_out=no_prompt,
                    lost_ids=tuple(lost_ids),
                    key=key,
                    n_prompts=n_prompts,
                )
                stored.save_predictions(
                    stored.predictions_path(self.folder, name),
                    info,
                    list(chain.from_iterable(predictions.values())),
                )
                found = [(key, each) for key, group in instances.items() for each in group]
                path = stored.references_path(self.folder)
                stored.save_references(path, dataset.fingerprint, found, file_names)
                if pictures:
                    stored.save_pictures(
                        pictures_path, dataset.fingerprint, known_pictures | pictures
                    )
        update = {"rows": tuple(rows), "time": clock.row(name, dataset.name)}
        return result.model_copy(update=update)
