"""MobileSAM for running: the same weights and the same masks, in a fraction of the time."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from types import MethodType
from typing import Any, Literal, cast

import torch
from segment_anything.modeling import Sam
from torch import Tensor

from mobilesam.devices import usable_device
from mobilesam.errors import UnsupportedError, UsageError
from mobilesam.fast.decoder import FastDecoder, ImageSide, Multimask
from mobilesam.fast.encoder import FastEncoder
from mobilesam.fast.folding import folded
from mobilesam.fast.kernels import computes_bf16
from mobilesam.model.mini import ColorChannels, ColorTinyViT
from mobilesam.model.tiny_vit import TinyViT

Precision = Literal["fp32", "bf16", "fp16"]
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class FastMobileSam:
    """Image encoder, prompt encoder and mask decoder of MobileSAM, for inference alone.

    In coordinates and data of the networks: resizing, normalising and thresholding are the
    caller's. All weights are copied: build it after they are loaded, and build it again after
    training steps, which do not change the copy. Calls from several threads are safe. It can be
    pickled and deep-copied. Devices other than the CPU run a plainer path, which is not tested.

    Args:
        sam: From `mobilesam.model.mobile_sam.load_mobile_sam`, in whichever mode; left as it is.
        precision: What the encoder computes in; results are float32 always. "bf16" pays where
            the processor multiplies in it (avx512_bf16, amx_bf16); "fp16" is for GPUs. The
            decoder stays in float32: in bfloat16 it costs more accuracy than the whole encoder.
        device: Where to run.
        compile: Hand the encoder to `torch.compile` (on a CPU it needs a C++ compiler), on CUDA
            with CUDA graphs. The first call then takes a minute or so.

    Raises:
        UsageError: The precision is unknown, the device is not present, or the encoder is not a
            TinyViT.
        UnsupportedError: "fp16" on a CPU, or "bf16" on one that does not multiply in it.
    """

    def __init__(
        self,
        sam: Sam,
        precision: Precision = "fp32",
        device: torch.device | str = "cpu",
        *,
        compile: bool = False,  # noqa: A002 - what torch calls it
    ) -> None:
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
            self._encode = module_encoder(encoder, dtype, self.device, compile=compile)
        if isinstance(encoder, ColorTinyViT):
            self._encode = ColorChannels(self._encode, encoder.config.total_stride)
        self._decoder = FastDecoder(sam.prompt_encoder, sam.mask_decoder, device=self.device)

    def encode(self, pixels: Tensor) -> Tensor:
        """Runs the image encoder.

        Args:
            pixels: (B, 3, S, S) float, normalised and padded as SAM does.

        Returns:
            (B, 256, S/16, S/16) float32 on the device; an inference tensor.
        """
        return self._encode(pixels.to(self.device))

    def prepare(self, embedding: Tensor) -> ImageSide:
        """Computes what all prompts on an image share: worth keeping between calls of `decode`.

        Args:
            embedding: (1, 256, S/16, S/16) of `encode`.

        Raises:
            UsageError: It has another shape.
        """
        return self._decoder.prepare(embedding)

    def decode(
        self,
        embedding: Tensor | ImageSide,
        points: Tensor | None = None,
        labels: Tensor | None = None,
        boxes: Tensor | None = None,
        mask_inputs: Tensor | None = None,
        *,
        multimask: Multimask = False,
    ) -> tuple[Tensor, Tensor]:
        """Answers N prompts on one image; memory beyond the answer does not depend on N.

        Args:
            embedding: Of `encode`, for one image, or what `prepare` made of it.
            points: (N, K, 2) xy in pixels of the network's input.
            labels: (N, K) of the points: 1 foreground, 0 background, -1 none.
            boxes: (N, 4) xyxy in pixels of the network's input.
            mask_inputs: (N, 1, S/4, S/4) logits, or (1, 1, S/4, S/4) for all N prompts.
            multimask: False for the single mask, True for the three of an ambiguous prompt,
                "both" for all four, the single one first, at hardly more than the price of one.

        Returns:
            Logits (N, M, S/4, S/4) and predicted IoUs (N, M), float32; M is 1, 3 or 4.

        Raises:
            UsageError: Points without labels, prompts of different numbers, or an embedding of
                another shape.
        """
        side = embedding if isinstance(embedding, ImageSide) else self.prepare(embedding)
        given = (points, labels, boxes, mask_inputs)
        points, labels, boxes, mask_inputs = (
            None if each is None else each.to(self.device) for each in given
        )
        return self._decoder(
            side,
            points=points,
            labels=labels,
            boxes=boxes,
            mask_inputs=mask_inputs,
            multimask=multimask,
        )


def module_encoder(
    encoder: TinyViT,
    dtype: torch.dtype,
    device: torch.device,
    *,
    compile: bool = False,  # noqa: A002
) -> Callable[[Tensor], Tensor]:
    """The folded encoder as one module, for devices and compilers that fuse by themselves.

    Args:
        encoder: With its weights loaded; copied.
        dtype: What to compute in.
        device: Where to run.
        compile: Hand it to `torch.compile`.

    Returns:
        (B, 3, S, S) pixels -> (B, 256, S/16, S/16) float32; an inference tensor.
    """
    return _ModuleEncoder(encoder, dtype, device, compile=compile)


class _ModuleEncoder:
    """Encoder that `module_encoder` returns; copies of it are compiled again."""

    def __init__(
        self,
        encoder: TinyViT,
        dtype: torch.dtype,
        device: torch.device,
        *,
        compile: bool,  # noqa: A002
    ) -> None:
        module = folded(encoder).to(device=device, dtype=dtype)
        self._module = module.to(memory_format=torch.channels_last)
        self._dtype, self._device, self._compile = dtype, device, compile
        self._prepare()

    def _prepare(self) -> None:
        # Of a ColorTinyViT too: `FastMobileSam` appends colours to the float32 result.
        self._run: Callable[[Tensor], Tensor] = MethodType(TinyViT.forward, self._module)
        # A compiled graph writes every result to the same memory, from which it must be copied
        # before another thread runs the graph.
        self._turn = threading.Lock() if self._compile else contextlib.nullcontext()
        if self._compile:
            # On a GPU, this mode uses CUDA graphs: one launch for some two hundred kernels.
            mode = "reduce-overhead" if self._device.type == "cuda" else "default"
            compiled = torch.compile(self._run, mode=mode)
            self._run = cast("Callable[[Tensor], Tensor]", compiled)

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        del state["_run"], state["_turn"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._prepare()

    @torch.inference_mode()
    def __call__(self, pixels: Tensor) -> Tensor:
        """(B, 3, S, S) pixels -> (B, 256, S/16, S/16) float32; an inference tensor."""
        x = pixels.to(dtype=self._dtype, memory_format=torch.channels_last)
        with self._turn:
            found = self._run(x)
            return found.float() if found.dtype != torch.float32 else found.clone()
