"""SA-1B in parts: of a tar its list of files is in memory at once, of a folder 8 bytes an image."""

from __future__ import annotations

import hashlib
import os
import stat
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count, islice
from pathlib import Path

import numpy as np

from baselines.interface import Int64Array
from benchmarks.datasets.dataset import BadSample, Sample
from benchmarks.datasets.limits import MAX_PIXELS
from benchmarks.datasets.parsing import check_limit
from benchmarks.datasets.sa1b import new_tally, read_pair
from benchmarks.datasets.sa1b_index import (
    PAIR_NAME,
    Blob,
    Pair,
    find_sources,
    index_tar,
    name_of,
    roots_of,
)
from benchmarks.datasets.shards import CutDataset, Loaded, Part
from mobilesam.errors import DataError

_HASHES = 2**256


class SeenIds:
    """Image ids of all sources so far, at eight bytes each.

    Shards seldom overlap, so an id is first compared with the range of each.
    """

    def __init__(self) -> None:
        self._done: list[Int64Array] = []
        self._now = array("q")

    def __contains__(self, image_id: object) -> bool:
        assert isinstance(image_id, int)  # noqa: S101 - what this module asks for
        return any(
            each[0] <= image_id <= each[-1] and each[np.searchsorted(each, image_id)] == image_id
            for each in self._done
        )

    def add(self, image_id: int) -> None:
        """Remembers an id of the source that is being looked at."""
        self._now.append(image_id)

    def close_source(self) -> None:
        """The ids added since the last call come from an earlier source from now on."""
        if self._now:
            self._done.append(np.unique(np.frombuffer(self._now, np.int64)))
            self._now = array("q")


@dataclass(frozen=True, slots=True)
class _Source:
    """A tar, or a folder of pairs."""

    number: int
    path: Path
    n_bytes: int
    state: str
    """What changes when its content does: size and time of change; of a folder, of all files."""


