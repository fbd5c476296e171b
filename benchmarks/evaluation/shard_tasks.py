"""Who works on the parts of a dataset, and at what: the same here and on a cluster."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from typing import Protocol, TypeVar

from benchmarks.config.run_config import ShardingConfig
from benchmarks.datasets.dataset import Shard
from benchmarks.debugging import format_error
from benchmarks.records.record import Failure
from mobilesam.errors import BenchError

MadeT = TypeVar("MadeT")
MadeT_co = TypeVar("MadeT_co", covariant=True)


class PartWorker(Protocol[MadeT_co]):
    """Does one part after the other; loads its models once."""

    def run(self, part: Shard, poison: Mapping[int, str] | None = None) -> MadeT_co:
        """Makes what is wanted of a part.

        Args:
            part: Which.
            poison: Images, by position, that are known to bring a worker down, with the reason.

        Raises:
            BenchError: Something failed that is no fault of a model or an image.
        """

    def alone(self) -> PartWorker[MadeT_co]:
        """The same models in a worker where nothing overlaps."""

    def close(self) -> None:
        """Ends its threads."""


class Plan(Protocol[MadeT_co]):
    """What is done with each part. It can be sent to another process."""

    @property
    def threads(self) -> int:
        """That the models are given."""

    @property
    def code(self) -> str:
        """`code_version` of who asks, which who works must share."""

    def worker(self) -> PartWorker[MadeT_co]:
        """A new worker, in the process that calls this."""


def execute_parts(
    scale: ShardingConfig, plan: Plan[MadeT], parts: Iterator[Shard]
) -> Generator[MadeT | Failure, None, None]:
    """Works on parts in this process or on a cluster.

    Yields:
        What comes of each, in any order; a failure stands for a part that could not be done.

    Raises:
        UsageError: The cluster cannot be used.
    """
    if scale.cluster is None:
        return _run_here(plan, parts)
    from benchmarks.evaluation.ray_backend import run_on_ray

    return run_on_ray(scale, plan, parts)


def _run_here(plan: Plan[MadeT], parts: Iterator[Shard]) -> Generator[MadeT | Failure, None, None]:
    """Does one part after the other in this process."""
    worker = plan.worker()
    try:
        for part in parts:
            try:
                yield worker.run(part)
            except BenchError as error:
                yield given_up(part, format_error(error))
    finally:
        worker.close()


def given_up(part: Shard, why: str) -> Failure:
    """The failure that a part is which no worker could do."""
    return Failure(
        stage="chunk",
        culprit=part.name,
        why=f"{why} ({len(part.readers)} images left out; start again to try them once more)",
    )
