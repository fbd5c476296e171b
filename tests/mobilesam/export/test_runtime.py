"""Reading exported folders and running their graphs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from small_export import RANDOM, tiny_sam

from mobilesam.errors import UnsupportedError, UsageError, WeightsError
from mobilesam.export import runtime as exported
from mobilesam.export.runtime import (
    MANIFEST_NAME,
    box_points,
    graph_file,
    open_graph,
    read_manifest,
)
from mobilesam.export.writer import export_model


@pytest.mark.parametrize("boxes", [None, np.zeros((0, 4), np.float32)], ids=["points", "boxes"])
def test_zero_prompts_give_zero_rows(folder: Path, boxes: np.ndarray | None) -> None:
    manifest = read_manifest(folder)
    points, labels = np.zeros((0, 1, 2), np.float32), np.zeros((0, 1), np.int64)
    points, labels = box_points(points, labels, boxes)
    embedding = np.zeros((1, manifest.embed_dim, 4, 4), np.float32)
    inputs = {"embedding": embedding, "points": points, "labels": labels}
    masks = {"masks": np.zeros((0, 1, 16, 16), np.float32)}
    for name, given in (("decoder", inputs), ("mask_decoder", inputs | masks)):
        graph = open_graph(folder / graph_file(name, manifest.target), manifest.target, threads=1)
        assert [each.shape for each in graph(given)] == [(0, 4, 16, 16), (0, 4)]


def test_changed_file_is_refused(folder, tmp_path: Path) -> None:
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    manifest = read_manifest(tmp_path)
    victim = tmp_path / next(iter(manifest.files))
    victim.write_bytes(victim.read_bytes()[:-1] + b"\0\1")
    with pytest.raises(WeightsError, match=f"{victim.name} differs"):
        read_manifest(tmp_path)
    victim.unlink()
    with pytest.raises(WeightsError, match=victim.name):
        read_manifest(tmp_path)


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"format": 2}'])
def test_malformed_export_manifest(tmp_path: Path, text: str) -> None:
    (tmp_path / MANIFEST_NAME).write_text(text)
    with pytest.raises(WeightsError, match=r"manifest\.json is malformed"):
        read_manifest(tmp_path)


def test_manifest_cannot_name_files_elsewhere(folder, tmp_path: Path) -> None:
    document = json.loads((folder / MANIFEST_NAME).read_text())
    document["files"] = {"../secret": {"sha256": "0" * 64, "n_bytes": 1}}
    (tmp_path / MANIFEST_NAME).write_text(json.dumps(document))
    with pytest.raises(WeightsError, match="not in its folder"):
        read_manifest(tmp_path)


def test_folder_without_exported_model(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"no exported model.*mobilesam-bench export"):
        read_manifest(tmp_path)


@pytest.mark.parametrize(("target", "package"), [("onnx", "onnxruntime"), ("openvino", "openvino")])
def test_missing_package(monkeypatch, tmp_path, target, package: str) -> None:
    find = exported.importlib.util.find_spec
    monkeypatch.setattr(
        exported.importlib.util, "find_spec", lambda name: None if name == package else find(name)
    )
    with pytest.raises(UsageError, match=f"pip install {package}"):
        export_model(tiny_sam(), tmp_path, target, source=RANDOM)
    with pytest.raises(UsageError, match=f"pip install {package}"):
        open_graph(tmp_path / "x", target, threads=1)


def test_unsupported_precisions(folder: Path) -> None:
    target = read_manifest(folder).target
    path = folder / graph_file("decoder", target)
    with pytest.raises(UnsupportedError, match="fp16"):
        open_graph(path, target, threads=1, precision="fp16")


def test_file_that_is_no_graph(folder: Path, tmp_path: Path) -> None:
    target = read_manifest(folder).target
    path = tmp_path / graph_file("decoder", target)
    path.write_bytes(b"no graph")
    with pytest.raises(WeightsError, match="cannot be loaded"):
        open_graph(path, target, threads=1)


def test_current_threads(monkeypatch) -> None:
    torch.set_num_threads(2)
    assert exported.current_threads() == 2
    monkeypatch.delitem(exported.sys.modules, "torch")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert exported.current_threads() == 3
    monkeypatch.setenv("OMP_NUM_THREADS", "many")
    assert exported.current_threads() >= 1
