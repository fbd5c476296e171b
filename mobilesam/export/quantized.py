"""Static 8-bit quantisation of the image encoder: calibration, and the graph that is exported.

Matrix products, dense convolutions and the products of attention take 8-bit integers: weights with
one scale an output channel, activations with one scale each, from ranges measured on images. The
first convolution, depthwise convolutions, layer normalisation, softmax and GELU stay in float.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from segment_anything.modeling import Sam
from torch import Tensor, nn

from mobilesam.errors import DataError, UsageError
from mobilesam.fast.inference import folded
from mobilesam.frozen_model import FrozenModel
from mobilesam.inputs import resize_image
from mobilesam.model.tiny_vit import Attention, LayerNorm2d, TinyViT, TinyVitBlock

CALIBRATION_IMAGES = 32
SHIPPED = Path(__file__).with_name("ranges.json")
"""Ranges of the shipped MobileSAM weights on images of COCO train2017."""
# Weights whose root mean square differs by more have ranges of their own.
_SAME_WEIGHTS = 0.02
_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".webp")


class LayerRange(FrozenModel):
    """Range of an activation, and the root mean square of the weight that takes it."""

    low: float
    high: float
    weight_rms: float | None = None  # None for queries, keys and values


class Ranges(FrozenModel):
    """Ranges of activations of one encoder, by name of the layer that takes them."""

    n_images: int
    layers: dict[str, LayerRange]

    def fits(self, encoder: TinyViT) -> bool:
        """Whether they were measured with these weights, or with nearly equal ones."""
        found = {name: _rms(layer) for name, layer in _quantised(folded(encoder))}
        known = {name: each.weight_rms for name, each in self.layers.items() if each.weight_rms}
        return found.keys() == known.keys() and all(
            abs(value - known[name]) <= _SAME_WEIGHTS * known[name] for name, value in found.items()
        )


def find_ranges(sam: Sam, calibration: Path | None, n_images: int = CALIBRATION_IMAGES) -> Ranges:
    """Measures ranges on images, or takes the shipped ones if they are of these weights.

    Args:
        sam: A MobileSAM with its weights loaded.
        calibration: Folder with images such as will be encoded, but none that is evaluated; None
            for the shipped ranges.
        n_images: So many images of the folder are read, evenly spaced in the order of names.

    Raises:
        UsageError: The encoder is no TinyViT, the folder holds no image, or it is needed.
        DataError: An image cannot be read.
    """
    encoder = sam.image_encoder
    if not isinstance(encoder, TinyViT):
        raise UsageError(f"int8 is for MobileSAM's TinyViT, not for a {type(encoder).__name__}")
    if calibration is not None:
        return calibrate(sam, _read_images(calibration, n_images))
    try:
        shipped = Ranges.model_validate_json(SHIPPED.read_bytes())
    except ValidationError as error:
        raise UsageError(f"{SHIPPED} is malformed; install this package again") from error
    if not shipped.fits(encoder):
        raise UsageError(
            "int8 needs ranges of activations, and those in this package are of other weights; "
            "give a folder with some 30 images for calibration"
        )
    return shipped


def _read_images(folder: Path, n_images: int) -> Iterator[np.ndarray]:
    from PIL import Image

    if n_images < 1:
        raise UsageError(f"calibration needs at least 1 image, not {n_images}")
    if not folder.is_dir():
        raise UsageError(f"calibration: {folder} is not a folder")
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in _SUFFIXES)
    if not paths:
        raise UsageError(f"calibration: no image ({', '.join(_SUFFIXES)}) in {folder}")
    for index in range(min(n_images, len(paths))):
        path = paths[index * len(paths) // min(n_images, len(paths))]
        try:
            with Image.open(path) as image:
                yield np.asarray(image.convert("RGB"))
        except OSError as error:
            raise DataError(f"calibration: cannot read {path}: {error}") from error


@torch.inference_mode()
def calibrate(sam: Sam, images: Iterable[np.ndarray]) -> Ranges:
    """Ranges of activations: the means, over (H, W, 3) uint8 RGB images, of minimum and maximum."""
    encoder = folded(cast("TinyViT", sam.image_encoder))
    sums: dict[str, np.ndarray] = {}

    def add(name: str, x: Tensor) -> None:
        extremes = np.array([float(x.min()), float(x.max())])
        sums[name] = sums.get(name, 0) + extremes

    for name, layer in _quantised(encoder):
        layer.register_forward_pre_hook(lambda _, given, name=name: add(name, given[0]))
    for name, module in encoder.named_modules():
        if isinstance(module, Attention):

            def add_parts(attention: Any, _: Any, qkv: Tensor, name: str = name) -> None:
                for kind, part in zip("qkv", _split(attention, qkv), strict=True):
                    add(f"{name}.{kind}", part)

            module.qkv.register_forward_hook(
                lambda _, given, qkv, add_parts=add_parts, module=module: add_parts(
                    module, given, qkv
                )
            )
    side, count = int(sam.image_encoder.img_size), 0
    for image in images:
        resized = np.ascontiguousarray(resize_image(image, side))
        pixels = torch.from_numpy(resized).permute(2, 0, 1)
        encoder(sam.preprocess(pixels.to(sam.pixel_mean.device)[None]).cpu())
        count += 1
    weights = {name: _rms(layer) for name, layer in _quantised(encoder)}
    layers = {
        name: LayerRange(low=low / count, high=high / count, weight_rms=weights.get(name))
        for name, (low, high) in sums.items()
    }
    return Ranges(n_images=count, layers=layers)


def _quantised(encoder: TinyViT) -> Iterator[tuple[str, nn.Linear | nn.Conv2d]]:
    """The layers of a folded encoder that are quantised, with their names."""
    for name, layer in encoder.named_modules():
        is_dense = isinstance(layer, nn.Conv2d) and layer.groups == 1 and layer.in_channels > 3
        if is_dense or (isinstance(layer, nn.Linear) and name != "head"):
            yield name, cast("nn.Linear | nn.Conv2d", layer)


def _rms(layer: nn.Linear | nn.Conv2d) -> float:
    return float(layer.weight.detach().double().square().mean().sqrt())


def _split(attention: Attention, qkv: Tensor) -> Sequence[Tensor]:
    """(B, tokens, 3 C) -> scaled queries, keys and values (B, heads, tokens, width)."""
    parts = qkv.view(*qkv.shape[:2], attention.num_heads, 3, -1).permute(3, 0, 2, 1, 4)
    return parts[0] * parts.shape[-1] ** -0.5, parts[1], parts[2]


class Int8EncoderGraph(nn.Module):
    """As `mobilesam.export.graphs.EncoderGraph`, with rounding to 8 bits where it is quantised.

    It is exported as pairs of QuantizeLinear and DequantizeLinear, which runtimes replace by
    products of integers. MLPs are 1x1 convolutions, so that an image changes its memory layout for
    attention alone.
    """

    def __init__(self, sam: Sam, ranges: Ranges) -> None:
        super().__init__()
        self.encoder = folded(cast("TinyViT", sam.image_encoder)).float()
        for name, layer in list(_quantised(self.encoder)):
            if ".mlp." not in name:
                parent, _, leaf = name.rpartition(".")
                # Runtimes subtract no zero point in products of tokens.
                made = _Quantised(
                    layer, ranges.layers[name], symmetric=isinstance(layer, nn.Linear)
                )
                self.encoder.get_submodule(parent)._modules[leaf] = made
        for stage_name, stage in self.encoder.layers.named_children():
            blocks = cast("nn.ModuleList", stage.blocks)
            for index, block in enumerate(blocks):
                if isinstance(block, TinyVitBlock):
                    prefix = f"layers.{stage_name}.blocks.{index}"
                    blocks[index] = _Block(block, ranges, prefix)

    def forward(self, pixels: Tensor) -> Tensor:
        """Runs the image encoder."""
        return cast("Tensor", self.encoder(pixels))


class _Rounded(nn.Module):
    """Rounds to 256 values in a range, symmetric around zero if wanted."""

    def __init__(self, low: float, high: float, *, symmetric: bool) -> None:
        super().__init__()
        low, high = min(low, -1e-6), max(high, 1e-6)
        if symmetric:
            self.how = (max(-low, high) / 127, 0, -128, 127)
        else:
            scale = (high - low) / 255
            self.how = (scale, round(-low / scale), 0, 255)

    def forward(self, x: Tensor) -> Tensor:
        return torch.fake_quantize_per_tensor_affine(x, *self.how)


class _Quantised(nn.Module):
    """A linear layer or convolution of rounded activations and weights."""

    scale: Tensor
    zero: Tensor

    def __init__(self, layer: nn.Linear | nn.Conv2d, found: LayerRange, *, symmetric: bool) -> None:
        super().__init__()
        self.layer, self.rounded = layer, _Rounded(found.low, found.high, symmetric=symmetric)
        scale = layer.weight.detach().flatten(1).abs().amax(1).clamp_min(1e-12) / 127
        self.register_buffer("scale", scale)
        self.register_buffer("zero", torch.zeros(len(scale), dtype=torch.int32))

    def forward(self, x: Tensor) -> Tensor:
        layer, x = self.layer, self.rounded(x)
        how = (self.scale, self.zero, 0, -128, 127)
        weight = torch.fake_quantize_per_channel_affine(layer.weight, *how)
        if isinstance(layer, nn.Linear):
            return F.linear(x, weight, layer.bias)
        return F.conv2d(x, weight, layer.bias, layer.stride, layer.padding)


class _Attention(nn.Module):
    """`Attention` with rounded queries, keys, values and weights."""

    def __init__(self, source: Attention, ranges: Ranges, name: str) -> None:
        super().__init__()
        self.source = source
        found = [ranges.layers[f"{name}.{kind}"] for kind in "qkv"]
        self.rounded = nn.ModuleList(
            _Rounded(each.low, each.high, symmetric=True) for each in found
        )
        self.rounded_weights = _Rounded(0, 1, symmetric=False)

    def forward(self, x: Tensor) -> Tensor:
        source = self.source
        parts = _split(source, source.qkv(source.norm(x)))
        query, key, value = (
            rounded(part) for rounded, part in zip(self.rounded, parts, strict=True)
        )
        weights = (query @ key.transpose(-1, -2) + source.bias()[None]).softmax(-1)
        mixed = self.rounded_weights(weights) @ value
        return cast("Tensor", source.proj(mixed.transpose(1, 2).reshape(x.shape)))


class _Block(nn.Module):
    """`TinyVitBlock` of (B, C, H, W), its MLP as 1x1 convolutions."""

    def __init__(self, source: TinyVitBlock, ranges: Ranges, name: str) -> None:
        super().__init__()
        mlp: Any = source.mlp
        self.source, self.local_conv = source, source.local_conv
        self.source.attn = cast("Any", _Attention(source.attn, ranges, f"{name}.attn"))
        self.norm = LayerNorm2d(len(mlp.norm.weight), mlp.norm.eps)
        self.norm.weight, self.norm.bias = mlp.norm.weight, mlp.norm.bias
        self.widen, self.narrow = (
            _Quantised(_pointwise(layer), ranges.layers[f"{name}.mlp.{kind}"], symmetric=False)
            for kind, layer in (("fc1", mlp.fc1), ("fc2", mlp.fc2))
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.source._attend(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        x = self.local_conv(x)
        return x + cast("Tensor", self.narrow(F.gelu(self.widen(self.norm(x)))))


def _pointwise(layer: nn.Linear) -> nn.Conv2d:
    """A linear layer as a 1x1 convolution."""
    conv = nn.Conv2d(layer.in_features, layer.out_features, 1, device="meta")
    conv.weight = nn.Parameter(layer.weight.detach()[:, :, None, None], requires_grad=False)
    conv.bias = layer.bias
    return conv
