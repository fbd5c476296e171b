"""SAM's mask decoder for many prompts on one image: what the prompts share is computed once.

The reference repeats the image embedding, its positional encoding and the first layer's projections
for every prompt. Here they belong to the image (`ImageContext`); prompts go through the rest a few
at a time, so that buffers stay in the cache and are not returned to the kernel.

With T tokens of a prompt (7 for a point) against 4,096 of the image, projecting the image is nearly
all of the work of an attention layer. Matrix products are associative, so the small side can be
projected instead: for a head of width d, with W_q and W_k of (d, C),
(W_q a) . (W_k b) = (W_k^T W_q a) . b. Over all heads that makes 2 C heads T operations an image
token instead of 2 C heads d and more; d is 16. Likewise behind the softmax. A bias that shifts all
scores of one softmax alike drops out. Results are the same up to rounding.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import torch
import torch.nn.functional as F
from segment_anything.modeling import MaskDecoder, PromptEncoder
from torch import Tensor, nn

from mobilesam.errors import UsageError
from mobilesam.fast.allocator import learn_large_blocks
from mobilesam.fast.kernels import Dense, gelu_, strips
from mobilesam.inputs import Device
from mobilesam.prompts import NetworkPrompts

# Prompts at a time on a CPU: at most 9 MB a buffer in float32, so that none is given back to the
# kernel and all stay in the cache. On a GPU, more are faster.
CPU_PROMPTS = 2
GPU_PROMPTS = 64

Multimask = bool | Literal["both"]
_Module = TypeVar("_Module", bound=nn.Module)


@dataclass(frozen=True, slots=True)
class ImageContext:
    """What all prompts on one image share; HW is the number of its tokens, 4,096 at 1024 px."""

    tokens: Tensor  # (HW, C), the image embedding alone
    image: Tensor  # (HW, C), with the embedding of "no mask prompt" added
    key: Tensor  # (1, heads, HW, d), of the first layer's attention from the tokens
    value: Tensor  # (1, heads, HW, d), of the same
    query: Tensor  # (heads, d, HW), of the first layer's attention from the image


class FastDecoder:
    """SAM's prompt encoder and mask decoder for inference; safe to call from several threads.

    All weights are copied. Prompts are embedded, and results given, in float32; between, it
    computes in `dtype`. `prompts_at_once` limits the memory; the default depends on the device.
    """

    def __init__(
        self,
        prompt_encoder: PromptEncoder,
        mask_decoder: MaskDecoder,
        dtype: torch.dtype = torch.float32,
        device: Device = "cpu",
        prompts_at_once: int | None = None,
    ) -> None:
        learn_large_blocks()
        self._like = like = torch.empty(0, dtype=dtype, device=device)
        at_once = CPU_PROMPTS if like.device.type == "cpu" else GPU_PROMPTS
        self._at_once = prompts_at_once or at_once
        self._prompt_encoder = prompt_encoder = _copied(prompt_encoder, like.device)
        self._mask_decoder = mask_decoder = _copied(mask_decoder, like.device)
        with torch.inference_mode():
            encoding = prompt_encoder.get_dense_pe()
            self._grid_hw = (int(encoding.shape[2]), int(encoding.shape[3]))
            self._encoding = encoding[0].flatten(1).t().to(like).contiguous()
            self._no_mask = prompt_encoder.no_mask_embed.weight.detach().to(like)
            start = (mask_decoder.iou_token.weight, mask_decoder.mask_tokens.weight)
            self._start = torch.cat(start).detach().to(like)
            transformer = mask_decoder.transformer
            self._layers = [_Layer(layer, like) for layer in transformer.layers]
            self._final = _TokensToImage(transformer.final_attn_token_to_image, like)
            self._final_norm = transformer.norm_final_attn
            self._upscale = _Upscale(mask_decoder.output_upscaling, like)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restores the object in another process, and adapts the allocator there."""
        self.__dict__.update(state)
        learn_large_blocks()

    @torch.inference_mode()
    def prepare(self, embedding: Tensor) -> ImageContext:
        """The part that does not depend on prompts, of a (1, C, H, W) or (C, H, W) embedding."""
        wanted = (self._encoding.shape[1], *self._grid_hw)
        if embedding.shape[-3:] != wanted or embedding.numel() != self._encoding.numel():
            raise UsageError(
                f"the embedding is {tuple(embedding.shape)}, wanted (1, *{wanted}): give one image"
            )
        tokens = embedding.reshape(wanted).flatten(1).t().to(self._like).contiguous()
        image = tokens + self._no_mask
        image_pe = image + self._encoding
        first = self._layers[0]
        key, value = first.to_image.project(image, image_pe)
        return ImageContext(tokens, image, key, value, first.from_image.project(image_pe))

    @torch.inference_mode()
    def __call__(
        self, context: ImageContext, prompts: NetworkPrompts, *, multimask: Multimask = False
    ) -> tuple[Tensor, Tensor]:
        """Logits (N, M, 4 H, 4 W) and scores (N, M) of N prompts; see `FastMobileSam.decode`."""
        sparse, dense = self._embed(prompts)
        count, n_masks = sparse.shape[0], self._mask_decoder.num_mask_tokens
        if multimask == "both":
            chosen = list(range(n_masks))
        else:
            chosen = list(range(1, n_masks)) if multimask else [0]
        height, width = (4 * side for side in self._grid_hw)
        logits = sparse.new_empty(count, len(chosen), height, width)
        scores = sparse.new_empty(count, len(chosen))
        for first, last in strips(count, self._at_once):
            rows = slice(first, last)
            mask = None if dense is None else dense[rows]
            tokens, image = self._transform(context, sparse[rows], mask, chosen)
            self._masks(tokens, image, chosen, logits[rows])
            scores[rows] = self._mask_decoder.iou_prediction_head(tokens[:, 0])[:, chosen]
        return logits, scores

    def _embed(self, prompts: NetworkPrompts) -> tuple[Tensor, Tensor | None]:
        """Sparse (N, P, C), and dense (N, HW, C) only where there are mask prompts."""
        points, labels, boxes, masks = prompts
        if (points is None) != (labels is None):
            raise UsageError("points and labels go together; got only one of them")
        counts = {len(given) for given in (points, labels, boxes) if given is not None}
        if masks is not None and (len(masks) != 1 or not counts):
            counts.add(len(masks))
        if len(counts) > 1:
            raise UsageError(f"prompts differ in number: {sorted(counts)}; give one row each")
        pair = None if points is None else (points, labels)
        sparse, dense = self._prompt_encoder(points=pair, boxes=boxes, masks=masks)
        if masks is None:
            return sparse, None
        return sparse, dense.flatten(2).transpose(1, 2).expand(len(sparse), -1, -1)

    def _transform(
        self, context: ImageContext, sparse: Tensor, dense: Tensor | None, chosen: list[int]
    ) -> tuple[Tensor, Tensor]:
        """Tokens (n, 1 + M, C) float32 of the IoU and the chosen masks, and images (n, HW, C)."""
        start = self._start.expand(sparse.shape[0], -1, -1)
        prompt = torch.cat((start, sparse.to(self._like)), 1)
        if dense is None:
            # In the first layer the image is still the same for all prompts.
            first, *rest = self._layers
            tokens = first.attend_to_self(prompt, prompt)
            seen = first.to_image.shared(tokens + prompt, context.key, context.value)
            tokens = first.after_image(tokens, seen)
            image = first.from_image.shared(tokens, tokens + prompt, context.query, context.image)
            image = first.norm(image, 3)
        else:
            tokens, image = prompt, context.tokens + dense.to(self._like)
            rest = self._layers
        for layer in rest:
            image_pe = image + self._encoding
            tokens = layer.attend_to_self(tokens, prompt)
            seen = layer.to_image.each(tokens + prompt, image, image_pe)
            tokens = layer.after_image(tokens, seen)
            layer.from_image.each(tokens, tokens + prompt, image, image_pe)
            image = layer.norm(image, 3)
        used = [0, *(1 + index for index in chosen)]
        tokens = tokens[:, used]
        seen = self._final.each_of_few(tokens + prompt[:, used], image, self._encoding)
        return self._final_norm((tokens + seen).float()), image

    def _masks(self, tokens: Tensor, image: Tensor, chosen: list[int], out: Tensor) -> None:
        """Writes (n, M, 4 H, 4 W) logits."""
        networks = self._mask_decoder.output_hypernetworks_mlps
        each = [networks[index](tokens[:, 1 + row]) for row, index in enumerate(chosen)]
        filters = torch.stack(each, 1).to(image)
        height, width = self._grid_hw
        step = 1 if image.device.type == "cpu" else len(image)  # four times the image each
        for first, last in strips(len(image), step):
            features = self._upscale(image[first:last])
            found = torch.bmm(filters[first:last], features.transpose(1, 2))
            # Each image token became 2x2 and each of those 2x2 again: row, column, dy, dx, dy, dx.
            blocks = found.view(last - first, -1, height, width, 2, 2, 2, 2)
            target = out[first:last].view(last - first, -1, height, 2, 2, width, 2, 2)
            target.copy_(blocks.permute(0, 1, 2, 4, 6, 3, 5, 7))


