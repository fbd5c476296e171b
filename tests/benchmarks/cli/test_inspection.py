"""The commands `models` and `doctor`."""

from __future__ import annotations

from typing import Any


def test_models_lists_all_and_what_to_do(run: Any) -> None:
    done = run("models", "--json")
    rows = {row["model"]: row for row in done.json["rows"]}
    assert rows["sam-vit-h"]["weights"] == "not here"
    assert rows["box"]["weights"] == "none needed"
    assert rows["sam2.1-t"]["parameters"] == "31.44"
    assert "7,521,760 are for video" in rows["sam2.1-t"]["note"]
    assert (rows["fastsam-s"]["commercial"], rows["sam3-tracker"]["weights"]) == (
        "ask",
        "not here, gated",
    )
    printed = run("models").out
    assert "fastsam-s" in printed
    assert "weights fetch NAME" in printed


def test_models_by_licence(run: Any) -> None:
    names = {
        row["model"] for row in run("models", "--licence", "permissive", "--json").json["rows"]
    }
    assert "mobilesam" in names
    assert "fastsam-s" not in names


def test_doctor_describes_the_machine_and_says_what_to_do(run: Any) -> None:
    done = run("doctor", "--json")
    assert done.code == 0
    assert done.json["environment"]["libraries"]["torch"]
    assert any("weights fetch mobilesam" in text for text in done.json["advice"])
    assert "processor" in run("doctor").out
