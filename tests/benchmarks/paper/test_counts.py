"""Derived counts agree with the networks that they are derived from."""

from __future__ import annotations

import pytest

from benchmarks.paper.counts import (
    YOLO_CHANNELS,
    derived_count,
    plain_vit,
    sam_neck,
    yolo_box_branch,
)


@pytest.mark.parametrize(
    ("variant", "builder"),
    [
        ("b16", "vit_b_16"),
        ("b32", "vit_b_32"),
        ("l16", "vit_l_16"),
        ("l32", "vit_l_32"),
        ("h14", "vit_h_14"),
    ],
)
def test_plain_transformers_by_torchvision(variant: str, builder: str) -> None:
    import torch
    from torchvision import models

    with torch.device("meta"):
        network = getattr(models, builder)()
    whole = sum(each.numel() for each in network.parameters())
    head = sum(each.numel() for each in network.heads.parameters())
    assert plain_vit(variant, head=True) == whole
    assert plain_vit(variant, head=False) == whole - head


@pytest.mark.parametrize(("builder", "channels"), [("build_sam_vit_b", 768)])
def test_necks_by_segment_anything(builder: str, channels: int) -> None:
    import segment_anything
    import torch

    with torch.device("meta"):
        network = getattr(segment_anything, builder)()
    neck = sum(each.numel() for each in network.image_encoder.neck.parameters())
    assert sam_neck(channels) == neck


@pytest.mark.parametrize("reg_max", [16, 26])
@pytest.mark.parametrize("scale", ["x", "s"])
def test_box_branches_by_ultralytics(scale: str, reg_max: int) -> None:
    import torch

    from baselines.fast_sam import import_ultralytics

    import_ultralytics()  # without its side effects on the tests that follow
    from ultralytics.nn.modules.head import Detect

    with torch.device("meta"):
        head = Detect(nc=1, reg_max=reg_max, ch=YOLO_CHANNELS[scale])
    parts = (head.cv2, head.dfl)
    expected = sum(each.numel() for part in parts for each in part.parameters())
    assert yolo_box_branch(YOLO_CHANNELS[scale], reg_max) == expected


@pytest.mark.parametrize(
    "term",
    [
        ("plain-vit", "h14", "total"),
        ("plain-vit", "h16", "backbone"),
        ("sam-neck", "channels-x", "total"),
        ("sam-neck", "320", "total"),
        ("yolo-boxes", "x", "reg-max-0"),
        ("yolo-boxes", "m", "reg-max-16"),
        ("resnet", "50", "total"),
    ],
)
def test_an_unknown_count_is_refused(term: tuple[str, str, str]) -> None:
    with pytest.raises(ValueError, match="no derived count"):
        derived_count(*term)
