"""Exact counts of networks that no record holds, from their published shapes alone.

Plain vision transformers: arXiv 2010.11929, Table 1. SAM's neck: arXiv 2304.02643, appendix A. The
YOLOv8 head: the layers of its box branch, which grow with the number of bins a box side has.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType

IMAGENET_CLASSES = 1000
_NECK_CHANNELS = 256


@dataclass(frozen=True, slots=True)
class PlainVit:
    """The shape of a plain vision transformer for images of 224 px.

    Attributes:
        width: Channels of a token.
        depth: Blocks.
        mlp: Channels inside a block's perceptron.
        patch_px: Side of a patch.
    """

    width: int
    depth: int
    mlp: int
    patch_px: int
    image_px: int = 224

    @property
    def backbone(self) -> int:
        """Parameters without a classification head."""
        tokens = (self.image_px // self.patch_px) ** 2 + 1  # and the class token
        patches = (3 * self.patch_px**2 + 1) * self.width
        attention = 4 * self.width * (self.width + 1)
        perceptron = 2 * self.width * self.mlp + self.mlp + self.width
        norms = 4 * self.width
        block = attention + perceptron + norms
        return patches + self.width + tokens * self.width + self.depth * block + 2 * self.width

    @property
    def with_head(self) -> int:
        """Parameters with a linear head for the classes of ImageNet-1k."""
        return self.backbone + (self.width + 1) * IMAGENET_CLASSES


PLAIN_VITS = MappingProxyType(
    {
        "b16": PlainVit(768, 12, 3072, 16),
        "b32": PlainVit(768, 12, 3072, 32),
        "l16": PlainVit(1024, 24, 4096, 16),
        "l32": PlainVit(1024, 24, 4096, 32),
        "h14": PlainVit(1280, 32, 5120, 14),
    }
)


def sam_neck(channels: int) -> int:
    """Parameters of SAM's neck: 1x1 and 3x3 convolutions without bias, a norm behind each.

    Args:
        channels: Of the trunk in front of it.
    """
    return channels * _NECK_CHANNELS + 9 * _NECK_CHANNELS**2 + 4 * _NECK_CHANNELS


def yolo_box_branch(channels: tuple[int, ...], reg_max: int) -> int:
    """Parameters of the box branch of YOLOv8's head, its fixed bins included.

    Args:
        channels: Of the feature maps that the head looks at, finest first.
        reg_max: Bins of the distribution that stands for a side of a box.
    """
    inner = max(16, channels[0] // 4, 4 * reg_max)
    convolutions = sum(9 * (c * inner + inner * inner) + 4 * inner for c in channels)
    outputs = len(channels) * 4 * reg_max * (inner + 1)
    return convolutions + outputs + reg_max


YOLO_CHANNELS = MappingProxyType({"x": (320, 640, 640), "s": (128, 256, 512)})
COUNTS = ("plain-vit", "sam-neck", "yolo-boxes")


def derived_count(source: str, variant: str, column: str) -> int:
    """Looks a derived count up.

    Args:
        source: One of `COUNTS`.
        variant: `b16` ... `h14` for `plain-vit`, `channels-N` for `sam-neck`, `x` or `s` for
            `yolo-boxes`.
        column: `backbone` or `with-head` for `plain-vit`, `total` for `sam-neck`, `reg-max-N` for
            `yolo-boxes`.

    Raises:
        ValueError: There is none of that name.
    """
    kind, _, number = column.rpartition("-")
    if source == "plain-vit" and variant in PLAIN_VITS:
        vit = PLAIN_VITS[variant]
        if column in ("backbone", "with-head"):
            return vit.backbone if column == "backbone" else vit.with_head
    elif source == "sam-neck" and column == "total":
        prefix, _, channels = variant.rpartition("-")
        if prefix == "channels" and channels.isdecimal():
            return sam_neck(int(channels))
    elif source == "yolo-boxes" and variant in YOLO_CHANNELS and number.isdecimal():
        bins = int(number) if kind == "reg-max" else 0
        if bins:
            return yolo_box_branch(YOLO_CHANNELS[variant], bins)
    raise ValueError(f"no derived count {source}/{variant}/{column}")
