"""Where the images and JSONs of SA-1B lie in folders and tars, found without reading them."""

from __future__ import annotations

import os
import re
import stat
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Protocol

from benchmarks.datasets.dataset import BadSample
from mobilesam.errors import DataError

MAX_FILE_BYTES = 256 * 2**20
"""A single image or JSON beyond this is refused rather than read into memory."""

# What tarfile lets through of headers that make no sense, beside its own errors.
_BROKEN_TAR = (tarfile.TarError, ValueError, OverflowError, RecursionError)

PAIR_NAME = re.compile(r"sa_([0-9]{1,18})\.(jpg|json)")


@dataclass(frozen=True, slots=True)
class Blob:
    """Bytes on disk: a file, or a member of a tar by its place in it."""

    path: Path
    offset_bytes: int
    size_bytes: int

    def read(self) -> bytes:
        """All of its bytes.

        Raises:
            DataError: There are too many, or they cannot be read.
        """
        if self.size_bytes > MAX_FILE_BYTES:
            raise DataError(f"{self.size_bytes} bytes are more than {MAX_FILE_BYTES}")
        try:
            if not self.path.is_file() and self.path.exists():
                raise DataError(f"{self.path} is a folder, pipe or device")
            with self.path.open("rb") as file:
                file.seek(self.offset_bytes)
                return file.read(self.size_bytes)
        except OSError as error:
            raise DataError(f"cannot read {self.path}: {error.strerror}") from error


@dataclass(frozen=True, slots=True)
class Pair:
    """An image and its annotations, found but not read."""

    image_id: int
    image: Blob
    annotations: Blob

    @property
    def name(self) -> str:
        """The image's file name in SA-1B."""
        return f"sa_{self.image_id}.jpg"


class SeenIds(Protocol):
    """Image ids of earlier folders and tars; a set is one."""

    def __contains__(self, image_id: object, /) -> bool: ...

    def add(self, image_id: int, /) -> None:
        """Remembers one more."""


@dataclass(slots=True)
class Index:
    """What one folder or tar holds."""

    images: dict[int, Blob] = field(default_factory=dict)
    annotations: dict[int, Blob] = field(default_factory=dict)
    bad: list[BadSample] = field(default_factory=list)

    def add(self, name: str, blob: Blob) -> None:
        """Takes note of a file; one that is neither image nor JSON is passed over."""
        match = PAIR_NAME.fullmatch(name)
        if match is None:
            return
        image_id = int(match[1])
        files = self.images if match[2] == "jpg" else self.annotations
        if image_id in files:
            self.bad.append(BadSample(image_id, name, f"{blob.path.name} holds {name} twice"))
        else:
            files[image_id] = blob

    def items(self, seen: SeenIds) -> Iterator[Pair | BadSample]:
        """Pairs and halves of pairs by ascending image id, then all that is bad besides."""
        for image_id in sorted(self.images.keys() | self.annotations.keys()):
            image, annotations = self.images.get(image_id), self.annotations.get(image_id)
            name = f"sa_{image_id}.jpg"
            if image_id in seen:
                yield BadSample(image_id, name, f"{name} is in an earlier folder or tar already")
            elif image is None:
                yield BadSample(image_id, name, f"sa_{image_id}.json has no {name} beside it")
            elif annotations is None:
                yield BadSample(image_id, name, f"{name} has no sa_{image_id}.json beside it")
            else:
                yield Pair(image_id, image, annotations)
            seen.add(image_id)
        yield from self.bad


def _index_folder(root: Path) -> Index:
    index = Index()
    for path in sorted(root.iterdir()):
        try:
            found = path.stat()
        except OSError:  # such as a link to itself: reading it will say what is wrong
            index.add(path.name, Blob(path, 0, 0))
            continue
        if not stat.S_ISDIR(found.st_mode):
            index.add(path.name, Blob(path, 0, found.st_size))
    return index


