"""Students: heads, files, ImageNet weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from small_models import HEADS, SIDE_PX, STUDENT
from small_training import (
    student,
    teacher,
)

from mobilesam.distillation.students import heads_of, load_imagenet, timm_name
from mobilesam.errors import WeightsError
from mobilesam.model.mobile_sam import load_mobile_sam, load_sam_mini
from mobilesam.model.model_files import ModelShape, save_model
from mobilesam.model.tiny_vit import TinyViT


def test_heads_of() -> None:
    assert heads_of(teacher()) == HEADS


def test_student_files_load_as_mobilesam(tmp_path: Path) -> None:
    model = student(3)
    path = tmp_path / "student.safetensors"
    save_model(path, ModelShape("mobilesam", STUDENT, HEADS, {}), model.state_dict())
    found = load_mobile_sam(path)
    image = torch.randn(1, 3, SIDE_PX, SIDE_PX)
    assert torch.equal(found.image_encoder(image), model.image_encoder(image))
    with pytest.raises(WeightsError, match="is a mobilesam, not a sam-mini"):
        load_sam_mini(path)


def test_float16_files_keep_the_embedding(tmp_path: Path) -> None:
    model = student(3)
    sizes = []
    for half in (False, True):
        path = tmp_path / f"{half}.safetensors"
        save_model(path, ModelShape("mobilesam", STUDENT, HEADS, {}), model.state_dict(), half=half)
        sizes.append(path.stat().st_size)
    assert sizes[1] < 0.7 * sizes[0]
    image = torch.randn(1, 3, SIDE_PX, SIDE_PX)
    found = load_mobile_sam(path).image_encoder(image)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, model.image_encoder(image), atol=1e-2, rtol=1e-2)


def test_load_imagenet(tmp_path: Path) -> None:
    encoder = student(1).image_encoder
    theirs = {}
    for name, value in student(2).image_encoder.state_dict().items():
        parts = name.split(".")
        if parts[0] == "neck":
            continue
        if parts[0] == "layers":
            shift = 1 if parts[2] == "downsample" else 0
            parts = ["stages", str(int(parts[1]) + shift), *parts[2:]]
        text = ".".join(parts).replace(".c.", ".conv.")
        text = text.replace("patch_embed.seq.0.", "patch_embed.conv1.")
        theirs[text.replace("patch_embed.seq.2.", "patch_embed.conv2.")] = value.contiguous()
    assert all(timm_name(name) in encoder.state_dict() for name in theirs)
    path = tmp_path / "timm.safetensors"
    save_file({**theirs, "head.fc.weight": torch.zeros(2, 2)}, path)
    assert isinstance(encoder, TinyViT)
    assert load_imagenet(encoder, path) == len(theirs)
    wanted = student(2).image_encoder.state_dict()["layers.1.blocks.0.attn.qkv.weight"]
    assert torch.equal(encoder.state_dict()["layers.1.blocks.0.attn.qkv.weight"], wanted)
    save_file({"some.weight": torch.zeros(2)}, path)
    with pytest.raises(WeightsError, match="does not hold a TinyViT of this width"):
        load_imagenet(encoder, path)
