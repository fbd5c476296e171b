"""Prompt samplers: their prompts, names and randomness."""

import pickle
from collections import Counter

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from benchmarks.datasets.dataset import Instance
from benchmarks.datasets.masks import encode_mask, rle_box
from benchmarks.prompts.samplers import PromptSampler, prompt_sampler, to_prompts
from mobilesam.errors import UsageError

QUICK = settings(derandomize=True, deadline=None, max_examples=80)
MASKS = hnp.arrays(np.bool_, hnp.array_shapes(min_dims=2, max_dims=2, max_side=24))
IDS = st.integers(-(2**63), 2**63 - 1)


def instance_of(mask, number=1, points=None):
    rle = encode_mask(mask)
    return Instance(number, "", float(mask.sum()), rle_box(rle), rle, points)


def made(name, mask, number=1, seed=0, points=None):
    return prompt_sampler(name).sample(instance_of(mask, number, points), mask, seed)


def square():
    mask = np.zeros((9, 11), bool)
    mask[2:7, 3:8] = True
    return mask


def test_box_and_center():
    box, center = made("box", square()), made("center", square())
    assert box.tolist() == [3, 2, 8, 7]
    assert center.tolist() == [5, 4]
    assert box.dtype == center.dtype == np.float32


@pytest.mark.parametrize(
    ("name", "columns", "labels"),
    [
        ("box", ("x0", "y0", "x1", "y1"), None),
        ("center", ("x", "y"), (1,)),
        ("annotation-point", ("x", "y"), (1,)),
        ("random-1", ("x", "y"), (1,)),
        ("random-3", ("x0", "y0", "x1", "y1", "x2", "y2"), (1, 1, 1)),
        ("two-point-100", ("x0", "y0", "x1", "y1"), (1, 0)),
        ("box-jitter-10", ("x0", "y0", "x1", "y1"), None),
        ("point-offset-2.5", ("x", "y"), (1,)),
        ("mask-eroded", tuple(f"cells{index}" for index in range(256)), None),
    ],
)
def test_columns_and_labels(name, columns, labels):
    sampler = prompt_sampler(name)
    assert (sampler.name, sampler.columns, sampler.labels) == (name, columns, labels)
    assert sampler == prompt_sampler(name)
    assert hash(sampler) == hash(prompt_sampler(name))
    copy = pickle.loads(pickle.dumps(sampler))
    assert copy == sampler
    first = sampler.sample(instance_of(square()), square(), 3)
    again = copy.sample(instance_of(square()), square(), 3)
    assert np.array_equal(first, again)


def test_samplers_of_different_names_differ():
    names = ("box", "center", "annotation-point", "random-1", "random-2", "two-point-2")
    assert len({prompt_sampler(name) for name in names}) == len(names)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "boxes",
        "Box",
        "random",
        "random-",
        "random-0",
        "random--1",
        "random-1.5",
        "random-01",
        "random-x",
        "random-3 ",
        "random-3\n",
        "random-10000",
        "random-٣",  # an Arabic digit, for which str.isdigit is true
        "two-point",
        "two-point-x",
        "two-point-0",
        "two-point--5",
        "box-jitter",
        "box-jitter-0",
        "box-jitter-0.5",
        "box-jitter-101",
        "box-jitter-10.0",
        "point-offset-05",
        "point-offset-100.5",
        "mask-10",
    ],
)
def test_a_malformed_name_is_a_usage_error(name):
    with pytest.raises(UsageError, match="unknown prompt sampler") as caught:
        prompt_sampler(name)
    assert repr(name) in str(caught.value)
    assert "two-point-D" in str(caught.value)


def test_annotation_point_is_the_first_stored_point():
    points = np.array([[4.25, 5.5], [1, 1]], np.float32)
    found = made("annotation-point", square(), points=points)
    assert found.tolist() == [4.25, 5.5]
    assert found.dtype == np.float32


@pytest.mark.parametrize("points", [None, np.zeros((0, 2), np.float32)])
def test_no_annotation_point(points):
    assert made("annotation-point", square(), points=points) is None


@QUICK
@given(MASKS, IDS, IDS, st.integers(1, 12))
def test_random_points_are_different_pixels_of_the_mask(mask, number, seed, count):
    found = made(f"random-{count}", mask, number, seed)
    if mask.sum() < count:
        assert found is None
        return
    assert found.dtype == np.float32
    points = found.reshape(count, 2).astype(int)
    assert mask[points[:, 1], points[:, 0]].all()
    assert len({tuple(point) for point in points.tolist()}) == count
    assert np.array_equal(found, made(f"random-{count}", mask, number, seed))


