"""FastSAM's pick among masks against the description written as plain loops; its border rule."""

import time

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from baselines.interface import Prompts
from baselines.mask_selection import FoundMasks, MaskSearch, select, snap_to_border


def found_masks(masks, scores) -> FoundMasks:
    masks = np.asarray(masks, bool)
    return FoundMasks(masks, np.zeros((len(masks), 4), "f4"), np.asarray(scores, "f4"))


# --- selection: the description as plain loops -------------------------------------------------


def expected_for_points(found, points, labels):
    height, width = found.masks.shape[1:]
    answer, score = np.zeros((height, width), bool), 0.0
    by_area = sorted(range(len(found.masks)), key=lambda i: -found.masks[i].sum())
    for i in by_area:
        merged = False
        for (x, y), label in zip(points, labels, strict=True):
            column, row = int(np.floor(x + 0.5)), int(np.floor(y + 0.5))
            if not (0 <= column < width and 0 <= row < height) or not found.masks[i, row, column]:
                continue
            merged = label == 1
            answer = answer | found.masks[i] if merged else answer & ~found.masks[i]
        if merged:
            score = max(score, float(found.scores[i]))
    return answer, score if answer.any() else 0.0


def expected_for_box(found, box, allowed):
    height, width = found.masks.shape[1:]
    region = np.zeros((height, width), bool)
    x0, y0, x1, y1 = (round(float(edge)) for edge in box)
    region[max(y0, 0) : max(y1, 0), max(x0, 0) : max(x1, 0)] = True
    best, answer, score = 0.0, np.zeros((height, width), bool), 0.0
    for mask, confidence, is_allowed in zip(found.masks, found.scores, allowed, strict=True):
        union = np.count_nonzero(mask | region)
        iou = np.count_nonzero(mask & region) / union if union else 0.0
        if is_allowed and region.any() and iou > best:
            best, answer, score = iou, mask, float(confidence)
    return answer, score


def scene(seed, n_masks, n_prompts, n_points):
    rng = np.random.default_rng(seed)
    height, width = rng.integers(1, 12, 2)
    # Coarse values, so that equal areas, equal IoUs and halves come up.
    masks = rng.random((n_masks, height, width)) < rng.choice([0.1, 0.5, 0.9], (n_masks, 1, 1))
    scores = rng.integers(1, 9, n_masks) / 8
    points = rng.integers(-4, 2 * max(height, width) + 4, (n_prompts, n_points, 2)) / 2
    labels = rng.integers(0, 2, (n_prompts, n_points))
    low = rng.integers(-8, 2 * max(height, width), (n_prompts, 2)) / 2
    boxes = np.concatenate((low, low + rng.integers(1, 16, (n_prompts, 2)) / 2), axis=1)
    return found_masks(masks, scores), points, labels, boxes


SIZES = {
    "n_masks": st.integers(0, 7),
    "n_prompts": st.integers(1, 5),
    "n_points": st.integers(1, 4),
}


@settings(derandomize=True, deadline=None, max_examples=150)
@given(seed=st.integers(0, 2**32), **SIZES)
def test_points_against_a_plain_loop(seed, n_masks, n_prompts, n_points):
    found, points, labels, _ = scene(seed, n_masks, n_prompts, n_points)
    masks, scores = select(found, Prompts(points=points, labels=labels))
    for row in range(n_prompts):
        answer, score = expected_for_points(found, points[row], labels[row])
        np.testing.assert_array_equal(masks[row], answer)
        assert scores[row] == score


@settings(derandomize=True, deadline=None, max_examples=150)
@given(seed=st.integers(0, 2**32), with_points=st.booleans(), **SIZES)
def test_boxes_against_a_plain_loop(seed, with_points, n_masks, n_prompts, n_points):
    found, points, labels, boxes = scene(seed, n_masks, n_prompts, n_points)
    extra = {"points": points, "labels": labels} if with_points else {}
    masks, scores = select(found, Prompts(boxes=boxes, **extra))
    for row in range(n_prompts):
        allowed = [True] * n_masks
        if with_points:
            for i in range(n_masks):
                one = found_masks(found.masks[i : i + 1], [1])
                held = [
                    bool(expected_for_points(one, [point], [1])[0].any()) for point in points[row]
                ]
                foreground = labels[row] == 1
                hit = any(np.array(held) & foreground) or not foreground.any()
                allowed[i] = hit and not any(np.array(held) & ~foreground)
        answer, score = expected_for_box(found, boxes[row], allowed)
        np.testing.assert_array_equal(masks[row], answer)
        assert scores[row] == score


