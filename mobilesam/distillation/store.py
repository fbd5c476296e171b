"""Embeddings of a teacher, read again from where `store_writer` has put them."""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections import OrderedDict
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils.data import Dataset

from mobilesam.distillation.store_check import damaged_store
from mobilesam.distillation.store_format import (
    Entry,
    Shard,
    StoreManifest,
    Teacher,
    damage,
    open_shard,
    read_index,
    read_manifest,
    require_teacher,
    valid_cells,
)
from mobilesam.errors import DataError

# Shards that stay mapped; one that is not costs its header's reading at the next access.
_KEPT_OPEN = 64


@dataclass(frozen=True, slots=True)
class StoredEmbedding:
    """What a teacher makes of one image.

    Attributes:
        entry: Which image.
        features: (C, h, w) float16 on the host, the caller's own.
        valid_hw: Rows and columns from the upper left that see any of the image; a loss leaves
            the rest out, since it is padding.
    """

    entry: Entry
    features: Tensor
    valid_hw: tuple[int, int]


class EmbeddingStore(Dataset[StoredEmbedding]):
    """A finished store, for reading: by index in the order of writing, or by an image's key.

    Shards are mapped into memory, so that opening a store reads its headers alone, and an access
    reads one embedding. Several threads may read from it. It can be pickled and used in the worker
    processes of a `DataLoader`. Its entries are held in memory: some 0.5 KB an image.

    Args:
        folder: Of the store.
        teacher: Whose embeddings are wanted; None takes any.

    Attributes:
        manifest: Whose embeddings these are, and of what shape.
        entries: All images in the order of their indices.

    Raises:
        DataError: There is no store, a shard is missing or cut short, or a header is damaged.
        UsageError: It was made by another teacher.
        WeightsError: With other weights.
    """

    def __init__(self, folder: Path, teacher: Teacher | None = None) -> None:
        manifest = read_manifest(folder)
        if manifest is None:
            raise DataError(f"{folder} holds no embedding store; make one with distill embed")
        if teacher is not None:
            require_teacher(manifest.teacher, teacher, folder)
        lines = read_index(folder)
        problems = [found for line in lines if (found := damage(folder, line)) is not None]
        if problems:
            raise DataError(damaged_store(problems))
        self.manifest: StoreManifest = manifest
        self._paths = [folder / line.file for line in lines]
        headers = [open_shard(path).header for path in self._paths]
        self._ends = list(accumulate(len(header.entries) for header in headers))
        self.entries = tuple(entry for header in headers for entry in header.entries)
        self._indices = {entry.key: index for index, entry in enumerate(self.entries)}
        self._open: OrderedDict[int, Shard] = OrderedDict()
        self._turn = threading.Lock()  # held while shards are opened and closed

    def __len__(self) -> int:
        return len(self.entries)

    def __contains__(self, key: object) -> bool:
        return key in self._indices

    def __getitem__(self, index: int) -> StoredEmbedding:
        index = range(len(self.entries))[index]
        entry = self.entries[index]
        # Cloned: a view would keep the whole shard, and send all of it to another process.
        features = self._shard(bisect_right(self._ends, index)).embedding(entry.key).clone()
        _, rows, columns = self.manifest.embedding_shape
        side_px = self.manifest.teacher.input_size_px
        return StoredEmbedding(
            entry, features, valid_cells(entry.inner_hw, side_px, (rows, columns))
        )

    def index_of(self, key: str) -> int:
        """The index of the image with this key (`image_key` of its pixels).

        Raises:
            DataError: It is not in the store.
        """
        index = self._indices.get(key)
        if index is None:
            raise DataError(
                f"no embedding of the image {key}; make it with distill embed over the same images"
            )
        return index

    def get(self, key: str) -> StoredEmbedding:
        """The embedding of the image with this key.

        Raises:
            DataError: It is not in the store.
        """
        return self[self.index_of(key)]

    def _shard(self, number: int) -> Shard:
        with self._turn:
            if number in self._open:
                self._open.move_to_end(number)
                return self._open[number]
            while len(self._open) >= _KEPT_OPEN:
                self._open.popitem(last=False)
            self._open[number] = opened = open_shard(self._paths[number])
            return opened

    def __getstate__(self) -> dict[str, Any]:
        # Mapped files and locks cannot be sent to another process, which makes its own.
        state = {**self.__dict__, "_open": OrderedDict()}
        del state["_turn"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._turn = threading.Lock()
