"""The interface of all models: frozen values in, frozen values out."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np

from mobilesam.errors import NOT_FINITE, UnsupportedError, UsageError, WeightsError
from mobilesam.inputs import BoolArray, Float32Array, Int64Array, UInt8Array, check_image
from mobilesam.prompts import Prompts
from mobilesam.weights.checkpoints import LocalCheckpoint as Checkpoint

if TYPE_CHECKING:
    from torch import nn

__all__ = [
    "BatchEncoder", "BoolArray", "Checkpoint", "DecodeKind", "Embedding", "Float32Array",
    "Int64Array", "LogitMasks", "MaskFrame", "MaskRecord", "Masks", "ModelInfo", "ModelOptions",
    "Prepared", "PromptKind", "Prompts", "Segmenter", "SplitDecoder", "SplitEncoder",
    "StorableEmbedding", "UInt8Array", "WeightsInfo", "WeightsKind", "check_image",
]  # fmt: skip

DecodeKind = Literal["decoder", "select", "classical"]
WeightsKind = Literal["file", "random", "none"]
PromptKind = Literal["points", "boxes", "masks", "everything"]


@dataclass(frozen=True, slots=True)
class ModelOptions:
    """Arguments of a model's factory."""

    name: str  # registry name, for `ModelInfo`
    device: str = "cpu"  # a torch device; `meta` gives shapes only, for counting
    precision: str = "fp32"  # of the networks: `fp32`, `fp16` or `bf16`
    checkpoint: Checkpoint | None = None  # trained weights; None for seeded random ones, if any
    seed: int = 0  # of the random weights
    input_size_px: int | None = None  # side of the network's input; None for the model's own


@dataclass(frozen=True, slots=True)
class WeightsInfo:
    """The weights of a model: a checkpoint `file`, `random` (seeded, no accuracy) or `none`."""

    kind: WeightsKind
    sha256: str | None = None  # hex digest of the checkpoint file
    official: bool = False  # whether `sha256` is the one its authors published
    file_bytes: int | None = None

    @classmethod
    def of(cls, checkpoint: Checkpoint | None) -> WeightsInfo:
        """Weights of a model with a network: from a checkpoint, or random if there is none."""
        if checkpoint is None:
            return cls("random")
        return cls("file", checkpoint.sha256, checkpoint.official, checkpoint.n_bytes)


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """Description of a model, as printed in tables.

    Attributes:
        name: Registry name, such as `sam-vit-b`.
        family: Such as `MobileSAM`, `SAM` or `classical`. Models for tests have the family `dummy`
            or `oracle`: advice and Pareto fronts leave them out.
        input_size_px: Longest side of the network's input; 0 for models that take any size.
        licence: SPDX identifier of the implementation's licence.
        weights: The weights of the model.
        decode_kind: Work of `decode`: run a mask decoder, select among masks that `encode` already
            found, or run a classical algorithm. Their milliseconds are not comparable.
        supports: Prompts and modes that the model supports.
        note: What a reader of its results has to know.
    """

    name: str
    family: str
    input_size_px: int
    licence: str
    weights: WeightsInfo
    decode_kind: DecodeKind
    supports: frozenset[PromptKind]
    note: str = ""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A preprocessed image on the host."""

    payload: Any  # input of the model's own `encode`
    size_hw: tuple[int, int]  # of the original image, in pixels


@dataclass(frozen=True, slots=True)
class Embedding:
    """Embedding of one image."""

    payload: Any  # input of the model's own `decode`, on the model's device
    size_hw: tuple[int, int]  # of the original image, in pixels
    model: str  # registry name of the model that computed it


@dataclass(frozen=True, slots=True, eq=False)
class Masks:
    """Predictions for N prompts, in their order.

    Attributes:
        masks: (N, C, H, W) bool at the size of the original image. A prompt for which the model
            finds nothing has an empty mask.
        scores: (N, C) float32, the model's own estimate of quality; higher is better.
        low_res_logits: (N, C, h, w) float32 if the model has them.
        object_scores: (N,) float32 logits that the prompt is on an object, if the model has them
            (SAM 2 and later).

    Raises:
        ValueError: Masks or scores of a wrong shape or type.
        WeightsError: A score or a logit is NaN or infinite.
    """

    masks: BoolArray
    scores: Float32Array
    low_res_logits: Float32Array | None = None
    object_scores: Float32Array | None = None

    def __post_init__(self) -> None:
        if self.masks.ndim != 4 or self.masks.dtype != np.bool_:
            raise ValueError(
                f"masks must be bool (N,C,H,W), not {self.masks.dtype} {self.masks.shape}"
            )
        if self.scores.shape != self.masks.shape[:2]:
            raise ValueError(f"scores {self.scores.shape} do not fit masks {self.masks.shape}")
        given = (self.scores, self.low_res_logits, self.object_scores)
        if not all(map(_is_finite, given)):
            raise WeightsError(NOT_FINITE)

    def __len__(self) -> int:
        return len(self.masks)

    def candidates(self, which: slice) -> Masks:
        """The same with some of the C masks of each prompt."""
        logits = self.low_res_logits
        kept = None if logits is None else logits[:, which]
        return Masks(self.masks[:, which], self.scores[:, which], kept, self.object_scores)

    @classmethod
    def joined(cls, parts: Sequence[Masks]) -> Masks:
        """Masks of one or more batches of prompts, in their order."""

        def join(name: str) -> Any:
            found = [getattr(part, name) for part in parts]
            return None if found[0] is None else np.concatenate(found)

        return cls(*map(join, ("masks", "scores", "low_res_logits", "object_scores")))


def _is_finite(values: object) -> bool:
    """Whether all floats are finite; needs no copy, since minimum and maximum propagate NaN.

    Returns True for anything but an array of floats: `baselines.boundary` checks types.
    """
    if not isinstance(values, np.ndarray) or values.dtype.kind != "f" or values.size == 0:
        return True
    return math.isfinite(values.min()) and math.isfinite(values.max())


@dataclass(frozen=True, slots=True)
class LogitMasks:
    """Output of a mask decoder, before upsampling: float tensors on the model's device."""

    logits: Any  # (N, C, h, w)
    scores: Any  # (N, C)
    size_hw: tuple[int, int]  # of the original image, in pixels
    object_scores: Any = None  # (N,), if the model has them


