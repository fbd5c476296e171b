"""The exported graphs: SAM's networks as plain tensor algebra that can be traced.

A prompt has T tokens (7 for a point) and the image 4,096, so that most of the decoder's work is the
projection of the image for attention. The matrix products are therefore bracketed the other way:
where each prompt has image tokens of its own, prompt tokens are projected to the image's width. In
the first layer all prompts share the image, which is projected once. Results equal those of
`segment_anything` up to rounding.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from segment_anything.modeling import Sam
from torch import Tensor, nn


class EncoderGraph(nn.Module):
    """Normalised pixels (1, 3, S, S) -> embedding (1, C, S/16, S/16), with the weights of `sam`."""

    def __init__(self, sam: Sam) -> None:
        super().__init__()
        self.encoder = sam.image_encoder

    def forward(self, pixels: Tensor) -> Tensor:
        """Runs the image encoder."""
        return cast("Tensor", self.encoder(pixels))


class DecoderGraph(nn.Module):
    """Prompt encoder and mask decoder for N prompts on one image, with the weights of `sam`."""

    label_table: Tensor
    grid_encoding: Tensor

    def __init__(self, sam: Sam) -> None:
        super().__init__()
        prompt, decoder = cast("Any", sam.prompt_encoder), cast("Any", sam.mask_decoder)
        self.side_px = int(prompt.input_image_size[0])
        self.cells = int(prompt.image_embedding_size[0])
        self.frequencies = prompt.pe_layer.positional_encoding_gaussian_matrix
        self.no_mask = prompt.no_mask_embed
        self.mask_downscaling = prompt.mask_downscaling
        kinds = [prompt.not_a_point_embed, *prompt.point_embeddings]
        self.register_buffer("label_table", torch.cat([kind.weight.detach() for kind in kinds]))
        encoding = prompt.get_dense_pe().detach()
        self.register_buffer("grid_encoding", encoding.flatten(2).transpose(1, 2).contiguous())
        outputs = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight]).detach()
        self.register_buffer("output_tokens", outputs)
        transformer = decoder.transformer
        self.first = transformer.layers[0]
        self.layers = nn.ModuleList(TwoWayLayer(layer) for layer in transformer.layers)
        self.final = TokensToImage(transformer.final_attn_token_to_image)
        self.final_norm = transformer.norm_final_attn
        self.heads = MaskHeads(decoder, self.cells)

    def forward(self, embedding: Tensor, points: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Predicts all four masks of prompts without mask input.

        Args:
            embedding: (1, C, S/16, S/16).
            points: (N, P, 2) xy in pixels of the network's input. A box counts two points; prompts
                without a box have one padding point.
            labels: (N, P) integer: 1 foreground, 0 background, 2 and 3 box corners, -1 padding.

        Returns:
            Logits (N, 4, S/4, S/4), the single mask first, and their predicted IoUs (N, 4).
        """
        prompt = self._tokens(points, labels)
        image = embedding.flatten(2).transpose(1, 2) + self.no_mask.weight
        # segment-anything's layer broadcasts the image over prompts and projects it once.
        tokens, images = self.first(prompt, image, prompt, self.grid_encoding)
        return self._rest(tokens, images, prompt, self.layers[1:])

    def with_masks(
        self, embedding: Tensor, points: Tensor, labels: Tensor, masks: Tensor
    ) -> tuple[Tensor, Tensor]:
        """As `forward`, with mask inputs (N, 1, S/4, S/4): logits of earlier predictions."""
        prompt = self._tokens(points, labels)
        hints = self.mask_downscaling(masks).flatten(2).transpose(1, 2)
        # Added as tokens, because OpenVINO 2026.4 fuses a sum with the preceding convolution and
        # then repeats the image wrongly.
        images = embedding.flatten(2).transpose(1, 2) + hints
        return self._rest(prompt, images, prompt, self.layers)

    def _tokens(self, points: Tensor, labels: Tensor) -> Tensor:
        """(N, 5 + P, C): output tokens, then prompt tokens."""
        # Pixel centres lie half a pixel from their corner.
        phases = (2 * ((points + 0.5) / self.side_px) - 1) @ self.frequencies
        angles = 2 * torch.pi * phases
        encoding = torch.cat([torch.sin(angles), torch.cos(angles)], dim=-1)
        is_point = (labels >= 0).unsqueeze(-1).to(encoding.dtype)
        sparse = encoding * is_point + self.label_table[labels + 1]
        outputs = cast("Tensor", self.output_tokens).unsqueeze(0).expand(points.shape[0], -1, -1)
        return torch.cat([outputs, sparse], dim=1)

    def _rest(
        self, tokens: Tensor, images: Tensor, prompt: Tensor, layers: Any
    ) -> tuple[Tensor, Tensor]:
        for layer in layers:
            tokens, images = layer(tokens, images, prompt, self.grid_encoding)
        seen = self.final(tokens + prompt, images, images + self.grid_encoding)
        return cast("tuple[Tensor, Tensor]", self.heads(self.final_norm(tokens + seen), images))


