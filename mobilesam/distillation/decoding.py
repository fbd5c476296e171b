"""SAM's decoder for prompts of many images at once, with gradients.

segment-anything's own forward pass takes one image a call; training wants the prompts of a whole
batch in one.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from segment_anything.modeling import MaskDecoder, PromptEncoder, Sam
from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class PromptBatch:
    """N prompts, in pixels of the network's input: first those with a box, then those without.

    Attributes:
        image_index: (N,) int64, which image of the batch each belongs to.
        boxes: (A, 4) float32 xyxy of the first A prompts.
        points: (N, K, 2) float32 xy, K possibly 0.
        labels: (N, K) float32, 1 foreground, 0 background.
        masks: (N, 1, g, g) float32 logits fed back, or None.
    """

    image_index: Tensor
    boxes: Tensor
    points: Tensor
    labels: Tensor
    masks: Tensor | None = None

    def to(self, device: torch.device) -> PromptBatch:
        """The same prompts on a device."""
        return PromptBatch(
            self.image_index.to(device),
            self.boxes.to(device),
            self.points.to(device),
            self.labels.to(device),
            None if self.masks is None else self.masks.to(device),
        )


@dataclass(frozen=True, slots=True, eq=False)
class Decoded:
    """What a decoder makes of N prompts.

    Attributes:
        logits: (N, 4, 4h, 4w) float32, the single mask first.
        qualities: (N, 4) float32 predicted IoU.
        tokens: (N, 4, C) the mask tokens as they leave the transformer.
    """

    logits: Tensor
    qualities: Tensor
    tokens: Tensor


def embed_prompts(encoder: PromptEncoder, prompts: PromptBatch) -> tuple[Tensor, Tensor]:
    """Sparse (N, T, C) and dense (N, C, h, w) embeddings.

    A box counts two tokens, and points without a box get one of padding: a box with K points and
    K + 1 points without one have the same number of tokens, T, and so share a batch.
    """
    n_boxes = len(prompts.boxes)
    parts = []
    with in_full_precision(prompts.points):
        if n_boxes:
            points = (prompts.points[:n_boxes, 1:], prompts.labels[:n_boxes, 1:])
            parts.append(encoder(points if points[0].shape[1] else None, prompts.boxes, None)[0])
        if n_boxes < len(prompts.points):
            points = (prompts.points[n_boxes:], prompts.labels[n_boxes:])
            parts.append(encoder(points, None, None)[0])
        sparse = torch.cat(parts)
    if prompts.masks is not None:
        return sparse, encoder.mask_downscaling(prompts.masks)
    height, width = encoder.image_embedding_size
    dense = encoder.no_mask_embed.weight.reshape(1, -1, 1, 1)
    return sparse, dense.expand(len(sparse), -1, height, width)


def in_full_precision(like: Tensor) -> torch.autocast:
    """No autocast where places are encoded: eight bits of mantissa cannot hold a pixel.

    Args:
        like: Of the device that is meant.
    """
    return torch.autocast(like.device.type, enabled=False)


def decode(model: Sam, embeddings: Tensor, prompts: PromptBatch) -> Decoded:
    """All four masks of each prompt, and their predicted qualities.

    Args:
        model: Whose prompt encoder and decoder are run.
        embeddings: (B, C, h, w).
        prompts: N prompts.
    """
    sparse, dense = embed_prompts(model.prompt_encoder, prompts)
    decoder: MaskDecoder = model.mask_decoder
    source = embeddings[prompts.image_index] + dense
    with in_full_precision(source):
        where = model.prompt_encoder.get_dense_pe().expand_as(source)
    own = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
    tokens = torch.cat([own[None].expand(len(sparse), -1, -1), sparse], dim=1)
    found, mixed = decoder.transformer(source, where, tokens)
    grid = decoder.output_upscaling(mixed.transpose(1, 2).reshape(source.shape))
    masks = found[:, 1 : 1 + decoder.num_mask_tokens]
    heads = [
        head(masks[:, number]) for number, head in enumerate(decoder.output_hypernetworks_mlps)
    ]
    logits = torch.stack(heads, dim=1) @ grid.flatten(2)
    qualities = decoder.iou_prediction_head(found[:, 0])
    return Decoded(
        logits.reshape(len(sparse), -1, *grid.shape[2:]).float(), qualities.float(), masks
    )
