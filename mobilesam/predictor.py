"""A drop-in for segment-anything's `SamPredictor`: the same names, arguments and results."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import torch
from segment_anything.modeling import Sam
from torch import Tensor

from mobilesam.errors import NOT_FINITE, UsageError, WeightsError
from mobilesam.fast.decoder import FoundMasks, Multimask
from mobilesam.fast.preview import Levels, RoughMasks, rough_masks
from mobilesam.fast.upsampling import Upsampler, upsample
from mobilesam.inputs import (
    Array,
    BoolArray,
    Device,
    Float32Array,
    Size,
    UInt8Array,
    as_array,
    check_image,
    check_resized,
    resize_image,
    resize_points,
    resized_hw,
    usable_device,
)
from mobilesam.model.state_dicts import is_finite
from mobilesam.prompts import NetworkPrompts, Prompts

if TYPE_CHECKING:
    from mobilesam.fast.inference import Precision

# Images that go through the encoder together; larger batches only cost memory.
ENCODE_BATCH = 4
# Prompts that are decoded together where a network has no previews.
_EXACT_PREVIEWS = 64
# Of points, labels, boxes and mask inputs.
_DTYPES = (torch.float32, torch.int, torch.float32, torch.float32)
# Held while the state of a predictor's image is read and replaced. One for all predictors, since
# it is held for microseconds, and an object with a lock could be neither pickled nor copied.
_CHANGING = threading.Lock()


class Network(Protocol):
    """Runs the weights, in coordinates of its input: `mobilesam.fast.inference.FastMobileSam`."""

    def encode(self, pixels: Tensor) -> Tensor:
        """(B, 3, S, S) normalised pixels -> (B, C, S/16, S/16)."""

    def prepare(self, embedding: Tensor) -> Any:
        """(1, C, S/16, S/16) -> the input of `decode`, shared by all prompts on an image."""

    def decode(
        self, embedding: Any, prompts: NetworkPrompts, *, multimask: Multimask = False
    ) -> tuple[Tensor, Tensor]:
        """Returns logits (N, C, S/4, S/4) and scores (N, C)."""


@dataclass(frozen=True, slots=True, eq=False)
class ImageEmbedding:
    """Embedding of one image.

    Attributes:
        features: (1, 256, S/16, S/16) float32 on the device.
        size_hw: Height and width of the image, in pixels.
        inner_hw: Height and width of the image as resized for the network.
    """

    features: Tensor
    size_hw: Size
    inner_hw: Size


@dataclass(frozen=True, slots=True, eq=False)
class DecodedMasks:
    """Predictions for N prompts, in their order.

    Attributes:
        masks: (N, C, H, W) bool at the image's own size.
        scores: (N, C) float32, the model's own estimate of IoU.
        low_res_logits: (N, C, S/4, S/4) float32, which can be given as mask prompts.
    """

    masks: BoolArray
    scores: Float32Array
    low_res_logits: Float32Array


class ImageNotSetError(UsageError, RuntimeError):
    """A prediction was requested before `set_image`; `SamPredictor` raises a RuntimeError."""


@dataclass(frozen=True, slots=True, eq=False)
class _Image:
    """State of the image that is set; replaced as a whole, so that threads see one image."""

    features: Tensor | None = None
    original_size: Size | None = None
    input_size: Size | None = None
    is_image_set: bool = False


def _image_attribute(name: str, doc: str, convert: Callable[[Any], Any]) -> Any:
    """A property of `MobileSam` that reads and replaces one field of its image."""

    def read(self: MobileSam) -> Any:
        value = getattr(self._current, name)
        if value is None and convert is _as_size:
            raise ImageNotSetError(f"no image is set, so there is no {name}; call set_image first")
        return value

    def assign(self: MobileSam, value: Any) -> None:
        self._change(**{name: convert(value)})

    return property(read, assign, doc=doc)


def _check_finite(*outputs: Tensor) -> None:
    if not all(map(is_finite, outputs)):
        raise WeightsError(NOT_FINITE)


def _as_size(value: Sequence[int]) -> Size:
    height, width = value
    return int(height), int(width)


class MobileSam:
    """A model with its weights, and at most one image that has been set.

    `MobileSam(sam)` replaces `SamPredictor(sam)`. In addition, `encode` and `decode` keep no image
    and take batches; prompts can be arrays, lists, tensors or data frames. As with `SamPredictor`,
    `features`, `original_size`, `input_size` and `is_image_set` may be assigned, to set an image
    from a stored embedding.

    Several threads may use one predictor. It holds one image: a thread that sets another image sets
    it for all threads. `set_image`, `set_torch_image` and `reset_image` take effect as a whole, and
    a prediction belongs to the image that is set when it begins. The four attributes are assigned
    one at a time, so only one thread may assign them: after `reset_image`, with `is_image_set`
    last, other threads get an `ImageNotSetError` until the image is complete. Threads with
    different images should use `encode` and `decode`, or one copy each: `copy.copy` of a predictor
    shares the weights and has an image of its own.

    On a machine with other work, set the environment variable `OMP_WAIT_POLICY=PASSIVE` before
    torch is imported, and leave the number of threads as it is: a thread that waits for a core
    leaves its work to the others. By default torch's threads spin while they wait for each other,
    which takes time from the other work. A library cannot set the variable once torch is imported.

    Args:
        sam_model: The model, of MobileSAM's architecture unless a network is given.
        network: Runs the model; None uses the fast path in float32 on the model's own device, with
            a copy of all weights: create another `MobileSam` after training steps.

    Raises:
        UsageError: The model is not a `Sam`, or has another architecture and no network is given.
    """

    is_image_set: bool = _image_attribute("is_image_set", "Whether `predict` has an image.", bool)
    features: Tensor | None = _image_attribute(
        "features", "The embedding of the image that is set.", lambda value: value
    )
    original_size: Size = _image_attribute(
        "original_size", "Height and width of the last image that was set, in pixels.", _as_size
    )
    input_size: Size = _image_attribute(
        "input_size", "Height and width of that image as resized for the network.", _as_size
    )

    def __init__(self, sam_model: Sam, network: Network | None = None) -> None:
        if network is None:
            if not isinstance(sam_model, Sam):
                raise UsageError(
                    f"a segment_anything Sam is needed, not a {type(sam_model).__name__}"
                )
            from mobilesam.fast.inference import FastMobileSam

            network = FastMobileSam(sam_model, device=sam_model.device)
        self.model = sam_model
        self.network = network
        self._side = int(sam_model.image_encoder.img_size)
        # Both are kept for the last image only, since they are large.
        self._context: tuple[Tensor, int, Any] | None = None
        self._upsampler: tuple[object, Upsampler] | None = None
        self._current = _Image()

    def __getstate__(self) -> dict[str, Any]:
        """Copies start without the data cached for the last image, which is made when needed."""
        return {**self.__dict__, "_context": None, "_upsampler": None}

    @classmethod
    def from_checkpoint(
        cls,
        path: Path | str | None = None,
        *,
        device: Device = "cpu",
        precision: Precision | Literal["int8"] = "fp32",
        skip_padding: bool = False,
        calibration: Path | str | None = None,
    ) -> MobileSam:
        """Loads a checkpoint in the layout of the authors' `mobile_sam.pt`.

        Args:
            path: The file; None gives random weights, for timing only.
            device: Device to run on.
            precision: What to compute in; see `mobilesam.fast.inference.FastMobileSam`. "int8" has
                8-bit products in the encoder, on processors with AVX-512 VNNI or AMX; it needs
                OpenVINO and onnx.
            skip_padding: Do not compute the padding of images that are not square: less time,
                and slightly other masks. Not for "int8".
            calibration: For "int8", a folder with some 30 images such as will be encoded, on which
                ranges of activations are measured (a second or two an image). None takes those
                in this package, which are of the shipped weights.

        Raises:
            WeightsError: The file is missing, damaged or of another architecture.
            UsageError: The precision is unknown, the device is not present, or calibration is
                needed or not possible.
            UnsupportedError: This processor does not compute in the precision.
        """
        from mobilesam.fast.inference import FastMobileSam
        from mobilesam.model.mobile_sam import load_mobile_sam

        found_device = usable_device(device)
        if precision == "int8":
            from mobilesam.export.int8_network import Int8MobileSam, require_cpu

            require_cpu(found_device)
            if skip_padding:
                raise UsageError('precision "int8" encodes the padding; omit skip_padding')
            sam = load_mobile_sam(path)
            return cls(sam, Int8MobileSam(sam, None if calibration is None else Path(calibration)))
        if calibration is not None:
            raise UsageError(f'calibration is for precision "int8", not {precision!r}')
        sam = load_mobile_sam(path, device=found_device)
        return cls(sam, FastMobileSam(sam, precision, device, skip_padding=skip_padding))

    @classmethod
    def from_pretrained(
        cls,
        *,
        offline: bool = False,
        device: Device = "cpu",
        precision: Precision | Literal["int8"] = "fp32",
        skip_padding: bool = False,
        calibration: Path | str | None = None,
    ) -> MobileSam:
        """Loads trained weights: the published file if available, else those in this package.

        Looks in $MOBILESAM_WEIGHTS and in the cache, then downloads `mobile_sam.pt` (41 MB).
        Without a network it uses the weights inside this package. Prints on standard error which
        file is used.

        Args:
            offline: Do not download.
            device: Device to run on.
            precision: What to compute in, as in `from_checkpoint`.
            skip_padding: As in `from_checkpoint`.
            calibration: Folder with images for "int8", as in `from_checkpoint`.

        Raises:
            WeightsError: $MOBILESAM_WEIGHTS is no folder, or a file or a download is damaged.
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
        return cls.from_checkpoint(
            found.path,
            device=device,
            precision=precision,
            skip_padding=skip_padding,
            calibration=calibration,
        )

    @property
    def transform(self) -> Any:
        """segment-anything's `ResizeLongestSide` for the network's input; imports torchvision."""
        from segment_anything.utils.transforms import ResizeLongestSide

        return ResizeLongestSide(self._side)

    @property
    def mask_threshold(self) -> float:
        """Logits above it belong to the mask."""
        return float(self.model.mask_threshold)

    @property
    def device(self) -> torch.device:
        """Device of the model."""
        found: torch.device = self.model.pixel_mean.device
        return found

    def encode(self, image: UInt8Array) -> ImageEmbedding:
        """Runs the image encoder on (H, W, 3) uint8 RGB; a DataError if it is another array."""
        return self.encode_batch([image])[0]

    def encode_batch(self, images: Sequence[UInt8Array]) -> list[ImageEmbedding]:
        """Encodes images of any sizes, a few at a time; the results are in their order.

        Raises:
            DataError: One of them is not (H, W, 3) uint8, or empty; no image has been encoded then.
        """
        images = [as_image(image) for image in images]
        sizes = [_as_size(image.shape[:2]) for image in images]
        for size_hw in sizes:
            check_resized(size_hw, resized_hw(size_hw, self._side))
        found: list[ImageEmbedding] = []
        for first in range(0, len(images), ENCODE_BATCH):
            rows = slice(first, first + ENCODE_BATCH)
            resized = [torch.from_numpy(resize_image(image, self._side)) for image in images[rows]]
            channels_first = [image.permute(2, 0, 1) for image in resized]
            found += self._encode_resized(channels_first, sizes[rows])
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
        """Predicts masks for N prompts on one image; N may be 0, which gives an empty result.

        Args:
            embedding: Result of `encode`.
            points: (N, K, 2) xy in pixels of the image.
            labels: (N, K) of the points: 1 foreground, 0 background, -1 none.
            boxes: (N, 4) xyxy in pixels of the image.
            mask_inputs: (N, 1, S/4, S/4) logits of an earlier prediction, or one for all N.
            multimask: False for a single mask, True for three, "both" for all four, the single one
                first.

        Raises:
            UsageError: No prompt at all, NaN, or shapes that do not fit.
            WeightsError: The network's output is not finite.
        """
        prompts = Prompts(points, labels, boxes, mask_inputs, sam_rules=True)
        no_points = prompts.points is None or (len(prompts) > 0 and prompts.points.shape[1] == 0)
        if no_points and prompts.boxes is None and prompts.mask_inputs is None:
            raise UsageError("no prompt: give points with labels, boxes or mask_inputs")
        logits, scores = self.decode_logits(embedding, prompts, multimask=multimask)
        masks = self._upsample(logits, embedding)
        return DecodedMasks(masks.cpu().numpy(), scores.cpu().numpy(), logits.cpu().numpy())

    @torch.no_grad()
    def decode_logits(
        self, embedding: ImageEmbedding, prompts: Prompts, *, multimask: Multimask = False
    ) -> tuple[Tensor, Tensor]:
        """As `decode`, without upsampling: logits (N, C, S/4, S/4) and scores (N, C)."""
        return self._decode(embedding, multimask, *self._resized(embedding, prompts))

    @torch.no_grad()
    def find_masks(
        self, embedding: ImageEmbedding, prompts: Prompts, least_score: float
    ) -> FoundMasks:
        """The masks of N > 0 ambiguous prompts whose predicted IoU is higher, without upsampling.

        A network with a method `find` does not compute the others.
        """
        find = getattr(self.network, "find", None)
        if find is None:
            logits, scores = self.decode_logits(embedding, prompts, multimask=True)
            keep = scores > least_score
            return FoundMasks(keep.nonzero()[:, 0], logits[keep], scores[keep])
        given = self._network_prompts(*self._resized(embedding, prompts))
        found: FoundMasks = find(self._prepared(embedding), given, least_score)
        _check_finite(found.logits, found.scores)
        return found

    @torch.no_grad()
    def preview_masks(
        self, embedding: ImageEmbedding, prompts: Prompts, levels: Levels
    ) -> RoughMasks:
        """Rough masks of N > 0 prompts of one foreground point each.

        A network without a method `preview` gives exact masks.
        """
        preview = getattr(self.network, "preview", None)
        if preview is None:
            parts = []
            for batch in prompts.batches(_EXACT_PREVIEWS):
                logits, scores = self.decode_logits(embedding, batch, multimask=True)
                parts.append(rough_masks(logits, scores, embedding.inner_hw, self._side, levels))
            return RoughMasks(*map(torch.cat, zip(*parts, strict=True)))
        points = self._network_prompts(*self._resized(embedding, prompts)).points
        assert points is not None  # noqa: S101 - as the prompts have to be
        found: RoughMasks = preview(embedding.features, points[:, 0], embedding.inner_hw, levels)
        _check_finite(found.scores, found.stability)
        return found

    def _resized(self, embedding: ImageEmbedding, prompts: Prompts) -> tuple[Array | None, ...]:
        """Points, labels, boxes and mask inputs in coordinates of the network's input."""
        points: Array | None = prompts.points
        boxes: Array | None = prompts.boxes
        if points is not None:
            points = resize_points(points, embedding.size_hw, self._side)
        if boxes is not None:
            corners = boxes.reshape(-1, 2, 2)
            boxes = resize_points(corners, embedding.size_hw, self._side).reshape(-1, 4)
        return points, prompts.labels, boxes, prompts.mask_inputs

    def upsampler(self, size_hw: Size, inner_hw: Size, device: Device) -> Upsampler:
        """Upsampler of logits to the size of an image, both in pixels; the last one is kept."""
        key = size_hw, inner_hw, str(device)
        kept = self._upsampler
        if kept is None or kept[0] != key:
            side, low_hw = self._side, self.model.prompt_encoder.mask_input_size
            made = Upsampler(low_hw, (side, side), inner_hw, size_hw, device)
            kept = self._upsampler = key, made
        return kept[1]

    def set_image(self, image: UInt8Array, image_format: str = "RGB") -> None:
        """Encodes an (H, W, 3) uint8 image for `predict`.

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
        flipped = image_format != self.model.image_format
        self._set(self.encode(image[..., ::-1] if flipped else image))

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
        side, shape = self._side, tuple(transformed_image.shape)
        if len(shape) != 4 or shape[:2] != (1, 3) or max(shape[2:]) != side:
            raise UsageError(f"the image must be (1, 3, h, w) with a long side of {side}; {shape}")
        self._set(*self._encode_resized([transformed_image[0]], [_as_size(original_image_size)]))

    def predict(
        self,
        point_coords: Array | None = None,
        point_labels: Array | None = None,
        box: Array | None = None,
        mask_input: Array | None = None,
        multimask_output: bool = True,
        return_logits: bool = False,
    ) -> tuple[Array, Float32Array, Float32Array]:
        """Predicts masks for one prompt on the image that is set.

        Args:
            point_coords: (K, 2) xy in pixels of the image.
            point_labels: (K,) 1 foreground, 0 background.
            box: (4,) xyxy in pixels of the image.
            mask_input: (1, S/4, S/4) logits of an earlier prediction.
            multimask_output: Three masks instead of one.
            return_logits: Logits instead of masks.

        Returns:
            (C, H, W) bool masks, or float32 logits; (C,) scores; (C, S/4, S/4) logits.

        Raises:
            ImageNotSetError: No image is set.
            UsageError: Points without labels, NaN, or shapes that do not fit.
            WeightsError: The network's output is not finite.
        """
        image = self._image()
        given = {
            "points": point_coords,
            "labels": None if point_coords is None else point_labels,
            "boxes": None if box is None else as_array(box, "boxes").reshape(-1),
            "mask_inputs": mask_input,
        }
        points, labels, boxes, mask_inputs = (
            None if value is None else as_array(value, name)[None] for name, value in given.items()
        )
        prompts = Prompts(points, labels, boxes, mask_inputs, sam_rules=True)
        logits, scores = self.decode_logits(image, prompts, multimask=multimask_output)
        masks = self._upsample(logits, image, return_logits=return_logits)
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
        """Predicts masks for N prompts on the image that is set, in pixels of the network's input.

        Args:
            point_coords: (N, K, 2) xy, as `transform.apply_coords_torch` gives them.
            point_labels: (N, K).
            boxes: (N, 4) xyxy, as `transform.apply_boxes_torch` gives them.
            mask_input: (N, 1, S/4, S/4) logits of an earlier prediction, or one for all N.
            multimask_output: Three masks instead of one.
            return_logits: Logits instead of masks.

        Returns:
            (N, C, H, W) bool masks, or float32 logits; (N, C) scores; (N, C, S/4, S/4) logits.

        Raises what `predict` does, also for prompts of different numbers.
        """
        image = self._image()
        points: Any = point_coords
        labels: Any = None if points is None else point_labels
        corners: Any = None if boxes is None else as_array(boxes, "boxes")
        masks_in: Any = mask_input
        if corners is not None and corners.ndim == 3 and corners.size == 4 * len(corners):
            corners = corners.reshape(-1, 4)  # (N, 1, 4) and (N, 2, 2), as SamPredictor
        found = Prompts(points, labels, corners, masks_in, sam_rules=True)
        given = found.points, found.labels, found.boxes, found.mask_inputs
        logits, scores = self._decode(image, multimask_output, *given)
        masks = self._upsample(logits, image, return_logits=return_logits)
        # Copies that may be written to, which inference tensors may not.
        return masks, scores.clone(), logits.clone()

    def get_image_embedding(self) -> Tensor:
        """(1, 256, S/16, S/16) float32 of the image; raises an ImageNotSetError if none is set."""
        return self._image().features

    def reset_image(self) -> None:
        """Unsets the image; its size stays known, as with `SamPredictor`."""
        self._change(features=None, is_image_set=False)

    @torch.no_grad()
    def _encode_resized(
        self, images: Sequence[Tensor], sizes_hw: Sequence[Size]
    ) -> list[ImageEmbedding]:
        """Encodes (3, h, w) images, values up to 255, that `transform` has resized."""
        pixels = torch.stack([self.model.preprocess(image.to(self.device)) for image in images])
        # A copy, since inference tensors may not be written to.
        features = self.network.encode(pixels).clone()
        return [
            ImageEmbedding(features[row : row + 1], size_hw, _as_size(image.shape[1:]))
            for row, (image, size_hw) in enumerate(zip(images, sizes_hw, strict=True))
        ]

    def _decode(
        self, embedding: ImageEmbedding, multimask: Multimask, *given: Any
    ) -> tuple[Tensor, Tensor]:
        """Runs the decoder unless there are no prompts (arrays), and checks its output."""
        prompts = self._network_prompts(*given)
        masks = prompts.mask_inputs
        low_hw = self.model.prompt_encoder.mask_input_size
        if masks is not None and len(masks) > 0 and masks.shape[1:] != (1, *low_hw):
            raise UsageError(
                f"mask prompts must be {(1, *low_hw)} logits each, as an earlier prediction gives "
                f"them; got {tuple(masks.shape[1:])}"
            )
        if any(each is not None and len(each) == 0 for each in prompts):
            n_masks = int(self.model.mask_decoder.num_mask_tokens)
            count = n_masks if multimask == "both" else n_masks - 1 if multimask else 1
            logits = torch.zeros(0, count, *low_hw, device=self.device)
            return logits, logits.new_zeros(0, count)
        logits, scores = self.network.decode(
            self._prepared(embedding), prompts, multimask=multimask
        )
        _check_finite(logits, scores)
        return logits, scores

    def _network_prompts(self, *given: Any) -> NetworkPrompts:
        """Arrays as tensors on the device."""
        return NetworkPrompts(
            *(
                None if values is None else torch.tensor(values, dtype=dtype, device=self.device)
                for values, dtype in zip(given, _DTYPES, strict=True)
            )
        )

    def _prepared(self, embedding: ImageEmbedding) -> Any:
        """What the network computes once for all prompts on an image; the last one is kept."""
        features, kept = embedding.features, self._context
        # Counts in-place changes of the tensor; inference tensors have no such count.
        version = 0 if features.is_inference() else features._version
        if kept is None or kept[0] is not features or kept[1] != version:
            kept = self._context = (features, version, self.network.prepare(features))
        return kept[2]

    def _upsample(
        self, logits: Tensor, embedding: ImageEmbedding, *, return_logits: bool = False
    ) -> Tensor:
        upsampler = self.upsampler(embedding.size_hw, embedding.inner_hw, logits.device)
        return upsample(logits, upsampler, None if return_logits else self.mask_threshold)

    def _set(self, found: ImageEmbedding) -> None:
        size_hw, inner_hw = found.size_hw, found.inner_hw
        self._prepared(found)  # so that the first prompt need not wait for it
        with _CHANGING:
            self._current = _Image(found.features, size_hw, inner_hw, is_image_set=True)

    def _change(self, **attributes: Any) -> None:
        """Replaces attributes of the image; changes of several threads come one after the other."""
        with _CHANGING:
            self._current = replace(self._current, **attributes)

    def _image(self) -> ImageEmbedding:
        image = self._current
        if not image.is_image_set:
            raise ImageNotSetError("no image is set; call set_image before predicting")
        if image.features is None or image.original_size is None or image.input_size is None:
            raise ImageNotSetError(
                "is_image_set was assigned, but an image is incomplete without features, "
                "original_size and input_size; assign them too, or call set_image"
            )
        return ImageEmbedding(image.features, image.original_size, image.input_size)


def as_predictor(model: MobileSam | Sam) -> MobileSam:
    """A `MobileSam` as it is, or of a plain `Sam`; raises a UsageError for another architecture."""
    return model if isinstance(model, MobileSam) else MobileSam(model)


def as_image(image: UInt8Array | Tensor) -> UInt8Array:
    """An array or tensor as an array; raises a DataError unless it is (H, W, 3) uint8 RGB."""
    found = image.detach().cpu().numpy() if isinstance(image, Tensor) else image
    check_image(found)
    return found
