"""The page on distillation: freshness, missing results, full-size training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from family_record import family

from benchmarks.distillation.experiment import load_experiment
from benchmarks.evidence.distillation_page import (
    COMPARE,
    FULL_SIZE,
    PAGE,
    another_teacher,
    page,
)
from benchmarks.evidence.pages import ROOT
from benchmarks.records.record import (
    ModelRow,
    WeightsRow,
)
from mobilesam.errors import DataError


def test_page_links_the_record_of_the_family() -> None:
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


def test_committed_page_is_fresh() -> None:
    assert (ROOT / PAGE).read_text(encoding="utf-8") == page(ROOT), (
        "docs/distillation.md is stale: python -m benchmarks.evidence.distillation_page"
    )


def test_page_without_results(tmp_path: Path) -> None:
    assert page(tmp_path).count("Not measured yet") == 3


def test_comparison_with_another_teacher_has_a_warning() -> None:
    compared = load_experiment(ROOT / COMPARE)
    own = ModelRow(
        model=compared.teacher, family="mini", input_size_px=256, licence="Apache-2.0",
        decode_kind="decoder", weights=WeightsRow(kind="file", sha256=compared.teacher_sha256),
    )  # fmt: skip
    other = own.model_copy(update={"weights": WeightsRow(kind="file", sha256="e" * 64)})
    record = family(0.8)
    assert another_teacher(record, compared) == ""
    assert another_teacher(record.model_copy(update={"models": (own,)}), compared) == ""
    warning = another_teacher(record.model_copy(update={"models": (other,)}), compared)
    assert str(compared.teacher_sha256)[:8] in warning
    assert "eeeeeeee" in warning


def test_full_size_table(tmp_path: Path) -> None:
    target = tmp_path / FULL_SIZE
    target.parent.mkdir(parents=True)
    target.write_text(json.dumps(FOUND))
    whole = page(tmp_path)
    assert "| center | teacher:mobilesam | 10.0 [8.0, 12.0] | 50.0 [48.0, 52.0] | 90 |" in whole
    assert "- a note\n" in whole
    assert "300 steps on 200 stored embeddings" in whole
    assert "A &lt;cpu&gt;" in whole


def test_malformed_result(tmp_path: Path) -> None:
    target = tmp_path / FULL_SIZE
    target.parent.mkdir(parents=True)
    target.write_text("{}")
    with pytest.raises(DataError, match="no full-size distillation"):
        page(tmp_path)
