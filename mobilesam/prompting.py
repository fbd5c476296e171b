"""MobileSAM on whole images: `encode` an image once, `decode` any number of prompts on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch
from segment_anything.modeling import Sam
from torch import Tensor

from mobilesam.errors import DataError, UsageError, WeightsError
from mobilesam.mask_runs import BoolArray
from mobilesam.upsampling import Upsampler, pictures

Array = npt.NDArray[Any]
Float32Array = npt.NDArray[np.float32]
UInt8Array = npt.NDArray[np.uint8]
Multimask = bool | Literal["both"]

# Images that go through the encoder together; larger batches only cost memory.
ENCODE_BATCH = 4


class Network(Protocol):
    """What runs the weights: `mobilesam.inference.FastMobileSam`, in coordinates of its input."""

    def encode(self, pixels: Tensor) -> Tensor:
        """(B, 3, S, S) normalised pixels -> (B, C, S/16, S/16)."""

    def prepare(self, embedding: Tensor) -> Any:
        """(1, C, S/16, S/16) -> what `decode` takes, shared by all prompts on an image."""

    def decode(
        self,
        embedding: Any,
        points: Tensor | None = None,
        labels: Tensor | None = None,
        boxes: Tensor | None = None,
        mask_inputs: Tensor | None = None,
        *,
        multimask: Multimask = False,
    ) -> tuple[Tensor, Tensor]:
        """Prompts -> logits (N, C, S/4, S/4) and scores (N, C)."""


@dataclass(frozen=True, slots=True, eq=False)
class ImageEmbedding:
    """All that is kept of one image.

    Attributes:
        features: (1, 256, S/16, S/16) float32 on the device.
        size_hw: Height and width of the image, in pixels.
        inner_hw: Height and width of the image as resized for the network.
    """

    features: Tensor
    size_hw: tuple[int, int]
    inner_hw: tuple[int, int]


@dataclass(frozen=True, slots=True, eq=False)
class DecodedMasks:
    """The answers to N prompts: row i answers prompt i.

    Attributes:
        masks: (N, C, H, W) bool at the image's own size.
        scores: (N, C) float32, the model's own estimate of IoU.
        low_res_logits: (N, C, S/4, S/4) float32, to be given back as mask prompts.
    """

    masks: BoolArray
    scores: Float32Array
    low_res_logits: Float32Array


class PromptedSam:
    """Weights, and what brings images and prompts to them; holds no image of its own.

    For one thread at a time: what the last image's prompts share is kept, and so are buffers.

    Args:
        sam_model: What `SamPredictor` takes; of our architecture, unless a network is given.
        network: What runs it; None is the fast path in float32 on the model's own device.
    """

    def __init__(self, sam_model: Sam, network: Network | None = None) -> None:
        from segment_anything.utils.transforms import ResizeLongestSide

        if network is None:
            from mobilesam.inference import FastMobileSam

            network = FastMobileSam(sam_model, device=sam_model.device)
        self.model = sam_model
        self.network = network
        self.transform = ResizeLongestSide(int(sam_model.image_encoder.img_size))
        self.mask_threshold = float(sam_model.mask_threshold)
        # What the prompts of one image share is large, so that only the last image's is kept.
        self._shared: tuple[Tensor, int, Any] | None = None
        self._upsampler: tuple[object, Upsampler] | None = None

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        found: torch.device = self.model.pixel_mean.device
        return found

    def encode(self, image: UInt8Array) -> ImageEmbedding:
        """Runs the image encoder on an (H, W, 3) uint8 RGB image.

        Raises:
            DataError: Not such an image, or an empty one.
        """
        return self.encode_batch([image])[0]

    def encode_batch(self, images: Sequence[UInt8Array]) -> list[ImageEmbedding]:
        """Encodes images of any sizes, a few at a time; the answers are in their order.

        Raises:
            DataError: One of them is not (H, W, 3) uint8, or empty; nothing has been encoded then.
        """
        sizes = [check_image(image) for image in images]
        for size_hw in sizes:
            if min(self.transform.get_preprocess_shape(*size_hw, self.transform.target_length)) < 1:
                raise DataError(f"an image of {size_hw} pixels is too thin to resize; crop it")
        found: list[ImageEmbedding] = []
        for first in range(0, len(images), ENCODE_BATCH):
            rows = slice(first, first + ENCODE_BATCH)
            resized = [self._resized(image) for image in images[rows]]
            found += self.encode_resized(resized, sizes[rows])
        return found

    def decode(
        self,
        embedding: ImageEmbedding,
        *,
        points: Array | None = None,
        labels: Array | None = None,
        boxes: Array | None = None,
        mask_inputs: Array | None = None,
        multimask: Multimask = False,
    ) -> DecodedMasks:
        """Answers N prompts on one image.

        Args:
            embedding: Of `encode`.
            points: (N, K, 2) xy in pixels of the image.
            labels: (N, K) of the points: 1 foreground, 0 background, -1 none.
            boxes: (N, 4) xyxy in pixels of the image.
            mask_inputs: (N, 1, S/4, S/4) logits of an earlier answer.
            multimask: False for a single mask, True for three, "both" for all four, the single one
                first.

        Raises:
            UsageError: No prompt at all, NaN, or shapes that do not fit.
        """
        check_prompts(points, labels, boxes, mask_inputs)
        self.check_mask_inputs(mask_inputs)
        pointless = points is None or np.asarray(points).shape[1] == 0
        if pointless and boxes is None and mask_inputs is None:
            raise UsageError("no prompt: give points with labels, boxes or mask_inputs")
        logits, scores = self.decode_logits(
            embedding,
            points=points,
            labels=labels,
            boxes=boxes,
            mask_inputs=mask_inputs,
            multimask=multimask,
        )
        masks = self.to_picture(logits, embedding)
        return DecodedMasks(masks.cpu().numpy(), scores.cpu().numpy(), logits.cpu().numpy())

    def check_mask_inputs(self, mask_inputs: Array | None) -> None:
        """Raises a UsageError for mask prompts (N, 1, h, w) that are not of the decoder's size."""
        if mask_inputs is None:
            return
        wanted = (1, *self.model.prompt_encoder.mask_input_size)
        found = np.shape(mask_inputs)[1:]
        if found != wanted:
            raise UsageError(
                f"mask prompts must be {wanted} logits each, as an earlier answer gives them; "
                f"got {found}"
            )

    @torch.no_grad()
    def decode_logits(
        self,
        embedding: ImageEmbedding,
        *,
        points: Array | None = None,
        labels: Array | None = None,
        boxes: Array | None = None,
        mask_inputs: Array | None = None,
        multimask: Multimask = False,
    ) -> tuple[Tensor, Tensor]:
        """As `decode`, without checks and without upsampling.

        Returns:
            Logits (N, C, S/4, S/4) and scores (N, C) on the device.

        Raises:
            WeightsError: The network's scores are not numbers.
        """
        size = embedding.size_hw
        logits, scores = self.network.decode(
            self.shared(embedding),
            None if points is None else self._tensor(self.transform.apply_coords(points, size)),
            None if labels is None else self._tensor(labels, torch.int),
            None if boxes is None else self._tensor(self.transform.apply_boxes(boxes, size)),
            None if mask_inputs is None else self._tensor(mask_inputs),
            multimask=multimask,
        )
        if not bool(torch.isfinite(scores).all()):
            raise WeightsError(
                "the decoder answered with NaN or infinity: the weights are broken, or the "
                "precision is too low for them; check the checkpoint, and run in fp32"
            )
        return logits, scores

    def upsampler(self, embedding: ImageEmbedding, device: torch.device | str) -> Upsampler:
        """What brings logits of this image to its own size."""
        return self.upsampler_for(embedding.size_hw, embedding.inner_hw, device)

    def upsampler_for(
        self, size_hw: tuple[int, int], inner_hw: tuple[int, int], device: torch.device | str
    ) -> Upsampler:
        """The last one, as long as images are of one size: to make one takes milliseconds.

        Args:
            size_hw: Height and width of the image, in pixels.
            inner_hw: Height and width of the image as resized for the network.
            device: Where the logits are.
        """
        key = size_hw, inner_hw, str(device)
        kept = self._upsampler
        if kept is None or kept[0] != key:
            side, low_hw = self.transform.target_length, self.model.prompt_encoder.mask_input_size
            made = Upsampler(low_hw, (side, side), inner_hw, size_hw, device)
            kept = self._upsampler = key, made
        return kept[1]

    def shared(self, embedding: ImageEmbedding) -> Any:
        """What the network computes once for all prompts on an image."""
        features = embedding.features
        kept = self._shared
        # The version counts what was written into the tensor since.
        if kept is None or kept[0] is not features or kept[1] != features._version:
            prepared = self.network.prepare(features)
            kept = self._shared = (features, features._version, prepared)
        return kept[2]

    @torch.no_grad()
    def encode_resized(
        self, images: Sequence[Tensor], sizes_hw: Sequence[tuple[int, int]]
    ) -> list[ImageEmbedding]:
        """Encodes images that `transform` has resized.

        Args:
            images: (3, h, w) each, values up to 255.
            sizes_hw: Height and width of each before, in pixels.
        """
        pixels = torch.stack([self.model.preprocess(image.to(self.device)) for image in images])
        # A copy, since what comes out of an inference mode may not be written to.
        features = self.network.encode(pixels).clone()
        return [
            ImageEmbedding(
                features[row : row + 1], size, (int(image.shape[1]), int(image.shape[2]))
            )
            for row, (image, size) in enumerate(zip(images, sizes_hw, strict=True))
        ]

    def to_picture(
        self, logits: Tensor, embedding: ImageEmbedding, *, return_logits: bool = False
    ) -> Tensor:
        """Brings (N, C, h, w) logits to the image's size: bool masks, or float32 logits."""
        threshold = None if return_logits else self.mask_threshold
        return pictures(logits, self.upsampler(embedding, logits.device), threshold)

    def _resized(self, image: UInt8Array) -> Tensor:
        resized = np.ascontiguousarray(self.transform.apply_image(image))
        return torch.from_numpy(resized).permute(2, 0, 1)

    def _tensor(self, values: Array, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.tensor(np.asarray(values), dtype=dtype, device=self.device)


def check_image(image: UInt8Array) -> tuple[int, int]:
    """Height and width of an image, in pixels.

    Raises:
        DataError: Not an (H, W, 3) uint8 array with at least one pixel.
    """
    if not isinstance(image, np.ndarray):
        raise DataError(f"an image must be a numpy array, not a {type(image).__name__}")
    problem = f"an image must be (H, W, 3) uint8 RGB; got {image.dtype} {image.shape}"
    if image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 1):
        raise DataError(f"{problem}: repeat the grey channel three times")
    if image.ndim != 3 or image.shape[2] != 3:
        raise DataError(f"{problem}: give its three colours in the last dimension")
    if image.size == 0:
        raise DataError(f"{problem}: it has no pixel")
    if image.dtype != np.uint8:
        raise DataError(f"{problem}: give values from 0 to 255 as uint8")
    return int(image.shape[0]), int(image.shape[1])


