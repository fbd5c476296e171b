"""Teacher embeddings on disk: a folder of safetensors shards, each written atomically.

    manifest.json              teacher, shape and dtype of the embeddings
    shard-000000.safetensors   float16 embeddings by image key; the header lists the images
    .lock                      held by the process that writes

A process that is killed at any moment leaves complete shards only; the images of its unfinished
shard are embedded again by the next run. A finished shard never changes.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
import numpy.typing as npt
import torch
from filelock import FileLock, Timeout
from pydantic import ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from torch.utils.data import Dataset

from mobilesam.errors import DataError, UsageError, WeightsError, first_problem
from mobilesam.files import write_atomic
from mobilesam.frozen_model import FrozenModel

MANIFEST_NAME = "manifest.json"
_LOCK_NAME = ".lock"
_HEADER_KEY = "mobilesam-bench"
_HINT = "free space or choose another --out, and run it again: finished shards are kept"

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Pixels = Annotated[int, Field(ge=1)]
SizeHw = tuple[Pixels, Pixels]


class Teacher(FrozenModel):
    """Everything besides the image that determines an embedding; a store has one teacher.

    The device is not included: it changes only digits that float16 does not hold.
    """

    name: str  # registry name of the model
    weights_sha256: Sha256 | None  # None for a model without weights
    precision: str  # `fp32`, `fp16` or `bf16`, of the encoder
    input_size_px: Pixels  # the longest side of an image before padding


class StoreManifest(FrozenModel):
    """Teacher and shape of the embeddings of a store."""

    format: Literal["mobilesam-bench embeddings"] = "mobilesam-bench embeddings"
    version: Literal[1] = 1
    teacher: Teacher
    embedding_shape: tuple[Pixels, Pixels, Pixels]  # channels, rows, columns
    dtype: Literal["float16"] = "float16"
    note: str | None = None  # free text of the user


@dataclass(frozen=True, slots=True)
class Entry:
    """One image of a store; padding fills the teacher's input to the right of it and below."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    key: Sha256  # `image_key` of its pixels
    name: str  # in its dataset or folder
    size_hw: SizeHw
    inner_hw: SizeHw  # after resizing


@dataclass(frozen=True, slots=True)
class StoredEmbedding:
    """Embedding of one image."""

    entry: Entry
    features: Tensor  # a (C, h, w) float16 copy on the CPU
    valid_hw: tuple[int, int]  # rows and columns that cover any of the image, and not padding


@dataclass(frozen=True, slots=True)
class Verification:
    """What a store holds in intact shards, and its problems."""

    n_embeddings: int
    n_shards: int
    n_bytes: int
    problems: tuple[str, ...]  # one for each damaged or missing shard and each duplicate image


class _ShardHeader(FrozenModel):
    teacher: Teacher
    entries: tuple[Entry, ...]
    data_sha256: Sha256


def image_key(image: npt.NDArray[np.uint8]) -> str:
    """SHA-256 (hex) of the size and pixels of an (H, W, 3) uint8 RGB image.

    Pixels are hashed rather than file bytes, because an embedding depends on pixels and some
    datasets have no image files (tar archives, rendered scenes).
    """
    digest = hashlib.sha256(f"rgb8 {image.shape[0]}x{image.shape[1]}:".encode())
    digest.update(np.ascontiguousarray(image).data)
    return digest.hexdigest()


