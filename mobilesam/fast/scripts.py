"""Parts of the encoder's layers, as functions that TorchScript compiles.

A compiled function runs all of its operations without Python's global interpreter lock, which the
threads of `mobilesam.fast.threads` would otherwise hand to each other at every operation. Where
TorchScript cannot compile, as it is no longer developed, the same functions run in Python.

Images are (H, W, C), and those to write to are called `out`. `packed` says that weights are in
oneDNN's layout, and `fused` that its products compute GELU as well. Functions use nothing but what
TorchScript knows.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from mobilesam.process_state import ignored_warnings

Weight = tuple[Tensor, Tensor | None]  # with its bias
_Function = TypeVar("_Function", bound=Callable[..., Any])


@cache
def compiled(function: _Function) -> _Function:
    """The function as compiled by TorchScript, or itself."""
    try:
        with ignored_warnings():
            scripted: _Function = torch.jit.script(function)
    except (AttributeError, RuntimeError, NotImplementedError):
        return function
    return scripted


def linear(x: Tensor, weight: Weight, packed: bool) -> Tensor:
    """(rows, C_in) -> a new (rows, C_out)."""
    if packed:
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight[0], weight[1], "none", [], "")
    else:
        out = F.linear(x, weight[0], weight[1])
    return out


def linear_gelu(x: Tensor, weight: Weight, packed: bool, fused: bool) -> Tensor:
    """(rows, C_in) -> a new (rows, C_out) through GELU, in one operation or in two."""
    if packed and fused:
        out: Tensor = torch.ops.mkldnn._linear_pointwise(
            x, weight[0], weight[1], "gelu", [], "none"
        )
    else:
        out = torch.ops.aten.gelu_(linear(x, weight, packed))
    return out


def convolve(
    x: Tensor, weight: Weight, packed: bool, stride: int, groups: int, skip: int, rows: int
) -> Tensor:
    """A 3x3 convolution, of which `rows` rows are wanted, the first `skip` rows left out.

    The image is padded by one on all sides, but not above and below if `skip` is -1.
    """
    pad = [0 if skip < 0 else 1, 1]
    strides = [stride, stride]
    # The batch is added first: its stride decides whether torch sees channels last.
    planes = x.unsqueeze(0).permute(0, 3, 1, 2)
    if packed:
        out: Tensor = torch.ops.mkldnn._convolution_pointwise(
            planes, weight[0], weight[1], pad, strides, [1, 1], groups, "none", [], ""
        )
    else:
        out = F.conv2d(planes, weight[0], weight[1], strides, pad, [1, 1], groups)
    first = max(0, skip)
    return out.squeeze(0).permute(1, 2, 0)[first : first + rows]


def stem(
    x: Tensor,
    out: Tensor,
    first: Weight,
    second: Weight,
    packed: bool,
    skip: tuple[int, int],
    rows: int,
) -> None:
    """Two strided convolutions; `rows` is of what is between them."""
    hidden = convolve(x.to(out.dtype), first, packed, 2, 1, skip[0], rows)
    hidden = torch.ops.aten.gelu_(hidden)
    out.copy_(convolve(hidden, second, packed, 2, 1, skip[1], out.size(0)))


def bottleneck(
    x: Tensor,
    residual: Tensor | None,
    out: Tensor,
    expand: Weight,
    depthwise: Weight,
    project: Weight,
    packed: bool,
    fused: bool,
    stride: int,
    skip: int,
) -> None:
    """Expands, convolves depthwise and projects."""
    hidden = linear_gelu(x.flatten(0, 1), expand, packed, fused).view(x.size(0), x.size(1), -1)
    hidden = convolve(hidden, depthwise, packed, stride, hidden.size(2), skip, out.size(0))
    hidden = torch.ops.aten.gelu_(hidden)
    narrow = linear(hidden.flatten(0, 1), project, packed).view(out.shape)
    if residual is None:
        out.copy_(narrow)
    else:
        torch.add(narrow, residual, out=out)
        torch.ops.aten.gelu_(out)


def window_attention(
    x: Tensor,
    out: Tensor,
    norm: Weight,
    qkv: Weight,
    project: Weight,
    packed: bool,
    side: int,
    bias: tuple[Tensor, Tensor],
    padding: Tensor,
    eps: float,
) -> None:
    """Attention within windows beside each other, with the residual.

    Windows have `side` columns, but the last has what is left; `bias` and `padding` are those of
    `attend`, for the others and for the last.
    """
    high, channels = x.size(0), x.size(2)
    count, rest = x.size(1) // side, x.size(1) % side
    n_whole, cut = high * side * count, [high, count, side, channels]
    tokens = torch.empty([high * x.size(1), channels], dtype=x.dtype)
    whole = tokens[:n_whole].view(count, high, side, channels)
    whole.copy_(x[:, : side * count].view(cut).transpose(0, 1))
    tokens[n_whole:].view(high, rest, channels).copy_(x[:, side * count :])
    normal = F.layer_norm(tokens, [channels], norm[0], norm[1], eps)
    seen = linear(normal, qkv, packed)
    if rest == 0:
        mixed = attend(seen, count, bias[0], padding, packed)
    elif count == 0:
        mixed = attend(seen, 1, bias[1], padding, packed)
    else:
        first = attend(seen[:n_whole], count, bias[0], padding, packed)
        mixed = torch.cat([first, attend(seen[n_whole:], 1, bias[1], padding, packed)])
    found = linear(mixed, project, packed).add_(tokens)
    whole = found[:n_whole].view(count, high, side, channels)
    out[:, : side * count].view(cut).transpose(0, 1).copy_(whole)
    out[:, side * count :].copy_(found[n_whole:].view(high, rest, channels))


def attend(x: Tensor, count: int, bias: Tensor, padding: Tensor, packed: bool) -> Tensor:
    """Attention within `count` windows: (rows, 3 C) queries, keys and values -> (rows, C).

    `bias` is (heads, tokens, keys). If there is one key more than tokens, it stands for all tokens
    that a window lacks at the border: their keys and values are the same, `padding` of (3 C,).
    """
    heads, channels = bias.size(0), x.size(1) // 3
    own = x.view(count, -1, 3 * channels)
    seen = own
    if bias.size(2) > bias.size(1):
        seen = torch.cat([own, padding.expand(count, 1, 3 * channels)], 1)
    split = [count, -1, 3, heads, channels // heads]
    query = own.view(split).select(2, 0).transpose(1, 2)
    key = seen.view(split).select(2, 1).transpose(1, 2)
    value = seen.view(split).select(2, 2).transpose(1, 2)
    if x.dtype == torch.bfloat16 and packed:
        # Torch's own attention and softmax are slow in bfloat16.
        scores = torch.matmul(query, key.transpose(2, 3)).add_(bias).to_mkldnn()
        mixed = torch.matmul(torch.softmax(scores, -1).to_dense(), value)
    else:
        mixed = F.scaled_dot_product_attention(query, key, value, bias.unsqueeze(0), scale=1.0)
    return mixed.transpose(1, 2).reshape(-1, channels)


def local_mlp(
    x: Tensor,
    out: Tensor,
    local: Weight,
    norm: Weight,
    widen: Weight,
    narrow: Weight,
    packed: bool,
    fused: bool,
    skip: int,
    eps: float,
) -> None:
    """Depthwise convolution, and MLP with the residual."""
    channels = x.size(2)
    found = convolve(x, local, packed, 1, channels, skip, out.size(0)).reshape(-1, channels)
    normal = F.layer_norm(found, [channels], norm[0], norm[1], eps)
    hidden = linear_gelu(normal, widen, packed, fused)
    torch.add(found, linear(hidden, narrow, packed), out=out.view(-1, channels))


def neck_start(
    x: Tensor, out: Tensor, narrow: Weight, norm: Weight, packed: bool, eps: float
) -> None:
    """1x1 convolution and layer normalisation."""
    found = linear(x.flatten(0, 1), narrow, packed)
    out.copy_(F.layer_norm(found, [out.size(2)], norm[0], norm[1], eps).view(out.shape))


def neck_end(
    x: Tensor,
    out: Tensor,
    weight: Tensor,
    transforms: tuple[Tensor, Tensor],
    norm: Weight,
    above: int,
    eps: float,
) -> None:
    """3x3 convolution and layer normalisation, whose result is float32.

    Winograd's convolution in tiles of 4 x 4 (see `mobilesam.fast.winograd`). `above` says how many
    rows of padding come before those of `x`.
    """
    high, wide = (out.size(0) + 3) // 4, (out.size(1) + 3) // 4
    right, below = 4 * wide + 1 - x.size(1), 4 * high + 2 - above - x.size(0)
    x = F.pad(x.to(weight.dtype), [0, 0, 1, right, above, below])
    row, column, channel = x.stride()
    size, stride = [6, 6, high, wide, x.size(2)], [row, column, 4 * row, 4 * column, channel]
    patches = x.as_strided(size, stride, x.storage_offset()).reshape(36, -1)
    wave = torch.mm(transforms[0], patches).view(36, high * wide, -1)
    found = torch.mm(transforms[1], torch.bmm(wave, weight).view(36, -1))
    found = found.view(4, 4, high, wide, -1).permute(2, 0, 3, 1, 4).reshape(4 * high, 4 * wide, -1)
    found = found[: out.size(0), : out.size(1)].to(out.dtype)
    out.copy_(F.layer_norm(found, [out.size(2)], norm[0], norm[1], eps))
