"""Backends of the inference benchmark compute the same from the same weights."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from segment_anything.modeling import Sam

from benchmarks.evidence import backends
from mobilesam.errors import UsageError
from mobilesam.model.mobile_sam import build_mobile_sam
from mobilesam.model.tiny_vit import TinyVitConfig

CONFIG = TinyVitConfig(
    (8, 16, 16, 16), (1, 1, 1, 1), (1, 2, 2, 2), image_size_px=64, n_classes=None
)


@pytest.fixture(scope="module")
def sam() -> Sam:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        return build_mobile_sam(CONFIG)


@pytest.mark.parametrize("name", ["batches", "folded", "fast", "onnx", "openvino"])
def test_every_backend_equals_the_reference(sam: Sam, name: str) -> None:
    if name in ("onnx", "openvino"):
        for package in ("onnx", {"onnx": "onnxruntime"}.get(name, name)):
            pytest.importorskip(package)
    draw = torch.Generator().manual_seed(0)
    pixels = torch.randn(1, 3, 64, 64, generator=draw)
    points = 64 * torch.rand(9, 2, 2, generator=draw)
    reference, backend = backends.build(backends.REFERENCE, sam), backends.build(name, sam)
    with torch.inference_mode():
        image = reference.encode(pixels)
        torch.testing.assert_close(backend.encode(pixels), image, rtol=0, atol=1e-3)
        expected = reference.decode(image, points)
        found = backend.decode(image, points)
    assert found.shape == (9, 1, 16, 16)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-3)


def test_default_backends_can_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    monkeypatch.setattr("mobilesam.fast.kernels.computes_bf16", lambda: True)
    monkeypatch.setattr(backends, "computes_int8", lambda: True)
    assert backends.default_names() == ("plain", "ultralytics", "fast", "bf16")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    assert backends.default_names()[:3] == ("plain", "authors", "ultralytics")
    assert backends.default_names()[-2:] == ("openvino-bf16", "int8")
    assert set(backends.default_names()) <= set(backends.names())


def test_flops_of_the_encoder_are_counted() -> None:
    """Products and convolutions of TinyViT-5M at 1024 px, as in the records of `params`."""
    assert backends.encoder_flops() == 77_536_590_848


@pytest.mark.skipif(
    importlib.util.find_spec("mobile_sam") is not None, reason="the authors' package is installed"
)
def test_a_missing_package_is_an_error_with_its_installation(sam: Sam) -> None:
    with pytest.raises(UsageError, match=r"authors' package cannot be imported.*pip install"):
        backends.build(backends.AUTHORS, sam)


def test_an_unknown_backend_is_an_error_with_the_list(sam: Sam) -> None:
    with pytest.raises(UsageError, match="unknown backend 'warp'; choose from plain, authors"):
        backends.build("warp", sam)


def test_the_task_gives_calls_by_phase(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "mobilesam.model.mobile_sam.build_mobile_sam", lambda: build_mobile_sam(CONFIG)
    )
    plain, fast = (backends.inference_task(name, None) for name in ("plain", "fast"))
    torch.testing.assert_close(fast("encoder")(), plain("encoder")(), rtol=0, atol=1e-3)
    logits = plain("decoder-3")()
    assert logits.shape == (3, 1, 16, 16)
    torch.testing.assert_close(fast("decoder-3")(), logits, rtol=0, atol=1e-3)
    assert torch.equal(plain("decoder-3")(), logits)
