"""Image files of a folder, without annotations: as shards for a teacher, as a training set."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from benchmarks.config.from_options import STANDARD_SCENES, check_max_pixels, open_dataset
from benchmarks.config.options import EmbedDataArguments
from benchmarks.datasets import MAX_PIXELS, PIXELS_CEILING
from benchmarks.datasets.dataset import ImageReader, LoadedImage, Sample, Shard, UnreadableImage
from benchmarks.datasets.images import load_image
from benchmarks.datasets.parsing import check_limit, fingerprint
from benchmarks.distillation.embed import ShardedImages
from benchmarks.records.progress import Reporter
from mobilesam.distillation.batches import TrainingSample
from mobilesam.distillation.embedding_store import EmbeddingStore, image_key
from mobilesam.errors import DataError, UsageError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".gif")


def images_to_embed(
    data: EmbedDataArguments, seed: int, reporter: Reporter, *, streaming: bool
) -> ShardedImages:
    """The dataset or folder that the options name; a folder if only `--images` is given."""
    is_folder = data.annotations is None and data.dataset == EmbedDataArguments.dataset
    if data.images is None or not is_folder:
        return open_dataset(data, STANDARD_SCENES, seed, streaming=streaming)
    if data.root:
        raise UsageError("--images and --root are two sources; give one")
    folder = FolderImages(data.images, data.limit, check_max_pixels(data.max_pixels))
    if folder.n_others:
        reporter.say(f"{data.images}: {folder.n_others} files that are no images are skipped")
    return folder


def image_shards(
    source: str,
    names: Sequence[str],
    reader: Callable[[int], ImageReader],
    images_per_shard: int | None,
) -> Iterator[Shard]:
    """Divides images without instances into shards; `reader` makes the reader of a number."""
    step = images_per_shard or len(names)
    for start in range(0, len(names), step):
        images = tuple(enumerate(names[start : start + step], start))
        yield Shard(
            f"{start:08d}",
            source,
            fingerprint("images", None, (os.fsencode(name) for _, name in images)),
            tuple(reader(number) for number, _ in images),
            images,
            len(images) / len(names),
        )


class FolderImages:
    """All image files in a folder and its subfolders, in the order of their paths.

    Files with other suffixes are skipped and counted in `n_others`. Links to folders are not
    followed. Images above `max_pixels` count as unreadable.
    """

    def __init__(
        self, folder: Path, limit: int | None = None, max_pixels: int = MAX_PIXELS
    ) -> None:
        check_limit(limit)
        if not folder.is_dir():
            raise DataError(f"{folder} is not a folder; --images takes a folder of image files")
        self._folder = folder.absolute()  # a worker may run in another folder
        self._max_pixels = max_pixels

        def refuse(error: OSError) -> None:
            raise DataError(f"cannot read the folder {error.filename}: {error.strerror}") from error

        files = sorted(
            (Path(root) / file).relative_to(folder).as_posix()
            for root, _, names in os.walk(folder, onerror=refuse)
            for file in names
        )
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

        def reader(number: int) -> ImageReader:
            return partial(_read, self._folder, self._names[number], self._max_pixels, number)

        names = [_printable(name) for name in self._names]
        return image_shards(self.name, names, reader, images_per_shard)


def _read(folder: Path, name: str, max_pixels: int, number: int) -> LoadedImage:
    if not name.isprintable():
        reason = "its name cannot be printed; rename it"
        return LoadedImage(UnreadableImage(-1, _printable(name), reason))
    try:
        image = load_image(folder / name, name, None, max_pixels)
    except DataError as error:
        return LoadedImage(UnreadableImage(-1, name, str(error)))
    return LoadedImage(Sample(number, name, image, ()))


def _printable(name: str) -> str:
    return name if name.isprintable() else repr(name)


class StoredImages:
    """Training set of the images in a folder whose embeddings a store holds.

    Images are read on access. Images that were unreadable when the store was made are not part of
    the set.
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
        """Reads the image of an entry at its original size."""
        entry = self._entries[index]
        image = load_image(self._folder / entry.name, entry.name, None, PIXELS_CEILING)
        if image_key(image) != entry.key:
            raise DataError(
                f"{self._folder / entry.name} differs from the image that was embedded; run "
                "distill embed over this folder again"
            )
        return TrainingSample(entry.key, image)
