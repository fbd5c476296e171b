"""Parts of the mask decoder, as functions that TorchScript compiles (see `mobilesam.fast.scripts`).

They compute some image tokens of n prompts: n is 1 on a CPU, where `packed` says that oneDNN
computes the products. C is the width of tokens, T the number of tokens of a prompt.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mobilesam.fast.scripts import Weight, linear, linear_gelu

Norm = tuple[Tensor, Tensor, float]  # weight, bias and epsilon of a layer normalisation


def products(x: Tensor, y: Tensor, packed: bool) -> Tensor:
    """Products x y^T of (n, a, K) and (n, b, K): (n, a, b)."""
    if packed and x.size(0) == 1 and y.size(0) == 1:
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x[0], y[0], None, "none", [], "")
        out = out.unsqueeze(0)
    else:
        out = torch.bmm(x, y.transpose(1, 2))
    return out


def updated(pixels: Tensor, scores: Tensor, value: Tensor, norm: Norm, packed: bool) -> Tensor:
    """Adds attention to the prompt's tokens, and normalises.

    Pixels (1 or n, rows, C), scores (n, heads, T, rows) and values (n, C, heads T) give pixels
    (n, rows, C).
    """
    # Heads and tokens come before pixels, so that the softmax runs over long rows at once.
    weights = torch.softmax(scores, 2).flatten(1, 2).transpose(1, 2)
    if packed and pixels.size(0) == 1 and value.size(0) == 1:
        out: Tensor = torch.ops.mkldnn._linear_pointwise(
            weights[0], pixels[0], value[0], None, "add"
        )
        out = out.unsqueeze(0)
    else:
        out = torch.baddbmm(pixels, weights, value.transpose(1, 2))
    return F.layer_norm(out, [out.size(2)], norm[0], norm[1], norm[2])


def updated_shared(
    pixels: Tensor, query: Tensor, key: Tensor, value: Tensor, norm: Norm, packed: bool
) -> Tensor:
    """`updated` of pixels (1, rows, C) that all prompts share.

    Their queries (heads, d, rows) come from the image, keys (heads, n, T, d) from the prompts.
    """
    scores = torch.bmm(key.flatten(1, 2), query)
    by_prompt = scores.view(key.size(0), key.size(1), key.size(2), -1).transpose(0, 1)
    return updated(pixels, by_prompt, value, norm, packed)


def updated_each(
    pixels: Tensor,
    encoding: Tensor,
    key: Tensor,
    shift: Tensor,
    value: Tensor,
    heads: int,
    norm: Norm,
    packed: bool,
) -> Tensor:
    """`updated` of pixels (n, rows, C) of each prompt, with keys in the space of the image.

    The encoding is (rows, C), keys are (n, heads T, C), and (n, heads T, 1) is added to scores.
    """
    scores = products(key, pixels + encoding, packed).add_(shift)
    by_head = scores.view(scores.size(0), heads, -1, scores.size(2))
    return updated(pixels, by_head, value, norm, packed)


def attention(
    query: Tensor, pixels: Tensor, encoding: Tensor, log_weight: Tensor | None, packed: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Attention (n, heads T, C) to some pixels (n, rows, C) of an image.

    Largest score, sum of weights, and weighted sum of the pixels: all parts of an image are joined
    later.
    """
    scores = products(query, pixels + encoding, packed)
    if log_weight is not None:
        scores = scores.add_(log_weight)
    top = scores.amax(-1, keepdim=True)
    weights = scores.sub_(top).exp_()
    return top, weights.sum(-1, keepdim=True), products(weights, pixels.transpose(1, 2), packed)


def mask_logits(
    pixels: Tensor,
    filters: Tensor,
    first: Weight,
    norm: Norm,
    second: Weight,
    packed: bool,
    fused: bool,
) -> Tensor:
    """Logits (n, M, rows * 16) of pixels (n, rows, C), upscaled, and filters (n, M, C / 8).

    They are ordered by token, then by the two 2x2 splits.
    """
    channels = norm[0].size(0)
    wide = linear(pixels.flatten(0, 1), first, packed).view(-1, channels)
    fine = torch.ops.aten.gelu_(F.layer_norm(wide, [channels], norm[0], norm[1], norm[2]))
    finer = linear_gelu(fine, second, packed, fused)
    return products(filters, finer.view(pixels.size(0), 16 * pixels.size(1), -1), packed)


def write_masks(
    pixels: Tensor,
    filters: Tensor,
    out: Tensor,
    first: Weight,
    norm: Norm,
    second: Weight,
    packed: bool,
    fused: bool,
) -> None:
    """Writes `mask_logits` in the order of the mask.

    `out` is (n, M, H, 2, 2, W, 2) complex64: row, dy of the two upscalings, column, dx of the
    first; that of the second tells the two parts of a number apart, which are moved as one.
    """
    logits = mask_logits(pixels, filters, first, norm, second, packed, fused).to(torch.float32)
    # Each image token became 2x2 and each of those 2x2 again: row, column, dy, dx, dy, dx.
    split = [out.size(0), out.size(1), out.size(2), out.size(5), 2, 2, 2, 2]
    out.copy_(torch.view_as_complex(logits.view(split)).permute(0, 1, 2, 4, 6, 3, 5))
