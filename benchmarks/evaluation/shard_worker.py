"""Workers that evaluate models on shards, in this process or on a cluster."""

from __future__ import annotations

import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from baselines.interface import Segmenter
from benchmarks.config.model_resolution import ResolvedModel
from benchmarks.config.run_config import RunConfig, ShardingConfig
from benchmarks.datasets.dataset import Dataset, Shard, ShardDataset
from benchmarks.evaluation.evaluate_model import (
    STAGE,
    AccuracyResult,
    ShardContext,
    evaluate_model,
)
from benchmarks.evaluation.predictions import (
    load_predictions,
    load_references,
    predictions_key,
    predictions_path,
    references_path,
)
from benchmarks.evaluation.prefetch import Prefetcher
from benchmarks.evaluation.rescore import rescore
from benchmarks.evaluation.run_model import (
    TIMED_ELSEWHERE,
    ModelResult,
    build_trained,
    run_model,
)
from benchmarks.evaluation.run_shards import run_missing_shards
from benchmarks.evaluation.scoring import Pair, ReferenceModel
from benchmarks.evaluation.shard_store import (
    ShardInfo,
    ShardResult,
    ShardStore,
    ShardSummary,
    ShardTimes,
    Unavailable,
    shard_key,
)
from benchmarks.evaluation.summaries import headline
from benchmarks.prompts.manifests import ManifestStore
from benchmarks.prompts.protocols import GROUND_TRUTH, reference_model
from benchmarks.records.environment import code_version, machine, timed_with
from benchmarks.records.instances import InstanceRow
from benchmarks.records.progress import Reporter
from benchmarks.records.record import RECORD_NAME, load_record
from benchmarks.records.result_cache import CACHE_FOLDER, ResultCache, content_key
from mobilesam.fast.allocator import keep_buffers
from mobilesam.frozen_model import FrozenModel

_IMAGES_PER_READ = 1000

ModelResultT = TypeVar("ModelResultT", bound=ModelResult)


@dataclass(frozen=True, slots=True)
class EvaluationTask:
    """What is done with each shard; it can be sent to another process.

    Attributes:
        config: Configuration of the run, without its dataset.
        key: `content_key` of everything that determines the results, besides the shard.
        code: `code_version` of the driver, which workers must share.
    """

    config: RunConfig
    models: tuple[ResolvedModel, ...]
    reference_models: tuple[ResolvedModel, ...]
    prefetch_threads: int
    key: str
    code: str
    make_worker: type[ModelWorker]

    @classmethod
    def of_run(
        cls,
        config: RunConfig,
        models: Sequence[ResolvedModel],
        reference_models: Sequence[ResolvedModel],
        make_worker: type[ModelWorker],
        *,
        prefetch_threads: int,
        **key: object,
    ) -> EvaluationTask:
        """Task of a run; `key` determines its results, besides models and seed."""
        parts = {
            "kind": f"shard of {make_worker.stage}",
            "models": [model.key for model in models],
            "reference_models": [model.key for model in reference_models],
            "threads": config.threads,
            **key,
        }
        return cls(
            replace(config, dataset=None, detector=None),
            tuple(models),
            tuple(reference_models),
            prefetch_threads,
            content_key(parts),
            code_version(),
            make_worker,
        )

    @property
    def threads(self) -> int:
        """Number of threads of a model."""
        return self.config.threads

    def worker(
        self, cache: ResultCache | None = None, reporter: Reporter | None = None
    ) -> ModelWorker:
        """Makes a worker in the calling process; see `ModelWorker`."""
        return self.make_worker(self, cache, reporter)


