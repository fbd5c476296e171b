"""Numbers that change when an array does: few, and steady against the last digits of floats."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from baselines import boundary
from baselines.boundary import adapter_call
from baselines.interface import (
    Masks,
    Prompts,
    Segmenter,
    SplitEncoder,
    StorableEmbedding,
    UInt8Array,
)
from benchmarks.regression.snapshot import Fact

N_PROJECTIONS = 6
FLOAT_TOLERANCE = 1e-3
"""How far a number of a fingerprint may move, as a share of the array's root mean square."""
AREA_TOLERANCE = 1e-3
"""How far the area of a mask may move, as a share of the image."""
N_PROMPTS = 3
_POINT, _BOX = "points", "boxes"


def fingerprint(array: npt.NDArray[Any]) -> tuple[float, ...]:
    """Mean, root mean square, and projections on fixed random signs, each of the array's own unit.

    A projection is the sum of all values under random signs over the root of their number, so that
    it is about as large as one value, and moves wherever any of them moves.

    Args:
        array: Of any shape; at least one value.
    """
    values = np.asarray(array, np.float64).ravel()
    signs = np.random.default_rng(len(values))
    root = np.sqrt(len(values))
    projections = [
        float(np.where(signs.integers(0, 2, len(values), np.int8), values, -values).sum() / root)
        for _ in range(N_PROJECTIONS)
    ]
    return (float(values.mean()), float(np.sqrt(np.square(values).mean())), *projections)


def array_facts(subject: str, name: str, array: npt.NDArray[Any]) -> Iterator[Fact]:
    """Shape and fingerprint of an array."""
    yield Fact(subject=subject, what=f"{name}: shape", value="x".join(map(str, array.shape)))
    found = fingerprint(array)
    # An array of zeros has no scale of its own.
    tolerance = FLOAT_TOLERANCE * (found[1] or 1.0)
    yield Fact(subject=subject, what=f"{name}: fingerprint", value=found, tolerance=tolerance)


def model_facts(model: Segmenter, image: UInt8Array, *, exact: bool) -> Iterator[Fact]:
    """What a model makes of an image and of `N_PROMPTS` prompts of each kind, step by step.

    Args:
        model: With trained or seeded random weights; its values are what counts.
        image: (H, W, 3) uint8 RGB.
        exact: It computes with integers alone, so that areas must not move at all.
    """
    name = model.info.name
    with adapter_call("prepare"):
        prepared = model.prepare(image)
        payload = prepared.payload
        # A tensor, as the networks take it.
        preprocessed = payload.numpy() if hasattr(payload, "numpy") else None
    if preprocessed is not None:
        yield from array_facts(name, "preprocessed", preprocessed)
    with adapter_call("encode"):
        embedding = model.encode(prepared)
        model.synchronize()
    if isinstance(model, StorableEmbedding):
        for key, array in boundary.embedding_arrays(model, name, embedding).items():
            yield from array_facts(name, f"embedding {key}", array)
    if isinstance(model, SplitEncoder):
        return  # what a detector finds with random weights says nothing
    size_hw = (int(image.shape[0]), int(image.shape[1]))
    for kind, prompts in _prompts(size_hw).items():
        if kind in model.info.supports:
            answer = boundary.decode(model, embedding, prompts, size_hw, multimask=True)
            yield from _answer_facts(name, kind, answer, exact=exact)


def _prompts(size_hw: tuple[int, ...]) -> dict[str, Prompts]:
    """Prompts at fixed places of the image."""
    height, width = size_hw
    draw = np.random.default_rng(N_PROMPTS)
    at = (draw.uniform(0.2, 0.8, (N_PROMPTS, 2)) * (width, height)).astype(np.float32)
    half = np.array([0.15 * width, 0.15 * height], np.float32)
    return {
        _POINT: Prompts(points=at[:, None], labels=np.ones((N_PROMPTS, 1), np.int64)),
        _BOX: Prompts(boxes=np.concatenate([at - half, at + half], axis=1)),
    }


def _answer_facts(name: str, kind: str, answer: Masks, *, exact: bool) -> Iterator[Fact]:
    if answer.low_res_logits is not None:
        yield from array_facts(name, f"{kind}: logits", answer.low_res_logits)
    yield from array_facts(name, f"{kind}: scores", answer.scores)
    areas = answer.masks.sum(axis=(2, 3), dtype=np.int64).ravel().tolist()
    what = f"{kind}: mask areas (px)"
    if exact:
        yield Fact(subject=name, what=what, value=" ".join(map(str, areas)))
    else:
        tolerance = AREA_TOLERANCE * answer.masks[0, 0].size
        yield Fact(
            subject=name, what=what, value=tuple(map(float, areas)), tolerance=float(tolerance)
        )
