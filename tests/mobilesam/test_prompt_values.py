from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mobilesam.errors import UsageError
from mobilesam.prompts import Prompts

POINT = np.zeros((2, 1, 2), np.float32)
LABEL = np.ones((2, 1), np.int64)
BOX = np.array([[0, 0, 2, 2], [1, 1, 3, 3]], np.float32)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "needs points or a box"),
        ({"points": POINT}, "go together"),
        ({"boxes": BOX, "labels": LABEL}, "go together"),
        ({"points": POINT[0], "labels": LABEL}, "3 dimensions"),
        ({"boxes": BOX[:, :3]}, "the last of size 4"),
        ({"points": POINT, "labels": LABEL[:1]}, "differ in number"),
        ({"points": POINT, "labels": np.ones((2, 2), int)}, "do not match"),
        ({"points": POINT[:, :0], "labels": LABEL[:, :0]}, "do not match"),
        ({"points": POINT, "labels": LABEL * 2}, "must be 1"),
        ({"boxes": BOX * np.nan}, "NaN or infinity"),
        ({"points": POINT + np.inf, "labels": LABEL}, "NaN or infinity"),
        ({"boxes": BOX[:, [2, 3, 0, 1]]}, "corners swapped"),
        ({"boxes": np.array([[5, 5, 5, 9]])}, "box 0 is empty"),
    ],
)
def test_bad_prompts_are_refused(fields: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Prompts(**fields)


def test_prompts_are_read_only_copies() -> None:
    boxes = BOX.copy()
    prompts = Prompts(boxes=boxes)
    boxes[:] = -1
    assert prompts.boxes is not None
    assert np.array_equal(prompts.boxes, BOX)
    with pytest.raises(ValueError, match="read-only"):
        prompts.boxes[0, 0] = 7


@given(n=st.integers(1, 40), size=st.integers(1, 50), seed=st.integers(0, 99))
@settings(deadline=None, derandomize=True, max_examples=50)
def test_batches_cover_all_prompts_in_order(n: int, size: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    prompts = Prompts(
        points=rng.random((n, 2, 2)).astype(np.float32), labels=rng.integers(0, 2, (n, 2))
    )
    parts = list(prompts.batches(size))
    assert all(len(part) == size for part in parts[:-1])
    assert prompts.points is not None
    assert np.array_equal(
        np.concatenate([p.points for p in parts if p.points is not None]), prompts.points
    )
    assert sum(map(len, parts)) == len(prompts) == n


def test_prompts_can_be_lists_tensors_and_data_frames() -> None:
    corners = pd.DataFrame(BOX, columns=["x0", "y0", "x1", "y1"])
    for boxes in (BOX.tolist(), torch.tensor(BOX, requires_grad=True), corners):
        prompts = Prompts(boxes=boxes, points=POINT.tolist(), labels=torch.tensor(LABEL))  # type: ignore[arg-type]
        assert prompts.boxes is not None
        assert prompts.boxes.dtype == np.float32
        assert np.array_equal(prompts.boxes, BOX)
        assert np.array_equal(prompts.points, POINT)  # type: ignore[arg-type]
        assert np.array_equal(prompts.labels, LABEL)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="boxes must be numbers in equal rows"):
        Prompts(boxes=[[1, 2, 3, 4], [1, 2]])  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="boxes must be numbers"):
        Prompts(boxes=[["a", "b", "c", "d"]])  # type: ignore[arg-type]


def test_no_prompts_are_valid() -> None:
    for prompts in (
        Prompts(boxes=BOX[:0]),
        Prompts(boxes=[]),  # type: ignore[arg-type]
        Prompts(points=[], labels=[]),  # type: ignore[arg-type]
        Prompts(points=POINT[:0], labels=LABEL[:0], boxes=BOX[:0]),
    ):
        assert len(prompts) == 0
        assert list(prompts.batches(3)) == []


def test_sam_rules_accept_what_sam_predictor_accepts() -> None:
    mask = np.zeros((1, 1, 4, 4), np.float32)
    with pytest.raises(UsageError, match="differ in number"):
        Prompts(boxes=BOX, mask_inputs=mask)
    prompts = Prompts(POINT, -LABEL, BOX[:, [2, 3, 0, 1]], mask, sam_rules=True)
    assert len(prompts) == 2
    assert prompts.points is not None
    assert prompts.points.dtype == np.float64
    (first, _) = prompts.batches(1)
    assert first.mask_inputs is not None
    assert len(first) == len(first.mask_inputs) == 1
    assert len(Prompts(sam_rules=True)) == 1
    assert len(Prompts(mask_inputs=mask[:0], sam_rules=True)) == 0


def test_values_beyond_float32_are_refused() -> None:
    with pytest.raises(UsageError, match="boxes of prompt 1 hold NaN or infinity"):
        Prompts(boxes=[[0, 0, 1, 1], [0, 0, 1e39, 1]])  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="labels of prompt 0 hold NaN"):
        Prompts(POINT, LABEL * np.nan)  # type: ignore[arg-type]
