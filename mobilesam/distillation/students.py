"""Students: TinyViT encoders of several sizes behind the teacher's heads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from segment_anything.modeling import Sam
from torch import Tensor

from mobilesam.errors import UsageError, WeightsError
from mobilesam.model.mini import mobile_sam_mini_shape
from mobilesam.model.mobile_sam import build_mobile_sam
from mobilesam.model.sam_heads import HeadsConfig
from mobilesam.model.state_dicts import load_state_dict_file
from mobilesam.model.tiny_vit import TinyViT, TinyVitConfig
from mobilesam.process_state import seeded

# Of the encoder, by the names in timm's TinyViT: its stem and stages, not its classifier.
_TIMM_PARTS = ("patch_embed.", "stages.")

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
"""By name: the paper's, half of its width, half of its input's size, and `mobilesam-mini`'s."""


def build_student(config: TinyVitConfig, heads: HeadsConfig, seed: int) -> Sam:
    """Builds a student with seeded random weights."""
    with seeded(seed):
        return build_mobile_sam(config, heads)


def heads_of(model: Sam) -> HeadsConfig:
    """Reads the shape of a model's heads off its modules."""
    prompt, decoder = model.prompt_encoder, model.mask_decoder
    first = decoder.transformer.layers[0]
    return HeadsConfig(
        channels=int(prompt.embed_dim),
        num_heads=int(decoder.transformer.num_heads),
        mlp_dim=int(first.mlp.lin1.out_features),
        depth=int(decoder.transformer.depth),
        iou_hidden=int(decoder.iou_prediction_head.layers[0].out_features),
        mask_in_chans=int(prompt.mask_downscaling[3].out_channels),
    )


def load_imagenet(encoder: TinyViT, path: Path) -> int:
    """Initialises an encoder with a local file of timm's `tiny_vit_5m_224`.

    What differs between the two is adapted: timm counts the downsampling to the stage behind it,
    and has a classifier that is left out. Attention biases of other windows keep their zeros.

    Args:
        encoder: Changed in place.
        path: A state dict (`.pt`, `.safetensors`).

    Returns:
        How many tensors were taken.

    Raises:
        WeightsError: The file cannot be read, or holds no TinyViT of this width.
    """
    own = encoder.state_dict()
    taken: dict[str, Tensor] = {}
    for name, value in load_state_dict_file(path).items():
        target = timm_name(name)
        if target in own and own[target].shape == value.shape:
            taken[target] = value
    wanted = [name for name in own if name.endswith("qkv.weight")]
    if not all(name in taken for name in wanted):
        raise WeightsError(
            f"{path} does not hold a TinyViT of this width; give timm's tiny_vit_5m_224, or leave "
            "--imagenet out"
        )
    own.update({name: value.to(own[name].dtype) for name, value in taken.items()})
    encoder.load_state_dict(own)
    return len(taken)


def timm_name(name: str) -> str:
    """What this project calls a tensor that timm calls `name`; the name itself where unknown."""
    if not name.startswith(_TIMM_PARTS):
        return name
    for theirs, ours in (
        ("patch_embed.conv1.", "patch_embed.seq.0."),
        ("patch_embed.conv2.", "patch_embed.seq.2."),
    ):
        if name.startswith(theirs):
            name = ours + name.removeprefix(theirs)
    parts = name.split(".")
    if parts[0] == "stages":
        stage = int(parts[1])
        if parts[2] == "downsample":
            # timm: at the head of a stage; the authors: at the tail of the one before.
            parts = ["layers", str(stage - 1), *parts[2:]]
        else:
            parts = ["layers", *parts[1:]]
    return ".".join(parts).replace(".conv.", ".c.")


def require_equal_grid(student: TinyVitConfig, cells: int) -> None:
    """Refuses a student whose embedding has another size than the teacher's.

    Raises:
        UsageError: With both sizes.
    """
    own = student.image_size_px // student.total_stride
    if own != cells:
        raise UsageError(
            f"the student's embedding has {own} x {own} cells and the teacher's {cells} x {cells}; "
            "change image_size_px or strides"
        )
