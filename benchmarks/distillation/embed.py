"""Embeds images with a teacher's encoder, shard by shard, and stores the embeddings.

Workers in this process or on a Ray cluster read and encode the images; their results come to one
process, which writes the store.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from baselines import boundary
from baselines.interface import Segmenter, StorableEmbedding, UInt8Array
from baselines.registry import build
from benchmarks.config.model_resolution import ResolvedModel
from benchmarks.config.run_config import ShardingConfig
from benchmarks.datasets.dataset import ImageReader, Sample, Shard, UnreadableImage
from benchmarks.debugging import format_error
from benchmarks.evaluation.run_model import Prefetcher
from benchmarks.evaluation.run_shards import ThroughputMeter, execute_shards
from benchmarks.records.environment import code_version
from benchmarks.records.progress import Reporter
from benchmarks.records.record import Failure
from benchmarks.records.run_folder import held
from mobilesam.distillation import embedding_store
from mobilesam.distillation.embedding_store import Entry, StoreWriter, Teacher
from mobilesam.errors import BenchError, DataError, UnsupportedError, WeightsError
from mobilesam.fast.allocator import keep_buffers
from mobilesam.frozen_model import FrozenModel
from mobilesam.inputs import resized_hw
from mobilesam.weights.cache import digest_file

STAGE = "embed"
DEFAULT_CHUNK_IMAGES = 8
"""Embeddings of SAM's size take 2 MB each, and those of a shard are in memory at once."""
_GIVE_UP_AFTER = 3  # shards that fail in a row
# Images of a shard that may fail before the whole shard counts as failed.
_FAILED_SHARE = 0.05
_MIN_ALLOWED_FAILURES = 3


class EmbedReport(FrozenModel):
    """What a run did, and what the store holds now."""

    store: str
    source: str
    teacher: Teacher
    n_embeddings: int
    n_shards: int
    n_bytes: int
    bytes_per_embedding: float | None
    n_encoded: int  # by this run
    n_known: int  # stored before, or equal to an earlier image
    dropped: tuple[str, ...]  # damaged files that `repair` deleted
    failures: tuple[Failure, ...]  # images without an embedding
    seconds: float
    images_per_second: float | None  # of the shards in which images were encoded
    verification: embedding_store.Verification | None


class ShardedImages(Protocol):
    """Images in shards: every dataset, a folder of images, rendered scenes."""

    @property
    def name(self) -> str:
        """Short name for messages and records."""

    @property
    def n_images(self) -> int | None:
        """Number of images; None if it is not known in advance."""

    def shards(self, images_per_shard: int | None = None) -> Iterator[Shard]:
        """Yields shards of at most `images_per_shard` images, in order."""


def teacher_of(model: Segmenter, precision: str) -> Teacher:
    """Describes a model as the teacher of a store."""
    info = model.info
    if not isinstance(model, StorableEmbedding):
        raise UnsupportedError(
            f"{info.name} has no embeddings that can be stored; mobilesam and sam-vit-* have"
        )
    if info.input_size_px < 1:
        raise UnsupportedError(f"the embeddings of {info.name} have no fixed shape")
    return Teacher(
        name=info.name,
        weights_sha256=info.weights.sha256,
        precision=precision,
        input_size_px=info.input_size_px,
    )


def encode_image(
    model: Segmenter, name: str, image: UInt8Array, key: str
) -> tuple[Entry, torch.Tensor]:
    """Computes one embedding in the form of the store: its entry, and (C, h, w) float16.

    The model must resize the longest side of an image to its input size and pad on the right and
    below, as SAM does.
    """
    assert isinstance(model, StorableEmbedding)  # noqa: S101 - checked by teacher_of
    embedding = boundary.encode(model, image)
    made = boundary.embedding_arrays(model, model.info.name, embedding)
    if len(made) != 1:
        raise DataError(f"{name}: an embedding must be one array, not {sorted(made)}")
    (features,) = made.values()
    size_hw = (int(image.shape[0]), int(image.shape[1]))
    inner_hw = resized_hw(size_hw, model.info.input_size_px)
    storable = embedding_store.to_storable(torch.from_numpy(features), name)
    return Entry(key, name, size_hw, inner_hw), storable


@dataclass(slots=True, eq=False)
class EmbeddedShard:
    """Embeddings of one shard; it can be sent to another process."""

    name: str
    n_images: int  # including unreadable ones
    entries: list[Entry] = field(default_factory=list)  # one an embedding, in the order of images
    embeddings: list[npt.NDArray[np.float16]] = field(default_factory=list)
    """(C, h, w) arrays; Ray maps arrays into memory without a copy."""
    n_known: int = 0  # stored before, or equal to another
    failures: list[Failure] = field(default_factory=list)


