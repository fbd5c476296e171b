"""A small MobileSAM with random weights, for the tests of the fast path."""

from __future__ import annotations

import pytest
import torch
from segment_anything.modeling import Sam
from small_prompts import CONFIG, GRID
from torch import Tensor

from mobilesam.model.mobile_sam import build_mobile_sam


@pytest.fixture(scope="package")
def sam() -> Sam:
    """Small images, and SAM's own heads with weights that all matter."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build_mobile_sam(CONFIG)
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                parameter.data += 0.2 * torch.randn_like(parameter)
            elif "hypernetworks" in name or "output_upscaling" in name:
                parameter.data *= 2
    return model


@pytest.fixture(scope="package")
def embedding() -> Tensor:
    return torch.randn(1, 256, GRID, GRID, generator=torch.Generator().manual_seed(1))
