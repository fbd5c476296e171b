"""The picture's own colours as channels of an embedding: one for each cell of the logits.

They are a space-to-depth (pixel unshuffle) of the RGB picture at the size of SAM's low-resolution
masks. A mask is cut out of cells a quarter as wide as the embedding's. What an encoder says of
sixteen of them in the channels of one is learnt, and for a small encoder dear; which colour each
has, the picture says itself.
"""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from segment_anything.modeling import Sam
from torch import Tensor

from mobilesam.errors import UsageError

_UPSAMPLING = 4  # of an embedding by SAM's decoder, twice by two, to the cells of the logits
N_CELL_COLORS = 3 * _UPSAMPLING**2
"""Channels that colours take: 48."""


class EncoderShape(Protocol):
    """What colours must know of an encoder's configuration."""

    @property
    def cell_colors(self) -> bool:
        """Whether its embeddings carry them."""

    @property
    def total_stride(self) -> int:
        """Pixels a side of one cell."""


def n_learnt(n_channels: int, *, cell_colors: bool) -> int:
    """Channels that are left for a network to compute.

    Raises:
        UsageError: None are.
    """
    found = n_channels - N_CELL_COLORS * cell_colors
    if found < 1:
        raise UsageError(
            f"an embedding of {n_channels} channels has no room for {N_CELL_COLORS} of colours; "
            "give it more channels, or set cell_colors to false"
        )
    return found


def learnt_channels(model: Sam) -> int:
    """Channels of a model's embeddings that are not colours; they come first."""
    shape = getattr(model.image_encoder, "config", None)
    colors = bool(getattr(shape, "cell_colors", False))
    return n_learnt(int(model.prompt_encoder.embed_dim), cell_colors=colors)


def cell_colors(pixels: Tensor, stride: int) -> Tensor:
    """Mean colour of each logit cell.

    Args:
        pixels: (B, 3, S, S) float, normalised.
        stride: Pixels a side of one embedding cell, a multiple of 4.

    Returns:
        (B, 48, S/stride, S/stride): red of the 16 logit cells row by row, then green, then blue.
    """
    return F.pixel_unshuffle(F.avg_pool2d(pixels, stride // _UPSAMPLING), _UPSAMPLING)


def with_cell_colors(embeddings: Tensor, pixels: Tensor, shape: EncoderShape) -> Tensor:
    """Puts the colours behind the channels of embeddings, where the encoder has them.

    Args:
        embeddings: (B, C, h, h).
        pixels: (B, 3, S, S), of which they are.
        shape: Of the encoder.

    Returns:
        (B, C + 48, h, h) of the embeddings' dtype; the embeddings themselves without colours.
    """
    if not shape.cell_colors:
        return embeddings
    colors = cell_colors(pixels, shape.total_stride).to(embeddings.dtype)
    return torch.cat([embeddings, colors], dim=1)
