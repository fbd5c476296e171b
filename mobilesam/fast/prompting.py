"""MobileSAM on whole images: `encode` an image once, `decode` any number of prompts on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch
from segment_anything.modeling import Sam
from torch import Tensor

from mobilesam.errors import DataError, UsageError, WeightsError
from mobilesam.everything.run_length import BoolArray
from mobilesam.fast.upsampling import Upsampler, pictures
from mobilesam.inputs import as_array, check_resized
from mobilesam.model.state_dicts import is_finite

Array = npt.NDArray[Any]
Float32Array = npt.NDArray[np.float32]
UInt8Array = npt.NDArray[np.uint8]
Multimask = bool | Literal["both"]

# Images that go through the encoder together; larger batches only cost memory.
ENCODE_BATCH = 4


class Network(Protocol):
    """Runs the weights, in coordinates of its input: `mobilesam.fast.inference.FastMobileSam`."""

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

    Safe to call from several threads: data shared by the prompts on the last image is cached, and
    is only read. It can be pickled and deep-copied. Prompts can be given as arrays, lists, tensors
    or data frames.

    Args:
        sam_model: What `SamPredictor` takes; of our architecture, unless a network is given.
        network: Network that runs it; None uses the fast path in float32 on the model's own device,
            with a copy of all weights. Later training steps do not change the copy: create another
            `PromptedSam` after them.

    Raises:
        UsageError: The model is not a `Sam`, or has another architecture and no network is given.
    """

    def __init__(self, sam_model: Sam, network: Network | None = None) -> None:
        from segment_anything.utils.transforms import ResizeLongestSide

        if network is None and not isinstance(sam_model, Sam):
            raise UsageError(f"a segment_anything Sam is needed, not a {type(sam_model).__name__}")
        if network is None:
            from mobilesam.fast.inference import FastMobileSam

            network = FastMobileSam(sam_model, device=sam_model.device)
        self.model = sam_model
        self.network = network
        self.transform = ResizeLongestSide(int(sam_model.image_encoder.img_size))
        # What the prompts of one image share is large, so that only the last image's is kept.
        self._shared: tuple[Tensor, int, Any] | None = None
        self._upsampler: tuple[object, Upsampler] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Copies start without the data cached for the last image, which is made when needed."""
        return {**self.__dict__, "_shared": None, "_upsampler": None}

    @property
    def mask_threshold(self) -> float:
        """Logits above it belong to the mask."""
        return float(self.model.mask_threshold)

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
        images = [as_image(image) for image in images]
        sizes = [check_image(image) for image in images]
        side = self.transform.target_length
        for size_hw in sizes:
            check_resized(size_hw, self.transform.get_preprocess_shape(*size_hw, side))
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
        """Answers N prompts on one image; N may be 0, which gives an empty answer.

        Args:
            embedding: Of `encode`.
            points: (N, K, 2) xy in pixels of the image.
            labels: (N, K) of the points: 1 foreground, 0 background, -1 none.
            boxes: (N, 4) xyxy in pixels of the image.
            mask_inputs: (N, 1, S/4, S/4) logits of an earlier answer, or (1, 1, S/4, S/4) for all
                N points or boxes.
            multimask: False for a single mask, True for three, "both" for all four, the single one
                first.

        Raises:
            UsageError: No prompt at all, NaN, or shapes that do not fit.
            WeightsError: The network's answer is not finite.
        """
        given = read_prompts(points, labels, boxes, mask_inputs)
        self.check_mask_inputs(given.mask_inputs)
        pointless = given.points is None or (len(given.points) > 0 and given.points.shape[1] == 0)
        if pointless and given.boxes is None and given.mask_inputs is None:
            raise UsageError("no prompt: give points with labels, boxes or mask_inputs")
        logits, scores = self.decode_logits(embedding, **given._asdict(), multimask=multimask)
        masks = self.to_picture(logits, embedding)
        return DecodedMasks(masks.cpu().numpy(), scores.cpu().numpy(), logits.cpu().numpy())

    def check_mask_inputs(self, mask_inputs: Array | Tensor | None) -> None:
        """Raises a UsageError for mask prompts (N, 1, h, w) that are not of the decoder's size."""
        if mask_inputs is None or len(mask_inputs) == 0:
            return
        wanted = (1, *self.model.prompt_encoder.mask_input_size)
        found = tuple(mask_inputs.shape[1:])
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
            WeightsError: The network's answer is not finite.
        """
        size, transform = embedding.size_hw, self.transform
        points = (
            None if points is None else transform.apply_coords(as_array(points, "points"), size)
        )
        boxes = None if boxes is None else transform.apply_boxes(as_array(boxes, "boxes"), size)
        return self.ask(
            embedding,
            None if points is None else self._tensor(points),
            None if labels is None else self._tensor(as_array(labels, "labels"), torch.int),
            None if boxes is None else self._tensor(boxes),
            None if mask_inputs is None else self._tensor(as_array(mask_inputs, "mask_inputs")),
            multimask=multimask,
        )

    def ask(
        self,
        embedding: ImageEmbedding,
        points: Tensor | None,
        labels: Tensor | None,
        boxes: Tensor | None,
        mask_inputs: Tensor | None,
        *,
        multimask: Multimask,
    ) -> tuple[Tensor, Tensor]:
        """Runs the network once, in coordinates of its input; it is not run if N is 0.

        Returns:
            Logits (N, C, S/4, S/4) and scores (N, C) on the device.

        Raises:
            WeightsError: The network's answer is not finite.
        """
        first = next((each for each in (points, boxes, mask_inputs) if each is not None), None)
        if first is not None and len(first) == 0:
            n_masks = int(self.model.mask_decoder.num_mask_tokens)
            count = n_masks if multimask == "both" else n_masks - 1 if multimask else 1
            low_hw = self.model.prompt_encoder.mask_input_size
            return first.new_zeros(0, count, *low_hw).float(), first.new_zeros(0, count).float()
        shared = self.shared(embedding)
        logits, scores = self.network.decode(
            shared, points, labels, boxes, mask_inputs, multimask=multimask
        )
        if not (is_finite(scores) and is_finite(logits)):
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
        # Counts in-place changes of the tensor; inference tensors have no such count.
        version = 0 if features.is_inference() else features._version
        if kept is None or kept[0] is not features or kept[1] != version:
            kept = self._shared = (features, version, self.network.prepare(features))
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


def as_prompted(model: PromptedSam | Sam) -> PromptedSam:
    """Returns a `PromptedSam` as it is, and a plain `Sam` on the fast path.

    Raises:
        UsageError: It is neither, or a `Sam` of another architecture than MobileSAM's.
    """
    return model if isinstance(model, PromptedSam) else PromptedSam(model)


def as_image(image: UInt8Array | Tensor) -> UInt8Array:
    """Converts a tensor to an array; values of other types are left for `check_image`."""
    return image.detach().cpu().numpy() if isinstance(image, Tensor) else image


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


class PromptArrays(NamedTuple):
    """N prompts; shapes as of `PromptedSam.decode`."""

    points: Array | None
    labels: Array | None
    boxes: Array | None
    mask_inputs: Array | None


# Number of dimensions, and size of the last one.
_SHAPES = {"points": (3, 2), "labels": (2, None), "boxes": (2, 4), "mask_inputs": (4, None)}
# Shapes that replace an empty list.
_EMPTY = {"points": (0, 0, 2), "labels": (0, 0), "boxes": (0, 4), "mask_inputs": (0, 1, 0, 0)}


def read_prompts(points: Any, labels: Any, boxes: Any, mask_inputs: Any) -> PromptArrays:
    """Converts prompts to arrays, and checks them.

    Args:
        points: Shapes as of `PromptedSam.decode`; arrays, lists, tensors or data frames.
        labels: Likewise.
        boxes: Likewise.
        mask_inputs: Likewise.

    Raises:
        UsageError: Points without labels or the reverse, a wrong shape, different numbers of
            prompts, or NaN.
    """
    named = {"points": points, "labels": labels, "boxes": boxes, "mask_inputs": mask_inputs}
    given = {name: as_array(each, name) for name, each in named.items() if each is not None}
    for name, value in given.items():
        if value.shape == (0,):
            given[name] = value.reshape(_EMPTY[name])
    check_shapes({name: value.shape for name, value in given.items()})
    for name, value in given.items():
        if not np.isfinite(value).all():
            row = int(np.argwhere(~np.isfinite(value))[0][0])
            raise UsageError(f"{name} of prompt {row} hold NaN or infinity")
    return PromptArrays(*(given.get(name) for name in named))


def check_shapes(shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Checks that the shapes of prompts fit.

    Args:
        shapes: Shapes of the prompts that are given, by the names of `PromptArrays`.

    Raises:
        UsageError: Points without labels or the reverse, a wrong shape, or different numbers of
            prompts.
    """
    if ("points" in shapes) != ("labels" in shapes):
        raise UsageError("points and labels go together; got only one of them")
    for name, shape in shapes.items():
        ndim, last = _SHAPES[name]
        if len(shape) != ndim or (last is not None and shape[-1] != last):
            ending = "" if last is None else f", the last of size {last}"
            hint = "; give one row for each prompt" if len(shape) == ndim - 1 else ""
            raise UsageError(f"{name} must have {ndim} dimensions{ending}; got {shape}{hint}")
    lengths = {name: shape[0] for name, shape in shapes.items()}
    if lengths.get("mask_inputs") == 1 and len(lengths) > 1:
        del lengths["mask_inputs"]  # one mask for all prompts
    if len(set(lengths.values())) > 1:
        raise UsageError(f"prompts differ in number: {lengths}; give one row each")
    if "points" in shapes and shapes["points"][:2] != shapes["labels"]:
        raise UsageError(f"points {shapes['points']} and labels {shapes['labels']} do not match")