@QUICK
@given(MASKS, IDS, IDS, st.integers(1, 9), st.integers(1, 9))
def test_more_random_points_begin_with_the_fewer(mask, number, seed, few, more):
    assume(mask.sum() >= max(few, more))
    few, more = sorted((few, more))
    short = made(f"random-{few}", mask, number, seed)
    assert np.array_equal(made(f"random-{more}", mask, number, seed)[: 2 * few], short)


def test_as_many_random_points_as_pixels_cover_the_mask():
    mask = square()
    points = made("random-25", mask).reshape(-1, 2).astype(int)
    drawn = np.zeros_like(mask)
    drawn[points[:, 1], points[:, 0]] = True
    assert np.array_equal(drawn, mask)


def test_random_points_depend_on_annotation_and_seed():
    draws = {
        tuple(made("random-4", square(), number, seed))
        for number in (0, 1, 2**32, -1)
        for seed in (0, 1, 2**32)
    }
    assert len(draws) == 12


@pytest.mark.parametrize("place", [0, 1, 2])
def test_each_random_point_is_uniform_over_the_mask(place):
    mask = square()
    sampler, each = prompt_sampler("random-3"), instance_of(mask)
    counts = Counter(
        tuple(sampler.sample(each, mask, seed)[2 * place : 2 * place + 2]) for seed in range(2500)
    )
    assert len(counts) == 25
    # Chi-square with 24 degrees of freedom: 1 in 10,000 lies above 59.
    assert sum((count - 100) ** 2 / 100 for count in counts.values()) < 59


def test_random_points_do_not_change():
    assert made("random-3", square(), 17, 4).tolist() == [6, 2, 3, 6, 4, 5]
    assert made("two-point-4", square(), 17, 4).tolist() == [5, 4, 9, 6]


@QUICK
@given(MASKS, IDS, IDS, st.integers(1, 30))
def test_two_points_match_their_definition(mask, number, seed, distance_px):
    assume(mask.any())
    found = made(f"two-point-{distance_px}", mask, number, seed)
    x, y = made("center", mask)
    rows, columns = np.nonzero(~mask)
    lengths = np.hypot(rows - y, columns - x)
    allowed = {
        (float(column), float(row))
        for row, column, length in zip(rows, columns, lengths, strict=True)
        if np.floor(length + 0.5) == distance_px
    }
    if found is None:
        assert not allowed
        return
    assert found.dtype == np.float32
    assert found[:2].tolist() == [x, y]
    assert tuple(found[2:].tolist()) in allowed
    assert np.array_equal(found, made(f"two-point-{distance_px}", mask, number, seed))


def test_no_background_in_a_mask_that_fills_the_image():
    assert made("two-point-3", np.ones((9, 9), bool)) is None
    assert made("two-point-9999", square()) is None


def test_directions_of_the_background_are_spread_evenly():
    mask = np.zeros((101, 101), bool)
    mask[50, 50] = True
    sampler = prompt_sampler("two-point-40")
    eighths = Counter()
    for number in range(1600):
        x0, y0, x1, y1 = sampler.sample(instance_of(mask, number), mask, 0)
        eighths[int((np.arctan2(y1 - y0, x1 - x0) + np.pi) / (np.pi / 4) - 1e-9)] += 1
    assert sum(eighths.values()) == 1600
    # Chi-square with 7 degrees of freedom: 1 in 10,000 lies above 30.
    assert sum((eighths[part] - 200) ** 2 / 200 for part in range(8)) < 30


def test_the_background_point_differs_between_seeds_annotations_and_distances():
    mask = np.zeros((101, 101), bool)
    mask[50, 50] = True
    draws = {
        tuple(made(name, mask, number, seed) - 50)
        for name in ("two-point-40", "two-point-41")
        for number in (1, 2)
        for seed in (0, 1)
    }
    assert len(draws) == 8


def test_prompts_for_a_model():
    boxes = to_prompts(prompt_sampler("box"), np.array([[3, 2, 8, 7]], np.float32))
    assert boxes.points is None
    assert boxes.boxes.tolist() == [[3, 2, 8, 7]]
    values = np.array([[1, 2, 3, 4], [5, 6, 7, 8]], np.float32)
    pairs = to_prompts(prompt_sampler("two-point-9"), values)
    assert pairs.boxes is None
    assert pairs.points.tolist() == [[[1, 2], [3, 4]], [[5, 6], [7, 8]]]
    assert pairs.labels.tolist() == [[1, 0], [1, 0]]
    assert to_prompts(prompt_sampler("random-2"), values).labels.tolist() == [[1, 1], [1, 1]]
    single = to_prompts(prompt_sampler("center"), values[:, :2])
    assert single.points.shape == (2, 1, 2)


