from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from baselines.interface import MaskRecord, Masks, Prompts, check_image
from mobilesam.errors import DataError, UsageError, WeightsError

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
        ({"points": POINT, "labels": LABEL[:1]}, "differ in length"),
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


def test_prompts_are_copies_that_cannot_be_changed() -> None:
    boxes = BOX.copy()
    prompts = Prompts(boxes=boxes)
    boxes[:] = -1
    assert prompts.boxes is not None
    assert np.array_equal(prompts.boxes, BOX)
    with pytest.raises(ValueError, match="read-only"):
        prompts.boxes[0, 0] = 7


@given(n=st.integers(1, 40), size=st.integers(1, 50), seed=st.integers(0, 99))
@settings(deadline=None, derandomize=True, max_examples=50)
def test_batches_are_the_whole_in_order(n: int, size: int, seed: int) -> None:
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


def test_masks_of_the_wrong_type_or_shape_are_refused() -> None:
    with pytest.raises(ValueError, match="bool"):
        Masks(np.zeros((1, 1, 2, 2), np.uint8), np.zeros((1, 1), np.float32))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="scores"):
        Masks(np.zeros((1, 1, 2, 2), np.bool_), np.zeros((1, 2), np.float32))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_answers_that_are_no_numbers_are_refused(value: float) -> None:
    masks, scores = np.zeros((2, 1, 2, 2), np.bool_), np.ones((2, 1), np.float32)
    logits = np.zeros((2, 1, 3, 3), np.float32)
    Masks(masks, scores, logits)
    bad_scores, bad_logits = scores.copy(), logits.copy()
    bad_scores[1, 0] = bad_logits[1, 0, 2, 0] = value
    calls = (
        lambda: Masks(masks, bad_scores),
        lambda: Masks(masks, scores, bad_logits),
        lambda: MaskRecord(masks[0, 0], value, np.zeros(4, np.float32)),
    )
    for call in calls:
        with pytest.raises(WeightsError, match="NaN or infinity") as caught:
            call()
        assert "\n" not in str(caught.value)


def test_prompts_are_made_of_lists_tensors_and_data_frames() -> None:
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


def test_no_prompts_are_a_value_too() -> None:
    for prompts in (
        Prompts(boxes=BOX[:0]),
        Prompts(boxes=[]),  # type: ignore[arg-type]
        Prompts(points=[], labels=[]),  # type: ignore[arg-type]
        Prompts(points=POINT[:0], labels=LABEL[:0], boxes=BOX[:0]),
    ):
        assert len(prompts) == 0
        assert list(prompts.batches(3)) == []


def test_an_image_that_is_no_array_is_refused() -> None:
    with pytest.raises(DataError, match="not a list"):
        check_image([[0]])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros((4, 4, 3)),
    ],
)
def test_what_is_no_rgb_image_is_refused(image: np.ndarray) -> None:
    with pytest.raises(DataError, match=r"\(H, W, 3\) uint8"):
        check_image(image)
