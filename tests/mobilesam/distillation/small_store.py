"""Embedding stores of a few bytes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from mobilesam.distillation.embedding_store import Entry, StoreWriter, Teacher

Pair = Callable[[int], tuple[Entry, Tensor]]
TWO = 2 * 2 * 2 * 3 * 4  # bytes of two embeddings


def fill(
    folder: Path, teacher: Teacher, pair: Pair, numbers: Sequence[int], **options: Any
) -> list[int]:
    """Adds missing embeddings; returns their numbers."""
    added = []
    with StoreWriter(folder, teacher, shard_bytes=TWO, **options) as writer:
        for number in numbers:
            entry, embedding = pair(number)
            if entry.key not in writer:
                writer.add(entry, embedding)
                added.append(number)
    return added


def content(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}
