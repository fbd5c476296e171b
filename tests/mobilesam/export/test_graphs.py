"""Exported graphs: shapes that were not traced, colour channels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from small_export import RANDOM, TINY, tiny_sam

from mobilesam.export import runtime as exported
from mobilesam.export.runtime import (
    box_points,
    graph_file,
    open_graph,
    read_manifest,
)
from mobilesam.export.writer import export_model
from mobilesam.model.mini import color_channels


def test_color_channels_are_exported(tmp_path: Path) -> None:
    pytest.importorskip(exported.PACKAGES["onnx"])
    shape = replace(TINY, strides=(2, 1, 1), neck_channels=64, cell_colors=True)
    model = tiny_sam(config=shape)
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
def test_other_shapes_than_the_traced_ones(folder, sam, n: int, k: int, box: bool) -> None:
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
