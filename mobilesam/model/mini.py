"""SAM at small size: a ViT encoder with a convolutional stem, and SAM's own heads.

`sam-mini` is a teacher that a laptop can train from scratch. What differs from SAM's encoder serves
that: convolutions see edges at once where a 16 px patch must learn them, attention runs on few
tokens, and the stem's finer features join the embedding behind it.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import cast

import torch
import torch.nn.functional as F
from segment_anything.modeling import Sam
from torch import Tensor, nn

from mobilesam.model.color_channels import N_CELL_COLORS, n_learnt, with_cell_colors
from mobilesam.model.mobile_sam import build_mobile_sam
from mobilesam.model.sam_heads import HeadsConfig, assemble, check_attention
from mobilesam.model.tiny_vit import LayerNorm2d, TinyVitConfig

_FINE_STRIDE = 8
_TURNS = (0.1, 1.5)


@dataclass(frozen=True, slots=True)
class MiniVitConfig:
    """Shape of the encoder.

    Attributes:
        stem_dims: Channels at strides 2, 4 and 8.
        embed_dim: Channels of the tokens, at stride 16.
        depth: Transformer blocks.
        num_heads: Attention heads.
        mlp_ratio: Hidden width of the MLPs, relative to `embed_dim`.
        refine_depth: Convolutional blocks at stride 8, where what the tokens know of the whole
            picture meets what the stem knows of its edges.
        image_size_px: Side of the input.
        cell_colors: Whether the last 48 channels of the embedding are colours of the picture, see
            `mobilesam.model.color_channels`.
    """

    stem_dims: tuple[int, int, int] = (32, 96, 160)
    embed_dim: int = 192
    depth: int = 4
    num_heads: int = 6
    mlp_ratio: float = 4.0
    refine_depth: int = 4
    image_size_px: int = 256
    cell_colors: bool = False  # so that files which say nothing of it are read as they were

    @property
    def total_stride(self) -> int:
        """Pixels of the input a side of one embedding cell."""
        return _FINE_STRIDE


@dataclass(frozen=True, slots=True)
class SamMiniConfig:
    """Shape of the whole model."""

    encoder: MiniVitConfig = field(default_factory=lambda: MiniVitConfig(cell_colors=True))
    heads: HeadsConfig = field(
        default_factory=lambda: HeadsConfig(
            channels=128, num_heads=4, mlp_dim=256, iou_hidden=128, mask_in_chans=8
        )
    )


def build_sam_mini(config: SamMiniConfig | None = None) -> Sam:
    """Builds `sam-mini` with fresh random weights, in evaluation mode.

    Raises:
        UsageError: Too few channels for colours.
    """
    config = config or SamMiniConfig()
    encoder = MiniVit(config.encoder, config.heads.channels)
    model = assemble(
        encoder, config.heads, config.encoder.image_size_px, config.encoder.total_stride
    )
    _spread_frequencies(model)
    if config.encoder.cell_colors:
        _pass_colors_on(model.mask_decoder.output_upscaling)
    return model


def _spread_frequencies(model: Sam) -> None:
    """Gives the encoding of positions frequencies from 0.1 to 1.5 turns a half image.

    SAM draws them from a normal distribution of deviation 1. The lower a frequency, the farther
    the product of two encodings tells which of two positions is left of the other, which is what
    filling a box takes: a decoder learns it from far fewer prompts.
    """
    matrix = model.prompt_encoder.pe_layer.positional_encoding_gaussian_matrix
    slowest, fastest = _TURNS
    count = matrix.shape[1]
    speeds = slowest * (fastest / slowest) ** torch.linspace(0, 1, count)
    angles = 2 * torch.pi * torch.rand(count)
    matrix.copy_(torch.stack([speeds * angles.cos(), speeds * angles.sin()]))


@torch.no_grad()
def _pass_colors_on(upscaling: nn.Module) -> None:
    """Has the decoder's last layers begin by handing each logit cell its colour.

    Each of red, green and blue goes through twice, with either sign, since GELU lets one half of
    the values pass. A fresh transposed convolution mixes the sixteen colours of a cell, and to
    find out which is whose takes training that no loss asks for directly. One of an embedding with
    fewer than 96 channels is too narrow for it, and begins as it would without.

    Args:
        upscaling: Of a `MaskDecoder`: two transposed convolutions of stride 2.
    """
    first, second = (each for each in upscaling.children() if isinstance(each, nn.ConvTranspose2d))
    signs = (1.0, -1.0)
    n_first, n_second = 3 * 4 * len(signs), 3 * len(signs)
    if first.weight.is_meta or n_first > first.out_channels or n_second > second.out_channels:
        return  # what is built to be loaded has no values yet
    for conv, n_kept in ((first, n_first), (second, n_second)):
        conv.weight[:, :n_kept] = 0
        if conv.bias is not None:
            conv.bias[:n_kept] = 0
    begin = first.in_channels - N_CELL_COLORS
    for color, y, x in itertools.product(range(3), range(4), range(4)):
        (upper, row), (left, column) = divmod(y, 2), divmod(x, 2)
        for half, sign in enumerate(signs):
            between = half * n_first // 2 + 3 * (2 * row + column) + color
            first.weight[begin + 16 * color + 4 * y + x, between, upper, left] = sign
            for other, back in enumerate(signs):
                second.weight[between, 3 * other + color, row, column] = sign * back


def mobile_sam_mini_shape() -> tuple[TinyVitConfig, HeadsConfig]:
    """Shape of `mobilesam-mini`: a small TinyViT with the heads and colours of `sam-mini`."""
    teacher = SamMiniConfig()
    encoder = TinyVitConfig(
        embed_dims=(12, 32, 64, 96),
        depths=(1, 1, 1, 1),
        num_heads=(1, 1, 2, 2),
        window_sizes=(8, 8, 8, 16),
        strides=(2, 1, 1),
        neck_channels=teacher.heads.channels,
        image_size_px=teacher.encoder.image_size_px,
        n_classes=None,
        cell_colors=teacher.encoder.cell_colors,
    )
    return encoder, teacher.heads


def build_mobile_sam_mini() -> Sam:
    """Builds `mobilesam-mini` with fresh random weights, in evaluation mode."""
    return build_mobile_sam(*mobile_sam_mini_shape())


class MiniVit(nn.Module):
    """(B, 3, S, S) -> (B, C, S/8, S/8).

    Args:
        config: Its shape.
        out_channels: Channels of the embedding.
    """

    def __init__(self, config: MiniVitConfig, out_channels: int) -> None:
        super().__init__()
        self.config = config
        self.img_size = config.image_size_px  # the name segment-anything's predictor reads
        first, second, third = config.stem_dims
        dim = config.embed_dim
        check_attention(dim, config.num_heads, "image encoder")
        side = config.image_size_px // (2 * _FINE_STRIDE)
        n_out = n_learnt(out_channels, cell_colors=config.cell_colors)
        self.stem = nn.Sequential(
            nn.Conv2d(3, first, 3, 2, 1),
            nn.GELU(),
            nn.Conv2d(first, second, 3, 2, 1),
            nn.GELU(),
            nn.Conv2d(second, third, 3, 2, 1),
            nn.GELU(),
        )
        self.stem_norm = LayerNorm2d(third)
        self.to_tokens = nn.Conv2d(third, dim, 3, 2, 1)
        self.pos_embed = nn.Parameter(torch.zeros(1, side * side, dim))
        self.blocks = nn.ModuleList(
            Block(dim, config.num_heads, int(dim * config.mlp_ratio)) for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(dim)
        self.coarse = nn.Linear(dim, out_channels)
        self.fine = nn.Conv2d(third, out_channels, 1)
        self.refine = nn.Sequential(*(Refine(out_channels) for _ in range(config.refine_depth)))
        self.neck = nn.Sequential(
            LayerNorm2d(out_channels),
            nn.GELU(),
            nn.Conv2d(out_channels, n_out, 3, padding=1, bias=False),
            LayerNorm2d(n_out),
        )
        self.apply(_initialise)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """Encodes normalised images.

        Args:
            x: (B, 3, S, S) float, normalised with SAM's mean and deviation and zero-padded.

        Returns:
            (B, C, S/8, S/8) float.
        """
        fine = self.stem_norm(self.stem(x))
        grid = self.to_tokens(fine)
        tokens = grid.flatten(2).transpose(1, 2) + self.pos_embed
        for block in self.blocks:
            tokens = block(tokens)
        coarse = self.coarse(self.norm(tokens)).transpose(1, 2)
        coarse = coarse.reshape(len(x), -1, *grid.shape[-2:])
        wide = F.interpolate(coarse, scale_factor=2.0, mode="bilinear", align_corners=False)
        found = self.neck(self.refine(self.fine(fine) + wide))
        return with_cell_colors(found, x, self.config)


class Block(nn.Module):
    """Self-attention over all tokens, then an MLP, each behind a layer normalisation."""

    def __init__(self, dim: int, num_heads: int, hidden: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm1 = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.norm2 = nn.LayerNorm(dim)
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, C) -> (B, N, C)."""
        batch, n_tokens, dim = x.shape
        qkv = self.qkv(self.norm1(x)).view(batch, n_tokens, 3, self.num_heads, -1)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value)
        x = x + self.proj(mixed.transpose(1, 2).reshape(batch, n_tokens, dim))
        return cast("Tensor", x + self.fc2(F.gelu(self.fc1(self.norm2(x)))))


class Refine(nn.Module):
    """A 3 x 3 convolution behind normalisation and GELU, then one that mixes channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = LayerNorm2d(channels)
        self.wide = nn.Conv2d(channels, channels, 3, padding=1)
        self.mix = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C, h, w)."""
        return cast("Tensor", x + self.mix(F.gelu(self.wide(F.gelu(self.norm(x))))))


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)
