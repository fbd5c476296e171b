"""A dataset cut into parts of a few images each, so that nobody needs to hold all of it."""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from benchmarks.datasets.dataset import BadSample, Dataset, Sample


@dataclass(frozen=True, slots=True)
class Loaded:
    """One image, and what was found wrong with its annotations.

    Attributes:
        sample: The image.
        left_out: Annotations that are not used, by reason.
        problems: One line for each malformed annotation.
    """

    sample: Sample | BadSample
    left_out: Mapping[str, int] = field(default_factory=dict)
    problems: tuple[str, ...] = ()


Reader = Callable[[], Loaded]
"""Reads one image when called; small, and can be sent to another process."""


@dataclass(frozen=True, slots=True)
class Part:
    """Consecutive images of a dataset, found but not read. It can be sent to another process.

    Attributes:
        name: Unique in the dataset, fit for a file name; parts sort by it.
        dataset: Name of the whole dataset.
        fingerprint: SHA-256 (hex) of what decides its prompts and references.
        readers: One an image, in order.
        names: Id and file name of each image.
        share: Of the dataset's work, in [0, 1].
        images_state: State of the image files, as in `Dataset`; needed where the fingerprint does
            not determine the pixels.
    """

    name: str
    dataset: str
    fingerprint: str
    readers: tuple[Reader, ...]
    names: tuple[tuple[int, str], ...]
    share: float
    images_state: str = ""

    def unread(self, bad: Mapping[int, str]) -> Part:
        """The same with reasons in place of images that must not even be read."""
        readers = list(self.readers)
        for index, why in bad.items():
            readers[index] = _Unread(*self.names[index], why)
        return replace(self, readers=tuple(readers))


@dataclass(frozen=True, slots=True)
class _Unread:
    """Stands for an image that must not be read; how many objects it has is not known."""

    image_id: int
    name: str
    why: str

    def __call__(self) -> Loaded:
        return Loaded(BadSample(self.image_id, self.name, self.why))


class CutDataset(Dataset):
    """A dataset that can be cut into parts."""

    @abstractmethod
    def parts(self, n_images: int) -> Iterator[Part]:
        """Yields parts of at most so many images, in order, each when it is due."""


class PartDataset(Dataset):
    """One part as a dataset of its own, whose images may be read by several threads.

    Args:
        part: Which.
    """

    def __init__(self, part: Part) -> None:
        self._part = part
        self._found: dict[int, Loaded] = {}

    @property
    def name(self) -> str:
        """That of the whole dataset."""
        return self._part.dataset

    @property
    def fingerprint(self) -> str:
        """That of the part."""
        return self._part.fingerprint

    @property
    def images_state(self) -> str:
        """State of the image files of this part."""
        return self._part.images_state

    @property
    def n_images(self) -> int:
        """Of the part."""
        return len(self._part.readers)

    @property
    def left_out(self) -> Mapping[str, int]:
        """Annotations left out of the part, by reason; complete when all images were read."""
        total: Counter[str] = Counter()
        for _, found in sorted(self._found.items()):
            total.update(found.left_out)
        return dict(total)

    @property
    def problems(self) -> tuple[str, ...]:
        """One line for each malformed annotation of the part, in the order of images."""
        return tuple(line for _, found in sorted(self._found.items()) for line in found.problems)

    def samples(self) -> Iterator[Sample | BadSample]:
        """Reads the images in order."""
        for load in self.loaders():
            yield load()

    def loaders(self) -> Iterator[Callable[[], Sample | BadSample]]:
        """One call an image."""
        for index in range(len(self._part.readers)):
            yield _Loader(self, index)

    def read(self, index: int) -> Sample | BadSample:
        """Reads one image and remembers what was wrong with it, but not the image."""
        found = self._part.readers[index]()
        blank = BadSample(-1, "", "")
        self._found[index] = replace(found, sample=blank)
        return found.sample


@dataclass(frozen=True, slots=True)
class _Loader:
    owner: PartDataset
    index: int

    def __call__(self) -> Sample | BadSample:
        return self.owner.read(self.index)
