"""The mini family: SAM and MobileSAM at a size that a laptop can train from scratch.

`sam-mini` has a ViT encoder with a convolutional stem, whose finer features a skip connection adds
to the embedding, and SAM's own heads. `mobilesam-mini` is a small TinyViT with the same heads. The
last 48 channels of both embeddings are colour channels: the RGB image at the resolution of the mask
logits, rearranged by space-to-depth, so that a small encoder need not learn to store colours.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import cast

import torch
import torch.nn.functional as F
from segment_anything.modeling import Sam
from torch import Tensor, nn

from mobilesam.errors import UsageError
from mobilesam.model.sam_heads import HeadsConfig, assemble, check_attention
from mobilesam.model.tiny_vit import LayerNorm2d, TinyViT, TinyVitConfig

_UPSAMPLING = 4  # from the embedding to the mask logits, by SAM's decoder
N_COLOR_CHANNELS = 3 * _UPSAMPLING**2
"""Number of colour channels of an embedding: 48."""

_FINE_STRIDE = 8  # of the embedding
_CYCLES = (0.1, 1.5)  # frequencies of the positional encoding, in cycles per half image


@dataclass(frozen=True, slots=True)
class MiniVitConfig:
    """Shape of a `MiniVit` encoder; with `cell_colors`, it has 48 colour channels."""

    stem_dims: tuple[int, int, int] = (32, 96, 160)  # channels at strides 2, 4 and 8
    embed_dim: int = 192  # channels of the tokens, at stride 16
    depth: int = 4  # transformer blocks
    num_heads: int = 6
    mlp_ratio: float = 4.0  # hidden width of the MLPs, relative to `embed_dim`
    refine_depth: int = 4  # convolutional blocks at stride 8, on tokens plus stem features
    image_size_px: int = 256
    cell_colors: bool = False  # the default, so that older files without the field still load

    @property
    def total_stride(self) -> int:
        """Side of one embedding cell in pixels of the input."""
        return _FINE_STRIDE


_ENCODER = MiniVitConfig(cell_colors=True)
_HEADS = HeadsConfig(channels=128, num_heads=4, mlp_dim=256, iou_hidden=128, mask_in_chans=8)


@dataclass(frozen=True, slots=True)
class SamMiniConfig:
    """Shape of a whole `sam-mini`."""

    encoder: MiniVitConfig = _ENCODER
    heads: HeadsConfig = _HEADS


def build_sam_mini(config: SamMiniConfig | None = None) -> Sam:
    """Builds `sam-mini` with fresh random weights; a UsageError if there is no room for colours."""
    config = config or SamMiniConfig()
    shape = config.encoder
    encoder = MiniVit(shape, config.heads.channels)
    model = assemble(encoder, config.heads, shape.image_size_px, shape.total_stride)
    # SAM draws the frequencies of its positional encoding from a normal distribution. With low
    # ones, the product of two encodings orders positions over a longer distance, and a decoder
    # learns to fill a box from fewer prompts.
    matrix = model.prompt_encoder.pe_layer.positional_encoding_gaussian_matrix
    slowest, fastest = _CYCLES
    count = matrix.shape[1]
    speeds = slowest * (fastest / slowest) ** torch.linspace(0, 1, count)
    angles = 2 * torch.pi * torch.rand(count)
    matrix.copy_(torch.stack([speeds * angles.cos(), speeds * angles.sin()]))
    if shape.cell_colors:
        _initialise_color_passthrough(model.mask_decoder.output_upscaling)
    return model


@torch.no_grad()
def _initialise_color_passthrough(upscaling: nn.Module) -> None:
    """Initialises `MaskDecoder.output_upscaling` so that each logit cell receives its own colour.

    Red, green and blue are passed on twice, with both signs, since GELU suppresses negative
    values. A randomly initialised transposed convolution would mix the 16 colours of a cell. The
    layers of an embedding with fewer than 96 channels are too narrow and keep random weights.
    """
    first, second = (each for each in upscaling.children() if isinstance(each, nn.ConvTranspose2d))
    signs = (1.0, -1.0)
    n_first, n_second = 3 * 4 * len(signs), 3 * len(signs)
    if first.weight.is_meta or n_first > first.out_channels or n_second > second.out_channels:
        return  # a meta tensor gets its values from a checkpoint
    for conv, n_kept in ((first, n_first), (second, n_second)):
        conv.weight[:, :n_kept] = 0
        if conv.bias is not None:
            conv.bias[:n_kept] = 0
    begin = first.in_channels - N_COLOR_CHANNELS
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


def color_channels(pixels: Tensor, stride: int) -> Tensor:
    """Mean colours of the logit cells of images: (B, 3, S, S) -> (B, 48, S/stride, S/stride).

    Red of the 16 logit cells of an embedding cell row by row, then green, then blue.
    """
    return F.pixel_unshuffle(F.avg_pool2d(pixels, stride // _UPSAMPLING), _UPSAMPLING)


def append_color_channels(embeddings: Tensor, pixels: Tensor, stride: int) -> Tensor:
    """Appends colour channels of (B, 3, S, S) images to embeddings: C -> C + 48 channels."""
    return torch.cat([embeddings, color_channels(pixels, stride).to(embeddings.dtype)], dim=1)


def n_learned_channels(n_channels: int, *, cell_colors: bool) -> int:
    """Number of channels that are not colour channels; raises a UsageError if none is left."""
    found = n_channels - N_COLOR_CHANNELS * cell_colors
    if found < 1:
        raise UsageError(
            f"an embedding of {n_channels} channels has no room for {N_COLOR_CHANNELS} of colours; "
            "give it more channels, or set cell_colors to false"
        )
    return found


def learned_channels(model: Sam) -> int:
    """Number of channels of a model's embeddings that are not colour channels."""
    colors = bool(getattr(getattr(model.image_encoder, "config", None), "cell_colors", False))
    return n_learned_channels(int(model.prompt_encoder.embed_dim), cell_colors=colors)