def index_tar(path: Path) -> Index:
    """Reads only the headers of a tar, seeking past the data; nothing is ever unpacked."""
    index = Index()
    whole = False
    try:
        file_bytes = path.stat().st_size
        if not path.is_file():
            raise tarfile.ReadError("it is a folder, pipe or device")
        with path.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
            try:
                for member in _advancing(tar):
                    _add_member(index, path, member, file_bytes)
            except _BROKEN_TAR:
                pass  # `whole` stays False, since the end of the archive was not reached
            else:
                # tarfile takes a file that stops between two members for a whole one.
                file.seek(tar.offset)
                whole = file.read(tarfile.BLOCKSIZE) == bytes(tarfile.BLOCKSIZE)
    except (*_BROKEN_TAR, OSError) as error:
        index.bad.append(BadSample(-1, path.name, f"{path.name} is not a plain tar: {error}"))
        return index
    if not whole:
        why = f"{path.name} is cut off or damaged after {file_bytes} bytes; fetch it again"
        index.bad.append(BadSample(-1, path.name, why))
    return index


def _advancing(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Members of a tar; a size below zero would send tarfile back to where it was, for ever."""
    after = -1
    for member in tar:
        if member.size < 0 or member.offset_data <= after:
            raise tarfile.ReadError(f"the member {member.name!r} leads backwards")
        after = member.offset_data
        yield member
        # It would keep them all, at a kilobyte each.
        tar.members.clear()  # type: ignore[attr-defined]  # typeshed lacks it


def _add_member(index: Index, path: Path, member: tarfile.TarInfo, file_bytes: int) -> None:
    name = PurePosixPath(member.name)
    if name.is_absolute() or ".." in name.parts:
        why = f"{path.name}: the member {member.name!r} points outside; skipped"
        index.bad.append(BadSample(-1, _printable(member.name), why))
    elif member.isreg() and not member.issparse():
        if member.offset_data + member.size <= file_bytes:
            index.add(name.name, Blob(path, member.offset_data, member.size))
    elif not member.isdir():
        why = f"{path.name}: the member {member.name!r} is a link or no plain file; skipped"
        index.bad.append(BadSample(-1, _printable(member.name), why))


def _printable(name: str) -> str:
    """A name without what breaks lines or cannot be written as UTF-8."""
    return name if name.isprintable() else repr(name)


def find_sources(root: Path) -> list[Path]:
    """A folder of pairs or a tar as it is; a folder of tars as its tars by name."""
    try:
        if not stat.S_ISDIR(root.stat().st_mode):
            return [root]
        names = sorted(path.name for path in root.iterdir())
    except FileNotFoundError as error:
        raise DataError(
            f"{root} does not exist; --root wants a folder or a .tar of SA-1B"
        ) from error
    except OSError as error:
        raise DataError(f"cannot read the folder {root}: {error.strerror}") from error
    tars = [root / name for name in names if name.endswith(".tar")]
    pairs = [root] if any(PAIR_NAME.fullmatch(name) for name in names) else []
    if not pairs and not tars:
        raise DataError(f"{root} holds neither sa_*.jpg with sa_*.json nor .tar files")
    return pairs + tars


def roots_of(root: Path | Sequence[Path]) -> list[Path]:
    """One root or several, as a list.

    Raises:
        DataError: There is none.
    """
    roots = [root] if isinstance(root, Path) else list(root)
    if not roots:
        raise DataError("no SA-1B folder or tar was given")
    return roots


def name_of(roots: Sequence[Path]) -> str:
    """`sa1b:` and the name of the first folder or tar, with how many more there are."""
    more = f"+{len(roots) - 1}" if len(roots) > 1 else ""
    return f"sa1b:{Path(os.path.realpath(roots[0])).name.removesuffix('.tar')}{more}"


def take(sources: Sequence[Path], limit: int | None) -> Iterator[Pair | BadSample]:
    """Looks into one source after the other until there are enough pairs."""
    seen: set[int] = set()
    n_pairs = 0
    for source in sources:
        index = _index_folder(source) if source.is_dir() else index_tar(source)
        for item in index.items(seen):
            yield item
            n_pairs += isinstance(item, Pair)
            if n_pairs == limit:
                return
