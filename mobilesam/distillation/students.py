"""Students: TinyViT encoders of several sizes with the teacher's heads, and their first weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from segment_anything.modeling import Sam
from torch import Tensor

from mobilesam.distillation.embedding_store import EmbeddingStore
from mobilesam.errors import DataError, UsageError, WeightsError
from mobilesam.model.mini import MiniVit, mobile_sam_mini_shape
from mobilesam.model.mobile_sam import build_mobile_sam
from mobilesam.model.model_files import ModelShape
from mobilesam.model.sam_heads import HeadsConfig
from mobilesam.model.state_dicts import load_state_dict_file
from mobilesam.model.tiny_vit import LayerNorm2d, TinyViT, TinyVitConfig
from mobilesam.process_state import seeded

CALIBRATION_IMAGES = 30

_FULL = TinyVitConfig(n_classes=None)

STUDENTS: Mapping[str, TinyVitConfig] = MappingProxyType(
    {
        "tinyvit-5m": _FULL,
        "tinyvit-5m-half": replace(
            _FULL, embed_dims=(32, 64, 80, 160), num_heads=(1, 2, 5, 5), depths=(2, 2, 4, 2)
        ),
        "tinyvit-5m-512": replace(_FULL, image_size_px=512, strides=(2, 1, 1)),
        "mini": mobile_sam_mini_shape()[0],
    }
)
"""Encoders by name: the paper's, half its width, half its input size, and `mobilesam-mini`'s."""


def build_student(config: TinyVitConfig, heads: HeadsConfig, seed: int) -> Sam:
    """Builds a student with seeded random weights."""
    with seeded(seed):
        return build_mobile_sam(config, heads)


def build_untrained_student(config: TinyVitConfig, teacher: Sam, seed: int) -> Sam:
    """Builds a student with seeded random weights and the teacher's heads."""
    student = build_student(config, heads_of(teacher), seed)
    student.prompt_encoder.load_state_dict(teacher.prompt_encoder.state_dict())
    student.mask_decoder.load_state_dict(teacher.mask_decoder.state_dict())
    return student


def heads_of(model: Sam) -> HeadsConfig:
    """Determines the configuration of a model's heads from its modules."""
    prompt, decoder = model.prompt_encoder, model.mask_decoder
    return HeadsConfig(
        channels=int(prompt.embed_dim),
        num_heads=int(decoder.transformer.num_heads),
        mlp_dim=int(decoder.transformer.layers[0].mlp.lin1.out_features),
        depth=int(decoder.transformer.depth),
        iou_hidden=int(decoder.iou_prediction_head.layers[0].out_features),
        mask_in_chans=int(prompt.mask_downscaling[3].out_channels),
    )


def shape_of(model: Sam, notes: Mapping[str, Any]) -> ModelShape:
    """Shape of a MobileSAM or `sam-mini` for its file's header; `notes` say how it was made."""
    encoder = model.image_encoder
    if not isinstance(encoder, (TinyViT, MiniVit)):
        raise TypeError(f"no file format for a {type(encoder).__name__}")
    architecture: Any = "mobilesam" if isinstance(encoder, TinyViT) else "sam-mini"
    return ModelShape(architecture, encoder.config, heads_of(model), notes)


def load_imagenet(encoder: TinyViT, path: Path) -> int:
    """Initialises an encoder with timm's `tiny_vit_5m_224`; returns the number of loaded tensors.

    timm's classifier is ignored. Attention biases of other window sizes keep their zeros.

    Raises:
        WeightsError: The file cannot be read, or holds no TinyViT of this width.
    """
    own = encoder.state_dict()
    taken: dict[str, Tensor] = {}
    for name, value in load_state_dict_file(path).items():
        target = timm_name(name)
        if target in own and own[target].shape == value.shape:
            taken[target] = value.to(own[target].dtype)
    if not all(name in taken for name in own if name.endswith("qkv.weight")):
        raise WeightsError(
            f"{path} does not hold a TinyViT of this width; give timm's tiny_vit_5m_224, or omit "
            "--imagenet"
        )
    encoder.load_state_dict(own | taken)
    return len(taken)


def timm_name(name: str) -> str:
    """Converts timm's name of a tensor; unknown names are returned unchanged."""
    if not name.startswith(("patch_embed.", "stages.")):
        return name
    name = name.replace("patch_embed.conv1.", "patch_embed.seq.0.")
    name = name.replace("patch_embed.conv2.", "patch_embed.seq.2.").replace(".conv.", ".c.")
    if not name.startswith("stages."):
        return name
    _, stage, rest = name.split(".", 2)
    # timm: first module of a stage; here: last module of the stage before.
    shift = 1 if rest.startswith("downsample.") else 0
    return f"layers.{int(stage) - shift}.{rest}"


@torch.no_grad()
def calibrate(encoder: TinyViT, store: EmbeddingStore) -> None:
    """Sets gain and bias of the encoder's last normalisation to the teacher's statistics.

    The gain of a new encoder is 1, and SAM's embeddings have deviations below 0.1; a short training
    would be spent on reducing the gain. Statistics are over the cells that cover an image.

    Raises:
        DataError: The store is empty.
        UsageError: The student's embedding has another number of channels.
    """
    if not len(store):
        raise DataError("the embedding store is empty: it has no statistics")
    cells = []
    for index in range(0, len(store), max(1, len(store) // CALIBRATION_IMAGES)):
        found = store[index]
        rows, columns = found.valid_hw
        cells.append(found.features[:, :rows, :columns].float().flatten(1))
    values = torch.cat(cells, dim=1)
    last = encoder.neck[-1]
    if not isinstance(last, LayerNorm2d) or len(values) != encoder.config.neck_channels:
        raise UsageError(
            f"the student's embedding has not the {len(values)} channels of the store's"
        )
    n_learned = len(last.weight)  # fewer than the store's if colour channels follow
    last.weight.copy_(values.std(dim=1)[:n_learned])
    last.bias.copy_(values.mean(dim=1)[:n_learned])
