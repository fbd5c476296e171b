"""The commands `models` and `doctor`."""

from __future__ import annotations

from typing import Any


def test_models_lists_all_and_what_to_do(run: Any) -> None:
    done = run("models", "--json")
    rows = {row["model"]: row for row in done.json["rows"]}
    assert "weights fetch sam-vit-h" in rows["sam-vit-h"]["weights"]
    assert rows["box"]["weights"] == "none needed"
    assert "fastsam-s" in run("models").out


def test_doctor_describes_the_machine_and_says_what_to_do(run: Any) -> None:
    done = run("doctor", "--json")
    assert done.code == 0
    assert done.json["environment"]["libraries"]["torch"]
    assert any("weights fetch mobilesam" in text for text in done.json["advice"])
    assert "processor" in run("doctor").out
