"""Export to ONNX and OpenVINO: files, manifest, comparison with torch, refused requests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from small_export import RANDOM, tiny_sam

from mobilesam.errors import UsageError, WeightsError
from mobilesam.export.graphs import DecoderGraph
from mobilesam.export.runtime import (
    GRAPHS,
    MANIFEST_NAME,
    graph_file,
    read_manifest,
)
from mobilesam.export.writer import _row, export_model
from mobilesam.weights.cache import digest_file


def test_manifest_and_parity(folder: Path) -> None:
    manifest = read_manifest(folder)
    judged = [row for row in manifest.parity if row.tolerance is not None]
    # One image; 10 kinds of prompts, each with and without a mask, logits and scores.
    assert len(judged) == 1 + 10 * 2 * 2
    assert {row.graph for row in judged} == set(GRAPHS)
    assert all(row.max_abs < 1e-4 and row.largest > 1e-3 for row in judged)
    assert {path.name for path in folder.iterdir()} == {*manifest.files, MANIFEST_NAME}
    for name, file in manifest.files.items():
        assert digest_file(folder / name).sha256 == file.sha256
    assert manifest.source == RANDOM
    assert manifest.image_size_px == 64
    assert manifest.versions["torch"] == torch.__version__.partition("+")[0] or manifest.versions


def test_nan_is_not_within_tolerance() -> None:
    row = _row("decoder", "x", "logits", np.array([np.nan]), np.array([0.0]), judged=True)
    assert not row.passed


def test_int8_files(folder: Path) -> None:
    manifest = read_manifest(folder)
    rows = [row for row in manifest.parity if row.graph.endswith(".int8")]
    assert len(rows) == (41 if manifest.target == "onnx" else 1)
    assert all(row.tolerance is None and row.passed for row in rows)
    assert max(row.max_abs for row in rows) > 1e-4
    if manifest.target == "openvino":
        assert "FakeQuantize" in (folder / "encoder.int8.xml").read_text()
        return
    for graph in ("decoder", "mask_decoder"):  # the small encoder has no large matrices
        small = manifest.files[graph_file(graph, "onnx", int8=True)].n_bytes
        assert small < manifest.files[graph_file(graph, "onnx")].n_bytes


def test_non_finite_weights_are_refused(tmp_path: Path) -> None:
    model = tiny_sam()
    model.mask_decoder.iou_token.weight.data[0, 0] = float("inf")
    with pytest.raises(WeightsError, match=r"'mask_decoder\.iou_token\.weight' holds NaN or inf"):
        export_model(model, tmp_path / "out", "onnx", source=RANDOM)
    assert not (tmp_path / "out").exists()


def test_model_is_not_changed(tmp_path: Path) -> None:
    sam = tiny_sam().train()
    before = {name: value.clone() for name, value in sam.state_dict().items()}
    export_model(sam, tmp_path, source=RANDOM)
    assert sam.training
    assert all(parameter.requires_grad for parameter in sam.mask_decoder.parameters())
    for name, value in sam.state_dict().items():
        assert torch.equal(value, before[name])


def test_wrong_outputs_leave_the_folder_unchanged(
    monkeypatch: pytest.MonkeyPatch, folder: Path, tmp_path: Path
) -> None:
    if read_manifest(folder).target != "onnx":
        pytest.skip("the same code for both")
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    before = (tmp_path / MANIFEST_NAME).read_bytes()
    right = DecoderGraph._tokens
    monkeypatch.setattr(
        DecoderGraph, "_tokens", lambda self, points, labels: right(self, points + 3, labels)
    )
    with pytest.raises(WeightsError, match=r"exported decoder is wrong: logits for N=1 K=0 box"):
        export_model(tiny_sam(), tmp_path, source=RANDOM)
    assert (tmp_path / MANIFEST_NAME).read_bytes() == before
    read_manifest(tmp_path)
    assert not list(tmp_path.glob(".export-*"))


def test_export_folder_that_cannot_be_made(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(WeightsError, match="cannot write to"):
        export_model(tiny_sam(), blocked, source=RANDOM)


def test_invalid_targets(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"unknown target 'tflite'; choose from onnx, openvino"):
        export_model(tiny_sam(), tmp_path, "tflite", source=RANDOM)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="those in this package are of other weights"):
        export_model(tiny_sam(), tmp_path, "openvino", source=RANDOM, int8=True)
    assert not list(tmp_path.iterdir())
