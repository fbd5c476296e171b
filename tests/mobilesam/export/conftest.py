"""Folders with exported models, shared by the tests of the export."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from segment_anything.modeling import Sam
from small_export import RANDOM, tiny_sam

from mobilesam.export.quantized import calibrate
from mobilesam.export.runtime import PACKAGES
from mobilesam.export.writer import export_model


@pytest.fixture(scope="session")
def sam() -> Sam:
    return tiny_sam()


@pytest.fixture(scope="session", params=["onnx", "openvino"])
def folder(
    request: pytest.FixtureRequest, sam: Sam, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Folder of the exported model, which tests must not change."""
    pytest.importorskip(PACKAGES[request.param])
    path = tmp_path_factory.mktemp("exported") / request.param
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    ranges = calibrate(sam, [noise]) if request.param == "openvino" else None
    export_model(sam, path, request.param, source=RANDOM, int8=True, ranges=ranges)
    return path