class ModelWorker(ABC):
    """Evaluates models on one shard after the other.

    Args:
        task: What is done with each shard.
        cache: Results of finished models, if the only shard is the whole dataset.
        reporter: Reports progress; None reports nothing.
    """

    stage: ClassVar[str]
    """Name of the measurement in failures."""
    title: ClassVar[str]
    """Name of the measurement in messages."""

    def __init__(
        self,
        task: EvaluationTask,
        cache: ResultCache | None = None,
        reporter: Reporter | None = None,
    ) -> None:
        self.task = task
        self.cache = cache
        self.is_whole = cache is not None
        self.reporter = reporter or Reporter(quiet=True)
        self.prefetcher = Prefetcher(task.prefetch_threads)
        self._built: dict[str, Segmenter] = {}

    @abstractmethod
    def run(self, shard: Shard, poison: Mapping[int, str] | None = None) -> ShardResult:
        """Evaluates all models on a shard; see `ShardWorker.run`."""

    def single_threaded(self) -> ModelWorker:
        """A worker with the same models in which nothing overlaps."""
        found = replace(self.task, prefetch_threads=0).worker(self.cache, self.reporter)
        found._built = self._built
        return found

    def close(self) -> None:
        """Ends its threads."""
        self.prefetcher.close()

    def build(self, model: ResolvedModel) -> Segmenter:
        """Builds a model, once if there are several shards."""
        name = model.entry.name
        if name in self._built:
            return self._built[name]
        built = build_trained(model)
        if not self.is_whole:
            self._built[name] = built
        return built

    def run_model(
        self,
        model: ResolvedModel,
        kind: type[ModelResultT],
        key: Mapping[str, Any],
        measure: Callable[[Segmenter], ModelResultT],
        is_intact: Callable[[ModelResultT], bool] = lambda _: True,
    ) -> tuple[ModelResultT, bool]:
        """Runs a model, or takes its result from the interrupted run.

        Returns:
            The result, and whether it was taken from the interrupted run.
        """
        found = run_model(model, kind, measure, self.build, self.cache, key, is_intact)
        if found[1]:
            name = model.entry.name
            self.reporter.say(f"{self.title} of {name}: taken from the interrupted run")
        return found

    def result(
        self,
        shard: Shard,
        results: Mapping[str, ModelResult],
        kind: type[FrozenModel],
        rows: Sequence[FrozenModel],
        times: ShardTimes | None = None,
        warnings: Sequence[str] = (),
        **info: Any,
    ) -> ShardResult:
        """Puts the results of all models together; `info` has more fields of `ShardInfo`."""
        models = {
            model.entry.name: model for model in (*self.task.models, *self.task.reference_models)
        }
        failures = chain.from_iterable(
            found.failures_of(models[name], self.stage) for name, found in results.items()
        )
        # A model that was taken from an interrupted run, or stopped early, has not read all.
        read = max(results.values(), key=lambda found: sum(found.left_out.values()), default=None)
        return ShardResult.of_rows(
            shard.name,
            ShardInfo(
                key=shard_key(self.task.key, shard),
                n_images=len(shard.readers),
                unavailable={
                    name: Unavailable(status=found.status, why=found.why or "")
                    for name, found in results.items()
                    if found.status != "ok"
                },
                failures=tuple(dict.fromkeys(failures)),
                attempts={name: found.attempts for name, found in results.items()},
                left_out={} if read is None else read.left_out,
                problems=() if read is None else read.problems,
                **info,
            ),
            kind,
            rows,
            times,
            warnings,
        )


class AccuracyWorker(ModelWorker):
    """Evaluates models under the protocols that have prompts.

    Reference models are run before the models that are compared with them.
    """

    stage = STAGE
    title = "accuracy"

    def __init__(self, task: EvaluationTask, *arguments: Any) -> None:
        super().__init__(task, *arguments)
        # No time is taken that is compared with others, and fresh memory pages for every call
        # would take half of the time.
        keep_buffers()

    def run(self, shard: Shard, poison: Mapping[int, str] | None = None) -> ShardResult:
        """Evaluates all models on a shard; see `ShardWorker.run`."""
        shard = shard.without(poison or {})
        with ExitStack() as stack:
            config, is_whole = self.task.config, self.is_whole
            folder = (
                config.out if is_whole else Path(stack.enter_context(tempfile.TemporaryDirectory()))
            )
            # Prompts of a part belong to the dataset by name: states of files differ by machine.
            fingerprint = shard.fingerprint if is_whole else shard.dataset
            context = ShardContext(
                config,
                ShardDataset(shard),
                ManifestStore(fingerprint, config.seed, folder),
                folder,
                self.prefetcher,
                self.reporter,
                is_whole,
            )
            evaluation = _ShardEvaluation(self, context)
            rows = evaluation.run()
            samplers = sorted({protocol.prompt for protocol in config.protocols})
            hashes = {name: context.manifests.sha256(name) for name in samplers}
            no_prompt = {name: context.manifests.left_out(name) for name in samplers}
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
            manifests={name: sha256 for name, sha256 in hashes.items() if sha256 is not None},
            no_prompt=no_prompt,
        )


