"""A third-party adapter that raises an error in one of its methods, also in child processes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import cv2
import numpy as np

from baselines.dummy import DummySegmenter
from baselines.interface import (
    Embedding,
    Float32Array,
    MaskRecord,
    Masks,
    ModelOptions,
    Prepared,
    Prompts,
)

NAME = "failing"
METHOD_VARIABLE = "FAILING_METHOD"
ERROR_VARIABLE = "FAILING_ERROR"


class OwnError(Exception):
    """An error class that the adapter defines itself."""


ERRORS: Mapping[str, type[Exception]] = {
    "error": cv2.error,
    "EOFError": EOFError,
    "OwnError": OwnError,
}


def fail_in(method: str) -> None:
    """Raises the error named by the environment if the environment names this method."""
    if os.environ[METHOD_VARIABLE] == method:
        raise ERRORS[os.environ[ERROR_VARIABLE]]("no colour\n  for it")


class FailingSegmenter(DummySegmenter):
    """The dummy without delays, with an embedding that can be stored."""

    def __init__(self, name: str) -> None:
        fail_in("build")
        super().__init__(name, {})
        self.info = replace(self.info, input_size_px=32)

    def prepare(self, image: Any) -> Prepared:
        fail_in("prepare")
        return super().prepare(image)

    def encode(self, prepared: Prepared) -> Embedding:
        fail_in("encode")
        return super().encode(prepared)

    def decode(self, embedding: Embedding, prompts: Prompts, *, multimask: bool = False) -> Masks:
        fail_in("decode")
        return super().decode(embedding, prompts, multimask=multimask)

    def everything(self, image: Any) -> list[MaskRecord]:
        fail_in("everything")
        return super().everything(image)

    def modules(self) -> dict[str, Any]:
        fail_in("modules")
        return {}

    def embedding_arrays(self, embedding: Embedding) -> dict[str, Float32Array]:
        fail_in("embedding_arrays")
        return {"features": np.zeros((2, 2, 2), np.float32)}

    def embedding_from(
        self, arrays: Mapping[str, Float32Array], size_hw: tuple[int, int]
    ) -> Embedding:
        return Embedding(None, size_hw, self.info.name)


def build(options: ModelOptions) -> FailingSegmenter:
    """Builds the adapter."""
    return FailingSegmenter(options.name)
