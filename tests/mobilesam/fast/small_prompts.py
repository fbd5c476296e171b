"""A small image encoder's shape, prompts for it, and segment-anything's results for them."""

from __future__ import annotations

import itertools

import torch
from segment_anything.modeling import Sam
from torch import Tensor

from mobilesam.model.tiny_vit import TinyVitConfig
from mobilesam.prompts import NetworkPrompts

SIDE_PX = 128
GRID = SIDE_PX // 16
CONFIG = TinyVitConfig(
    embed_dims=(8, 16, 20, 40), num_heads=(1, 2, 2, 4), image_size_px=SIDE_PX, n_classes=None
)


def network_prompts(kind: str, count: int) -> NetworkPrompts:
    """Prompts of the kinds in `kind`, joined by `+`."""
    draw = torch.Generator().manual_seed(count)
    corners = torch.rand(count, 2, generator=draw) * SIDE_PX / 2
    sizes = torch.rand(count, 2, generator=draw) * SIDE_PX / 2
    everything = {
        "points": torch.rand(count, 3, 2, generator=draw) * SIDE_PX,
        "labels": torch.randint(-1, 2, (count, 3), generator=draw).float(),
        "boxes": torch.cat((corners, corners + sizes), 1),
        "mask_inputs": 4 * torch.randn(count, 1, 4 * GRID, 4 * GRID, generator=draw),
    }
    names = {"point": ("points", "labels"), "clicks": ("points", "labels")}
    wanted = list(itertools.chain(*(names.get(each, (each,)) for each in kind.split("+"))))
    found = {name: everything[name] for name in wanted}
    if "point" in kind.split("+"):
        found.update(points=found["points"][:, :1], labels=torch.ones(count, 1))
    return NetworkPrompts(**found)


def reference(model: Sam, embedding: Tensor, given: NetworkPrompts) -> tuple[Tensor, Tensor]:
    """All four masks by segment-anything."""
    points = None if given.points is None else (given.points, given.labels)
    with torch.inference_mode():
        sparse, dense = model.prompt_encoder(
            points=points, boxes=given.boxes, masks=given.mask_inputs
        )
        logits, scores = model.mask_decoder.predict_masks(
            image_embeddings=embedding,
            image_pe=model.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
        )
    return logits, scores
