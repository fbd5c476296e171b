"""Images without their annotations: all that a teacher's encoder needs."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from baselines.interface import UInt8Array
from benchmarks.datasets.dataset import Dataset, LoadedImage, Sample, Shard, UnreadableImage
from benchmarks.datasets.images import load_image
from benchmarks.datasets.limits import MAX_PIXELS
from benchmarks.datasets.parsing import check_limit, fingerprint
from mobilesam.errors import DataError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".gif")


@dataclass(frozen=True, slots=True, eq=False)
class NamedImage:
    """A picture.

    Attributes:
        name: What its source calls it, for messages and to find it again.
        image: (H, W, 3) uint8 RGB.
    """

    name: str
    image: UInt8Array


class ImageSource(ABC):
    """Pictures in a fixed order, one in memory at a time."""

    @property
    @abstractmethod
    def name(self) -> str:
        """Short name for messages and records."""

    @property
    @abstractmethod
    def n_images(self) -> int | None:
        """How many values `images` yields; None where that is not known ahead."""

    @abstractmethod
    def images(self) -> Iterator[NamedImage | UnreadableImage]:
        """Yields each picture when it is due, and an `UnreadableImage` for an unreadable one."""


class DatasetImages(ImageSource):
    """The pictures of a dataset; those without any usable annotation are no part of it."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset

    @property
    def name(self) -> str:
        """The dataset's."""
        return self._dataset.name

    @property
    def n_images(self) -> int | None:
        """The dataset's."""
        return self._dataset.n_images

    def images(self) -> Iterator[NamedImage | UnreadableImage]:
        """In the dataset's order."""
        for sample in self._dataset.samples():
            if isinstance(sample, UnreadableImage):
                yield sample
            else:
                yield NamedImage(sample.name, sample.image)


class FolderImages(ImageSource):
    """All pictures in a folder and below it, by path.

    What has no picture's ending is left alone, and counted. Links to folders are not followed.

    Args:
        folder: To be searched, now.
        limit: Take only the first so many.
        max_pixels: A larger picture is bad.

    Attributes:
        n_others: Files that are left alone.

    Raises:
        DataError: It is no folder, cannot be read, or holds no picture.
        UsageError: The limit is below 1.
    """

    def __init__(
        self, folder: Path, limit: int | None = None, max_pixels: int = MAX_PIXELS
    ) -> None:
        check_limit(limit)
        if not folder.is_dir():
            raise DataError(f"{folder} is not a folder; --images wants the folder of image files")
        self._folder = folder
        self._max_pixels = max_pixels
        files = list(_walk(folder))
        pictures = [name for name in files if name.lower().endswith(IMAGE_SUFFIXES)]
        if not pictures:
            raise DataError(
                f"{folder} holds no image (looked for {', '.join(IMAGE_SUFFIXES)} among "
                f"{len(files)} files)"
            )
        self.n_others = len(files) - len(pictures)
        self._names = pictures[:limit]

    @property
    def name(self) -> str:
        """`folder:` and its name."""
        return f"folder:{self._folder.resolve().name}"

    @property
    def n_images(self) -> int:
        """Pictures found, after the limit."""
        return len(self._names)

    def images(self) -> Iterator[NamedImage | UnreadableImage]:
        """By path; a picture's name is its path below the folder."""
        for name in self._names:
            yield _picture(self._folder, name, self._max_pixels)

    def shards(self, images_per_shard: int | None = None) -> Iterator[Shard]:
        """Parts of consecutive pictures, whose samples have no instances."""
        folder = self._folder.absolute()  # a worker may be in another folder
        step = images_per_shard or len(self._names)
        for start in range(0, len(self._names), step):
            names = self._names[start : start + step]
            numbers = range(start, start + len(names))
            yield Shard(
                f"{start:08d}",
                self.name,
                fingerprint("folder-part", None, map(os.fsencode, names)),
                tuple(
                    partial(_read, folder, name, self._max_pixels, number)
                    for number, name in zip(numbers, names, strict=True)
                ),
                tuple(zip(numbers, map(_shown, names), strict=True)),
                len(names) / len(self._names),
            )


def _shown(name: str) -> str:
    """A name as text: neither records nor stores can hold one that is none."""
    return name if name.isprintable() else repr(name)


def _picture(folder: Path, name: str, max_pixels: int) -> NamedImage | UnreadableImage:
    if not name.isprintable():
        return UnreadableImage(-1, _shown(name), "its name cannot be printed; rename it")
    try:
        return NamedImage(name, load_image(folder / name, name, None, max_pixels))
    except DataError as error:
        return UnreadableImage(-1, name, str(error))


def _read(folder: Path, name: str, max_pixels: int, number: int) -> LoadedImage:
    found = _picture(folder, name, max_pixels)
    if isinstance(found, UnreadableImage):
        return LoadedImage(found)
    return LoadedImage(Sample(number, found.name, found.image, ()))


def _walk(folder: Path) -> Iterator[str]:
    """Paths of all files below a folder, relative to it with forward slashes, in order."""

    def refuse(error: OSError) -> None:
        raise DataError(f"cannot read the folder {error.filename}: {error.strerror}") from error

    found = [
        (Path(root) / file).relative_to(folder).as_posix()
        for root, _, files in os.walk(folder, onerror=refuse)
        for file in files
    ]
    yield from sorted(found)
