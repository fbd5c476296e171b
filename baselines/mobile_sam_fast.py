"""MobileSAM on this project's own inference path: the same weights, the same masks, less time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import cast

import numpy as np
import torch
from torch import Tensor

from baselines.interface import (
    Embedding,
    Float32Array,
    LogitMasks,
    MaskRecord,
    Masks,
    Prepared,
    Prompts,
    Segmenter,
    UInt8Array,
    check_image,
)
from baselines.options import ModelOptions
from baselines.sam_like import SamSegmenter, Wanted, load_or_random
from mobilesam.everything.generator import AutomaticMaskGenerator
from mobilesam.fast.decoder import ImageSide
from mobilesam.fast.inference import FastMobileSam, Precision
from mobilesam.fast.prompting import PromptedSam
from mobilesam.fast.upsampling import pictures
from mobilesam.model.mobile_sam import build_mobile_sam, load_mobile_sam

# Prompts whose masks are brought to the image's size together; the decoder cuts up its own work.
_BATCH = 8


@dataclass(frozen=True, slots=True)
class _Image:
    """The encoder's features, and what the decoder makes of them once for all prompts."""

    features: Tensor
    side: ImageSide


class FastMobileSamSegmenter(SamSegmenter):
    """`SamSegmenter` with another way through the same networks.

    `encode` includes what the decoder computes once an image.

    Args:
        options: Checkpoint, device and precision.
    """

    def __init__(self, options: ModelOptions) -> None:
        model = load_or_random(build_mobile_sam, load_mobile_sam, options)
        super().__init__(model, options, family="MobileSAM", licence="Apache-2.0")
        self._batch = _BATCH
        self._fast: FastMobileSam | None = None
        if options.device != "meta":  # there are shapes alone there: enough for counting
            self._fast = FastMobileSam(model, cast("Precision", options.precision), options.device)

    @property
    def _network(self) -> FastMobileSam:
        assert self._fast is not None  # noqa: S101 - a model of shapes alone is never run
        return self._fast

    @cached_property
    def _prompted(self) -> PromptedSam:
        return PromptedSam(self.model, self._network)

    def encode(self, prepared: Prepared) -> Embedding:
        """Runs the image encoder, and the image's side of the decoder."""
        return self._embedding(self._network.encode(prepared.payload), prepared.size_hw)

    def run_decoder(
        self, embedding: Embedding, prompts: Prompts, wanted: Wanted
    ) -> tuple[Tensor, Tensor]:
        """One call of the decoder, as in `SamSegmenter`."""
        points, boxes, masks = self._to_network(embedding, prompts)
        where, labels = (None, None) if points is None else points
        return self._network.decode(
            embedding.payload.side, where, labels, boxes, masks, multimask=wanted
        )

    @torch.inference_mode()
    def postprocess(self, found: LogitMasks) -> Masks:
        """Upsamples to the image's size and thresholds, a strip at a time."""
        inner = self._resize.get_preprocess_shape(*found.size_hw, self._side)
        upsampler = self._prompted.upsampler_for(found.size_hw, inner, self.device)
        masks = pictures(found.logits, upsampler, float(self.model.mask_threshold))
        return Masks(
            masks.cpu().numpy(), found.scores.cpu().numpy(), found.logits.float().cpu().numpy()
        )

    def everything(self, image: UInt8Array) -> list[MaskRecord]:
        """This project's own generator with the default parameters of segment-anything's."""
        check_image(image)
        found = AutomaticMaskGenerator(self._prompted, self.points_per_side).find(image)
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
        """The embedding that `embedding_arrays` was given, on this model's device."""
        return self._embedding(super().embedding_from(arrays, size_hw).payload, size_hw)

    def _embedding(self, features: Tensor, size_hw: tuple[int, int]) -> Embedding:
        with torch.inference_mode():
            image = _Image(features, self._network.prepare(features))
        return Embedding(image, size_hw, self.info.name)


def build(options: ModelOptions) -> Segmenter:
    """Builds MobileSAM for inference alone, from a checkpoint or with random weights.

    Raises:
        WeightsError: The checkpoint is not one of this architecture.
        UnsupportedError: The precision is not for this device.
    """
    return FastMobileSamSegmenter(options)