class ColorTinyViT(TinyViT):
    """TinyViT with colour channels appended to its embedding, included in `neck_channels`."""

    def __init__(self, config: TinyVitConfig) -> None:
        n_learned = n_learned_channels(config.neck_channels, cell_colors=True)
        super().__init__(replace(config, neck_channels=n_learned))
        self.config = config

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, S, S) -> (B, `neck_channels`, S/stride, S/stride)."""
        return append_color_channels(super().forward(x), x, self.config.total_stride)


class ColorChannels:
    """Appends colours of the unrounded pixels to an optimised encoder's output, for inference."""

    def __init__(self, encode: Callable[[Tensor], Tensor], stride: int) -> None:
        self._encode, self._stride = encode, stride

    @torch.inference_mode()
    def __call__(self, pixels: Tensor) -> Tensor:
        """(B, 3, S, S) -> (B, C + 48, S/stride, S/stride), an inference tensor."""
        return append_color_channels(self._encode(pixels), pixels, self._stride)


class MiniVit(nn.Module):
    """The image encoder of `sam-mini`: (B, 3, S, S) -> (B, `out_channels`, S/8, S/8)."""

    def __init__(self, config: MiniVitConfig, out_channels: int) -> None:
        super().__init__()
        self.config = config
        self.img_size = config.image_size_px  # the name segment-anything's predictor reads
        third, dim = config.stem_dims[-1], config.embed_dim
        check_attention(dim, config.num_heads, "image encoder")
        side = config.image_size_px // (2 * _FINE_STRIDE)
        n_out = n_learned_channels(out_channels, cell_colors=config.cell_colors)
        widths = itertools.pairwise((3, *config.stem_dims))
        pairs = ((nn.Conv2d(below, above, 3, 2, 1), nn.GELU()) for below, above in widths)
        self.stem = nn.Sequential(*itertools.chain(*pairs))
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
        """(B, 3, S, S) float, normalised and zero-padded -> (B, C, S/8, S/8) float."""
        fine = self.stem_norm(self.stem(x))
        grid = self.to_tokens(fine)
        tokens = grid.flatten(2).transpose(1, 2) + self.pos_embed
        for block in self.blocks:
            tokens = block(tokens)
        coarse = self.coarse(self.norm(tokens)).transpose(1, 2)
        coarse = coarse.reshape(len(x), -1, *grid.shape[-2:])
        wide = F.interpolate(coarse, scale_factor=2.0, mode="bilinear", align_corners=False)
        found: Tensor = self.neck(self.refine(self.fine(fine) + wide))
        colors, stride = self.config.cell_colors, self.config.total_stride
        return append_color_channels(found, x, stride) if colors else found


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
    """A 3 x 3 convolution behind normalisation and GELU, then one of 1 x 1, and the residual."""

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
