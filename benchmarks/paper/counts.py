"""Parameter counts that no record holds, computed from published shapes.

Plain vision transformers: arXiv 2010.11929, Table 1. Neck of SAM: arXiv 2304.02643, appendix A. Box
branch of the YOLOv8 head: its layers grow with the number of bins a box side has. Video path of SAM
2: memory attention, memory encoder and object pointers of Meta's SAM 2.1 checkpoints.
"""

from __future__ import annotations

import re

PLAIN_VITS = {
    "b16": (768, 12, 3072, 16),
    "b32": (768, 12, 3072, 32),
    "l16": (1024, 24, 4096, 16),
    "l32": (1024, 24, 4096, 32),
    "h14": (1280, 32, 5120, 14),
}
"""Width, depth, width of the perceptron and patch size in pixels of transformers for 224 px."""
YOLO_CHANNELS = {"x": (320, 640, 640), "s": (128, 256, 512)}
"""Channels of the feature maps of the detection head, finest first."""
SAM2_VIDEO = 7_521_760
"""Parameters of SAM 2.1 that only video uses, the same in all four sizes (without the 17 of the
convolution that scales mask prompts of video)."""
COUNTS = ("plain-vit", "sam-neck", "yolo-boxes", "sam2-video")
_IMAGENET_CLASSES = 1000
_NECK_CHANNELS = 256


def plain_vit(variant: str, *, head: bool) -> int:
    """Parameters of one of `PLAIN_VITS`, with or without a linear head for ImageNet-1k."""
    width, depth, mlp, patch_px = PLAIN_VITS[variant]
    tokens = (224 // patch_px) ** 2 + 1  # with the class token
    embedding = (3 * patch_px**2 + 1) * width + width + tokens * width
    attention = 4 * width * (width + 1)
    perceptron = 2 * width * mlp + mlp + width
    norms = 4 * width
    backbone = embedding + depth * (attention + perceptron + norms) + 2 * width
    return backbone + (width + 1) * _IMAGENET_CLASSES * head


def sam_neck(channels: int) -> int:
    """Parameters of the neck of SAM: a 1x1 and a 3x3 convolution without bias, each with a norm."""
    return channels * _NECK_CHANNELS + 9 * _NECK_CHANNELS**2 + 4 * _NECK_CHANNELS


def yolo_box_branch(channels: tuple[int, ...], reg_max: int) -> int:
    """Parameters of the box branch of the YOLOv8 head with `reg_max` bins, which are included."""
    inner = max(16, channels[0] // 4, 4 * reg_max)
    convolutions = sum(9 * (c * inner + inner * inner) + 4 * inner for c in channels)
    outputs = len(channels) * 4 * reg_max * (inner + 1)
    return convolutions + outputs + reg_max


def derived_count(source: str, variant: str, column: str) -> int:
    """Looks up a count, such as `plain-vit/h14/backbone`; a `ValueError` if there is none."""
    channels = re.fullmatch(r"channels-(\d+)", variant)
    bins = re.fullmatch(r"reg-max-([1-9]\d*)", column)
    if source == "plain-vit" and variant in PLAIN_VITS and column in ("backbone", "with-head"):
        return plain_vit(variant, head=column == "with-head")
    if source == "sam-neck" and channels and column == "total":
        return sam_neck(int(channels[1]))
    if (source, variant, column) == ("sam2-video", "all", "total"):
        return SAM2_VIDEO
    if source == "yolo-boxes" and variant in YOLO_CHANNELS and bins:
        return yolo_box_branch(YOLO_CHANNELS[variant], int(bins[1]))
    raise ValueError(f"no derived count {source}/{variant}/{column}")