class MaskDecoderGraph(nn.Module):
    """`DecoderGraph` for prompts with mask inputs, sharing its weights."""

    def __init__(self, decoder: DecoderGraph) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(
        self, embedding: Tensor, points: Tensor, labels: Tensor, masks: Tensor
    ) -> tuple[Tensor, Tensor]:
        """As `DecoderGraph.forward`, with mask inputs (N, 1, S/4, S/4)."""
        return self.decoder.with_masks(embedding, points, labels, masks)


class TwoWayLayer(nn.Module):
    """A `TwoWayAttentionBlock` for (N, T, C) tokens and (N, HW, C) images, sharing its weights."""

    def __init__(self, source: Any) -> None:
        super().__init__()
        self.skip_pe = bool(source.skip_first_layer_pe)
        self.self_attn, self.mlp = source.self_attn, source.mlp
        self.norms = nn.ModuleList([source.norm1, source.norm2, source.norm3, source.norm4])
        self.to_image = TokensToImage(source.cross_attn_token_to_image)
        self.from_image = ImageToTokens(source.cross_attn_image_to_token)

    def forward(
        self, tokens: Tensor, images: Tensor, prompt: Tensor, encoding: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Tokens and images after the layer."""
        after_self, after_image, after_mlp, after_tokens = self.norms
        if self.skip_pe:
            tokens = after_self(self.self_attn(tokens, tokens, tokens))
        else:
            queries = tokens + prompt
            tokens = after_self(tokens + self.self_attn(queries, queries, tokens))
        placed = images + encoding
        tokens = after_image(tokens + self.to_image(tokens + prompt, images, placed))
        tokens = after_mlp(tokens + self.mlp(tokens))
        return tokens, after_tokens(images + self.from_image(placed, tokens + prompt, tokens))


class TokensToImage(nn.Module):
    """segment-anything's `Attention` from tokens to an image, computed in the image's width."""

    key: Tensor
    value: Tensor

    def __init__(self, source: Any) -> None:
        super().__init__()
        self.heads, self.width = source.num_heads, source.internal_dim // source.num_heads
        self.q_proj, self.out_proj = source.q_proj, source.out_proj
        key, value = source.k_proj.weight.detach(), source.v_proj.weight.detach()
        # The key's bias is left out: it adds a constant to all scores of a token.
        self.register_buffer("key", key.unflatten(0, (self.heads, -1)) * self.width**-0.5)
        value = value.unflatten(0, (self.heads, -1)).transpose(1, 2)
        self.register_buffer("value", value.contiguous())
        self.value_bias = source.v_proj.bias

    def forward(self, tokens: Tensor, images: Tensor, placed: Tensor) -> Tensor:
        """Attends from tokens (N, T, C) to images (N, HW, C); `placed` has positions added."""
        count, length, channels = tokens.shape
        queries = _split(self.q_proj(tokens), self.heads, self.width) @ self.key
        scores = queries.reshape(count, self.heads * length, channels) @ placed.transpose(-1, -2)
        found = torch.softmax(scores, dim=-1) @ images
        found = found.reshape(count, self.heads, length, channels) @ self.value
        mixed = found.transpose(1, 2).reshape(count, length, self.heads * self.width)
        return cast("Tensor", self.out_proj(mixed + self.value_bias))


class ImageToTokens(nn.Module):
    """segment-anything's `Attention` from an image to tokens, computed in the image's width."""

    query: Tensor
    query_bias: Tensor
    out: Tensor

    def __init__(self, source: Any) -> None:
        super().__init__()
        self.heads, self.width = source.num_heads, source.internal_dim // source.num_heads
        self.k_proj, self.v_proj = source.k_proj, source.v_proj
        scale = self.width**-0.5
        query, bias = source.q_proj.weight.detach(), source.q_proj.bias.detach()
        self.register_buffer("query", query.unflatten(0, (self.heads, -1)) * scale)
        self.register_buffer("query_bias", bias.view(self.heads, self.width, 1) * scale)
        out = source.out_proj.weight.detach().transpose(-1, -2)
        self.register_buffer("out", out.unflatten(0, (self.heads, -1)).contiguous())
        self.out_bias = source.out_proj.bias

    def forward(self, placed: Tensor, prompted: Tensor, tokens: Tensor) -> Tensor:
        """Attends from images (N, HW, C) to tokens (N, T, C); `prompted` has prompts added."""
        count, length, channels = tokens.shape
        rows = placed.shape[1]
        keys = _split(self.k_proj(prompted), self.heads, self.width)
        directions = (keys @ self.query).reshape(count, self.heads * length, channels)
        offsets = (keys @ self.query_bias).reshape(count, 1, self.heads * length)
        scores = placed @ directions.transpose(1, 2) + offsets
        scores = scores.reshape(count, rows, self.heads, length)
        shares = torch.softmax(scores, dim=-1).reshape(count, rows, self.heads * length)
        values = _split(self.v_proj(tokens), self.heads, self.width) @ self.out
        mixed = shares @ values.reshape(count, self.heads * length, channels)
        return cast("Tensor", mixed + self.out_bias)


class MaskHeads(nn.Module):
    """Masks and predicted IoUs of a `MaskDecoder`, sharing its weights, for `cells` x `cells`."""

    def __init__(self, decoder: Any, cells: int) -> None:
        super().__init__()
        self.cells, self.masks = cells, int(decoder.num_mask_tokens)
        self.networks = decoder.output_hypernetworks_mlps
        self.iou = decoder.iou_prediction_head
        first, norm, _, second, _ = decoder.output_upscaling
        # Kernel and stride are 2, so that each token becomes 2 x 2 cells by one matrix product.
        self.first, self.second = _as_linear(first), _as_linear(second)
        self.norm = nn.LayerNorm(norm.weight.shape[0], eps=norm.eps)
        self.norm.weight, self.norm.bias = norm.weight, norm.bias

    def forward(self, tokens: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (N, T, C) and images (N, HW, C) -> logits and predicted IoUs."""
        count = tokens.shape[0]
        fine = self.first(images).reshape(count, 4 * self.cells**2, -1)
        fine = nn.functional.gelu(self.norm(fine))
        finer = nn.functional.gelu(self.second(fine)).reshape(count, 16 * self.cells**2, -1)
        filters = [network(tokens[:, 1 + row]) for row, network in enumerate(self.networks)]
        flat = torch.stack(filters, dim=1) @ finer.transpose(-1, -2)
        # Axes: row, column, then dy and dx of the first and of the second upsampling.
        split = flat.reshape(count * self.masks, self.cells, self.cells, 2, 2, 2, 2)
        side = 4 * self.cells
        logits = split.permute(0, 1, 3, 5, 2, 4, 6).reshape(count, self.masks, side, side)
        return logits, self.iou(tokens[:, 0])


def _split(x: Tensor, heads: int, width: int) -> Tensor:
    """(N, T, heads * width) -> (N, heads, T, width)."""
    return x.reshape(x.shape[0], x.shape[1], heads, width).transpose(1, 2)


def _as_linear(conv: Any) -> nn.Linear:
    """A transposed convolution of kernel and stride 2 as C -> (dy, dx, C')."""
    weight = conv.weight.detach().permute(2, 3, 1, 0).flatten(0, 2).contiguous()
    linear = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
    linear.weight = nn.Parameter(weight, requires_grad=False)
    linear.bias = nn.Parameter(conv.bias.detach().repeat(4), requires_grad=False)
    return linear
