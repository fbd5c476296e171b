"""Finds out whether an embedding store is whole."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mobilesam.distillation.store_format import (
    PENDING_NAME,
    SUFFIX,
    ShardLine,
    StoreManifest,
    damage,
    open_shard,
    read_index,
    read_manifest,
)
from mobilesam.errors import DataError


@dataclass(frozen=True, slots=True)
class Verification:
    """What reading all of a store has shown.

    Attributes:
        n_embeddings: In shards that are whole.
        n_shards: Shards that are whole.
        n_bytes: Size of those, headers included.
        n_pending: Embeddings outside of shards: a run was killed, and has not been taken up yet.
        problems: One line for each thing that is wrong.
    """

    n_embeddings: int
    n_shards: int
    n_bytes: int
    n_pending: int
    problems: tuple[str, ...]


def verify(folder: Path) -> Verification:
    """Reads every byte of a store and compares it with what was written.

    Raises:
        DataError: The folder holds no store, or its manifest or list of shards is damaged.
    """
    manifest = read_manifest(folder)
    if manifest is None:
        raise DataError(f"{folder} holds no embedding store; make one with distill embed")
    lines = read_index(folder)
    problems, sound = [], []
    for line in lines:
        problem = check_shard(folder, line, manifest)
        if problem is None:
            sound.append(line)
        else:
            problems.append(problem)
    problems.extend(_twice(folder, sound))
    problems.extend(
        f"{path} is not in the list of shards; run distill embed again, which takes it up"
        for path in unlisted(folder, lines)
    )
    return Verification(
        n_embeddings=sum(line.n_embeddings for line in sound),
        n_shards=len(sound),
        n_bytes=sum(line.n_bytes for line in sound),
        n_pending=len(list((folder / PENDING_NAME).glob(f"[0-9]*{SUFFIX}"))),
        problems=tuple(problems),
    )


def check_shard(folder: Path, line: ShardLine, manifest: StoreManifest) -> str | None:
    """What is wrong with a listed shard after reading all of it; None if nothing is."""
    problem = damage(folder, line)
    if problem is not None:
        return problem
    path = folder / line.file
    lost = f"({line.n_embeddings} embeddings)"
    try:
        with path.open("rb") as opened:
            found = hashlib.file_digest(opened, "sha256").hexdigest()
        if found != line.sha256:
            return f"{path} is damaged: its SHA-256 is {found}, not {line.sha256} {lost}"
        shard = open_shard(path)
    except OSError as error:
        return f"{path} cannot be read: {error.strerror} {lost}"
    except DataError as error:
        return f"{error} {lost}"
    header = shard.header
    if header.teacher != manifest.teacher or len(header.entries) != line.n_embeddings:
        return f"{path} belongs to another store {lost}"
    if shard.kinds() != {(manifest.embedding_shape, "F16")}:
        return f"{path} holds embeddings of another shape than {manifest.embedding_shape} {lost}"
    return None


def unlisted(folder: Path, lines: list[ShardLine]) -> list[Path]:
    """Shards in a folder that its list does not know: a kill came between the two."""
    known = {line.file for line in lines}
    return [path for path in sorted(folder.glob(f"shard-*{SUFFIX}")) if path.name not in known]


def damaged_store(problems: Sequence[str]) -> str:
    """One line about a store that is not whole, and what to do about it."""
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return (
        f"{problems[0]}{more}; put it back from a copy, or let distill embed --repair make its "
        "embeddings again"
    )


def _twice(folder: Path, lines: list[ShardLine]) -> Iterator[str]:
    seen: dict[str, str] = {}
    for line in lines:
        for entry in open_shard(folder / line.file).header.entries:
            if entry.key in seen:
                yield f"{entry.name} is both in {seen[entry.key]} and in {line.file}"
            seen[entry.key] = line.file
