"""Fills an embedding store, so that a process killed at any moment has lost no finished embedding.

Each embedding goes to a file of its own at once. As soon as there are enough of them for a shard,
they are written as one, the shard is listed, and only then their files are deleted. What is found
after a kill tells how far that had come.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mobilesam.distillation.store_check import check_shard, damaged_store, unlisted
from mobilesam.distillation.store_format import (
    INDEX_NAME,
    LOCK_NAME,
    MANIFEST_NAME,
    PENDING_NAME,
    SUFFIX,
    Entry,
    ShardLine,
    StoreManifest,
    Teacher,
    damage,
    index_bytes,
    open_shard,
    pack,
    read_index,
    read_manifest,
    require_teacher,
    unpack,
)
from mobilesam.errors import DataError, UsageError
from mobilesam.files import sync_folder, write_atomic

if TYPE_CHECKING:
    from torch import Tensor

_CURE = "make room or choose another --out, and run it again: what is finished is kept"


def to_storable(features: Tensor, name: str) -> Tensor:
    """Brings an embedding to what a store holds.

    Args:
        features: (1, C, h, w) or (C, h, w), any floating type and device.
        name: Of its image, for the error.

    Returns:
        (C, h, w) float16 on the host.

    Raises:
        DataError: It has another shape, or holds NaN, infinity or what float16 cannot hold.
    """
    import torch

    plain = features[0] if features.ndim == 4 and len(features) == 1 else features
    if plain.ndim != 3:
        raise DataError(f"{name}: an embedding must be (C, h, w); got {tuple(features.shape)}")
    half = plain.detach().to("cpu", torch.float16).contiguous()
    if not bool(torch.isfinite(half).all()):
        raise DataError(f"{name}: its embedding holds NaN, infinity or values beyond float16")
    return half


@contextlib.contextmanager
def writing(
    folder: Path,
    teacher: Teacher,
    *,
    shard_bytes: int,
    note: str | None = None,
    repair: bool = False,
) -> Iterator[StoreWriter]:
    """Opens a store for the one process that may write it; makes it where there is none.

    Left in order, or by Ctrl-C, all embeddings end in shards. Left by another error, those that do
    not fill one wait outside for the next time.

    Args:
        folder: Of the store.
        teacher: Who makes the embeddings.
        shard_bytes: A shard is begun anew before its data exceed this; it holds one at least.
        note: Kept in the manifest of a new store.
        repair: Read all shards in full, and drop those that are damaged or missing, so that their
            images are wanted again.

    Raises:
        UsageError: The store was made by another teacher, or with another note.
        WeightsError: With other weights.
        DataError: It is damaged, cannot be written, or another process is writing it.
    """
    with _locked(folder):
        writer = StoreWriter(folder, teacher, shard_bytes, note, repair=repair)
        try:
            yield writer
        except KeyboardInterrupt:
            writer.seal()
            raise
        writer.seal()


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    from filelock import FileLock, Timeout

    lock = FileLock(folder / LOCK_NAME)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout as error:
        raise DataError(f"another process is writing {folder}; wait until it has ended") from error
    except OSError as error:
        raise DataError(f"cannot write {folder}: {error.strerror or error}; {_CURE}") from error
    try:
        yield
    finally:
        lock.release()


class StoreWriter:
    """An open store; made by `writing`.

    Attributes:
        dropped: What `repair` found damaged and dropped, one line each.
    """

    def __init__(
        self, folder: Path, teacher: Teacher, shard_bytes: int, note: str | None, *, repair: bool
    ) -> None:
        self._folder = folder
        self._teacher = teacher
        self._shard_bytes = shard_bytes
        self._note = note
        self._manifest = read_manifest(folder)
        if self._manifest is not None:
            require_teacher(self._manifest.teacher, teacher, folder)
            if note is not None and note != self._manifest.note:
                raise UsageError(
                    f"{folder} was made with the note {self._manifest.note!r}, which stays; "
                    "leave --note out"
                )
        self._remove_leftovers()
        self._lines = read_index(folder)
        self.dropped = self._check(repair)
        self._adopt(repair)
        shards = (open_shard(folder / line.file) for line in self._lines)
        self._keys = {entry.key for shard in shards for entry in shard.header.entries}
        self._pending = list(self._load_pending())

    def __len__(self) -> int:
        return len(self._keys)

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __contains__(self, key: object) -> bool:
        return key in self._keys

    @property
    def embedding_bytes(self) -> int | None:
        """Bytes of one embedding; None as long as there is none."""
        return None if self._manifest is None else self._manifest.embedding_bytes

    def add(self, entry: Entry, embedding: Tensor) -> None:
        """Keeps one embedding, which outlasts this process from now on.

        Args:
            entry: Of an image that is not in the store.
            embedding: (C, h, w) float16, from `to_storable`.

        Raises:
            DataError: Its shape differs from the others', or it cannot be written.
            ValueError: Its image is in the store.
        """
        if entry.key in self._keys:
            raise ValueError(f"{entry.name} is in the store already")
        self._require_shape(tuple(embedding.shape))
        number = int(self._pending[-1].stem) + 1 if self._pending else 0
        path = self._folder / PENDING_NAME / f"{number:08d}{SUFFIX}"
        # Not forced to the disk: a loss of power costs these few, and their hash tells.
        write_atomic(path, pack(self._teacher, [(entry, embedding)]), _CURE, durable=False)
        self._keys.add(entry.key)
        self._pending.append(path)
        if len(self._pending) >= self._per_shard:
            self._write_shard()

    def seal(self) -> None:
        """Writes what waits as shards, the last of which may be short."""
        while self._pending:
            self._write_shard()

    @property
    def _per_shard(self) -> int:
        return max(1, self._shard_bytes // (self.embedding_bytes or self._shard_bytes))

    def _require_shape(self, shape: tuple[int, ...]) -> None:
        if self._manifest is None:
            channels, rows, columns = shape
            self._manifest = StoreManifest(
                teacher=self._teacher, embedding_shape=(channels, rows, columns), note=self._note
            )
            text = self._manifest.model_dump_json(indent=1) + "\n"
            write_atomic(self._folder / MANIFEST_NAME, text.encode(), _CURE)
        elif shape != self._manifest.embedding_shape:
            raise DataError(
                f"{self._folder} holds embeddings of shape {self._manifest.embedding_shape}; "
                f"{self._teacher.name} gave {shape}"
            )

    def _write_shard(self) -> None:
        batch = self._pending[: self._per_shard]
        data = pack(self._teacher, [each for path in batch for each in unpack(path)])
        names = [line.file for line in self._lines]
        number = max((int(name[6 : -len(SUFFIX)]) for name in names), default=-1) + 1
        path = self._folder / f"shard-{number:06d}{SUFFIX}"
        write_atomic(path, data, _CURE)
        self._list(path, data, len(batch))
        for each in batch:
            each.unlink()
        del self._pending[: len(batch)]

    def _list(self, path: Path, data: bytes, n_embeddings: int) -> None:
        line = ShardLine(
            file=path.name,
            n_embeddings=n_embeddings,
            n_bytes=len(data),
            sha256=hashlib.sha256(data).hexdigest(),
        )
        index = self._folder / INDEX_NAME
        try:
            # The shard's name must be on the disk before a line that promises it.
            sync_folder(self._folder)
            with index.open("ab") as file:
                file.write(index_bytes([line]))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise DataError(f"cannot write {index}: {error.strerror}; {_CURE}") from error
        self._lines.append(line)

    def _remove_leftovers(self) -> None:
        """Deletes what a kill has left half written, under temporary names."""
        for pattern in (".shard-*", f".{MANIFEST_NAME}.*", f".{INDEX_NAME}.*"):
            _delete(self._folder.glob(pattern))
        _delete((self._folder / PENDING_NAME).glob(f".*{SUFFIX}.*"))

    def _check(self, repair: bool) -> tuple[str, ...]:
        """Looks at all listed shards; drops damaged ones if told to, and mends the list."""
        found: dict[str, str] = {}
        for line in self._lines:
            if repair and self._manifest is not None:
                problem = check_shard(self._folder, line, self._manifest)
            else:
                problem = damage(self._folder, line)
            if problem is not None:
                found[line.file] = problem
        if found and not repair:
            raise DataError(damaged_store(list(found.values())))
        self._lines = [line for line in self._lines if line.file not in found]
        index = self._folder / INDEX_NAME
        if index.exists() and index.read_bytes() != index_bytes(self._lines):
            write_atomic(index, index_bytes(self._lines), _CURE)
        # After the list: a shard that is gone and still listed would look like a loss.
        _delete(self._folder / file for file in found)
        return tuple(found.values())

    def _adopt(self, repair: bool) -> None:
        """Lists shards that were finished when a kill came."""
        for path in unlisted(self._folder, self._lines):
            try:
                embeddings = unpack(path)
                require_teacher(open_shard(path).header.teacher, self._teacher, self._folder)
            except DataError as error:
                if not repair:
                    raise DataError(damaged_store([str(error)])) from error
                self.dropped += (str(error),)
                _delete([path])
                continue
            self._require_shape(tuple(embeddings[0][1].shape))
            self._list(path, path.read_bytes(), len(embeddings))

    def _load_pending(self) -> Iterator[Path]:
        """Finds embeddings that wait for their shard; deletes what a shard holds or is broken."""
        for path in sorted((self._folder / PENDING_NAME).glob(f"[0-9]*{SUFFIX}")):
            try:
                ((entry, embedding),) = unpack(path)
                require_teacher(open_shard(path).header.teacher, self._teacher, self._folder)
            except DataError:  # the machine lost its power before this was on the disk
                path.unlink()
                continue
            if entry.key in self._keys:
                path.unlink()
                continue
            self._require_shape(tuple(embedding.shape))
            self._keys.add(entry.key)
            yield path


def _delete(paths: Iterator[Path] | Sequence[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)