@pytest.mark.parametrize("shape", [(2, 4), (2,), (2, 3, 2)])
def test_values_of_another_sampler_are_rejected(shape):
    with pytest.raises(UsageError, match=r"random-3 prompts have 6 columns; got shape"):
        to_prompts(prompt_sampler("random-3"), np.zeros(shape, np.float32))


PERCENTS = st.one_of(st.integers(1, 100), st.sampled_from([2.5, 33.125, 99.999]))


def within_image(values, mask):
    return np.clip(values, 0, np.array(mask.shape[::-1] * (len(values) // 2), np.float32))


@QUICK
@given(MASKS, IDS, IDS, PERCENTS)
def test_a_moved_box_is_valid_and_stays_within_its_percentage(mask, number, seed, percent):
    assume(mask.any())
    clean = made("box", mask)
    box = made(f"box-jitter-{percent:g}", mask, number, seed)
    reach = percent / 100 * np.tile(clean[2:] - clean[:2], 2)
    assert box.dtype == np.float32
    assert (box[2:] > box[:2]).all()
    assert (np.abs(box.astype(float) - clean) <= reach + 1e-5).all()
    assert np.array_equal(box, within_image(box, mask))
    assert np.array_equal(box, made(f"box-jitter-{percent:g}", mask, number, seed))


@QUICK
@given(MASKS, IDS, IDS, PERCENTS)
def test_a_moved_point_stays_within_its_percentage(mask, number, seed, percent):
    assume(mask.any())
    box, clean = made("box", mask), made("center", mask)
    point = made(f"point-offset-{percent:g}", mask, number, seed)
    assert (np.abs(point - clean) <= percent / 100 * (box[2:] - box[:2]) + 1e-5).all()
    assert (point >= 0).all()
    assert (point <= np.array(mask.shape[::-1]) - 1).all()


@QUICK
@given(MASKS, IDS, IDS)
def test_no_disturbance_is_the_clean_prompt(mask, number, seed):
    assume(mask.any())
    each = instance_of(mask, number)
    for family, clean in (("box-jitter", "box"), ("point-offset", "center")):
        still = PromptSampler(f"{family}-0", family, 0).sample(each, mask, seed)
        assert np.array_equal(still, made(clean, mask, number, seed))


def test_a_box_that_reaches_out_of_the_image_moves_no_further_out():
    mask = square()
    out = Instance(3, "", 25.0, np.array([-0.5, 2, 11.25, 7], np.float32), encode_mask(mask))
    boxes = [prompt_sampler("box-jitter-50").sample(out, mask, seed) for seed in range(50)]
    assert min(box[0] for box in boxes) == -0.5
    assert max(box[2] for box in boxes) == 11.25
    assert np.array_equal(PromptSampler("", "box-jitter", 0).sample(out, mask, 0), out.box)


def test_a_box_without_area_ends_the_draws():
    mask = square()
    flat = Instance(3, "", 25.0, np.array([4, 2, 4, 7], np.float32), encode_mask(mask))
    assert prompt_sampler("box-jitter-50").sample(flat, mask, 0).tolist() == [4, 2, 4, 7]


def test_disturbances_of_different_percentages_are_scaled_and_cover_their_range():
    mask = np.zeros((300, 300), bool)
    mask[100:200, 100:200] = True
    clean = made("box", mask)
    moves = np.array([made("box-jitter-20", mask, 1, seed) - clean for seed in range(400)])
    half = np.array([made("box-jitter-10", mask, 1, seed) - clean for seed in range(400)])
    assert np.allclose(moves, 2 * half, atol=1e-3)
    assert len({tuple(move) for move in moves.tolist()}) == 400
    # The mean of 400 uniform numbers from -20 to 20 has a standard error of 0.58.
    assert np.abs(moves.mean(axis=0)).max() < 2.5
    assert np.abs(moves).max() > 19.5
    counts, _ = np.histogram(moves, 8, (-20, 20))
    # Chi-square with 7 degrees of freedom: 1 in 10,000 lies above 30.
    assert ((counts - 200) ** 2 / 200).sum() < 30


def test_disturbed_prompts_do_not_change():
    assert made("box-jitter-20", square(), 17, 4).tolist() == pytest.approx(
        [3.2189, 1.5751, 7.0048, 7.6156], abs=1e-3
    )
    assert made("point-offset-20", square(), 17, 4).tolist() == pytest.approx(
        [5.0964, 3.93], abs=1e-3
    )


def test_masks_need_the_frame_of_the_model():
    with pytest.raises(UsageError, match="mask prompts need the mask frame"):
        to_prompts(prompt_sampler("mask"), np.zeros((1, 256), np.float32))