class _Layer:
    """One two-way layer: tokens to tokens, tokens to image, MLP, image to tokens."""

    def __init__(self, source: Any, like: Tensor) -> None:
        self.skip_pe = bool(source.skip_first_layer_pe)
        attention = source.self_attn
        self.heads = int(attention.num_heads)
        self.query, self.key, self.value, self.out = (
            _affine(layer, like)
            for layer in (attention.q_proj, attention.k_proj, attention.v_proj, attention.out_proj)
        )
        self.to_image = _TokensToImage(source.cross_attn_token_to_image, like)
        self.from_image = _ImageToTokens(source.cross_attn_image_to_token, like)
        norms = (source.norm1, source.norm2, source.norm3, source.norm4)
        self.norms = [(*_affine(norm, like), norm.eps) for norm in norms]
        self.mlp = [_affine(layer, like) for layer in (source.mlp.lin1, source.mlp.lin2)]
        self.activation = source.mlp.act

    def attend_to_self(self, tokens: Tensor, prompt: Tensor) -> Tensor:
        """(N, T, C) -> (N, T, C), normalised."""
        with_pe = tokens if self.skip_pe else tokens + prompt
        query, key, value = (
            F.linear(x, *layer).view(*x.shape[:2], self.heads, -1).transpose(1, 2)
            for x, layer in ((with_pe, self.query), (with_pe, self.key), (tokens, self.value))
        )
        mixed = F.scaled_dot_product_attention(query, key, value)
        found = F.linear(mixed.transpose(1, 2).flatten(2), *self.out)
        return self.norm(found if self.skip_pe else tokens + found, 0)

    def after_image(self, tokens: Tensor, seen: Tensor) -> Tensor:
        """Adds the result of the attention to the image, and runs the MLP: (N, T, C)."""
        tokens = self.norm(tokens + seen, 1)
        hidden = self.activation(F.linear(tokens, *self.mlp[0]))
        return self.norm(tokens + F.linear(hidden, *self.mlp[1]), 2)

    def norm(self, x: Tensor, index: int) -> Tensor:
        """One of the four layer normalisations."""
        return F.layer_norm(x, (x.shape[-1],), *self.norms[index])


