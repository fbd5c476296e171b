"""SAM's prompt encoder and mask decoder at any size, joined with an image encoder."""

from __future__ import annotations

from dataclasses import dataclass

from segment_anything.modeling import MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from torch import nn

from mobilesam.errors import UsageError

# SAM's normalisation (ImageNet's, in units of 8-bit pixels).
PIXEL_MEAN = (123.675, 116.28, 103.53)
PIXEL_STD = (58.395, 57.12, 57.375)


@dataclass(frozen=True, slots=True)
class HeadsConfig:
    """Shape of prompt encoder and mask decoder; the defaults are SAM's."""

    channels: int = 256  # of the image embedding and of all tokens
    num_heads: int = 8  # attention heads of the two-way transformer
    mlp_dim: int = 2048  # hidden width of its MLPs
    depth: int = 2  # its layers
    iou_hidden: int = 256  # hidden width of the head that predicts a mask's IoU
    mask_in_chans: int = 16  # hidden channels for mask prompts


def check_attention(channels: int, num_heads: int, where: str) -> None:
    """Raises a UsageError if the number of attention heads does not divide the channels."""
    if num_heads < 1 or channels % num_heads:
        raise UsageError(
            f"{channels} channels of the {where} cannot be shared by {num_heads} attention heads; "
            "choose a number of heads that divides them"
        )


def assemble(encoder: nn.Module, heads: HeadsConfig, image_size_px: int, stride: int) -> Sam:
    """Joins an image encoder with fresh heads, in evaluation mode.

    The encoder is (B, 3, S, S) -> (B, `heads.channels`, S/stride, S/stride).
    """
    # segment-anything's attention between tokens and image uses half of the channels.
    check_attention(heads.channels // 2, heads.num_heads, "mask decoder")
    side = image_size_px // stride
    prompt_encoder = PromptEncoder(
        heads.channels, (side, side), (image_size_px, image_size_px), heads.mask_in_chans
    )
    mask_decoder = MaskDecoder(
        num_multimask_outputs=3,
        transformer=TwoWayTransformer(heads.depth, heads.channels, heads.num_heads, heads.mlp_dim),
        transformer_dim=heads.channels,
        iou_head_depth=3,
        iou_head_hidden_dim=heads.iou_hidden,
    )
    return Sam(encoder, prompt_encoder, mask_decoder, list(PIXEL_MEAN), list(PIXEL_STD)).eval()
