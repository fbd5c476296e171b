"""The decoder equals segment-anything's prompt encoder and mask decoder."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from segment_anything.modeling import MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from small_prompts import GRID, network_prompts, reference
from torch import Tensor

from mobilesam.errors import UsageError
from mobilesam.fast.decoder import FastDecoder
from mobilesam.fast.inference import FastMobileSam
from mobilesam.prompts import NetworkPrompts

KINDS = (
    "point",
    "clicks",
    "boxes",
    "point+boxes",
    "mask_inputs",
    "clicks+mask_inputs",
    "clicks+boxes+mask_inputs",
)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [1, 2, 5])
def test_same_logits_as_segment_anything(
    sam: Sam, embedding: Tensor, kind: str, count: int
) -> None:
    fast, given = FastMobileSam(sam), network_prompts(kind, count)
    logits, scores = reference(sam, embedding, given)
    assert logits.std() > 0.5
    for multimask, rows in ((False, slice(0, 1)), (True, slice(1, 4)), ("both", slice(0, 4))):
        found = fast.decode(embedding, given, multimask=multimask)  # type: ignore[arg-type]
        torch.testing.assert_close(found[0], logits[:, rows], rtol=0, atol=1e-4)
        torch.testing.assert_close(found[1], scores[:, rows], rtol=0, atol=1e-4)


def test_many_prompts_keep_their_order(sam: Sam, embedding: Tensor) -> None:
    given = network_prompts("point", 64)
    logits, scores = reference(sam, embedding, given)
    fast = FastMobileSam(sam)
    context = fast.prepare(embedding)
    found = fast.decode(context, given, multimask="both")
    torch.testing.assert_close(found[0], logits, rtol=0, atol=1e-4)
    torch.testing.assert_close(found[1], scores, rtol=0, atol=1e-4)
    one = fast.decode(
        context, NetworkPrompts(given.points[40:41], given.labels[40:41]), multimask="both"
    )
    torch.testing.assert_close(one[0], found[0][40:41], rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_logits_equal_segment_anything_in_double_precision(
    sam: Sam, embedding: Tensor, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """float64 shows differences that float32 hides; batches and strips of any size do the same."""
    exact, given = copy.deepcopy(sam).double(), network_prompts(kind, 5)
    # The prompt encoder casts to float32 inside, for both of them.
    exact.prompt_encoder.float()
    sparse, dense = exact.prompt_encoder(
        points=None if given.points is None else (given.points, given.labels),
        boxes=given.boxes,
        masks=given.mask_inputs,
    )
    expected, _ = exact.mask_decoder.predict_masks(
        embedding.double(), exact.prompt_encoder.get_dense_pe().double(), *_double(sparse, dense)
    )
    heads = sam.mask_decoder
    for at_once, n_tokens in ((1, 1), (2, 1024), (8, 24)):
        monkeypatch.setattr("mobilesam.fast.decoder.CPU_TOKENS", n_tokens)
        decoder = FastDecoder(sam.prompt_encoder, heads, torch.float64, prompts_at_once=at_once)
        found, _ = decoder(decoder.prepare(embedding), given, multimask="both")
        # Hypernetworks run, and logits are given, in float32.
        torch.testing.assert_close(found.double(), expected, rtol=0, atol=2e-5)


def _double(*tensors: Tensor) -> list[Tensor]:
    return [tensor.double() for tensor in tensors]


def test_several_threads_give_the_same(sam: Sam, embedding: Tensor) -> None:
    fast, given = FastMobileSam(sam), network_prompts("clicks", 5)
    expected = fast.decode(embedding, given, multimask="both")
    torch.set_num_threads(2)
    found = fast.decode(embedding, given, multimask="both")
    assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))


@pytest.mark.parametrize("share", [0.0, 0.5, 0.95, 1.0])
def test_only_masks_of_a_higher_score_are_found(sam: Sam, embedding: Tensor, share: float) -> None:
    fast, given = FastMobileSam(sam), network_prompts("point", 7)
    logits, scores = fast.decode(embedding, given, multimask=True)
    limit = float(scores.flatten().quantile(share)) if share > 0 else -torch.inf
    found = fast.find(embedding, given, limit)
    keep = scores > limit
    assert (keep.sum() > 0) == (share < 1)
    assert torch.equal(found.prompts, keep.nonzero()[:, 0])
    torch.testing.assert_close(found.scores, scores[keep], rtol=0, atol=1e-6)
    torch.testing.assert_close(found.logits, logits[keep], rtol=0, atol=1e-5)
    assert len(fast.find(embedding * torch.nan, given, 1e9).prompts) == 3 * 7


def test_no_prompt_at_all_counts_as_one(sam: Sam, embedding: Tensor) -> None:
    """As in segment-anything, whose prompt encoder assumes a batch of one then."""
    logits, _ = reference(sam, embedding, NetworkPrompts())
    found, _ = FastMobileSam(sam).decode(embedding, NetworkPrompts(), multimask="both")
    torch.testing.assert_close(found, logits, rtol=0, atol=1e-4)


def test_no_prompts_give_no_masks(sam: Sam, embedding: Tensor) -> None:
    logits, scores = FastMobileSam(sam).decode(
        embedding, NetworkPrompts(boxes=torch.zeros(0, 4)), multimask=True
    )
    assert logits.shape == (0, 3, 4 * GRID, 4 * GRID)
    assert scores.shape == (0, 3)


def test_other_depths_and_widths_of_the_decoder() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        heads = MaskDecoder(
            transformer_dim=64,
            transformer=TwoWayTransformer(depth=3, embedding_dim=64, num_heads=4, mlp_dim=96),
            num_multimask_outputs=2,
        ).eval()
        prompt = PromptEncoder(64, (4, 6), (64, 96), 16).eval()
        image = torch.randn(1, 64, 4, 6)
    boxes = torch.tensor([[3.0, 5.0, 40.0, 50.0]])
    with torch.inference_mode():
        sparse, dense = prompt(points=None, boxes=boxes, masks=None)
        expected, _ = heads.predict_masks(image, prompt.get_dense_pe(), sparse, dense)
    decoder = FastDecoder(prompt, heads)
    found, _ = decoder(decoder.prepare(image), NetworkPrompts(boxes=boxes), multimask="both")
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"points": torch.zeros(1, 1, 2)}, "labels"),
        ({"boxes": torch.zeros(2, 4), "mask_inputs": torch.zeros(3, 1, 32, 32)}, r"\[2, 3\]"),
    ],
)
def test_prompts_of_different_numbers_are_refused(
    sam: Sam, embedding: Tensor, given: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        FastMobileSam(sam).decode(embedding, NetworkPrompts(**given))


def test_embedding_of_another_shape_is_refused(sam: Sam) -> None:
    with pytest.raises(UsageError, match=r"\(2, 256, 8, 8\)"):
        FastMobileSam(sam).prepare(torch.zeros(2, 256, GRID, GRID))