def valid_cells(
    inner_hw: tuple[int, int], input_size_px: int, grid_hw: tuple[int, int]
) -> tuple[int, int]:
    """Rows and columns of an embedding's grid that cover any of an image of `inner_hw` pixels."""
    rows, columns = (
        -(-inner * cells // input_size_px) for inner, cells in zip(inner_hw, grid_hw, strict=True)
    )
    return rows, columns


def to_storable(features: Tensor, name: str) -> Tensor:
    """Converts a (1, C, h, w) or (C, h, w) embedding to (C, h, w) float16 on the CPU.

    A DataError names an image whose embedding has another shape, or is not finite in float16.
    """
    plain = features[0] if features.ndim == 4 and len(features) == 1 else features
    if plain.ndim != 3:
        raise DataError(f"{name}: an embedding must be (C, h, w); got {tuple(features.shape)}")
    half = plain.detach().to("cpu", torch.float16).contiguous()
    if not bool(torch.isfinite(half).all()):
        raise DataError(f"{name}: its embedding holds NaN, infinity or values beyond float16")
    return half


def _require_teacher(found: Teacher, wanted: Teacher, folder: Path) -> None:
    hint = "choose another store, or the teacher that made this one"
    labels = {"name": "the teacher", "input_size_px": "input size (px)", "precision": "precision"}
    for field, what in labels.items():
        theirs, ours = getattr(found, field), getattr(wanted, field)
        if theirs != ours:
            raise UsageError(f"{folder} was made with {what} {theirs}, not {ours}; {hint}")
    if found.weights_sha256 != wanted.weights_sha256:
        raise WeightsError(
            f"{folder} was made by {found.name} with weights {found.weights_sha256 or 'none'}, "
            f"not {wanted.weights_sha256 or 'none'}; {hint}"
        )


def _read_manifest(folder: Path) -> StoreManifest:
    path = folder / MANIFEST_NAME
    if not path.exists():
        raise DataError(f"{folder} holds no embedding store; make one with distill embed")
    again = "; embed the images again into another folder"
    return StoreManifest.from_file(path, "manifest of an embedding store", again)


def pack_shard(teacher: Teacher, embeddings: Sequence[tuple[Entry, Tensor]]) -> bytes:
    """Serialises a shard; equal embeddings in equal order give equal bytes."""
    header = _ShardHeader(
        teacher=teacher,
        entries=tuple(entry for entry, _ in embeddings),
        data_sha256=_data_sha256([tensor for _, tensor in embeddings]),
    )
    # One metadata field, because the library writes several in no fixed order.
    metadata = {_HEADER_KEY: header.model_dump_json()}
    return save({entry.key: tensor for entry, tensor in embeddings}, metadata)


def read_shard(path: Path) -> list[tuple[Entry, Tensor]]:
    """Reads a shard; a DataError says that it is missing, truncated, changed or no shard."""
    file, header = _open_shard(path)
    embeddings = [(entry, file.get_tensor(entry.key)) for entry in header.entries]
    if _data_sha256([tensor for _, tensor in embeddings]) != header.data_sha256:
        raise DataError(f"{path} is damaged: the hash of its data differs from its header's")
    return embeddings


def _open_shard(path: Path) -> tuple[Any, _ShardHeader]:
    """Maps a shard into memory and reads its header, which includes a check of the file size."""
    try:
        file: Any = safe_open(path, framework="pt")
        header = _ShardHeader.model_validate_json((file.metadata() or {}).get(_HEADER_KEY, ""))
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing") from error
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    except SafetensorError as error:
        raise DataError(f"{path} is damaged or cut short: {error}") from error
    except ValidationError as error:
        raise DataError(
            f"{path} is not a shard of an embedding store: {first_problem(error)}"
        ) from error
    if sorted(file.keys()) != sorted(entry.key for entry in header.entries):
        raise DataError(f"{path} is damaged: its header lists other embeddings than it holds")
    return file, header


def _data_sha256(tensors: Sequence[Tensor]) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.numpy().data)
    return digest.hexdigest()


def _shard_path(folder: Path, number: int) -> Path:
    return folder / f"shard-{number:06d}.safetensors"


