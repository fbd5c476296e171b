"""What the training loop draws from: images at the network's size, with what is known of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True, eq=False)
class TrainingSample:
    """One image.

    Attributes:
        key: Identity of its content, for the embedding store.
        image: (h, w, 3) uint8 RGB, resized so that the longest side is the network's input.
        labels: (k * h, k * w) uint8, k a whole number: 0 the ground, i the i-th object; None where
            no ground truth is known.
    """

    key: str
    image: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.uint8] | None = None


class TrainingSet(Protocol):
    """Images that can be had in any order."""

    @property
    def fingerprint(self) -> str:
        """What decides the images, so that a run is not taken up with others."""

    def __len__(self) -> int:
        """Number of images."""

    def sample(self, index: int) -> TrainingSample:
        """The image of this number, always the same one."""
