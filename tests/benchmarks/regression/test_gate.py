"""The command `gate`: baselines, changes and failures."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from baselines import dummy
from benchmarks.cli.commands.regression import default_baseline
from benchmarks.regression import gate as gate_module
from benchmarks.regression.snapshot import load_baseline

FEW = "--models=dummy,box"


@pytest.fixture(autouse=True)
def one_scene(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate_module, "N_SCENES", 1)


def test_it_passes_until_masks_of_a_model_change(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("gate", FEW, "--baseline=b.json").code == 2  # none yet
    made = run("gate", FEW, "--baseline=b.json", "--update")
    assert made.code == 0
    assert "baseline written" in made.out
    passed = run("gate", FEW, "--baseline=b.json")
    assert passed.code == 0
    assert "gate passed" in passed.out

    monkeypatch.setattr(dummy, "SINGLE", replace(dummy.SINGLE, part=0.74))
    failed = run("gate", FEW, "--baseline=b.json", "--json")
    assert failed.code == 1
    wrong = {(f["subject"], f["what"]) for f in failed.json["facts"] if f["verdict"] == "changed"}
    assert wrong == {("dummy", "box: mIoU")}
    text = run("gate", FEW, "--baseline=b.json")
    assert "gate FAILED" in text.out
    assert "box: mIoU" in text.out

    # A part of the models is judged alone, and the rest of the baseline is kept.
    assert run("gate", "--models=box", "--baseline=b.json").code == 0
    updated = run("gate", "--models=dummy", "--baseline=b.json", "--update")
    assert updated.code == 0
    assert "1 changes" in updated.out
    subjects = {fact.subject for fact in load_baseline(tmp_path / "b.json").facts}
    assert subjects == {"dummy", "box", "synthetic:seed=0,n=1"}
    assert run("gate", FEW, "--baseline=b.json").code == 0


def test_missing_facts_fail_and_new_ones_pass(run: Any, tmp_path: Path) -> None:
    run("gate", "--models=box", "--baseline=b.json", "--update")
    assert run("gate", FEW, "--baseline=b.json").code == 0  # dummy is new
    path = tmp_path / "b.json"
    document = json.loads(path.read_text())
    document["facts"].append({"subject": "box", "what": "gone: FLOP", "value": 3, "tolerance": 0})
    path.write_text(json.dumps(document))
    done = run("gate", "--models=box", "--baseline=b.json")
    assert done.code == 1
    assert "missing" in done.out


def test_a_failing_model_fails_the_gate(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("gate", FEW, "--baseline=b.json", "--update")

    def broken(*_: object) -> None:
        raise RuntimeError("no such kernel")

    monkeypatch.setattr("baselines.dummy.DummySegmenter.prepare", broken)
    before = (tmp_path / "b.json").read_bytes()
    done = run("gate", FEW, "--baseline=b.json", "--update")
    assert done.code == 1
    assert "no such kernel" in done.err
    assert (tmp_path / "b.json").read_bytes() == before


def test_an_unknown_model_is_refused(run: Any) -> None:
    done = run("gate", "--models=dumy")
    assert done.code == 2
    assert "did you mean dummy" in done.err


def test_the_committed_baseline_has_facts_of_the_models() -> None:
    facts = {
        (fact.subject, fact.what): fact.value for fact in load_baseline(default_baseline()).facts
    }
    assert facts["mobilesam", "all: parameters"] == 10_130_092
    assert {"mobilesam", "mobilesam-fast", "sam-vit-h", "fastsam-s", "grabcut", "box", "dummy"} <= {
        subject for subject, _ in facts
    }
    assert ("mobilesam", "points: logits: fingerprint") in facts
    assert ("grabcut", "box: mIoU") in facts
