"""The next click of a simulated user."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from benchmarks.prompts.samplers import next_click
from mobilesam.errors import DataError

QUICK = settings(derandomize=True, deadline=None, max_examples=120)
PAIRS = hnp.array_shapes(min_dims=2, max_dims=2, max_side=16).flatmap(
    lambda shape: st.tuples(hnp.arrays(np.bool_, shape), hnp.arrays(np.bool_, shape))
)


def by_definition(prediction, reference):
    """The definition at full size, pixel by pixel."""
    best = None
    for label, errors in ((1, reference & ~prediction), (0, prediction & ~reference)):
        squares = np.rint(ndimage.distance_transform_edt(np.pad(errors, 1))[1:-1, 1:-1] ** 2)
        for y, x in np.argwhere(errors):
            key = (-squares[y, x], 1 - label, y, x)
            if best is None or key < best[0]:
                best = key, (int(x), int(y), label)
    return None if best is None else best[1]


@QUICK
@given(PAIRS)
def test_clicks_match_their_definition(pair):
    prediction, reference = pair
    before = prediction.copy(), reference.copy()
    found = next_click(prediction, reference)
    assert found == by_definition(prediction, reference)
    assert np.array_equal(prediction, before[0])
    assert np.array_equal(reference, before[1])
    if found is None:
        assert np.array_equal(prediction, reference)
        return
    x, y, label = found
    assert all(type(value) is int for value in found)
    assert (reference[y, x], prediction[y, x]) == (label == 1, label == 0)


@QUICK
@given(st.integers(0, 2**32 - 1))
def test_clicks_on_large_smooth_errors(seed):
    noise = np.random.default_rng(seed).normal(size=(2, 50, 70))
    prediction, reference = (ndimage.gaussian_filter(each, 4) > 0.02 for each in noise)
    assert next_click(prediction, reference) == by_definition(prediction, reference)


@QUICK
@given(PAIRS)
def test_swapping_the_masks_inverts_the_label(pair):
    a, b = pair
    here, there = next_click(a, b), next_click(b, a)
    if here is None or there is None:
        assert here == there
    elif here[:2] == there[:2]:
        assert here[2] == 1 - there[2]
    else:
        # Only a tie between both kinds is decided by the kind.
        assert here[2] == there[2] == 1


def test_the_first_click_is_the_center():
    reference = np.zeros((9, 11), bool)
    reference[2:7, 3:8] = True
    assert next_click(np.zeros_like(reference), reference) == (5, 4, 1)
    assert next_click(reference, np.zeros_like(reference)) == (5, 4, 0)


def test_the_larger_error_wins():
    prediction, reference = np.zeros((2, 20, 20), bool)
    reference[1:4, 1:4] = True
    prediction[10:15, 10:15] = True
    assert next_click(prediction, reference) == (12, 12, 0)
    assert next_click(reference, prediction) == (12, 12, 1)


def test_of_equal_errors_the_missed_one_wins():
    prediction, reference = np.zeros((2, 20, 20), bool)
    prediction[1:4, 1:4] = True
    reference[10:13, 10:13] = True
    assert next_click(prediction, reference) == (11, 11, 1)


def test_the_border_of_the_image_counts_as_outside():
    full = np.ones((5, 9), bool)
    assert next_click(~full, full) == (2, 2, 1)


def test_no_click_without_an_error():
    mask = np.eye(5, dtype=bool)
    assert next_click(mask, mask) is None
    assert next_click(mask & False, mask & False) is None


@QUICK
@given(PAIRS)
def test_no_pixel_is_clicked_twice_on_an_unchanged_prediction(pair):
    prediction, reference = pair
    clicked = np.zeros((0, 2), np.float32)
    while (found := next_click(prediction, reference, clicked)) is not None:
        assert not (clicked == found[:2]).all(axis=1).any()
        clicked = np.concatenate([clicked, np.array([found[:2]], np.float32)])
    errors = prediction != reference
    assert len(clicked) == errors.sum()
    assert errors[clicked[:, 1].astype(int), clicked[:, 0].astype(int)].all()


def test_a_clicked_pixel_still_belongs_to_its_error_region():
    reference = np.zeros((9, 9), bool)
    reference[1:8, 1:8] = True
    prediction = np.zeros_like(reference)
    assert next_click(prediction, reference) == (4, 4, 1)
    # As deep as before; were the clicked pixel outside, the next would lie in a corner.
    assert next_click(prediction, reference, np.array([[4, 4]], np.float32)) == (3, 3, 1)
    outside = np.array([[0, 0], [8, 8], [-3, 40]], np.float32)
    assert next_click(prediction, reference, outside) == (4, 4, 1)


def test_the_other_kind_of_error_is_clicked_when_one_is_exhausted():
    prediction, reference = np.zeros((2, 20, 20), bool)
    reference[1:4, 1:4] = True
    prediction[10, 10] = True
    clicked = np.argwhere(reference)[:, ::-1].astype(np.float32)
    assert next_click(prediction, reference, clicked) == (10, 10, 0)


def test_correcting_every_error_terminates():
    prediction, reference = np.random.default_rng(1).random((2, 12, 12)) > 0.5
    for _ in range(12 * 12):
        click = next_click(prediction, reference)
        if click is None:
            break
        x, y, label = click
        prediction[y, x] = bool(label)
    assert np.array_equal(prediction, reference)


@pytest.mark.parametrize("other", [np.zeros((4, 3), bool), np.zeros((3, 4), np.uint8)])
def test_masks_of_other_shape_or_type_are_rejected(other):
    mask = np.ones((3, 4), bool)
    with pytest.raises(DataError, match="two bool masks"):
        next_click(mask, other)
    with pytest.raises(DataError, match="two bool masks"):
        next_click(other, mask)
