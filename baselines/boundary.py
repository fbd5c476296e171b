"""Calls into model adapters: converts their exceptions to one error type and checks their results.

An adapter is foreign code, which may raise any exception. Every call into an adapter goes through
this module, so that its errors can be told from errors of this project, which are never caught.
A timed loop has the boundary around it, not in it. The process that measures another version of
this code (`benchmarks.latency.worker`) imports that version alone and has its own boundary. All
calls raise a `BenchError` if the adapter fails or its result violates the interface.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import NamedTuple

import numpy as np

from baselines.interface import (
    BoolArray,
    Embedding,
    Float32Array,
    MaskFrame,
    MaskRecord,
    Masks,
    Prompts,
    Segmenter,
    StorableEmbedding,
    UInt8Array,
)
from mobilesam.errors import BenchError, DataError, foreign_call


class AdapterError(BenchError):
    """A model's adapter raised an exception other than `BenchError`, which is kept as the cause."""


def adapter_call(method: str) -> AbstractContextManager[None]:
    """Converts exceptions of an adapter's method to `AdapterError`, except for `BenchError`.

    The block may hold only adapter calls.
    """

    def convert(error: Exception) -> AdapterError:
        words = [f"{type(error).__name__}:", *str(error).split(), f"(in {method})"]
        return AdapterError(" ".join(words))

    return foreign_call(convert)


@contextmanager
def naming(model: str) -> Iterator[None]:
    """Puts a model's name before an `AdapterError` that is printed outside of a table row."""
    try:
        yield
    except AdapterError as error:
        raise AdapterError(f"{model}: {error}") from error.__cause__


def encode(model: Segmenter, image: UInt8Array) -> Embedding:
    """Prepares and encodes an (H, W, 3) uint8 RGB image, and waits for the device."""
    with adapter_call("prepare"):
        prepared = model.prepare(image)
    with adapter_call("encode"):
        embedding = model.encode(prepared)
        model.synchronize()
    return embedding


def decode(
    model: Segmenter,
    embedding: Embedding,
    prompts: Prompts,
    size_hw: tuple[int, int],
    *,
    multimask: bool = False,
) -> Masks:
    """Predicts masks for N prompts on an image of height and width `size_hw`, and checks them."""
    with adapter_call("decode"):
        found = model.decode(embedding, prompts, multimask=multimask)
    return check_masks(model, "decode", found, len(prompts), size_hw)


class BestMask(NamedTuple):
    """Mask of one prompt, (H, W) bool, with the scores of `Masks`."""

    mask: BoolArray
    score: float
    object_score: float | None


def best_mask(
    model: Segmenter, embedding: Embedding, prompts: Prompts, size_hw: tuple[int, int]
) -> BestMask:
    """Predicts the mask with the best score for one prompt.

    A single point is ambiguous, so all candidate masks are considered for it; for other prompts
    the model returns one mask.
    """
    points = prompts.points
    ambiguous = prompts.boxes is None and points is not None and points.shape[1] == 1
    found = decode(model, embedding, prompts, size_hw, multimask=ambiguous)
    best = int(np.argmax(found.scores[0]))
    objects = found.object_scores
    object_score = None if objects is None else float(objects[0])
    return BestMask(found.masks[0, best], float(found.scores[0, best]), object_score)


def decode_pair(
    model: Segmenter, embedding: Embedding, prompts: Prompts, size_hw: tuple[int, int]
) -> tuple[Masks, Masks]:
    """Predicts the single mask and all candidates of every prompt, and checks them."""
    with adapter_call("decode_pair"):
        single, several = model.decode_pair(embedding, prompts)
    for found in (single, several):
        check_masks(model, "decode_pair", found, len(prompts), size_hw)
    return single, several


def mask_frame(model: Segmenter, size_hw: tuple[int, int]) -> MaskFrame:
    """Where an image of this size lies in the mask input of a model."""
    with adapter_call("mask_frame"):
        return model.mask_frame(size_hw)


def embedding_arrays(
    model: StorableEmbedding, name: str, embedding: Embedding
) -> dict[str, Float32Array]:
    """Converts an embedding of the model `name` to named arrays on the host, and checks them."""
    with adapter_call("embedding_arrays"):
        found = dict(model.embedding_arrays(embedding))
    for key, array in found.items():
        if not _is_numeric(array):
            got = f"a {type(array).__name__} for {key}"
            raise _violation(f"{name}.embedding_arrays", got, "a numpy array of numbers")
    return found


def everything(model: Segmenter, image: UInt8Array) -> list[MaskRecord]:
    """Segments all objects of an (H, W, 3) uint8 RGB image, and checks the result."""
    with adapter_call("everything"):
        found = list(model.everything(image))
    return check_records(model, found, (int(image.shape[0]), int(image.shape[1])))


def check_masks(
    model: Segmenter, method: str, found: object, n_prompts: int, size_hw: tuple[int, int]
) -> Masks:
    """Returns the masks for N prompts, or raises a DataError if they violate the interface."""
    who = f"{model.info.name}.{method}"
    height, width = size_hw
    wanted = f"bool masks of shape ({n_prompts}, C, {height}, {width})"
    if not isinstance(found, Masks):
        raise _violation(who, f"a {type(found).__name__}", f"{wanted} as Masks")
    shape = found.masks.shape
    if shape != (n_prompts, max(shape[1], 1), height, width):
        raise _violation(who, f"{found.masks.dtype} masks of shape {shape}", wanted)
    if not _is_numeric(found.scores):
        raise _violation(who, "scores that are no numbers", "an array of numbers")
    logits, objects = found.low_res_logits, found.object_scores
    if logits is not None and not (
        _is_numeric(logits) and logits.ndim == 4 and logits.shape[:2] == shape[:2]
    ):
        wanted = f"a numpy array of shape ({shape[0]}, {shape[1]}, h, w)"
        raise _violation(who, f"low_res_logits that are {_described(logits)}", wanted)
    if objects is not None and not (_is_numeric(objects) and objects.shape == shape[:1]):
        wanted = f"a numpy array of shape ({shape[0]},)"
        raise _violation(who, f"object_scores that are {_described(objects)}", wanted)
    return found


def check_records(
    model: Segmenter, found: list[MaskRecord], size_hw: tuple[int, int]
) -> list[MaskRecord]:
    """Returns the objects of an image, or raises a DataError if one violates the interface."""
    who = f"{model.info.name}.everything"
    for record in found:
        if not isinstance(record, MaskRecord) or not isinstance(record.mask, np.ndarray):
            raise _violation(who, f"a {type(record).__name__}", "MaskRecord values")
        if record.mask.shape != size_hw or record.mask.dtype != np.bool_:
            got = f"a {record.mask.dtype} mask of shape {record.mask.shape}"
            raise _violation(who, got, f"a bool mask of shape {size_hw}")
        score: object = record.score
        if not isinstance(score, (float, int, np.number)):
            raise _violation(who, f"a mask the score {score!r}", "a number")
    return found


def _is_numeric(array: object) -> bool:
    return isinstance(array, np.ndarray) and array.dtype.kind in "fiu"


def _described(value: object) -> str:
    if isinstance(value, np.ndarray) and _is_numeric(value):
        return f"an array of shape {value.shape}"
    return type(value).__name__


def _violation(method: str, got: str, wanted: str) -> DataError:
    return DataError(f"{method} gave {got}; wanted {wanted}; fix the adapter")
