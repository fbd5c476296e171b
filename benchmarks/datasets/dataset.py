"""The interface of all datasets, images with reference masks that are read shard by shard."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import chain, islice
from typing import Any

import numpy as np

from baselines.interface import BoolArray, Float32Array, UInt8Array
from benchmarks.datasets import MAX_PROBLEMS
from benchmarks.datasets.masks import Rle, decode_mask, encode_mask, rle_area_px, rle_box
from mobilesam.errors import DataError, UsageError

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
        category_id: Id of the class in the annotation file; None where classes have no ids.
        ignored: Pixels that count neither as object nor as background, or None; predicted masks
            are scored without them.
    """

    annotation_id: int
    category: str
    area_px: float
    box: Float32Array
    rle: Rle
    points: Float32Array | None = None
    category_id: int | None = None
    ignored: Rle | None = None

    @classmethod
    def from_mask(cls, annotation_id: int, category: str, mask: BoolArray) -> Instance:
        """An instance with area and tight box of its (H, W) mask, which is not empty."""
        rle = encode_mask(mask)
        return cls(annotation_id, category, float(rle_area_px(rle)), rle_box(rle), rle)

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
    """An image that cannot be used, with its annotated objects as far as known, to be counted.

    Its id is -1 if unknown (damaged archive).
    """

    image_id: int
    name: str
    reason: str
    n_instances: int = 0


def readable(samples: Iterable[Sample | UnreadableImage]) -> Iterator[Sample]:
    """All samples; a DataError at the first that cannot be used."""
    for sample in samples:
        if isinstance(sample, UnreadableImage):
            raise DataError(f"{sample.name}: {sample.reason}; every image is needed here")
        yield sample


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

    Attributes:
        name: Short name for tables, such as `coco:val2017_dev`.
        notes: Remarks on the data for the user, one line each.
        doubts: Those of the notes that are about likely mistakes in the data.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.notes: tuple[str, ...] = ()
        self.doubts: tuple[str, ...] = ()
        # `left_out` and `problems` of each image by its position; at -1, of the dataset's files.
        self._found: dict[int, tuple[Mapping[str, int], Sequence[str]]] = {-1: ({}, ())}

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
        total: Counter[str] = Counter()
        for index in sorted(self._found):
            total.update(self._found[index][0])
        return dict(total)

    @property
    def problems(self) -> tuple[str, ...]:
        """One line for each of the first malformed annotations; complete when `left_out` is."""
        found = chain.from_iterable(self._found[index][1] for index in sorted(self._found))
        return tuple(islice(found, MAX_PROBLEMS))

    def loaders(self) -> Iterator[Callable[[], Sample | UnreadableImage]]:
        """Yields one function per image that reads it; several threads may call them."""
        self._found = {-1: self._found[-1]}

        def read(index: int, reader: ImageReader) -> Sample | UnreadableImage:
            loaded = reader()
            if loaded.left_out:
                self._found[index] = loaded.left_out, loaded.problems
            return loaded.sample

        readers = (reader for shard in self.shards(_READ_AHEAD_IMAGES) for reader in shard.readers)
        for index, reader in enumerate(readers):
            yield partial(read, index, reader)

    def samples(self) -> Iterator[Sample | UnreadableImage]:
        """Yields all images in order, each read when it is due."""
        for load in self.loaders():
            yield load()


