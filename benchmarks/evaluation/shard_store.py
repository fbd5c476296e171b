"""Finished chunks on disk: one Parquet file each, written whole, under a key of all its inputs."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field, ValidationError

from benchmarks.datasets.dataset import Shard
from benchmarks.evaluation.run_model import Attempts
from benchmarks.records.instances import InstanceRow, instances_file
from benchmarks.records.record import AccuracyTimeRow, Failure, MiouRow, Status, write_atomic
from mobilesam.frozen_model import FrozenModel

TIMES_FOLDER = "chunk-times"
_METADATA_KEY = b"mobilesam-bench.chunk"
_SUFFIX = ".parquet"


class Unable(FrozenModel):
    """Why a chunk has no rows of a model."""

    status: Status
    why: str


class ChunkInfo(FrozenModel):
    """What a chunk says of itself, in the metadata of its file; the same whenever it is made.

    Attributes:
        key: SHA-256 of all that decides its rows.
        n_images: Images that were tried.
        blank: Rows of models, protocols and references without an instance, with the reason.
        unable: Models that segment no whole images, or failed to, with the reason.
        failures: Images that could not be read, and models that could not be built.
        attempts: Counts of the images that each model answered and failed on, by model.
        manifests: SHA-256 of its prompts, by prompt rule.
        no_prompt: Instances without a prompt, by prompt rule.
        left_out: Annotations that are not used, by reason.
        problems: One line for each malformed annotation.
    """

    key: str
    n_images: int
    blank: tuple[MiouRow, ...] = ()
    unable: dict[str, Unable] = Field(default_factory=dict)
    failures: tuple[Failure, ...] = ()
    attempts: dict[str, Attempts] = Field(default_factory=dict)
    manifests: dict[str, str] = Field(default_factory=dict)
    no_prompt: dict[str, int] = Field(default_factory=dict)
    left_out: dict[str, int] = Field(default_factory=dict)
    problems: tuple[str, ...] = ()

    @property
    def n_failures(self) -> int:
        """Number of failures of images and models."""
        return len(self.failures) + sum(each.n_failed for each in self.attempts.values())

    @property
    def metadata(self) -> dict[bytes, bytes]:
        """What its file says of it."""
        return {_METADATA_KEY: self.model_dump_json().encode()}


class ChunkTimes(FrozenModel):
    """Where the time of a chunk went; kept apart, since it is never the same again.

    Attributes:
        key: That of the chunk.
        times: One a model.
        machine: Where they were taken, as by `environment.machine`.
    """

    key: str
    times: tuple[AccuracyTimeRow, ...]
    machine: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Chunk:
    """A finished chunk on its way to the disk.

    Attributes:
        name: That of its part.
        info: What it says of itself.
        table: Its file.
        n_rows: Of the file.
        times: One a model, where the time is kept apart.
        machine: Where they were taken, as by `environment.machine`.
    """

    name: str
    info: ChunkInfo
    table: bytes
    n_rows: int
    times: tuple[AccuracyTimeRow, ...] = ()
    machine: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        name: str,
        info: ChunkInfo,
        rows: tuple[InstanceRow, ...],
        times: tuple[AccuracyTimeRow, ...],
        machine: tuple[str, ...],
    ) -> Chunk:
        """Turns the rows of instances into the bytes of a file."""
        return cls(name, info, instances_file(rows, info.metadata), len(rows), times, machine)

    @property
    def n_images(self) -> int:
        """Images that were tried."""
        return self.info.n_images

    @property
    def n_failures(self) -> int:
        """Images and models that failed."""
        return self.info.n_failures


def chunk_key(run: str, part: Shard) -> str:
    """SHA-256 of all that decides the rows of a part.

    Args:
        run: `content_key` of code, configuration, weights and libraries.
        part: The part; its fingerprint covers references and prompts, its state the image files.
    """
    inputs = f"{run} {part.fingerprint} {part.images_state} {len(part.readers)}"
    return hashlib.sha256(inputs.encode()).hexdigest()


class ChunkStore:
    """The chunks of a run.

    Args:
        folder: Of their Parquet files; nothing else is in it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._times = folder.parent / TIMES_FOLDER / folder.stem

    def info(self, name: str) -> ChunkInfo | None:
        """What a finished chunk says of itself; None if it is not here or damaged."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        path = self._path(name)
        if not path.is_file():
            return None
        try:
            metadata = pq.read_metadata(path).metadata or {}
            return ChunkInfo.model_validate_json(metadata[_METADATA_KEY])
        except (OSError, pa.ArrowException, KeyError, ValidationError):
            return None

    def has(self, name: str) -> bool:
        """Some file of this name is here, whatever its key."""
        return self._path(name).is_file()

    def write(self, chunk: Chunk) -> None:
        """Keeps a chunk, whole or not at all.

        Raises:
            DataError: It cannot be written.
        """
        if chunk.times:
            times = ChunkTimes(key=chunk.info.key, times=chunk.times, machine=chunk.machine)
            # The table comes last: with it the chunk is finished.
            write_atomic(
                self._times / f"{chunk.name}.json", times.model_dump_json().encode(), durable=False
            )
        write_atomic(self._path(chunk.name), chunk.table)

    def times(self, name: str, key: str) -> ChunkTimes | None:
        """Where the time of a chunk went; None where that is not known."""
        try:
            found = ChunkTimes.model_validate_json((self._times / f"{name}.json").read_bytes())
        except (OSError, ValidationError):
            return None
        return found if found.key == key else None

    def finished(self, keys: Mapping[str, str]) -> tuple[str, ...]:
        """Names of the stored chunks whose keys equal those given by name, in order."""
        infos = ((name, self.info(name)) for name in sorted(keys))
        return tuple(name for name, info in infos if info is not None and info.key == keys[name])

    def names(self) -> Iterator[str]:
        """All chunks here, in the order of their parts."""
        if self.folder.is_dir():
            for path in sorted(self.folder.iterdir()):
                if path.suffix == _SUFFIX and not path.name.startswith("."):
                    yield path.stem

    def files(self, names: Iterable[str]) -> list[Path]:
        """Files of the named chunks, in the same order."""
        return [self._path(name) for name in names]

    def remove(self, name: str) -> None:
        """Drops a chunk that belongs to no part any more."""
        self._path(name).unlink(missing_ok=True)
        (self._times / f"{name}.json").unlink(missing_ok=True)

    def sweep(self) -> None:
        """Drops what writers that were killed have left."""
        for folder in (self.folder, self._times):
            for path in folder.glob(".*") if folder.is_dir() else ():
                path.unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}{_SUFFIX}"
