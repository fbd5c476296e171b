"""What every source of images and reference masks gives, whatever its format on disk."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

from baselines.interface import BoolArray, Float32Array, UInt8Array
from benchmarks.datasets.masks import Rle, decode_mask


@dataclass(frozen=True, slots=True, eq=False)
class Instance:
    """One annotated object.

    Attributes:
        annotation_id: Unique within the dataset.
        category: Name of its class; empty where the dataset has none (SA-1B).
        area_px: The area that the annotation itself states, in pixels; it decides the size class.
        box: (4,) float32 xyxy with half-open edges, in pixels of the original image.
        rle: The reference mask at the image's own size, known to be well-formed and not empty.
        points: (K, 2) float32 xy stored with the annotation (SA-1B's `point_coords`), or None.
    """

    annotation_id: int
    category: str
    area_px: float
    box: Float32Array
    rle: Rle
    points: Float32Array | None = None

    def mask(self) -> BoolArray:
        """Decodes the reference mask: a new (H, W) bool array at the image's own size."""
        return decode_mask(self.rle)


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """An image with its objects.

    Attributes:
        image_id: Unique within the dataset.
        name: File name, for messages and records.
        image: (H, W, 3) uint8 RGB.
        instances: At least one, in a fixed order.
    """

    image_id: int
    name: str
    image: UInt8Array
    instances: tuple[Instance, ...]


@dataclass(frozen=True, slots=True)
class BadSample:
    """An image that could not be used, given in its place so that a run goes on and can count it.

    Attributes:
        image_id: As in `Sample`; -1 where it is not known (a broken archive).
        name: File that is to blame.
        why: One line: what is wrong with it.
        n_instances: Objects that are lost with it, as far as known.
    """

    image_id: int
    name: str
    why: str
    n_instances: int = 0


class Dataset(ABC):
    """Images with reference masks, in a fixed order, one image in memory at a time."""

    @property
    @abstractmethod
    def name(self) -> str:
        """Short name for tables, such as `coco:val2017_dev`."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """SHA-256 (hex) of all that determines prompts and references; pixels do not."""

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
        """Images that `samples` will try, after the limit; None where that is not known ahead."""

    @property
    def left_out(self) -> Mapping[str, int]:
        """Annotations that are not used, by reason (`crowd`, `empty`, `malformed`).

        A dataset that is read as it streams counts them while `samples` runs; read it afterwards.
        """
        return {}

    @property
    def problems(self) -> tuple[str, ...]:
        """One line for each of the first malformed annotations; complete when `left_out` is."""
        return ()

    @property
    def notes(self) -> tuple[str, ...]:
        """Further remarks on the data for the user, one line each; known before images are read."""
        return ()

    @abstractmethod
    def samples(self) -> Iterator[Sample | BadSample]:
        """Yields all images in a fixed order (ascending image id), reading each when it is due.

        An image that cannot be read is yielded as a `BadSample`, never raised.
        """

    def loaders(self) -> Iterator[Callable[[], Sample | BadSample]]:
        """One call an image, in the order of `samples`, which several threads may make.

        A dataset whose images do not stand for themselves reads each while it is handed out.
        """
        for sample in self.samples():
            yield partial(_given, sample)


def _given(sample: Sample | BadSample) -> Sample | BadSample:
    return sample
