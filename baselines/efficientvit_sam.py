"""EfficientViT-SAM (arXiv 2402.05008), as in the authors' package `efficientsam`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from efficientsam.models.efficientvit.sam import (
    EfficientViTSam,
    EfficientViTSamAutomaticMaskGenerator,
    EfficientViTSamPredictor,
)
from efficientsam.sam_model_zoo import create_efficientvit_sam_model

from baselines.interface import ModelOptions, Prepared, Segmenter, UInt8Array
from baselines.sam import FiniteMasks, SamSegmenter, load_or_random
from mobilesam.model.mobile_sam import load_strictly
from mobilesam.model.state_dicts import load_state_dict_file


class EfficientVitSamSegmenter(SamSegmenter):
    """`SamSegmenter` with an encoder whose input (512 px for L0 to L2) is not the prompts' frame.

    Coordinates of prompts and masks refer to an image of 1024 px, as in SAM.
    """

    def __init__(self, model: EfficientViTSam, options: ModelOptions) -> None:
        frame, side = model.image_size
        model.image_encoder.img_size = frame  # where SAM's encoder has it
        super().__init__(model, options, family="EfficientViT-SAM", input_side=side)

    def prepare(self, image: UInt8Array) -> Prepared:
        """Resizes the longest side, normalises, and pads, as the authors' transform does."""
        size = self._check_image(image)
        pixels: torch.Tensor = self.model.transform(np.ascontiguousarray(image))
        return Prepared(pixels[None], size)

    def _generator(self) -> Any:
        generator = EfficientViTSamAutomaticMaskGenerator(self.model, self.points_per_side)
        generator.predictor = _FinitePredictor(self.model)
        return generator


class _FinitePredictor(FiniteMasks, EfficientViTSamPredictor):  # type: ignore[misc]
    """The authors' predictor, with checked results in float32."""


def build(options: ModelOptions) -> Segmenter:
    """`efficientvit-sam-l0`, `-l1`, `-l2`, `-xl0` and `-xl1`."""

    def empty() -> EfficientViTSam:
        return create_efficientvit_sam_model(options.name, pretrained=False)

    def load(path: Path) -> EfficientViTSam:
        model = empty()
        load_strictly(model, load_state_dict_file(path), source=str(path))
        return model.eval().to(options.device)

    return EfficientVitSamSegmenter(load_or_random(empty, load, options), options)