class MaskFrame(NamedTuple):
    """Where an image lies in the mask input of a model, always from its top left corner."""

    size_hw: tuple[int, int]  # of the original image, in pixels
    input_hw: tuple[int, int]  # of the mask input, in its own pixels
    image_hw: tuple[int, int]  # of the part that the image covers


@dataclass(frozen=True, slots=True, eq=False)
class MaskRecord:
    """One object found by `everything`.

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


class Segmenter(ABC):
    """A promptable segmentation model. It holds weights, but no image.

    Attributes:
        info: Facts on the model.
        keeps: Which masks of `everything` it keeps, for messages; empty if it is not known.
    """

    info: ModelInfo
    keeps: str = ""

    @abstractmethod
    def prepare(self, image: UInt8Array) -> Prepared:
        """Preprocesses an (H, W, 3) uint8 RGB image on the host (timed as `preprocess`)."""

    @abstractmethod
    def encode(self, prepared: Prepared) -> Embedding:
        """Runs the image encoder (timed as `encode`)."""

    @abstractmethod
    def decode(self, embedding: Embedding, prompts: Prompts, *, multimask: bool = False) -> Masks:
        """Predicts masks for every prompt (timed as `decode`).

        Args:
            embedding: From this model's own `encode`.
            prompts: N prompts in pixels of the original image; they may lie outside of it.
            multimask: Return all candidates of an ambiguous prompt; ignored by a model that has
                only one, so C is 1 then.

        Raises:
            UnsupportedError: The model does not support this kind of prompt.
            UsageError: The embedding comes from another model.
        """

    def decode_pair(self, embedding: Embedding, prompts: Prompts) -> tuple[Masks, Masks]:
        """Returns the single mask and all candidates, as two calls of `decode` would."""
        return self.decode(embedding, prompts), self.decode(embedding, prompts, multimask=True)

    def everything(self, image: UInt8Array) -> list[MaskRecord]:
        """Segments all objects of an (H, W, 3) uint8 RGB image (timed as `everything`).

        Raises:
            UnsupportedError: The model has no such mode.
        """
        del image
        raise UnsupportedError(f"{self.info.name} cannot segment everything: it needs a prompt")

    def modules(self) -> Mapping[str, nn.Module]:
        """Networks by component, for counting parameters; empty for models without any."""
        return {}

    def probes(self) -> Mapping[str, Sequence[Callable[[], object]]]:
        """Calls of each of `modules`, by component, for counting.

        The first call of a component defines its FLOPs; all of them together define which of its
        parameters are used in any forward pass.
        """
        return {}

    def mask_frame(self, size_hw: tuple[int, int]) -> MaskFrame:
        """Where an image of this size, in pixels, lies in `Prompts.mask_inputs`.

        By default as in SAM: a quarter of a square input into which the longer side fits.
        """
        side = self.info.input_size_px // 4
        height, width = (max(1, round(side * length / max(size_hw))) for length in size_hw)
        return MaskFrame(size_hw, (side, side), (height, width))

    def synchronize(self) -> None:  # noqa: B027 - most models have nothing to wait for
        """Waits for the device; called by the timer around every timed region."""

    def check_embedding(self, embedding: Embedding) -> None:
        """Raises a UsageError for an embedding of another model, which would give wrong masks."""
        if embedding.model != self.info.name:
            raise UsageError(
                f"{self.info.name} was given an embedding made by {embedding.model}; "
                "encode the image with the same model"
            )

    def require(self, prompts: Prompts) -> None:
        """Raises an UnsupportedError for prompts of a kind that this model does not support."""
        given = {"points": prompts.points, "boxes": prompts.boxes, "masks": prompts.mask_inputs}
        for kind, value in given.items():
            if value is not None and kind not in self.info.supports:
                raise UnsupportedError(f"{self.info.name} takes no {kind} as prompts")


@runtime_checkable
class SplitDecoder(Protocol):
    """A model whose `decode` is a network and then a resize, which are timed separately."""

    def decode_logits(
        self, embedding: Embedding, prompts: Prompts, *, multimask: bool = False
    ) -> LogitMasks:
        """Runs the network (timed as `decode`)."""

    def postprocess(self, found: LogitMasks) -> Masks:
        """Resizes masks to the image's size (timed as `postprocess`)."""


