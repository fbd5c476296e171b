"""Rough masks of many points on one image, at about a tenth of the work of exact masks.

Each point sees the image foveated: tokens in the resolution of the embedding in a window around it,
means of 4 x 4 tokens elsewhere, and larger ones in the padding: some 400 tokens instead of 4,096. A
mean stands for all of its tokens: in the softmax of an attention its weight is multiplied by their
number. The first layer's attention to the image, which all points share, sees the whole resolution.
The decoder was not trained for this: predicted IoUs have a correlation of 0.87 to 0.96 with the
exact ones on eleven images of COCO; at half the resolution it is 0.7, for more work.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import groupby
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mobilesam.fast import threads
from mobilesam.fast.decoder import Cell, FastDecoder, ImageContext
from mobilesam.fast.kernels import strips
from mobilesam.inputs import Size
from mobilesam.prompts import NetworkPrompts

# Tokens along a side of a coarse cell, and coarse cells along a side of the window.
COARSE = 4
WINDOW = 4
# Tokens along a side of a cell of the padding.
PADDING = 16
# Points at a time on a CPU: enough for the products of their own tokens.
CPU_POINTS = 32


class RoughMasks(NamedTuple):
    """The M masks of N ambiguous prompts, roughly; without content if all scores are low."""

    scores: Tensor  # (N, M) predicted IoU
    stability: Tensor  # (N, M) IoU of the masks of a higher and a lower threshold
    cells: Tensor  # (N, M, P) bool, whether the mask covers half of each of P equal cells


class Levels(NamedTuple):
    """Thresholds of logits, and the least score of masks that are looked at."""

    threshold: float
    offset: float  # in both directions, for the stability
    least_score: float


class _Window(NamedTuple):
    """What the points in one part of the image see, and where it lies among the cells."""

    context: ImageContext
    n_fine: int  # fine tokens; coarse ones and those of the padding follow
    cells: Tensor  # (P,) cells of the fine tokens, and of the 4 x 4 logits of the coarse ones


class RoughDecoder:
    """Previews of points on one image; see the module.

    Args:
        decoder: The exact decoder.
        context: Of the image.
        inner_hw: Height and width of the image as resized for the network; the rest is padding.
    """

    def __init__(self, decoder: FastDecoder, context: ImageContext, inner_hw: Size) -> None:
        self._decoder, self._context = decoder, context
        height, width = decoder.grid_hw
        unit = COARSE * decoder.token_px
        self._coarse_hw = rows, columns = tuple(math.ceil(side / unit) for side in inner_hw)
        self._fine_hw = min(height, COARSE * rows), min(width, COARSE * columns)
        # Pooling and projections commute.
        queries = context.query.flatten(0, 1).t()
        parts = torch.cat((context.image, context.encoding, queries), 1)
        whole = parts.t().view(1, -1, height, width)
        bottom, right = self._fine_hw
        inner = whole[:, :, :bottom, :right]
        pieces = [(inner, 1), (inner, COARSE)]
        if bottom < height:
            pieces.append((whole[:, :, bottom:], PADDING))
        if right < width:
            pieces.append((whole[:, :, :bottom, right:], PADDING))
        means = [F.avg_pool2d(each, side, ceil_mode=True) for each, side in pieces]
        counts = [
            F.avg_pool2d(torch.ones_like(each[:, :1]), side, ceil_mode=True, divisor_override=1)
            for each, side in pieces
        ]
        self._table = torch.cat([each.flatten(2)[0].t() for each in means])
        self._log_weight = torch.cat([each.flatten() for each in counts]).log()
        self._sizes = [context.image.shape[1], context.encoding.shape[1], queries.shape[1]]

    def __call__(self, points: Tensor, levels: Levels) -> RoughMasks:
        """The rough masks of (N, 2) foreground points, xy in pixels of the network's input."""
        decoder = self._decoder
        n_masks, n_cells = 3, COARSE**2 * math.prod(self._coarse_hw)
        labels = torch.ones(len(points), 1, dtype=torch.int, device=points.device)

        def preview(spread: threads.Spread) -> RoughMasks:
            sparse, _ = decoder.embed(NetworkPrompts(points[:, None], labels))
            scores, stability = sparse.new_zeros(2, len(points), n_masks)
            cells = sparse.new_zeros(len(points), n_masks, n_cells, dtype=torch.bool)
            corners = self._corners(points)
            order = sorted(range(len(points)), key=corners.__getitem__)

            def group(part: tuple[int, int]) -> None:
                mine = order[slice(*part)]
                windows = {corner: self._window(corner) for corner in {corners[i] for i in mine}}
                seen = [windows[corners[index]] for index in mine]
                runs = list(_runs(seen, 1 if decoder.is_cpu else len(seen)))
                prompts = [Cell(rows, slice(None), window.context) for rows, window in runs]
                found = decoder.transform(prompts, sparse[mine], None, range(1, 4), spread)
                scores[mine] = found.scores
                looked_at = [
                    (mine[rows], window, decoder.upscale(image, found.filters[rows]))
                    for (rows, window), image in zip(runs, found.image, strict=True)
                    if (found.scores[rows] > levels.least_score).any()
                ]
                for n_fine in {window.n_fine for _, window, _ in looked_at}:
                    some = [each for each in looked_at if each[1].n_fine == n_fine]
                    chosen = [index for indices, _, _ in some for index in indices]
                    logits = torch.cat([each for _, _, each in some])
                    stability[chosen], covered = _measured(logits, n_fine, n_cells, levels)
                    places = [window.cells for indices, window, _ in some for _ in indices]
                    for index, place, mask in zip(chosen, places, covered, strict=True):
                        cells[index, :, place] = mask

            spread(group, list(strips(len(points), CPU_POINTS if decoder.is_cpu else len(points))))
            return RoughMasks(scores, stability, cells)

        return decoder.run(preview)

    def _corners(self, points: Tensor) -> list[tuple[int, ...]]:
        """Row and column of the first coarse cell in the window of each point."""
        nearest = (points.flip(1) / (COARSE * self._decoder.token_px)).round().long() - WINDOW // 2
        last = torch.tensor(self._coarse_hw, device=points.device) - WINDOW
        return [tuple(each) for each in nearest.minimum(last).clamp(min=0).tolist()]

    def _window(self, corner: tuple[int, ...]) -> _Window:
        (height, width), (rows, columns) = self._fine_hw, self._coarse_hw
        (top, left), device = corner, self._table.device
        y = torch.arange(COARSE * top, min(height, COARSE * (top + WINDOW)), device=device)
        x = torch.arange(COARSE * left, min(width, COARSE * (left + WINDOW)), device=device)
        outside = torch.ones(rows, columns, dtype=torch.bool, device=device)
        outside[top : top + WINDOW, left : left + WINDOW] = False
        far = outside.flatten().nonzero()[:, 0]
        padding = torch.arange(height * width + rows * columns, len(self._table), device=device)
        chosen = torch.cat(((y[:, None] * width + x).flatten(), height * width + far, padding))
        image, encoding, query = torch.split(self._table[chosen], self._sizes, 1)
        heads = self._context.query.shape[0]
        context = replace(
            self._context,
            image=image.contiguous(),
            encoding=encoding.contiguous(),
            query=query.t().reshape(heads, -1, len(chosen)),
            log_weight=self._log_weight[chosen],
        )
        # Logits of a token are in the order of the two upscalings: row, column, row, column.
        cells = torch.arange(COARSE**2 * rows * columns, device=device)
        by_token = cells.view(rows, 2, 2, columns, 2, 2).permute(0, 3, 1, 4, 2, 5)
        fine = (y[:, None] * COARSE * columns + x).flatten()
        return _Window(context, len(fine), torch.cat((fine, by_token.flatten(0, 1)[far].flatten())))


