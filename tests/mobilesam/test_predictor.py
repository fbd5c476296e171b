"""The drop-in predictor answers as segment-anything's, and its plain functions as the drop-in."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import pickle
import subprocess
import sys
import threading
import time
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from segment_anything import SamPredictor
from segment_anything.modeling import Sam
from torch import Tensor

from mobilesam.errors import BenchError, DataError, UsageError, WeightsError
from mobilesam.everything.generator import AutomaticMaskGenerator
from mobilesam.fast.inference import FastMobileSam
from mobilesam.model.mobile_sam import build_mobile_sam, load_mobile_sam
from mobilesam.model.tiny_vit import TinyVitConfig
from mobilesam.predictor import ENCODE_BATCH, ImageNotSetError, MobileSam
from mobilesam.prompts import NetworkPrompts

SIDE_PX = 128
LOW_PX = SIDE_PX // 4
CONFIG = TinyVitConfig(
    embed_dims=(8, 16, 20, 40), num_heads=(1, 2, 2, 4), image_size_px=SIDE_PX, n_classes=None
)
SIZES_HW = ((60, 90), (301, 200), (7, 5), (128, 128))


class PlainNetwork:
    """segment-anything's own modules, in the shape that `MobileSam` wants."""

    def __init__(self, sam: Sam) -> None:
        self.sam = sam
        self.n_prepared = 0

    def encode(self, pixels: Tensor) -> Tensor:
        found: Tensor = self.sam.image_encoder(pixels)
        return found

    def prepare(self, embedding: Tensor) -> Tensor:
        self.n_prepared += 1
        return embedding

    def decode(
        self, embedding: Tensor, prompts: NetworkPrompts, *, multimask: bool | str = False
    ) -> tuple[Tensor, Tensor]:
        points, labels, boxes, mask_inputs = prompts
        sparse, dense = self.sam.prompt_encoder(
            points=None if points is None else (points, labels), boxes=boxes, masks=mask_inputs
        )
        logits, scores = self.sam.mask_decoder.predict_masks(
            image_embeddings=embedding,
            image_pe=self.sam.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
        )
        chosen = slice(None) if multimask == "both" else slice(1, None) if multimask else slice(1)
        return logits[:, chosen], scores[:, chosen]