def _scan(
    folder: Path, manifest: StoreManifest, *, read_data: bool
) -> tuple[dict[Path, _ShardHeader], dict[Path, str]]:
    """Headers of the intact shards, and problems of the others; `read_data` checks hashes too."""
    headers, problems = {}, {}
    numbers = [int(path.stem.removeprefix("shard-")) for path in folder.glob("shard-[0-9]*")]
    # Shards are numbered without gaps, so that a deleted one is noticed.
    for path in (_shard_path(folder, number) for number in range(max(numbers, default=-1) + 1)):
        try:
            file, header = _open_shard(path)
            parts = [file.get_slice(entry.key) for entry in header.entries]
            kinds = {(tuple(part.get_shape()), part.get_dtype()) for part in parts}
            if header.teacher != manifest.teacher or kinds != {(manifest.embedding_shape, "F16")}:
                raise DataError(f"{path} belongs to another store")
            if read_data:
                read_shard(path)
        except DataError as error:
            problems[path] = str(error)
        else:
            headers[path] = header
    return headers, problems


def _scan_intact(folder: Path, manifest: StoreManifest) -> dict[Path, _ShardHeader]:
    headers, problems = _scan(folder, manifest, read_data=False)
    if problems:
        first, *others = problems.values()
        more = f" (and {len(others)} more)" if others else ""
        raise DataError(
            f"{first}{more}; restore it from a copy, or embed its images again with "
            "distill embed --repair"
        )
    return headers


def verify(folder: Path) -> Verification:
    """Reads every shard of a store and compares it with its hash."""
    headers, problems = _scan(folder, _read_manifest(folder), read_data=True)
    first: dict[str, Path] = {}
    duplicates = [
        f"{entry.name} is both in {first[entry.key].name} and in {path.name}"
        for path, header in headers.items()
        for entry in header.entries
        if first.setdefault(entry.key, path) != path
    ]
    return Verification(
        n_embeddings=sum(len(header.entries) for header in headers.values()),
        n_shards=len(headers),
        n_bytes=sum(path.stat().st_size for path in headers),
        problems=(*problems.values(), *duplicates),
    )


class EmbeddingStore(Dataset[StoredEmbedding]):
    """A store for reading, by index in the order of writing (`entries`) or by image key.

    Shards are memory-mapped: opening a store reads headers only, and each access reads one
    embedding. It can be shared by threads, and pickled for the worker processes of a `DataLoader`.
    A missing or damaged shard is a DataError, a store of another than the given teacher a
    UsageError, or a WeightsError if only the weights differ.
    """

    def __init__(self, folder: Path, teacher: Teacher | None = None) -> None:
        self.manifest = _read_manifest(folder)
        if teacher is not None:
            _require_teacher(self.manifest.teacher, teacher, folder)
        headers = _scan_intact(folder, self.manifest)
        located = [(entry, path) for path, header in headers.items() for entry in header.entries]
        self.entries = tuple(entry for entry, _ in located)
        self._paths = [path for _, path in located]
        self._indices = {entry.key: index for index, entry in enumerate(self.entries)}

    def __len__(self) -> int:
        return len(self.entries)

    def __contains__(self, key: object) -> bool:
        return key in self._indices

    def __getitem__(self, index: int) -> StoredEmbedding:
        entry = self.entries[index]
        with safe_open(self._paths[index], framework="pt") as file:
            # Cloned, because a view would keep the whole shard mapped.
            features: Tensor = file.get_tensor(entry.key).clone()
        grid_hw = self.manifest.embedding_shape[1:]
        side_px = self.manifest.teacher.input_size_px
        return StoredEmbedding(entry, features, valid_cells(entry.inner_hw, side_px, grid_hw))

    def get(self, key: str) -> StoredEmbedding:
        """Embedding of the image with this `image_key`; a DataError says that there is none."""
        if key not in self._indices:
            raise DataError(
                f"no embedding of the image {key}; make it with distill embed over the same images"
            )
        return self[self._indices[key]]


