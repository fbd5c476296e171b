"""Previews: exact where the window covers the image; elsewhere every cell is seen once."""

from __future__ import annotations

import pytest
import torch
from segment_anything.modeling import Sam
from small_prompts import GRID, SIDE_PX, network_prompts, reference
from torch import Tensor

from mobilesam.fast import preview
from mobilesam.fast.inference import FastMobileSam
from mobilesam.fast.preview import Levels, RoughDecoder, rough_masks
from mobilesam.model.mobile_sam import build_mobile_sam
from mobilesam.model.tiny_vit import TinyVitConfig

WHOLE = (SIDE_PX, SIDE_PX)


def test_a_window_that_covers_the_image_shows_exact_masks(sam: Sam, embedding: Tensor) -> None:
    fast, given = FastMobileSam(sam), network_prompts("point", 20)
    logits, scores = reference(sam, embedding, given)
    logits, scores = logits[:, 1:], scores[:, 1:]
    levels = Levels(float(logits.median()), float(logits.std() / 2), -9.0)
    exact = rough_masks(logits, scores, WHOLE, SIDE_PX, levels)
    pixels = (logits > levels.threshold).float()
    covered = torch.nn.functional.avg_pool2d(pixels, 4).flatten(2) > 0.5
    assert 0.05 < covered.float().mean() < 0.95
    assert given.points is not None
    points = given.points[:, 0]
    found = RoughDecoder(fast._decoder, fast.prepare(embedding), WHOLE)(points, levels)
    torch.testing.assert_close(found.scores, scores, rtol=0, atol=1e-4)
    torch.testing.assert_close(found.stability, exact.stability, rtol=0, atol=0.01)
    assert (found.cells != covered).float().mean() < 0.01
    # Possibly in bfloat16.
    high = fast.preview(embedding, points, WHOLE, Levels(0.0, 1.0, 9.0))
    torch.testing.assert_close(high.scores, scores, rtol=0, atol=0.01)
    assert not high.cells.any()


@pytest.mark.parametrize("inner_hw", [(256, 256), (130, 256), (256, 96)])
def test_every_cell_is_seen_once_and_every_token_counts(
    monkeypatch: pytest.MonkeyPatch, inner_hw: tuple[int, int]
) -> None:
    """Of a 16 x 16 grid with windows of 8 x 8; padding has tokens but no cells."""
    monkeypatch.setattr(preview, "WINDOW", 2)
    config = TinyVitConfig(
        embed_dims=(8, 16, 20, 40), num_heads=(1, 2, 2, 4), image_size_px=256, n_classes=None
    )
    fast = FastMobileSam(build_mobile_sam(config))
    embedding = torch.randn(1, 256, 16, 16, generator=torch.Generator().manual_seed(3))
    rough = RoughDecoder(fast._decoder, fast.prepare(embedding), inner_hw)
    rows, columns = (-(-side // 64) for side in inner_hw)
    points = torch.tensor([[5.0, 5.0], [inner_hw[1] - 1, inner_hw[0] - 1], [70.0, 90.0]])
    found = rough(points, Levels(0.0, 1.0, -9.0))
    assert found.cells.shape == (3, 3, 16 * rows * columns)
    assert torch.isfinite(found.scores).all()
    for corner in rough._corners(points):
        window = rough._window(corner)
        assert window.context.log_weight is not None
        assert torch.equal(window.cells.sort().values, torch.arange(16 * rows * columns))
        assert window.context.log_weight.exp().sum() == pytest.approx(GRID**2 * 4)
        assert window.n_fine == 64