@dataclass(frozen=True, slots=True, eq=False)
class EmbedTask:
    """What workers do with each shard; it can be sent to another process."""

    model: ResolvedModel
    teacher: Teacher
    threads: int  # of the model
    prefetch_threads: int  # that read and hash images while the model runs
    code: str  # `code_version` of the driver, which workers must share
    known: frozenset[str] = field(default=frozenset(), repr=False)  # keys that need no embedding
    built: Segmenter | None = field(default=None, repr=False)  # if it is in this process already

    def worker(self) -> EmbedWorker:
        """Makes a worker in the calling process."""
        return EmbedWorker(self)


def embed_task(planned: ResolvedModel, threads: int, scale: ShardingConfig) -> EmbedTask:
    """Builds the teacher, and the task for its workers."""
    on_cluster = scale.cluster is not None
    options = planned.options
    if on_cluster:  # built here for its description only: the device may exist on workers alone
        options = replace(options, device="cpu", precision="fp32")
    with boundary.naming(planned.entry.name):
        model = build(planned.entry, options)
    if model.info.weights.kind == "random":
        raise WeightsError(f"{planned.entry.name} has random weights; embed with trained ones")
    teacher = teacher_of(model, planned.options.precision)
    built = None if on_cluster else model
    return EmbedTask(planned, teacher, threads, scale.prefetch_threads, code_version(), built=built)


class EmbedWorker:
    """Embeds one shard after the other."""

    def __init__(self, task: EmbedTask) -> None:
        self._task = task
        self._model = task.built
        self._known = set(task.known)
        self._prefetcher = Prefetcher(task.prefetch_threads)
        keep_buffers()

    def run(self, shard: Shard, poison: Mapping[int, str] | None = None) -> EmbeddedShard:
        """Embeds the images of a shard; see `ShardWorker.run`."""
        model, teacher = self._teacher(), self._task.teacher.name
        shard = shard.without(poison or {})
        found = EmbeddedShard(shard.name, len(shard.readers))
        allowed = max(_MIN_ALLOWED_FAILURES, round(_FAILED_SHARE * found.n_images))
        n_failed = 0
        with closing(self._prefetcher.map(_read, shard.readers, _n_bytes)) as images:
            for image, key in images:
                if isinstance(image, UnreadableImage):
                    failure = Failure(stage="data", culprit=image.name, why=image.reason)
                    found.failures.append(failure)
                    continue
                if key in self._known or any(old.key == key for old in found.entries):
                    found.n_known += 1
                    continue
                try:
                    entry, embedding = encode_image(model, image.name, image.image, key)
                except BenchError as error:
                    n_failed += 1
                    why = f"{teacher} fails at it: {format_error(error)}"
                    found.failures.append(Failure(stage=STAGE, culprit=image.name, why=why))
                    if n_failed > allowed:
                        raise DataError(
                            f"{teacher} failed on {n_failed} of {found.n_images} images, the last "
                            f"time with: {error}"
                        ) from error
                else:
                    found.entries.append(entry)
                    found.embeddings.append(embedding.numpy())
        # Only now: a shard that fails as a whole is embedded again from its first image.
        self._known.update(entry.key for entry in found.entries)
        return found

    def _teacher(self) -> Segmenter:
        """The model, built at the first shard so that its errors count as that shard's."""
        if self._model is None:
            planned, wanted = self._task.model, self._task.teacher
            checkpoint = planned.options.checkpoint
            if (
                checkpoint is not None
                and not checkpoint.path.is_dir()
                and digest_file(checkpoint.path).sha256 != checkpoint.sha256
            ):
                raise WeightsError(
                    f"{checkpoint.path} holds other weights on this worker than on the driver; "
                    "copy the file there"
                )
            model = build(planned.entry, planned.options)
            found = teacher_of(model, wanted.precision)
            if found != wanted:
                raise WeightsError(
                    f"{wanted.name} is another model on this worker ({found}) than on the driver "
                    f"({wanted}); install the same version"
                )
            self._model = model
        return self._model

    def single_threaded(self) -> EmbedWorker:
        """A worker with the same model that reads and encodes one image after the other."""
        task = replace(self._task, prefetch_threads=0, known=frozenset(), built=self._teacher())
        found = EmbedWorker(task)
        found._known = self._known
        return found

    def close(self) -> None:
        """Ends the reading threads."""
        self._prefetcher.close()


def _read(reader: ImageReader) -> tuple[UnreadableImage | Sample, str]:
    """Reads an image, and computes its key in the store."""
    sample = reader().sample
    return sample, embedding_store.image_key(sample.image) if isinstance(sample, Sample) else ""


def _n_bytes(item: ImageReader | tuple[UnreadableImage | Sample, str]) -> int:
    if isinstance(item, tuple) and isinstance(item[0], Sample):
        return item[0].image.nbytes
    return 0


