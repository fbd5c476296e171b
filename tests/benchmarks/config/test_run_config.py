"""What a run without options takes, measures, and prints."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from baselines import DEFAULT_SELECTION
from baselines.registry import ModelEntry, entries, select
from benchmarks.config.model_resolution import (
    ResolvedModel,
    WeightsPolicy,
    deferral_notes,
    resolve_models,
)
from benchmarks.config.run_config import RunConfig, find_profile
from benchmarks.latency.runner import headline as latency_headline
from benchmarks.records.record import LatencyRow, WeightsRow
from mobilesam.weights.checkpoints import SHIPPED

FOR_TESTS = {"dummy", "sam-mini", "mobilesam-mini"}


def request(profile: str | None, *, default_models: bool = True) -> RunConfig:
    return RunConfig(
        command="",
        note=None,
        models=(),
        weights_policy=WeightsPolicy({}, offline=True),
        out=Path(),
        threads=1,
        profile=None if profile is None else find_profile(profile),
        default_models=default_models,
    )


def planned(name: str) -> ResolvedModel:
    (model,) = resolve_models(
        select([name]),
        WeightsPolicy({"mobilesam": SHIPPED}, offline=True),
        device="cpu",
        precision="fp32",
        seed=0,
    )
    return model


def test_models_for_tests_are_not_in_the_default_selection() -> None:
    chosen = {entry.name for entry in select([DEFAULT_SELECTION])}
    able = {name for name, entry in entries().items() if entry.can_run}
    assert chosen == {name for name in able if entries()[name].by_default}
    assert not chosen & FOR_TESTS
    assert {entry.name for entry in select(["*"])} == able
    assert {"mobilesam", "mobilesam-fast", "sam-vit-h", "grabcut", "box"} <= chosen


def test_a_plugin_is_in_the_default_selection() -> None:
    assert ModelEntry("theirs", "module:build", "third party", third_party=True).by_default


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("mobilesam", None),
        ("mobilesam-fast", None),
        ("grabcut", None),
        ("box", None),
        ("sam-vit-b", "is not on this machine"),
        ("mobilesam-onnx", "profile quick exports no models; name it with --models"),
    ],
)
def test_quick_measures_what_has_trained_weights_and_needs_no_export(
    name: str, reason: str | None
) -> None:
    found = request("quick").deferral(planned(name))
    assert (found is None) == (reason is None)
    assert reason is None or reason in (found or "")


@pytest.mark.parametrize("profile", ["standard", "full", None])
def test_other_profiles_are_complete(profile: str | None) -> None:
    for name in ("sam-vit-b", "mobilesam-onnx"):
        assert request(profile).deferral(planned(name)) is None


def test_models_that_are_named_are_measured() -> None:
    for name in ("sam-vit-b", "mobilesam-onnx"):
        assert request("quick", default_models=False).deferral(planned(name)) is None


def test_unusable_weights_are_a_failure_and_not_deferred() -> None:
    broken = replace(planned("sam-vit-b"), error="truncated")
    assert request("quick").deferral(broken) is None


def test_deferred_models_are_one_line_for_each_reason() -> None:
    models = [
        replace(planned(name), deferred="profile quick exports no models")
        for name in ("mobilesam-onnx", "mobilesam-openvino")
    ]
    untrained = replace(planned("sam-vit-b"), deferred="no weights")
    assert deferral_notes([*models, untrained, planned("box")]) == [
        "mobilesam-onnx, mobilesam-openvino: not measured: profile quick exports no models"
    ]


def test_deferred_models_decide_the_key_of_a_run() -> None:
    models = [planned("mobilesam"), planned("sam-vit-b")]
    whole = request("quick").to_dict(models, [])
    deferred = [models[0], replace(models[1], deferred="no weights")]
    assert request("quick").to_dict(deferred, []) == {**whole, "deferred": ["sam-vit-b"]}


@pytest.mark.usefixtures("short_quick")
def test_the_first_command_measures_prints_each_fact_once_and_ends_with_six_columns(
    run: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The whole default run, with few models in the registry so that it is fast."""
    from baselines import registry

    few = [e for e in registry._built_in() if e.name in ("box", "grabcut", "sam-vit-b", "dummy")]
    monkeypatch.setattr(registry, "_built_in", lambda: tuple(few))
    done = run("run", "--profile=quick", "--limit=1", "--offline", "--out=out", "--no-report")
    assert done.code == 0, done.err
    log = [line for line in done.err.splitlines() if line]
    assert [line for line, count in Counter(log).items() if count > 1] == []
    assert sum("no weights for sam-vit-b" in line for line in log) == 1
    for name in ("box", "grabcut"):
        assert sum(line.startswith(f"{name}: encode < 0.01 ms, decode ") for line in log) == 1
        assert sum(line.startswith(f"{name}: mIoU vs ground-truth box ") for line in log) == 1
    lines = done.out.splitlines()
    assert max(map(len, lines)) <= 100
    (head,) = (line for line in lines if line.split()[:1] == ["Model"])
    wanted = ["Weights", "Params (10⁶)", "Encode (ms)", "Decode (ms)", "mIoU box (%)"]
    assert [column for column in wanted if column not in head] == []
    rows = {words[0]: words for words in map(str.split, lines) if words}
    assert rows["sam-vit-b"][1:] == ["none", "here", "93.735", "-", "-", "-"]
    assert "dummy" not in done.out
    assert "Not measured, no trained weights here: sam-vit-b." in done.out
    assert "mIoU: box prompts on photos" in " ".join(done.out.split())


def latency_row(phase: str, median_ms: float | None, **changes: Any) -> LatencyRow:
    values: dict[str, Any] = {
        "model": "m",
        "phase": phase,
        "n_prompts": None if phase == "encode" else 1,
        "device": "cpu",
        "precision": "fp32",
        "threads": 1,
        "weights": "none",
        "decode_kind": "decoder",
        "median_ms": median_ms,
    }
    return LatencyRow(**{**values, **changes})


def test_the_line_of_a_timed_model() -> None:
    rows = [
        latency_row("encode", 0.0004),
        latency_row("decode", 12.3456),
        latency_row("end_to_end", None, status="skipped", why="too slow"),
    ]
    assert latency_headline(rows) == "encode < 0.01 ms, decode 12.35 ms, end to end skipped"
    assert latency_headline([latency_row("encode", 23910.4)]) == "encode 23910 ms"
    assert latency_headline([]) == "not timed"


def test_weights_rows_of_older_records_are_not_shipped() -> None:
    assert WeightsRow.model_validate({"kind": "file", "sha256": "0" * 64}).shipped is None
