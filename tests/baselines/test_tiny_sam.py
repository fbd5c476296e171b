"""TinySAM: MobileSAM's architecture, always with three candidates."""

from __future__ import annotations

import numpy as np
import torch
from segment_anything import SamPredictor
from small_models import HEADS, STUDENT

from baselines.interface import ModelOptions, Prompts
from baselines.tiny_sam import TinySamSegmenter
from mobilesam.model.mobile_sam import build_mobile_sam

BOXES = np.array([[10, 12, 80, 60], [0, 0, 140, 90]], np.float32)


def test_the_single_mask_is_the_best_of_three() -> None:
    torch.manual_seed(2)
    network = build_mobile_sam(STUDENT, HEADS)
    model = TinySamSegmenter(network, ModelOptions("tinysam"), family="TinySAM")
    image = np.random.default_rng(3).integers(0, 256, (90, 140, 3), dtype=np.uint8)
    predictor = SamPredictor(network)
    predictor.set_image(image)
    embedding = model.encode(model.prepare(image))
    single = model.decode(embedding, Prompts(boxes=BOXES))
    pair = model.decode_pair(embedding, Prompts(boxes=BOXES))
    for row, box in enumerate(BOXES):
        masks, scores, logits = predictor.predict(box=box, multimask_output=True)
        best = int(scores.argmax())
        for found in (single, pair[0]):
            assert np.array_equal(found.masks[row], masks[best : best + 1])
            np.testing.assert_allclose(found.scores[row], scores[best : best + 1], atol=1e-5)
        np.testing.assert_allclose(pair[1].low_res_logits[row], logits, atol=1e-4)  # type: ignore[index]
