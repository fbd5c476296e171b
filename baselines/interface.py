"""The one interface behind which every model stands: frozen values in, frozen values out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from baselines.values import (
    BoolArray,
    DecodeKind,
    Embedding,
    Float32Array,
    Int64Array,
    LogitMasks,
    MaskRecord,
    Masks,
    ModelInfo,
    Prepared,
    PromptKind,
    Prompts,
    UInt8Array,
    WeightsInfo,
    WeightsKind,
    check_image,
)
from mobilesam.errors import UnsupportedError, UsageError

if TYPE_CHECKING:
    from torch import nn

__all__ = [
    "BoolArray",
    "DecodeKind",
    "Embedding",
    "Float32Array",
    "Int64Array",
    "LogitMasks",
    "MaskRecord",
    "Masks",
    "ModelInfo",
    "Prepared",
    "PromptKind",
    "Prompts",
    "Segmenter",
    "SplitDecoder",
    "SplitEncoder",
    "StorableEmbedding",
    "UInt8Array",
    "WeightsInfo",
    "WeightsKind",
    "check_image",
]


class Segmenter(ABC):
    """A promptable segmentation model. Holds weights, never an image."""

    info: ModelInfo

    @abstractmethod
    def prepare(self, image: UInt8Array) -> Prepared:
        """Host preprocessing of an (H, W, 3) uint8 RGB image (timed as `preprocess`)."""

    @abstractmethod
    def encode(self, prepared: Prepared) -> Embedding:
        """Runs the image encoder (timed as `encode`)."""

    @abstractmethod
    def decode(self, embedding: Embedding, prompts: Prompts, *, multimask: bool = False) -> Masks:
        """Answers every prompt (timed as `decode`).

        Args:
            embedding: From this model's own `encode`.
            prompts: N prompts in pixels of the original image; they may lie outside of it.
            multimask: Ask for all candidates of an ambiguous prompt; a model that has only one
                answer ignores it, so C is 1 then.

        Raises:
            UnsupportedError: The model does not take this kind of prompt.
            UsageError: The embedding comes from another model.
        """

    def decode_pair(self, embedding: Embedding, prompts: Prompts) -> tuple[Masks, Masks]:
        """Both answers to every prompt: the single mask and all candidates.

        The same as two calls of `decode`; a model whose network computes both at once overrides it.
        """
        return self.decode(embedding, prompts), self.decode(embedding, prompts, multimask=True)

    def everything(self, image: UInt8Array) -> list[MaskRecord]:
        """Segments all objects of an (H, W, 3) uint8 RGB image (timed as `everything`).

        Raises:
            UnsupportedError: The model has no such mode.
        """
        del image
        raise UnsupportedError(f"{self.info.name} cannot segment everything: it needs a prompt")

    def modules(self) -> Mapping[str, nn.Module]:
        """Its networks by component, for counting; empty for models without any."""
        return {}

    def probes(self) -> Mapping[str, Sequence[Callable[[], object]]]:
        """Calls of each of `modules`, by component, for counting.

        The first call of a component defines its FLOPs; all of them together define which of its
        parameters take part in any forward pass.
        """
        return {}

    def synchronize(self) -> None:  # noqa: B027 - most models have nothing to wait for
        """Waits for the device; called by the timer around every timed region."""

    def check_embedding(self, embedding: Embedding) -> None:
        """Refuses an embedding that another model made, whose answers would be silently wrong."""
        if embedding.model != self.info.name:
            raise UsageError(
                f"{self.info.name} was given an embedding made by {embedding.model}; "
                "encode the image with the same model"
            )

    def require(self, prompts: Prompts) -> None:
        """Refuses prompts of a kind that this model does not take."""
        for kind, value in (
            ("points", prompts.points),
            ("boxes", prompts.boxes),
            ("masks", prompts.mask_inputs),
        ):
            if value is not None and kind not in self.info.supports:
                raise UnsupportedError(f"{self.info.name} takes no {kind} as prompts")


@runtime_checkable
class SplitDecoder(Protocol):
    """A model whose `decode` is a network and then a resize, which the timer takes apart."""

    def decode_logits(
        self, embedding: Embedding, prompts: Prompts, *, multimask: bool = False
    ) -> LogitMasks:
        """The network alone (timed as `decode`)."""

    def postprocess(self, found: LogitMasks) -> Masks:
        """Masks at the image's size (timed as `postprocess`)."""


@runtime_checkable
class SplitEncoder(Protocol):
    """A model whose `encode` is a network and then a search for masks, which depends on weights."""

    def run_network(self, prepared: Prepared) -> object:
        """The network alone (timed as `encode`)."""

    def find_masks(self, output: Any, prepared: Prepared) -> Embedding:
        """All masks from the network's output (timed as `postprocess`)."""


@runtime_checkable
class StorableEmbedding(Protocol):
    """A model whose embeddings can be kept on disk and used again."""

    def embedding_arrays(self, embedding: Embedding) -> Mapping[str, Float32Array]:
        """The embedding as named arrays on the host, without loss."""

    def embedding_from(
        self, arrays: Mapping[str, Float32Array], size_hw: tuple[int, int]
    ) -> Embedding:
        """The same embedding again, on the model's device.

        Args:
            arrays: From `embedding_arrays` of a model with the same weights.
            size_hw: Height and width of the original image, in pixels.

        Raises:
            DataError: The arrays are not such an embedding.
        """
