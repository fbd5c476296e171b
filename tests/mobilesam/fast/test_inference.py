"""Networks for inference: encoder and decoder together, precisions, copies."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from segment_anything.modeling import Sam
from small_prompts import CONFIG, SIDE_PX, network_prompts, reference
from torch import Tensor

from mobilesam.errors import UnsupportedError, UsageError
from mobilesam.fast.inference import FastMobileSam, ModuleEncoder
from mobilesam.fast.kernels import computes_bf16
from mobilesam.model.mobile_sam import build_mobile_sam


def test_encode_and_decode_equal_segment_anything(sam: Sam) -> None:
    pixels = torch.randn(2, 3, SIDE_PX, SIDE_PX, generator=torch.Generator().manual_seed(2))
    fast = FastMobileSam(sam)
    embeddings = fast.encode(pixels)
    with torch.inference_mode():
        expected = sam.image_encoder(pixels)
    torch.testing.assert_close(embeddings, expected, rtol=0, atol=1e-4)
    given = network_prompts("boxes", 2)
    for row in range(2):
        logits, _ = fast.decode(embeddings[row : row + 1], given)
        wanted, _ = reference(sam, expected[row : row + 1], given)
        torch.testing.assert_close(logits, wanted[:, :1], rtol=0, atol=1e-3)


@pytest.mark.skipif(not computes_bf16(), reason="this processor does not compute in bf16")
def test_bf16_changes_the_encoder_only(sam: Sam, embedding: Tensor) -> None:
    given = network_prompts("point", 2)
    rough, plain = FastMobileSam(sam, "bf16"), FastMobileSam(sam)
    assert torch.equal(rough.decode(embedding, given)[0], plain.decode(embedding, given)[0])
    pixels = torch.randn(1, 3, SIDE_PX, SIDE_PX, generator=torch.Generator().manual_seed(4))
    difference = (rough.encode(pixels) - plain.encode(pixels)).abs()
    assert 0 < difference.mean() < 0.03


def test_unknown_and_unsuitable_precisions_are_refused(sam: Sam) -> None:
    with pytest.raises(UsageError, match="fp8"):
        FastMobileSam(sam, "fp8")  # type: ignore[arg-type]
    with pytest.raises(UnsupportedError, match="fp16"):
        FastMobileSam(sam, "fp16")


def test_bf16_is_refused_where_the_processor_has_none(
    sam: Sam, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mobilesam.fast.inference.computes_bf16", lambda: False)
    with pytest.raises(UnsupportedError, match="this processor does not compute in bf16"):
        FastMobileSam(sam, "bf16")


def test_another_encoder_is_refused(sam: Sam) -> None:
    other = copy.copy(sam)
    other._modules = {**sam._modules, "image_encoder": torch.nn.Identity()}
    with pytest.raises(UsageError, match="Identity"):
        FastMobileSam(other)


def test_module_encoder_can_be_copied_and_pickled(sam: Sam) -> None:
    encode = ModuleEncoder(sam.image_encoder, torch.float32, torch.device("cpu"))
    pixels = torch.randn(1, 3, SIDE_PX, SIDE_PX, generator=torch.Generator().manual_seed(2))
    expected = encode(pixels)
    for twin in (copy.deepcopy(encode), pickle.loads(pickle.dumps(encode))):
        assert torch.equal(twin(pixels), expected)


def test_source_model_is_not_changed() -> None:
    model = build_mobile_sam(CONFIG).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    fast = FastMobileSam(model)
    fast.decode(fast.encode(torch.zeros(1, 3, SIDE_PX, SIDE_PX)), network_prompts("boxes", 1))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.mask_decoder.training
    assert all(value.requires_grad for value in model.mask_decoder.parameters())
    ours = {value.data_ptr() for value in model.parameters()}
    parts = (fast._decoder._prompt_encoder, fast._decoder._mask_decoder)
    assert not ours & {value.data_ptr() for part in parts for value in part.parameters()}


def test_without_padding_the_rest_is_that_of_an_empty_input(sam: Sam) -> None:
    whole, unpadded = FastMobileSam(sam), FastMobileSam(sam, skip_padding=True)
    pixels = torch.randn(3, 3, SIDE_PX, SIDE_PX, generator=torch.Generator().manual_seed(2))
    pixels[1, :, :, 100:] = 0  # 112 columns are computed
    pixels[2] = 0
    found, full = unpadded.encode(pixels), whole.encode(pixels)
    assert torch.equal(found[0], full[0])
    assert torch.equal(found[2], full[2])
    assert torch.equal(found[1, :, :, 7:], full[2, :, :, 7:])
    part = whole.encode(pixels[1:2, :, :, :112])[0]
    assert torch.equal(found[1, :, :, :7], part)
    assert not torch.equal(found[1], full[1])
    with pytest.raises(UsageError, match="leave out compile"):
        FastMobileSam(sam, skip_padding=True, compile=True)
