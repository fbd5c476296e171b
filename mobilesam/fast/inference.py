"""MobileSAM's networks for inference: the same weights and masks in a fraction of the time."""

from __future__ import annotations

import contextlib
import copy
import threading
from collections.abc import Callable
from functools import cached_property, partial
from types import MethodType
from typing import Any, Literal, cast

import torch
from segment_anything.modeling import Sam
from torch import Tensor, nn

from mobilesam.errors import UnsupportedError, UsageError
from mobilesam.fast.decoder import FastDecoder, FoundMasks, ImageContext, Multimask
from mobilesam.fast.encoder import FastEncoder
from mobilesam.fast.kernels import computes_bf16, fold_conv_norm
from mobilesam.fast.preview import Levels, RoughDecoder, RoughMasks
from mobilesam.inputs import Device, Size, usable_device
from mobilesam.model.mini import ColorChannels, ColorTinyViT
from mobilesam.model.tiny_vit import Attention, ConvNorm, TinyViT
from mobilesam.prompts import NetworkPrompts

Embedding = Tensor | ImageContext
Precision = Literal["fp32", "bf16", "fp16"]
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class FastMobileSam:
    """Image encoder, prompt encoder and mask decoder of MobileSAM, for inference only.

    It works in the coordinates of the networks: resizing, normalising and thresholding are left to
    the caller. All weights are copied: build it again after training steps. Calls from several
    threads are safe. It can be pickled and deep-copied. Devices other than the CPU run a simpler
    path, which is not tested.

    Args:
        sam: From `mobilesam.model.mobile_sam.load_mobile_sam`, in any mode; not changed.
        precision: What the encoder computes in; results are always float32. "bf16" helps where
            the processor multiplies in it (avx512_bf16, amx_bf16); "fp16" is for GPUs. The
            decoder stays in float32: in bfloat16 it loses more accuracy than the whole encoder.
        device: Device to run on.
        compile: Pass the encoder to `torch.compile` (on a CPU it needs a C++ compiler), on CUDA
            with CUDA graphs. The first call then takes a minute or so.
        skip_padding: Do not compute what lies below or at the right of the image; see `Unpadded`.

    Raises:
        UsageError: The precision, the device or the kind of encoder cannot be used, or
            `skip_padding` together with `compile`, which compiles for one size.
        UnsupportedError: "fp16" on a CPU, or "bf16" on one that does not multiply in it.
    """

    def __init__(
        self,
        sam: Sam,
        precision: Precision = "fp32",
        device: Device = "cpu",
        *,
        compile: bool = False,  # noqa: A002 - the name in torch
        skip_padding: bool = False,
    ) -> None:
        if skip_padding and compile:
            raise UsageError("skip_padding encodes images of many sizes; leave out compile")
        dtype = _DTYPES.get(precision)
        if dtype is None:
            raise UsageError(f"unknown precision {precision!r}; choose from {', '.join(_DTYPES)}")
        self.device = usable_device(device)
        if dtype == torch.float16 and self.device.type == "cpu":
            raise UnsupportedError("fp16 is slower than fp32 on a CPU; choose fp32 or bf16")
        if dtype == torch.bfloat16 and self.device.type == "cpu" and not computes_bf16():
            raise UnsupportedError("this processor does not compute in bf16; use fp32")
        encoder = sam.image_encoder
        if not isinstance(encoder, TinyViT):
            raise UsageError(
                f"the image encoder is a {type(encoder).__name__}, not a TinyViT; give a MobileSAM"
            )
        self.precision = precision
        self._encode: Callable[[Tensor], Tensor]
        if self.device.type == "cpu" and not compile:
            self._encode = FastEncoder(encoder, dtype)
        else:
            self._encode = ModuleEncoder(encoder, dtype, self.device, compile=compile)
        if skip_padding:
            config = encoder.config
            self._encode = Unpadded(self._encode, config.total_stride, config.window_sizes[-1])
        if isinstance(encoder, ColorTinyViT):
            self._encode = ColorChannels(self._encode, encoder.config.total_stride)
        self._decoder = FastDecoder(sam.prompt_encoder, sam.mask_decoder, device=self.device)

    def encode(self, pixels: Tensor) -> Tensor:
        """(B, 3, S, S) float, normalised and padded as SAM does -> (B, 256, S/16, S/16) float32."""
        return self._encode(pixels.to(self.device))

    def prepare(self, embedding: Tensor) -> ImageContext:
        """What all prompts on an image share, from its (1, 256, S/16, S/16) embedding."""
        return self._decoder.prepare(embedding)

    def decode(
        self, embedding: Embedding, prompts: NetworkPrompts, *, multimask: Multimask = False
    ) -> tuple[Tensor, Tensor]:
        """Predicts masks for N prompts on one image; memory beyond the result does not depend on N.

        Args:
            embedding: Result of `encode` for one image, or of `prepare`.
            prompts: N prompts.
            multimask: False for the single mask, True for the three of an ambiguous prompt,
                "both" for all four, the single one first, at hardly more than the cost of one.

        Returns:
            Logits (N, M, S/4, S/4) and predicted IoUs (N, M), float32; M is 1, 3 or 4.

        Raises:
            UsageError: Points without labels, different numbers of prompts, or a wrong embedding.
        """
        return self._decoder(*self._given(embedding, prompts), multimask=multimask)

    def find(self, embedding: Embedding, prompts: NetworkPrompts, least_score: float) -> FoundMasks:
        """Masks of N ambiguous prompts with a higher predicted IoU, and those of NaN.

        The logits of others are not computed.
        """
        return self._decoder.find(*self._given(embedding, prompts), least_score)

    def preview(
        self, embedding: Tensor, points: Tensor, inner_hw: Size, levels: Levels
    ) -> RoughMasks:
        """Rough masks of foreground points: what they will find, at about a tenth of the work.

        Args:
            embedding: Result of `encode` for one image.
            points: (N, 2) float32 xy.
            inner_hw: Height and width of the image within the network's input.
            levels: Thresholds.
        """
        decoder = self._preview_decoder
        rough = RoughDecoder(decoder, decoder.prepare(embedding), inner_hw)
        return rough(points.to(self.device), levels)

    @cached_property
    def _preview_decoder(self) -> FastDecoder:
        """In bfloat16 where the processor multiplies in it: a quarter less time, no worse."""
        if self.device.type != "cpu" or not computes_bf16():
            return self._decoder
        return self._decoder.converted(torch.bfloat16)

    def _given(
        self, embedding: Embedding, prompts: NetworkPrompts
    ) -> tuple[ImageContext, NetworkPrompts]:
        """Both on the device."""
        context = embedding if isinstance(embedding, ImageContext) else self.prepare(embedding)
        given = (None if each is None else each.to(self.device) for each in prompts)
        return context, NetworkPrompts(*given)


