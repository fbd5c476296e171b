"""Folders with exported models, shared by the tests of the export."""

from __future__ import annotations

from pathlib import Path

import pytest
from segment_anything.modeling import Sam
from small_export import RANDOM, tiny_sam

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
    export_model(sam, path, request.param, source=RANDOM, int8=request.param == "onnx")
    return path
