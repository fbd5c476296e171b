"""A drop-in for segment-anything's `SamPredictor`: the same names, arguments and results."""

from __future__ import annotations

import sys
import threading
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from segment_anything.modeling import Sam
from torch import Tensor

from mobilesam.devices import usable_device
from mobilesam.errors import UsageError
from mobilesam.fast.prompting import (
    Array,
    DecodedMasks,
    Float32Array,
    ImageEmbedding,
    Network,
    PromptedSam,
    UInt8Array,
    as_image,
    check_image,
    check_shapes,
    read_prompts,
)
from mobilesam.inputs import as_array
from mobilesam.model.state_dicts import is_finite

if TYPE_CHECKING:
    from mobilesam.fast.inference import Precision

__all__ = ["DecodedMasks", "ImageEmbedding", "ImageNotSetError", "MobileSam", "Network"]


class ImageNotSetError(UsageError, RuntimeError):
    """A prediction was asked for before `set_image`; `SamPredictor` raises a RuntimeError."""


# Held while the state of a predictor's image is read and replaced. One for all predictors, since
# it is held for microseconds, and an object with a lock could be neither pickled nor copied.
_CHANGING = threading.Lock()


@dataclass(frozen=True, slots=True, eq=False)
class _Image:
    """State of the image that is set; replaced as a whole, so that threads see one image.

    Attributes:
        features: Embedding of the image.
        size_hw: Height and width of the image, in pixels.
        inner_hw: Height and width after resizing for the network, in pixels.
        is_set: Whether `predict` may use it.
    """

    features: Tensor | None = None
    size_hw: tuple[int, int] | None = None
    inner_hw: tuple[int, int] | None = None
    is_set: bool = False


