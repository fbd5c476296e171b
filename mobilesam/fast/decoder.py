"""SAM's mask decoder for many prompts on one image: what the prompts share is computed once.

The reference repeats the image embedding, its positional encoding and the first layer's projections
for every prompt. Here they belong to the image (`ImageSide`); prompts go through the rest
a few at a time, so that buffers stay in the cache and in the allocator's hands.
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
from mobilesam.fast.attention import FromImage, FromTokens, TokenAttention
from mobilesam.fast.kernels import Dense, gelu_, strips

# Prompts at a time on a CPU: at most 9 MB a buffer in float32, so that none is given back to the
# kernel and they find each other in the cache. On a GPU the more the better.
CPU_PROMPTS = 2
GPU_PROMPTS = 64

Multimask = bool | Literal["both"]
_Part = TypeVar("_Part", bound=nn.Module)


@dataclass(frozen=True, slots=True)
class ImageSide:
    """What all prompts on one image share; HW is the number of its tokens, 4,096 at 1024 px.

    Attributes:
        tokens: (HW, C), the image embedding alone.
        image: (HW, C), with the embedding of "no mask prompt" added.
        key: (1, heads, HW, d), of the first layer's attention from the tokens.
        value: (1, heads, HW, d), of the same.
        query: (heads, d, HW), of the first layer's attention from the image.
    """

    tokens: Tensor
    image: Tensor
    key: Tensor
    value: Tensor
    query: Tensor


class _Layer:
    """One two-way layer: tokens to tokens, tokens to image, MLP, image to tokens."""

    def __init__(self, source: Any, like: Tensor) -> None:
        self.skip_pe = bool(source.skip_first_layer_pe)
        self.self_attention = TokenAttention(source.self_attn, like)
        self.from_tokens = FromTokens(source.cross_attn_token_to_image, like)
        self.from_image = FromImage(source.cross_attn_image_to_token, like)
        self.norms = [
            (norm.weight.detach().to(like), norm.bias.detach().to(like), norm.eps)
            for norm in (source.norm1, source.norm2, source.norm3, source.norm4)
        ]
        self.mlp = [
            (layer.weight.detach().to(like), layer.bias.detach().to(like))
            for layer in (source.mlp.lin1, source.mlp.lin2)
        ]
        self.activation = source.mlp.act

    def attend_to_self(self, tokens: Tensor, prompt: Tensor) -> Tensor:
        """(N, T, C) -> (N, T, C), normalised."""
        if self.skip_pe:
            return self.norm(self.self_attention(tokens, tokens), 0)
        return self.norm(tokens + self.self_attention(tokens + prompt, tokens), 0)

    def after_image(self, tokens: Tensor, seen: Tensor) -> Tensor:
        """Adds what the tokens saw in the image, and runs the MLP: (N, T, C) -> (N, T, C)."""
        tokens = self.norm(tokens + seen, 1)
        hidden = self.activation(F.linear(tokens, *self.mlp[0]))
        return self.norm(tokens + F.linear(hidden, *self.mlp[1]), 2)

    def norm(self, x: Tensor, index: int) -> Tensor:
        """One of the four layer normalisations."""
        weight, bias, eps = self.norms[index]
        return F.layer_norm(x, (x.shape[-1],), weight, bias, eps)


class FastDecoder:
    """SAM's prompt encoder and mask decoder for inference.

    All weights are copied, so later changes of the source have no effect. Safe to call from several
    threads.

    Args:
        prompt_encoder: With its weights loaded, on any device and in whichever mode.
        mask_decoder: Likewise.
        dtype: To compute in; prompts are embedded, and answers given, in float32.
        device: Device to compute on.
        prompts_at_once: Bounds the memory; by default what suits the device.
    """

    def __init__(
        self,
        prompt_encoder: PromptEncoder,
        mask_decoder: MaskDecoder,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        prompts_at_once: int | None = None,
    ) -> None:
        learn_large_blocks()
        self._like = like = torch.empty(0, dtype=dtype, device=device)
        at_once = CPU_PROMPTS if like.device.type == "cpu" else GPU_PROMPTS
        self._at_once = prompts_at_once or at_once
        prompt_encoder, mask_decoder = (
            _copied(part, like.device) for part in (prompt_encoder, mask_decoder)
        )
        self._prompts, self._heads = prompt_encoder, mask_decoder
        with torch.inference_mode():
            encoding = prompt_encoder.get_dense_pe()
            self._grid_hw = (int(encoding.shape[2]), int(encoding.shape[3]))
            self._encoding = encoding[0].flatten(1).t().to(like).contiguous()
            self._no_mask = prompt_encoder.no_mask_embed.weight.detach().to(like)
            start = (mask_decoder.iou_token.weight, mask_decoder.mask_tokens.weight)
            self._start = torch.cat(start).detach().to(like)
            transformer = mask_decoder.transformer
            self._layers = [_Layer(layer, like) for layer in transformer.layers]
            self._final = FromTokens(transformer.final_attn_token_to_image, like)
            self._final_norm = transformer.norm_final_attn
            self._upscale = _Upscale(mask_decoder.output_upscaling, like)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restores the object in another process, and adapts the allocator there."""
        self.__dict__.update(state)
        learn_large_blocks()

    @torch.inference_mode()
    def prepare(self, embedding: Tensor) -> ImageSide:
        """The part of the decoder that does not depend on prompts.

        Args:
            embedding: (1, C, H, W) or (C, H, W) of the image encoder.

        Raises:
            UsageError: It has another shape.
        """
        wanted = (self._encoding.shape[1], *self._grid_hw)
        if embedding.shape[-3:] != wanted or embedding.numel() != self._encoding.numel():
            raise UsageError(
                f"the embedding is {tuple(embedding.shape)}, wanted (1, *{wanted}): give one image"
            )
        tokens = embedding.reshape(wanted).flatten(1).t().to(self._like).contiguous()
        image = tokens + self._no_mask
        image_pe = image + self._encoding
        first = self._layers[0]
        key, value = first.from_tokens.project(image, image_pe)
        return ImageSide(tokens, image, key, value, first.from_image.project(image_pe))

    @torch.inference_mode()
    def __call__(
        self,
        side: ImageSide,
        *,
        points: Tensor | None = None,
        labels: Tensor | None = None,
        boxes: Tensor | None = None,
        mask_inputs: Tensor | None = None,
        multimask: Multimask = False,
    ) -> tuple[Tensor, Tensor]:
        """Answers N prompts on one image.

        Args:
            side: Of `prepare`.
            points: (N, K, 2) xy in pixels of the network's input.
            labels: (N, K) of the points: 1 foreground, 0 background, -1 none.
            boxes: (N, 4) xyxy in pixels of the network's input.
            mask_inputs: (N, 1, 4 H, 4 W) logits, or (1, 1, 4 H, 4 W) for all N prompts.
            multimask: False for the single mask, True for the three of an ambiguous prompt,
                "both" for the four of them, the single one first.

        Returns:
            Logits (N, M, 4 H, 4 W) and predicted IoUs (N, M), float32; M is 1, 3 or 4.

        Raises:
            UsageError: Points without labels, or prompts of different numbers.
        """
        sparse, dense = self._embed(points, labels, boxes, mask_inputs)
        count = sparse.shape[0]
        chosen = _chosen(multimask, self._heads.num_mask_tokens)
        height, width = (4 * side for side in self._grid_hw)
        logits = sparse.new_empty(count, len(chosen), height, width)
        scores = sparse.new_empty(count, len(chosen))
        for first, last in strips(count, self._at_once):
            rows = slice(first, last)
            mask = None if dense is None else dense[rows]
            tokens, image = self._transform(side, sparse[rows], mask, chosen)
            self._masks(tokens, image, chosen, logits[rows])
            scores[rows] = self._heads.iou_prediction_head(tokens[:, 0])[:, chosen]
        return logits, scores

    def _embed(
        self,
        points: Tensor | None,
        labels: Tensor | None,
        boxes: Tensor | None,
        masks: Tensor | None,
    ) -> tuple[Tensor, Tensor | None]:
        """Sparse (N, P, C), and dense (N, HW, C) only where there are mask prompts."""
        if (points is None) != (labels is None):
            raise UsageError("points and their labels come together; give both or neither")
        counts = {len(given) for given in (points, labels, boxes) if given is not None}
        if masks is not None and (len(masks) != 1 or not counts):
            counts.add(len(masks))
        if len(counts) > 1:
            raise UsageError(f"prompts of different numbers: {sorted(counts)}; give one row each")
        pair = None if points is None else (points, labels)
        sparse, dense = self._prompts(points=pair, boxes=boxes, masks=masks)
        if masks is None:
            return sparse, None
        return sparse, dense.flatten(2).transpose(1, 2).expand(len(sparse), -1, -1)

    def _transform(
        self, side: ImageSide, sparse: Tensor, dense: Tensor | None, chosen: list[int]
    ) -> tuple[Tensor, Tensor]:
        """Tokens (n, 1 + M, C) float32 of the IoU and the chosen masks, and images (n, HW, C)."""
        start = self._start.expand(sparse.shape[0], -1, -1)
        prompt = torch.cat((start, sparse.to(self._like)), 1)
        if dense is None:
            tokens, image = self._shared_layer(side, prompt)
            rest = self._layers[1:]
        else:
            tokens, image = prompt, side.tokens + dense.to(self._like)
            rest = self._layers
        for layer in rest:
            image_pe = image + self._encoding
            tokens = layer.attend_to_self(tokens, prompt)
            seen = layer.from_tokens.each(tokens + prompt, image, image_pe)
            tokens = layer.after_image(tokens, seen)
            layer.from_image.each(tokens, tokens + prompt, image, image_pe)
            image = layer.norm(image, 3)
        # The other tokens have no reader.
        used = [0, *(1 + index for index in chosen)]
        tokens = tokens[:, used]
        seen = self._final.each_of_few(tokens + prompt[:, used], image, self._encoding)
        return self._final_norm((tokens + seen).float()), image

    def _shared_layer(self, side: ImageSide, prompt: Tensor) -> tuple[Tensor, Tensor]:
        """The first layer, in which the image is still the same for all prompts."""
        layer = self._layers[0]
        tokens = layer.attend_to_self(prompt, prompt)
        seen = layer.from_tokens.shared(tokens + prompt, side.key, side.value)
        tokens = layer.after_image(tokens, seen)
        image = layer.from_image.shared(tokens, tokens + prompt, side.query, side.image)
        return tokens, layer.norm(image, 3)

    def _masks(self, tokens: Tensor, image: Tensor, chosen: list[int], out: Tensor) -> None:
        """Writes (n, M, 4 H, 4 W) logits."""
        networks = self._heads.output_hypernetworks_mlps
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


