"""The values that pass between models and runners: frozen, and validated once, when made."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from mobilesam.errors import DataError, UsageError, WeightsError
from mobilesam.inputs import as_array

UInt8Array = npt.NDArray[np.uint8]
BoolArray = npt.NDArray[np.bool_]
Float32Array = npt.NDArray[np.float32]
Int64Array = npt.NDArray[np.int64]

DecodeKind = Literal["decoder", "select", "classical"]
WeightsKind = Literal["file", "random", "none"]
PromptKind = Literal["points", "boxes", "masks", "everything"]

NOT_FINITE = (
    "the model answered with NaN or infinity: its weights are broken, or the precision is too low "
    "for them; check the checkpoint, and run in fp32"
)
"""Message of the error for a result that holds NaN or infinity."""

# Shapes that replace an empty list of prompts.
_EMPTY = {"points": (0, 1, 2), "labels": (0, 1), "boxes": (0, 4), "mask_inputs": (0, 1, 0, 0)}


@dataclass(frozen=True, slots=True)
class WeightsInfo:
    """Which weights a model runs with.

    Attributes:
        kind: `file` (trained, loaded from a checkpoint), `random` (seeded, exact architecture, no
            accuracy) or `none` (the model has no weights).
        sha256: Hex digest of the checkpoint file; None unless `kind` is `file`.
        official: True only if `sha256` is the one its authors' file is published with.
        file_bytes: Size of the checkpoint file; None unless `kind` is `file`.
    """

    kind: WeightsKind
    sha256: str | None = None
    official: bool = False
    file_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What a model is, as printed in every table.

    Attributes:
        name: Registry name, such as `sam-vit-b`.
        family: `MobileSAM`, `SAM`, `FastSAM`, `classical` or `dummy`.
        input_size_px: Longest side of the network's input; 0 for models that take any size.
        licence: SPDX identifier of the implementation's licence.
        weights: The weights it runs with.
        decode_kind: What `decode` does: run a mask decoder, select among masks that `encode`
            already found, or run a classical algorithm. Their milliseconds are not comparable.
        supports: Prompts and modes that it answers.
    """

    name: str
    family: str
    input_size_px: int
    licence: str
    weights: WeightsInfo
    decode_kind: DecodeKind
    supports: frozenset[PromptKind]


@dataclass(frozen=True, slots=True, eq=False)
class Prompts:
    """N prompts for one image, in pixels of the original image; N may be 0.

    They can be given as arrays, lists, tensors or data frames, and are copied.

    Attributes:
        points: (N, K, 2) float32 xy; pixel centres have integer coordinates.
        labels: (N, K) int64, 1 foreground and 0 background; required with `points`.
        boxes: (N, 4) float32 xyxy with half-open edges, so that a box of one pixel has side 1.
        mask_inputs: (N, 1, h, w) float32 low-resolution logits of an earlier answer.

    Raises:
        UsageError: No prompt at all, a wrong shape, a coordinate that is not finite, a label
            other than 0 or 1, or a box whose corners are in the wrong order.
    """

    points: Float32Array | None = None
    labels: Int64Array | None = None
    boxes: Float32Array | None = None
    mask_inputs: Float32Array | None = None

    def __post_init__(self) -> None:
        if self.points is None and self.boxes is None:
            raise UsageError("a prompt needs points or a box; got neither")
        if (self.points is None) != (self.labels is None):
            raise UsageError("points and labels go together; got only one of them")
        for name, ndim, last in (("points", 3, 2), ("labels", 2, None), ("boxes", 2, 4)):
            _freeze(self, name, np.int64 if name == "labels" else np.float32, ndim, last)
        _freeze(self, "mask_inputs", np.float32, 4, None)
        _check_prompt_values(self)

    def __len__(self) -> int:
        first = self.points if self.points is not None else self.boxes
        assert first is not None  # noqa: S101 - guaranteed by __post_init__
        return len(first)

    def batches(self, size: int) -> Iterator[Prompts]:
        """Yields consecutive parts of at most `size` prompts; together they are this value."""
        for start in range(0, len(self), size):
            yield self[start : start + size]

    def __getitem__(self, rows: slice) -> Prompts:
        return Prompts(
            points=None if self.points is None else self.points[rows],
            labels=None if self.labels is None else self.labels[rows],
            boxes=None if self.boxes is None else self.boxes[rows],
            mask_inputs=None if self.mask_inputs is None else self.mask_inputs[rows],
        )


def _freeze(owner: object, name: str, dtype: type, ndim: int, last: int | None) -> None:
    """Replaces an array field by a read-only copy of the right type; checks its shape."""
    value = getattr(owner, name)
    if value is None:
        return
    array: npt.NDArray[Any] = np.array(as_array(value, name), dtype=dtype)
    if array.shape == (0,):
        array = array.reshape(_EMPTY[name])
    if array.ndim != ndim or (last is not None and array.shape[-1] != last):
        wanted = f"{ndim} dimensions" + (f", the last of size {last}" if last else "")
        raise UsageError(f"{name} must have {wanted}; got shape {array.shape}")
    array.setflags(write=False)
    object.__setattr__(owner, name, array)