def check_prompts(
    points: Array | None, labels: Array | None, boxes: Array | None, mask_inputs: Array | None
) -> None:
    """Refuses prompts that cannot be meant.

    Raises:
        UsageError: Points without labels or the reverse, a wrong shape, different numbers of
            prompts, or NaN.
    """
    if (points is None) != (labels is None):
        raise UsageError("points and labels go together; got only one of them")
    named = {"points": points, "labels": labels, "boxes": boxes, "mask_inputs": mask_inputs}
    given = {name: np.asarray(value) for name, value in named.items() if value is not None}
    shapes = {"points": (3, 2), "labels": (2, None), "boxes": (2, 4), "mask_inputs": (4, None)}
    for name, value in given.items():
        ndim, last = shapes[name]
        if value.ndim != ndim or (last is not None and value.shape[-1] != last):
            ending = "" if last is None else f", the last of size {last}"
            raise UsageError(f"{name} must have {ndim} dimensions{ending}; got {value.shape}")
        if not np.isfinite(value).all():
            row = int(np.argwhere(~np.isfinite(value))[0][0])
            raise UsageError(f"{name} of prompt {row} hold NaN or infinity")
    lengths = {name: len(value) for name, value in given.items()}
    if len(set(lengths.values())) > 1:
        raise UsageError(f"prompts differ in number: {lengths}; give one row each")
    if 0 in lengths.values():
        raise UsageError("zero prompts: give at least one")
    if points is not None and given["points"].shape[:2] != given["labels"].shape:
        raise UsageError(
            f"points {given['points'].shape} and labels {given['labels'].shape} do not match"
        )
