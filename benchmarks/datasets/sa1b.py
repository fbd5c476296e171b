"""SA-1B: one JSON per image, in folders or inside tars, which are read in place.

The list of one tar, or the ids of one folder (eight bytes an image), are in memory at a time.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import tarfile
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import count, groupby, islice
from operator import attrgetter, itemgetter
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from baselines.interface import Int64Array
from benchmarks.datasets import MAX_PIXELS, parsing
from benchmarks.datasets.dataset import (
    Dataset,
    Instance,
    LoadedImage,
    Sample,
    Shard,
    UnreadableImage,
)
from benchmarks.datasets.images import check_pixels, load_image
from mobilesam.errors import DataError

MAX_FILE_BYTES = 256 * 2**20
"""Larger images and JSON files are not read into memory."""

_PAIR_NAME = re.compile(r"sa_([0-9]{1,18})\.(jpg|json)")
# Raised by tarfile for invalid headers, in addition to its own errors.
_BROKEN_TAR = (tarfile.TarError, ValueError, OverflowError, RecursionError)


class _Image(parsing.Row):
    image_id: parsing.Id
    height: parsing.LengthPx
    width: parsing.LengthPx


class _Document(parsing.Row):
    image: _Image
    annotations: list[Any]


class _Annotation(parsing.AnnotationRow):
    point_coords: (
        list[Annotated[list[parsing.CoordinatePx], Field(min_length=2, max_length=2)]] | None
    ) = None


@dataclass(frozen=True, slots=True)
class _Blob:
    """Bytes on disk: a file with its modification time, or a member of a tar."""

    path: Path
    offset_bytes: int
    size_bytes: int
    mtime_ns: int = 0

    @classmethod
    def of_file(cls, path: Path) -> _Blob:
        try:
            status = path.stat()
        except OSError:  # reported when the file is read
            return cls(path, 0, 0)
        return cls(path, 0, status.st_size, status.st_mtime_ns)

    def read(self) -> bytes:
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
class _Pair:
    """An image and its annotations, located but not read."""

    image_id: int
    image: _Blob
    annotations: _Blob

    @property
    def name(self) -> str:
        return f"sa_{self.image_id}.jpg"


class _Source:
    """A tar, or a folder of pairs, with its size in bytes and its state; files are not listed.

    The state is size and modification time of the tar, or a hash of those of all files.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.is_dir():
            try:
                status = path.stat()
            except OSError:  # reported when the tar is read
                status = path.lstat()
            self.size_bytes, self.state = status.st_size, f"{status.st_size} {status.st_mtime_ns}"
            return
        digest = self.size_bytes = 0
        for name, status in _scan(path):
            # The files of a folder come in no fixed order, so their hashes are added up.
            digest += int(_sha256(f"{name} {status.st_size} {status.st_mtime_ns}"), 16)
            self.size_bytes += status.st_size
        self.state = f"{digest % 2**256:064x}"

    def items(self, earlier_ids: list[Int64Array]) -> Iterator[_Pair | UnreadableImage]:
        """Locates all pairs by ascending image id, then lists what is unreadable besides.

        `earlier_ids` holds the sorted ids of each earlier source; those of this one are appended.
        """
        ids = {"jpg": array("q"), "json": array("q")}
        blobs: dict[str, _Blob] = {}  # of a tar; the files of a folder are located when due
        unreadable: list[UnreadableImage] = []
        is_folder = self.path.is_dir()
        files: Iterator[tuple[str, _Blob | None] | UnreadableImage] = (
            ((name, None) for name, _ in _scan(self.path)) if is_folder else _members(self.path)
        )
        for found in files:
            if isinstance(found, UnreadableImage):
                unreadable.append(found)
                continue
            name, blob = found
            match = _PAIR_NAME.fullmatch(name)
            if match is None:
                continue
            image_id, suffix = int(match[1]), match[2]
            if name != f"sa_{image_id}.{suffix}":
                reason = f"{name} has zeros before its number; rename it to sa_{image_id}.{suffix}"
                unreadable.append(UnreadableImage(image_id, name, reason))
            elif name in blobs:
                reason = f"{self.path.name} contains {name} twice"
                unreadable.append(UnreadableImage(image_id, name, reason))
            else:
                ids[suffix].append(image_id)
                if blob is not None:
                    blobs[name] = blob
        images, annotations = np.array(ids["jpg"]), np.array(ids["json"])
        all_ids = np.union1d(images, annotations)
        is_repeated = np.zeros(len(all_ids), np.bool_)
        for earlier in earlier_ids:
            both = len(all_ids) > 0 and len(earlier) > 0
            if both and earlier[0] <= all_ids[-1] and all_ids[0] <= earlier[-1]:
                is_repeated |= np.isin(all_ids, earlier)
        earlier_ids.append(all_ids)
        has_image, has_annotations = np.isin(all_ids, images), np.isin(all_ids, annotations)
        for index, image_id in enumerate(all_ids.tolist()):
            image, text = f"sa_{image_id}.jpg", f"sa_{image_id}.json"
            if is_repeated[index]:
                reason = f"{image} is in an earlier folder or tar already"
            elif not has_image[index]:
                reason = f"{text} has no {image} next to it"
            elif not has_annotations[index]:
                reason = f"{image} has no {text} next to it"
            else:
                first, second = (
                    blobs[name] if blobs else _Blob.of_file(self.path / name)
                    for name in (image, text)
                )
                yield _Pair(image_id, first, second)
                continue
            yield UnreadableImage(image_id, image, reason)
        # A folder is listed in no fixed order, a tar in the order of its members.
        yield from sorted(unreadable, key=attrgetter("name")) if is_folder else unreadable

    def fingerprint(self, items: Sequence[_Pair | UnreadableImage]) -> str:
        """SHA-256 (hex) of the state of some of its images."""
        lines = [self.path.name] if self.path.is_dir() else [self.path.name, self.state]
        for item in items:
            if isinstance(item, UnreadableImage):
                lines.append(f"{item.image_id} {item.reason}")
            else:
                states = (f"{e.size_bytes} {e.mtime_ns}" for e in (item.image, item.annotations))
                lines.append(" ".join((str(item.image_id), *states)))
        return _sha256(*lines)


