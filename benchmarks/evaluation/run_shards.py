"""Runs the shards of a dataset in this process or on a Ray cluster, and measures throughput."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Mapping
from datetime import timedelta
from typing import Protocol, TypeVar

from benchmarks.config.run_config import ShardingConfig
from benchmarks.datasets.dataset import Shard
from benchmarks.debugging import format_error
from benchmarks.records.progress import Bar
from benchmarks.records.record import Failure
from mobilesam.errors import BenchError

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
    """Yields the results of shards in any order; a failure for one that could not be run.

    Raises:
        UsageError: The cluster cannot be used.
    """
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