class IndexedDataset(Dataset):
    """A dataset with a list of all images: id, file name and reader of each."""

    def __init__(
        self, name: str, fingerprint: str, images: Sequence[tuple[int, str, ImageReader]]
    ) -> None:
        super().__init__(name)
        self._fingerprint = fingerprint
        self._images = images

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of all that determines prompts and references."""
        return self._fingerprint

    @cached_property
    def images_state(self) -> str:
        """State of all image files."""
        return self._state_of(slice(None))

    @property
    def n_images(self) -> int:
        """Number of images, unreadable ones included."""
        return len(self._images)

    def shards(self, images_per_shard: int | None = None) -> Iterator[Shard]:
        """Yields shards of consecutive images."""
        step = images_per_shard or len(self._images)
        for start in range(0, len(self._images), step):
            part = slice(start, start + step)
            ids, names, readers = zip(*self._images[part], strict=True)
            key = f"{self.fingerprint} {start} {len(ids)}"
            yield Shard(
                name=f"{start:08d}",
                dataset=self.name,
                fingerprint=hashlib.sha256(key.encode()).hexdigest(),
                readers=readers,
                images=tuple(zip(ids, names, strict=True)),
                share=len(ids) / len(self._images),
                images_state=self._state_of(part),
            )

    def _state_of(self, part: slice) -> str:
        """State of the image files of some images; empty without files."""
        del part
        return ""


class ShardDataset(IndexedDataset):
    """One shard as a dataset of its own, with the name of the whole dataset."""

    def __init__(self, shard: Shard) -> None:
        images = [(*each, read) for each, read in zip(shard.images, shard.readers, strict=True)]
        super().__init__(shard.dataset, shard.fingerprint, images)
        self._shard = shard

    def shards(self, images_per_shard: int | None = None) -> Iterator[Shard]:
        """Yields the shard itself, whatever its size."""
        del images_per_shard
        yield self._shard

    def _state_of(self, part: slice) -> str:
        del part
        return self._shard.images_state


class ArrayDataset(IndexedDataset):
    """Images with reference masks given as arrays.

    Args:
        items: One pair per image: an (H, W, 3) uint8 RGB array, and an (N, H, W) bool array or a
            list of N (H, W) bool arrays with at least one mask, none of them empty.
        name: Name of the dataset in tables.

    Raises:
        UsageError: An item has another form; the message names its position.
    """

    def __init__(self, items: Sequence[tuple[UInt8Array, BoolArray]], name: str = "arrays") -> None:
        if len(items) == 0:
            raise UsageError("the dataset is empty: give at least one pair (image, masks)")
        digest = hashlib.sha256()
        images: list[tuple[int, str, ImageReader]] = []
        n_masks = 0
        for index, item in enumerate(items):
            image, masks = _check_arrays(item, f"item {index} of the dataset")
            digest.update(f"{image.shape} {len(masks)} ".encode())
            digest.update(image.tobytes() + np.packbits(masks).tobytes())
            instances = (Instance.from_mask(n_masks + i, "", mask) for i, mask in enumerate(masks))
            sample = Sample(index, f"image {index}", image, tuple(instances))
            images.append((index, sample.name, partial(LoadedImage, sample)))
            n_masks += len(masks)
        super().__init__(name, digest.hexdigest(), images)


def _check_arrays(item: Any, where: str) -> tuple[UInt8Array, BoolArray]:
    if not isinstance(item, (tuple, list)) or len(item) != 2:
        raise UsageError(f"{where} must be a pair (image, masks); got {type(item).__name__}")
    image, masks = np.asarray(item[0]), np.asarray(item[1])
    problem = None
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        problem = f": the image must be (H, W, 3) uint8 RGB; got {image.shape} {image.dtype}"
    elif masks.dtype != np.bool_ or masks.ndim != 3:
        problem = f": the masks must be (N, H, W) bool; got {masks.shape} {masks.dtype}"
    elif masks.shape[1:] != image.shape[:2]:
        problem = (
            f": the masks are {masks.shape[1:]} and the image is {image.shape[:2]}; both must "
            "have the same height and width"
        )
    elif len(masks) == 0:
        problem = " has no mask; leave the image out"
    elif not (is_filled := masks.any(axis=(1, 2))).all():
        problem = f": mask {np.argmin(is_filled)} is empty; leave it out"
    if problem is not None:
        raise UsageError(f"{where}{problem}")
    return image, masks
