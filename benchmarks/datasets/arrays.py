"""A dataset made of arrays in memory, for the Python API."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from baselines.interface import BoolArray, UInt8Array
from baselines.pixels import mask_box
from benchmarks.datasets.dataset import Dataset, Instance, LoadedImage, Sample, Shard
from benchmarks.datasets.dataset import consecutive_shards as shards_of
from benchmarks.datasets.masks import encode_mask
from mobilesam.errors import UsageError


@dataclass(frozen=True, slots=True, eq=False)
class _ArrayReader:
    """Returns one image with its masks; picklable."""

    sample: Sample

    def __call__(self) -> LoadedImage:
        return LoadedImage(self.sample)


class ArrayDataset(Dataset):
    """Images with reference masks given as arrays.

    Args:
        items: One pair per image: an (H, W, 3) uint8 RGB array, and an (N, H, W) bool array or a
            list of N (H, W) bool arrays with at least one mask, none of them empty.
        name: Name of the dataset in tables.

    Raises:
        UsageError: An item has another form; the message names its position.
    """

    def __init__(self, items: Sequence[tuple[UInt8Array, BoolArray]], name: str = "arrays") -> None:
        super().__init__(name)
        if len(items) == 0:
            raise UsageError("the dataset is empty: give at least one pair (image, masks)")
        digest = hashlib.sha256()
        self._samples = []
        n_masks = 0
        for index, item in enumerate(items):
            image, masks = _checked(item, index)
            digest.update(f"{image.shape} {len(masks)} ".encode())
            digest.update(image.tobytes() + np.packbits(masks).tobytes())
            instances = tuple(
                _instance(mask, n_masks + number) for number, mask in enumerate(masks)
            )
            n_masks += len(masks)
            self._samples.append(Sample(index, f"image {index}", image, instances))
        self._fingerprint = digest.hexdigest()

    @property
    def fingerprint(self) -> str:
        """SHA-256 of all pixels and masks."""
        return self._fingerprint

    @property
    def n_images(self) -> int:
        """Number of images."""
        return len(self._samples)

    def shards(self, images_per_shard: int | None = None) -> Iterator[Shard]:
        """Yields shards of consecutive images."""
        readers = [_ArrayReader(sample) for sample in self._samples]
        images = [(sample.image_id, sample.name) for sample in self._samples]
        return shards_of(self, readers, images, images_per_shard)


def _checked(item: Any, index: int) -> tuple[UInt8Array, BoolArray]:
    where = f"item {index} of the dataset"
    if not isinstance(item, (tuple, list)) or len(item) != 2:
        raise UsageError(f"{where} must be a pair (image, masks); got {type(item).__name__}")
    image, masks = np.asarray(item[0]), np.asarray(item[1])
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise UsageError(
            f"{where}: the image must be (H, W, 3) uint8 RGB; got {image.shape} {image.dtype}"
        )
    if masks.dtype != np.bool_ or masks.ndim != 3:
        raise UsageError(
            f"{where}: the masks must be (N, H, W) bool; got {masks.shape} {masks.dtype}"
        )
    if masks.shape[1:] != image.shape[:2]:
        raise UsageError(
            f"{where}: the masks are {masks.shape[1:]} and the image is {image.shape[:2]}; both "
            "must have the same height and width"
        )
    if len(masks) == 0:
        raise UsageError(f"{where} has no mask; leave the image out")
    empty = np.flatnonzero(~masks.any(axis=(1, 2)))
    if len(empty):
        raise UsageError(f"{where}: mask {empty[0]} is empty; leave it out")
    return image, masks


def _instance(mask: BoolArray, annotation_id: int) -> Instance:
    return Instance(
        annotation_id=annotation_id,
        category="",
        area_px=float(mask.sum()),
        box=np.array(mask_box(mask), np.float32),
        rle=encode_mask(mask),
    )