def _measured(logits: Tensor, n_fine: int, n_cells: int, levels: Levels) -> tuple[Tensor, Tensor]:
    """Stability (n, M) and covered cells (n, M, P) of logits of fine, coarse and other tokens."""
    n_logits = 16 * n_fine
    fine, coarse = logits[:, :, :n_logits], logits[:, :, n_logits : n_logits + n_cells - n_fine]
    high, low = (
        (fine > limit).sum(2) / 16 + (coarse > limit).sum(2)
        for limit in (levels.threshold + levels.offset, levels.threshold - levels.offset)
    )
    covered = (fine > levels.threshold).view(*fine.shape[:2], n_fine, 16).sum(3) > 8
    cells = torch.cat((covered, coarse > levels.threshold), 2)
    return high / low.clamp(min=1e-6), cells


def rough_masks(
    logits: Tensor, scores: Tensor, inner_hw: Size, input_px: int, levels: Levels
) -> RoughMasks:
    """The same of exact masks: (N, M, h, w) logits of an input of so many pixels a side."""
    scale = logits.shape[2] / input_px
    height, width = (math.ceil(side * scale) for side in inner_hw)
    inner = logits[:, :, :height, :width].float()
    high, low = (
        (inner > levels.threshold + shift).sum((2, 3)) for shift in (levels.offset, -levels.offset)
    )
    # Half of the resolution is enough to tell which masks are alike.
    cells = (inner[:, :, ::2, ::2] > levels.threshold).flatten(2)
    return RoughMasks(scores, high / low.clamp(min=1), cells)


def _runs(seen: list[_Window], at_most: int) -> Iterator[tuple[slice, _Window]]:
    """Neighbouring points with the same window, at most so many together."""
    first = 0
    for _, group in groupby(seen, key=id):
        last = first + len(list(group))
        for low, high in strips(last - first, at_most):
            yield slice(first + low, first + high), seen[first]
        first = last
