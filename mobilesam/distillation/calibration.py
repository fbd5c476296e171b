"""Gives a fresh student the scale of its teacher's embeddings, so that no step is spent on it.

A fresh encoder ends in a normalisation with gain 1, and SAM's embeddings deviate by less than 0.1:
at AdamW's usual rates a short training would do little else than shrink that gain.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mobilesam.distillation.embedding_store import EmbeddingStore
from mobilesam.errors import DataError, UsageError
from mobilesam.model.tiny_vit import LayerNorm2d, TinyViT

DEFAULT_IMAGES = 30


def channel_statistics(
    store: EmbeddingStore, n_images: int = DEFAULT_IMAGES
) -> tuple[Tensor, Tensor]:
    """Mean and deviation of each channel over the cells that see an image.

    Args:
        store: Of the teacher's embeddings.
        n_images: At most so many, spread evenly over the store.

    Returns:
        Two (C,) float32.

    Raises:
        DataError: The store is empty.
    """
    if not len(store):
        raise DataError("the embedding store is empty: it has no statistics")
    cells = []
    for index in range(0, len(store), max(1, len(store) // n_images)):
        found = store[index]
        rows, columns = found.valid_hw
        cells.append(found.features[:, :rows, :columns].float().flatten(1))
    values = torch.cat(cells, dim=1)
    return values.mean(dim=1), values.std(dim=1)


@torch.no_grad()
def calibrate(encoder: TinyViT, store: EmbeddingStore, n_images: int = DEFAULT_IMAGES) -> None:
    """Sets gain and bias of the encoder's last normalisation to the teacher's statistics.

    Raises:
        UsageError: The student's embedding has another number of channels.
    """
    mean, deviation = channel_statistics(store, n_images)
    last = encoder.neck[-1]
    if not isinstance(last, LayerNorm2d) or len(mean) != encoder.config.neck_channels:
        raise UsageError(f"the student's embedding has not the {len(mean)} channels of the store's")
    n_learned = len(last.weight)  # fewer than the store's where colour channels follow
    last.weight.copy_(deviation[:n_learned])
    last.bias.copy_(mean[:n_learned])
