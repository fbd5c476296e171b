"""TinyViT's forward pass on a CPU, rearranged: same function to 1e-4, less memory traffic.

The wide, shallow first layers run in strips of rows, so that the fourfold wider hidden layer never
exists as a whole; attention runs head by head in reused buffers; all that depends on weights alone
(batch normalisation, attention biases, scale and shift of layer normalisations) is computed when
the encoder is built.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from mobilesam.fast import kernels
from mobilesam.fast.allocator import learn_large_blocks
from mobilesam.fast.kernels import Conv, Dense, Workspace, gelu_, strips
from mobilesam.model.tiny_vit import Bottleneck, ConvNorm, Stage, TinyViT, TinyVitBlock

# Output rows of a strip, at 256 px width: hidden layers then take 9 MB, which a third-level cache
# holds, and the halo of two rows costs 6 %.
_STRIP_ROWS = 32
# Elements of an MLP's hidden layer at a time, for the same reason.
_MLP_ELEMENTS = 2**21


class FastEncoder:
    """MobileSAM's image encoder for inference on a CPU, in float32 or bfloat16.

    Weights are copied. Safe to call from several threads; each has its own buffers (70 MB in
    float32 at 1024 px). Colour channels of a `ColorTinyViT` are not computed here.
    """

    def __init__(self, encoder: TinyViT, dtype: torch.dtype = torch.float32) -> None:
        learn_large_blocks()
        space = Workspace()
        self._like = like = torch.empty(0, dtype=dtype)
        layers: list[Callable[[Tensor], Tensor]] = []
        with torch.inference_mode():
            layers.append(_Stem(encoder.patch_embed, like, space))
            for stage in cast("Iterable[Stage]", encoder.layers):
                for block in stage.blocks:
                    if isinstance(block, TinyVitBlock):
                        layers.append(_Block(block, like, space))
                    else:
                        layers.append(_Bottleneck(cast("Bottleneck", block), like, space))
                if stage.downsample is not None:
                    layers.append(_Bottleneck(stage.downsample, like, space))
            layers.append(_Neck(encoder.neck, like))
        self._layers = layers

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restores the object in another process, and adapts the allocator there."""
        self.__dict__.update(state)
        learn_large_blocks()

    @torch.inference_mode()
    def __call__(self, pixels: Tensor) -> Tensor:
        """(B, 3, S, S) -> (B, 256, S/16, S/16) float32, channels last; an inference tensor."""
        found = []
        for image in pixels:
            x = image.to(self._like.dtype).permute(1, 2, 0)
            for layer in self._layers:
                x = layer(x)
            found.append(x)
        return torch.stack(found).permute(0, 3, 1, 2)


def _dense(pair: ConvNorm, like: Tensor) -> Dense:
    weight, bias = kernels.fold_conv_norm(pair)
    return Dense(weight.flatten(1), bias, like)


def _conv(pair: ConvNorm, like: Tensor) -> Conv:
    return Conv(*kernels.fold_conv_norm(pair), pair.c.stride[0], like)


class _Stem:
    """Two strided convolutions: (S, S, 3) -> (S/4, S/4, C), in a reused buffer."""

    def __init__(self, source: Any, like: Tensor, space: Workspace) -> None:
        first, _, second = source.seq
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
    """Expands, convolves depthwise and projects (H, W, C), strip by strip.

    A block with a residual alternates between two buffers; a downsampling gives a new tensor.
    """

    def __init__(self, source: Bottleneck, like: Tensor, space: Workspace) -> None:
        self.expand = _dense(source.conv1, like)
        self.depthwise = _conv(source.conv2, like)
        self.project = _dense(source.conv3, like)
        self.is_residual = source.is_residual
        self.space = space

    def __call__(self, x: Tensor) -> Tensor:
        rows, columns, channels = x.shape
        stride, n_out = self.depthwise.stride, self.project.weight.shape[0]
        shape = (rows - 1) // stride + 1, (columns - 1) // stride + 1, n_out
        if self.is_residual:
            out = self.space.take("stem", shape, x)
            if out.data_ptr() == x.data_ptr():
                out = self.space.take("bottleneck", shape, x)
        else:
            out = x.new_empty(shape)
        for first, last in strips(shape[0], _STRIP_ROWS):
            lo, hi = self.depthwise.input_rows(first, last, rows)
            hidden = gelu_(self.expand(x[lo:hi].view(-1, channels)))
            hidden = self.depthwise.strip(hidden.view(hi - lo, columns, -1), first, last)
            narrow = self.project(gelu_(hidden).reshape(-1, hidden.shape[2]))
            if self.is_residual:
                narrow += x[first:last].view(-1, channels)
                gelu_(narrow.view(-1, columns, channels), out[first:last])
            else:
                out[first:last] = narrow.view(-1, *shape[1:])
        return out