class Sa1bParts(CutDataset):
    """SA-1B as `Sa1bDataset` reads it, for data whose list of files fits in no memory.

    The same images in the same order. It does not read all annotations to know whether they have
    changed: the size and the time of change of a tar, or of each file of a folder, tell.

    Args:
        root: As for `Sa1bDataset`.
        limit: Take only the first so many pairs of image and JSON.
        max_pixels: Images beyond it are bad.

    Raises:
        DataError: A folder or file does not exist, or holds nothing of SA-1B.
        UsageError: The limit is below 1.
    """

    def __init__(
        self,
        root: Path | Sequence[Path],
        limit: int | None = None,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        check_limit(limit)
        roots = roots_of(root)
        self._name = name_of(roots)
        self._limit = limit
        self._max_pixels = max_pixels
        paths = [source for each in roots for source in find_sources(each)]
        self._sources = [_look_at(number, path) for number, path in enumerate(paths)]

    @property
    def name(self) -> str:
        """That of `Sa1bDataset`."""
        return self._name

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the limit and of name, size and time of change of all tars and files."""
        states = [f"{source.path.name} {source.state}" for source in self._sources]
        return _sha256(f"sa1b-parts limit={self._limit}", *states)

    @property
    def images_state(self) -> str:
        """SHA-256 of the paths of all tars and folders; the fingerprint covers their contents."""
        return _sha256(*(os.path.realpath(source.path) for source in self._sources))

    @property
    def n_images(self) -> None:
        """Not known before all has been read."""

    def samples(self) -> Iterator[Sample | BadSample]:
        """Yields all images as `Sa1bDataset` does."""
        for part in self.parts(1):
            for read in part.readers:
                yield read().sample

    def parts(self, n_images: int) -> Iterator[Part]:
        """Cuts each tar and each folder by itself; what is bad about a tar is in its last part."""
        seen = SeenIds()
        left = self._limit
        total = sum(source.n_bytes for source in self._sources) or 1
        for source in self._sources:
            items = _first(_items(source, seen), left)
            for number in count():
                taken = tuple(islice(items, n_images))
                if not taken:
                    break
                if left is not None:
                    left -= sum(isinstance(item, Pair) for item in taken)
                yield self._part(source, number, taken, total)
            seen.close_source()
            if left == 0:
                return

    def _part(
        self, source: _Source, number: int, items: Sequence[Pair | BadSample], total_bytes: int
    ) -> Part:
        n_bytes = sum(
            item.image.size_bytes + item.annotations.size_bytes
            for item in items
            if isinstance(item, Pair)
        )
        return Part(
            f"{source.number:05d}-{number:05d}",
            self._name,
            _sha256(source.path.name, *_states(source, items)),
            tuple(partial(_read, item, self._max_pixels) for item in items),
            tuple((item.image_id, item.name) for item in items),
            n_bytes / total_bytes,
            _sha256(os.path.realpath(source.path)),
        )


def _first(items: Iterable[Pair | BadSample], limit: int | None) -> Iterator[Pair | BadSample]:
    """Items up to the last pair that the limit allows."""
    n_pairs = 0
    for item in items:
        yield item
        n_pairs += isinstance(item, Pair)
        if n_pairs == limit:
            return


def _read(item: Pair | BadSample, max_pixels: int) -> Loaded:
    if isinstance(item, BadSample):
        return Loaded(item)
    tally = new_tally()
    sample = read_pair(item, tally, max_pixels)
    return Loaded(sample, dict(tally.left_out), tuple(tally.problems))


def _items(source: _Source, seen: SeenIds) -> Iterator[Pair | BadSample]:
    if source.path.is_dir():
        return _folder_items(source.path, seen)
    return index_tar(source.path).items(seen)


def _folder_items(root: Path, seen: SeenIds) -> Iterator[Pair | BadSample]:
    """What `Index.items` gives for a folder, from ids alone."""
    ids = {"jpg": array("q"), "json": array("q")}
    odd: list[BadSample] = []
    for name, _ in _scan(root):
        match = PAIR_NAME.fullmatch(name)
        if match is None:
            continue
        image_id = int(match[1])
        if name == f"sa_{image_id}.{match[2]}":
            ids[match[2]].append(image_id)
        else:
            why = f"{name} has zeros before its number; call it sa_{image_id}.{match[2]}"
            odd.append(BadSample(image_id, name, why))
    images = np.unique(np.frombuffer(ids["jpg"], np.int64)) if ids["jpg"] else np.zeros(0, np.int64)
    texts = np.unique(np.frombuffer(ids["json"], np.int64)) if ids["json"] else images[:0]
    for image_id in np.union1d(images, texts):
        yield _folder_item(root, int(image_id), images, texts, seen)
    yield from sorted(odd, key=lambda bad: bad.name)


def _folder_item(
    root: Path, image_id: int, images: Int64Array, texts: Int64Array, seen: SeenIds
) -> Pair | BadSample:
    image, text = root / f"sa_{image_id}.jpg", root / f"sa_{image_id}.json"
    known = image_id in seen
    seen.add(image_id)
    if known:
        return BadSample(
            image_id, image.name, f"{image.name} is in an earlier folder or tar already"
        )
    if not _holds(images, image_id):
        return BadSample(image_id, image.name, f"{text.name} has no {image.name} beside it")
    if not _holds(texts, image_id):
        return BadSample(image_id, image.name, f"{image.name} has no {text.name} beside it")
    return Pair(image_id, Blob(image, 0, _n_bytes(image)), Blob(text, 0, _n_bytes(text)))


def _holds(ids: Int64Array, image_id: int) -> bool:
    place = int(np.searchsorted(ids, image_id))
    return place < len(ids) and int(ids[place]) == image_id


def _n_bytes(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0  # reading it will say what is wrong


def _scan(root: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Names and states of the images and JSON files of a folder, in no order."""
    try:
        with os.scandir(root) as entries:
            for entry in entries:
                if not PAIR_NAME.fullmatch(entry.name):
                    continue
                try:
                    found = entry.stat()
                except OSError:  # such as a link to itself: reading it will say what is wrong
                    found = entry.stat(follow_symlinks=False)
                if not stat.S_ISDIR(found.st_mode):
                    yield entry.name, found
    except OSError as error:
        raise DataError(f"cannot read the folder {root}: {error.strerror}") from error


def _look_at(number: int, path: Path) -> _Source:
    """Size and state of a tar or folder, without a list of its files.

    The files of a folder come in no order, so their hashes are added up.
    """
    if not path.is_dir():
        try:
            status = path.stat()
        except OSError:  # reading it will say what is wrong
            status = path.lstat()
        return _Source(number, path, status.st_size, f"{status.st_size} {status.st_mtime_ns}")
    total, n_bytes = 0, 0
    for name, status in _scan(path):
        line = f"{name} {status.st_size} {status.st_mtime_ns}"
        total = (total + int(_sha256(line), 16)) % _HASHES
        n_bytes += status.st_size
    return _Source(number, path, n_bytes, f"{total:064x}")


def _states(source: _Source, items: Sequence[Pair | BadSample]) -> Iterator[str]:
    """What changes when the content of a part does."""
    if not source.path.is_dir():
        yield source.state
    for item in items:
        yield str(item.image_id)
        if isinstance(item, BadSample):
            yield item.why
        elif source.path.is_dir():
            for blob in (item.image, item.annotations):
                try:
                    yield f"{blob.size_bytes} {blob.path.stat().st_mtime_ns}"
                except OSError:
                    yield "gone"


def _sha256(*lines: str) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
