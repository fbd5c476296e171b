"""A model made of a plain function, for the Python API."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from baselines.boundary import AdapterError
from baselines.classical import ImageSegmenter
from baselines.interface import BoolArray, Float32Array, PromptKind, Prompts, UInt8Array

PredictFunction = Callable[[UInt8Array, Prompts], BoolArray]


class FunctionSegmenter(ImageSegmenter):
    """Calls a function for every batch of prompts; each mask gets a score of 1.

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
        name = name or str(getattr(predict, "__name__", type(predict).__name__))
        super().__init__(name, "function", "", supports)

    def _answer(
        self, image: UInt8Array, prompts: Prompts, size_hw: tuple[int, int]
    ) -> tuple[BoolArray, Float32Array]:
        masks = np.asarray(self._predict(image, prompts))
        wanted = (len(prompts), *size_hw)
        if masks.shape != wanted or masks.dtype != np.bool_:
            raise AdapterError(
                f"{self.info.name} must return {wanted} bool masks; got {masks.shape} {masks.dtype}"
            )
        return masks, np.ones(len(masks), np.float32)