class Sa1bDataset(Dataset):
    """Images of SA-1B with all their masks, by ascending image id within each folder or tar.

    The root is a folder of `sa_N.jpg` and `sa_N.json`, a tar of such, a folder of tars, or several
    of these. A limit takes only the first pairs of image and JSON.

    SA-1B states boxes with inclusive maxima: `bbox` of a mask one pixel wide has width 0. Here
    boxes have half-open edges everywhere, so 1 is added to width and height. SA-1B's masks were
    made by a SAM model.

    Tars are never unpacked: their headers are read first, then each file when it is due, so the
    order of files in a tar does not matter. Every defect of a single image or tar is an
    `UnreadableImage`: also more than `max_pixels`, an image without its JSON and vice versa, a
    link, or a name that points outside of the folder.

    `streaming` is for data too large to be looked through before the run: `n_images` is None, and
    the fingerprint covers size and modification time of the files instead of all annotations.

    Raises:
        DataError: A folder or file does not exist, or contains nothing of SA-1B.
        UsageError: The limit is below 1.
    """

    def __init__(
        self,
        root: Path | Sequence[Path],
        limit: int | None = None,
        max_pixels: int = MAX_PIXELS,
        *,
        streaming: bool = False,
    ) -> None:
        parsing.check_limit(limit)
        roots = [root] if isinstance(root, Path) else list(root)
        if not roots:
            raise DataError("no SA-1B folder or tar was given")
        more = f"+{len(roots) - 1}" if len(roots) > 1 else ""
        super().__init__(f"sa1b:{Path(os.path.realpath(roots[0])).name.removesuffix('.tar')}{more}")
        self._limit = limit
        self._max_pixels = max_pixels
        self._streaming = streaming
        self._sources = [_Source(path) for each in roots for path in _find_sources(each)]

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the limit and of the bytes of all JSON files, or of file states if streaming.

        Reads every JSON when first used; an unreadable one counts as empty.
        """
        if self._streaming:
            states = (f"{source.path.name} {source.state}" for source in self._sources)
            return _sha256(f"sa1b limit={self._limit}", *states)

        def annotations(pair: _Pair) -> bytes:
            try:
                return pair.annotations.read()
            except DataError:
                return b""

        pairs = (item for _, item in self._items() if isinstance(item, _Pair))
        return parsing.fingerprint("sa1b", self._limit, map(annotations, pairs))

    @property
    def images_state(self) -> str:
        """SHA-256 of path and state of all tars and folders."""
        states = (f"{os.path.realpath(source.path)} {source.state}" for source in self._sources)
        return _sha256(*states)

    @cached_property
    def n_images(self) -> int | None:
        """Number of images, unreadable ones included, after the limit; None if streaming."""
        return None if self._streaming else sum(1 for _ in self._items())

    def shards(self, images_per_shard: int | None = None) -> Iterator[Shard]:
        """Yields each tar and folder in shards; defects of a tar itself are in its last shard."""
        total_bytes = sum(source.size_bytes for source in self._sources) or 1
        for number, group in groupby(self._items(), key=itemgetter(0)):
            source = self._sources[number]
            for part in count():
                items = [item for _, item in islice(group, images_per_shard)]
                if not items:
                    break
                pairs = (item for item in items if isinstance(item, _Pair))
                n_bytes = sum(pair.image.size_bytes + pair.annotations.size_bytes for pair in pairs)
                yield Shard(
                    name=f"{number:05d}-{part:05d}",
                    dataset=self.name,
                    fingerprint=source.fingerprint(items),
                    readers=tuple(partial(_load, item, self._max_pixels) for item in items),
                    images=tuple((item.image_id, item.name) for item in items),
                    share=n_bytes / total_bytes,
                    images_state=_sha256(os.path.realpath(source.path)),
                )

    def _items(self) -> Iterator[tuple[int, _Pair | UnreadableImage]]:
        """Locates the images, with the number of their source, up to the limit."""
        earlier_ids: list[Int64Array] = []
        n_pairs = 0
        for number, source in enumerate(self._sources):
            for item in source.items(earlier_ids):
                yield number, item
                n_pairs += isinstance(item, _Pair)
                if n_pairs == self._limit:
                    return


def _load(item: _Pair | UnreadableImage, max_pixels: int) -> LoadedImage:
    """Reads one image with its annotations."""
    if isinstance(item, UnreadableImage):
        return LoadedImage(item)
    file = f"sa_{item.image_id}.json"
    log = parsing.AnnotationLog(file)
    sample: Sample | UnreadableImage
    instances: list[Instance] = []
    try:
        content = parsing.parse_json(item.annotations.read(), file)
        document = parsing.read_row(_Document, content, file)
        if document.image.image_id != item.image_id:
            raise DataError(
                f"{file} has image_id {document.image.image_id}; rename it or fetch it again"
            )
        size_hw = document.image.height, document.image.width
        check_pixels(item.name, size_hw, max_pixels)
        rows = log.read_rows(_Annotation, document.annotations)
        for row in sorted(rows, key=attrgetter("id")):
            points = np.array(row.point_coords, dtype=np.float32) if row.point_coords else None
            found = log.instance(row, size_hw, points=points, inclusive_maxima=True)
            instances += [] if found is None else [found]
        if not instances:
            raise DataError(f"{file} has no usable annotation: {log.why_unusable}")
        image = load_image(item.image.read(), item.name, size_hw, max_pixels)
        sample = Sample(item.image_id, item.name, image, tuple(instances))
    except DataError as error:
        sample = UnreadableImage(item.image_id, item.name, str(error), len(instances))
    return LoadedImage(sample, dict(log.left_out), tuple(log.problems))


def _find_sources(root: Path) -> list[Path]:
    """Returns a folder of pairs or a tar itself, and for a folder of tars its tars by name."""
    tars: list[Path] = []
    has_pairs = False
    try:
        if not stat.S_ISDIR(root.stat().st_mode):
            return [root]
        with os.scandir(root) as entries:
            for entry in entries:
                has_pairs = has_pairs or _PAIR_NAME.fullmatch(entry.name) is not None
                if entry.name.endswith(".tar"):
                    tars.append(root / entry.name)
    except FileNotFoundError as error:
        raise DataError(
            f"{root} does not exist; --root wants a folder or a .tar of SA-1B"
        ) from error
    except OSError as error:
        raise DataError(f"cannot read the folder {root}: {error.strerror}") from error
    if not has_pairs and not tars:
        raise DataError(f"{root} contains neither sa_*.jpg with sa_*.json nor .tar files")
    return ([root] if has_pairs else []) + sorted(tars)


def _scan(folder: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Yields names and states of the images and JSON files of a folder, in no fixed order."""
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if not _PAIR_NAME.fullmatch(entry.name):
                    continue
                try:
                    status = entry.stat()
                except OSError:  # such as a link to itself; reported when the file is read
                    status = entry.stat(follow_symlinks=False)
                if not stat.S_ISDIR(status.st_mode):
                    yield entry.name, status
    except OSError as error:
        raise DataError(f"cannot read the folder {folder}: {error.strerror}") from error