class MobileSam(PromptedSam):
    """A model with its weights, and at most one image that has been set.

    `MobileSam(sam)` replaces `SamPredictor(sam)`. In addition, `encode` and `decode` keep no image
    and take batches. As with `SamPredictor`, `features`, `original_size`, `input_size` and
    `is_image_set` may be assigned, to set an image from a stored embedding.

    Several threads may use one predictor. It holds one image: a thread that sets another image sets
    it for all threads. `set_image`, `set_torch_image` and `reset_image` take effect as a whole, and
    a prediction belongs to the image that is set when it begins: embedding and sizes of two images
    are never mixed. The four attributes are assigned one at a time, so only one thread may assign
    them: after `reset_image`, with `is_image_set` last, other threads get an `ImageNotSetError`
    until the image is complete. Threads with different images should use `encode` and `decode`, or
    one copy each: `copy.copy` of a predictor shares the weights and has an image of its own.

    Args:
        sam_model: What `SamPredictor` takes; of our architecture, unless a network is given.
        network: Network that runs it; None uses the fast path in float32 on the model's own device,
            with a copy of all weights. Later training steps do not change the copy: create another
            `MobileSam` after them.
    """

    def __init__(self, sam_model: Sam, network: Network | None = None) -> None:
        super().__init__(sam_model, network)
        self._current = _Image()

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
            precision: What to compute in; see `mobilesam.fast.inference.FastMobileSam`.

        Raises:
            WeightsError: The file is missing, damaged or of another architecture.
            UsageError: The precision is unknown, or the device is not present.
        """
        from mobilesam.fast.inference import FastMobileSam
        from mobilesam.model.mobile_sam import load_mobile_sam

        sam = load_mobile_sam(path, device=usable_device(device))
        return cls(sam, FastMobileSam(sam, precision, device))

    @classmethod
    def from_pretrained(
        cls,
        *,
        offline: bool = False,
        device: torch.device | str = "cpu",
        precision: Precision = "fp32",
    ) -> MobileSam:
        """Loads trained weights: the published file if available, else those in this package.

        Looks in $MOBILESAM_WEIGHTS and in the cache, then downloads `mobile_sam.pt` (41 MB).
        Without a network it uses the weights inside this package. Prints on standard error which
        file is used.

        Args:
            offline: Do not download.
            device: Where to run.
            precision: What to compute in; see `mobilesam.fast.inference.FastMobileSam`.

        Raises:
            WeightsError: $MOBILESAM_WEIGHTS is no folder, a file is damaged, or a download gave
                another file.
            UsageError: The precision is unknown.
        """
        from mobilesam.weights.checkpoints import resolve

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
        return self._current.is_set

    @is_image_set.setter
    def is_image_set(self, value: bool) -> None:
        self._change(is_set=bool(value))

    @property
    def features(self) -> Tensor | None:
        """The embedding of the image that is set."""
        return self._current.features

    @features.setter
    def features(self, value: Tensor | None) -> None:
        self._change(features=value)

    @property
    def original_size(self) -> tuple[int, int]:
        """Height and width of the last image that was set, in pixels."""
        return self._known("original_size", self._current.size_hw)

    @original_size.setter
    def original_size(self, value: tuple[int, int]) -> None:
        height, width = value
        self._change(size_hw=(int(height), int(width)))

    @property
    def input_size(self) -> tuple[int, int]:
        """Height and width of that image as resized for the network."""
        return self._known("input_size", self._current.inner_hw)

    @input_size.setter
    def input_size(self, value: tuple[int, int]) -> None:
        height, width = value
        self._change(inner_hw=(int(height), int(width)))

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
        image = as_image(image)
        check_image(image)
        flipped = image_format != self.model.image_format
        self._keep(self.encode(image[..., ::-1] if flipped else image))

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
        transformed_image = torch.as_tensor(transformed_image)
        side, shape = self.transform.target_length, tuple(transformed_image.shape)
        if len(shape) != 4 or shape[:2] != (1, 3) or max(shape[2:]) != side:
            raise UsageError(f"the image must be (1, 3, h, w) with a long side of {side}; {shape}")
        height, width = original_image_size
        (found,) = self.encode_resized([transformed_image[0]], [(int(height), int(width))])
        self._keep(found)

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
        given = {
            "points": point_coords,
            "labels": None if point_coords is None else point_labels,
            "boxes": None if box is None else as_array(box, "boxes").reshape(-1),
            "mask_inputs": mask_input,
        }
        prompt = read_prompts(
            **{
                name: None if value is None else as_array(value, name)[None]
                for name, value in given.items()
            }
        )
        self.check_mask_inputs(prompt.mask_inputs)
        logits, scores = self.decode_logits(current, **prompt._asdict(), multimask=multimask_output)
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
            mask_input: (N, 1, S/4, S/4) logits of an earlier answer, or (1, 1, S/4, S/4) for all.
            multimask_output: Three masks instead of one.
            return_logits: Logits instead of masks.

        Returns:
            (N, C, H, W) bool masks, or float32 logits; (N, C) scores; (N, C, S/4, S/4) logits.

        Raises:
            ImageNotSetError: No image is set.
            UsageError: Points without labels, a wrong shape, prompts of different numbers, or NaN.
            WeightsError: The network's answer is not finite.
        """
        current = self._set()
        prompts = {
            "points": _as_tensor(point_coords, "points"),
            "labels": None if point_coords is None else _as_tensor(point_labels, "labels"),
            "boxes": _as_tensor(boxes, "boxes"),
            "mask_inputs": _as_tensor(mask_input, "mask_inputs"),
        }
        found = prompts["boxes"]
        if found is not None and found.ndim == 3 and found.numel() == 4 * len(found):
            prompts["boxes"] = found.reshape(-1, 4)  # (N, 1, 4) and (N, 2, 2), as SamPredictor
        given = {name: value for name, value in prompts.items() if value is not None}
        check_shapes({name: tuple(value.shape) for name, value in given.items()})
        broken = next((name for name, value in given.items() if not is_finite(value)), None)
        if broken is not None:
            raise UsageError(f"{broken} hold NaN or infinity")
        self.check_mask_inputs(prompts["mask_inputs"])
        logits, scores = self.ask(current, *prompts.values(), multimask=multimask_output)
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
        """Unsets the image; its size stays known, as with `SamPredictor`."""
        self._change(features=None, is_set=False)

    def _keep(self, found: ImageEmbedding) -> None:
        self._change(
            features=found.features,
            size_hw=found.size_hw,
            inner_hw=found.inner_hw,
            is_set=True,
        )

    def _change(self, **attributes: Any) -> None:
        """Replaces attributes of the image; changes of several threads come one after the other."""
        with _CHANGING:
            self._current = replace(self._current, **attributes)

    def _known(self, name: str, size_hw: tuple[int, int] | None) -> tuple[int, int]:
        if size_hw is None:
            raise ImageNotSetError(f"no image is set, so there is no {name}; call set_image first")
        return size_hw

    def _set(self) -> ImageEmbedding:
        image = self._current
        if not image.is_set:
            raise ImageNotSetError("no image is set; call set_image before predicting")
        if image.features is None or image.size_hw is None or image.inner_hw is None:
            raise ImageNotSetError(
                "is_image_set was assigned, but an image is not whole without features, "
                "original_size and input_size; assign them too, or call set_image"
            )
        return ImageEmbedding(image.features, image.size_hw, image.inner_hw)


def _as_tensor(values: Tensor | Array | None, name: str) -> Tensor | None:
    """Returns a tensor as it is, and other numbers as a float32 tensor."""
    if values is None or isinstance(values, Tensor):
        return values
    return torch.tensor(as_array(values, name), dtype=torch.float32)
