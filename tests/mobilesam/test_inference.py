from __future__ import annotations

import copy
import itertools
import pickle
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from segment_anything.modeling import MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from torch import Tensor

from mobilesam.errors import UnsupportedError, UsageError
from mobilesam.fast.decoder import FastDecoder
from mobilesam.fast.inference import FastMobileSam, module_encoder
from mobilesam.fast.kernels import computes_bf16
from mobilesam.model.mobile_sam import build_mobile_sam
from mobilesam.model.tiny_vit import TinyVitConfig

SIDE_PX = 128
GRID = SIDE_PX // 16
CONFIG = TinyVitConfig(
    embed_dims=(8, 16, 20, 40), num_heads=(1, 2, 2, 4), image_size_px=SIDE_PX, n_classes=None
)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def sam() -> Sam:
    """Small images, and SAM's own heads with weights that all matter."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build_mobile_sam(CONFIG)
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                parameter.data += 0.2 * torch.randn_like(parameter)
            elif "hypernetworks" in name or "output_upscaling" in name:
                parameter.data *= 2
    return model


@pytest.fixture(scope="module")
def embedding() -> Tensor:
    return torch.randn(1, 256, GRID, GRID, generator=torch.Generator().manual_seed(1))


def prompts(kind: str, count: int) -> dict[str, Tensor]:
    """Prompts in the network's pixels, by the names of `decode`."""
    draw = torch.Generator().manual_seed(count)
    corners = torch.rand(count, 2, generator=draw) * SIDE_PX / 2
    sizes = torch.rand(count, 2, generator=draw) * SIDE_PX / 2
    everything = {
        "points": torch.rand(count, 3, 2, generator=draw) * SIDE_PX,
        "labels": torch.randint(-1, 2, (count, 3), generator=draw).float(),
        "boxes": torch.cat((corners, corners + sizes), 1),
        "mask_inputs": 4 * torch.randn(count, 1, 4 * GRID, 4 * GRID, generator=draw),
    }
    names = {"point": ("points", "labels"), "clicks": ("points", "labels")}
    wanted = list(itertools.chain(*(names.get(each, (each,)) for each in kind.split("+"))))
    found = {name: everything[name] for name in wanted}
    if "point" in kind.split("+"):
        return {**found, "points": found["points"][:, :1], "labels": torch.ones(count, 1)}
    return found


