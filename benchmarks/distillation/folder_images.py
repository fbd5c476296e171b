"""Image files of a folder, without annotations: as shards for a teacher, as a training set."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from benchmarks.datasets.dataset import LoadedImage, Sample, Shard, UnreadableImage
from benchmarks.datasets.images import load_image
from benchmarks.datasets.limits import MAX_PIXELS, PIXELS_CEILING
from benchmarks.datasets.parsing import check_limit, fingerprint
from mobilesam.distillation.batches import TrainingSample
from mobilesam.distillation.embedding_store import EmbeddingStore, image_key
from mobilesam.errors import DataError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".gif")


class FolderImages:
    """All image files in a folder and its subfolders, in the order of their paths.

    Files with other suffixes are skipped and counted. Links to folders are not followed.

    Args:
        folder: The folder; it is listed when this object is made.
        limit: Take only the first images.
        max_pixels: Larger images count as unreadable.

    Attributes:
        name: `folder:` and the folder's name.
        n_images: Number of images, after the limit.
        n_others: Number of skipped files.

    Raises:
        DataError: It is no folder, cannot be read, or holds no image.
        UsageError: The limit is below 1.
    """

    def __init__(
        self, folder: Path, limit: int | None = None, max_pixels: int = MAX_PIXELS
    ) -> None:
        check_limit(limit)
        if not folder.is_dir():
            raise DataError(f"{folder} is not a folder; --images takes a folder of image files")
        self._folder = folder.absolute()  # a worker may run in another folder
        self._max_pixels = max_pixels
        files = _files_below(folder)
        images = [name for name in files if name.lower().endswith(IMAGE_SUFFIXES)]
        if not images:
            raise DataError(
                f"{folder} holds no image (looked for {', '.join(IMAGE_SUFFIXES)} among "
                f"{len(files)} files)"
            )
        self.n_others = len(files) - len(images)
        self._names = images[:limit]
        self.name = f"folder:{folder.resolve().name}"
        self.n_images = len(self._names)

    def shards(self, images_per_shard: int | None = None) -> Iterator[Shard]:
        """Yields shards of at most `images_per_shard` images; their samples have no instances."""
        step = images_per_shard or self.n_images
        for start in range(0, self.n_images, step):
            numbered = list(enumerate(self._names[start : start + step], start))
            yield Shard(
                f"{start:08d}",
                self.name,
                fingerprint("folder-part", None, (os.fsencode(name) for _, name in numbered)),
                tuple(
                    partial(_read, self._folder, name, self._max_pixels, number)
                    for number, name in numbered
                ),
                tuple((number, _printable(name)) for number, name in numbered),
                len(numbered) / self.n_images,
            )


def _read(folder: Path, name: str, max_pixels: int, number: int) -> LoadedImage:
    if not name.isprintable():
        return LoadedImage(
            UnreadableImage(-1, _printable(name), "its name cannot be printed; rename it")
        )
    try:
        image = load_image(folder / name, name, None, max_pixels)
    except DataError as error:
        return LoadedImage(UnreadableImage(-1, name, str(error)))
    return LoadedImage(Sample(number, name, image, ()))


def _printable(name: str) -> str:
    return name if name.isprintable() else repr(name)


def _files_below(folder: Path) -> list[str]:
    """Paths of all files below a folder, relative to it with forward slashes, sorted."""

    def refuse(error: OSError) -> None:
        raise DataError(f"cannot read the folder {error.filename}: {error.strerror}") from error

    return sorted(
        (Path(root) / file).relative_to(folder).as_posix()
        for root, _, files in os.walk(folder, onerror=refuse)
        for file in files
    )


class StoredImages:
    """Training set of the images in a folder whose embeddings a store holds.

    Images are read on access. Images that were unreadable when the store was made are not part of
    the set.

    Raises:
        DataError: The store is empty, or its first image is not in the folder.
    """

    def __init__(self, folder: Path, store: EmbeddingStore) -> None:
        if not len(store):
            raise DataError("the embedding store is empty; run distill embed first")
        self._folder = folder
        self._entries = store.entries
        self.fingerprint = f"store:{len(store)}:{store.entries[0].key}:{store.entries[-1].key}"
        self.sample(0)

    def __len__(self) -> int:
        return len(self._entries)

    def sample(self, index: int) -> TrainingSample:
        """Reads the image of an entry at its original size.

        Raises:
            DataError: It is missing, unreadable, or differs from the image that was embedded.
        """
        entry = self._entries[index]
        image = load_image(self._folder / entry.name, entry.name, None, PIXELS_CEILING)
        if image_key(image) != entry.key:
            raise DataError(
                f"{self._folder / entry.name} differs from the image that was embedded; run "
                "distill embed over this folder again"
            )
        return TrainingSample(entry.key, image)
