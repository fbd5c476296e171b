"""What filling an embedding store takes, whoever makes the embeddings, and what is told of it."""

from __future__ import annotations

import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.cli.progress import Reporter
from benchmarks.records.record import Failure, Value
from mobilesam.distillation.store_check import Verification, verify
from mobilesam.distillation.store_format import SUFFIX, Entry, Teacher
from mobilesam.distillation.store_writer import StoreWriter, writing

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class StoreOptions:
    """How a store is written.

    Attributes:
        folder: Of the store.
        shard_bytes: Size that a shard's data may have.
        note: Kept in the manifest of a new store.
        repair: Drop damaged shards and make their embeddings again.
        verify: Read all of it in the end.
    """

    folder: Path
    shard_bytes: int
    note: str | None = None
    repair: bool = False
    verify: bool = False


class EmbedReport(Value):
    """What a run has done, and what the store holds now.

    Attributes:
        n_encoded: Images whose embedding was made by this run.
        n_known: Images that the store had already, or that are equal to one before them.
        dropped: Damaged shards that `repair` took out.
        failures: Images without an embedding, each with its reason.
        images_per_second: Read, encoded and kept; None if none was. In chunks it is that of the
            chunks in which any was, with the start of a cluster.
    """

    store: str
    source: str
    teacher: Teacher
    n_embeddings: int
    n_shards: int
    n_bytes: int
    bytes_per_embedding: float | None
    n_encoded: int
    n_known: int
    dropped: tuple[str, ...]
    failures: tuple[Failure, ...]
    seconds: float
    images_per_second: float | None
    verification: Verification | None


class Filling(ABC):
    """One pass over images, whose embeddings go to an open store.

    Args:
        writer: Of the store.
        options: Of the store.
        reporter: Told about progress.

    Attributes:
        busy_s: Time in which images were read, encoded and kept.
    """

    def __init__(self, writer: StoreWriter, options: StoreOptions, reporter: Reporter) -> None:
        self._writer = writer
        self._folder = options.folder
        self._reporter = reporter
        self._told_of_space = False
        self.busy_s = 0.0
        self.n_encoded = 0
        self.n_known = 0
        self.failures: list[Failure] = []

    @abstractmethod
    def run(self) -> None:
        """Sees to all images.

        Raises:
            DataError: There is none, the model fails at them, or the store cannot be written.
        """

    @property
    def rate(self) -> float | None:
        """Images a second, over those that were encoded, from reading to keeping."""
        return self.n_encoded / self.busy_s if self.n_encoded and self.busy_s else None

    def keep(self, entry: Entry, embedding: Tensor) -> None:
        """Keeps what was made of an image that the store has not."""
        self._writer.add(entry, embedding)
        self.n_encoded += 1

    def fail(self, stage: str, name: str, why: str) -> None:
        """Lists an image, or a part of all, that has no embedding."""
        self.failures.append(Failure(stage=stage, culprit=name, why=why))
        self._reporter.warn(f"skipped {name}: {why}")

    def warn_of_space(self, n_left: int | None) -> None:
        """Says once, when the size of an embedding is known, what the others will take."""
        each_bytes = self._writer.embedding_bytes
        if self._told_of_space or not self.n_encoded or n_left is None or each_bytes is None:
            return
        self._told_of_space = True
        needed_bytes, free_bytes = n_left * each_bytes, shutil.disk_usage(self._folder).free
        self._reporter.say(
            f"{each_bytes / 1e6:.2f} MB an embedding; {n_left} more images need at most "
            f"{needed_bytes / 1e9:.2f} GB, and {free_bytes / 1e9:.1f} GB are free"
        )
        if needed_bytes > free_bytes:
            self._reporter.warn("the disk will be full before the end; what is done is kept")


def fill(
    teacher: Teacher,
    source: str,
    options: StoreOptions,
    reporter: Reporter,
    begin: Callable[[StoreWriter], Filling],
) -> EmbedReport:
    """Opens a store, has it filled, and tells what it holds then.

    Args:
        teacher: Who makes the embeddings.
        source: Name of the images.
        options: Where to and how.
        reporter: Told about progress.
        begin: Makes the pass that fills it.

    Raises:
        UsageError: The store was made by another teacher.
        WeightsError: With other weights.
        DataError: It cannot be written or is damaged, or what the pass raises.
    """
    start = time.monotonic()
    with writing(
        options.folder,
        teacher,
        shard_bytes=options.shard_bytes,
        note=options.note,
        repair=options.repair,
    ) as writer:
        for line in writer.dropped:
            reporter.warn(f"dropped, to be made again: {line}")
        if len(writer):
            reporter.say(f"{options.folder} holds {len(writer)} embeddings already")
        work = begin(writer)
        work.run()
    seconds = time.monotonic() - start
    shards = [path.stat().st_size for path in options.folder.glob(f"shard-*{SUFFIX}")]
    return EmbedReport(
        store=str(options.folder),
        source=source,
        teacher=teacher,
        n_embeddings=len(writer),
        n_shards=len(shards),
        n_bytes=sum(shards),
        bytes_per_embedding=sum(shards) / len(writer) if shards else None,
        n_encoded=work.n_encoded,
        n_known=work.n_known,
        dropped=writer.dropped,
        failures=tuple(work.failures),
        seconds=seconds,
        images_per_second=work.rate,
        verification=verify(options.folder) if options.verify and shards else None,
    )
