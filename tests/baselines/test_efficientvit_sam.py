"""EfficientViT-SAM: the same masks as the predictor of the authors' package."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest

from baselines.interface import Prompts
from baselines.registry import build, entries

pytest.importorskip("efficientsam")
from efficientsam.models.efficientvit.sam import EfficientViTSamPredictor

NAMES = [name for name in entries() if name.startswith("efficientvit-sam")]
BOX = np.array([10.0, 12.5, 80.0, 60.0], np.float32)
POINTS, LABELS = np.array([[30.0, 20.0], [100.0, 70.5]], np.float32), np.array([1, 0])


@cache
def encoded() -> tuple[Any, Any, Any]:
    """The adapter, an embedding, and the authors' predictor of the same image and weights."""
    image = np.random.default_rng(3).integers(0, 256, (90, 140, 3), dtype=np.uint8)
    entry = entries()["efficientvit-sam-l0"]
    model: Any = build(entry, entry.options())
    predictor = EfficientViTSamPredictor(model.model)
    predictor.set_image(image)
    return model, model.encode(model.prepare(image)), predictor


@pytest.mark.parametrize("multimask", [False, True])
@pytest.mark.parametrize("asked", ["points", "box", "both"])
def test_masks_are_those_of_the_authors_predictor(asked: str, multimask: bool) -> None:
    model, embedding, predictor = encoded()
    theirs: dict[str, Any] = {}
    ours: dict[str, Any] = {}
    if asked != "box":
        theirs |= {"point_coords": POINTS, "point_labels": LABELS}
        ours |= {"points": POINTS[None], "labels": LABELS[None]}
    if asked != "points":
        theirs["box"] = BOX
        ours["boxes"] = BOX[None]
    masks, scores, logits = predictor.predict(multimask_output=multimask, **theirs)
    found = model.decode(embedding, Prompts(**ours), multimask=multimask)
    np.testing.assert_allclose(found.low_res_logits[0], logits, atol=1e-4)
    np.testing.assert_allclose(found.scores[0], scores, atol=1e-4)
    assert np.array_equal(found.masks[0], masks)


@pytest.mark.parametrize("name", NAMES)
def test_parameters(name: str) -> None:
    built = build(entries()[name], entries()[name].options(device="meta"))
    parameters = [each for part in built.modules().values() for each in part.parameters()]
    assert sum(each.numel() for each in parameters) == entries()[name].parameters
    assert built.info.input_size_px == (1024 if "-xl" in name else 512)
