"""Costs of an embedding store on the host."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.evidence import store_cost


def test_host_costs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(store_cost, "SIZE_HW", (60, 90))
    out = tmp_path / "cost.json"
    assert store_cost.main(["--n=3", f"--out={out}"]) == 0
    found = json.loads(out.read_text())
    host = found["host"]
    assert host["bytes_per_embedding"] > 2 * 256 * 64 * 64
    assert set(host["steps_ms"]) == {
        "decode", "key", "resize", "decode_small", "key_small", "to_float16", "keep", "open_store",
        "read_back",
    }  # fmt: skip
    assert all(step["median"] > 0 for step in host["steps_ms"].values())
    for name, step in host["steps_ms"].items():
        assert step["ci95"] is None  # one process
        if name == "open_store":  # it is called once
            assert step["range"] is None
        else:
            assert step["range"][0] <= step["median"] <= step["range"][1]
    assert "embed" not in found
    with pytest.raises(SystemExit):
        store_cost.main(["--teacher=mobilesam"])
