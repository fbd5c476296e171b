"""The dummy: its masks, scores and delays are exactly the documented ones."""

import time

import numpy as np
import pytest

from baselines.dummy import (
    DEFAULT_DELAYS_MS,
    MULTI,
    SINGLE,
    DummySegmenter,
    build,
    kept_columns,
    wait_until,
)
from baselines.interface import Embedding, Masks, ModelOptions, Prompts
from mobilesam.errors import UnsupportedError, UsageError

IMAGE = np.zeros((48, 64, 3), np.uint8)


def silent(answer="prompt") -> DummySegmenter:
    return DummySegmenter(delays_ms={}, answer=answer)


def answer_of(model, prompts, image=IMAGE, **kwargs) -> Masks:
    return model.decode(model.encode(model.prepare(image)), prompts, **kwargs)


def iou(a, b) -> float:
    return np.count_nonzero(a & b) / np.count_nonzero(a | b)


@pytest.mark.parametrize("width", [1, 3, 4, 20, 21])
def test_iou_with_the_box_is_the_documented_one(width):
    box = np.zeros((48, 64), bool)
    box[5:11, 7 : 7 + width] = True
    prompts = Prompts(boxes=np.array([[7, 5, 7 + width, 11]]))
    single = answer_of(silent(), prompts)
    assert single.masks.shape == (1, 1, 48, 64)
    assert iou(single.masks[0, 0], box) == kept_columns(SINGLE, width) / width
    multi = answer_of(silent(), prompts, multimask=True)
    ious = [iou(mask, box) for mask in multi.masks[0]]
    assert ious == [kept_columns(each, width) / width for each in MULTI]
    assert multi.scores[0].tolist() == pytest.approx([each.score for each in MULTI])


def test_first_most_confident_and_best_candidate_all_differ():
    assert kept_columns(SINGLE, 20) == 15
    assert [kept_columns(each, 20) for each in MULTI] == [10, 16, 19]
    assert int(np.argmax([each.score for each in MULTI])) == 1


def test_disc_lies_around_the_first_foreground_point_and_is_cut():
    prompts = Prompts(
        points=np.array([[[30, 20], [3, 4]], [[3, 4], [30, 20]], [[500, 500], [0, 0]]]),
        labels=np.array([[1, 1], [0, 1], [1, 0]]),
    )
    found = answer_of(silent(), prompts)
    y, x = np.ogrid[:48, :64]
    disc = (x - 30) ** 2 + (y - 20) ** 2 <= SINGLE.radius_px**2
    np.testing.assert_array_equal(found.masks[0, 0], disc)
    np.testing.assert_array_equal(found.masks[1, 0], disc)
    assert not found.masks[2].any()
    assert found.scores[:, 0].tolist() == pytest.approx([SINGLE.score, SINGLE.score, 0])


def test_other_answers():
    boxes = Prompts(boxes=np.array([[10, 10, 14, 12], [-9, -9, -1, -1], [60, 40, 99, 99]]))
    whole = answer_of(silent("box"), boxes).masks[:, 0]
    assert [np.count_nonzero(mask) for mask in whole] == [8, 0, 4 * 8]
    assert not answer_of(silent("empty"), boxes, multimask=True).masks.any()
    disc = answer_of(silent("disc"), Prompts(boxes=np.array([[20, 10, 41, 31]]))).masks[0, 0]
    assert disc[20, 30 + 10]
    assert not disc[20, 30 + 11]
    points = Prompts(points=np.array([[[3, 3]]]), labels=np.array([[0]]))
    assert not answer_of(silent(), points).masks.any()


def test_answer_may_be_a_function():
    def always(prompts, size_hw, multimask):
        count = 3 if multimask else 1
        return Masks(
            np.ones((len(prompts), count, *size_hw), bool), np.ones((len(prompts), count), "f4")
        )

    prompts = Prompts(boxes=np.array([[1, 1, 2, 2]]))
    assert answer_of(silent(always), prompts, multimask=True).masks.all()


def test_everything_tiles_the_image():
    for shape in ((48, 64), (7, 5), (1, 9), (1, 1)):
        records = silent().everything(np.zeros((*shape, 3), np.uint8))
        np.testing.assert_array_equal(sum(each.mask.astype(int) for each in records), 1)
        for each in records:
            x0, y0, x1, y1 = each.box.astype(int)
            assert np.count_nonzero(each.mask) == (x1 - x0) * (y1 - y0) > 0


def test_refusals():
    model = build(ModelOptions("dummy"))
    assert model.info.name == "dummy"
    assert model.info.weights.kind == "none"
    prompts = Prompts(boxes=np.array([[1, 1, 2, 2]]))
    with pytest.raises(UsageError, match="made by other"):
        model.decode(Embedding(None, (4, 4), "other"), prompts)
    with pytest.raises(UnsupportedError, match="masks"):
        model.decode(
            Embedding(None, (4, 4), "dummy"),
            Prompts(boxes=prompts.boxes, mask_inputs=np.zeros((1, 1, 4, 4))),
        )
    with pytest.raises(UsageError, match="'sleep'"):
        DummySegmenter(delays_ms={"sleep": 1})
    with pytest.raises(UsageError, match="'encode': -1"):
        DummySegmenter(delays_ms={"encode": -1})
    with pytest.raises(UsageError, match="'nonsense'"):
        DummySegmenter(answer="nonsense")


def shortest_ms(call, repeats=15) -> float:
    """The fastest of several calls: a busy machine can only add time."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter_ns()
        call()
        times.append((time.perf_counter_ns() - start) / 1e6)
    return min(times)


@pytest.mark.parametrize("delay_ms", [0.1, 1.5, 6.0])
def test_delays_are_accurate(delay_ms):
    took = shortest_ms(lambda: wait_until(time.perf_counter_ns(), delay_ms))
    assert delay_ms <= took < delay_ms + 0.2


def test_every_phase_takes_its_own_delay():
    model = build(ModelOptions("dummy"))
    image = np.zeros((8, 8, 3), np.uint8)
    prepared = model.prepare(image)
    embedding = model.encode(prepared)
    prompts = Prompts(boxes=np.array([[1, 1, 2, 2]] * 10))
    delays = DEFAULT_DELAYS_MS
    decode_ms = delays["decode"] + 10 * delays["decode_per_prompt"]
    for call, wanted in (
        (lambda: model.prepare(image), delays["prepare"]),
        (lambda: model.encode(prepared), delays["encode"]),
        (lambda: model.decode(embedding, prompts), decode_ms),
    ):
        assert wanted <= shortest_ms(call) < wanted + 0.2