@pytest.fixture(scope="module")
def sam() -> Sam:
    """Small images, and heads whose weights are large enough to tell prompts apart."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        model = build_mobile_sam(CONFIG)
        for name, parameter in model.mask_decoder.named_parameters():
            if name.endswith("weight") and parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=1.5 / parameter.shape[1] ** 0.5)
    return model


@pytest.fixture(scope="module")
def plain(sam: Sam) -> MobileSam:
    return MobileSam(sam, PlainNetwork(sam))


def picture(size_hw: tuple[int, int], seed: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (*size_hw, 3), dtype=np.uint8)


def arguments(kind: tuple[str, ...], size_hw: tuple[int, int]) -> dict[str, Any]:
    """What `predict` takes, of these kinds."""
    rng = np.random.default_rng(4)
    size = np.array(size_hw[::-1])
    corner = rng.uniform(0, 0.5, 2) * size
    known: dict[str, dict[str, Any]] = {
        "points": {"point_coords": rng.uniform(0, 1, (3, 2)) * size, "point_labels": [1, 0, 1]},
        "box": {"box": np.concatenate((corner, corner + size / 3))},
        "mask": {"mask_input": rng.normal(0, 4, (1, LOW_PX, LOW_PX)).astype(np.float32)},
    }
    found: dict[str, Any] = {}
    for name in kind:
        found.update(known[name])
    if "point_labels" in found:
        found["point_labels"] = np.array(found["point_labels"])
    return found


KINDS = [
    kind
    for length in range(4)
    for kind in itertools.combinations(("points", "box", "mask"), length)
]


@pytest.mark.parametrize("size_hw", SIZES_HW, ids=str)
def test_every_combination_of_arguments_answers_as_sam_predictor(
    sam: Sam, plain: MobileSam, size_hw: tuple[int, int]
) -> None:
    theirs = SamPredictor(sam)
    image = picture(size_hw)
    theirs.set_image(image)
    plain.set_image(image)
    assert torch.equal(plain.get_image_embedding(), theirs.get_image_embedding())
    for kind, multimask, return_logits in itertools.product(KINDS, (False, True), (False, True)):
        given = arguments(kind, size_hw)
        options = {"multimask_output": multimask, "return_logits": return_logits}
        expected = theirs.predict(**given, **options)
        found = plain.predict(**given, **options)
        for ours, reference in zip(found, expected, strict=True):
            assert (ours.dtype, ours.shape) == (reference.dtype, reference.shape), kind
        assert np.array_equal(found[1], expected[1]), kind
        assert np.array_equal(found[2], expected[2]), kind
        same_picture(found[0], expected[0])
    masks = plain.predict(**arguments(("points",), size_hw))[0]
    assert 0.02 < masks.mean() < 0.98  # or any two were alike


def same_picture(found: np.ndarray, expected: np.ndarray) -> None:
    """Logits to rounding; masks but for pixels that rounding decides."""
    if found.dtype == np.bool_:
        assert np.mean(found != expected) < 1e-3
    else:
        np.testing.assert_allclose(found, expected, atol=1e-5 * np.ptp(expected), rtol=0)


def test_the_fast_path_is_the_default_and_answers_alike(sam: Sam) -> None:
    ours, theirs = MobileSam(sam), SamPredictor(sam)
    image = picture((90, 61))
    ours.set_image(image)
    theirs.set_image(image)
    expected_features = theirs.get_image_embedding()
    torch.testing.assert_close(ours.get_image_embedding(), expected_features, atol=1e-4, rtol=0)
    for kind in KINDS:
        given = arguments(kind, (90, 61))
        masks, scores, logits = ours.predict(**given)
        expected = theirs.predict(**given)
        np.testing.assert_allclose(logits, expected[2], atol=1e-3 * np.ptp(expected[2]))
        np.testing.assert_allclose(scores, expected[1], atol=1e-3)
        assert np.mean(masks != expected[0]) < 5e-3


@pytest.mark.parametrize("image_format", ["RGB", "BGR"])
def test_both_orders_of_channels(sam: Sam, plain: MobileSam, image_format: str) -> None:
    theirs = SamPredictor(sam)
    theirs.set_image(picture((50, 40)), image_format)
    plain.set_image(picture((50, 40)), image_format)
    assert torch.equal(plain.get_image_embedding(), theirs.get_image_embedding())
    assert plain.original_size == theirs.original_size
    assert plain.input_size == theirs.input_size


def test_torch_images_and_batches_of_torch_prompts(sam: Sam, plain: MobileSam) -> None:
    theirs = SamPredictor(sam)
    size_hw = (50, 70)
    image = torch.from_numpy(picture(size_hw)).permute(2, 0, 1)[None].float()
    resized = theirs.transform.apply_image_torch(image)
    assert torch.equal(plain.transform.apply_image_torch(image), resized)
    theirs.set_torch_image(resized, size_hw)
    plain.set_torch_image(resized, size_hw)
    points = torch.tensor([[[3.0, 4.0]], [[90.0, 60.0]], [[20.0, 70.0]]])
    labels = torch.ones(3, 1, dtype=torch.int)
    boxes = theirs.transform.apply_boxes_torch(
        torch.tensor([[1, 2, 30, 40], [5, 5, 60, 45], [0, 0, 9, 9]]), size_hw
    )
    for given in ((points, labels, None), (None, None, boxes), (points, labels, boxes)):
        found = plain.predict_torch(*given, multimask_output=False)
        expected = theirs.predict_torch(*given, multimask_output=False)
        assert torch.equal(found[1], expected[1])
        assert torch.equal(found[2], expected[2])
        same_picture(found[0].numpy(), expected[0].numpy())


def test_results_of_the_fast_path_may_be_written_to(sam: Sam) -> None:
    model = MobileSam(sam)
    model.set_image(picture((30, 30)))
    answers = model.predict_torch(None, None, torch.tensor([[1.0, 1, 90, 90]]), return_logits=True)
    for tensor in (*answers, model.get_image_embedding()):
        tensor += 1


def test_plain_functions_answer_as_the_drop_in(plain: MobileSam) -> None:
    size_hw = (60, 90)
    embedding = plain.encode(picture(size_hw))
    assert embedding.size_hw == size_hw
    given = [arguments(("points", "box", "mask"), size_hw)]
    given.append({**given[0], "box": given[0]["box"] + 4, "point_labels": np.array([0, 1, 1])})
    stacked = {
        name: np.stack([each[key] for each in given])
        for name, key in (
            ("points", "point_coords"),
            ("labels", "point_labels"),
            ("boxes", "box"),
            ("mask_inputs", "mask_input"),
        )
    }
    plain.set_image(picture(size_hw))
    both = plain.decode(embedding, **stacked, multimask="both")
    assert both.masks.shape == (2, 4, *size_hw)
    for multimask, candidates in ((False, slice(0, 1)), (True, slice(1, 4))):
        found = plain.decode(embedding, **stacked, multimask=multimask)
        for row, each in enumerate(given):
            masks, scores, logits = plain.predict(**each, multimask_output=multimask)
            np.testing.assert_allclose(found.scores[row], scores, atol=1e-5)
            np.testing.assert_allclose(found.low_res_logits[row], logits, atol=1e-3)
            assert np.mean(found.masks[row] != masks) < 1e-3
        np.testing.assert_allclose(both.low_res_logits[:, candidates], found.low_res_logits)


def test_a_batch_of_images_is_encoded_as_each_of_them(plain: MobileSam) -> None:
    sizes = [SIZES_HW[index % len(SIZES_HW)] for index in range(ENCODE_BATCH + 1)]
    images = [picture(size, seed) for seed, size in enumerate(sizes)]
    found = plain.encode_batch(images)
    assert [each.size_hw for each in found] == sizes
    for each, image in zip(found, images, strict=True):
        torch.testing.assert_close(each.features, plain.encode(image).features, atol=1e-5, rtol=0)


def test_what_prompts_share_is_computed_once_an_image(sam: Sam) -> None:
    network = PlainNetwork(sam)
    model = MobileSam(sam, network)
    first, second = model.encode_batch([picture((20, 20)), picture((20, 20), 9)])
    boxes = np.array([[1, 1, 9, 9]])
    answers = [model.decode(each, boxes=boxes) for each in (first, first, second, first)]
    assert network.n_prepared == 3
    assert np.array_equal(answers[0].low_res_logits, answers[3].low_res_logits)
    assert not np.array_equal(answers[0].low_res_logits, answers[2].low_res_logits)
    model.set_image(picture((20, 20), 9))
    assert network.n_prepared == 4
    model.predict(box=boxes[0])
    assert network.n_prepared == 4


def test_without_an_image_nothing_is_predicted(plain: MobileSam) -> None:
    plain.set_image(picture((20, 20)))
    assert plain.is_image_set
    plain.reset_image()
    assert not plain.is_image_set
    assert plain.features is None
    for call in (plain.predict, plain.get_image_embedding, lambda: plain.predict_torch(None, None)):
        # SamPredictor raises a RuntimeError, which programs may catch.
        with pytest.raises(RuntimeError, match="set_image") as caught:
            call()
        assert isinstance(caught.value, BenchError)


def test_a_refused_image_leaves_the_former_one(plain: MobileSam) -> None:
    plain.set_image(picture((20, 20)))
    with pytest.raises(DataError):
        plain.set_image(np.zeros((20, 20), np.uint8))
    assert plain.original_size == (20, 20)


@pytest.mark.parametrize(
    ("image", "what"),
    [
        (np.zeros((9, 9), np.uint8), "repeat the grey channel"),
        (np.zeros((9, 9, 1), np.uint8), "repeat the grey channel"),
        (np.zeros((9, 9, 4), np.uint8), "three colours"),
        (np.zeros((0, 9, 3), np.uint8), "no pixel"),
        (np.full((9, 9, 3), np.nan), "as uint8"),
        (np.zeros((1, 300, 3), np.uint8), "too thin"),
        ([[0]], "not a list"),
    ],
)
def test_bad_images_are_refused_with_their_cure(plain: MobileSam, image: Any, what: str) -> None:
    for call in (plain.encode, plain.set_image):
        with pytest.raises(DataError, match=what):
            call(image)


@pytest.mark.parametrize(
    ("given", "what"),
    [
        ({"point_coords": np.zeros((1, 2))}, "points and labels go together"),
        ({"point_coords": np.array([[np.nan, 1]]), "point_labels": np.ones(1)}, "NaN"),
        ({"point_coords": np.zeros((2, 2)), "point_labels": np.ones(1)}, "do not match"),
        ({"point_coords": np.zeros(2), "point_labels": np.ones(1)}, "3 dimensions"),
        ({"box": np.array([1, 2, 3])}, "last of size 4"),
        ({"box": np.array([1, 2, np.inf, 4])}, "NaN or infinity"),
        ({"mask_input": np.full((1, LOW_PX, LOW_PX), np.nan)}, "mask_inputs of prompt 0"),
    ],
)
def test_bad_prompts_are_refused(plain: MobileSam, given: dict[str, Any], what: str) -> None:
    plain.set_image(picture((20, 20)))
    with pytest.raises(UsageError, match=what):
        plain.predict(**given)


@pytest.mark.parametrize(
    ("given", "what"),
    [
        ({}, "no prompt"),
        ({"points": np.zeros((2, 0, 2)), "labels": np.zeros((2, 0))}, "no prompt"),
        (
            {"boxes": np.ones((1, 4)), "points": np.zeros((2, 1, 2)), "labels": np.ones((2, 1))},
            "differ in number",
        ),
    ],
)
def test_decode_refuses_no_prompts(plain: MobileSam, given: dict[str, Any], what: str) -> None:
    embedding = plain.encode(picture((20, 20)))
    with pytest.raises(UsageError, match=what):
        plain.decode(embedding, **given)


def test_other_misuse_is_named(plain: MobileSam) -> None:
    with pytest.raises(UsageError, match="RGB or BGR"):
        plain.set_image(picture((20, 20)), "HSV")
    with pytest.raises(UsageError, match="long side of 128"):
        plain.set_torch_image(torch.zeros(1, 3, 64, 32), (64, 32))


def test_a_decoder_that_answers_nan_is_not_believed(sam: Sam) -> None:
    class Broken(PlainNetwork):
        def decode(self, *given: Any, **named: Any) -> tuple[Tensor, Tensor]:
            logits, scores = super().decode(*given, **named)
            return logits, scores * float("nan")

    model = MobileSam(sam, Broken(sam))
    with pytest.raises(WeightsError, match="fp32"):
        model.decode(model.encode(picture((20, 20))), boxes=np.array([[1, 1, 9, 9]]))
    model.set_image(picture((20, 20)))
    with pytest.raises(WeightsError, match="NaN or infinity"):
        model.predict_torch(None, None, torch.tensor([[1.0, 1, 9, 9]]))


def test_a_checkpoint_is_found_or_named(tmp_path: Any) -> None:
    with pytest.raises(WeightsError, match="nowhere"):
        MobileSam.from_checkpoint(tmp_path / "nowhere.pt")


def test_mask_prompts_of_another_size_are_named() -> None:
    model = MobileSam(build_mobile_sam(CONFIG))
    model.set_image(np.zeros((60, 90, 3), np.uint8))
    with pytest.raises(UsageError, match=r"mask prompts must be \(1, 32, 32\).*got \(1, 64, 64\)"):
        model.predict(mask_input=np.zeros((1, 64, 64), np.float32))
    embedding = model.encode(np.zeros((60, 90, 3), np.uint8))
    with pytest.raises(UsageError, match=r"got \(1, 64, 64\)"):
        model.decode(embedding, mask_inputs=np.zeros((2, 1, 64, 64), np.float32))


def test_an_embedding_that_was_written_to_is_looked_at_again() -> None:
    """As with SamPredictor, whose features callers average or blend."""
    model = MobileSam(build_mobile_sam(CONFIG))
    embedding = model.encode(np.zeros((60, 90, 3), np.uint8))
    box = np.array([[10, 10, 50, 40]])
    before = model.decode(embedding, boxes=box).low_res_logits
    embedding.features.mul_(3)
    after = model.decode(embedding, boxes=box).low_res_logits
    fresh = MobileSam(model.model).decode(embedding, boxes=box).low_res_logits
    assert not np.array_equal(before, after)
    np.testing.assert_allclose(after, fresh, atol=1e-5)


@pytest.fixture
def fast(sam: Sam) -> MobileSam:
    """On the fast path, with an image set."""
    model = MobileSam(sam)
    model.set_image(picture((60, 90)))
    return model


def all_answers(model: MobileSam) -> list[np.ndarray]:
    """Of the image that is set, for every kind of prompt."""
    return [each for kind in KINDS for each in model.predict(**arguments(kind, (60, 90)))]


def equal(found: list[np.ndarray], expected: list[np.ndarray]) -> bool:
    return all(np.array_equal(*each) for each in zip(found, expected, strict=True))


@pytest.mark.parametrize(
    "copied",
    [copy.copy, copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))],
    ids=["copy", "deepcopy", "pickle"],
)
def test_copies_answer_alike(fast: MobileSam, plain: MobileSam, copied: Any) -> None:
    expected = all_answers(fast)
    twin = copied(fast)
    assert equal(all_answers(twin), expected)
    twin.set_image(picture((60, 90), 8))
    assert not equal(all_answers(twin), expected)
    assert equal(all_answers(fast), expected)
    generator = copied(AutomaticMaskGenerator(fast, points_per_side=2, pred_iou_thresh=-9.0))
    assert isinstance(generator.generate(picture((30, 40))), list)
    copied(plain)


def test_a_pickled_predictor_answers_in_another_process(fast: MobileSam, tmp_path: Any) -> None:
    (tmp_path / "model.pickle").write_bytes(pickle.dumps(fast))
    code = """