class _Upscale:
    """Two transposed convolutions of kernel and stride 2, as matrix products without shuffling."""

    def __init__(self, source: Any, like: Tensor) -> None:
        first, norm, _, second, _ = source
        self.first, self.second = _transposed(first, like), _transposed(second, like)
        self.norm = (norm.weight.detach().to(like), norm.bias.detach().to(like), norm.eps)

    def __call__(self, image: Tensor) -> Tensor:
        """(n, HW, C) -> (n, HW * 16, C / 8), ordered by token, then by the two 2x2 splits."""
        wide = self.first(image.reshape(-1, image.shape[2]))
        channels = self.norm[0].shape[0]
        fine = gelu_(F.layer_norm(wide.view(-1, channels), (channels,), *self.norm))
        finer = gelu_(self.second(fine))
        return finer.view(image.shape[0], 16 * image.shape[1], -1)


def _copied(part: _Part, device: torch.device) -> _Part:
    """Copies a module, for inference only."""
    return copy.deepcopy(part).to(device).eval().requires_grad_(requires_grad=False)


def _transposed(conv: Any, like: Tensor) -> Dense:
    """A transposed convolution of kernel and stride 2: C -> (dy, dx, C')."""
    weight = conv.weight.detach().permute(2, 3, 1, 0)  # from (C, C', dy, dx)
    return Dense(weight.flatten(0, 2), conv.bias.detach().repeat(4), like)


def _chosen(multimask: Multimask, masks: int) -> list[int]:
    if multimask == "both":
        return list(range(masks))
    return list(range(1, masks)) if multimask else [0]
