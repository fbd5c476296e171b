"""Upsampling of the decoder's low-resolution logits to the image's own size, a strip at a time.

SAM interpolates twice: to the network's input and, after the padding is cut off, to the image. Both
are linear and separable, so that together they are one matrix a side with three taps a pixel: no
array of the network's size is needed, and any part of the result can be computed alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mobilesam.fast.kernels import Workspace
from mobilesam.inputs import Device, Size

# Two bilinear interpolations after each other: neighbours of neighbours.
TAPS = 3
# Half a megabyte of float32: a strip, its source and its mask stay in the second-level cache, and
# no buffer is large enough to be returned to the kernel (three to ten times faster than whole
# images, which cost fresh pages every time).
STRIP_PX = 1 << 17


class Span(NamedTuple):
    """A half-open range of pixels along one side; empty if `high` equals `low`."""

    low: int
    high: int


class Axis:
    """Interpolation along one side: pixel i is a weighted mean of three neighbouring logits.

    `low_px` and `input_px` include the padding; `inner_px` of the network's input show the image.
    """

    def __init__(
        self, low_px: int, input_px: int, inner_px: int, image_px: int, device: Device
    ) -> None:
        # Torch's own interpolation of every unit vector has its rounding and borders.
        unit = torch.eye(low_px).view(1, low_px, low_px, 1)
        wide = F.interpolate(unit, (input_px, 1), mode="bilinear", align_corners=False)
        inner = wide[:, :, :inner_px]
        image = F.interpolate(inner, (image_px, 1), mode="bilinear", align_corners=False)
        matrix = image[0, :, :, 0].t()
        start = (matrix != 0).to(torch.uint8).argmax(1).clamp_(max=low_px - TAPS)
        taps = [start + tap for tap in range(TAPS)]
        self.taps = [tap.to(device) for tap in taps]
        self.weights = [matrix.gather(1, tap[:, None]).contiguous().to(device) for tap in taps]
        self._start = start.numpy()
        self.image_px = image_px

    def image_span(self, low: Span) -> Span:
        """Pixels that depend on any of the logits in `low`."""
        first = int(self._start.searchsorted(low.low - (TAPS - 1), side="left"))
        behind = int(self._start.searchsorted(low.high, side="left"))
        return Span(first, max(first, behind))

    def whole(self) -> Span:
        """All pixels of the image."""
        return Span(0, self.image_px)


class Upsampler:
    """Interpolates logits of one image; safe to call from several threads.

    Each thread reuses its own set of buffers: a strip is overwritten by the next strip that the
    same thread requests. Sizes are those of the logits and of the network's input, both with
    padding, of the image as resized for the network, and of the image itself.
    """

    def __init__(
        self, low_hw: Size, input_hw: Size, inner_hw: Size, image_hw: Size, device: Device = "cpu"
    ) -> None:
        self.rows, self.columns = (
            Axis(*sizes, device) for sizes in zip(low_hw, input_hw, inner_hw, image_hw, strict=True)
        )
        self._space = Workspace()

    def row_strips(self, logits: Tensor) -> Iterator[tuple[int, Tensor]]:
        """Yields the image of (h, w) float32 logits from the top: first row, and (rows, W)."""
        rows, columns = self.rows, self.columns
        yield from self._strips(logits.t(), columns, columns.whole(), rows, rows.whole())

    def column_strips(self, logits: Tensor, rows: Span, columns: Span) -> Iterator[Tensor]:
        """Yields a part of the image from left to right as (columns, rows), as COCO's runs go."""
        for _, strip in self._strips(logits, self.rows, rows, self.columns, columns):
            yield strip

    def _strips(
        self, x: Tensor, first: Axis, first_span: Span, second: Axis, second_span: Span
    ) -> Iterator[tuple[int, Tensor]]:
        """Expands (a, b) to (A, B); yields first positions along B, and strips of (B, A)."""
        length = first_span.high - first_span.low
        if length <= 0:
            return
        tall = self._expand(x, first, first_span, "tall")
        turned = self._space.take("turned", (x.shape[1], length), x)
        turned.copy_(tall.t())
        step = max(1, STRIP_PX // length)
        for low in range(second_span.low, second_span.high, step):
            part = Span(low, min(low + step, second_span.high))
            yield low, self._expand(turned, second, part, "strip")

    def _expand(self, x: Tensor, axis: Axis, span: Span, name: str) -> Tensor:
        """(a, m) -> (span, m), in the buffer of this name."""
        part, shape = slice(*span), (span.high - span.low, x.shape[1])
        out, other = (self._space.take(each, shape, x) for each in (name, f"{name} tap"))
        torch.index_select(x, 0, axis.taps[0][part], out=out)
        out.mul_(axis.weights[0][part])
        for tap, weight in zip(axis.taps[1:], axis.weights[1:], strict=True):
            torch.index_select(x, 0, tap[part], out=other)
            out.addcmul_(other, weight[part])
        return out


def upsample(logits: Tensor, upsampler: Upsampler, threshold: float | None) -> Tensor:
    """(N, C, h, w) logits -> (N, C, H, W) bool masks of those above the threshold, or float32.

    Memory beyond the result does not depend on it.
    """
    size_hw = upsampler.rows.image_px, upsampler.columns.image_px
    dtype = torch.float32 if threshold is None else torch.bool
    out = torch.empty(*logits.shape[:2], *size_hw, dtype=dtype, device=logits.device)
    for image, low in zip(out.flatten(0, 1), logits.flatten(0, 1).float(), strict=True):
        for top, strip in upsampler.row_strips(low):
            rows = image[top : top + len(strip)]
            if threshold is None:
                rows.copy_(strip)
            else:
                torch.gt(strip, threshold, out=rows)
    return out
