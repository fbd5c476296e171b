"""Shapes of a teacher and a student small enough to be trained within a test."""

from __future__ import annotations

from mobilesam.model.mini import MiniVitConfig, SamMiniConfig
from mobilesam.model.sam_heads import HeadsConfig
from mobilesam.model.tiny_vit import TinyVitConfig

SIDE_PX = 64
HEADS = HeadsConfig(channels=16, num_heads=2, mlp_dim=16, depth=1, iou_hidden=16, mask_in_chans=4)
STUDENT = TinyVitConfig(
    embed_dims=(8, 8, 16, 16),
    depths=(1, 1, 1, 1),
    num_heads=(1, 1, 2, 2),
    window_sizes=(4, 4, 4, 4),
    strides=(2, 1, 1),
    neck_channels=16,
    image_size_px=SIDE_PX,
    n_classes=None,
)
TEACHER = SamMiniConfig(
    MiniVitConfig(stem_dims=(8, 8, 16), embed_dim=16, depth=1, num_heads=2, image_size_px=SIDE_PX),
    HEADS,
)
