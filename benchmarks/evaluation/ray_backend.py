"""Parts done by the workers of a Ray cluster; one that dies takes nothing with it.

Ray starts the workers, sends them parts and brings back what came of them, which the driver writes:
nothing but the data and the weights needs to be where the workers are. A worker that dies is
replaced and its part given out again, then one image after the other, so that an image that brings
workers down is found: it is left out, and listed.
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
from benchmarks.evaluation.shard_tasks import MadeT, Plan, given_up
from benchmarks.records.environment import code_version, use_threads
from benchmarks.records.record import Failure
from mobilesam.errors import BenchError, UsageError

LOCAL = "local"
DEATHS = 2
"""An image at which so many workers died, with nothing else at work, is what killed them."""
_STORE_BYTES = 256 * 2**20


class Board:
    """Remembers which image of a part was begun last, after the worker that began it is gone."""

    def __init__(self) -> None:
        self._at: dict[str, int] = {}

    def begin(self, part: str, position: int) -> None:
        """A worker is about to read an image."""
        self._at[part] = position

    def last(self, part: str) -> int | None:
        """The image of a part that was begun last; None if none was."""
        return self._at.get(part)


@dataclass(frozen=True, slots=True)
class _Watched:
    """A reader that tells the board before it reads, and waits until the board knows."""

    reader: ImageReader
    board: Any
    part: str
    position: int

    def __call__(self) -> LoadedImage:
        import ray

        ray.get(self.board.begin.remote(self.part, self.position))
        return self.reader()


class RemoteWorker:
    """A worker in a process of its own, which keeps its models.

    Args:
        plan: What is done with each part.
        board: An actor of `Board`.
        debug: Collect the tracebacks of what fails.
    """

    def __init__(self, plan: Plan[Any], board: Any, *, debug: bool = False) -> None:
        use_threads(plan.threads)
        self._board = board
        self._debug = debug
        self._worker = plan.worker()

    def code(self) -> str:
        """What this worker's code is."""
        return code_version()

    def run(self, part: Shard, poison: dict[int, str], *, careful: bool) -> tuple[Any, str]:
        """Runs a shard; if careful, nothing overlaps and each image is reported to the board.

        Returns:
            The result, and the tracebacks of failures, which the driver shows: what a worker
            prints does not reach it.
        """
        with debugging(wanted=self._debug), collected_tracebacks() as tracebacks:
            made = self._run(part, poison, careful=careful)
        return made, "".join(tracebacks)

    def _run(self, part: Shard, poison: dict[int, str], *, careful: bool) -> Any:
        if not careful:
            return self._worker.run(part, poison)
        watched = tuple(
            _Watched(reader, self._board, part.name, position)
            for position, reader in enumerate(part.readers)
        )
        alone = self._worker.alone()
        return alone.run(replace(part, readers=watched), poison)


@dataclass(slots=True)
class _Job:
    """A part on its way through the cluster."""

    part: Shard
    tries: int = 0
    careful: bool = False
    poison: dict[int, str] = field(default_factory=dict)
    deaths: Counter[int] = field(default_factory=Counter)
    avoid: int | None = None
    why: str = ""
    trace: str = ""


def run_on_ray(
    scale: ShardingConfig, plan: Plan[MadeT], parts: Iterator[Shard]
) -> Generator[MadeT | Failure, None, None]:
    """Does parts on the cluster, in the order in which they are finished.

    Raises:
        UsageError: Ray is not installed, the cluster not there, too small or of other code.
    """
    # Ray tells of workers that died on standard output, which may be a document that we write.
    with contextlib.redirect_stdout(sys.stderr):
        ray = _connect(scale)
        try:
            yield from _Cluster(ray, scale, plan).run(parts)
        finally:
            ray.shutdown()


def _connect(scale: ShardingConfig) -> Any:
    # It would report to its makers otherwise.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise UsageError("--cluster needs Ray: pip install 'mobilesam-bench[cluster]'") from error
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if scale.cluster == LOCAL:
        wanted = (scale.workers or 1) * scale.worker_cpus
        options |= {
            "address": "local",
            "include_dashboard": False,
            "num_cpus": max(os.cpu_count() or 1, round(wanted + 0.5)),
            "object_store_memory": _STORE_BYTES,
        }
    else:
        options["address"] = scale.cluster
    try:
        ray.init(**options)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise UsageError(f"no Ray cluster at {scale.cluster}: {error}") from error
    return ray