class Unpadded:
    """Encodes the part of each input that is not padding.

    The rest gets the embedding of an empty input. Convolutions and attention windows at the border
    of the image see that padding only up to the next multiple of the last stage's window, so that
    the embedding differs somewhat from that of the whole input. Padding is what is exactly 0 in all
    channels down to the last row, or right to the last column, which no normalised image is.
    """

    def __init__(self, encode: Callable[[Tensor], Tensor], stride: int, window: int) -> None:
        self._encode, self._stride, self._unit = encode, stride, stride * window
        self._empty: dict[torch.Size, Tensor] = {}

    @torch.inference_mode()
    def __call__(self, pixels: Tensor) -> Tensor:
        """(B, 3, S, S) -> (B, 256, S/16, S/16) float32; an inference tensor."""
        shape = pixels.shape[1:]
        if shape not in self._empty:
            self._empty[shape] = self._encode(torch.zeros_like(pixels[:1]))
        found = self._empty[shape].repeat(len(pixels), 1, 1, 1)
        for image, embedding in zip(pixels, found, strict=True):
            shown = (image != 0).any(0)
            height, width = (self._used(shown.any(axis)) for axis in (1, 0))
            if height and width:
                part = self._encode(image[None, :, :height, :width])[0]
                embedding[:, : part.shape[1], : part.shape[2]] = part
        return found

    def _used(self, shown: Tensor) -> int:
        """Length of one side that is computed, in pixels."""
        last = int((torch.nonzero(shown).flatten()[-1:] + 1).sum())
        return min(len(shown), -(-last // self._unit) * self._unit)


class ModuleEncoder:
    """The folded encoder as one module, for devices and compilers that fuse by themselves.

    The weights are copied. Colour channels of a `ColorTinyViT` are not computed here. With
    `compile` it goes through `torch.compile`, and so do its copies.
    """

    def __init__(
        self,
        encoder: TinyViT,
        dtype: torch.dtype,
        device: torch.device,
        *,
        compile: bool = False,  # noqa: A002
    ) -> None:
        module = folded(encoder).to(device=device, dtype=dtype)
        self._module = module.to(memory_format=torch.channels_last)
        self._dtype, self._device, self._compile = dtype, device, compile
        self._run: Callable[[Tensor], Tensor] = MethodType(TinyViT.forward, self._module)
        # A compiled graph writes every result to the same memory, from which it must be copied
        # before another thread runs the graph.
        self._lock = threading.Lock() if compile else contextlib.nullcontext()
        if compile:
            # On a GPU, this mode uses CUDA graphs: one launch for some two hundred kernels.
            mode = "reduce-overhead" if device.type == "cuda" else "default"
            self._run = cast("Callable[[Tensor], Tensor]", torch.compile(self._run, mode=mode))

    def __reduce__(self) -> tuple[Any, ...]:
        """Compiled code and locks are made again; folding a folded encoder only copies it."""
        again = partial(ModuleEncoder, compile=self._compile)
        return again, (self._module, self._dtype, self._device)

    @torch.inference_mode()
    def __call__(self, pixels: Tensor) -> Tensor:
        """(B, 3, S, S) pixels -> (B, 256, S/16, S/16) float32; an inference tensor."""
        x = pixels.to(dtype=self._dtype, memory_format=torch.channels_last)
        with self._lock:
            found = self._run(x)
            return found.float() if found.dtype != torch.float32 else found.clone()


def folded(encoder: TinyViT) -> TinyViT:
    """A copy in evaluation mode with batch normalisation folded and attention biases gathered."""
    clone = copy.deepcopy(encoder).eval().requires_grad_(requires_grad=False)
    for module in list(clone.modules()):
        if isinstance(module, Attention):
            gathered = module.bias().detach().contiguous()
            module.attention_biases = nn.Parameter(gathered, requires_grad=False)
            del module.bias_index
            module.bias_index = slice(None)
        for name, child in module.named_children():
            if isinstance(child, ConvNorm):
                conv, (weight, bias) = child.c, fold_conv_norm(child)
                conv.bias = nn.Parameter(bias.to(conv.weight), requires_grad=False)
                conv.weight = nn.Parameter(weight.to(conv.weight), requires_grad=False)
                setattr(module, name, conv)
    return clone