class StoreWriter:
    """Adds embeddings to a store, as a context manager; only one process may write a store.

    Embeddings are collected in memory and written as shards of at most `shard_bytes`, but at least
    one embedding. Leaving the context writes the last, possibly smaller, shard; after an exception
    too. `note` is a text for the manifest of a new store. `repair` reads all shards completely and
    deletes damaged ones, so that their images are embedded again; `dropped` has a line for each.
    Errors are those of `EmbeddingStore`; also, a DataError if the store cannot be written or is
    being written by another process, and a UsageError for another note.
    """

    def __init__(
        self,
        folder: Path,
        teacher: Teacher,
        *,
        shard_bytes: int,
        note: str | None = None,
        repair: bool = False,
    ) -> None:
        self._folder, self._teacher, self._shard_bytes = folder, teacher, shard_bytes
        self._note, self._repair = note, repair
        self._lock = FileLock(folder / _LOCK_NAME)
        self._manifest: StoreManifest | None = None
        self._keys: set[str] = set()
        self._number = 0  # of the next shard
        self._buffer: list[tuple[Entry, Tensor]] = []
        self.dropped: tuple[str, ...] = ()

    def __enter__(self) -> Self:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=0)
        except Timeout as error:
            raise DataError(
                f"another process is writing {self._folder}; wait until it has ended"
            ) from error
        except OSError as error:
            raise DataError(
                f"cannot write {self._folder}: {error.strerror or error}; {_HINT}"
            ) from error
        try:
            self._open()
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            self._write_shard()
        except DataError:
            if kind is None:  # otherwise the exception that ended the block is raised
                raise
        finally:
            self._lock.release()

    def _open(self) -> None:
        for pattern in (".shard-*", f".{MANIFEST_NAME}.*"):  # temporary files of a killed process
            for path in self._folder.glob(pattern):
                path.unlink(missing_ok=True)
        if not (self._folder / MANIFEST_NAME).exists():
            return
        self._manifest = _read_manifest(self._folder)
        _require_teacher(self._manifest.teacher, self._teacher, self._folder)
        if self._note is not None and self._note != self._manifest.note:
            raise UsageError(
                f"{self._folder} was made with the note {self._manifest.note!r}, which cannot "
                "change; omit --note"
            )
        if self._repair:
            headers, problems = _scan(self._folder, self._manifest, read_data=True)
            for path in problems:
                path.unlink(missing_ok=True)
            for number, path in enumerate(headers):  # closes the gaps
                path.replace(_shard_path(self._folder, number))
            self.dropped = tuple(problems.values())
        else:
            headers = _scan_intact(self._folder, self._manifest)
        self._keys = {entry.key for header in headers.values() for entry in header.entries}

    def __len__(self) -> int:
        return len(self._keys)

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __contains__(self, key: object) -> bool:
        return key in self._keys

    @property
    def embedding_bytes(self) -> int | None:
        """Bytes of one embedding; None for a store that is still empty."""
        return None if self._manifest is None else 2 * math.prod(self._manifest.embedding_shape)

    def add(self, entry: Entry, embedding: Tensor) -> None:
        """Adds the embedding of a new image: (C, h, w) float16 from `to_storable`."""
        if entry.key in self._keys:
            raise ValueError(f"{entry.name} is in the store already")
        shape = tuple(embedding.shape)
        if self._manifest is None:
            channels, rows, columns = shape
            self._manifest = StoreManifest(
                teacher=self._teacher, embedding_shape=(channels, rows, columns), note=self._note
            )
            text = self._manifest.model_dump_json(indent=1) + "\n"
            write_atomic(self._folder / MANIFEST_NAME, text.encode(), _HINT)
        elif shape != self._manifest.embedding_shape:
            raise DataError(
                f"{self._folder} holds embeddings of shape {self._manifest.embedding_shape}; "
                f"{self._teacher.name} gave {shape}"
            )
        self._keys.add(entry.key)
        self._buffer.append((entry, embedding))
        if (len(self._buffer) + 1) * embedding.nbytes > self._shard_bytes:
            self._write_shard()

    def _write_shard(self) -> None:
        if self._buffer:
            embeddings, self._buffer = self._buffer, []
            while (path := _shard_path(self._folder, self._number)).exists():
                self._number += 1
            write_atomic(path, pack_shard(self._teacher, embeddings), _HINT)
