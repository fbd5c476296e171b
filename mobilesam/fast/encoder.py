"""TinyViT's forward pass on a CPU, rearranged: same function, less memory traffic.

The wide, shallow first layers run in strips of rows, so that the fourfold wider hidden layer never
exists as a whole; attention runs head by head in reused buffers; all that depends on weights alone
(batch normalisation, attention biases, scale and shift of layer normalisations) is computed when
the encoder is built. Parity with `mobilesam.model.tiny_vit.TinyViT` is tested to 1e-4.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mobilesam.fast.allocator import learn_large_blocks
from mobilesam.fast.kernels import (
    Conv,
    Dense,
    Workspace,
    fold_conv_norm,
    fold_layer_norm,
    gelu_,
    gelu_into,
    strips,
)
from mobilesam.model.tiny_vit import (
    ConvNorm,
    LayerNorm2d,
    MBConv,
    PatchEmbed,
    PatchMerging,
    TinyViT,
    TinyVitBlock,
)

# Output rows of a strip, at 256 px width: hidden layers then take 9 MB, which a third-level cache
# holds, and the halo of two rows costs 6 %.
_STRIP_ROWS = 32
# Elements of an MLP's hidden layer at a time, for the same reason.
_MLP_ELEMENTS = 2**21

Layer = Callable[[Tensor], Tensor]


class FastEncoder:
    """MobileSAM's image encoder for inference on a CPU.

    Weights are copied. Safe to call from several threads; each has its own buffers (70 MB in
    float32 at 1024 px).

    Args:
        encoder: Encoder with its weights loaded, in any mode. Colour channels of a `ColorTinyViT`
            are not computed here.
        dtype: float32, or bfloat16 where the processor supports it.
    """

    def __init__(self, encoder: TinyViT, dtype: torch.dtype = torch.float32) -> None:
        learn_large_blocks()
        space = Workspace()
        self._like = torch.empty(0, dtype=dtype)
        self._layers: list[Layer] = []
        with torch.inference_mode():
            self._layers.append(_Stem(encoder.patch_embed, self._like, space))
            for stage in encoder.layers.children():
                blocks = stage.get_submodule("blocks").children()
                self._layers.extend(_layer(block, self._like, space) for block in blocks)
                merging = stage.downsample
                if isinstance(merging, PatchMerging):
                    self._layers.append(_Merging(merging, self._like))
            self._layers.append(_Neck(encoder.neck, self._like))

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restores the object in another process, and adapts the allocator there."""
        self.__dict__.update(state)
        learn_large_blocks()

    @torch.inference_mode()
    def __call__(self, pixels: Tensor) -> Tensor:
        """Encodes (B, 3, S, S) normalised images on the CPU, one after the other.

        Returns:
            (B, 256, S/16, S/16) float32, channels last in memory; an inference tensor.
        """
        return torch.stack([self._encode(image) for image in pixels]).permute(0, 3, 1, 2)

    def _encode(self, image: Tensor) -> Tensor:
        """(3, S, S) -> (S/16, S/16, 256) float32."""
        x = image.to(self._like.dtype).permute(1, 2, 0)
        for layer in self._layers:
            x = layer(x)
        return x


def _layer(block: nn.Module, like: Tensor, space: Workspace) -> Layer:
    if isinstance(block, MBConv):
        return _Bottleneck(block, like, space)
    if isinstance(block, TinyVitBlock):
        return _Block(block, like, space)
    raise TypeError(f"no fast path for a {type(block).__name__}")


def _dense(pair: ConvNorm, like: Tensor) -> Dense:
    weight, bias = fold_conv_norm(pair)
    return Dense(weight.flatten(1), bias, like)


def _conv(pair: ConvNorm, like: Tensor) -> Conv:
    weight, bias = fold_conv_norm(pair)
    conv = pair.get_submodule("c")
    assert isinstance(conv, nn.Conv2d)  # noqa: S101 - for the type checker
    return Conv(weight, bias, conv.stride[0], like)


