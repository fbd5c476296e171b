"""Runs shards on the workers of a Ray cluster; a worker that dies loses no results.

Ray starts the workers, sends them shards and returns the results, which the driver writes. Workers
need nothing but the data and the weights. A worker that dies is replaced, and its shard is run
again image by image, so that an image that crashes workers is found, left out and listed.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections import Counter, deque
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from benchmarks.config.run_config import ShardingConfig
from benchmarks.datasets.dataset import ImageReader, LoadedImage, Shard
from benchmarks.debugging import collected_tracebacks, debugging, is_debugging, show_text
from benchmarks.evaluation.run_shards import ResultT, ShardTask, shard_failure
from benchmarks.records.environment import code_version, use_threads
from benchmarks.records.record import Failure
from mobilesam.errors import BenchError, UsageError

LOCAL = "local"
DEATHS = 2
"""Number of workers that must die at an image, with nothing else running, to leave it out."""
_STORE_BYTES = 256 * 2**20


class Board:
    """Records the image that was begun last in each shard; it outlives the workers."""

    def __init__(self) -> None:
        self._at: dict[str, int] = {}

    def begin(self, shard: str, position: int) -> None:
        """Records that a worker is about to read an image."""
        self._at[shard] = position

    def last(self, shard: str) -> int | None:
        """Position of the image of a shard that was begun last; None if there is none."""
        return self._at.get(shard)


@dataclass(frozen=True, slots=True)
class _Watched:
    """A reader that reports to the board before it reads an image."""

    reader: ImageReader
    board: Any
    shard: str
    position: int

    def __call__(self) -> LoadedImage:
        import ray

        ray.get(self.board.begin.remote(self.shard, self.position))
        return self.reader()


class RemoteWorker:
    """A worker in a process of the cluster, which keeps its models."""

    def __init__(self, task: ShardTask[Any], board: Any, *, debug: bool = False) -> None:
        use_threads(task.threads)
        self._board = board
        self._debug = debug
        self._worker = task.worker()

    def code(self) -> str:
        """`code_version` of this worker."""
        return code_version()

    def run(self, shard: Shard, poison: dict[int, str], *, careful: bool) -> tuple[Any, str]:
        """Runs a shard; if careful, nothing overlaps and each image is reported to the board.

        Returns also the tracebacks of failures, since the output of workers is not shown.
        """
        with debugging(wanted=self._debug), collected_tracebacks() as tracebacks:
            worker = self._worker
            if careful:
                worker = worker.single_threaded()
                watched = (
                    _Watched(reader, self._board, shard.name, position)
                    for position, reader in enumerate(shard.readers)
                )
                shard = replace(shard, readers=tuple(watched))
            result = worker.run(shard, poison)
        return result, "".join(tracebacks)


@dataclass(slots=True)
class _Job:
    """A shard that is being run, and its earlier attempts."""

    shard: Shard
    attempts: int = 0
    careful: bool = False
    poison: dict[int, str] = field(default_factory=dict)
    deaths: Counter[int] = field(default_factory=Counter)
    avoid: int | None = None
    why: str = ""
    trace: str = ""


def run_on_ray(
    sharding: ShardingConfig, task: ShardTask[ResultT], shards: Iterator[Shard]
) -> Generator[ResultT | Failure, None, None]:
    """Runs shards on the cluster, and yields results in the order in which they are finished."""
    # Ray reports dead workers on standard output, which may be a document of the command.
    with contextlib.redirect_stdout(sys.stderr):
        ray = _connect(sharding)
        try:
            yield from _Cluster(ray, sharding, task).run(shards)
        finally:
            ray.shutdown()


def _connect(sharding: ShardingConfig) -> Any:
    # No usage statistics are sent.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise UsageError("--cluster needs Ray: pip install 'mobilesam-bench[cluster]'") from error
    options: dict[str, Any] = {"address": sharding.cluster}
    if sharding.cluster == LOCAL:
        wanted = (sharding.workers or 1) * sharding.worker_cpus
        options |= {
            "include_dashboard": False,
            "num_cpus": max(os.cpu_count() or 1, round(wanted + 0.5)),
            "object_store_memory": _STORE_BYTES,
        }
    try:
        ray.init(**options, log_to_driver=False, logging_level="ERROR")
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise UsageError(f"no Ray cluster at {sharding.cluster}: {error}") from error
    return ray


class _Cluster:
    """Gives each worker one shard at a time."""

    def __init__(self, ray: Any, sharding: ShardingConfig, task: ShardTask[Any]) -> None:
        self._ray = ray
        self._sharding = sharding
        self._task = task
        self._board = ray.remote(num_cpus=0)(Board).remote()
        self._running: dict[Any, tuple[int, _Job]] = {}
        self._again: deque[_Job] = deque()
        resources = ray.cluster_resources()
        room = int(resources.get("CPU", 0) / sharding.worker_cpus)
        if sharding.worker_gpus:
            room = min(room, int(resources.get("GPU", 0) / sharding.worker_gpus))
        if room < (sharding.workers or 1):
            raise UsageError(
                f"the cluster has room for {room} workers of {sharding.worker_cpus:g} CPUs and "
                f"{sharding.worker_gpus:g} GPUs, not for {sharding.workers or 1}; ask for fewer"
            )
        n_workers = sharding.workers or room
        self._workers = {number: self._new_worker() for number in range(n_workers)}
        try:
            codes = ray.get([worker.code.remote() for worker in self._workers.values()])
        except ray.exceptions.RayError as error:
            raise UsageError(f"the cluster's workers do not start: {_brief(error)}") from error
        if any(code != task.code for code in codes):
            raise UsageError("workers of the cluster run other code than this; install the same")

    def _new_worker(self) -> Any:
        sharding = self._sharding
        options = {"num_cpus": sharding.worker_cpus, "num_gpus": sharding.worker_gpus}
        return self._ray.remote(**options)(RemoteWorker).remote(
            self._task, self._board, debug=is_debugging()
        )

    def run(self, shards: Iterator[Shard]) -> Iterator[Any]:
        ray = self._ray
        while True:
            self._hand_out(shards)
            if not self._running:
                return
            (ready, *_), _ = ray.wait(list(self._running), num_returns=1)
            number, job = self._running.pop(ready)
            try:
                result, tracebacks = ray.get(ready)
            except ray.exceptions.RayTaskError as error:
                cause = error.cause if isinstance(error.cause, BenchError) else None
                job.why = str(cause) if cause is not None else _brief(error)
                job.trace = f"{error}\n" if cause is None or is_debugging() else ""
                job.avoid = number
            except ray.exceptions.RayError as error:
                # The worker died, was ended by Ray for lack of memory, or is unreachable.
                ray.kill(self._workers[number])
                self._workers[number] = self._new_worker()
                self._note_death(job, error)
            else:
                show_text(tracebacks)
                yield result
                continue
            if job.attempts < self._sharding.attempts:
                self._again.append(job)
            else:
                sys.stderr.write(job.trace)  # errors of this project are always shown
                yield shard_failure(job.shard, job.why)

    def _hand_out(self, shards: Iterator[Shard]) -> None:
        busy = {number for number, _ in self._running.values()}
        for number in self._workers.keys() - busy:
            job = self._next_job(number, shards)
            if job is not None:
                job.attempts += 1
                work = self._workers[number].run.remote(job.shard, job.poison, careful=job.careful)
                self._running[work] = number, job

    def _next_job(self, number: int, shards: Iterator[Shard]) -> _Job | None:
        """The next shard: failed ones first, on another worker if there is one."""
        for job in self._again:
            if job.avoid != number or len(self._workers) == 1:
                self._again.remove(job)
                return job
        shard = next(shards, None)
        return None if shard is None else _Job(shard)

    def _note_death(self, job: _Job, error: Exception) -> None:
        """Runs the shard carefully from now on; leaves out an image at which workers die."""
        job.avoid = None  # that worker has been replaced
        job.why = f"its worker died: {_brief(error)}"
        position = None
        if job.careful:
            position = self._ray.get(self._board.last.remote(job.shard.name))
        if position is not None:
            job.deaths[position] += 1
            if job.deaths[position] >= DEATHS:
                job.poison[position] = "it brings down every worker; its objects are not counted"
                job.attempts = 0  # without this image it is a new shard
        job.careful = True


def _brief(error: Exception) -> str:
    """First line of an error of Ray."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
