"""MobileSAM on this project's own inference path: the same weights and masks in less time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from typing import NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from baselines.interface import (
    Embedding,
    Float32Array,
    LogitMasks,
    MaskRecord,
    Masks,
    ModelOptions,
    Prepared,
    UInt8Array,
    check_image,
)
from baselines.sam import Candidates, SamSegmenter, mobile_sam, stacked
from mobilesam.everything.generator import AutomaticMaskGenerator
from mobilesam.fast.decoder import ImageContext
from mobilesam.fast.inference import FastMobileSam, Precision
from mobilesam.fast.upsampling import upsample
from mobilesam.inputs import resized_hw
from mobilesam.predictor import MobileSam
from mobilesam.prompts import NetworkPrompts

# Prompts whose masks are upsampled together; the decoder divides its own work.
_BATCH = 8


class _Payload(NamedTuple):
    """Features of the encoder, and what the decoder computes from them once for all prompts."""

    features: Tensor
    context: ImageContext


class FastMobileSamSegmenter(SamSegmenter):
    """`SamSegmenter` with a faster computation of the same networks.

    `encode` includes what the decoder computes once per image.
    """

    def __init__(self, options: ModelOptions, *, skip_padding: bool = False) -> None:
        model = mobile_sam(options)
        super().__init__(model, options, family="MobileSAM")
        self._batch = _BATCH
        self._fast: FastMobileSam | None = None
        if options.device != "meta":  # shapes are enough for counting
            precision = cast("Precision", options.precision)
            self._fast = FastMobileSam(model, precision, options.device, skip_padding=skip_padding)

    @property
    def _network(self) -> FastMobileSam:
        assert self._fast is not None  # noqa: S101 - a model on the meta device is never run
        return self._fast

    @cached_property
    def _predictor(self) -> MobileSam:
        return MobileSam(self.model, self._network)

    def encode(self, prepared: Prepared) -> Embedding:
        """Runs the image encoder, and the part of the decoder that needs no prompts."""
        return self._embedding(self._network.encode(prepared.payload), prepared.size_hw)

    def encode_batch(self, prepared: Sequence[Prepared]) -> list[Embedding]:
        """As `encode`; on a CPU, the encoder computes one image after the other."""
        features = self._network.encode(stacked(prepared))
        return [
            self._embedding(part[None], each.size_hw)
            for part, each in zip(features, prepared, strict=True)
        ]

    def run_decoder(
        self, embedding: Embedding, prompts: NetworkPrompts, wanted: Candidates
    ) -> tuple[Tensor, Tensor]:
        """Runs prompt encoder and mask decoder on one batch, as in `SamSegmenter`."""
        return self._network.decode(embedding.payload.context, prompts, multimask=wanted)

    @torch.inference_mode()
    def postprocess(self, found: LogitMasks) -> Masks:
        """Upsamples to the image's size and thresholds, a strip at a time."""
        inner = resized_hw(found.size_hw, self._side)
        upsampler = self._predictor.upsampler(found.size_hw, inner, self.device)
        masks = upsample(found.logits, upsampler, float(self.model.mask_threshold))
        return Masks(
            masks.cpu().numpy(), found.scores.cpu().numpy(), found.logits.float().cpu().numpy()
        )

    def everything(self, image: UInt8Array) -> list[MaskRecord]:
        """This project's own generator with the default parameters of segment-anything's."""
        check_image(image)
        found = AutomaticMaskGenerator(self._predictor, self.points_per_side).find(image)
        return [
            # Boxes of masks end on the last pixel; a record's behind it.
            MaskRecord(mask.runs.to_mask(), mask.score, np.add(mask.box, (0, 0, 1, 1), dtype="f4"))
            for mask in found
        ]

    def embedding_arrays(self, embedding: Embedding) -> Mapping[str, Float32Array]:
        """One array: (1, 256, S/16, S/16) float32."""
        plain = Embedding(embedding.payload.features, embedding.size_hw, embedding.model)
        return super().embedding_arrays(plain)

    def embedding_from(
        self, arrays: Mapping[str, Float32Array], size_hw: tuple[int, int]
    ) -> Embedding:
        """Converts arrays of `embedding_arrays` back to an embedding on this model's device."""
        return self._embedding(super().embedding_from(arrays, size_hw).payload, size_hw)

    def _embedding(self, features: Tensor, size_hw: tuple[int, int]) -> Embedding:
        with torch.inference_mode():
            payload = _Payload(features, self._network.prepare(features))
        return Embedding(payload, size_hw, self.info.name)


# The factories that the registry names.
build = FastMobileSamSegmenter
build_unpadded = partial(FastMobileSamSegmenter, skip_padding=True)
