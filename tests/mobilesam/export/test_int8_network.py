"""`MobileSam` with an 8-bit encoder by OpenVINO."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_export import tiny_sam

from mobilesam.errors import UnsupportedError, UsageError
from mobilesam.export import int8_network
from mobilesam.export.int8_network import Int8MobileSam
from mobilesam.fast.inference import FastMobileSam
from mobilesam.predictor import MobileSam


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for calibration, on a processor that seems to compute in int8."""
    monkeypatch.setattr(int8_network, "computes_int8", lambda: True)
    pixels = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    return tmp_path


def test_embeddings_are_close_to_those_in_float(folder: Path) -> None:
    pytest.importorskip("openvino")
    sam = tiny_sam().eval()
    network = Int8MobileSam(sam, folder)
    image = torch.from_numpy(np.array(Image.open(folder / "a.png")))
    pixels = sam.preprocess(torch.stack([image, image]).permute(0, 3, 1, 2).float())
    wanted, found = FastMobileSam(sam).encode(pixels), network.encode(pixels)
    assert found.shape == wanted.shape
    assert 1e-3 < (found - wanted).norm() / wanted.norm() < 0.1
    copied = pickle.loads(pickle.dumps(network))
    assert torch.equal(copied.encode(pixels), found)


def test_what_is_missing_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="int8 runs on the CPU alone, not on meta"):
        int8_network.require_cpu(torch.device("meta"))
    with pytest.raises(UsageError, match="calibration is for precision \"int8\", not 'fp32'"):
        MobileSam.from_checkpoint(None, calibration=folder)
    monkeypatch.setattr(int8_network, "computes_int8", lambda: False)
    pytest.importorskip("openvino")
    with pytest.raises(UnsupportedError, match="neither AVX-512 VNNI nor AMX"):
        Int8MobileSam(tiny_sam(), folder)
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(UsageError, match="not installed here: pip install onnx openvino"):
        Int8MobileSam(tiny_sam(), folder)
