"""Makes the chunks that are missing: who is here stays, what is stale is made anew."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from typing import Protocol

from benchmarks.config.run_config import RunConfig, ShardingConfig
from benchmarks.datasets.dataset import Dataset, Shard
from benchmarks.evaluation.prefetch import Lanes
from benchmarks.evaluation.shard_store import Chunk, ChunkStore, chunk_key
from benchmarks.evaluation.shard_tasks import Plan, execute_parts
from benchmarks.evaluation.throughput import Pace
from benchmarks.records.progress import Reporter
from benchmarks.records.record import RECORD_NAME, Failure, load_record
from mobilesam.errors import DataError, UsageError


class ChunkPlan(Plan[Chunk], Protocol):
    """What is done with each part, where a chunk comes of it."""

    @property
    def run(self) -> str:
        """`content_key` of code, configuration, weights and libraries."""


@dataclass(frozen=True, slots=True)
class Making:
    """Result of making all missing chunks.

    Attributes:
        names: Names of the chunks of this run, in order, without those that were given up.
        given_up: Chunks that could not be made.
        n_given_up: Number of images of those.
    """

    names: tuple[str, ...]
    given_up: tuple[Failure, ...]
    n_given_up: int


def cut_dataset(request: RunConfig) -> Dataset:
    """The dataset of a run.

    Raises:
        UsageError: The run has no dataset.
    """
    if request.dataset is None:
        raise UsageError("accuracy needs a dataset")
    return request.dataset


def has_ended(request: RunConfig) -> bool:
    """The same run was here before and came to its end.

    Chunks with failures are then to be made once more: what has ended with failures and is started
    again may have been mended meanwhile.
    """
    return (request.out / RECORD_NAME).exists() and load_record(request.out).complete


def make_missing(
    dataset: Dataset,
    plan: ChunkPlan,
    scale: ShardingConfig,
    store: ChunkStore,
    what: str,
    reporter: Reporter,
    *,
    again: bool = False,
) -> Making:
    """Makes all chunks that are not in a store; what belongs to none of them is dropped.

    Args:
        dataset: Images and reference masks.
        plan: What is done with them.
        scale: How they are cut, and who works on them.
        store: Of the chunks. Those made under the same key are not made again.
        what: Shown beside the progress.
        reporter: Told about progress.
        again: Chunks with failures are made once more.

    Raises:
        DataError: The folder cannot be written, or another process has changed it meanwhile.
        UsageError: The cluster cannot be used.
    """
    store.sweep()
    survey = _Survey(dataset, plan.run, store, scale.images_per_shard, again, reporter)
    failures: list[Failure] = []
    writer = Lanes(1)
    with reporter.bar(what, dataset.n_images) as bar:
        pace = Pace(bar)

        def write(found: Chunk | Failure) -> Chunk | Failure:
            if isinstance(found, Chunk):
                store.write(found)
            return found

        try:
            with (
                closing(execute_parts(scale, plan, survey.missing(pace))) as made,
                closing(writer.map(write, made, lambda _: 0)) as written,
            ):
                for found in written:
                    if isinstance(found, Chunk):
                        pace.done(found)
                    else:
                        failures.append(found)
        finally:
            writer.close()
    if survey.n_known:
        reporter.say(f"{survey.n_known} of {len(survey.keys)} chunks were there from before")
    reporter.say(pace.summary())
    for name in set(store.names()) - survey.keys.keys():
        store.remove(name)  # of a former cut into other chunks
    names = store.finished(survey.keys)
    missing = survey.keys.keys() - set(names) - {failure.culprit for failure in failures}
    if missing:
        raise DataError(
            f"{len(missing)} chunks in {store.folder} are not those that this run made, first "
            f"{min(missing)}: another process changed the folder; choose another --out"
        )
    n_given_up = sum(n for name, n in survey.n_images.items() if name not in set(names))
    return Making(names, tuple(failures), n_given_up)


@dataclass(slots=True)
class _Survey:
    """Looks through the parts, and tells the missing ones from those that are finished."""

    dataset: Dataset
    run: str
    store: ChunkStore
    chunk_images: int
    again: bool
    reporter: Reporter
    keys: dict[str, str] = field(default_factory=dict)
    n_images: dict[str, int] = field(default_factory=dict)
    n_known: int = 0
    n_stale: int = 0

    def missing(self, pace: Pace) -> Iterator[Shard]:
        for part in self.dataset.shards(self.chunk_images):
            key = chunk_key(self.run, part)
            self.keys[part.name] = key
            self.n_images[part.name] = len(part.readers)
            info = self.store.info(part.name)
            is_known = info is not None and info.key == key
            if info is not None and is_known and not (self.again and info.n_failures):
                self.n_known += 1
                pace.known(part)
                continue
            if self.store.has(part.name) and not is_known:
                self._tell_stale()
            self.store.remove(part.name)
            pace.given(part)
            yield part

    def _tell_stale(self) -> None:
        self.n_stale += 1
        if self.n_stale == 1:
            self.reporter.warn(
                f"chunks in {self.store.folder} were made from other inputs, weights, code or "
                "libraries: they are made anew"
            )