def _members(path: Path) -> Iterator[tuple[str, _Blob] | UnreadableImage]:
    """Yields name and place of each complete file in a tar, seeking past the data.

    Each other member, and a damaged tar, gives an `UnreadableImage`.
    """
    is_complete = False
    try:
        file_bytes = path.stat().st_size
        if not path.is_file():
            raise tarfile.ReadError("it is a folder, pipe or device")
        with path.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
            try:
                end = -1
                for member in tar:
                    # A negative size would make tarfile repeat members without end.
                    if member.size < 0 or member.offset_data <= end:
                        raise tarfile.ReadError(f"the member {member.name!r} leads backwards")
                    end = member.offset_data
                    name = PurePosixPath(member.name)
                    problem = None
                    if name.is_absolute() or ".." in name.parts:
                        problem = "points outside"
                    elif member.isreg() and not member.issparse():
                        if member.offset_data + member.size <= file_bytes:
                            yield name.name, _Blob(path, member.offset_data, member.size)
                    elif not member.isdir():
                        problem = "is a link or no plain file"
                    if problem is not None:
                        shown = member.name if member.name.isprintable() else repr(member.name)
                        reason = f"{path.name}: the member {member.name!r} {problem}; skipped"
                        yield UnreadableImage(-1, shown, reason)
                    tar.members.clear()  # type: ignore[attr-defined]  # else it keeps 1 kB of each
            except _BROKEN_TAR:
                pass  # `is_complete` stays False, since the end of the archive was not reached
            else:
                # tarfile accepts a file that ends between two members as complete.
                file.seek(tar.offset)
                is_complete = file.read(tarfile.BLOCKSIZE) == bytes(tarfile.BLOCKSIZE)
    except (*_BROKEN_TAR, OSError) as error:
        yield UnreadableImage(-1, path.name, f"{path.name} is not a plain tar: {error}")
        return
    if not is_complete:
        reason = f"{path.name} is cut off or damaged after {file_bytes} bytes; fetch it again"
        yield UnreadableImage(-1, path.name, reason)


def _sha256(*lines: str) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
