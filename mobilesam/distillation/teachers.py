"""Where a teacher's embeddings come from: computed when they are due, or stored beforehand."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import torch
from segment_anything.modeling import Sam
from torch import Tensor

from mobilesam.distillation.batches import Batch
from mobilesam.distillation.embedding_store import EmbeddingStore, Teacher
from mobilesam.errors import UsageError


class EmbeddingSource(Protocol):
    """A teacher's image encoder, one way or the other."""

    @property
    def sha256(self) -> str | None:
        """Of the teacher's weights."""

    @property
    def can_augment(self) -> bool:
        """Whether it knows the embedding of a picture that has been changed."""

    def to(self, device: torch.device) -> None:
        """Moves what it computes with to a device."""

    def embeddings(self, batch: Batch) -> Tensor:
        """(B, C, h, w) float32 of the batch's images, without gradients."""


class OnlineTeacher:
    """Runs the teacher's encoder for every batch: no disk, and any augmentation.

    Args:
        model: The teacher; frozen here.
        sha256: Of its weights.
        side_px: Side of the student's input.

    Raises:
        UsageError: The teacher takes another size of input.
    """

    can_augment = True

    def __init__(self, model: Sam, sha256: str | None, side_px: int) -> None:
        own = int(model.image_encoder.img_size)
        if own != side_px:
            raise UsageError(
                f"the teacher takes {own} px and the student {side_px} px; store the teacher's "
                "embeddings with distill embed, or give the student the teacher's size"
            )
        self._encoder = model.image_encoder.eval().requires_grad_(False)
        self.sha256 = sha256

    def to(self, device: torch.device) -> None:
        """Moves the encoder."""
        self._encoder.to(device)

    @torch.no_grad()
    def embeddings(self, batch: Batch) -> Tensor:
        """Runs the encoder."""
        found: Tensor = self._encoder(batch.images)
        return found.float()


class StoredTeacher:
    """Reads embeddings that `distill embed` has stored, as the paper does.

    Args:
        folder: Of the store.
        teacher: Whose embeddings are wanted; None takes any.

    Raises:
        DataError: The store is missing or damaged.
        UsageError: It was made by another model.
        WeightsError: It was made with other weights.
    """

    can_augment = False

    def __init__(self, folder: Path, teacher: Teacher | None = None) -> None:
        self.store = EmbeddingStore(folder, teacher)

    def to(self, device: torch.device) -> None:
        """Does nothing: it follows the batch."""

    @property
    def sha256(self) -> str | None:
        """Of the teacher's weights, as the store says."""
        return self.store.manifest.teacher.weights_sha256

    def embeddings(self, batch: Batch) -> Tensor:
        """Looks the images up by their content.

        Raises:
            DataError: An image is not in the store.
        """
        rows = [self.store.get(key).features.float() for key in batch.keys]
        return torch.stack(rows).to(batch.images.device)
