"""A MobileSAM so small that a test can export it."""

from __future__ import annotations

from segment_anything.modeling import Sam

from mobilesam.export.runtime import Source
from mobilesam.model.mobile_sam import build_mobile_sam
from mobilesam.model.tiny_vit import TinyVitConfig
from mobilesam.process_state import seeded

TINY = TinyVitConfig(
    embed_dims=(8, 16, 16, 16),
    depths=(1, 1, 1, 1),
    num_heads=(1, 2, 2, 2),
    window_sizes=(7, 7, 4, 4),
    neck_channels=32,
    image_size_px=64,
    n_classes=None,
)
RANDOM = Source(kind="random")


def tiny_sam(seed: int = 0, config: TinyVitConfig = TINY) -> Sam:
    with seeded(seed):
        return build_mobile_sam(config)