def test_order_and_duplicates_of_prompts_are_kept():
    masks = np.zeros((3, 10, 30), bool)
    for i in range(3):
        masks[i, 2:8, 10 * i + 2 : 10 * i + 8] = True
    found = found_masks(masks, [0.5, 0.6, 0.7])
    which = np.array([2, 0, 0, 1, 2, 1])
    boxes = np.array([[10 * i + 1, 1, 10 * i + 9, 9] for i in which], "f4")
    before = boxes.copy()
    picked, scores = select(found, Prompts(boxes=boxes))
    np.testing.assert_array_equal(picked, masks[which])
    np.testing.assert_array_equal(scores, found.scores[which])
    np.testing.assert_array_equal(boxes, before)


def test_points_outside_do_not_wrap_around():
    masks = np.ones((1, 6, 8), bool)
    points = np.array([[[-1, -1]], [[8, 0]], [[0, 6]], [[-0.5, -0.5]]])
    picked, scores = select(
        found_masks(masks, [0.9]), Prompts(points=points, labels=np.ones((4, 1)))
    )
    assert picked.any(axis=(1, 2)).tolist() == [False, False, False, True]
    assert scores.tolist() == [0, 0, 0, np.float32(0.9)]


def test_an_answer_that_is_all_erased_scores_nothing():
    masks = np.zeros((3, 1, 6), bool)
    masks[0, 0, [0, 1, 2]] = True
    masks[1, 0, [0, 1, 3]] = True
    masks[2, 0, [2, 4, 5]] = True
    found = found_masks(masks, [0.9, 0.8, 0.7])
    points = np.array([[[0, 0], [3, 0], [4, 0]], [[0, 0], [3, 0], [3, 0]]])
    picked, scores = select(found, Prompts(points=points, labels=np.array([[1, 0, 0]] * 2)))
    assert picked[:, 0].tolist() == [[False] * 6, [False, False, True, False, False, False]]
    assert scores.tolist() == [0, np.float32(0.9)]


def test_many_prompts_are_quick():
    rng = np.random.default_rng(0)
    masks = np.zeros((100, 480, 640), bool)
    for mask in masks:
        y, x = rng.integers(0, 240), rng.integers(0, 320)
        mask[y : y + 200, x : x + 300] = True
    found = found_masks(masks, rng.random(100))
    low = rng.uniform(0, 200, (300, 2))
    boxes = Prompts(boxes=np.concatenate((low, low + rng.uniform(50, 300, (300, 2))), axis=1))
    points = Prompts(points=rng.uniform(0, 480, (300, 1, 2)), labels=np.ones((300, 1)))
    took = []
    for prompts in (boxes, points):
        start = time.perf_counter()
        select(found, prompts)
        took.append(time.perf_counter() - start)
    assert max(took) < 3  # about 0.2 s each on an idle core; a loop over pixels takes minutes


# --- the border rule -----------------------------------------------------------------------------


def test_border_rule():
    boxes = torch.tensor(
        [
            [19.0, 19, 620, 440],  # near every border: the whole input
            [20.0, 20, 620, 428],  # exactly at the limit: not near
            [-7.0, 100, 300, 429],
            [15.0, 50, 640, 448],
        ]
    )
    before = boxes.clone()
    snapped = snap_to_border(boxes, (448, 640), MaskSearch(full_iou=0.97))
    assert snapped.tolist() == [
        [0, 0, 620, 448],
        [20, 20, 620, 428],
        [0, 100, 300, 448],
        [0, 50, 640, 448],
    ]
    snapped = snap_to_border(boxes, (448, 640), MaskSearch(full_iou=0.88))
    assert snapped[[0, 3]].tolist() == [[0, 0, 640, 448]] * 2
    assert torch.equal(boxes, before)
    off = MaskSearch(border_px=0, full_iou=1)
    inside = boxes[[0, 1, 3]]
    assert torch.equal(snap_to_border(inside, (448, 640), off), inside)
