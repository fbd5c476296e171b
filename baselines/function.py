"""A model made of a plain function, for the Python API."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from baselines.boundary import AdapterError
from baselines.interface import (
    BoolArray,
    Embedding,
    Masks,
    ModelInfo,
    Prepared,
    PromptKind,
    Prompts,
    Segmenter,
    UInt8Array,
    WeightsInfo,
    check_image,
)

PredictFunction = Callable[[UInt8Array, Prompts], BoolArray]


class FunctionSegmenter(Segmenter):
    """Calls a function for every batch of prompts.

    Args:
        predict: Takes an (H, W, 3) uint8 RGB image and N prompts in pixels (`prompts.boxes` is
            (N, 4) xyxy float32, `prompts.points` (N, K, 2) xy float32 with `prompts.labels`
            (N, K)), and returns (N, H, W) bool masks.
        name: Name of the model in tables; None uses the name of the function.
        supports: Kinds of prompts that the function accepts: `points`, `boxes`.
    """

    def __init__(
        self,
        predict: PredictFunction,
        name: str | None = None,
        supports: Iterable[PromptKind] = ("points", "boxes"),
    ) -> None:
        self._predict = predict
        self.info = ModelInfo(
            name=name or str(getattr(predict, "__name__", type(predict).__name__)),
            family="function",
            input_size_px=0,
            licence="",
            weights=WeightsInfo("none"),
            decode_kind="classical",
            supports=frozenset(supports),
        )

    def prepare(self, image: UInt8Array) -> Prepared:
        """Checks the image."""
        return Prepared(image, check_image(image))

    def encode(self, prepared: Prepared) -> Embedding:
        """Keeps the image, since the function takes it together with the prompts."""
        return Embedding(prepared.payload, prepared.size_hw, self.info.name)

    def decode(self, embedding: Embedding, prompts: Prompts, *, multimask: bool = False) -> Masks:
        """Calls the function; each mask gets a score of 1.

        Raises:
            AdapterError: The function did not return (N, H, W) bool masks.
        """
        del multimask
        self.check_embedding(embedding)
        self.require(prompts)
        masks = np.asarray(self._predict(embedding.payload, prompts))
        wanted = (len(prompts), *embedding.size_hw)
        if masks.shape != wanted or masks.dtype != np.bool_:
            raise AdapterError(
                f"{self.info.name} must return {wanted} bool masks; got {masks.shape} {masks.dtype}"
            )
        return Masks(masks[:, None], np.ones((len(masks), 1), np.float32))
