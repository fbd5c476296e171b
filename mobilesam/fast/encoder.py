"""TinyViT's forward pass on a CPU, rearranged: same function to 1e-4, less memory traffic.

Every layer is cut into strips of rows, or groups of attention windows. One thread takes a part
through all operations of its layer while the data are in its cache: the fourfold wider hidden
layers never exist as a whole, and threads wait for each other once a layer. All that depends on
weights alone (batch normalisation, attention biases, scale and shift of layer normalisations) is
computed when the encoder is built.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from mobilesam.fast import kernels, scripts, threads, winograd
from mobilesam.fast.allocator import learn_large_blocks
from mobilesam.fast.kernels import Conv, Dense, Shape, Workspace, strips
from mobilesam.fast.scripts import compiled
from mobilesam.fast.threads import Spread
from mobilesam.model.tiny_vit import Bottleneck, ConvNorm, Stage, TinyViT, TinyVitBlock

Part = tuple[int, ...]

# Of the widest intermediate result of a strip. Larger strips leave the cache; in smaller ones the
# halo of two rows, which is computed twice, weighs more.
_CONV_BYTES = 2**21
_MLP_BYTES = 5 * 2**18
# At least so many strips of a layer, so that threads that are done early wait for little.
_MIN_STRIPS = 16


class FastEncoder:
    """MobileSAM's image encoder for inference on a CPU, in float32 or bfloat16.

    Weights are copied. Safe to call from several threads; each has its own buffers (34 MB in
    float32 at 1024 px). Results do not depend on the number of threads. Colour channels of a
    `ColorTinyViT` are not computed here.
    """

    def __init__(self, encoder: TinyViT, dtype: torch.dtype = torch.float32) -> None:
        learn_large_blocks()
        self._like = like = torch.empty(0, dtype=dtype)
        self._space = Workspace()
        layers: list[_Layer] = []
        with torch.inference_mode():
            layers.append(_Stem(encoder.patch_embed, like))
            for stage in cast("Iterable[Stage]", encoder.layers):
                for block in stage.blocks:
                    if isinstance(block, TinyVitBlock):
                        layers += [_WindowAttention(block, like), _LocalMlp(block, like)]
                    else:
                        layers.append(_Bottleneck(cast("Bottleneck", block), like))
                if stage.downsample is not None:
                    layers.append(_Bottleneck(stage.downsample, like))
            layers += [_NeckStart(encoder.neck, like), _NeckEnd(encoder.neck, like)]
        self._layers = layers

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restores the object in another process, and adapts the allocator there."""
        self.__dict__.update(state)
        learn_large_blocks()

    def __call__(self, pixels: Tensor) -> Tensor:
        """(B, 3, S, S) -> (B, 256, S/16, S/16) float32, channels last; an inference tensor."""
        shapes = [(*pixels.shape[2:], pixels.shape[1])]
        for layer in self._layers:
            shapes.append(layer.shape(shapes[-1]))
        largest = (max(math.prod(shape) for shape in shapes[1:-1]),)
        # Of the calling thread: the threads that compute come and go.
        buffers = [self._space.take(name, largest, self._like) for name in ("even", "odd")]

        def encode(spread: Spread) -> Tensor:
            found = torch.empty(len(pixels), *shapes[-1])
            for image, embedding in zip(pixels, found, strict=True):
                x = image.permute(1, 2, 0)
                for index, (layer, shape) in enumerate(zip(self._layers, shapes[1:], strict=True)):
                    out = buffers[index % 2][: math.prod(shape)].view(shape)
                    if layer is self._layers[-1]:
                        out = embedding
                    layer(x, out, spread)
                    x = out
            return found.permute(0, 3, 1, 2)

        return threads.run(encode)


