"""Building blocks of the fast path: folded weights, matrix products by oneDNN, strips, buffers.

Activations are channels last throughout, (H, W, C), so that a 1x1 convolution is a matrix product
and a strip of rows is contiguous in memory.
"""

from __future__ import annotations

import math
import platform
import threading
from collections.abc import Iterator
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mobilesam.model.tiny_vit import ConvNorm

Shape = tuple[int, ...]
# Torch's private tests for processors of x86; they may be missing.
_BF16_UNITS = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
# Prepared weights are kept for this many row counts: images of one size need no more.
_MAX_PACKED = 8


def fold_conv_norm(pair: ConvNorm) -> tuple[Tensor, Tensor]:
    """Folds batch normalisation into its convolution: (C_out, C_in/groups, k, k) and (C_out,)."""
    conv, norm = pair.c, pair.bn
    mean, variance = norm.running_mean, norm.running_var
    assert mean is not None and variance is not None  # noqa: S101, PT018 - for the type checker
    # Divided in double precision: running variances of trained networks reach down to 1e-6.
    scale = norm.weight.double() / torch.sqrt(variance.double() + norm.eps)
    weight = conv.weight.double() * scale[:, None, None, None]
    bias = norm.bias.double() - mean.double() * scale
    return weight.float().detach(), bias.float().detach()


@cache
def has_onednn_linear() -> bool:
    """Whether this build of torch has the oneDNN matrix product that inductor's code calls.

    torch.nn.functional.linear takes MKL in float32, which is up to twice as slow on processors of
    other makers. The operator is not public: it may be missing or have another signature.
    """
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    ones = torch.ones(2, 2)
    try:
        packed = torch.ops.mkldnn._reorder_linear_weight(ones, 2)
        found = torch.ops.mkldnn._linear_pointwise(ones, packed, ones[0], "none", [], "")
        torch.ops.mkldnn._linear_pointwise(ones, packed, None, "gelu", [], "none")
        torch.ops.mkldnn._linear_pointwise(ones, ones, ones, None, "add")
    except (AttributeError, RuntimeError, TypeError, NotImplementedError):
        return False
    return bool(torch.equal(found, torch.full((2, 2), 3.0)))


@cache
def computes_bf16() -> bool:
    """Whether this processor multiplies in bfloat16.

    oneDNN also accepts processors with AVX-512 alone, where it is emulated and slower than float32.
    """
    try:
        accepted = bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    except (AttributeError, RuntimeError, NotImplementedError):
        return False
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return accepted
    tests = (getattr(torch.cpu, name, None) for name in _BF16_UNITS)
    return accepted and any(test is not None and bool(test()) for test in tests)


@cache
def fuses_gelu() -> bool:
    """Whether oneDNN's product with GELU is faster than a product and torch's GELU.

    It is not with AVX2, whose GELU in oneDNN takes twice as long as torch's.
    """
    return torch.backends.cpu.get_cpu_capability() != "AVX2"


def _is_for_onednn(like: Tensor) -> bool:
    """Whether oneDNN's products are available, and faster than torch's default."""
    known = like.device.type == "cpu" and (
        like.dtype == torch.float32 or (like.dtype == torch.bfloat16 and computes_bf16())
    )
    return known and has_onednn_linear()


class Dense:
    """y = x W^T + b with a (C_out, C_in) weight, which is prepared for the number of rows."""

    def __init__(self, weight: Tensor, bias: Tensor | None, like: Tensor) -> None:
        self.weight = weight.detach().to(like, copy=True).contiguous()
        self.bias = None if bias is None else bias.detach().to(like, copy=True)
        self._packed: dict[int, Tensor] = {}
        self.packed = _is_for_onednn(like)

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies prepare the weights again, as these are opaque and made for one processor."""
        return Dense, (self.weight, self.bias, self.weight.new_empty(0))

    def __call__(self, x: Tensor) -> Tensor:
        """(rows, C_in) -> a new (rows, C_out)."""
        if not self.packed:
            return F.linear(x, self.weight, self.bias)
        weight, bias = self.prepared(x.shape[0])
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
        return out

    def prepared(self, rows: int) -> tuple[Tensor, Tensor | None]:
        """Weight and bias for a product with this number of rows."""
        if not self.packed:
            return self.weight, self.bias
        packed = self._packed.get(rows)
        if packed is None:
            packed = torch.ops.mkldnn._reorder_linear_weight(self.weight, rows)
            if len(self._packed) < _MAX_PACKED:
                self._packed[rows] = packed
        return packed, self.bias


class Conv:
    """A 3x3 convolution with padding 1, of (H, W, C); the weight is (C_out, C_in/groups, 3, 3)."""

    def __init__(self, weight: Tensor, bias: Tensor, stride: int, like: Tensor) -> None:
        copied = weight.detach().to(like, copy=True)
        self.weight = copied.contiguous(memory_format=torch.channels_last)
        self.bias = bias.detach().to(like, copy=True)
        self.stride = stride
        self._packed: dict[Shape, Tensor] = {}
        self.packed = _is_for_onednn(like)

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies prepare the weights again, as in `Dense`."""
        return Conv, (self.weight, self.bias, self.stride, self.weight.new_empty(0))

    def strip(self, first: int, last: int, rows: int) -> tuple[int, int, int]:
        """Rows [lo, hi) of an input of `rows` that give output rows [first, last), and `skip`.

        Without padding above and below, `skip` is -1; otherwise the output begins with as many rows
        that are not wanted, since they see padding instead of their neighbour.
        """
        lo, hi = first * self.stride - 1, (last - 1) * self.stride + 2
        if lo >= 0 and hi <= rows:
            return lo, hi, -1
        skip = min(1, first)
        return (first - skip) * self.stride, min(rows, hi), skip

    def prepared(self, shape: Shape, skip: int) -> tuple[Tensor, Tensor]:
        """Weight and bias for an input of this (H, W, C)."""
        if not self.packed:
            return self.weight, self.bias
        key = *shape, min(skip, 0)
        packed = self._packed.get(key)
        if packed is None:
            height, width, channels = shape
            padding, stride = (0 if skip < 0 else 1, 1), (self.stride, self.stride)
            groups = channels // self.weight.shape[1]
            packed = torch.ops.mkldnn._reorder_convolution_weight(
                self.weight, padding, stride, (1, 1), groups, (1, channels, height, width)
            )
            if len(self._packed) < _MAX_PACKED:
                self._packed[key] = packed
        return packed, self.bias


def strips(rows: int, height: int) -> Iterator[tuple[int, int]]:
    """Ranges [first, last) of at most `height` rows that cover all of them in order."""
    for first in range(0, rows, height):
        yield first, min(rows, first + height)


class Workspace(threading.local):
    """Named buffers that outlive a call, one set for each thread, enlarged when needed.

    Large blocks that are allocated anew in every call come as fresh pages from the kernel (see
    `mobilesam.fast.allocator`).
    """

    def __init__(self) -> None:
        self._flat: dict[str, Tensor] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies start without buffers, since a buffer belongs to one thread of one process."""
        return Workspace, ()

    def take(self, name: str, shape: Shape, like: Tensor) -> Tensor:
        """A contiguous buffer with the data type and device of `like` and undefined content."""
        size = math.prod(shape)
        flat = self._flat.get(name)
        if (
            flat is None
            or len(flat) < size
            or (flat.dtype, flat.device) != (like.dtype, like.device)
        ):
            # A buffer made in inference mode could not be written to outside of it.
            with torch.inference_mode(mode=False):
                flat = self._flat[name] = torch.empty(size, dtype=like.dtype, device=like.device)
        return flat[:size].view(shape)
