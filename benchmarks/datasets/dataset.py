"""The interface of all datasets: images with reference masks, read shard by shard."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain, islice

from baselines.interface import BoolArray, Float32Array, UInt8Array
from benchmarks.datasets.limits import MAX_PROBLEMS
from benchmarks.datasets.masks import Rle, decode_mask

_READ_AHEAD_IMAGES = 1000


@dataclass(frozen=True, slots=True, eq=False)
class Instance:
    """One annotated object.

    Attributes:
        category: Name of the class; empty where the dataset has none (SA-1B).
        area_px: Area stated by the annotation, in pixels; determines the size class.
        box: (4,) float32 xyxy with half-open edges, in pixels of the original image.
        rle: Reference mask at the size of the image; well-formed and not empty.
        points: (K, 2) float32 xy stored with the annotation (SA-1B's `point_coords`), or None.
    """

    annotation_id: int
    category: str
    area_px: float
    box: Float32Array
    rle: Rle
    points: Float32Array | None = None

    def mask(self) -> BoolArray:
        """Decodes the reference mask: a new (H, W) bool array at the size of the image."""
        return decode_mask(self.rle)


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """An image, (H, W, 3) uint8 RGB, with its annotated objects, at least one."""

    image_id: int
    name: str
    image: UInt8Array
    instances: tuple[Instance, ...]


@dataclass(frozen=True, slots=True)
class UnreadableImage:
    """An image that cannot be used; yielded in its place so that it can be counted.

    Attributes:
        image_id: -1 if unknown (damaged archive).
        reason: One line that states what is wrong with the file.
        n_instances: Number of annotated objects of the image, as far as known.
    """

    image_id: int
    name: str
    reason: str
    n_instances: int = 0


@dataclass(frozen=True, slots=True)
class LoadedImage:
    """One image, with the number of its unused annotations by reason and their problems."""

    sample: Sample | UnreadableImage
    left_out: Mapping[str, int] = field(default_factory=dict)
    problems: tuple[str, ...] = ()


ImageReader = Callable[[], LoadedImage]
"""Reads one image when called. Small, and picklable for other processes."""


@dataclass(frozen=True, slots=True)
class Shard:
    """Consecutive images of a dataset, located but not read. Picklable for other processes.

    Attributes:
        name: Unique within the dataset and usable as a file name; shards sort by it.
        dataset: Name of the whole dataset.
        readers: One per image, in order.
        images: Id and file name of each image.
        share: Fraction of the dataset's data in this shard, in [0, 1].
        fingerprint: As in `Dataset`, for this shard; the same for `images_state`.
    """

    name: str
    dataset: str
    fingerprint: str
    readers: tuple[ImageReader, ...]
    images: tuple[tuple[int, str], ...]
    share: float
    images_state: str = ""

    def without(self, reasons: Mapping[int, str]) -> Shard:
        """Returns a copy in which some images, by position, are unreadable for given reasons."""
        readers = list(self.readers)
        for index, reason in reasons.items():
            image = UnreadableImage(*self.images[index], reason)
            readers[index] = partial(LoadedImage, image)
        return replace(self, readers=tuple(readers))


class Dataset(ABC):
    """Images with reference masks in a fixed order, one image in memory at a time.

    Args:
        name: Short name for tables, such as `coco:val2017_dev`.
        left_out: Number of unused annotations by reason, as far as known before reading images.
        problems: One line for each malformed annotation, as far as known.
        notes: Remarks on the data for the user, one line each.
    """

    def __init__(
        self,
        name: str,
        left_out: Mapping[str, int] | None = None,
        problems: Sequence[str] = (),
        notes: Sequence[str] = (),
    ) -> None:
        self.name = name
        self.notes = tuple(notes)
        self._known = dict(left_out or {}), tuple(problems)
        self._found: dict[int, tuple[Mapping[str, int], tuple[str, ...]]] = {}

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """SHA-256 (hex) of all that determines prompts and references, but not of pixels."""

    @property
    def images_state(self) -> str:
        """SHA-256 (hex) of folder, name, size and modification time of all image files.

        Cached results depend on it and on the fingerprint, since they depend on the pixels. Prompts
        depend on the fingerprint only, so they stay valid when images are moved. Empty for datasets
        without image files, whose fingerprint also determines the pixels.
        """
        return ""

    @property
    @abstractmethod
    def n_images(self) -> int | None:
        """Number of images, unreadable ones included, after the limit; None if not known."""

    @abstractmethod
    def shards(self, images_per_shard: int | None = None) -> Iterator[Shard]:
        """Yields the dataset in shards of consecutive images, in order, each when it is due.

        Args:
            images_per_shard: Largest number of images in a shard. None gives the whole dataset as
                one shard; SA-1B gives one for each tar or folder.
        """

    @property
    def left_out(self) -> Mapping[str, int]:
        """Number of unused annotations by reason (`crowd`, `empty`, `malformed`).

        Datasets that parse annotations with each image count them while images are read: the
        counts are complete after a pass over all images, and belong to the latest pass.
        """
        total = Counter(self._known[0])
        for _, (left_out, _) in sorted(self._found.items()):
            total.update(left_out)
        return dict(total)

    @property
    def problems(self) -> tuple[str, ...]:
        """One line for each of the first malformed annotations; complete when `left_out` is."""
        found = chain.from_iterable(self._found[index][1] for index in sorted(self._found))
        return tuple(islice(chain(self._known[1], found), MAX_PROBLEMS))

    def loaders(self) -> Iterator[Callable[[], Sample | UnreadableImage]]:
        """Yields one function per image that reads it; several threads may call them."""
        self._found = {}
        readers = (reader for shard in self.shards(_READ_AHEAD_IMAGES) for reader in shard.readers)
        for index, reader in enumerate(readers):
            yield partial(self.read, index, reader)

    def samples(self) -> Iterator[Sample | UnreadableImage]:
        """Yields all images in order, each read when it is due."""
        for load in self.loaders():
            yield load()

    def read(self, index: int, reader: ImageReader) -> Sample | UnreadableImage:
        """Reads the image at a position and records the problems of its annotations."""
        loaded = reader()
        if loaded.left_out:
            self._found[index] = loaded.left_out, loaded.problems
        return loaded.sample


class ShardDataset(Dataset):
    """One shard as a dataset of its own, with the name of the whole dataset."""

    def __init__(self, shard: Shard) -> None:
        super().__init__(shard.dataset)
        self._shard = shard

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the shard."""
        return self._shard.fingerprint

    @property
    def images_state(self) -> str:
        """State of the image files of the shard."""
        return self._shard.images_state

    @property
    def n_images(self) -> int:
        """Number of images of the shard."""
        return len(self._shard.readers)

    def shards(self, images_per_shard: int | None = None) -> Iterator[Shard]:
        """Yields the shard itself, whatever its size."""
        del images_per_shard
        yield self._shard


def consecutive_shards(
    dataset: Dataset,
    readers: Sequence[ImageReader],
    images: Sequence[tuple[int, str]],
    images_per_shard: int | None,
    images_state: Callable[[slice], str] = lambda _: "",
) -> Iterator[Shard]:
    """Yields shards of a dataset whose images are all known.

    Args:
        dataset: The dataset.
        readers: One per image.
        images: Id and file name of each image.
        images_per_shard: As in `Dataset.shards`.
        images_state: Returns the state of the image files of a slice of the images.
    """
    step = images_per_shard or len(readers)
    for start in range(0, len(readers), step):
        part = slice(start, start + step)
        n_images = len(readers[part])
        key = f"{dataset.fingerprint} {start} {n_images}"
        yield Shard(
            name=f"{start:08d}",
            dataset=dataset.name,
            fingerprint=hashlib.sha256(key.encode()).hexdigest(),
            readers=tuple(readers[part]),
            images=tuple(images[part]),
            share=n_images / len(readers),
            images_state=images_state(part),
        )
