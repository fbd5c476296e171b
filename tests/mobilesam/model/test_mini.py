"""The mini family: colour channels, file headers, shapes that cannot be built."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from segment_anything.modeling import Sam
from small_models import HEADS as SMALL_HEADS
from small_models import STUDENT as SMALL_STUDENT
from small_models import TEACHER

from mobilesam.distillation.students import shape_of
from mobilesam.errors import UsageError, WeightsError
from mobilesam.fast.inference import FastMobileSam, ModuleEncoder
from mobilesam.model.mini import (
    N_COLOR_CHANNELS,
    ColorChannels,
    MiniVitConfig,
    SamMiniConfig,
    append_color_channels,
    build_sam_mini,
    color_channels,
)
from mobilesam.model.mobile_sam import build_mobile_sam, load_mobile_sam, load_sam_mini
from mobilesam.model.model_files import ModelShape, save_model
from mobilesam.model.sam_heads import HeadsConfig
from mobilesam.model.tiny_vit import TinyVitConfig

HEADS = replace(SMALL_HEADS, channels=64)
STUDENT = replace(SMALL_STUDENT, neck_channels=64, cell_colors=True)
ENCODER = replace(TEACHER.encoder, cell_colors=True)


def pixels(side: int = 64, seed: int = 0) -> torch.Tensor:
    return torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=20, deadline=None)
@given(cells=st.integers(1, 6), stride=st.sampled_from([4, 8, 16]), seed=st.integers(0, 99))
def test_color_channels_are_mean_pixel_values(cells: int, stride: int, seed: int) -> None:
    picture = pixels(cells * stride, seed)
    found = color_channels(picture, stride)
    assert found.shape == (2, N_COLOR_CHANNELS, cells, cells)
    side = stride // 4
    for y, x in ((0, 0), (4 * cells - 1, 1), (1, 4 * cells - 2)):
        mean = picture[:, :, y * side : (y + 1) * side, x * side : (x + 1) * side].mean((2, 3))
        channels = [16 * color + 4 * (y % 4) + x % 4 for color in range(3)]
        torch.testing.assert_close(found[:, channels, y // 4, x // 4], mean)


def test_colors_are_appended_in_the_dtype_of_the_embedding() -> None:
    embeddings, picture = torch.ones(2, 5, 8, 8, dtype=torch.float64), pixels()
    found = append_color_channels(embeddings, picture, stride=8)
    assert found.shape == (2, 53, 8, 8)
    assert found.dtype == torch.float64
    assert torch.equal(found[:, 5:], color_channels(picture, 8).double())


def test_new_decoder_passes_colors_through() -> None:
    torch.manual_seed(0)
    model = build_sam_mini(SamMiniConfig(ENCODER, replace(HEADS, channels=96)))
    picture = pixels()
    with torch.inference_mode():
        grid = model.mask_decoder.output_upscaling(model.image_encoder(picture))
    own = F.avg_pool2d(picture, 2)
    for color in range(3):
        up, down = grid[:, color].flatten(), grid[:, 3 + color].flatten()
        correlated = torch.corrcoef(torch.stack([up - down, own[:, color].flatten()]))[0, 1]
        assert correlated > 0.8
        others = [own[:, each].flatten() for each in range(3) if each != color]
        assert torch.corrcoef(torch.stack([up - down, *others]))[0, 1:].abs().max() < 0.15


def test_teacher_and_student_have_equal_color_channels() -> None:
    picture = pixels()
    with torch.inference_mode():
        teacher = build_sam_mini(SamMiniConfig(ENCODER, HEADS)).image_encoder(picture)
        student = build_mobile_sam(STUDENT, HEADS).image_encoder(picture)
    assert torch.equal(teacher[:, -N_COLOR_CHANNELS:], student[:, -N_COLOR_CHANNELS:])
    assert not torch.equal(teacher[:, :-N_COLOR_CHANNELS], student[:, :-N_COLOR_CHANNELS])


def test_saved_model_keeps_its_color_channels(tmp_path: Path) -> None:
    for shape, heads in ((STUDENT, HEADS), (replace(STUDENT, cell_colors=False), HEADS)):
        model = build_mobile_sam(shape, heads)
        path = tmp_path / f"{shape.cell_colors}.safetensors"
        save_model(path, shape_of(model, {}), model.state_dict())
        again = load_mobile_sam(path)
        assert again.image_encoder.config == shape
        with torch.inference_mode():
            expected = model.image_encoder(pixels())
            assert torch.equal(again.image_encoder(pixels()), expected)
        fast = FastMobileSam(again).encode(pixels())
        torch.testing.assert_close(fast, expected, rtol=0, atol=1e-4)


def test_header_without_cell_colors_loads_without_colors(tmp_path: Path) -> None:
    model = build_mobile_sam(replace(STUDENT, cell_colors=False), HEADS)
    shape = shape_of(model, {})
    header = {**asdict(shape), "notes": {}}
    del header["encoder"]["cell_colors"]
    path = tmp_path / "old.safetensors"
    save_file(model.state_dict(), path, {"mobilesam-bench": json.dumps(header)})
    assert load_mobile_sam(path).image_encoder.config == shape.encoder


def test_sam_mini_round_trip(tmp_path: Path) -> None:
    model = build_sam_mini(SamMiniConfig(ENCODER, replace(HEADS, channels=96)))
    path = tmp_path / "sam-mini.safetensors"
    save_model(path, shape_of(model, {}), model.state_dict())
    again = load_sam_mini(path)
    for name, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name
    with torch.inference_mode():
        assert torch.equal(again.image_encoder(pixels()), model.image_encoder(pixels()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_module_encoder_keeps_colors_in_float32(dtype: torch.dtype) -> None:
    model = build_mobile_sam(STUDENT, HEADS)
    encode = ModuleEncoder(model.image_encoder, dtype, torch.device("cpu"))
    found = ColorChannels(encode, stride=8)(pixels())
    assert found.dtype == torch.float32
    assert torch.equal(found[:, -N_COLOR_CHANNELS:], color_channels(pixels(), 8))


def test_too_few_channels() -> None:
    few = replace(HEADS, channels=48)
    with pytest.raises(UsageError, match="no room for 48 of colours"):
        build_mobile_sam(replace(STUDENT, neck_channels=48), few)
    with pytest.raises(UsageError, match="no room for 48 of colours"):
        build_sam_mini(SamMiniConfig(ENCODER, few))


@pytest.mark.parametrize(
    ("encoder", "heads"),
    [
        (STUDENT, replace(HEADS, num_heads=5)),
        (replace(STUDENT, num_heads=(1, 3, 2, 2)), HEADS),
        (ENCODER, replace(HEADS, num_heads=0)),
        (replace(ENCODER, num_heads=5), HEADS),
    ],
)
def test_attention_heads_must_divide_channels(
    tmp_path: Path, encoder: TinyVitConfig | MiniVitConfig, heads: HeadsConfig
) -> None:
    path, what = tmp_path / "odd.safetensors", "cannot be shared by . attention heads"
    load: Callable[[Path], Sam]
    if isinstance(encoder, TinyVitConfig):
        shape, load = ModelShape("mobilesam", encoder, heads, {}), load_mobile_sam
        build = partial(build_mobile_sam, encoder, heads)
    else:
        shape, load = ModelShape("sam-mini", encoder, heads, {}), load_sam_mini
        build = partial(build_sam_mini, SamMiniConfig(encoder, heads))
    with pytest.raises(UsageError, match=what):
        build()
    save_model(path, shape, {"a": torch.zeros(1)})
    with pytest.raises(WeightsError, match=rf"odd\.safetensors states .* {what}"):
        load(path)


@pytest.mark.parametrize("name", ["mobilesam", "sam-mini"])
def test_file_with_too_few_channels_is_named(tmp_path: Path, name: str) -> None:
    path, few = tmp_path / "few.safetensors", replace(HEADS, channels=48)
    if name == "mobilesam":
        shape, load = ModelShape(name, replace(STUDENT, neck_channels=48), few, {}), load_mobile_sam
    else:
        shape, load = ModelShape(name, ENCODER, few, {}), load_sam_mini
    save_model(path, shape, {"a": torch.zeros(1)})
    with pytest.raises(WeightsError, match=r"few\.safetensors states .* no room for 48 of colours"):
        load(path)
