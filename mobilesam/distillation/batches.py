"""Training samples and the batches of a step: augmented, normalised and padded as SAM does."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mobilesam.model.sam_heads import PIXEL_MEAN, PIXEL_STD

Labels = npt.NDArray[np.uint8]
"""(k * h, k * w) object numbers of an image of h x w pixels, k an integer; 0 is background."""


@dataclass(frozen=True, slots=True, eq=False)
class TrainingSample:
    """One image and its objects."""

    key: str  # its `image_key`, or any other identity of its content
    image: npt.NDArray[np.uint8]  # (h, w, 3) RGB
    labels: Labels | None = None  # None without ground truth


class TrainingSet(Protocol):
    """Images with random access."""

    @property
    def fingerprint(self) -> str:
        """Identity of the images, so that a run is not resumed with others."""

    def __len__(self) -> int:
        """Number of images."""

    def sample(self, index: int) -> TrainingSample:
        """The image of this index, the same at every call."""


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Images of one forward pass."""

    images: Tensor  # (B, 3, S, S) float32, normalised, zero-padded below and to the right
    inner_hw: tuple[tuple[int, int], ...]  # without the padding, in pixels of the input
    keys: tuple[str, ...]  # in the embedding store
    labels: tuple[Labels | None, ...]
    generators: tuple[np.random.Generator, ...]  # of each image, independent of the others
    step_draw: float  # uniform in [0, 1), equal for all micro-batches of the step

    def __len__(self) -> int:
        return len(self.keys)

    def to(self, device: torch.device) -> Batch:
        """Copies the pixels to a device."""
        return replace(self, images=self.images.to(device))

    def valid(self, cells: int) -> Tensor:
        """(B, 1, cells, cells) float32: 1 where a cell covers any of the image."""
        side = self.images.shape[-1]
        mask = torch.zeros(len(self), 1, cells, cells, device=self.images.device)
        for row, (height, width) in enumerate(self.inner_hw):
            mask[row, :, : -(-height * cells // side), : -(-width * cells // side)] = 1
        return mask


def step_indices(n_samples: int, batch_size: int, seed: int, step: int) -> list[int]:
    """Indices of the images of a step; every epoch has a random order of its own."""
    chosen = []
    order: dict[int, npt.NDArray[np.int64]] = {}
    for position in range(step * batch_size, (step + 1) * batch_size):
        epoch, row = divmod(position, n_samples)
        if epoch not in order:
            order[epoch] = np.random.default_rng([seed, 1, epoch]).permutation(n_samples)
        chosen.append(int(order[epoch][row]))
    return chosen


def make_batch(
    data: TrainingSet,
    indices: list[int],
    slots: list[int],
    *,
    side_px: int,
    seed: int,
    step: int,
    augment: bool,
    zoom: float = 0.0,
    zoom_least: float = 0.5,
) -> Batch:
    """Reads the images of `indices` and makes a batch of them.

    The randomness of an image depends on `seed`, `step` and its slot, its position in the whole
    batch of the step. `augment` mirrors, permutes colour channels, and changes contrast and
    brightness. A share `zoom` of the images is cropped, to a side of at least `zoom_least`.
    """
    generators = tuple(np.random.default_rng([seed, 2, step, slot]) for slot in slots)
    images = torch.zeros(len(indices), 3, side_px, side_px)
    mean, deviation = np.array(PIXEL_MEAN, np.float32), np.array(PIXEL_STD, np.float32)
    inner, keys, labels = [], [], []
    for row, (index, rng) in enumerate(zip(indices, generators, strict=True)):
        sample = data.sample(index)
        if zoom and rng.random() < zoom:
            sample = _crop(rng, sample, zoom_least)
        sample = resize_sample(sample, side_px)
        if augment:
            sample = _augment(rng, sample)
        height, width = sample.image.shape[:2]
        normal = (sample.image.astype(np.float32) - mean) / deviation
        images[row, :, :height, :width] = torch.from_numpy(normal.transpose(2, 0, 1))
        inner.append((height, width))
        keys.append(sample.key)
        labels.append(sample.labels)
    draw = float(np.random.default_rng([seed, 3, step]).random())
    return Batch(images, tuple(inner), tuple(keys), tuple(labels), generators, draw)


def resize_sample(sample: TrainingSample, side_px: int) -> TrainingSample:
    """Resizes the longest side of the image to `side_px`; labels keep their size."""
    from PIL import Image

    height, width = sample.image.shape[:2]
    if max(height, width) == side_px:
        return sample
    scale = side_px / max(height, width)
    size_hw = int(height * scale + 0.5), int(width * scale + 0.5)
    resized = Image.fromarray(sample.image).resize(size_hw[::-1], Image.Resampling.BILINEAR)
    return replace(sample, image=np.asarray(resized))


def _crop(rng: np.random.Generator, sample: TrainingSample, least: float) -> TrainingSample:
    """A random crop with the image's aspect ratio that contains a pixel of a random object.

    The logarithm of its scale is uniform between `least` and 1.
    """
    share = least ** rng.random()
    image, labels = sample.image, sample.labels
    factor = 1 if labels is None else labels.shape[0] // image.shape[0]
    pixel: tuple[int, int] | None = None
    if labels is not None and labels.any():
        chosen = np.flatnonzero(labels == rng.choice(object_numbers(labels)))
        row, column = divmod(int(rng.choice(chosen)), labels.shape[1])
        pixel = row // factor, column // factor
    spans = []
    for axis, length in enumerate(image.shape[:2]):
        size = max(1, round(length * share))
        first, last = 0, length - size
        if pixel is not None:
            first, last = max(first, pixel[axis] - size + 1), min(last, pixel[axis])
        start = int(rng.integers(first, last + 1))
        spans.append((start, start + size))
    (top, bottom), (left, right) = spans
    if labels is not None:
        labels = labels[top * factor : bottom * factor, left * factor : right * factor]
    return TrainingSample(sample.key, image[top:bottom, left:right], labels)


def object_numbers(labels: Labels) -> npt.NDArray[np.int64]:
    """Object numbers in a label map, ascending; ten times faster than `np.unique`."""
    return 1 + np.flatnonzero(np.bincount(labels.ravel())[1:])


def _augment(rng: np.random.Generator, sample: TrainingSample) -> TrainingSample:
    """Mirrors, permutes colour channels, changes contrast and brightness."""
    pixels, labels = sample.image, sample.labels
    for axis in (0, 1):
        if rng.random() < 0.5:
            pixels = np.flip(pixels, axis)
            labels = None if labels is None else np.flip(labels, axis)
    pixels = pixels[:, :, rng.permutation(3)]
    contrast, brightness = (
        np.float32(rng.uniform(0.8, 1.25)),
        np.float32(128 + rng.uniform(-20, 20)),
    )
    changed = (pixels.astype(np.float32) - 128) * contrast + brightness
    return TrainingSample(sample.key, np.clip(changed, 0, 255).astype(np.uint8), labels)
