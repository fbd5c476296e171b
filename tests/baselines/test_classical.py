"""The box and GrabCut: pixels by definition, degenerate prompts, and independence of prompts."""

import cv2
import numpy as np
import pytest

from baselines.classical import BoxSegmenter, GrabCutSegmenter
from baselines.interface import Embedding, Masks, ModelOptions, Prompts
from baselines.pixels import box_pixels, fill_boxes, point_pixels
from mobilesam.errors import DataError, UnsupportedError, UsageError

BUILD = {"box": BoxSegmenter, "grabcut": GrabCutSegmenter}


def answer_of(name, image, prompts, **kwargs) -> Masks:
    model = BUILD[name](ModelOptions(name))
    return model.decode(model.encode(model.prepare(image)), prompts, **kwargs)


@pytest.fixture
def scene():
    """A red ellipse on a noisy green ground, (120, 160); and its mask."""
    noise = np.random.default_rng(3).integers(0, 60, (120, 160, 3), dtype=np.uint8)
    y, x = np.ogrid[:120, :160]
    mask = ((x - 90) / 40) ** 2 + ((y - 55) / 25) ** 2 <= 1
    image = noise + np.array((0, 120, 30), np.uint8)
    image[mask] = noise[mask] + np.array((180, 0, 0), np.uint8)
    return image, mask


def iou(a, b) -> float:
    return np.count_nonzero(a & b) / np.count_nonzero(a | b)


def test_box_holds_the_pixels_whose_centres_lie_in_it():
    rng = np.random.default_rng(0)
    corners = rng.uniform(-5, 15, (200, 2, 2)).astype(np.float32)
    corners[::3] = np.rint(corners[::3])
    boxes = np.concatenate((corners.min(axis=1), corners.max(axis=1) + 0.25), axis=1)
    found = answer_of("box", np.zeros((9, 12, 3), np.uint8), Prompts(boxes=boxes), multimask=True)
    assert found.masks.shape == (200, 1, 9, 12)
    for box, mask, score in zip(boxes, found.masks[:, 0], found.scores[:, 0], strict=True):
        wanted = np.array(
            [[box[0] <= x < box[2] and box[1] <= y < box[3] for x in range(12)] for y in range(9)]
        )
        np.testing.assert_array_equal(mask, wanted)
        assert score == wanted.any()


def test_points_lie_on_the_nearest_pixel_or_on_none():
    points = np.array([[-0.5, 0], [-0.51, 0], [11.49, 8.49], [11.5, 0], [1e30, -1e30], [3.2, 4.9]])
    pixels, inside = point_pixels(points.astype(np.float32), (9, 12))
    assert inside.tolist() == [True, False, True, False, False, True]
    assert pixels[inside].tolist() == [[0, 0], [11, 8], [3, 5]]
    assert (box_pixels(np.array([[-1e30, 2, 1e30, 3]], np.float32), (9, 12)) == [0, 2, 12, 3]).all()


def test_box_takes_no_points_and_looks_at_no_pixels():
    points = Prompts(points=np.array([[[1, 1]]]), labels=np.array([[1]]))
    with pytest.raises(UnsupportedError, match="box takes no points"):
        answer_of("box", np.zeros((4, 4, 3), np.uint8), points)
    with pytest.raises(UnsupportedError, match="everything"):
        BoxSegmenter(ModelOptions("box")).everything(np.zeros((4, 4, 3), np.uint8))


@pytest.mark.parametrize("name", BUILD)
def test_refusals(name):
    model = BUILD[name](ModelOptions(name))
    assert model.info.weights.kind == "none"
    prompts = Prompts(boxes=np.array([[0, 0, 2, 2]]))
    with pytest.raises(UsageError, match="made by other"):
        model.decode(Embedding(None, (4, 4), "other"), prompts)
    with pytest.raises(DataError):
        model.prepare(np.zeros((4, 4), np.uint8))
    with pytest.raises(UnsupportedError, match="masks"):
        answer_of(
            name,
            np.zeros((4, 4, 3), np.uint8),
            Prompts(boxes=prompts.boxes, mask_inputs=np.zeros((1, 1, 4, 4))),
        )


@pytest.mark.parametrize("zoom", [1, 5])
def test_grabcut_finds_an_object_from_a_box_and_from_a_point(scene, zoom):
    image, mask = (each.repeat(zoom, 0).repeat(zoom, 1) for each in scene)
    box = np.array([[45, 25, 136, 86]]) * zoom
    found = answer_of("grabcut", image, Prompts(boxes=box)).masks[0, 0]
    assert iou(found, mask) > 0.95
    assert not (found & ~fill_boxes(box, mask.shape)[0]).any()
    point = Prompts(points=np.array([[[90, 55]]]) * zoom, labels=np.array([[1]]))
    assert iou(answer_of("grabcut", image, point).masks[0, 0], mask) > 0.95


