"""Runs the shards of a dataset, in this process or on a Ray cluster; evaluates models on shards."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import timedelta
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

from baselines.interface import Segmenter
from benchmarks.config.model_resolution import ResolvedModel
from benchmarks.config.run_config import DEFAULT_PREFETCH_THREADS, RunConfig, ShardingConfig
from benchmarks.datasets.dataset import Dataset, Shard
from benchmarks.debugging import format_error
from benchmarks.evaluation.run_model import ModelResult, Prefetcher, build_trained, run_model
from benchmarks.evaluation.shard_store import (
    ShardInfo,
    ShardResult,
    ShardStore,
    ShardSummary,
    ShardTimes,
    Unavailable,
    shard_key,
)
from benchmarks.records.environment import code_version, machine
from benchmarks.records.progress import Bar, Reporter
from benchmarks.records.record import RECORD_NAME, Failure, load_record, write_atomic
from benchmarks.records.result_cache import CACHE_FOLDER, ResultCache, content_key
from mobilesam.errors import BenchError, DataError
from mobilesam.frozen_model import FrozenModel

_IMAGES_PER_READ = 1000

ResultT = TypeVar("ResultT")
ResultT_co = TypeVar("ResultT_co", covariant=True)
ModelResultT = TypeVar("ModelResultT", bound=ModelResult)


class ShardWorker(Protocol[ResultT_co]):
    """Runs one shard after the other, and loads its models once."""

    def run(self, shard: Shard, poison: Mapping[int, str] | None = None) -> ResultT_co:
        """Runs a shard without the images that crash workers: reasons by position in `poison`.

        A BenchError is something that is not a fault of a model or an image.
        """

    def single_threaded(self) -> ShardWorker[ResultT_co]:
        """A worker with the same models in which nothing overlaps."""

    def close(self) -> None:
        """Ends its threads."""


class ShardTask(Protocol[ResultT_co]):
    """What is done with each shard. It can be sent to another process."""

    @property
    def threads(self) -> int:
        """Number of threads of a model."""

    @property
    def code(self) -> str:
        """`code_version` of the driver, which workers must share."""

    def worker(self) -> ShardWorker[ResultT_co]:
        """Makes a worker in the calling process."""


def execute_shards(
    sharding: ShardingConfig, task: ShardTask[ResultT], shards: Iterator[Shard]
) -> Generator[ResultT | Failure, None, None]:
    """Yields the results of shards in any order; a failure for one that could not be run."""
    if sharding.cluster is not None:
        from benchmarks.evaluation.ray_backend import run_on_ray

        yield from run_on_ray(sharding, task, shards)
        return
    worker = task.worker()
    try:
        for shard in shards:
            try:
                result = worker.run(shard)
            except BenchError as error:
                yield shard_failure(shard, format_error(error))
            else:
                yield result
    finally:
        worker.close()


def shard_failure(shard: Shard, why: str) -> Failure:
    """Failure record for a shard that no worker could run."""
    why = f"{why} ({len(shard.readers)} images left out; start again to try them once more)"
    return Failure(stage="chunk", culprit=shard.name, why=why)


class ThroughputMeter:
    """Measures throughput, estimates the time left, and shows both next to a progress bar."""

    def __init__(self, bar: Bar, clock: Callable[[], float] = time.monotonic) -> None:
        self._bar = bar
        self._clock = clock
        self._start = clock()
        self._shares: dict[str, float] = {}
        self._known_share = self._done_share = 0.0
        self._known_images = 0
        self.n_images = self.n_rows = self.n_failures = 0

    def skip(self, shard: Shard) -> None:
        """Counts a shard that was finished before."""
        self._known_share += shard.share
        self._known_images += len(shard.readers)

    def begin(self, shard: Shard) -> None:
        """Counts a shard that is about to be run."""
        self._shares[shard.name] = shard.share

    def done(self, name: str, n_images: int, n_rows: int, n_failures: int) -> None:
        """Counts a finished shard."""
        self._done_share += self._shares.pop(name, 0.0)
        self.n_images += n_images
        self.n_rows += n_rows
        self.n_failures += n_failures
        self._bar.step(self.note(), done=self._known_images + self.n_images)

    def note(self) -> str:
        """Throughput, time left, and number of failures."""
        text = self._throughput()
        if (left := self.seconds_left()) is not None:
            text += f", {timedelta(seconds=round(left))} left"
        return text + (f", {self.n_failures:,} failures" if self.n_failures else "")

    def seconds_left(self) -> float | None:
        """Estimated time for the remaining shards; None before one is finished."""
        if self._done_share <= 0:
            return None
        left = max(0.0, 1 - self._known_share - self._done_share)
        return self._seconds * left / self._done_share

    def summary(self) -> str:
        """One line for the end."""
        counts = f"{self.n_images:,} images and {self.n_rows:,} rows in {self._seconds:,.1f} s"
        return f"{counts}: {self._throughput()}"

    @property
    def _seconds(self) -> float:
        return max(self._clock() - self._start, 1e-9)

    def _throughput(self) -> str:
        seconds = self._seconds
        return f"{self.n_images / seconds:,.1f} images/s, {self.n_rows / seconds:,.0f} rows/s"


@dataclass(frozen=True, slots=True)
class EvaluationTask:
    """What is done with each shard; it can be sent to another process.

    It has no dataset. Its key determines the results, besides the shard; workers must share `code`.
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
        sharding = config.sharding
        return cls(
            replace(config, dataset=None, detector=None),
            tuple(models),
            tuple(reference_models),
            make_worker.threads_unsharded if sharding is None else sharding.prefetch_threads,
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

    With a cache for the results of finished models, the only shard is the whole dataset. Failures
    name the `stage`, messages the `title`. `threads_unsharded` prefetch if there is one shard.
    """

    stage: ClassVar[str]
    title: ClassVar[str]
    threads_unsharded: ClassVar[int] = DEFAULT_PREFETCH_THREADS

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
        if self.is_whole:
            return build_trained(model)
        name = model.entry.name
        if name not in self._built:
            self._built[name] = build_trained(model)
        return self._built[name]

    def run_model(
        self,
        model: ResolvedModel,
        kind: type[ModelResultT],
        key: Mapping[str, Any],
        measure: Callable[[Segmenter], ModelResultT],
        is_intact: Callable[[ModelResultT], bool] = lambda _: True,
    ) -> tuple[ModelResultT, bool]:
        """Runs a model, or takes its result from the interrupted run; returns whether it was."""
        found = run_model(model, kind, measure, self.build, self.cache, key, is_intact)
        if found[1]:
            name = model.entry.name
            self.reporter.detail(f"{self.title} of {name}: taken from the interrupted run")
            self.reporter.outlook.advance(self.stage, found[0].attempts.n_answered)
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
        read = max(
            results.values(), key=lambda found: sum(found.left_out.values()), default=ModelResult()
        )
        report = ShardInfo(
            key=shard_key(self.task.key, shard),
            n_images=len(shard.readers),
            unavailable={
                name: Unavailable(status=found.status, why=found.why or "")
                for name, found in results.items()
                if found.status != "ok"
            },
            failures=tuple(dict.fromkeys(failures)),
            attempts={name: found.attempts for name, found in results.items()},
            left_out=read.left_out,
            problems=read.problems,
            **info,
        )
        return ShardResult.of_rows(shard.name, report, kind, rows, times, warnings)


def machine_of(models: Sequence[ResolvedModel]) -> tuple[str, ...]:
    """Parts of this machine that determine the times of models, as by `environment.machine`.

    The number of threads is part of the key of a shard.
    """
    devices = dict.fromkeys(model.options.device for model in models)
    return tuple(dict.fromkeys(part for device in devices for part in machine(device)))


def is_local(sharding: ShardingConfig | None) -> bool:
    """Whether all shards are evaluated on this machine."""
    return sharding is None or sharding.cluster in (None, "local")


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


def run_task(
    task: EvaluationTask, dataset: Dataset, name: str, reporter: Reporter
) -> tuple[list[Path], ShardSummary]:
    """Runs a task on a dataset: as one shard, or in shards that are kept one by one.

    Results are stored under a name in the folder of the run: one file, or a folder of files.
    Returns the files and the summary of the results.
    """
    config = task.config
    path, sharding = config.out / name, config.sharding
    if sharding is None:
        with closing(task.worker(ResultCache(config.out / CACHE_FOLDER), reporter)) as worker:
            result = worker.run(whole_shard(dataset))
        write_atomic(path, result.table)
        summary = ShardSummary.of_dataset(dataset, [(result.info, result.times)])
        summary.warnings.extend(result.warnings)
        return [path], summary
    store = ShardStore(path)
    infos, given_up, n_given_up = _run_missing_shards(task, dataset, sharding, store, reporter)
    here = machine_of(task.models) if is_local(sharding) else None
    found = ((info, store.times(shard, info.key)) for shard, info in infos.items())
    summary = ShardSummary.of_dataset(dataset, found, here)
    summary.given_up, summary.n_given_up = given_up, n_given_up
    return [store.file(shard) for shard in infos], summary


def _run_missing_shards(
    task: EvaluationTask,
    dataset: Dataset,
    sharding: ShardingConfig,
    store: ShardStore,
    reporter: Reporter,
) -> tuple[dict[str, ShardInfo], tuple[Failure, ...], int]:
    """Runs all shards that are not stored; deletes stored ones that are not part of the run.

    Returns what the stored shards report, by name in order, failures of the others, and the number
    of images of these.
    """
    out = task.config.out
    # A run that ended with failures is started again to repeat what failed.
    again = (out / RECORD_NAME).exists() and load_record(out).complete
    store.sweep()
    keys: dict[str, str] = {}
    n_images: dict[str, int] = {}
    n_known = 0
    failures: list[Failure] = []
    is_stale = False

    def missing() -> Iterator[Shard]:
        nonlocal is_stale, n_known
        for shard in dataset.shards(sharding.images_per_shard):
            name = shard.name
            keys[name], n_images[name] = shard_key(task.key, shard), len(shard.readers)
            info = store.info(name)
            is_known = info is not None and info.key == keys[name]
            if info is not None and is_known and not (again and info.n_failures):
                n_known += 1
                meter.skip(shard)
                continue
            if store.file(name).is_file() and not is_known and not is_stale:
                is_stale = True
                reporter.warn(
                    f"chunks in {store.path} were made from other inputs, weights, code or "
                    "libraries: they are made anew"
                )
            store.remove(name)
            meter.begin(shard)
            yield shard

    def write(found: ShardResult | Failure) -> ShardResult | Failure:
        if isinstance(found, ShardResult):
            store.write(found)
        return found

    models = ", ".join(model.entry.name for model in task.models)
    title = f"{task.make_worker.title} of {models} in chunks"
    with (
        reporter.bar(title, dataset.n_images, task.make_worker.stage) as bar,
        closing(Prefetcher(1)) as writer,
    ):
        meter = ThroughputMeter(bar)
        with (
            closing(execute_shards(sharding, task, missing())) as results,
            closing(writer.map(write, results, lambda _: 0)) as written,
        ):
            for found in written:
                if isinstance(found, ShardResult):
                    info = found.info
                    meter.done(found.name, info.n_images, found.n_rows, info.n_failures)
                else:
                    failures.append(found)
    if n_known:
        reporter.detail(f"{n_known} of {len(keys)} chunks were there from before")
    reporter.say(meter.summary())
    for name in set(store.names()) - keys.keys():
        store.remove(name)  # made with another number of images in a shard
    stored = store.finished(keys)
    lost = keys.keys() - stored.keys()
    unexplained = lost - {failure.culprit for failure in failures}
    if unexplained:
        raise DataError(
            f"{len(unexplained)} chunks in {store.path} are not those that this run made, first "
            f"{min(unexplained)}: another process changed the folder; choose another --out"
        )
    return stored, tuple(failures), sum(n_images[name] for name in lost)