class _Layer:
    """Computes an image (H, W, C) from another, in parts: strips of rows, unless said otherwise."""

    stride = 1
    n_out: int
    strip_bytes = _MLP_BYTES
    column_bytes: int  # of the widest intermediate result, for one row of output, a column of input

    def shape(self, given: Shape) -> Shape:
        """Shape of the output."""
        height, width = ((side - 1) // self.stride + 1 for side in given[:2])
        return height, width, self.n_out

    def parts(self, given: Shape) -> Iterable[Part]:
        """The output in parts: first row and the row behind the last."""
        rows = self.shape(given)[0]
        height = self.strip_bytes // (given[1] * self.column_bytes)
        return strips(rows, max(1, min(height, rows // _MIN_STRIPS)))

    def run(self, x: Tensor, out: Tensor, part: Part) -> None:
        """Computes a part of the output."""
        raise NotImplementedError

    def __call__(self, x: Tensor, out: Tensor, spread: Spread) -> None:
        """Computes the output, on all threads."""
        spread(partial(self.run, x, out), list(self.parts(x.shape)))


def _dense(pair: ConvNorm, like: Tensor) -> Dense:
    weight, bias = kernels.fold_conv_norm(pair)
    return Dense(weight.flatten(1), bias, like)


def _conv(pair: ConvNorm, like: Tensor) -> Conv:
    return Conv(*kernels.fold_conv_norm(pair), pair.c.stride[0], like)


class _Stem(_Layer):
    """Two strided convolutions: (S, S, 3) -> (S/4, S/4, C)."""

    stride = 4
    strip_bytes = _CONV_BYTES

    def __init__(self, source: Any, like: Tensor) -> None:
        first, _, second = source.seq
        self.first, self.second = _conv(first, like), _conv(second, like)
        self.n_out = self.second.weight.shape[0]
        self.column_bytes = self.first.weight.shape[0] * like.element_size()

    def run(self, x: Tensor, out: Tensor, part: Part) -> None:
        first, last = part
        rows, columns = ((side + 1) // 2 for side in x.shape[:2])
        lo, hi, skip = self.second.strip(first, last, rows)
        begin, end, skip_first = self.first.strip(lo, hi, x.shape[0])
        hidden = (hi - lo, columns, self.first.weight.shape[0])
        rows_in = x[begin:end]
        weights = self.first.prepared(rows_in.shape, skip_first), self.second.prepared(hidden, skip)
        packed, skips = self.first.packed, (skip_first, skip)
        compiled(scripts.stem)(rows_in, out[first:last], *weights, packed, skips, hi - lo)


class _Bottleneck(_Layer):
    """Expands, convolves depthwise and projects, with a residual or without."""

    strip_bytes = _CONV_BYTES

    def __init__(self, source: Bottleneck, like: Tensor) -> None:
        self.expand = _dense(source.conv1, like)
        self.depthwise = _conv(source.conv2, like)
        self.project = _dense(source.conv3, like)
        self.is_residual = source.is_residual
        self.stride, self.n_out = self.depthwise.stride, self.project.weight.shape[0]
        hidden = self.expand.weight.shape[0]
        self.column_bytes = self.stride * hidden * like.element_size()

    def run(self, x: Tensor, out: Tensor, part: Part) -> None:
        first, last = part
        lo, hi, skip = self.depthwise.strip(first, last, x.shape[0])
        width, hidden = x.shape[1], self.expand.weight.shape[0]
        weights = (
            self.expand.prepared((hi - lo) * width),
            self.depthwise.prepared((hi - lo, width, hidden), skip),
            self.project.prepared((last - first) * out.shape[1]),
        )
        residual = x[first:last] if self.is_residual else None
        how = self.expand.packed, kernels.fuses_gelu(), self.stride, skip
        compiled(scripts.bottleneck)(x[lo:hi], residual, out[first:last], *weights, *how)


class _WindowAttention(_Layer):
    """Attention within square windows, which may reach beyond the image, with the residual."""

    def __init__(self, source: TinyVitBlock, like: Tensor) -> None:
        attention = source.attn
        channels, heads = attention.qkv.in_features, attention.num_heads
        self.n_out, self.side, self.eps = channels, source.window, attention.norm.eps
        self.column_bytes = 3 * channels * like.element_size()
        self.norm = _norm(attention.norm, like)
        weight, bias = attention.qkv.weight.detach(), attention.qkv.bias.detach()
        # From (head, q/k/v, width), as stored, to (q/k/v, head, width).
        weight = weight.view(heads, 3, -1, channels).transpose(0, 1).clone()
        bias = bias.view(heads, 3, -1).transpose(0, 1).clone()
        self._like = like
        scale = (channels // heads) ** -0.5
        weight[0] *= scale
        bias[0] *= scale
        self.qkv = Dense(weight.reshape(-1, channels), bias.reshape(-1), like)
        self.proj = Dense(attention.proj.weight, attention.proj.bias, like)
        # Of the tokens that windows lack at the border, which are zero before normalisation.
        shift = attention.norm.bias.detach()
        self.padding = F.linear(shift, weight.flatten(0, 2), bias.flatten()).to(like)
        self.table = attention.bias().detach()
        self._biases: dict[Shape, Tensor] = {}

    def bias(self, high: int, wide: int) -> Tensor:
        """(heads, tokens, keys) of a window of which only this corner is in the image.

        Tokens outside are alike, so that one key can stand for them: a softmax adds up exponentials
        of scores, and those of these tokens differ by their biases alone.
        """
        if (high, wide) not in self._biases:
            inside = torch.zeros(self.side, self.side, dtype=torch.bool)
            inside[:high, :wide] = True
            inside = inside.flatten()
            rows = self.table[:, inside]
            parts = [rows[:, :, inside]]
            if not inside.all():
                parts.append(rows[:, :, ~inside].logsumexp(-1, keepdim=True))
            self._biases[high, wide] = torch.cat(parts, -1).to(self._like)
        return self._biases[high, wide]

    def parts(self, given: Shape) -> Iterator[Part]:
        """First and last row and column of a group of windows."""
        height, width = given[:2]
        count = max(1, width // self.side)
        at_once = max(1, self.strip_bytes // (self.side**2 * self.column_bytes))
        # Groups of nearly the same size, so that threads wait for little.
        n_groups = math.ceil(count / at_once)
        groups = list(strips(count, math.ceil(count / n_groups)))
        for top, below in strips(height, self.side):
            for first, last in groups:
                right = width if last == groups[-1][1] else last * self.side
                yield top, below, first * self.side, right

    def run(self, x: Tensor, out: Tensor, part: Part) -> None:
        top, below, left, right = part
        area = slice(top, below), slice(left, right)
        high, wide = below - top, right - left
        weights = self.qkv.prepared(high * wide), self.proj.prepared(high * wide)
        biases = self.bias(high, self.side), self.bias(high, wide % self.side)
        how = self.qkv.packed, self.side, biases, self.padding, self.eps
        compiled(scripts.window_attention)(x[area], out[area], self.norm, *weights, *how)


class _LocalMlp(_Layer):
    """Depthwise convolution, and MLP with the residual."""

    def __init__(self, source: TinyVitBlock, like: Tensor) -> None:
        mlp: Any = source.mlp
        self.local = _conv(source.local_conv, like)
        self.norm = _norm(mlp.norm, like)
        self.widen = Dense(mlp.fc1.weight, mlp.fc1.bias, like)
        self.narrow = Dense(mlp.fc2.weight, mlp.fc2.bias, like)
        self.n_out, self.eps = self.narrow.weight.shape[0], mlp.norm.eps
        self.column_bytes = self.widen.weight.shape[0] * like.element_size()

    def run(self, x: Tensor, out: Tensor, part: Part) -> None:
        first, last = part
        lo, hi, skip = self.local.strip(first, last, x.shape[0])
        around, rows = x[lo:hi], (last - first) * x.shape[1]
        weights = (
            self.local.prepared(around.shape, skip),
            self.norm,
            self.widen.prepared(rows),
            self.narrow.prepared(rows),
        )
        how = self.widen.packed, kernels.fuses_gelu(), skip, self.eps
        compiled(scripts.local_mlp)(around, out[first:last], *weights, *how)


class _NeckStart(_Layer):
    """1x1 convolution and layer normalisation."""

    def __init__(self, source: Any, like: Tensor) -> None:
        narrow, norm, _, _ = source
        self.narrow = Dense(narrow.weight.flatten(1), None, like)
        self.norm, self.eps = _norm(norm, like), norm.eps
        self.n_out = self.narrow.weight.shape[0]
        self.column_bytes = self.narrow.weight.shape[1] * like.element_size()

    def run(self, x: Tensor, out: Tensor, part: Part) -> None:
        first, last = part
        weight = self.narrow.prepared((last - first) * x.shape[1])
        how = weight, self.norm, self.narrow.packed, self.eps
        compiled(scripts.neck_start)(x[first:last], out[first:last], *how)


class _NeckEnd(_Layer):
    """3x3 convolution and layer normalisation, in float32 at least, whose result is float32."""

    def __init__(self, source: Any, like: Tensor) -> None:
        _, _, conv, norm = source
        # In float32 this is as fast as a direct convolution in bfloat16, with half the error.
        wide = like.float() if like.dtype == torch.bfloat16 else like
        self.weight, self.transforms = winograd.prepared(conv.weight, wide)
        self.norm, self.eps = _norm(norm, torch.empty(0)), norm.eps
        self.n_out = self.weight.shape[2]

    def parts(self, given: Shape) -> Iterable[Part]:
        """Strips of two rows of Winograd's tiles; with fewer, weights are read too often."""
        return strips(given[0], 8)

    def run(self, x: Tensor, out: Tensor, part: Part) -> None:
        first, last = part
        above = int(first == 0)
        how = self.weight, self.transforms, self.norm, above, self.eps
        compiled(scripts.neck_end)(x[first - 1 + above : last + 1], out[first:last], *how)


def _norm(source: Any, like: Tensor) -> tuple[Tensor, Tensor]:
    return source.weight.detach().to(like, copy=True), source.bias.detach().to(like, copy=True)