@runtime_checkable
class SplitEncoder(Protocol):
    """A model whose `encode` is a network and then a search for masks, which depends on weights."""

    def run_network(self, prepared: Prepared) -> object:
        """Runs the network (timed as `encode`)."""

    def find_masks(self, output: Any, prepared: Prepared) -> Embedding:
        """Finds all masks in the network's output (timed as `postprocess`)."""


@runtime_checkable
class BatchEncoder(Protocol):
    """A model whose encoder takes several images in one call."""

    def encode_batch(self, prepared: Sequence[Prepared]) -> list[Embedding]:
        """Runs the image encoder once on one or more images (timed as `encode` of a batch).

        Args:
            prepared: From `prepare`, of images of any sizes.

        Returns:
            An embedding for each image, in their order, equal to that of `encode` up to rounding.
        """


@runtime_checkable
class StorableEmbedding(Protocol):
    """A model whose embeddings can be stored on disk and used again."""

    def embedding_arrays(self, embedding: Embedding) -> Mapping[str, Float32Array]:
        """Converts an embedding to named arrays on the host, without loss."""

    def embedding_from(
        self, arrays: Mapping[str, Float32Array], size_hw: tuple[int, int]
    ) -> Embedding:
        """Converts arrays back to an embedding on the model's device.

        Args:
            arrays: From `embedding_arrays` of a model with the same weights.
            size_hw: Height and width of the original image, in pixels.

        Raises:
            DataError: The arrays are not such an embedding.
        """
