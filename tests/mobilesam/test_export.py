"""Export to ONNX and OpenVINO: dynamic shapes, parity, and what may go wrong."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mobilesam.errors import UnsupportedError, UsageError, WeightsError
from mobilesam.export import parity as export_parity
from mobilesam.export import runtime as exported
from mobilesam.export.graphs import DecoderGraph
from mobilesam.export.runtime import (
    GRAPHS,
    MANIFEST_NAME,
    Source,
    box_points,
    graph_file,
    open_graph,
    read_manifest,
)
from mobilesam.export.writer import export_model
from mobilesam.model.mini import color_channels
from mobilesam.model.mobile_sam import build_mobile_sam
from mobilesam.model.tiny_vit import TinyVitConfig
from mobilesam.weights.cache import digest_file

TINY = TinyVitConfig(
    embed_dims=(8, 16, 16, 16),
    depths=(1, 1, 1, 1),
    num_heads=(1, 2, 2, 2),
    window_sizes=(7, 7, 4, 4),
    neck_channels=32,
    image_size_px=64,
    n_classes=None,
)
RANDOM = Source(kind="random")


def tiny_sam(seed: int = 0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_mobile_sam(TINY)


@pytest.fixture(scope="module")
def sam():
    return tiny_sam()


@pytest.fixture(scope="module", params=["onnx", "openvino"])
def folder(request, sam, tmp_path_factory) -> Path:
    pytest.importorskip(exported.PACKAGES[request.param])
    path = tmp_path_factory.mktemp("exported") / request.param
    export_model(sam, path, request.param, source=RANDOM, int8=request.param == "onnx")
    return path


def test_every_case_is_compared_and_the_manifest_says_what_is_there(folder: Path) -> None:
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


def test_colors_of_the_cells_are_exported_at_their_stride(tmp_path: Path) -> None:
    pytest.importorskip(exported.PACKAGES["onnx"])
    shape = replace(TINY, strides=(2, 1, 1), neck_channels=64, cell_colors=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build_mobile_sam(shape)
    export_model(model, tmp_path / "colors", "onnx", source=RANDOM)
    manifest = read_manifest(tmp_path / "colors")
    assert max(row.max_abs for row in manifest.parity if row.tolerance is not None) < 1e-4
    run = open_graph(tmp_path / "colors" / graph_file("encoder", "onnx"), "onnx", threads=1)
    pixels = np.random.default_rng(0).normal(size=(1, 3, 64, 64)).astype(np.float32)
    (found,) = run({"pixels": pixels})
    assert found.shape == (1, 64, 8, 8)
    expected = color_channels(torch.from_numpy(pixels), 8).numpy()
    np.testing.assert_allclose(found[:, -48:], expected, atol=1e-5)


@pytest.mark.parametrize(("n", "k", "box"), [(1, 1, False), (5, 4, False), (7, 0, True)])
def test_shapes_that_were_not_exported_are_answered(folder, sam, n: int, k: int, box: bool) -> None:
    rng = np.random.default_rng(n)
    target = read_manifest(folder).target
    run = open_graph(folder / graph_file("decoder", target), target, threads=1)
    embedding = rng.normal(size=(1, 32, 4, 4)).astype(np.float32)
    xy = rng.uniform(0, 64, (n, k, 2)).astype(np.float32)
    labels = rng.integers(0, 2, (n, k))
    corners = np.sort(rng.uniform(0, 64, (n, 2, 2)), 1).reshape(n, 4).astype(np.float32)
    points, kinds = box_points(xy, labels, corners if box else None)
    logits, scores = run({"embedding": embedding, "points": points, "labels": kinds})
    with torch.inference_mode():
        sparse, dense = sam.prompt_encoder(
            points=(torch.from_numpy(xy), torch.from_numpy(labels)) if k else None,
            boxes=torch.from_numpy(corners) if box else None,
            masks=None,
        )
        wanted = sam.mask_decoder.predict_masks(
            torch.from_numpy(embedding), sam.prompt_encoder.get_dense_pe(), sparse, dense
        )
    assert logits.shape == (n, 4, 16, 16)
    np.testing.assert_allclose(logits, wanted[0].numpy(), atol=1e-5)
    np.testing.assert_allclose(scores, wanted[1].numpy(), atol=1e-5)


def test_int8_files_lie_beside_and_are_measured_but_not_judged(folder: Path) -> None:
    manifest = read_manifest(folder)
    if manifest.target != "onnx":
        pytest.skip("int8 is for ONNX alone")
    rows = [row for row in manifest.parity if row.graph.endswith(".int8")]
    assert len(rows) == 41
    assert all(row.tolerance is None and row.passed for row in rows)
    assert max(row.max_abs for row in rows) > 1e-4
    for graph in ("decoder", "mask_decoder"):  # the tiny encoder has nothing worth shrinking
        small = manifest.files[graph_file(graph, "onnx", int8=True)].n_bytes
        assert small < manifest.files[graph_file(graph, "onnx")].n_bytes


def test_weights_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    model = tiny_sam()
    model.mask_decoder.iou_token.weight.data[0, 0] = float("inf")
    with pytest.raises(WeightsError, match=r"'mask_decoder\.iou_token\.weight' holds NaN or inf"):
        export_model(model, tmp_path / "out", "onnx", source=RANDOM)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("boxes", [None, np.zeros((0, 4), np.float32)], ids=["points", "boxes"])
def test_no_prompts_give_no_rows(folder: Path, boxes: np.ndarray | None) -> None:
    manifest = read_manifest(folder)
    points, labels = np.zeros((0, 1, 2), np.float32), np.zeros((0, 1), np.int64)
    points, labels = box_points(points, labels, boxes)
    embedding = np.zeros((1, manifest.embed_dim, 4, 4), np.float32)
    inputs = {"embedding": embedding, "points": points, "labels": labels}
    masks = {"masks": np.zeros((0, 1, 16, 16), np.float32)}
    for name, given in (("decoder", inputs), ("mask_decoder", inputs | masks)):
        graph = open_graph(folder / graph_file(name, manifest.target), manifest.target, threads=1)
        assert [each.shape for each in graph(given)] == [(0, 4, 16, 16), (0, 4)]


def test_the_model_is_left_as_it_was(tmp_path: Path) -> None:
    sam = tiny_sam().train()
    before = {name: value.clone() for name, value in sam.state_dict().items()}
    export_model(sam, tmp_path, source=RANDOM)
    assert sam.training
    assert all(parameter.requires_grad for parameter in sam.mask_decoder.parameters())
    for name, value in sam.state_dict().items():
        assert torch.equal(value, before[name])


def test_wrong_answers_are_an_error_and_leave_the_folder_as_it_was(
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


def test_a_nan_is_not_within_tolerance() -> None:
    row = export_parity._row(
        "decoder", "x", "logits", np.array([np.nan]), np.array([0.0]), judged=True
    )
    assert not row.passed


def test_another_file_in_place_of_an_exported_one_is_noticed(folder, tmp_path: Path) -> None:
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    manifest = read_manifest(tmp_path)
    victim = tmp_path / next(iter(manifest.files))
    victim.write_bytes(victim.read_bytes()[:-1] + b"\0\1")
    with pytest.raises(WeightsError, match=f"{victim.name} is not the file"):
        read_manifest(tmp_path)
    victim.unlink()
    with pytest.raises(WeightsError, match=victim.name):
        read_manifest(tmp_path)


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"format": 2}'])
def test_a_malformed_manifest_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / MANIFEST_NAME).write_text(text)
    with pytest.raises(WeightsError, match=r"manifest\.json is malformed"):
        read_manifest(tmp_path)


def test_a_manifest_cannot_name_files_elsewhere(folder, tmp_path: Path) -> None:
    document = json.loads((folder / MANIFEST_NAME).read_text())
    document["files"] = {"../secret": {"sha256": "0" * 64, "n_bytes": 1}}
    (tmp_path / MANIFEST_NAME).write_text(json.dumps(document))
    with pytest.raises(WeightsError, match="not in its folder"):
        read_manifest(tmp_path)


def test_a_folder_without_a_model_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"no exported model.*mobilesam-bench export"):
        read_manifest(tmp_path)


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(WeightsError, match="cannot write to"):
        export_model(tiny_sam(), blocked, source=RANDOM)


def test_requests_that_cannot_be_meant(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"unknown target 'tflite'; choose from onnx, openvino"):
        export_model(tiny_sam(), tmp_path, "tflite", source=RANDOM)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="int8 is for ONNX alone"):
        export_model(tiny_sam(), tmp_path, "openvino", source=RANDOM, int8=True)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("target", "package"), [("onnx", "onnxruntime"), ("openvino", "openvino")])
def test_a_missing_package_is_named(monkeypatch, tmp_path, target, package: str) -> None:
    find = exported.importlib.util.find_spec
    monkeypatch.setattr(
        exported.importlib.util, "find_spec", lambda name: None if name == package else find(name)
    )
    with pytest.raises(UsageError, match=f"pip install {package}"):
        export_model(tiny_sam(), tmp_path, target, source=RANDOM)
    with pytest.raises(UsageError, match=f"pip install {package}"):
        open_graph(tmp_path / "x", target, threads=1)


def test_precisions_that_a_runtime_has_not(folder: Path) -> None:
    target = read_manifest(folder).target
    path = folder / graph_file("decoder", target)
    with pytest.raises(UnsupportedError, match="fp16"):
        open_graph(path, target, threads=1, precision="fp16")


def test_a_file_that_is_no_graph_is_named(folder: Path, tmp_path: Path) -> None:
    target = read_manifest(folder).target
    path = tmp_path / graph_file("decoder", target)
    path.write_bytes(b"no graph")
    with pytest.raises(WeightsError, match="cannot be loaded"):
        open_graph(path, target, threads=1)


def test_threads_follow_torch_then_the_environment(monkeypatch) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(before + 1)
        assert exported.current_threads() == before + 1
    finally:
        torch.set_num_threads(before)
    monkeypatch.delitem(exported.sys.modules, "torch")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert exported.current_threads() == 3
    monkeypatch.setenv("OMP_NUM_THREADS", "many")
    assert exported.current_threads() >= 1
