"""Runs shard tasks, in this process or on a Ray cluster; finished shards are kept on disk."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing
from datetime import timedelta
from typing import TYPE_CHECKING, Protocol, TypeVar

from benchmarks.config.run_config import ShardingConfig
from benchmarks.datasets.dataset import Dataset, Shard
from benchmarks.debugging import format_error
from benchmarks.evaluation.prefetch import Prefetcher
from benchmarks.evaluation.shard_store import ShardResult, ShardStore, shard_key
from benchmarks.records.progress import Bar, Reporter
from benchmarks.records.record import Failure
from mobilesam.errors import BenchError, DataError

if TYPE_CHECKING:
    from benchmarks.evaluation.shard_worker import EvaluationTask

ResultT = TypeVar("ResultT")
ResultT_co = TypeVar("ResultT_co", covariant=True)


class ShardWorker(Protocol[ResultT_co]):
    """Runs one shard after the other, and loads its models once."""

    def run(self, shard: Shard, poison: Mapping[int, str] | None = None) -> ResultT_co:
        """Runs a shard.

        Args:
            shard: The shard.
            poison: Reasons by position of images that crash workers and must not be read.

        Raises:
            BenchError: Something failed that is not a fault of a model or an image.
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
    """Runs shards in this process or on a cluster.

    Yields:
        The results in any order; a failure stands for a shard that could not be run.

    Raises:
        UsageError: The cluster cannot be used.
    """
    if sharding.cluster is None:
        return _run_locally(task, shards)
    from benchmarks.evaluation.ray_backend import run_on_ray

    return run_on_ray(sharding, task, shards)


def _run_locally(
    task: ShardTask[ResultT], shards: Iterator[Shard]
) -> Generator[ResultT | Failure, None, None]:
    worker = task.worker()
    try:
        for shard in shards:
            try:
                yield worker.run(shard)
            except BenchError as error:
                yield shard_failure(shard, format_error(error))
    finally:
        worker.close()


def shard_failure(shard: Shard, why: str) -> Failure:
    """Failure record for a shard that no worker could run."""
    return Failure(
        stage="chunk",
        culprit=shard.name,
        why=f"{why} ({len(shard.readers)} images left out; start again to try them once more)",
    )


class ThroughputMeter:
    """Measures throughput, estimates the time left, and shows both beside a progress bar.

    Args:
        bar: The progress bar, updated after each shard.
        clock: Returns seconds; monotonic.
    """

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
        left = self.seconds_left()
        text = self._throughput()
        if left is not None:
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


def run_missing_shards(
    dataset: Dataset,
    task: EvaluationTask,
    sharding: ShardingConfig,
    store: ShardStore,
    title: str,
    reporter: Reporter,
    *,
    again: bool = False,
) -> tuple[tuple[str, ...], tuple[Failure, ...], int]:
    """Runs all shards that are not stored; deletes stored ones that are not part of the run.

    Args:
        dataset: Images and reference masks.
        task: What is done with each shard.
        sharding: Number of images in a shard, and where shards are run.
        store: Results of the shards; those made under the same key are kept.
        title: Title of the progress bar.
        reporter: Reports progress.
        again: Run shards with failures once more.

    Returns:
        Names of the stored shards in order, failures of shards that could not be run, and the
        number of their images.

    Raises:
        DataError: The folder cannot be written, or another process has changed it meanwhile.
        UsageError: The cluster cannot be used.
    """
    store.sweep()
    keys: dict[str, str] = {}
    n_images: dict[str, int] = {}
    known: list[str] = []
    failures: list[Failure] = []
    is_stale = False

    def missing() -> Iterator[Shard]:
        nonlocal is_stale
        for shard in dataset.shards(sharding.images_per_shard):
            name = shard.name
            keys[name], n_images[name] = shard_key(task.key, shard), len(shard.readers)
            info = store.info(name)
            is_known = info is not None and info.key == keys[name]
            if info is not None and is_known and not (again and info.n_failures):
                known.append(name)
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

    with reporter.bar(title, dataset.n_images) as bar, closing(Prefetcher(1)) as writer:
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
    if known:
        reporter.say(f"{len(known)} of {len(keys)} chunks were there from before")
    reporter.say(meter.summary())
    for name in set(store.names()) - keys.keys():
        store.remove(name)  # made with another number of images in a shard
    names = store.finished(keys)
    lost = keys.keys() - set(names)
    unexplained = lost - {failure.culprit for failure in failures}
    if unexplained:
        raise DataError(
            f"{len(unexplained)} chunks in {store.path} are not those that this run made, first "
            f"{min(unexplained)}: another process changed the folder; choose another --out"
        )
    return names, tuple(failures), sum(n_images[name] for name in lost)