def _check_prompt_values(prompts: Prompts) -> None:
    named = {
        "points": prompts.points,
        "labels": prompts.labels,
        "boxes": prompts.boxes,
        "mask_inputs": prompts.mask_inputs,
    }
    present = {name: value for name, value in named.items() if value is not None}
    lengths = {name: len(value) for name, value in present.items()}
    if len(set(lengths.values())) != 1:
        raise UsageError(f"prompt arrays differ in length: {lengths}")
    for name, value in present.items():
        if not np.isfinite(value).all():
            row = int(np.argwhere(~np.isfinite(value))[0][0])
            raise UsageError(f"{name} of prompt {row} hold NaN or infinity")
    if prompts.points is not None and prompts.labels is not None:
        pointless = len(prompts) > 0 and prompts.points.shape[1] == 0
        if prompts.points.shape[:2] != prompts.labels.shape or pointless:
            raise UsageError(
                f"points {prompts.points.shape} and labels {prompts.labels.shape} do not match"
            )
        if not np.isin(prompts.labels, (0, 1)).all():
            raise UsageError("labels must be 1 (foreground) or 0 (background)")
    if prompts.boxes is not None:
        bad = (prompts.boxes[:, 2:] <= prompts.boxes[:, :2]).any(axis=1)
        if bad.any():
            row = int(np.argmax(bad))
            raise UsageError(
                f"box {row} is empty or has its corners swapped: {prompts.boxes[row].tolist()} "
                "(wanted x0,y0,x1,y1 with x1 > x0 and y1 > y0)"
            )


@dataclass(frozen=True, slots=True)
class Prepared:
    """A preprocessed image on the host.

    Attributes:
        payload: What the model's own `encode` takes.
        size_hw: Height and width of the original image, in pixels.
    """

    payload: Any
    size_hw: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Embedding:
    """All that a model keeps of one image.

    Attributes:
        payload: What the model's own `decode` takes, on the model's device.
        size_hw: Height and width of the original image, in pixels.
        model: Registry name of the model that made it.
    """

    payload: Any
    size_hw: tuple[int, int]
    model: str


@dataclass(frozen=True, slots=True, eq=False)
class Masks:
    """The answer to N prompts: row i answers prompt i, always.

    Attributes:
        masks: (N, C, H, W) bool at the size of the original image. A prompt for which the model
            finds nothing has an empty mask.
        scores: (N, C) float32, the model's own estimate of quality; higher is better.
        low_res_logits: (N, C, h, w) float32 where the model has them.

    Raises:
        ValueError: Masks or scores of a wrong shape or type.
        WeightsError: A score or a logit is NaN or infinite.
    """

    masks: BoolArray
    scores: Float32Array
    low_res_logits: Float32Array | None = None

    def __post_init__(self) -> None:
        if self.masks.ndim != 4 or self.masks.dtype != np.bool_:
            raise ValueError(
                f"masks must be bool (N,C,H,W), not {self.masks.dtype} {self.masks.shape}"
            )
        if self.scores.shape != self.masks.shape[:2]:
            raise ValueError(f"scores {self.scores.shape} do not fit masks {self.masks.shape}")
        if not (_is_finite(self.scores) and _is_finite(self.low_res_logits)):
            raise WeightsError(NOT_FINITE)

    def __len__(self) -> int:
        return len(self.masks)


def _is_finite(values: object) -> bool:
    """Whether all floats are finite; needs no copy, since minimum and maximum propagate NaN.

    Returns True for anything but an array of floats: its type is checked with the adapter's result.
    """
    if not isinstance(values, np.ndarray) or values.dtype.kind != "f" or values.size == 0:
        return True
    return math.isfinite(values.min()) and math.isfinite(values.max())


@dataclass(frozen=True, slots=True)
class LogitMasks:
    """What a mask decoder returns, before it is brought to the image's size.

    Attributes:
        logits: (N, C, h, w) float tensor on the model's device.
        scores: (N, C) float tensor on the model's device.
        size_hw: Height and width of the original image, in pixels.
    """

    logits: Any
    scores: Any
    size_hw: tuple[int, int]


@dataclass(frozen=True, slots=True, eq=False)
class MaskRecord:
    """One object of segment everything.

    Attributes:
        mask: (H, W) bool.
        score: The model's own estimate of quality.
        box: (4,) float32 xyxy, half-open edges.

    Raises:
        WeightsError: The score is NaN or infinite.
    """

    mask: BoolArray
    score: float
    box: Float32Array

    def __post_init__(self) -> None:
        if isinstance(self.score, float | np.floating) and not math.isfinite(self.score):
            raise WeightsError(NOT_FINITE)


def check_image(image: UInt8Array) -> tuple[int, int]:
    """Returns (H, W) of an RGB image.

    Raises:
        DataError: Not an (H, W, 3) uint8 array with at least one pixel.
    """
    if not isinstance(image, np.ndarray):
        raise DataError(f"an image must be a numpy array, not a {type(image).__name__}")
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
        raise DataError(f"an image must be (H, W, 3) uint8 RGB; got {image.dtype} {image.shape}")
    return int(image.shape[0]), int(image.shape[1])
