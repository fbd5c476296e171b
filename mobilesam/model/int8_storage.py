"""Storage of weight matrices as 8-bit integers with a float32 scale for each output channel.

Files are four times smaller; loading restores float32 tensors. The integers are symmetric:
`weight ~ scale * integer`, with integers in [-127, 127] and `scale = max |weight| / 127` over the
output channel.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from mobilesam.errors import WeightsError

if TYPE_CHECKING:
    from torch import Tensor

SCALE_SUFFIX = ".int8_scale"
"""Suffix of the names of scales."""
_LARGEST = 127


def pack(
    state: Mapping[str, Tensor], channel_dims: Mapping[str, int], full_precision: frozenset[str]
) -> dict[str, Tensor]:
    """Compresses a state dict.

    Args:
        state: Float32 tensors by name.
        channel_dims: Dimension of the output channels of each tensor to store as integers.
        full_precision: Tensors that stay float32; all others become float16.

    Returns:
        Tensors by name; each int8 tensor is followed by its float32 scales.
    """
    import torch

    packed: dict[str, Tensor] = {}
    for name, value in state.items():
        if name in channel_dims:
            others = [dim for dim in range(value.ndim) if dim != channel_dims[name]]
            largest = value.abs().amax(others, keepdim=True)
            scale = largest.clamp_min(torch.finfo(torch.float32).tiny) / _LARGEST
            packed[name] = (value / scale).round().to(torch.int8)
            packed[name + SCALE_SUFFIX] = scale
        elif name in full_precision or not value.is_floating_point():
            packed[name] = value
        else:
            packed[name] = value.half()
    return packed


def unpack(state: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """Restores the float32 tensors of a compressed state dict; other tensors do not change.

    Raises:
        WeightsError: A scale has no tensor, or a shape that does not fit its tensor.
    """
    restored: dict[str, Tensor] = {}
    for name, value in state.items():
        if name.endswith(SCALE_SUFFIX):
            stored = state.get(name.removesuffix(SCALE_SUFFIX))
            fits = stored is not None and value.ndim == stored.ndim
            if stored is None or not fits or value.numel() != max(value.shape, default=1):
                raise WeightsError(
                    f"{source} is damaged: {name} does not belong to an int8 tensor; "
                    "fetch or copy the file again"
                )
            continue
        scale = state.get(name + SCALE_SUFFIX)
        restored[name] = value if scale is None else value.float() * scale
    return restored