class _Stem:
    """Two strided convolutions: (S, S, 3) -> (S/4, S/4, C), in a reused buffer."""

    def __init__(self, source: PatchEmbed, like: Tensor, space: Workspace) -> None:
        first, second = (each for each in source.seq.children() if isinstance(each, ConvNorm))
        self.first, self.second = _conv(first, like), _conv(second, like)
        self.space = space

    def __call__(self, x: Tensor) -> Tensor:
        rows = x.shape[0]
        half, quarter = (rows + 1) // 2, ((rows + 1) // 2 + 1) // 2
        columns = ((x.shape[1] + 1) // 2 + 1) // 2
        out = self.space.take("stem", (quarter, columns, self.second.weight.shape[0]), x)
        for first, last in strips(quarter, _STRIP_ROWS):
            lo, hi = self.second.input_rows(first, last, half)
            begin, end = self.first.input_rows(lo, hi, rows)
            hidden = gelu_(self.first.strip(x[begin:end], lo, hi))
            out[first:last] = self.second.strip(hidden, first, last)
        return out


class _Bottleneck:
    """An inverted residual block of (H, W, C), which alternates between two buffers."""

    def __init__(self, source: MBConv, like: Tensor, space: Workspace) -> None:
        self.expand = _dense(source.conv1, like)
        self.depthwise = _conv(source.conv2, like)
        self.project = _dense(source.conv3, like)
        self.space = space

    def __call__(self, x: Tensor) -> Tensor:
        rows, columns, channels = x.shape
        out = self.space.take("stem", tuple(x.shape), x)
        if out.data_ptr() == x.data_ptr():
            out = self.space.take("bottleneck", tuple(x.shape), x)
        for first, last in strips(rows, _STRIP_ROWS):
            lo, hi = self.depthwise.input_rows(first, last, rows)
            hidden = gelu_(self.expand(x[lo:hi].view(-1, channels)))
            hidden = self.depthwise.strip(hidden.view(hi - lo, columns, -1), first, last)
            narrow = self.project(gelu_(hidden).reshape(-1, hidden.shape[2]))
            narrow += x[first:last].view(-1, channels)
            gelu_into(narrow.view(-1, columns, channels), out[first:last])
        return out


class _Merging:
    """Changes channels and divides both sides by the stride: (H, W, C) -> (H', W', C')."""

    def __init__(self, source: PatchMerging, like: Tensor) -> None:
        self.expand = _dense(source.conv1, like)
        self.depthwise = _conv(source.conv2, like)
        self.project = _dense(source.conv3, like)

    def __call__(self, x: Tensor) -> Tensor:
        rows, columns, channels = x.shape
        stride = self.depthwise.stride
        below, beside = (rows - 1) // stride + 1, (columns - 1) // stride + 1
        out = x.new_empty(below, beside, self.project.weight.shape[0])
        for first, last in strips(below, _STRIP_ROWS):
            lo, hi = self.depthwise.input_rows(first, last, rows)
            hidden = gelu_(self.expand(x[lo:hi].view(-1, channels)))
            hidden = self.depthwise.strip(hidden.view(hi - lo, columns, -1), first, last)
            found = self.project(gelu_(hidden).reshape(-1, hidden.shape[2]))
            out[first:last] = found.view(last - first, beside, -1)
        return out


class _Block:
    """Window attention, depthwise convolution and MLP of (H, W, C)."""

    def __init__(self, source: TinyVitBlock, like: Tensor, space: Workspace) -> None:
        self.attention = _WindowAttention(source, like, space)
        self.local = _conv(source.local_conv, like)
        mlp = source.mlp
        self.widen = Dense(*fold_layer_norm(mlp.norm, mlp.fc1), like)
        self.narrow = Dense(mlp.fc2.weight, mlp.fc2.bias, like)
        self.eps = mlp.norm.eps

    def __call__(self, x: Tensor) -> Tensor:
        channels = x.shape[2]
        x = self.local(self.attention(x))
        flat = x.reshape(-1, channels)
        step = max(1, _MLP_ELEMENTS // self.widen.weight.shape[0])
        for first, last in strips(flat.shape[0], step):
            part = flat[first:last]
            hidden = self.widen(F.layer_norm(part, (channels,), eps=self.eps))
            part += self.narrow(gelu_(hidden))
        return flat.view(x.shape)


class _WindowAttention:
    """Attention within square windows, and the residual: (H, W, C) -> a new (H, W, C)."""

    def __init__(self, source: TinyVitBlock, like: Tensor, space: Workspace) -> None:
        attention = source.attn
        channels, self.heads = attention.qkv.in_features, attention.num_heads
        self.side, self.width = source.window, channels // self.heads
        self.eps = attention.norm.eps
        weight, bias = fold_layer_norm(attention.norm, attention.qkv)
        # From (head, q/k/v, width), as stored, to (q/k/v, head, width).
        weight = weight.view(self.heads, 3, self.width, channels).transpose(0, 1).clone()
        bias = bias.view(self.heads, 3, self.width).transpose(0, 1).clone()
        weight[0] *= self.width**-0.5
        bias[0] *= self.width**-0.5
        self.qkv = Dense(weight.reshape(-1, channels), bias.reshape(-1), like)
        self.proj = Dense(attention.proj.weight, attention.proj.bias, like)
        self.bias = attention.attention_biases[:, attention.bias_index].detach().to(like)
        self.space = space

    def __call__(self, x: Tensor) -> Tensor:
        height, width, channels = x.shape
        rows, columns = -(-height // self.side), -(-width // self.side)
        shape = (rows, columns, self.side, self.side, channels)
        # Padding is zero after normalisation, since scale and shift are folded into qkv. It is
        # never written to, so it is zeroed once.
        windows = self.space.take_padded(f"windows-{channels}", shape, x, (height, width))
        self._partition(F.layer_norm(x, (channels,), eps=self.eps), windows)
        qkv = self.qkv(windows.view(-1, channels))
        grid = self.space.take(
            f"grid-{channels}", (rows, self.side, columns, self.side, self.heads, self.width), x
        )
        self._attend(qkv.view(rows * columns, self.side**2, 3, self.heads, self.width), grid)
        wide = grid.view(rows * self.side, columns * self.side, channels)[:height]
        mixed = self.proj(wide.view(-1, channels)).view(height, -1, channels)[:, :width]
        return mixed.add_(x)

    def _attend(self, qkv: Tensor, grid: Tensor) -> None:
        """(windows, tokens, 3, heads, width) -> into (rows, side, columns, side, heads, width)."""
        query, key, value = qkv.permute(2, 3, 0, 1, 4)
        count, tokens = query.shape[1:3]
        scores = self.space.take("scores", (count, tokens, tokens), qkv)
        weights = self.space.take("weights", (count, tokens, tokens), qkv)
        mixed = self.space.take("mixed", (count, tokens, self.width), qkv)
        rows, side, columns = grid.shape[:3]
        for head in range(self.heads):
            torch.bmm(query[head], key[head].transpose(1, 2), out=scores)
            scores += self.bias[head]
            torch.softmax(scores, -1, out=weights)
            torch.bmm(weights, value[head], out=mixed)
            found = mixed.view(rows, columns, side, side, self.width)
            grid[..., head, :].copy_(found.transpose(1, 2))

    def _partition(self, x: Tensor, windows: Tensor) -> None:
        """Copies (H, W, C) into (rows, columns, side, side, C), whole windows first."""
        for row, y, count_y, high in _spans(x.shape[0], self.side):
            for column, left, count_x, wide in _spans(x.shape[1], self.side):
                part = x[y : y + count_y * high, left : left + count_x * wide]
                part = part.view(count_y, high, count_x, wide, -1)
                target = windows[row : row + count_y, column : column + count_x, :high, :wide]
                target.copy_(part.transpose(1, 2))


def _spans(length: int, side: int) -> Iterator[tuple[int, int, int, int]]:
    """Windows along one axis, as (first window, first token, windows, tokens a window)."""
    whole, rest = divmod(length, side)
    if whole:
        yield 0, 0, whole, side
    if rest:
        yield whole, whole * side, 1, rest


class _Neck:
    """1x1 and 3x3 convolutions with layer normalisation: (H, W, C) -> (H, W, C') float32."""

    def __init__(self, source: nn.Sequential, like: Tensor) -> None:
        narrow, first, conv, second = source.children()
        assert isinstance(narrow, nn.Conv2d) and isinstance(conv, nn.Conv2d)  # noqa: S101, PT018
        assert isinstance(first, LayerNorm2d) and isinstance(second, LayerNorm2d)  # noqa: S101, PT018
        self.narrow = Dense(narrow.weight.flatten(1), None, like)
        self.conv = Conv(conv.weight, None, 1, like)
        self.norms = [
            (
                norm.weight.detach().to(dtype, copy=True),
                norm.bias.detach().to(dtype, copy=True),
                norm.eps,
            )
            for norm, dtype in ((first, like.dtype), (second, torch.float32))
        ]

    def __call__(self, x: Tensor) -> Tensor:
        (weight, bias, eps), last = self.norms
        y = self.narrow(x.reshape(-1, x.shape[2]))
        y = F.layer_norm(y, (y.shape[1],), weight, bias, eps)
        y = self.conv(y.view(x.shape[0], x.shape[1], -1)).float()
        return F.layer_norm(y, (y.shape[2],), *last)
