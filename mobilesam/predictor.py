"""A drop-in for segment-anything's `SamPredictor`: the same names, arguments and results."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from segment_anything.modeling import Sam
from torch import Tensor

from mobilesam.errors import UsageError
from mobilesam.prompting import (
    Array,
    DecodedMasks,
    Float32Array,
    ImageEmbedding,
    Network,
    PromptedSam,
    UInt8Array,
    check_image,
    check_prompts,
)

if TYPE_CHECKING:
    from mobilesam.inference import Precision

__all__ = ["DecodedMasks", "ImageEmbedding", "ImageNotSetError", "MobileSam", "Network"]


class ImageNotSetError(UsageError, RuntimeError):
    """A prediction was asked for before `set_image`; `SamPredictor` raises a RuntimeError."""


class MobileSam(PromptedSam):
    """A model with its weights, and at most one image that has been set.

    `MobileSam(sam)` stands where `SamPredictor(sam)` did. Beside it, `encode` and `decode` keep no
    image and take batches.

    Args:
        sam_model: What `SamPredictor` takes; of our architecture, unless a network is given.
        network: What runs it; None is the fast path in float32 on the model's own device.
    """

    def __init__(self, sam_model: Sam, network: Network | None = None) -> None:
        super().__init__(sam_model, network)
        self._current: ImageEmbedding | None = None

    @classmethod
    def from_checkpoint(
        cls,
        path: Path | str | None = None,
        *,
        device: torch.device | str = "cpu",
        precision: Precision = "fp32",
    ) -> MobileSam:
        """Loads a checkpoint in the layout of the authors' `mobile_sam.pt`.

        Args:
            path: Where it lies; None gives random weights, for timing alone.
            device: Where to run.
            precision: What to compute in; see `mobilesam.inference.FastMobileSam`.

        Raises:
            WeightsError: The file is missing, damaged or of another architecture.
            UsageError: The precision is unknown.
        """
        from mobilesam.inference import FastMobileSam
        from mobilesam.model import load_mobile_sam

        sam = load_mobile_sam(path, device=device)
        return cls(sam, FastMobileSam(sam, precision, device))

    @classmethod
    def from_pretrained(
        cls,
        *,
        offline: bool = False,
        device: torch.device | str = "cpu",
        precision: Precision = "fp32",
    ) -> MobileSam:
        """Loads trained weights: the published file where it can be had, else those shipped here.

        Looks in $MOBILESAM_WEIGHTS and in the cache, then downloads `mobile_sam.pt` (41 MB), and
        without a network takes the weights inside this package. Says on standard error which file
        it took.

        Args:
            offline: Do not download.
            device: Where to run.
            precision: What to compute in; see `mobilesam.inference.FastMobileSam`.

        Raises:
            WeightsError: $MOBILESAM_WEIGHTS is no folder, a file is damaged, or a download gave
                another file.
            UsageError: The precision is unknown.
        """
        from mobilesam.checkpoints import resolve

        reasons: list[str] = []
        found = resolve(
            "mobilesam",
            overrides={},
            offline=offline,
            trust=False,
            on_fallback=lambda error: reasons.append(f": {error.reason}"),
        )
        sys.stderr.write(f"MobileSAM weights: {found.description}{''.join(reasons)}\n")
        return cls.from_checkpoint(found.path, device=device, precision=precision)

    @property
    def is_image_set(self) -> bool:
        """Whether `predict` has an image."""
        return self._current is not None

    @property
    def features(self) -> Tensor | None:
        """The embedding of the image that is set."""
        return None if self._current is None else self._current.features

    @property
    def original_size(self) -> tuple[int, int]:
        """Height and width of the image that is set, in pixels."""
        return self._set().size_hw

    @property
    def input_size(self) -> tuple[int, int]:
        """Height and width of that image as resized for the network."""
        return self._set().inner_hw

    def set_image(self, image: UInt8Array, image_format: str = "RGB") -> None:
        """Encodes an (H, W, 3) uint8 image, which `predict` then answers for.

        Args:
            image: The image.
            image_format: Order of its channels, `RGB` or `BGR`.

        Raises:
            UsageError: Another format.
            DataError: Not such an image, or an empty one.
        """
        if image_format not in ("RGB", "BGR"):
            raise UsageError(f"image_format is RGB or BGR, not {image_format!r}")
        check_image(image)
        flipped = image_format != self.model.image_format
        self.reset_image()
        self._current = self.encode(image[..., ::-1] if flipped else image)

    def set_torch_image(
        self, transformed_image: Tensor, original_image_size: tuple[int, ...]
    ) -> None:
        """Encodes an image that `transform.apply_image_torch` has resized.

        Args:
            transformed_image: (1, 3, h, w), values up to 255, the longer side as the network's.
            original_image_size: Height and width before, in pixels.

        Raises:
            UsageError: Another shape.
        """
        side, shape = self.transform.target_length, tuple(transformed_image.shape)
        if len(shape) != 4 or shape[:2] != (1, 3) or max(shape[2:]) != side:
            raise UsageError(f"the image must be (1, 3, h, w) with a long side of {side}; {shape}")
        self.reset_image()
        height, width = original_image_size
        (self._current,) = self.encode_resized([transformed_image[0]], [(int(height), int(width))])

    def predict(
        self,
        point_coords: Array | None = None,
        point_labels: Array | None = None,
        box: Array | None = None,
        mask_input: Array | None = None,
        multimask_output: bool = True,
        return_logits: bool = False,
    ) -> tuple[Array, Float32Array, Float32Array]:
        """Answers one prompt on the image that is set.

        Args:
            point_coords: (K, 2) xy in pixels of the image.
            point_labels: (K,) 1 foreground, 0 background.
            box: (4,) xyxy in pixels of the image.
            mask_input: (1, S/4, S/4) logits of an earlier answer.
            multimask_output: Three masks instead of one.
            return_logits: Logits instead of masks.

        Returns:
            (C, H, W) bool masks, or float32 logits; (C,) scores; (C, S/4, S/4) logits.

        Raises:
            ImageNotSetError: No image is set.
            UsageError: Points without labels, NaN, or shapes that do not fit.
        """
        current = self._set()
        points = None if point_coords is None else np.asarray(point_coords)[None]
        labels = None if point_labels is None or points is None else np.asarray(point_labels)[None]
        boxes = None if box is None else np.asarray(box).reshape(1, -1)
        mask_inputs = None if mask_input is None else np.asarray(mask_input)[None]
        check_prompts(points, labels, boxes, mask_inputs)
        self.check_mask_inputs(mask_inputs)
        logits, scores = self.decode_logits(
            current,
            points=points,
            labels=labels,
            boxes=boxes,
            mask_inputs=mask_inputs,
            multimask=multimask_output,
        )
        masks = self.to_picture(logits, current, return_logits=return_logits)
        return masks[0].cpu().numpy(), scores[0].cpu().numpy(), logits[0].cpu().numpy()

    @torch.no_grad()
    def predict_torch(
        self,
        point_coords: Tensor | None,
        point_labels: Tensor | None,
        boxes: Tensor | None = None,
        mask_input: Tensor | None = None,
        multimask_output: bool = True,
        return_logits: bool = False,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Answers N prompts on the image that is set, in coordinates of the network's input.

        Args:
            point_coords: (N, K, 2) xy, as `transform.apply_coords_torch` gives them.
            point_labels: (N, K).
            boxes: (N, 4) xyxy, as `transform.apply_boxes_torch` gives them.
            mask_input: (N, 1, S/4, S/4) logits of an earlier answer.
            multimask_output: Three masks instead of one.
            return_logits: Logits instead of masks.

        Returns:
            (N, C, H, W) bool masks, or float32 logits; (N, C) scores; (N, C, S/4, S/4) logits.

        Raises:
            ImageNotSetError: No image is set.
            UsageError: Points without labels, or prompts of different numbers.
        """
        current = self._set()
        logits, scores = self.network.decode(
            self.shared(current),
            point_coords,
            point_labels,
            boxes,
            mask_input,
            multimask=multimask_output,
        )
        # Copies that may be written to: what comes out of an inference mode may not.
        masks = self.to_picture(logits, current, return_logits=return_logits)
        return masks, scores.clone(), logits.clone()

    def get_image_embedding(self) -> Tensor:
        """(1, 256, S/16, S/16) float32 of the image that is set.

        Raises:
            ImageNotSetError: No image is set.
        """
        return self._set().features

    def reset_image(self) -> None:
        """Forgets the image that is set."""
        self._current = None

    def _set(self) -> ImageEmbedding:
        if self._current is None:
            raise ImageNotSetError("no image is set; call set_image before predicting")
        return self._current
