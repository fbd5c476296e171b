"""mobilesam-fast against the computation as published, at a size that takes no time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from segment_anything.modeling import Sam

from baselines import sam
from baselines.interface import LogitMasks, ModelOptions, Prompts
from baselines.mobile_sam_fast import FastMobileSamSegmenter
from baselines.sam import SamSegmenter, random_weights
from mobilesam.everything.generator import AutomaticMaskGenerator, FoundMask
from mobilesam.everything.mask_runs import runs_of_mask
from mobilesam.everything.point_grid import Crop
from mobilesam.model.mobile_sam import build_mobile_sam
from mobilesam.model.tiny_vit import TinyVitConfig

CONFIG = TinyVitConfig(
    embed_dims=(8, 16, 20, 40), num_heads=(1, 2, 2, 4), image_size_px=128, n_classes=None
)
OPTIONS = ModelOptions("mobilesam-fast", seed=3)
SIZES_HW = ((60, 90), (301, 200), (128, 128))


def tiny() -> Sam:
    return build_mobile_sam(CONFIG)


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> FastMobileSamSegmenter:
    monkeypatch.setattr(sam, "build_mobile_sam", lambda _config: tiny())
    return FastMobileSamSegmenter(OPTIONS)


@pytest.fixture
def plain() -> SamSegmenter:
    return SamSegmenter(random_weights(tiny, OPTIONS), OPTIONS, family="MobileSAM")


def test_masks_of_images_of_changing_sizes(
    fast: FastMobileSamSegmenter, plain: SamSegmenter
) -> None:
    """Logits of noise cross the threshold everywhere, so that each rounding would show."""
    for height, width in (*SIZES_HW, SIZES_HW[0]):
        logits = torch.randn(3, 2, 32, 32, generator=torch.Generator().manual_seed(height))
        given = LogitMasks(logits, torch.zeros(3, 2), (height, width))
        found, expected = fast.postprocess(given), plain.postprocess(given)
        assert found.masks.shape == (3, 2, height, width)
        # A value within rounding of the threshold may fall on either side.
        assert (found.masks != expected.masks).mean() < 1e-4
        assert found.low_res_logits is not None
        np.testing.assert_array_equal(found.low_res_logits, logits.numpy())


def test_answers_are_those_of_the_published_computation(
    fast: FastMobileSamSegmenter, plain: SamSegmenter
) -> None:
    image = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    prompts = Prompts(boxes=np.array([[5, 5, 50, 40], [20, 10, 80, 55]], np.float32))
    found, expected = (
        model.decode(model.encode(model.prepare(image)), prompts, multimask=True)
        for model in (fast, plain)
    )
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-4)
    assert (found.masks != expected.masks).mean() < 1e-3


@pytest.mark.parametrize("everything_first", [False, True])
def test_prompts_and_everything_take_turns_on_one_model(
    fast: FastMobileSamSegmenter, everything_first: bool
) -> None:
    """Both use the buffers of one upsampler, only the prompts in inference mode."""
    generator = AutomaticMaskGenerator(
        fast._predictor, points_per_side=2, pred_iou_thresh=-1e9, stability_score_thresh=0.0
    )
    image = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    prompts = Prompts(boxes=np.array([[5, 5, 50, 40]], np.float32))
    for step in range(3):
        if (step % 2 == 0) == everything_first:
            assert generator.find(image)
        else:
            embedding = fast.encode(fast.prepare(image))
            assert fast.decode(embedding, prompts).masks.shape[2:] == (60, 90)


def test_everything_is_by_our_generator(
    fast: FastMobileSamSegmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    mask = np.zeros((60, 90), np.bool_)
    mask[10:20, 30:50] = True
    box, crop = (30, 10, 49, 19), Crop((0, 0, 90, 60), 0)
    one = FoundMask(runs_of_mask(mask), box, 0.9, 1.0, (40.0, 15.0), crop)
    seen = []

    def find(generator: AutomaticMaskGenerator, image: np.ndarray) -> list[FoundMask]:
        seen.append((generator.model.model, generator.model.network, image.shape))
        return [one]

    monkeypatch.setattr(AutomaticMaskGenerator, "find", find)
    (record,) = fast.everything(np.zeros((60, 90, 3), np.uint8))
    assert np.array_equal(record.mask, mask)
    assert record.score == 0.9
    assert record.box.tolist() == [30, 10, 50, 20]
    assert seen == [(fast.model, fast._network, (60, 90, 3))]
