"""The page on distillation says what the committed results say, and judges aims by figures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.distillation.experiment import load_experiment
from benchmarks.distillation.family_targets import family_targets, family_targets_table
from benchmarks.evidence.distillation_page import (
    COMPARE,
    FULL_SIZE,
    PAGE,
    another_teacher,
    full_size_table,
    page,
)
from benchmarks.evidence.pages import ROOT
from benchmarks.records.environment import collect
from benchmarks.records.record import (
    LatencyRow,
    MiouRow,
    ModelRow,
    ParamsRow,
    RunRecord,
    WeightsRow,
)
from mobilesam.errors import DataError

TEACHER = "teacher:sam-mini"


def test_the_page_links_the_record_of_the_family() -> None:
    text = (ROOT / PAGE).read_text(encoding="utf-8")
    assert "Records: [mini-family](../results/runs/mini-family/record.json)." in text


def full_size_row(miou: float) -> dict[str, Any]:
    return {
        "protocol": "center", "reference": "teacher:mobilesam", "n_images": 20, "n_instances": 90,
        "miou": miou, "ci95": [miou - 0.02, miou + 0.02], "status": "ok", "why": None,
    }  # fmt: skip


FOUND: dict[str, Any] = {
    "note": "a note",
    "dataset": "coco:val2017_dev",
    "store": {"n_embeddings": 200},
    "training": {"loss": {"n_steps": 300, "mean_of_parts": [0.01, 0.005]}},
    "students": {"untrained": [full_size_row(0.1)], "trained": [full_size_row(0.5)]},
    "environment": {
        "cpu": "A <cpu>", "threads": 2, "allocator": "glibc", "python": "3.11",
        "git_commit": "abcdef0123456789", "git_dirty": False,
    },
}  # fmt: skip


def miou_row(model: str, protocol: str, reference: str, value: float) -> MiouRow:
    return MiouRow(
        model=model,
        dataset="synthetic:seed=77,n=500",
        protocol=protocol,
        reference=reference,
        miou=value,
        weights=WeightsRow(kind="file"),
    )


def family(student_box: float) -> RunRecord:
    encode: dict[str, Any] = {
        "phase": "encode", "device": "cpu", "precision": "fp32", "threads": 1, "weights": "file",
        "decode_kind": "decoder",
    }  # fmt: skip
    return RunRecord(
        id="x",
        created_utc="2026-01-01T00:00:00+00:00",
        command="c",
        profile=None,
        config={},
        resume_key="k",
        environment=collect(threads=1),
        duration_s=1.0,
        params=(
            ParamsRow(model="sam-mini", component="image_encoder", total=400),
            ParamsRow(model="sam-mini", component="all", total=800),
            ParamsRow(model="mobilesam-mini", component="image_encoder", total=100),
        ),
        latency=(
            LatencyRow(model="sam-mini", median_ms=30.0, **encode),
            LatencyRow(model="mobilesam-mini", median_ms=20.0, **encode),
        ),
        miou=(
            miou_row("sam-mini", "box", "ground-truth", 0.85),
            miou_row("mobilesam-mini", "box", "ground-truth", student_box),
            miou_row("mobilesam-mini", "box", TEACHER, 0.99),
            miou_row("mobilesam-mini", "center", TEACHER, 0.7),
        ),
    )


def test_the_committed_page_is_fresh() -> None:
    assert (ROOT / PAGE).read_text(encoding="utf-8") == page(ROOT), (
        "docs/distillation.md is stale: python -m benchmarks.evidence.distillation_page"
    )


def test_a_page_without_results_says_how_to_measure(tmp_path: Path) -> None:
    assert page(tmp_path).count("Not measured yet") == 3


@pytest.mark.parametrize(("student_box", "outcome"), [(0.82, "reached"), (0.80, "missed")])
def test_aims_are_judged_by_the_figures(student_box: float, outcome: str) -> None:
    found = {aim.what: aim for aim in family_targets(family(student_box))}
    assert found["sam-mini, box"].outcome == "reached"
    behind = found["mobilesam-mini, box, behind its teacher"]
    assert behind.measured == pytest.approx(85 - 100 * student_box)
    assert behind.outcome == outcome
    assert found["mobilesam-mini, center, agreement with its teacher"].outcome == "missed"
    assert found["encoder's parameters, teacher by student"].measured == 4
    assert found["encoder's parameters, teacher by student"].outcome == "reached"
    assert found["encoder's time, teacher by student"].measured == 1.5
    assert found["encoder's time, teacher by student"].outcome == "missed"
    assert found["sam-mini, center-multi"].outcome == "not measured"


def test_the_table_of_aims_shows_bound_and_figure() -> None:
    text = family_targets_table(family(0.82)).to_markdown("")
    assert "| sam-mini, box | at least 82 % | 85.0 % | reached |" in text


def test_a_comparison_with_an_earlier_teacher_says_so() -> None:
    compared = load_experiment(ROOT / COMPARE)
    own = ModelRow(
        model=compared.teacher, family="mini", input_size_px=256, licence="Apache-2.0",
        decode_kind="decoder", weights=WeightsRow(kind="file", sha256=compared.teacher_sha256),
    )  # fmt: skip
    other = own.model_copy(update={"weights": WeightsRow(kind="file", sha256="e" * 64)})
    record = family(0.8)
    assert another_teacher(record, compared) == []
    assert another_teacher(record.model_copy(update={"models": (own,)}), compared) == []
    (warning,) = another_teacher(record.model_copy(update={"models": (other,)}), compared)
    assert str(compared.teacher_sha256)[:8] in warning
    assert "eeeeeeee" in warning


def test_the_full_size_path_is_shown_before_and_after(tmp_path: Path) -> None:
    text = full_size_table(FOUND)
    assert "10.0 [8.0, 12.0]" in text
    assert "50.0 [48.0, 52.0]" in text
    target = tmp_path / FULL_SIZE
    target.parent.mkdir(parents=True)
    target.write_text(json.dumps(FOUND))
    whole = page(tmp_path)
    assert "300 steps on 200 stored embeddings" in whole
    assert "A &lt;cpu&gt;" in whole


def test_a_file_that_is_no_result_is_told(tmp_path: Path) -> None:
    target = tmp_path / FULL_SIZE
    target.parent.mkdir(parents=True)
    target.write_text("{}")
    with pytest.raises(DataError, match="no full-size distillation"):
        page(tmp_path)
