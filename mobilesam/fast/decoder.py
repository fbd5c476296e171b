"""SAM's mask decoder for many prompts on one image: what the prompts share is computed once.

The reference repeats the image embedding, its positional encoding and the first layer's projections
for every prompt. Here they belong to the image (`ImageContext`). On a CPU, prompts go through the
rest a few at a time, and the image tokens of a prompt in strips, on one thread for each core.

With T tokens of a prompt (7 for a point) against 4,096 of the image, projecting the image is nearly
all of the work of an attention layer. Matrix products are associative, so the small side can be
projected instead: for a head of width d, with W_q and W_k of (d, C),
(W_q a) . (W_k b) = (W_k^T W_q a) . b. Over all heads that makes 2 C heads T operations an image
token instead of 2 C heads d and more; d is 16. Likewise behind the softmax. A bias that shifts all
scores of one softmax alike drops out. Results are the same up to rounding.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from segment_anything.modeling import MaskDecoder, PromptEncoder
from torch import Tensor, nn

from mobilesam.errors import UsageError
from mobilesam.fast import decoder_scripts, threads
from mobilesam.fast.allocator import learn_large_blocks
from mobilesam.fast.decoder_scripts import Norm
from mobilesam.fast.kernels import Dense, fuses_gelu, strips
from mobilesam.fast.scripts import compiled
from mobilesam.inputs import Device
from mobilesam.prompts import NetworkPrompts

# Prompts at a time on a CPU: few, as each has an image, but enough for the products of their own
# tokens. On a GPU, more are faster.
CPU_PROMPTS = 4
GPU_PROMPTS = 64
# Image tokens in a strip on a CPU: at most 2 MB a buffer in float32.
CPU_TOKENS = 1024

Multimask = bool | Literal["both"]
_Module = TypeVar("_Module", bound=nn.Module)
_Function = TypeVar("_Function", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class ImageContext:
    """What all prompts on one image share; HW is the number of its tokens, 4,096 at 1024 px."""

    tokens: Tensor  # (HW, C), the image embedding alone
    image: Tensor  # (HW, C), with the embedding of "no mask prompt" added
    encoding: Tensor  # (HW, C), of the positions of the tokens
    key: Tensor  # (1, heads, HW, d), of the first layer's attention from the tokens
    value: Tensor  # (1, heads, HW, d), of the same
    query: Tensor  # (heads, d, HW), of the first layer's attention from the image
    log_weight: Tensor | None = None  # (HW,), of tokens that stand for several; added to attention


class Cell(NamedTuple):
    """Some prompts and some tokens of their image: on a CPU one prompt and a strip, else all."""

    rows: slice
    part: slice
    context: ImageContext


# Computes new image tokens of a cell, (prompts, tokens, C), from the old.
_Update = Callable[[Cell, Tensor], Tensor]


class FoundMasks(NamedTuple):
    """The K masks of N prompts whose scores are high enough, in the order of the prompts."""

    prompts: Tensor  # (K,) int64, indices of the prompts
    logits: Tensor  # (K, 4 H, 4 W) float32
    scores: Tensor  # (K,) float32


class Decoded(NamedTuple):
    """n prompts behind the transformer."""

    scores: Tensor  # (n, M) float32
    filters: Tensor  # (n, M, C / 8), of the masks
    image: list[Tensor]  # tokens of each cell


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
        self.is_cpu = like.device.type == "cpu"
        self._at_once = prompts_at_once or (CPU_PROMPTS if self.is_cpu else GPU_PROMPTS)
        self._prompt_encoder = prompt_encoder = _copied(prompt_encoder, like.device)
        self._mask_decoder = mask_decoder = _copied(mask_decoder, like.device)
        with torch.inference_mode():
            encoding = prompt_encoder.get_dense_pe()
            self.grid_hw = height, width = int(encoding.shape[2]), int(encoding.shape[3])
            self.token_px = int(prompt_encoder.input_image_size[0]) // height
            self._encoding = encoding[0].flatten(1).t().to(like).contiguous()
            self._no_mask = prompt_encoder.no_mask_embed.weight.detach().to(like)
            start = (mask_decoder.iou_token.weight, mask_decoder.mask_tokens.weight)
            self._start = torch.cat(start).detach().to(like)
            transformer = mask_decoder.transformer
            self._layers = [_Layer(layer, like) for layer in transformer.layers]
            self._final = _TokensToImage(transformer.final_attn_token_to_image, like)
            self._final_norm = transformer.norm_final_attn
            self.upscale = _Upscale(mask_decoder.output_upscaling, like)
        rows = max(1, CPU_TOKENS // width) if self.is_cpu else height
        self._strips = [(width * first, width * last) for first, last in strips(height, rows)]

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restores the object in another process, and adapts the allocator there."""
        self.__dict__.update(state)
        learn_large_blocks()

    def converted(self, dtype: torch.dtype) -> FastDecoder:
        """A copy that computes in another data type."""
        source = self._prompt_encoder, self._mask_decoder
        return FastDecoder(*source, dtype, self._like.device, self._at_once)

    def prepare(self, embedding: Tensor) -> ImageContext:
        """The part that does not depend on prompts, of a (1, C, H, W) or (C, H, W) embedding."""
        wanted = (self._encoding.shape[1], *self.grid_hw)
        if embedding.shape[-3:] != wanted or embedding.numel() != self._encoding.numel():
            raise UsageError(
                f"the embedding is {tuple(embedding.shape)}, wanted (1, *{wanted}): give one image"
            )

        def project(spread: threads.Spread) -> ImageContext:
            tokens = embedding.reshape(wanted).flatten(1).t().to(self._like).contiguous()
            image = tokens + self._no_mask
            first = self._layers[0]

            def part(strip: tuple[int, int]) -> tuple[Tensor, ...]:
                mine = image[slice(*strip)]
                mine_pe = mine + self._encoding[slice(*strip)]
                query = first.from_image.image_query(mine_pe)
                return *first.to_image.project(mine, mine_pe), query

            parts = zip(*spread(part, self._strips), strict=True)
            key, value, query = (_heads_first(torch.cat(each), first.heads) for each in parts)
            query = query[0].transpose(1, 2)
            return ImageContext(tokens, image, self._encoding, key, value, query)

        return self.run(project)

    def __call__(
        self, context: ImageContext, prompts: NetworkPrompts, *, multimask: Multimask = False
    ) -> tuple[Tensor, Tensor]:
        """Logits (N, M, 4 H, 4 W) and scores (N, M) of N prompts; see `FastMobileSam.decode`."""
        n_masks = self._mask_decoder.num_mask_tokens
        chosen = range(n_masks)[slice(None) if multimask == "both" else slice(1, None)]
        if not multimask:
            chosen = range(1)

        def decode(spread: threads.Spread) -> tuple[Tensor, Tensor]:
            sparse, dense = self.embed(prompts)
            logits = self._new_logits(len(sparse), len(chosen))
            scores = logits.new_empty(logits.shape[:2])

            def group(rows: tuple[int, int]) -> None:
                part = slice(*rows)
                cells = self._cells(rows[1] - rows[0], context)
                masks = None if dense is None else dense[part]
                found = self.transform(cells, sparse[part], masks, chosen, spread)
                scores[part] = found.scores
                self._write_masks(found, cells, logits[part], spread)

            spread(group, list(strips(len(sparse), self._at_once)))
            return logits, scores

        return self.run(decode)

    def find(
        self, context: ImageContext, prompts: NetworkPrompts, least_score: float
    ) -> FoundMasks:
        """The masks of ambiguous prompts with a higher score; prompts without any cost less."""
        chosen = range(1, self._mask_decoder.num_mask_tokens)

        def decode(spread: threads.Spread) -> FoundMasks:
            sparse, dense = self.embed(prompts)

            def group(rows: tuple[int, int]) -> FoundMasks:
                part = slice(*rows)
                cells = self._cells(rows[1] - rows[0], context)
                masks = None if dense is None else dense[part]
                found = self.transform(cells, sparse[part], masks, chosen, spread)
                keep = ~(found.scores <= least_score)  # NaN is for the caller to notice
                logits = self._new_logits(*keep.shape)
                self._write_masks(found, cells, logits, spread, keep)
                indices = rows[0] + keep.nonzero()[:, 0]
                return FoundMasks(indices, logits[keep], found.scores[keep])

            parts = spread(group, list(strips(len(sparse), self._at_once)))
            return FoundMasks(*(torch.cat(each) for each in zip(*parts, strict=True)))

        return self.run(decode)

    def run(self, work: Callable[[threads.Spread], threads.Result]) -> threads.Result:
        """On threads of their own on a CPU; in inference mode."""
        if self.is_cpu:
            return threads.run(work)
        with torch.inference_mode():
            return work(threads.serial)

    def _new_logits(self, count: int, n_masks: int) -> Tensor:
        """(count, n_masks, 4 H, 4 W) float32."""
        height, width = self.grid_hw
        return torch.empty(count, n_masks, 4 * height, 4 * width, device=self._like.device)

    def _cells(self, count: int, context: ImageContext) -> list[Cell]:
        """All cells of so many prompts on one image, by prompt."""
        rows = strips(count, 1 if self.is_cpu else max(1, count))
        pairs = itertools.product(rows, self._strips)
        return [Cell(slice(*each), slice(*part), context) for each, part in pairs]

    def embed(self, prompts: NetworkPrompts) -> tuple[Tensor, Tensor | None]:
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

    def transform(
        self,
        cells: Sequence[Cell],
        sparse: Tensor,
        dense: Tensor | None,
        chosen: Sequence[int],
        spread: threads.Spread,
    ) -> Decoded:
        """Runs the transformer on n prompts, and the small networks behind it.

        The cells are all of these prompts, by prompt, and of contexts with the same key and value.
        """
        tokens = sparse.to(self._like)
        tokens = prompt = torch.cat((self._start.expand(len(tokens), -1, -1), tokens), 1)
        image = [cell.context.image[None, cell.part] for cell in cells]

        def look(attention: _TokensToImage, tokens: Tensor, update: _Update) -> Tensor:
            """Updates the image, and gives what the tokens see there."""
            query = attention.wide_query(tokens)

            def part(index: int) -> tuple[Tensor, Tensor, Tensor]:
                cell = cells[index]
                image[index] = pixels = update(cell, image[index])
                attend = _compiled(decoder_scripts.attention, pixels)
                weight, encoding = cell.context.log_weight, cell.context.encoding[cell.part]
                weight = None if weight is None else weight[cell.part]
                return attend(
                    query[cell.rows], pixels, encoding, weight, attention.image_key.packed
                )

            found = _joined_attention(spread(part, range(len(cells))), len(query))
            return attention.narrow(found, tokens.shape[1])

        if dense is None:
            # In the first layer the image is still the same for all prompts.
            first, *layers = self._layers
            tokens = first.attend_to_self(prompt, prompt)
            context = cells[0].context
            seen = first.to_image.shared(tokens + prompt, context, spread)
            tokens = first.after_image(tokens, seen)
            update = first.from_image.shared(tokens, tokens + prompt)
        else:
            layers, masks = self._layers, dense.to(self._like)

            def update(cell: Cell, _: Tensor) -> Tensor:
                return cell.context.tokens[cell.part] + masks[cell.rows, cell.part]

        for layer in layers:
            tokens = layer.attend_to_self(tokens, prompt)
            tokens = layer.after_image(tokens, look(layer.to_image, tokens + prompt, update))
            update = layer.from_image.each(tokens, tokens + prompt)
        used = [0, *(1 + index for index in chosen)]
        tokens = tokens[:, used]
        seen = look(self._final, tokens + prompt[:, used], update)
        tokens = self._final_norm((tokens + seen).float())
        networks = self._mask_decoder.output_hypernetworks_mlps
        filters = [networks[index](tokens[:, 1 + row]) for row, index in enumerate(chosen)]
        scores = self._mask_decoder.iou_prediction_head(tokens[:, 0])[:, list(chosen)]
        return Decoded(scores, torch.stack(filters, 1).to(self._like), image)

    def _write_masks(
        self,
        found: Decoded,
        cells: Sequence[Cell],
        out: Tensor,
        spread: threads.Spread,
        keep: Tensor | None = None,
    ) -> None:
        """Writes (n, M, 4 H, 4 W) logits, at least of the prompts with masks to keep."""
        width = self.grid_hw[1]
        pairs = out.view(torch.complex64)

        def part(index: int) -> None:
            rows, strip, _ = cells[index]
            target = pairs[rows, :, 4 * strip.start // width : 4 * strip.stop // width]
            target = target.view(*target.shape[:2], -1, 2, 2, width, 2)
            self.upscale.write(found.image[index], found.filters[rows], target)

        wanted = [keep is None or bool(keep[rows].any()) for rows, _, _ in cells]
        spread(part, [index for index, each in enumerate(wanted) if each])


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
        self.from_image = _ImageToTokens(source.cross_attn_image_to_token, source.norm4, like)
        norms = (source.norm1, source.norm2, source.norm3)
        self.norms = [(*_affine(norm, like), norm.eps) for norm in norms]
        self.mlp = [
            Dense(layer.weight, layer.bias, like) for layer in (source.mlp.lin1, source.mlp.lin2)
        ]
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
        hidden = self.activation(self.mlp[0](tokens.flatten(0, 1)))
        return self.norm(tokens + self.mlp[1](hidden).view_as(tokens), 2)

    def norm(self, x: Tensor, index: int) -> Tensor:
        """One of the layer normalisations of tokens."""
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
        """Keys and values (rows, heads d) of image tokens (rows, C), without and with encoding."""
        return self.image_key(image_pe), self.image_value(image)

    def shared(self, tokens: Tensor, context: ImageContext, spread: threads.Spread) -> Tensor:
        """(N, T, C) tokens against the one image of a context -> (N, T, C)."""
        count, length, _ = tokens.shape
        query = _heads_first(F.linear(tokens.flatten(0, 1), *self.query), self.heads)

        def part(heads: tuple[int, int]) -> Tensor:
            mine, key, value = (
                each[:, slice(*heads)] for each in (query, context.key, context.value)
            )
            return F.scaled_dot_product_attention(mine, key, value, scale=1.0)

        at_once = (self.heads + 1) // 2 if query.device.type == "cpu" else self.heads
        mixed = torch.cat(spread(part, list(strips(self.heads, at_once))), 1)[0]
        return F.linear(mixed.transpose(0, 1).reshape(count, length, -1), *self.out)

    def wide_query(self, tokens: Tensor) -> Tensor:
        """Queries in the space of the image: (N, T, C) -> (N, heads T, C)."""
        query = _heads_first(F.linear(tokens.flatten(0, 1), *self.query), self.heads)[0]
        return _prompts_first(torch.bmm(query, self.key), len(tokens))

    def narrow(self, found: Tensor, length: int) -> Tensor:
        """The result (N, heads T, C) of the wide queries -> (N, T, C)."""
        count = len(found)
        by_head = found.view(count, self.heads, length, -1).transpose(0, 1).flatten(1, 2)
        narrow = torch.bmm(by_head, self.value)  # (heads, N T, d)
        mixed = narrow.transpose(0, 1).reshape(count, length, -1) + self.value_bias
        return F.linear(mixed, *self.out)


class _ImageToTokens:
    """Attention of the image to the prompt's tokens, added to the image and normalised."""

    def __init__(self, source: Any, norm: Any, like: Tensor) -> None:
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
        self.norm: Norm = (*_affine(norm, like), norm.eps)

    def shared(self, tokens: Tensor, tokens_pe: Tensor) -> _Update:
        """For prompts (N, T, C) and images that are still those of the contexts."""
        key = F.linear(tokens_pe, *self.key)
        key = key.view(*key.shape[:2], self.heads, -1).permute(2, 0, 1, 3)
        value = self._wide_value(tokens)

        def update(cell: Cell, pixels: Tensor) -> Tensor:
            rows, part, context = cell
            given = context.query[:, :, part], key[:, rows], value[rows]
            updated = _compiled(decoder_scripts.updated_shared, pixels)
            return updated(pixels, *given, self.norm, self.image_query.packed)

        return update

    def each(self, tokens: Tensor, tokens_pe: Tensor) -> _Update:
        """For prompts (N, T, C) with an image each."""
        key = _heads_first(F.linear(tokens_pe.flatten(0, 1), *self.key), self.heads)[0]
        wide = _prompts_first(torch.bmm(key, self.query), len(tokens))  # (N, heads T, C)
        shift = _prompts_first(torch.bmm(key, self.query_bias), len(tokens))  # (N, heads T, 1)
        value = self._wide_value(tokens)

        def update(cell: Cell, pixels: Tensor) -> Tensor:
            rows, part, context = cell
            given = context.encoding[part], wide[rows], shift[rows], value[rows]
            updated = _compiled(decoder_scripts.updated_each, pixels)
            return updated(pixels, *given, self.heads, self.norm, self.image_query.packed)

        return update

    def _wide_value(self, tokens: Tensor) -> Tensor:
        """Values in the space of the image: (N, T, C) -> (N, C, heads T), a view."""
        value = _heads_first(F.linear(tokens.flatten(0, 1), *self.value), self.heads)[0]
        return _prompts_first(torch.bmm(value, self.out) + self.out_bias, len(tokens)).mT


def _joined_attention(parts: Sequence[tuple[Tensor, ...]], count: int) -> Tensor:
    """Attention to all image tokens, from the cells of N prompts: (N, heads T, C)."""
    joined = (torch.cat(each) for each in zip(*parts, strict=True))
    top, total, found = (each.view(count, -1, *each.shape[1:]) for each in joined)
    scale = (top - top.amax(1, keepdim=True)).exp()
    mixed: Tensor = (scale * found).sum(1) / (scale * total).sum(1)
    return mixed


class _Upscale:
    """Two transposed convolutions of kernel and stride 2, as matrix products without shuffling."""

    def __init__(self, source: Any, like: Tensor) -> None:
        first, norm, _, second, _ = source
        # From (C, C', dy, dx) to (dy, dx, C', C): C -> (dy, dx, C').
        self.first, self.second = (
            Dense(conv.weight.detach().permute(2, 3, 1, 0).flatten(0, 2), conv.bias.repeat(4), like)
            for conv in (first, second)
        )
        self.norm: Norm = (*_affine(norm, like), norm.eps)

    def __call__(self, image: Tensor, filters: Tensor) -> Tensor:
        """Logits of image tokens (n, rows, C); see `decoder_scripts.mask_logits`."""
        return _compiled(decoder_scripts.mask_logits, image)(image, filters, *self._weights(image))

    def write(self, image: Tensor, filters: Tensor, out: Tensor) -> None:
        """Writes them in the order of the mask; see `decoder_scripts.write_masks`."""
        write = _compiled(decoder_scripts.write_masks, image)
        write(image, filters, out, *self._weights(image))

    def _weights(self, image: Tensor) -> tuple[Any, ...]:
        rows = image.shape[0] * image.shape[1]
        weights = self.first.prepared(rows), self.norm, self.second.prepared(4 * rows)
        return *weights, self.first.packed, fuses_gelu()


def _compiled(function: _Function, like: Tensor) -> _Function:
    """The function as it runs without Python's lock, on a CPU."""
    return compiled(function) if like.device.type == "cpu" else function


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
