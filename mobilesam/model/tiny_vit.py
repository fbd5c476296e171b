"""TinyViT (arXiv 2207.10666), the image encoder of MobileSAM: (B, 3, S, S) -> (B, 256, S/16, S/16).

As MobileSAM (arXiv 2306.14289, section 4) uses it: the last downsampling keeps its stride at 1 and
SAM's neck follows. Parameter names are those of the authors' checkpoints.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mobilesam.model.sam_heads import check_attention


@dataclass(frozen=True, slots=True)
class TinyVitConfig:
    """Shape of a TinyViT encoder; the defaults are MobileSAM's TinyViT-5M.

    The first of the four stages is convolutional: its heads and its window are not used. The
    ImageNet head of `n_classes` is in the authors' checkpoint and never run; None leaves it out.
    With `cell_colors` the last 48 of the `neck_channels` are colours of the image
    (`mobilesam.model.mini.ColorTinyViT`).
    """

    embed_dims: tuple[int, int, int, int] = (64, 128, 160, 320)  # channels
    depths: tuple[int, int, int, int] = (2, 2, 6, 2)  # blocks
    num_heads: tuple[int, int, int, int] = (2, 4, 5, 10)
    window_sizes: tuple[int, int, int, int] = (7, 7, 14, 7)  # in tokens
    strides: tuple[int, int, int] = (2, 2, 1)  # downsampling after stages one to three
    mlp_ratio: float = 4.0  # hidden width of the MLPs, relative to the stage's channels
    expand_ratio: float = 4.0  # the same for the convolutional blocks
    neck_channels: int = 256  # of the embedding, colour channels included
    image_size_px: int = 1024
    n_classes: int | None = 1000
    cell_colors: bool = False  # the default, so that older files without the field still load

    @property
    def total_stride(self) -> int:
        """Side of one embedding cell in pixels of the input: 16 for MobileSAM."""
        first, second, third = self.strides
        return 4 * first * second * third


class ConvNorm(nn.Sequential):
    """Convolution without bias, then batch normalisation."""

    def __init__(
        self, n_in: int, n_out: int, kernel: int = 1, stride: int = 1, groups: int = 1
    ) -> None:
        super().__init__()
        self.c = nn.Conv2d(n_in, n_out, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(n_out)


class LayerNorm2d(nn.Module):
    """Layer normalisation over the channels of (B, C, H, W)."""

    def __init__(self, channels: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        variance, mean = torch.var_mean(x, dim=1, keepdim=True, correction=0)
        normal = (x - mean) * torch.rsqrt(variance + self.eps)
        return normal * self.weight[:, None, None] + self.bias[:, None, None]


class Bottleneck(nn.Module):
    """Expand, depthwise 3x3, project: with a residual, or dividing both sides by `stride`."""

    def __init__(
        self, n_in: int, hidden: int, n_out: int, stride: int = 1, *, is_residual: bool
    ) -> None:
        super().__init__()
        self.conv1 = ConvNorm(n_in, hidden)
        self.conv2 = ConvNorm(hidden, hidden, 3, stride, groups=hidden)
        self.conv3 = ConvNorm(hidden, n_out)
        self.is_residual = is_residual

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H/stride, W/stride)."""
        found: Tensor = self.conv3(F.gelu(self.conv2(F.gelu(self.conv1(x)))))
        return F.gelu(found + x) if self.is_residual else found