class _TokensToImage:
    """Attention of the prompt's tokens to the image."""

    def __init__(self, source: Any, like: Tensor) -> None:
        self.heads = heads = int(source.num_heads)
        self.query = _scaled(source.q_proj, source, like)
        key, value = source.k_proj.weight.detach(), source.v_proj.weight.detach()
        self.key = key.unflatten(0, (heads, -1)).to(like).contiguous()  # (heads, d, C)
        self.value = value.unflatten(0, (heads, -1)).transpose(1, 2).to(like).contiguous()
        self.value_bias = source.v_proj.bias.detach().to(like)
        self.out = _affine(source.out_proj, like)
        # The key's bias shifts all scores of a query alike.
        self.image_key = Dense(key, None, like)
        self.image_value = Dense(value, source.v_proj.bias, like)

    def project(self, image: Tensor, image_pe: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values (1, heads, HW, d) of an image (HW, C), without and with its encoding."""
        key, value = self.image_key(image_pe), self.image_value(image)
        return _heads_first(key, self.heads), _heads_first(value, self.heads)

    def shared(self, tokens: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """(N, T, C) tokens against the one image of `project` -> (N, T, C)."""
        count, length, _ = tokens.shape
        query = _heads_first(F.linear(tokens.flatten(0, 1), *self.query), self.heads)
        mixed = F.scaled_dot_product_attention(query, key, value, scale=1.0)
        return F.linear(mixed[0].transpose(0, 1).reshape(count, length, -1), *self.out)

    def each(self, tokens: Tensor, image: Tensor, image_pe: Tensor) -> Tensor:
        """(N, T, C) tokens, each prompt with its own image (N, HW, C) -> (N, T, C)."""
        query = self._wide_query(tokens)
        return self._attend(torch.bmm(query, image_pe.transpose(1, 2)), image, tokens.shape[1])

    def each_of_few(self, tokens: Tensor, image: Tensor, encoding: Tensor) -> Tensor:
        """As `each`, for few tokens, where adding (HW, C) `encoding` to the image costs more."""
        query = self._wide_query(tokens)
        scores = torch.matmul(query, encoding.t())
        return self._attend(scores.baddbmm_(query, image.transpose(1, 2)), image, tokens.shape[1])

    def _wide_query(self, tokens: Tensor) -> Tensor:
        """Queries in the space of the image: (N, T, C) -> (N, heads T, C)."""
        query = _heads_first(F.linear(tokens.flatten(0, 1), *self.query), self.heads)[0]
        return _prompts_first(torch.bmm(query, self.key), len(tokens))

    def _attend(self, scores: Tensor, image: Tensor, length: int) -> Tensor:
        """Scores (N, heads T, HW) and image (N, HW, C) -> (N, T, C)."""
        count = len(scores)
        found = torch.bmm(scores.softmax(-1), image).view(count, self.heads, length, -1)
        narrow = torch.bmm(found.transpose(0, 1).flatten(1, 2), self.value)  # (heads, N T, d)
        mixed = narrow.transpose(0, 1).reshape(count, length, -1) + self.value_bias
        return F.linear(mixed, *self.out)


class _ImageToTokens:
    """Attention of the image to the prompt's tokens, added to the image."""

    def __init__(self, source: Any, like: Tensor) -> None:
        self.heads = heads = int(source.num_heads)
        self.key = _scaled(source.k_proj, source, like)
        self.value = _affine(source.v_proj, like)
        query, out = source.q_proj.weight.detach(), source.out_proj.weight.detach()
        self.query = query.unflatten(0, (heads, -1)).to(like).contiguous()  # (heads, d, C)
        self.query_bias = source.q_proj.bias.detach().view(heads, -1, 1).to(like)
        self.out = out.unflatten(1, (heads, -1)).permute(1, 2, 0).to(like).contiguous()
        # The weights of a head sum to one, so a share of the bias with each head is the bias.
        self.out_bias = (source.out_proj.bias.detach() / heads).to(like)
        self.image_query = Dense(query, source.q_proj.bias, like)

    def project(self, image_pe: Tensor) -> Tensor:
        """Queries of an image that all prompts share: (HW, C) -> (heads, d, HW), a view."""
        return _heads_first(self.image_query(image_pe), self.heads)[0].transpose(1, 2)

    def shared(self, tokens: Tensor, tokens_pe: Tensor, query: Tensor, image: Tensor) -> Tensor:
        """One image (HW, C) with its `project` for N prompts of (N, T, C): a new (N, HW, C)."""
        count, length, _ = tokens.shape
        key = F.linear(tokens_pe, *self.key).view(count, length, self.heads, -1).transpose(1, 2)
        scores = tokens.new_empty(count, self.heads, length, query.shape[2])
        for row in range(count):
            torch.bmm(key[row], query, out=scores[row])
        return torch.baddbmm(image[None], *self._factors(scores, tokens))

    def each(self, tokens: Tensor, tokens_pe: Tensor, image: Tensor, image_pe: Tensor) -> None:
        """Each prompt with its own image (N, HW, C), which is added to in place."""
        count, length, _ = tokens.shape
        key = _heads_first(F.linear(tokens_pe.flatten(0, 1), *self.key), self.heads)[0]
        wide = torch.bmm(key, self.query)  # (heads, N T, C)
        shift = torch.bmm(key, self.query_bias)  # (heads, N T, 1)
        scores = torch.bmm(_prompts_first(wide, count), image_pe.transpose(1, 2))
        scores += _prompts_first(shift, count)
        scores = scores.view(count, self.heads, length, -1)
        image.baddbmm_(*self._factors(scores, tokens))

    def _factors(self, scores: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Factors of the sum to add to the image: (N, HW, heads T) and (N, heads T, C)."""
        # Heads and tokens come before pixels, so that the softmax runs over long rows at once.
        weights = scores.softmax(2).flatten(1, 2)
        value = _heads_first(F.linear(tokens.flatten(0, 1), *self.value), self.heads)[0]
        wide = torch.bmm(value, self.out) + self.out_bias
        return weights.transpose(1, 2), _prompts_first(wide, len(tokens))


class _Upscale:
    """Two transposed convolutions of kernel and stride 2, as matrix products without shuffling."""

    def __init__(self, source: Any, like: Tensor) -> None:
        first, norm, _, second, _ = source
        # From (C, C', dy, dx) to (dy, dx, C', C): C -> (dy, dx, C').
        self.first, self.second = (
            Dense(conv.weight.detach().permute(2, 3, 1, 0).flatten(0, 2), conv.bias.repeat(4), like)
            for conv in (first, second)
        )
        self.norm = (*_affine(norm, like), norm.eps)

    def __call__(self, image: Tensor) -> Tensor:
        """(n, HW, C) -> (n, HW * 16, C / 8), ordered by token, then by the two 2x2 splits."""
        wide = self.first(image.reshape(-1, image.shape[2]))
        channels = self.norm[0].shape[0]
        fine = gelu_(F.layer_norm(wide.view(-1, channels), (channels,), *self.norm))
        finer = gelu_(self.second(fine))
        return finer.view(image.shape[0], 16 * image.shape[1], -1)


def _affine(layer: Any, like: Tensor) -> tuple[Tensor, Tensor]:
    """Weight and bias of a layer."""
    return layer.weight.detach().to(like), layer.bias.detach().to(like)


def _scaled(layer: Any, attention: Any, like: Tensor) -> tuple[Tensor, Tensor]:
    """Weight and bias of a layer, divided by the square root of the width of a head."""
    scale = (attention.internal_dim // attention.num_heads) ** -0.5
    return (layer.weight.detach() * scale).to(like), (layer.bias.detach() * scale).to(like)


def _heads_first(x: Tensor, heads: int) -> Tensor:
    """(rows, heads d) -> (1, heads, rows, d), a view."""
    return x.view(x.shape[0], heads, -1).transpose(0, 1)[None]


def _prompts_first(x: Tensor, count: int) -> Tensor:
    """(heads, N T, C) -> (N, heads T, C), a copy."""
    return x.view(x.shape[0], count, -1, x.shape[2]).transpose(0, 1).flatten(1, 2)


def _copied(module: _Module, device: torch.device) -> _Module:
    """A copy for inference only."""
    return copy.deepcopy(module).to(device).eval().requires_grad_(requires_grad=False)
