from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.records import RunRecord
from benchmarks.report.readme import (
    BEGIN,
    END,
    readme_block,
    readme_is_fresh,
    update_readme,
)
from mobilesam.errors import DataError


@pytest.fixture
def readme(tmp_path: Path) -> Path:
    path = tmp_path / "README.md"
    path.write_text(f"# Title\n\n{BEGIN}\n{END}\n\nRest ü of it.\n", encoding="utf-8")
    return path


def test_update_then_fresh_then_stale(readme: Path, record: RunRecord, tmp_path: Path) -> None:
    source = tmp_path / "results" / "runs" / "a" / "record.json"
    assert not readme_is_fresh(readme, record, source)
    assert update_readme(readme, record, source)
    assert readme_is_fresh(readme, record, source)
    assert not update_readme(readme, record, source)
    text = readme.read_text(encoding="utf-8")
    assert text.startswith("# Title\n")
    assert text.endswith(f"{END}\n\nRest ü of it.\n")
    assert "results/runs/a/record.json" in text
    assert str(tmp_path) not in text

    slower = record.latency[3].model_copy(update={"median_ms": 1201.0})
    latency = (*record.latency[:3], slower, *record.latency[4:])
    assert not readme_is_fresh(readme, record.model_copy(update={"latency": latency}), source)
    readme.write_text(text.replace("74.4 [", "75.4 [", 1), encoding="utf-8")
    assert not readme_is_fresh(readme, record, source)


def test_block_says_where_its_numbers_come_from(record: RunRecord) -> None:
    text = readme_block(record, "results/runs/a/record.json")
    for part in (
        "2026-11-23T20:00:00Z",
        "Example CPU \\| 9000",
        "Threads: 4",
        "torch 2.15.0",
        "0123456789ab",
        "coco:val2017\\_dev",
        "mobilesam official 6dbb9052",
        "sam-vit-h random",
    ):
        assert part in text


def test_custom_weights_are_not_called_official(record: RunRecord) -> None:
    weights = record.models[0].weights.model_copy(update={"official": False})
    models = (record.models[0].model_copy(update={"weights": weights}), *record.models[1:])
    text = readme_block(record.model_copy(update={"models": models}), "r.json")
    assert "mobilesam custom 6dbb9052, not official" in text
    assert "| official" not in text


def test_block_cannot_be_closed_by_foreign_text(readme: Path, record: RunRecord) -> None:
    hostile = record.model_copy(update={"id": f"x {END} y"})
    update_readme(readme, hostile, readme.parent / "r.json")
    assert readme.read_text(encoding="utf-8").count(END) == 1
    assert readme_is_fresh(readme, hostile, readme.parent / "r.json")


@pytest.mark.parametrize(
    "text", ["no markers", f"{BEGIN}\n", f"{END}\n{BEGIN}\n", f"{BEGIN}{END}{END}"]
)
def test_missing_markers(readme: Path, record: RunRecord, text: str) -> None:
    readme.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=r"README\.md"):
        update_readme(readme, record, readme.parent / "r.json")


def test_unreadable_readme(tmp_path: Path, record: RunRecord) -> None:
    with pytest.raises(DataError, match="cannot read"):
        readme_is_fresh(tmp_path / "absent.md", record, tmp_path / "r.json")
