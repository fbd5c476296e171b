"""Int8 storage of weight matrices."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from safetensors.torch import save_file

from mobilesam.errors import WeightsError
from mobilesam.model.int8_storage import SCALE_SUFFIX, pack, unpack
from mobilesam.model.state_dicts import load_state_dict_file


@given(
    arrays("float32", (3, 4), elements=st.floats(-1e3, 1e3, width=32, allow_subnormal=False)),
    st.sampled_from([0, 1]),
)
def test_rounding_error_of_pack(values: object, dim: int) -> None:
    weight = torch.as_tensor(values)
    packed = pack({"w": weight}, {"w": dim}, frozenset())
    step = weight.abs().amax(1 - dim, keepdim=True) / 127
    restored = unpack(packed, "test")["w"]
    assert packed["w"].dtype == torch.int8
    assert bool(((restored - weight).abs() <= 0.501 * step + 1e-30).all())


def test_unpack_returns_other_state_dicts_unchanged() -> None:
    state = {"w": torch.ones(2, 2), "n": torch.tensor(3)}
    assert unpack(state, "test") is not state
    assert all(unpack(state, "test")[name] is value for name, value in state.items())


@pytest.mark.parametrize("scale", [torch.ones(1), torch.ones(3, 2)])
def test_wrong_scale_names_the_file(scale: torch.Tensor, tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_file({"w": torch.ones(3, 2, dtype=torch.int8), "w" + SCALE_SUFFIX: scale}, path)
    with pytest.raises(WeightsError, match=r"w.safetensors is damaged: w.int8_scale"):
        load_state_dict_file(path)