def fill_store(
    task: EmbedTask,
    source: ShardedImages,
    scale: ShardingConfig,
    folder: Path,
    reporter: Reporter,
    *,
    shard_bytes: int,  # largest size of the data of a file
    note: str | None = None,  # for the manifest of a new store
    repair: bool = False,  # delete damaged files and make their embeddings again
    read_back: bool = False,  # verify the whole store at the end
) -> EmbedReport:
    """Embeds the images that a store does not hold yet.

    Raises:
        UsageError: The store has another teacher, or the cluster cannot be used.
        WeightsError: The store was made with other weights.
        DataError: The store is damaged or cannot be written, there is no image, or several
            shards in a row failed.
    """
    start = time.monotonic()
    total, busy_s = source.n_images, 0.0
    n_shards = n_encoded = n_known = failed_in_a_row = 0
    failures: list[Failure] = []
    is_space_reported = False

    def shards() -> Iterator[Shard]:
        nonlocal n_shards
        for shard in source.shards(scale.images_per_shard):
            n_shards += 1
            meter.begin(shard)
            yield shard

    with (
        held(folder),  # names the process that holds it; the lock of the store does not
        StoreWriter(
            folder, task.teacher, shard_bytes=shard_bytes, note=note, repair=repair
        ) as writer,
        reporter.bar(f"{task.teacher.name} embeds {source.name}", total) as bar,
    ):
        for line in writer.dropped:
            reporter.warn(f"deleted, to be embedded again: {line}")
        if len(writer):
            reporter.detail(f"{folder} holds {len(writer)} embeddings already")
        meter = ThroughputMeter(bar)
        task = replace(task, known=frozenset(writer))
        before = time.perf_counter()
        with closing(execute_shards(scale, task, shards())) as results:
            for found in results:
                new_failures = [found] if isinstance(found, Failure) else found.failures
                failures += new_failures
                for failure in new_failures:
                    reporter.warn(f"skipped {failure.culprit}: {failure.why}")
                reasons = [each.why for each in new_failures if each.stage != "data"]
                if isinstance(found, EmbeddedShard):
                    n_rows = len(found.entries)
                    n_new = _store(found, writer)
                    n_encoded += n_new
                    n_known += found.n_known + n_rows - n_new
                    if n_rows or found.n_known:
                        reasons = []
                    meter.done(found.name, found.n_images, n_rows, len(new_failures))
                    if n_rows:
                        busy_s += time.perf_counter() - before
                    if total is not None and n_encoded and not is_space_reported:
                        is_space_reported = True
                        each_bytes = writer.embedding_bytes or 0
                        _report_space(folder, total - meter.n_images, each_bytes, reporter)
                failed_in_a_row = failed_in_a_row + 1 if reasons else 0
                if failed_in_a_row == _GIVE_UP_AFTER:
                    raise DataError(
                        f"{_GIVE_UP_AFTER} shards in a row failed, the last because: {reasons[-1]}"
                    )
                before = time.perf_counter()
                del found  # frees its embeddings before the next shard is made
    if n_shards == 0:
        raise DataError(f"{source.name} holds no image")
    sizes = [path.stat().st_size for path in folder.glob("shard-*.safetensors")]
    return EmbedReport(
        store=str(folder),
        source=source.name,
        teacher=task.teacher,
        n_embeddings=len(writer),
        n_shards=len(sizes),
        n_bytes=sum(sizes),
        bytes_per_embedding=sum(sizes) / len(writer) if sizes else None,
        n_encoded=n_encoded,
        n_known=n_known,
        dropped=writer.dropped,
        failures=tuple(failures),
        seconds=time.monotonic() - start,
        images_per_second=n_encoded / busy_s if n_encoded and busy_s else None,
        verification=embedding_store.verify(folder) if read_back and sizes else None,
    )


def _store(shard: EmbeddedShard, writer: StoreWriter) -> int:
    """Stores embeddings of images that equal none of an earlier shard; returns their number."""
    n_new = 0
    for entry, embedding in zip(shard.entries, shard.embeddings, strict=True):
        if entry.key not in writer:
            # Copied, because arrays from Ray are read-only.
            writer.add(entry, torch.from_numpy(embedding.copy()))
            n_new += 1
    return n_new


def _report_space(folder: Path, n_left: int, each_bytes: int, reporter: Reporter) -> None:
    """Reports the disk space that the remaining images need at most."""
    needed_bytes, free_bytes = n_left * each_bytes, shutil.disk_usage(folder).free
    reporter.say(
        f"{each_bytes / 1e6:.2f} MB an embedding; {n_left} more images need at most "
        f"{needed_bytes / 1e9:.2f} GB, and {free_bytes / 1e9:.1f} GB are free"
    )
    if needed_bytes > free_bytes:
        reporter.warn(
            "the disk will be full before all images are embedded; finished files are kept"
        )
