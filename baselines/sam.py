"""SAM ViT-H, ViT-L and ViT-B (arXiv 2304.02643) from the `segment-anything` package."""

from __future__ import annotations

from pathlib import Path

import torch
from segment_anything import sam_model_registry
from segment_anything.modeling import Sam

from baselines.interface import Segmenter
from baselines.options import ModelOptions
from baselines.sam_like import SamSegmenter, load_or_random
from mobilesam.model.mini import build_sam_mini
from mobilesam.model.mobile_sam import load_sam_mini, load_strictly
from mobilesam.model.state_dicts import load_state_dict_file


def build_h(options: ModelOptions) -> Segmenter:
    """SAM ViT-H: 641,090,608 parameters."""
    return _build("vit_h", options)


def build_l(options: ModelOptions) -> Segmenter:
    """SAM ViT-L: 312,342,832 parameters."""
    return _build("vit_l", options)


def build_b(options: ModelOptions) -> Segmenter:
    """SAM ViT-B: 93,735,472 parameters."""
    return _build("vit_b", options)


def build_mini(options: ModelOptions) -> Segmenter:
    """The small SAM that this package ships: about 3.5 million parameters, 192 px.

    Raises:
        WeightsError: The checkpoint is not one of this architecture.
    """

    def load(path: Path) -> Sam:
        return load_sam_mini(path, device=options.device)

    model = load_or_random(build_sam_mini, load, options)
    return SamSegmenter(model, options, family="SAM", licence="Apache-2.0")


def _build(kind: str, options: ModelOptions) -> Segmenter:
    def empty() -> Sam:
        return sam_model_registry[kind](checkpoint=None)

    def load(path: Path) -> Sam:
        state = load_state_dict_file(path)
        with torch.device("meta"):
            model = empty()
        load_strictly(model, state, source=str(path))
        return model.eval().to(options.device)

    model = load_or_random(empty, load, options)
    return SamSegmenter(model, options, family="SAM", licence="Apache-2.0")
