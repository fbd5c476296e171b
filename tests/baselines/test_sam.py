"""The SAM adapters give what segment-anything's own predictor gives."""

from __future__ import annotations

import copy
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import segment_anything
import torch
from segment_anything import SamAutomaticMaskGenerator, SamPredictor, automatic_mask_generator

from baselines.interface import (
    Checkpoint,
    LogitMasks,
    ModelOptions,
    Prompts,
    Segmenter,
    SplitDecoder,
)
from baselines.registry import build, select
from baselines.sam import DECODE_BATCH, SamSegmenter
from mobilesam.errors import UsageError, WeightsError
from mobilesam.model.mobile_sam import build_mobile_sam
from mobilesam.model.tiny_vit import TinyVitConfig

SIZE_HW = (60, 90)
SIDE_PX = 256
CONFIG = TinyVitConfig(
    embed_dims=(8, 16, 20, 40), num_heads=(1, 2, 2, 4), image_size_px=SIDE_PX, n_classes=None
)


@pytest.fixture(scope="module")
def model() -> SamSegmenter:
    torch.manual_seed(1)
    network = build_mobile_sam(CONFIG)
    for name, parameter in network.mask_decoder.named_parameters():
        # Fresh decoders answer every prompt alike; larger weights make them tell prompts apart.
        if name.endswith("weight") and parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=1.5 / parameter.shape[1] ** 0.5)
    return SamSegmenter(network, ModelOptions("mobilesam"), family="MobileSAM")


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return np.random.default_rng(3).integers(0, 255, (*SIZE_HW, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def predictor(model: SamSegmenter, image: np.ndarray) -> SamPredictor:
    found = SamPredictor(model.model)
    found.set_image(image)
    return found


def some_prompts(kind: str, n: int) -> Prompts:
    rng = np.random.default_rng(5)
    low = rng.uniform(0, 40, (n, 2))
    boxes = np.concatenate([low, low + rng.uniform(5, 40, (n, 2))], axis=1).astype(np.float32)
    points = rng.uniform(0, 60, (n, 2, 2)).astype(np.float32)
    labels = rng.integers(0, 2, (n, 2))
    logits = rng.normal(0, 5, (n, 1, SIDE_PX // 4, SIDE_PX // 4)).astype(np.float32)
    return {
        "boxes": Prompts(boxes=boxes),
        "points": Prompts(points=points, labels=labels),
        "both": Prompts(points=points, labels=labels, boxes=boxes),
        "masks": Prompts(points=points, labels=labels, mask_inputs=logits),
    }[kind]


@pytest.mark.parametrize("multimask", [False, True])
@pytest.mark.parametrize("kind", ["boxes", "points", "both", "masks"])
def test_answers_are_those_of_sam_predictor(
    model: SamSegmenter, predictor: SamPredictor, image: np.ndarray, kind: str, multimask: bool
) -> None:
    prompts = some_prompts(kind, DECODE_BATCH + 1)
    embedding = model.encode(model.prepare(image))
    torch.testing.assert_close(embedding.payload, predictor.features, rtol=0, atol=1e-6)
    ours = model.decode(embedding, prompts, multimask=multimask)
    assert ours.low_res_logits is not None
    for row in range(len(prompts)):
        masks, scores, logits = predictor.predict(
            # Copies: the predictor wants arrays that it could write to.
            point_coords=None if prompts.points is None else prompts.points[row].copy(),
            point_labels=None if prompts.labels is None else prompts.labels[row].copy(),
            box=None if prompts.boxes is None else prompts.boxes[row].copy(),
            mask_input=None if prompts.mask_inputs is None else prompts.mask_inputs[row].copy(),
            multimask_output=multimask,
        )
        np.testing.assert_allclose(ours.low_res_logits[row], logits, atol=1e-3 * np.ptp(logits))
        np.testing.assert_allclose(ours.scores[row], scores, atol=1e-3)
        assert np.mean(ours.masks[row] != masks) < 1e-3
    assert ours.masks.any()
    assert not ours.masks.all()


def test_decode_is_its_two_halves(model: SamSegmenter, image: np.ndarray) -> None:
    assert isinstance(model, SplitDecoder)
    prompts = some_prompts("boxes", DECODE_BATCH + 2)
    embedding = model.encode(model.prepare(image))
    whole = model.decode(embedding, prompts)
    halves = model.postprocess(model.decode_logits(embedding, prompts))
    assert np.array_equal(whole.masks, halves.masks)
    np.testing.assert_array_equal(whole.scores, halves.scores)


def test_boxes_of_everything_end_behind_the_last_pixel(
    model: SamSegmenter, image: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    mask = np.zeros(SIZE_HW, np.bool_)
    mask[10:20, 30:50] = True

    class Generator:
        def __init__(self, network: object, points_per_side: int) -> None:
            assert network is model.model
            assert points_per_side == 32

        def generate(self, _: np.ndarray) -> list[dict[str, object]]:
            # What segment-anything's mask_to_box gives for these pixels.
            return [{"segmentation": mask, "predicted_iou": 0.9, "bbox": [30, 10, 19, 9]}]

    monkeypatch.setattr(automatic_mask_generator, "SamAutomaticMaskGenerator", Generator)
    (record,) = model.everything(image)
    assert record.box.tolist() == [30, 10, 50, 20]
    assert record.score == 0.9


def test_a_decoder_that_answers_nan_is_not_believed(
    model: SamSegmenter, image: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """segment-anything's generator would drop such masks, and find nothing."""
    broken = SamSegmenter(copy.deepcopy(model.model), ModelOptions("mobilesam"), family="MobileSAM")
    embedding = broken.encode(broken.prepare(image))
    torch.nn.init.constant_(broken.model.mask_decoder.iou_token.weight, float("nan"))
    monkeypatch.setattr(broken, "points_per_side", 2)
    calls = (
        lambda: broken.decode(embedding, some_prompts("boxes", 2)),
        lambda: broken.decode_pair(embedding, some_prompts("points", 1)),
        lambda: broken.everything(image),
    )
    for call in calls:
        with pytest.raises(WeightsError, match="returned NaN or infinity"):
            call()


def test_a_device_that_is_not_here_is_one_line() -> None:
    for name in ("mobilesam", "mobilesam-fast", "sam-mini", "fastsam-s"):
        for device in ("cuda:99", "vulkan", "no-such-device"):
            with pytest.raises(UsageError, match=f"device '{device}' cannot be used") as caught:
                build(select([name])[0], ModelOptions(name, device=device))
            assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["mobilesam", "mobilesam-fast", "sam-vit-h", "sam-mini"])
def test_a_checkpoint_with_nan_is_refused_and_the_tensor_named(name: str, tmp_path: Path) -> None:
    path = tmp_path / "diverged.pt"
    torch.save({"a": torch.ones(2), "neck.0.weight": torch.tensor([1.0, float("nan")])}, path)
    checkpoint = Checkpoint(path, "0" * 64, False, 1, False)
    with pytest.raises(WeightsError, match=r"diverged\.pt: 'neck\.0\.weight' holds NaN"):
        build(select([name])[0], ModelOptions(name, checkpoint=checkpoint))


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(UsageError, match="unknown precision 'int3'"):
        build(select(["mobilesam"])[0], ModelOptions("mobilesam", precision="int3"))


@pytest.mark.parametrize("name", ["mobilesam", "sam-vit-b"])
def test_the_checkpoint_of_another_model_is_refused(name: str, tmp_path: Path) -> None:
    torch.save({"neck.0.weight": torch.zeros(3)}, tmp_path / "other.pt")
    checkpoint = Checkpoint(tmp_path / "other.pt", "0" * 64, False, 1, False)
    with pytest.raises(WeightsError, match=r"other\.pt does not fit this architecture"):
        build(select([name])[0], ModelOptions(name, checkpoint=checkpoint))


@pytest.mark.slow
def test_sam_vit_b_loads_its_own_weights_whole(tmp_path: Path) -> None:
    torch.manual_seed(0)
    reference = segment_anything.sam_model_registry["vit_b"](checkpoint=None)
    torch.save(reference.state_dict(), tmp_path / "b.pth")
    checkpoint = Checkpoint(tmp_path / "b.pth", "0" * 64, False, 1, False)
    model = build(select(["sam-vit-b"])[0], ModelOptions("sam-vit-b", checkpoint=checkpoint))
    assert model.info.weights.kind == "file"
    assert isinstance(model, SamSegmenter)
    assert not model.model.training
    expected, found = reference.state_dict(), model.model.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert torch.equal(model.model.pixel_mean, reference.pixel_mean)
    assert not any(tensor.is_meta for tensor in (*model.model.buffers(), *found.values()))


def test_random_weights_are_seeded_and_leave_the_global_generator_alone() -> None:
    entry = select(["mobilesam"])[0]
    before = torch.random.get_rng_state()
    first, same, other = (
        build(entry, ModelOptions("mobilesam", seed=seed)).modules()["mask_decoder"]
        for seed in (1, 1, 2)
    )
    assert torch.equal(torch.random.get_rng_state(), before)
    weights = [next(iter(part.parameters())) for part in (first, same, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_everything_in_bf16_is_close_to_everything_in_float32(
    model: SamSegmenter, image: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = partial(
        SamAutomaticMaskGenerator, pred_iou_thresh=-100.0, stability_score_thresh=0.0
    )
    monkeypatch.setattr(automatic_mask_generator, "SamAutomaticMaskGenerator", generator)
    found = []
    for precision in ("fp32", "bf16"):
        options = ModelOptions("mobilesam", precision=precision)
        adapter = SamSegmenter(model.model, options, family="MobileSAM")
        adapter.points_per_side = 1
        found.append(adapter.everything(image))
    exact, rounded = found
    assert exact
    assert len(rounded) == len(exact)
    for one, other in zip(exact, rounded, strict=True):
        assert other.mask.shape == SIZE_HW
        assert np.isclose(one.score, other.score, rtol=0.1, atol=0.1)


def test_an_image_lies_in_the_mask_input_as_in_the_logits(
    model: SamSegmenter, image: np.ndarray
) -> None:
    """A coarse mask of the upper left quarter lies where upsampled logits of it would be."""
    frame = model.mask_frame(SIZE_HW)
    assert frame == Segmenter.mask_frame(model, SIZE_HW)
    embedding = model.encode(model.prepare(image))
    prompts = Prompts(boxes=np.array([[0, 0, 9, 9]], np.float32))
    logits = model.decode_logits(embedding, prompts).logits
    assert tuple(logits.shape[-2:]) == frame.input_hw
    drawn = torch.full_like(logits, -10.0)
    rows, columns = (length // 2 for length in frame.image_hw)
    drawn[..., :rows, :columns] = 10.0
    mask = model.postprocess(LogitMasks(drawn, torch.ones(1, 1), SIZE_HW)).masks[0, 0]
    wanted = np.zeros(SIZE_HW, bool)
    wanted[: SIZE_HW[0] // 2, : SIZE_HW[1] // 2] = True
    assert (mask != wanted).mean() < 0.03
