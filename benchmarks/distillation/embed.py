"""Runs a teacher's encoder over images once, and keeps what it gives in an embedding store."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from baselines.interface import Segmenter, StorableEmbedding
from baselines.sam_arrays import inner_size
from benchmarks.data.dataset import BadSample
from benchmarks.distillation.sources import ImageSource, NamedImage
from benchmarks.model_pass import ADAPTER_ERRORS, explain
from benchmarks.progress import Reporter
from benchmarks.records import Failure, Value
from mobilesam.distillation.store_check import Verification, verify
from mobilesam.distillation.store_format import SUFFIX, Entry, Teacher, image_key
from mobilesam.distillation.store_writer import StoreWriter, to_storable, writing
from mobilesam.errors import DataError, UnsupportedError

if TYPE_CHECKING:
    from torch import Tensor

STAGE = "embed"
# A model that fails on so many images in a row fails for a reason of its own.
_GIVE_UP_AFTER = 10


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
        images_per_second: Read, encoded and kept; None if none was.
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


def teacher_of(model: Segmenter, precision: str) -> Teacher:
    """What a store remembers of a model.

    Raises:
        UnsupportedError: Its embeddings cannot be kept, or have no fixed shape.
    """
    info = model.info
    if not isinstance(model, StorableEmbedding):
        raise UnsupportedError(
            f"{info.name} has no embeddings that can be kept; mobilesam and sam-vit-* have"
        )
    if info.input_size_px < 1:
        raise UnsupportedError(f"{info.name} takes images as they are: its embeddings differ")
    return Teacher(
        name=info.name,
        weights_sha256=info.weights.sha256,
        precision=precision,
        input_size_px=info.input_size_px,
    )


def embed(
    model: Segmenter,
    teacher: Teacher,
    source: ImageSource,
    options: StoreOptions,
    reporter: Reporter,
) -> EmbedReport:
    """Makes the embeddings that a store has not yet.

    The model must resize an image's longest side to its input size and pad to the right and
    below, as SAM's do.

    Args:
        model: The teacher.
        teacher: From `teacher_of`.
        source: Images.
        options: Where to and how.
        reporter: Told about progress.

    Raises:
        UsageError: The store was made by another teacher.
        WeightsError: With other weights.
        DataError: It cannot be written or is damaged, or there is no image.
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
        work = _Work(model, source, writer, options.folder, reporter)
        work.run()
    seconds = time.monotonic() - start
    shards = [path.stat().st_size for path in options.folder.glob(f"shard-*{SUFFIX}")]
    checked = verify(options.folder) if options.verify and shards else None
    return EmbedReport(
        store=str(options.folder),
        source=source.name,
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
        verification=checked,
    )


class _Work:
    """One pass over the images."""

    def __init__(
        self,
        model: Segmenter,
        source: ImageSource,
        writer: StoreWriter,
        folder: Path,
        reporter: Reporter,
    ) -> None:
        self._model = model
        self._source = source
        self._writer = writer
        self._folder = folder
        self._reporter = reporter
        self._busy_s = 0.0
        self._failed_in_a_row = 0
        self.n_encoded = 0
        self.n_known = 0
        self.failures: list[Failure] = []

    @property
    def rate(self) -> float | None:
        """Images a second, over those that were encoded, from reading to keeping."""
        return self.n_encoded / self._busy_s if self.n_encoded and self._busy_s else None

    def run(self) -> None:
        total, seen = self._source.n_images, 0
        with self._reporter.bar(f"{self._model.info.name} sees {self._source.name}", total) as bar:
            before = time.perf_counter()
            for seen, item in enumerate(self._source.images(), start=1):
                encoded = self._take(item)
                now = time.perf_counter()
                if encoded:
                    self._busy_s += now - before
                    self._warn_of_space(None if total is None else total - seen)
                before = time.perf_counter()
                bar.step(self._note(None if total is None else total - seen))
        if seen == 0:
            raise DataError(f"{self._source.name} holds no image")

    def _take(self, item: NamedImage | BadSample) -> bool:
        """Sees to one image; tells whether it was encoded."""
        if isinstance(item, BadSample):
            self._fail("data", item.name, item.why)
            return False
        key = image_key(item.image)
        if key in self._writer:
            self.n_known += 1
            return False
        try:
            entry, embedding = self._encode(item, key)
        except ADAPTER_ERRORS as error:
            self._fail(STAGE, item.name, explain(error))
            self._failed_in_a_row += 1
            if self._failed_in_a_row == _GIVE_UP_AFTER:
                raise DataError(
                    f"{self._model.info.name} failed on {_GIVE_UP_AFTER} images in a row, the last "
                    f"time with: {explain(error)}"
                ) from error
            return False
        self._failed_in_a_row = 0
        # Outside of the above: a store that cannot be written ends the run.
        self._writer.add(entry, embedding)
        self.n_encoded += 1
        return True

    def _encode(self, item: NamedImage, key: str) -> tuple[Entry, Tensor]:
        import torch

        model = self._model
        assert isinstance(model, StorableEmbedding)  # noqa: S101 - by teacher_of
        made = model.embedding_arrays(model.encode(model.prepare(item.image)))
        if len(made) != 1:
            raise DataError(f"{item.name}: one array an embedding can be kept, not {sorted(made)}")
        (features,) = made.values()
        size_hw = (int(item.image.shape[0]), int(item.image.shape[1]))
        inner_hw = inner_size(size_hw, model.info.input_size_px)
        embedding = to_storable(torch.from_numpy(features), item.name)
        return Entry(key, item.name, size_hw, inner_hw), embedding

    def _fail(self, stage: str, name: str, why: str) -> None:
        self.failures.append(Failure(stage=stage, culprit=name, why=why))
        self._reporter.warn(f"skipped {name}: {why}")

    def _note(self, n_left: int | None) -> str:
        if self.rate is None:
            return f"{self.n_known} known" if self.n_known else ""
        left = "" if n_left is None else f", {timedelta(seconds=round(n_left / self.rate))} left"
        return f"{self.rate:.2f} images/s{left}"

    def _warn_of_space(self, n_left: int | None) -> None:
        """After the first embedding, whose size is that of all."""
        each_bytes = self._writer.embedding_bytes
        if self.n_encoded != 1 or n_left is None or each_bytes is None:
            return
        needed_bytes, free_bytes = n_left * each_bytes, shutil.disk_usage(self._folder).free
        self._reporter.say(
            f"{each_bytes / 1e6:.2f} MB an embedding; {n_left} more images need at most "
            f"{needed_bytes / 1e9:.2f} GB, and {free_bytes / 1e9:.1f} GB are free"
        )
        if needed_bytes > free_bytes:
            self._reporter.warn("the disk will be full before the end; what is done is kept")
