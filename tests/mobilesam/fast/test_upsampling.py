"""Upsampling equals segment-anything's two interpolations."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from segment_anything.modeling import Sam
from segment_anything.utils.transforms import ResizeLongestSide
from torch import nn

from mobilesam.fast import upsampling
from mobilesam.fast.upsampling import Span, Upsampler

FAST = settings(max_examples=40, deadline=None, derandomize=True)
SIDE_PX, LOW_PX = 64, 16


class Encoder(nn.Module):
    img_size = SIDE_PX


def some_logits(seed: int, count: int = 1) -> torch.Tensor:
    return 4 * torch.randn(count, LOW_PX, LOW_PX, generator=torch.Generator().manual_seed(seed))


def upsampler_of(image_hw: tuple[int, int]) -> tuple[Upsampler, tuple[int, int]]:
    inner_hw = ResizeLongestSide.get_preprocess_shape(*image_hw, SIDE_PX)
    return Upsampler((LOW_PX, LOW_PX), (SIDE_PX, SIDE_PX), inner_hw, image_hw), inner_hw


# segment-anything itself cannot resize an image of more than 2 x SIDE_PX to 1.
sizes = st.tuples(st.integers(2, 150), st.integers(2, 150))


@FAST
@given(sizes, st.integers(0, 99), st.integers(1, 200))
def test_upsampling_equals_sam(image_hw: tuple[int, int], seed: int, strip_px: int) -> None:
    sam = Sam(Encoder(), nn.Identity(), nn.Identity())
    logits = some_logits(seed)
    upsampler, inner_hw = upsampler_of(image_hw)
    expected = sam.postprocess_masks(logits[None], inner_hw, image_hw)[0, 0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(upsampling, "STRIP_PX", strip_px)
        rows = [(top, strip.clone()) for top, strip in upsampler.row_strips(logits[0])]
        spans = upsampler.rows.whole(), upsampler.columns.whole()
        columns = [strip.clone() for strip in upsampler.column_strips(logits[0], *spans)]
    assert all(strip.numel() <= max(strip_px, image_hw[1]) for _, strip in rows)
    assert [top for top, _ in rows] == np.cumsum([0, *(len(s) for _, s in rows)])[:-1].tolist()
    torch.testing.assert_close(torch.cat([s for _, s in rows]), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(torch.cat(columns).t(), expected, atol=1e-5, rtol=0)


@FAST
@given(sizes, st.integers(0, 15), st.integers(0, 15))
def test_image_span_contains_all_dependent_pixels(
    image_hw: tuple[int, int], one: int, other: int
) -> None:
    low = Span(min(one, other), max(one, other) + 1)
    upsampler, _ = upsampler_of(image_hw)
    logits = torch.zeros(LOW_PX, LOW_PX)
    logits[low.low : low.high] = 1
    (picture,) = (
        s.clone() for s in upsampler.column_strips(logits, upsampler.rows.whole(), Span(0, 1))
    )
    seen = np.flatnonzero(picture[0].numpy() > 0)
    span = upsampler.rows.image_span(low)
    assert set(seen) <= set(range(span.low, span.high))
    # Not much more than needed: two logits, in pixels of the image.
    slack = 2 + 2 * 4 * max(image_hw) / SIDE_PX
    assert (span.high - span.low) - len(seen) <= 2 * slack