def reference(model: Sam, embedding: Tensor, given: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """All four masks by segment-anything."""
    points = (given["points"], given["labels"]) if "points" in given else None
    with torch.inference_mode():
        sparse, dense = model.prompt_encoder(
            points=points, boxes=given.get("boxes"), masks=given.get("mask_inputs")
        )
        logits, scores = model.mask_decoder.predict_masks(
            image_embeddings=embedding,
            image_pe=model.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
        )
    return logits, scores


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
    fast, given = FastMobileSam(sam), prompts(kind, count)
    logits, scores = reference(sam, embedding, given)
    assert logits.std() > 0.5
    for multimask, rows in ((False, slice(0, 1)), (True, slice(1, 4)), ("both", slice(0, 4))):
        found = fast.decode(embedding, **given, multimask=multimask)  # type: ignore[arg-type]
        torch.testing.assert_close(found[0], logits[:, rows], rtol=0, atol=1e-4)
        torch.testing.assert_close(found[1], scores[:, rows], rtol=0, atol=1e-4)


def test_many_prompts_keep_their_order(sam: Sam, embedding: Tensor) -> None:
    given = prompts("point", 64)
    logits, scores = reference(sam, embedding, given)
    fast = FastMobileSam(sam)
    side = fast.prepare(embedding)
    found = fast.decode(side, **given, multimask="both")
    torch.testing.assert_close(found[0], logits, rtol=0, atol=1e-4)
    torch.testing.assert_close(found[1], scores, rtol=0, atol=1e-4)
    one = fast.decode(side, given["points"][40:41], given["labels"][40:41], multimask="both")
    torch.testing.assert_close(one[0], found[0][40:41], rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_the_same_function_in_double_precision(
    sam: Sam, embedding: Tensor, kind: str
) -> None:
    """Whatever float32 hides, float64 shows; batches of any size give the same."""
    exact, given = copy.deepcopy(sam).double(), prompts(kind, 5)
    # The prompt encoder casts to float32 inside, for both of them.
    exact.prompt_encoder.float()
    sparse, dense = exact.prompt_encoder(
        points=(given["points"], given["labels"]) if "points" in given else None,
        boxes=given.get("boxes"),
        masks=given.get("mask_inputs"),
    )
    expected, _ = exact.mask_decoder.predict_masks(
        embedding.double(), exact.prompt_encoder.get_dense_pe().double(), *_double(sparse, dense)
    )
    heads = sam.mask_decoder
    for at_once in (1, 2, 8):
        decoder = FastDecoder(sam.prompt_encoder, heads, torch.float64, prompts_at_once=at_once)
        found, _ = decoder(decoder.prepare(embedding), **given, multimask="both")
        # Hypernetworks run, and logits are given, in float32.
        torch.testing.assert_close(found.double(), expected, rtol=0, atol=2e-5)


def _double(*tensors: Tensor) -> list[Tensor]:
    return [tensor.double() for tensor in tensors]


def test_no_prompt_at_all_is_one_prompt(sam: Sam, embedding: Tensor) -> None:
    """As in segment-anything, whose prompt encoder takes the batch to be one then."""
    logits, _ = reference(sam, embedding, {})
    found, _ = FastMobileSam(sam).decode(embedding, multimask="both")
    torch.testing.assert_close(found, logits, rtol=0, atol=1e-4)


def test_no_prompts_give_no_masks(sam: Sam, embedding: Tensor) -> None:
    logits, scores = FastMobileSam(sam).decode(embedding, boxes=torch.zeros(0, 4), multimask=True)
    assert logits.shape == (0, 3, 4 * GRID, 4 * GRID)
    assert scores.shape == (0, 3)


def test_encode_gives_what_decode_takes(sam: Sam) -> None:
    pixels = torch.randn(2, 3, SIDE_PX, SIDE_PX, generator=torch.Generator().manual_seed(2))
    fast = FastMobileSam(sam)
    embeddings = fast.encode(pixels)
    with torch.inference_mode():
        expected = sam.image_encoder(pixels)
    torch.testing.assert_close(embeddings, expected, rtol=0, atol=1e-4)
    given = prompts("boxes", 2)
    for row in range(2):
        logits, _ = fast.decode(embeddings[row : row + 1], **given)
        wanted, _ = reference(sam, expected[row : row + 1], given)
        torch.testing.assert_close(logits, wanted[:, :1], rtol=0, atol=1e-3)


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
    found, _ = decoder(decoder.prepare(image), boxes=boxes, multimask="both")
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.skipif(not computes_bf16(), reason="this processor does not compute in bf16")
def test_bf16_touches_the_encoder_only(sam: Sam, embedding: Tensor) -> None:
    given = prompts("point", 2)
    rough, plain = FastMobileSam(sam, "bf16"), FastMobileSam(sam)
    assert torch.equal(rough.decode(embedding, **given)[0], plain.decode(embedding, **given)[0])
    pixels = torch.randn(1, 3, SIDE_PX, SIDE_PX, generator=torch.Generator().manual_seed(4))
    difference = (rough.encode(pixels) - plain.encode(pixels)).abs()
    assert 0 < difference.mean() < 0.03


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"points": torch.zeros(1, 1, 2)}, "labels"),
        ({"boxes": torch.zeros(2, 4), "mask_inputs": torch.zeros(3, 1, 32, 32)}, r"\[2, 3\]"),
    ],
)
def test_prompts_that_do_not_fit_each_other(
    sam: Sam, embedding: Tensor, given: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        FastMobileSam(sam).decode(embedding, **given)


def test_an_embedding_of_another_shape(sam: Sam) -> None:
    with pytest.raises(UsageError, match=r"\(2, 256, 8, 8\)"):
        FastMobileSam(sam).prepare(torch.zeros(2, 256, GRID, GRID))


def test_unknown_and_unsuitable_precisions(sam: Sam) -> None:
    with pytest.raises(UsageError, match="fp8"):
        FastMobileSam(sam, "fp8")  # type: ignore[arg-type]
    with pytest.raises(UnsupportedError, match="fp16"):
        FastMobileSam(sam, "fp16")


def test_bf16_where_the_processor_has_none(sam: Sam, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mobilesam.fast.inference.computes_bf16", lambda: False)
    with pytest.raises(UnsupportedError, match="this processor does not compute in bf16"):
        FastMobileSam(sam, "bf16")


def test_another_encoder_is_refused(sam: Sam) -> None:
    other = copy.copy(sam)
    other._modules = {**sam._modules, "image_encoder": torch.nn.Identity()}
    with pytest.raises(UsageError, match="Identity"):
        FastMobileSam(other)


def test_the_folded_module_can_be_copied_and_pickled(sam: Sam) -> None:
    encode = module_encoder(sam.image_encoder, torch.float32, torch.device("cpu"))
    pixels = torch.randn(1, 3, SIDE_PX, SIDE_PX, generator=torch.Generator().manual_seed(2))
    expected = encode(pixels)
    for twin in (copy.deepcopy(encode), pickle.loads(pickle.dumps(encode))):
        assert torch.equal(twin(pixels), expected)


def test_the_model_is_left_as_it_was() -> None:
    model = build_mobile_sam(CONFIG).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    fast = FastMobileSam(model)
    fast.decode(fast.encode(torch.zeros(1, 3, SIDE_PX, SIDE_PX)), **prompts("boxes", 1))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.mask_decoder.training
    assert all(value.requires_grad for value in model.mask_decoder.parameters())
    ours = {value.data_ptr() for value in model.parameters()}
    parts = (fast._decoder._prompts, fast._decoder._heads)
    assert not ours & {value.data_ptr() for part in parts for value in part.parameters()}