class _ShardEvaluation:
    """Evaluation of all models on one shard."""

    def __init__(self, worker: AccuracyWorker, context: ShardContext) -> None:
        self._worker = worker
        self._context = context
        self._config = context.config
        self._reference_models: dict[str, ReferenceModel] = {}
        self.results: dict[str, AccuracyResult] = {}
        self.warnings: list[str] = []

    def run(self) -> list[InstanceRow]:
        task = self._worker.task
        names = {model.entry.name for model in task.models}
        references = self._config.references
        truth = tuple(self._pairs([each for each in references if each == GROUND_TRUTH]))
        for model in task.reference_models:
            self._evaluate(model, truth if model.entry.name in names else (), keep=True)
        pairs = tuple(self._pairs(references))
        for model in task.models:
            if model.entry.name not in self.results:
                self._evaluate(model, pairs, keep=self._config.save_masks)
        return [row for model in task.models for row in self._rows(model, pairs)]

    def _pairs(self, references: Sequence[str]) -> Iterator[Pair]:
        for reference in references:
            name = reference_model(reference)
            for protocol in self._config.protocols:
                if name is None or (
                    name in self._reference_models
                    and protocol.n_clicks is None
                    and protocol.name not in self.results[name].unsupported
                ):
                    yield protocol, reference

    def _evaluate(self, model: ResolvedModel, pairs: tuple[Pair, ...], *, keep: bool) -> None:
        name, context = model.entry.name, self._context
        if not pairs and not keep:
            # Nothing to score: the model is not built, and has a result only for its weights.
            self.results[name] = AccuracyResult()
            if model.error is not None or not model.trained:
                self.results[name], _ = run_model(
                    model, AccuracyResult, lambda _: AccuracyResult(), self._worker.build
                )
            return
        parts = self._key(model, pairs, keep=keep)
        key = content_key(parts) if keep else None
        path = predictions_path(context.folder, name)
        protocols = tuple(dict.fromkeys(protocol for protocol, _ in pairs))
        if keep:  # masks after clicks are not used as references
            protocols = tuple(
                protocol
                for protocol in self._config.protocols
                if protocol in protocols or protocol.n_clicks is None
            )

        def measure(segmenter: Segmenter) -> AccuracyResult:
            return evaluate_model(
                segmenter, model, context, protocols, pairs, self._reference_models, key
            )

        found, is_cached = self._worker.run_model(
            model,
            AccuracyResult,
            parts,
            measure,
            lambda _: key is None or predictions_key(path) == key,
        )
        if is_cached:
            found = self._without_foreign_time(model, found)
        elif found.rows and found.time is not None:
            seconds = f"{found.time.wall_s:.0f} s"
            self._worker.reporter.say(f"{name}: {headline(found.rows)}, {seconds}")
        self.results[name] = found
        is_reference = name in {each.entry.name for each in self._worker.task.reference_models}
        is_stopped = context.is_whole and found.attempts.has_failed_first_images
        if is_reference and not is_stopped and predictions_key(path) == key:
            info, predictions = load_predictions(path)
            self._reference_models[name] = ReferenceModel(name, predictions, info.lost_ids)

    def _key(self, model: ResolvedModel, pairs: Sequence[Pair], *, keep: bool) -> dict[str, object]:
        config, dataset = self._config, self._context.dataset
        weights = {each.entry.name: each.weights for each in self._worker.task.reference_models}
        return {
            "kind": STAGE,
            **model.key,
            "dataset": dataset.fingerprint,
            "images": dataset.images_state,
            "protocols": [protocol.name for protocol in config.protocols],
            "pairs": [(protocol.name, reference) for protocol, reference in pairs],
            "teachers": {name: weights[name].sha256 for name in self._reference_models},
            "keep": keep,
            "boundary": config.boundary,
        }

    def _without_foreign_time(self, model: ResolvedModel, found: AccuracyResult) -> AccuracyResult:
        """A cached result, without a time that was taken under other conditions.

        The conditions are not part of the key, since accuracy does not depend on them.
        """
        if found.time is None or found.timed_with == timed_with(model.options.device):
            return found
        warning = f"accuracy of {model.entry.name}: {TIMED_ELSEWHERE}"
        self.warnings.append(warning)
        self._worker.reporter.warn(warning)
        return found.model_copy(update={"time": None})

    def _rows(self, model: ResolvedModel, pairs: Sequence[Pair]) -> list[InstanceRow]:
        """Rows of a model; a reference model is scored against others by its stored masks."""
        name, folder = model.entry.name, self._context.folder
        rows = list(self.results[name].rows)
        if name in self._reference_models:
            against = [pair for pair in pairs if pair[1] != GROUND_TRUTH]
            _, instances = load_references(references_path(folder))
            predictions = self._reference_models[name].predictions
            rows.extend(
                rescore(
                    name,
                    predictions,
                    instances,
                    against,
                    self._reference_models,
                    boundary=self._config.boundary,
                )
            )
        return rows