class _Block:
    """Window attention, depthwise convolution and MLP of (H, W, C)."""

    def __init__(self, source: TinyVitBlock, like: Tensor, space: Workspace) -> None:
        self.attention = _WindowAttention(source, like, space)
        self.local = _conv(source.local_conv, like)
        mlp: Any = source.mlp
        self.widen = Dense(*kernels.fold_layer_norm(mlp.norm, mlp.fc1), like)
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
        weight, bias = kernels.fold_layer_norm(attention.norm, attention.qkv)
        # From (head, q/k/v, width), as stored, to (q/k/v, head, width).
        weight = weight.view(self.heads, 3, self.width, channels).transpose(0, 1).clone()
        bias = bias.view(self.heads, 3, self.width).transpose(0, 1).clone()
        weight[0] *= self.width**-0.5
        bias[0] *= self.width**-0.5
        self.qkv = Dense(weight.reshape(-1, channels), bias.reshape(-1), like)
        self.proj = Dense(attention.proj.weight, attention.proj.bias, like)
        self.bias = attention.bias().detach().to(like)
        self.space = space

    def __call__(self, x: Tensor) -> Tensor:
        height, width, channels = x.shape
        side, heads = self.side, self.heads
        rows, columns = -(-height // side), -(-width // side)
        # Padding is zero after normalisation, since scale and shift are folded into qkv. It is
        # never written to, so it is zeroed once.
        cut = (rows, columns, side, side, channels)
        windows = self.space.take_padded(f"windows-{channels}", cut, x, (height, width))
        normal = F.layer_norm(x, (channels,), eps=self.eps)
        for row, top, count_y, high in _spans(height, side):
            for column, left, count_x, wide in _spans(width, side):
                part = normal[top : top + count_y * high, left : left + count_x * wide]
                part = part.view(count_y, high, count_x, wide, -1)
                target = windows[row : row + count_y, column : column + count_x, :high, :wide]
                target.copy_(part.transpose(1, 2))
        qkv = self.qkv(windows.view(-1, channels))
        shape = (rows, side, columns, side, heads, self.width)
        grid = self.space.take(f"grid-{channels}", shape, x)
        self._attend(qkv.view(rows * columns, side**2, 3, heads, self.width), grid)
        wide_grid = grid.view(rows * side, columns * side, channels)[:height]
        mixed = self.proj(wide_grid.view(-1, channels)).view(height, -1, channels)[:, :width]
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


def _spans(length: int, side: int) -> Iterator[tuple[int, int, int, int]]:
    """Windows along one axis, as (first window, first token, windows, tokens a window)."""
    whole, rest = divmod(length, side)
    if whole:
        yield 0, 0, whole, side
    if rest:
        yield whole, whole * side, 1, rest


class _Neck:
    """1x1 and 3x3 convolutions with layer normalisation: (H, W, C) -> (H, W, C') float32."""

    def __init__(self, source: Any, like: Tensor) -> None:
        narrow, first, conv, second = source
        self.narrow = Dense(narrow.weight.flatten(1), None, like)
        self.conv = Conv(conv.weight, None, 1, like)
        self.norms = [
            (*(part.detach().to(dtype, copy=True) for part in (norm.weight, norm.bias)), norm.eps)
            for norm, dtype in ((first, like.dtype), (second, torch.float32))
        ]

    def __call__(self, x: Tensor) -> Tensor:
        y = self.narrow(x.reshape(-1, x.shape[2]))
        y = F.layer_norm(y, (y.shape[1],), *self.norms[0])
        y = self.conv(y.view(x.shape[0], x.shape[1], -1)).float()
        return F.layer_norm(y, (y.shape[2],), *self.norms[1])