import pickle, sys, numpy as np, torch
torch.set_num_threads(1)
model = pickle.load(open(sys.argv[1], "rb"))
np.save(sys.argv[2], model.predict(box=np.array([5, 5, 60, 40]))[2])
"""
    paths = [str(tmp_path / name) for name in ("model.pickle", "logits.npy")]
    subprocess.run([sys.executable, "-c", code, *paths], check=True)
    expected = fast.predict(box=np.array([5, 5, 60, 40]))[2]
    np.testing.assert_allclose(np.load(paths[1]), expected, atol=1e-5)


@pytest.mark.parametrize("set_before", [False, True], ids=["fresh", "reset"])
def test_an_image_can_be_set_from_features_that_were_kept(
    sam: Sam, fast: MobileSam, set_before: bool
) -> None:
    expected = all_answers(fast)
    model = MobileSam(sam)
    if set_before:
        model.set_image(picture((31, 17)))
        model.reset_image()
    assert fast.features is not None
    with torch.inference_mode():
        kept = fast.features.clone()  # which has no count of what was written into it
    model.features = kept
    model.original_size, model.input_size = fast.original_size, fast.input_size
    assert not model.is_image_set
    model.is_image_set = True
    assert equal(all_answers(model), expected)
    assert model.get_image_embedding() is kept


def test_a_reset_image_can_be_set_again_as_with_sam_predictor(fast: MobileSam) -> None:
    expected, kept = all_answers(fast), fast.features
    fast.reset_image()
    fast.features, fast.is_image_set = kept, True
    assert equal(all_answers(fast), expected)


def test_half_an_image_is_no_image(sam: Sam) -> None:
    model = MobileSam(sam)
    with pytest.raises(ImageNotSetError, match="no original_size"):
        _ = model.original_size
    model.is_image_set = True
    with pytest.raises(ImageNotSetError, match="incomplete without features"):
        model.predict(box=[1, 2, 3, 4])
    model.features = torch.zeros(1, 256, 8, 9)
    model.original_size, model.input_size = (60, 90), (85, 128)
    with pytest.raises(UsageError, match=r"the embedding is \(1, 256, 8, 9\)"):
        model.predict(box=[1, 2, 3, 4])


def test_one_mask_prompt_is_taken_for_many_boxes(sam: Sam, fast: MobileSam) -> None:
    theirs = SamPredictor(sam)
    theirs.set_image(picture((60, 90)))
    boxes = torch.tensor([[1.0, 2, 30, 40], [5, 5, 60, 45], [0, 0, 9, 9]])
    mask = torch.from_numpy(arguments(("mask",), (60, 90))["mask_input"])[None]
    found = fast.predict_torch(None, None, boxes, mask)
    expected = theirs.predict_torch(None, None, boxes, mask)
    for ours, reference in zip(found[1:], expected[1:], strict=True):
        torch.testing.assert_close(ours, reference, atol=1e-3 * float(reference.std()), rtol=1e-3)
    repeated = fast.predict_torch(None, None, boxes, mask.expand(3, -1, -1, -1))
    for ours, reference in zip(found[1:], repeated[1:], strict=True):
        torch.testing.assert_close(ours, reference, atol=1e-4, rtol=1e-4)
    embedding = fast.encode(picture((60, 90)))
    one, many = (
        fast.decode(embedding, boxes=boxes, mask_inputs=each)  # type: ignore[arg-type]
        for each in (mask, mask.expand(3, -1, -1, -1))
    )
    np.testing.assert_allclose(one.low_res_logits, many.low_res_logits, atol=1e-4, rtol=1e-4)
    with pytest.raises(UsageError, match="differ in number"):
        fast.predict_torch(None, None, boxes, mask.expand(2, -1, -1, -1))


@pytest.mark.parametrize(
    ("given", "what"),
    [
        ({"point_coords": torch.ones(1, 2), "point_labels": torch.ones(1)}, "points must have 3"),
        ({"boxes": torch.ones(4)}, "boxes must have 2 dim.*one row for each prompt"),
        ({"boxes": torch.ones(2, 4), "mask_input": torch.ones(1, 32, 32)}, "mask_inputs must have"),
        ({"point_coords": torch.ones(2, 1, 2), "point_labels": torch.ones(1, 1)}, "differ in num"),
        ({"point_coords": torch.ones(1, 2, 2), "point_labels": torch.ones(1, 1)}, "do not match"),
        ({"point_coords": torch.ones(1, 1, 2), "point_labels": None}, "go together"),
        ({"boxes": torch.full((1, 4), torch.nan)}, "boxes of prompt 0 hold NaN"),
        ({"mask_input": torch.ones(1, 1, 64, 64)}, r"mask prompts must be \(1, 32, 32\)"),
    ],
)
def test_torch_prompts_without_a_batch_are_refused_at_once(
    fast: MobileSam, given: dict[str, Any], what: str
) -> None:
    with pytest.raises(UsageError, match=what) as caught:
        fast.predict_torch(**{"point_coords": None, "point_labels": None, **given})
    assert "\n" not in str(caught.value)


def test_boxes_of_one_more_dimension_are_taken_as_by_sam_predictor(fast: MobileSam) -> None:
    boxes = torch.tensor([[1.0, 2, 30, 40], [5, 5, 60, 45]])
    expected = fast.predict_torch(None, None, boxes)
    for shaped in (boxes[:, None], boxes.view(2, 2, 2)):
        assert all(map(torch.equal, fast.predict_torch(None, None, shaped), expected))


@pytest.mark.parametrize("multimask", [False, True, "both"])
def test_no_prompts_give_an_empty_answer(plain: MobileSam, fast: MobileSam, multimask: Any) -> None:
    n_masks = {False: 1, True: 3, "both": 4}[multimask]
    for model in (plain, fast):
        embedding = model.encode(picture((60, 90)))
        for given in (
            {"boxes": np.zeros((0, 4))},
            {"boxes": []},
            {"boxes": [], "mask_inputs": []},
            {"points": [], "labels": []},
            {"points": np.zeros((0, 3, 2)), "labels": np.zeros((0, 3))},
            {"boxes": np.zeros((0, 4)), "mask_inputs": np.zeros((0, 1, LOW_PX, LOW_PX))},
        ):
            found = model.decode(embedding, **given, multimask=multimask)  # type: ignore[arg-type]
            assert found.masks.shape == (0, n_masks, 60, 90)
            assert found.masks.dtype == np.bool_
            assert found.scores.shape == (0, n_masks)
            assert found.low_res_logits.shape == (0, n_masks, LOW_PX, LOW_PX)
        model.set_image(picture((60, 90)))
        masks, scores, logits = model.predict_torch(
            None, None, torch.zeros(0, 4), multimask_output=bool(multimask)
        )
        assert (len(masks), len(scores), len(logits)) == (0, 0, 0)


def test_lists_tensors_and_data_frames_are_taken_where_arrays_are(fast: MobileSam) -> None:
    points, labels, box = [[10, 20], [30, 5]], [1, 0], [5, 5, 60, 40]
    mask = arguments(("mask",), (60, 90))["mask_input"]
    expected = fast.predict(np.array(points), np.array(labels), np.array(box), mask)
    forms: list[Any] = [
        lambda values: values,
        lambda values: torch.tensor(values, dtype=torch.float32, requires_grad=True),
        lambda values: torch.tensor(values, dtype=torch.bfloat16),
        lambda values: pd.DataFrame(values, dtype=object),
        tuple,
    ]
    embedding = fast.encode(torch.from_numpy(picture((60, 90))))  # type: ignore[arg-type]
    assert fast.features is not None
    assert torch.equal(embedding.features, fast.features)
    for form in forms:
        given = form(points), pd.Series(labels), form([box]), torch.from_numpy(mask)
        assert equal(list(fast.predict(*given)), list(expected))
        found = fast.decode(
            embedding,
            points=form(points)[None] if isinstance(form(points), Tensor) else [points],  # type: ignore[arg-type]
            labels=pd.DataFrame([labels]),  # type: ignore[arg-type]
            boxes=form([box]),
            mask_inputs=torch.from_numpy(mask)[None],  # type: ignore[arg-type]
            multimask=True,
        )
        np.testing.assert_allclose(found.low_res_logits[0], expected[2], atol=1e-4)
    for bad in ([["a", "b"]], [[1, 2], [3]]):
        with pytest.raises(UsageError, match="points must be numbers"):
            fast.predict(bad, [1])  # type: ignore[arg-type]


def test_a_device_that_is_not_here_is_one_line(sam: Sam) -> None:
    calls = (
        lambda device: MobileSam.from_checkpoint(device=device),
        lambda device: FastMobileSam(sam, device=device),
        lambda device: load_mobile_sam(device=device),
    )
    for call, device in itertools.product(calls, ("cuda:99", "vulkan", "no-such-device")):
        with pytest.raises(UsageError, match=f"device '{device}' cannot be used here") as caught:
            call(device)
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 400


@pytest.mark.parametrize("size_hw", [(3000, 1), (1, 3000)])
def test_an_image_that_is_too_thin_leaves_the_former_one(
    fast: MobileSam, size_hw: tuple[int, int]
) -> None:
    with pytest.raises(DataError, match=rf"{size_hw[1]} x {size_hw[0]} pixels is too thin"):
        fast.set_image(np.zeros((*size_hw, 3), np.uint8))
    assert fast.original_size == (60, 90)


def test_what_is_no_sam_is_refused_at_once() -> None:
    for wrong in (object(), torch.nn.Linear(1, 1)):
        with pytest.raises(UsageError, match=f"Sam is needed, not a {type(wrong).__name__}"):
            MobileSam(wrong)


def test_weights_are_copied_whole(sam: Sam) -> None:
    """Training steps after that change nothing, where they once changed a part of it."""
    trained = copy.deepcopy(sam)
    model = MobileSam(trained)
    model.set_image(picture((60, 90)))
    expected = all_answers(model)
    with torch.no_grad():
        for value in (*trained.parameters(), *trained.buffers()):
            if value.is_floating_point() and value.numel() > 3:  # but the mean of pixels
                value.mul_(1.2)
    model.set_image(picture((60, 90)))
    assert equal(all_answers(model), expected)
    again = MobileSam(trained)
    again.set_image(picture((60, 90)))
    assert not equal(all_answers(again), expected)
    assert all(value.requires_grad for value in trained.mask_decoder.parameters())


def test_the_threshold_of_the_model_is_looked_up_as_by_sam_predictor(sam: Sam) -> None:
    model = MobileSam(copy.copy(sam))
    model.set_image(picture((60, 90)))
    logits = model.predict(box=[5, 5, 60, 40], return_logits=True)[0]
    model.model.mask_threshold = float(np.median(logits))
    masks = model.predict(box=[5, 5, 60, 40])[0]
    assert np.array_equal(masks, logits > np.float32(np.median(logits)))


@pytest.mark.slow
def test_a_hundred_images_leave_memory_flat() -> None:
    """In a process of its own, since a peak of earlier tests would hide any growth."""
    code = """