class _Cluster:
    """Hands parts to workers, one each at a time."""

    def __init__(self, ray: Any, scale: ShardingConfig, plan: Plan[Any]) -> None:
        self._ray = ray
        self._scale = scale
        self._plan = plan
        self._board = ray.remote(num_cpus=0)(Board).remote()
        self._workers: dict[int, Any] = {}
        self._running: dict[Any, tuple[int, _Job]] = {}
        self._again: deque[_Job] = deque()
        for number in range(self._n_workers()):
            self._workers[number] = self._new_worker()
        self._check_code()

    def run(self, parts: Iterator[Shard]) -> Iterator[Any]:
        while True:
            self._hand_out(parts)
            if not self._running:
                return
            (ready, *_), _ = self._ray.wait(list(self._running), num_returns=1)
            number, job = self._running.pop(ready)
            try:
                made, tracebacks = self._ray.get(ready)
            except self._ray.exceptions.RayTaskError as error:
                yield from self._failed(number, job, error)
            except self._ray.exceptions.RayError as error:
                # Dead, ended by Ray since memory ran out, or out of reach with its machine.
                self._ray.kill(self._workers[number])
                self._workers[number] = self._new_worker()
                yield from self._died(job, error)
            else:
                show_text(tracebacks)
                yield made

    def _n_workers(self) -> int:
        scale = self._scale
        there = self._ray.cluster_resources()
        room = int(there.get("CPU", 0) / scale.worker_cpus)
        if scale.worker_gpus:
            room = min(room, int(there.get("GPU", 0) / scale.worker_gpus))
        if room < (scale.workers or 1):
            raise UsageError(
                f"the cluster has room for {room} workers of {scale.worker_cpus:g} CPUs and "
                f"{scale.worker_gpus:g} GPUs, not for {scale.workers or 1}; ask for fewer"
            )
        return scale.workers or room

    def _new_worker(self) -> Any:
        scale = self._scale
        options = {"num_cpus": scale.worker_cpus, "num_gpus": scale.worker_gpus}
        return self._ray.remote(**options)(RemoteWorker).remote(
            self._plan, self._board, debug=is_debugging()
        )

    def _check_code(self) -> None:
        try:
            codes = self._ray.get([worker.code.remote() for worker in self._workers.values()])
        except self._ray.exceptions.RayError as error:
            raise UsageError(f"the cluster's workers do not start: {_brief(error)}") from error
        if any(code != self._plan.code for code in codes):
            raise UsageError("workers of the cluster run other code than this; install the same")

    def _hand_out(self, parts: Iterator[Shard]) -> None:
        busy = {number for number, _ in self._running.values()}
        for number in self._workers.keys() - busy:
            job = self._next_job(number, parts)
            if job is not None:
                job.tries += 1
                work = self._workers[number].run.remote(job.part, job.poison, careful=job.careful)
                self._running[work] = number, job

    def _next_job(self, number: int, parts: Iterator[Shard]) -> _Job | None:
        """What has failed comes first, but not to the worker where it did if there are others."""
        for job in self._again:
            if job.avoid != number or len(self._workers) == 1:
                self._again.remove(job)
                return job
        part = next(parts, None)
        return None if part is None else _Job(part)

    def _died(self, job: _Job, error: Exception) -> Iterator[Failure]:
        job.avoid = None  # that worker is no more
        job.why = f"its worker died: {_brief(error)}"
        position = None
        if job.careful:
            position = self._ray.get(self._board.last.remote(job.part.name))
        if position is not None:
            job.deaths[position] += 1
            if job.deaths[position] >= DEATHS:
                job.poison[position] = "it brings down every worker; its objects are not counted"
                job.tries = 0  # what is left is another part
        job.careful = True
        yield from self._once_more(job)

    def _failed(self, number: int, job: _Job, error: Any) -> Iterator[Failure]:
        cause = error.cause if isinstance(error.cause, BenchError) else None
        job.why = str(cause) if cause is not None else _brief(error)
        job.trace = f"{error}\n" if cause is None or is_debugging() else ""
        job.avoid = number
        yield from self._once_more(job)

    def _once_more(self, job: _Job) -> Iterator[Failure]:
        if job.tries < self._scale.attempts:
            self._again.append(job)
        else:
            sys.stderr.write(job.trace)  # an error of this project must not be hidden
            yield given_up(job.part, job.why)


def _brief(error: Exception) -> str:
    """The first line of one of Ray's errors, which go on for pages."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
