"""MobileSAM (arXiv 2306.14289): our TinyViT encoder with SAM's prompt encoder and decoder."""

from __future__ import annotations

from baselines.interface import Segmenter
from baselines.options import ModelOptions
from baselines.sam_like import SamSegmenter, random_weights
from mobilesam.mini import build_mobile_sam_mini
from mobilesam.model import build_mobile_sam, load_mobile_sam


def build(options: ModelOptions) -> Segmenter:
    """Builds MobileSAM from a checkpoint, or with random weights.

    Raises:
        WeightsError: The checkpoint is not one of this architecture.
    """
    if options.checkpoint is None:
        model = random_weights(build_mobile_sam, options)
    else:
        model = load_mobile_sam(options.checkpoint.path, device=options.device)
    return SamSegmenter(model, options, family="MobileSAM", licence="Apache-2.0")


def build_mini(options: ModelOptions) -> Segmenter:
    """Builds the small MobileSAM that this package ships, distilled from `sam-mini`.

    Raises:
        WeightsError: The checkpoint is not a MobileSAM of the shape that its header states.
    """
    if options.checkpoint is None:
        model = random_weights(build_mobile_sam_mini, options)
    else:
        model = load_mobile_sam(options.checkpoint.path, device=options.device)
    return SamSegmenter(model, options, family="MobileSAM", licence="Apache-2.0")