class Attention(nn.Module):
    """Multi-head self-attention in a square window, with a learnt bias for each relative offset.

    The bias table is gathered in every forward pass. The authors' code gathers it once, when
    `eval()` is called, and keeps zeros if weights are loaded afterwards.
    """

    bias_index: Tensor | slice  # a slice where biases are gathered once, for inference

    def __init__(self, channels: int, num_heads: int, window: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.window = window
        self.norm = nn.LayerNorm(channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)
        self.attention_biases = nn.Parameter(torch.zeros(num_heads, window * window))
        self.register_buffer("bias_index", offset_index(window), persistent=False)

    def bias(self) -> Tensor:
        """(heads, window^2, window^2) of the scores."""
        return self.attention_biases[:, self.bias_index]

    def forward(self, x: Tensor) -> Tensor:
        """(B, window^2, C) -> (B, window^2, C)."""
        batch, tokens, channels = x.shape
        # The checkpoint stores q, k and v head by head.
        qkv = self.qkv(self.norm(x)).view(batch, tokens, self.num_heads, 3, -1)
        query, key, value = qkv.permute(3, 0, 2, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=self.bias()[None])
        return cast("Tensor", self.proj(mixed.transpose(1, 2).reshape(batch, tokens, channels)))


def offset_index(window: int) -> Tensor:
    """(window^2, window^2) index of the absolute offset |dy| * window + |dx| of two tokens.

    Its values exist on the meta device, too, for which torch would import its compiler.
    """
    rows, columns = np.divmod(np.arange(window * window), window)
    return torch.from_numpy(abs(rows[:, None] - rows) * window + abs(columns[:, None] - columns))


class TinyVitBlock(nn.Module):
    """Window attention, depthwise 3x3 convolution, MLP."""

    def __init__(self, channels: int, num_heads: int, window: int, mlp_ratio: float) -> None:
        super().__init__()
        self.window = window
        self.attn = Attention(channels, num_heads, window)
        self.local_conv = ConvNorm(channels, channels, 3, groups=channels)
        hidden = int(channels * mlp_ratio)
        self.mlp = nn.Sequential(
            OrderedDict(
                norm=nn.LayerNorm(channels),
                fc1=nn.Linear(channels, hidden),
                act=nn.GELU(),
                fc2=nn.Linear(hidden, channels),
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        tokens = x.permute(0, 2, 3, 1)
        tokens = tokens + self._attend(tokens)
        tokens = self.local_conv(tokens.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return cast("Tensor", (tokens + self.mlp(tokens)).permute(0, 3, 1, 2))

    def _attend(self, x: Tensor) -> Tensor:
        """Attention within windows of (B, H, W, C), zero-padded below and to the right."""
        batch, height, width, channels = x.shape
        side = self.window
        pad_y, pad_x = -height % side, -width % side
        padded = F.pad(x, (0, 0, 0, pad_x, 0, pad_y)) if pad_y or pad_x else x
        rows, columns = padded.shape[1] // side, padded.shape[2] // side
        grid = padded.reshape(batch, rows, side, columns, side, channels).transpose(2, 3)
        windows = self.attn(grid.reshape(-1, side * side, channels))
        grid = windows.view(batch, rows, columns, side, side, channels).transpose(2, 3)
        return cast("Tensor", grid.reshape(padded.shape)[:, :height, :width])


class Stage(nn.Module):
    """One of the four stages: blocks, and a downsampling after all but the last."""

    def __init__(self, config: TinyVitConfig, index: int) -> None:
        super().__init__()
        dims, heads, window = config.embed_dims, config.num_heads[index], config.window_sizes[index]
        hidden = int(dims[index] * config.expand_ratio)
        self.blocks = nn.ModuleList(
            Bottleneck(dims[0], hidden, dims[0], is_residual=True)
            if index == 0
            else TinyVitBlock(dims[index], heads, window, config.mlp_ratio)
            for _ in range(config.depths[index])
        )
        self.downsample = None
        if index < 3:
            n_in, n_out, stride = dims[index], dims[index + 1], config.strides[index]
            self.downsample = Bottleneck(n_in, n_out, n_out, stride, is_residual=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H', W')."""
        for block in self.blocks:
            x = block(x)
        return x if self.downsample is None else self.downsample(x)


class TinyViT(nn.Module):
    """The image encoder of MobileSAM; raises a UsageError if heads do not divide channels."""

    def __init__(self, config: TinyVitConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or TinyVitConfig()
        for channels, heads in list(zip(config.embed_dims, config.num_heads, strict=True))[1:]:
            check_attention(channels, heads, "image encoder")
        self.img_size = config.image_size_px  # the name segment-anything's predictor reads
        first = config.embed_dims[0]
        two = ConvNorm(3, first // 2, 3, 2), nn.GELU(), ConvNorm(first // 2, first, 3, 2)
        self.patch_embed = nn.Sequential(OrderedDict(seq=nn.Sequential(*two)))
        self.layers = nn.ModuleList(Stage(config, index) for index in range(4))
        last, n_out = config.embed_dims[-1], config.neck_channels
        if config.n_classes is not None:
            # Kept only so that the authors' checkpoints load and save unchanged; never run.
            self.norm_head = nn.LayerNorm(last)
            self.head = nn.Linear(last, config.n_classes)
        self.neck = nn.Sequential(
            nn.Conv2d(last, n_out, 1, bias=False),
            LayerNorm2d(n_out),
            nn.Conv2d(n_out, n_out, 3, padding=1, bias=False),
            LayerNorm2d(n_out),
        )
        self.apply(_initialise)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, S, S) float, normalised as SAM does and zero-padded -> (B, C, S/16, S/16)."""
        x = self.patch_embed(x)
        for layer in self.layers:
            x = layer(x)
        return cast("Tensor", self.neck(x))


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