def test_grabcut_keeps_only_the_part_that_a_point_is_on(scene):
    image, mask = scene
    twice = np.concatenate((image, image), axis=1)
    point = Prompts(points=np.array([[[90 + 160, 55]]]), labels=np.array([[1]]))
    found = answer_of("grabcut", twice, point).masks[0, 0]
    assert not found[:, :160].any()
    assert iou(found[:, 160:], mask) > 0.95


def test_grabcut_heeds_background_points(scene):
    image, _ = scene
    points = np.array([[[90, 55], [70, 50]]])
    both = answer_of("grabcut", image, Prompts(points=points, labels=np.array([[1, 0]])))
    assert both.masks[0, 0, 55, 90]
    assert not both.masks[0, 0, 50, 70]
    box = np.array([[45, 25, 136, 86]])
    hint = Prompts(points=points[:, 1:], labels=np.array([[0]]), boxes=box)
    assert not answer_of("grabcut", image, hint).masks[0, 0, 50, 70]


def test_grabcut_answers_do_not_depend_on_other_prompts():
    rng = np.random.default_rng(1)
    # More colours than GrabCut models, so that its random start decides which go together.
    image = rng.integers(0, 255, (12, 16, 3), dtype=np.uint8).repeat(10, 0).repeat(10, 1)
    low = rng.uniform(-20, 120, (12, 2))
    boxes = np.concatenate((low, low + rng.uniform(1, 80, (12, 2))), axis=1)
    together = answer_of("grabcut", image, Prompts(boxes=boxes)).masks
    assert 0 < np.count_nonzero(together) < together.size
    order = rng.permutation(12)
    cv2.setRNGSeed(12345)
    np.testing.assert_array_equal(
        answer_of("grabcut", image, Prompts(boxes=boxes[order])).masks, together[order]
    )
    alone = answer_of("grabcut", image, Prompts(boxes=boxes[5:6])).masks
    np.testing.assert_array_equal(alone, together[5:6])


@pytest.mark.parametrize("shape", [(1, 1), (2, 1), (40, 30), (30, 700)])
@pytest.mark.parametrize("plain", [True, False])
def test_grabcut_survives_degenerate_prompts(shape, plain):
    height, width = shape
    image = np.random.default_rng(2).integers(0, 255, (*shape, 3), dtype=np.uint8)
    if plain:
        image[:] = 77
    outside = [-30, -30, -2, -2]
    whole, pixel = [0, 0, width, height], [0, 0, 1, 1]
    beyond, sliver = [-50, -50, width + 50, height + 50], [0, 0, width, 1]
    boxes = np.array([outside, whole, pixel, beyond, sliver, pixel])
    found = answer_of("grabcut", image, Prompts(boxes=boxes), multimask=True)
    assert found.masks.shape == (6, 1, *shape)
    assert not found.masks[0].any()
    assert found.scores[:2, 0].tolist() == [0, 1]
    assert found.masks[1].all()
    assert found.masks[3].all()
    assert np.count_nonzero(found.masks[2]) == 1
    assert found.masks[2, 0, 0, 0]
    np.testing.assert_array_equal(found.masks[2], found.masks[5])
    points = np.array([[[-9, -9]], [[width, 0]], [[0, 0]], [[width - 1, height - 1]], [[0, 0]]])
    labels = np.array([[1], [1], [1], [1], [0]])
    found = answer_of("grabcut", image, Prompts(points=points, labels=labels))
    assert found.masks.any(axis=(1, 2, 3)).tolist() == [False, False, True, True, False]
    assert found.masks[2, 0, 0, 0]
    assert found.masks[3, 0, -1, -1]


def test_grabcut_falls_back_on_its_guess_when_the_object_collapses():
    # The object has the colours of the margin, so that GrabCut takes all for background.
    image = np.random.default_rng(4).integers(100, 104, (60, 60, 3), dtype=np.uint8)
    found = answer_of("grabcut", image, Prompts(boxes=np.array([[20, 20, 40, 40]]))).masks
    assert np.count_nonzero(found) >= 0.1 * 400


def test_grabcut_leaves_threads_and_caller_alone(scene):
    image, _ = scene
    before, threads = image.copy(), cv2.getNumThreads()
    model = GrabCutSegmenter(ModelOptions("grabcut"))
    embedding = model.encode(model.prepare(image))
    prompts = Prompts(boxes=np.array([[45, 25, 136, 86]]))
    first = model.decode(embedding, prompts).masks
    np.testing.assert_array_equal(image, before)
    assert cv2.getNumThreads() == threads
    image[:] = 0
    np.testing.assert_array_equal(model.decode(embedding, prompts).masks, first)
    readonly = before[:, ::-1]
    readonly.setflags(write=False)
    model.decode(model.encode(model.prepare(readonly)), prompts)
