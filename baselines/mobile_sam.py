"""MobileSAM (arXiv 2306.14289): our TinyViT encoder with SAM's prompt encoder and decoder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from segment_anything.modeling import Sam

from baselines.interface import Segmenter
from baselines.options import ModelOptions
from baselines.sam_like import SamSegmenter, load_or_random
from mobilesam.model.mobile_sam import build_mobile_sam, build_mobile_sam_mini, load_mobile_sam


def build(options: ModelOptions) -> Segmenter:
    """Builds MobileSAM from a checkpoint, or with random weights.

    Raises:
        WeightsError: The checkpoint is not one of this architecture.
    """
    return _build(build_mobile_sam, options)


def build_mini(options: ModelOptions) -> Segmenter:
    """Builds the small MobileSAM that this package ships, distilled from `sam-mini`.

    Raises:
        WeightsError: The checkpoint is not a MobileSAM of the shape that its header states.
    """
    return _build(build_mobile_sam_mini, options)


def _build(empty: Callable[[], Sam], options: ModelOptions) -> Segmenter:
    def load(path: Path) -> Sam:
        return load_mobile_sam(path, device=options.device)

    model = load_or_random(empty, load, options)
    return SamSegmenter(model, options, family="MobileSAM", licence="Apache-2.0")