def machine_of(models: Sequence[ResolvedModel]) -> tuple[str, ...]:
    """Parts of this machine that determine the times of models, as by `environment.machine`.

    The number of threads is part of the key of a shard.
    """
    devices = dict.fromkeys(model.options.device for model in models)
    return tuple(dict.fromkeys(part for device in devices for part in machine(device)))


def is_local(sharding: ShardingConfig | None) -> bool:
    """Whether all shards are evaluated on this machine."""
    return sharding is None or sharding.cluster in (None, "local")


def run_task(
    task: EvaluationTask, dataset: Dataset, name: str, reporter: Reporter
) -> tuple[list[Path], ShardSummary]:
    """Runs a task on a dataset: as one shard, or in shards that are kept one by one.

    Results are stored under a name in the folder of the run: one file, or a folder of files.

    Returns:
        Files of the results, and their summary.

    Raises:
        DataError: The folder cannot be written.
        UsageError: The cluster cannot be used.
    """
    config = task.config
    path, sharding = config.out / name, config.sharding
    if sharding is None:
        with closing(task.worker(ResultCache(config.out / CACHE_FOLDER), reporter)) as worker:
            result = worker.run(whole_shard(dataset))
        ShardStore(path, single=True).write(result)
        summary = ShardSummary.of_dataset(dataset, [(result.info, result.times)])
        summary.warnings.extend(result.warnings)
        return [path], summary
    store = ShardStore(path)
    title = f"{task.make_worker.title} of {', '.join(model.entry.name for model in task.models)}"
    # A run that ended with failures is started again to repeat what failed.
    again = (config.out / RECORD_NAME).exists() and load_record(config.out).complete
    names, given_up, n_given_up = run_missing_shards(
        dataset, task, sharding, store, f"{title} in chunks", reporter, again=again
    )
    infos = (
        (info, store.times(shard, info.key))
        for shard in names
        if (info := store.info(shard)) is not None
    )
    here = machine_of(task.models) if is_local(sharding) else None
    summary = ShardSummary.of_dataset(dataset, infos, here)
    summary.given_up, summary.n_given_up = given_up, n_given_up
    return [store.file(shard) for shard in names], summary


def whole_shard(dataset: Dataset) -> Shard:
    """A whole dataset as one shard."""
    shards = list(dataset.shards(_IMAGES_PER_READ))
    return Shard(
        name="whole",
        dataset=dataset.name,
        fingerprint=dataset.fingerprint,
        readers=tuple(reader for shard in shards for reader in shard.readers),
        images=tuple(image for shard in shards for image in shard.images),
        share=1.0,
        images_state=dataset.images_state,
    )