import numpy as np, psutil, torch
from mobilesam.model.mobile_sam import build_mobile_sam
from mobilesam.predictor import MobileSam
from mobilesam.model.tiny_vit import TinyVitConfig
from mobilesam.prompts import NetworkPrompts

torch.set_num_threads(1)
config = TinyVitConfig((8, 16, 20, 40), num_heads=(1, 2, 2, 4), image_size_px=64, n_classes=None)
model = MobileSam(build_mobile_sam(config))
rng = np.random.default_rng(0)
sizes, used = rng.integers(200, 900, (100, 2)), []
for height, width in sizes:
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    model.set_image(image)
    model.predict(point_coords=np.array([[5, 5]]), point_labels=np.array([1]))
    used.append(psutil.Process().memory_info().rss)
# By then the largest image that comes has most likely been met.
print(max(used[50:]) - max(used[:50]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    # One image is 0.2 to 2.4 MB, its masks as much and its logits several times that.
    assert int(done.stdout) < 8 * 2**20


def test_copies_share_weights_and_have_an_image_of_their_own(fast: MobileSam) -> None:
    fast.set_image(picture((60, 90)))
    features, own = fast.features, copy.copy(fast)
    assert own.network is fast.network
    assert own.features is features
    own.set_image(picture((30, 20)))
    assert fast.features is features
    assert (fast.original_size, own.original_size) == ((60, 90), (30, 20))
    own.reset_image()
    assert fast.is_image_set


@pytest.mark.parametrize("change", ["reset", "assign"])
def test_an_image_set_while_another_thread_changes_it_is_kept_whole(
    fast: MobileSam, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    model = copy.copy(fast)
    model.set_image(picture((60, 90)))
    reading, replace = threading.Event(), dataclasses.replace

    def slowly(image: Any, **attributes: Any) -> Any:
        reading.set()
        time.sleep(0.1)  # the other image is encoded by then
        return replace(image, **attributes)

    def other() -> None:
        reading.wait(10)
        model.set_image(picture((30, 20)))

    model.encode(picture((30, 20)))
    thread = threading.Thread(target=other)
    thread.start()
    monkeypatch.setattr("mobilesam.predictor.replace", slowly)
    if change == "reset":
        model.reset_image()
    else:
        model.features = None
    thread.join()
    assert model.is_image_set
    assert model.original_size == (30, 20)
    expected = MobileSam(fast.model, fast.network)
    expected.set_image(picture((30, 20)))
    assert torch.equal(model.get_image_embedding(), expected.get_image_embedding())


def test_no_thread_sees_an_image_that_is_assigned_in_parts(fast: MobileSam) -> None:
    model, box = copy.copy(fast), np.array([1.0, 2.0, 15.0, 16.0])
    model.set_image(picture((30, 20)))
    features, size_hw, inner_hw = model.features, model.original_size, model.input_size
    wanted = model.predict(box=box)
    model.set_image(picture((60, 90)))
    steps: list[tuple[str, Any]] = [
        ("features", features),
        ("original_size", size_hw),
        ("input_size", inner_hw),
    ]
    model.reset_image()
    for name, value in steps:
        setattr(model, name, value)
        with pytest.raises(ImageNotSetError):
            model.predict(box=box)
    model.is_image_set = True
    np.testing.assert_array_equal(model.predict(box=box)[0], wanted[0])
