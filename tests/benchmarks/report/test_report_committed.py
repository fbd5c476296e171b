"""What is committed under results/ is what its records give: nothing stale, nothing by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.records import RECORD_NAME, RunRecord, load_record
from benchmarks.report.publish import README, RUNS
from benchmarks.report.readme import readme_is_fresh
from benchmarks.report.tables import write_tables

ROOT = Path(__file__).resolve().parents[3]
COMMITTED = sorted((ROOT / RUNS).glob(f"*/{RECORD_NAME}"))


def shown() -> tuple[Path, RunRecord]:
    """The run that the README shows: the one that its block names."""
    text = (ROOT / README).read_text(encoding="utf-8")
    named = [path for path in COMMITTED if path.parent.name in text]
    assert len(named) == 1, f"the README names {len(named)} of {len(COMMITTED)} committed runs"
    return named[0], load_record(named[0])


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.parent.name)
def test_every_committed_record_is_valid_and_clean(path: Path) -> None:
    record = load_record(path)
    assert record.complete
    assert record.environment.git_commit is not None
    assert record.environment.git_dirty is False
    for row in record.miou:
        assert row.miou is None or row.weights.kind != "random"


def test_the_readme_is_fresh() -> None:
    path, record = shown()
    assert readme_is_fresh(ROOT / README, record, path)


def test_the_committed_tables_are_fresh(tmp_path: Path) -> None:
    _, record = shown()
    for made in write_tables(record, tmp_path):
        committed = ROOT / "results" / made.relative_to(tmp_path)
        assert committed.read_bytes() == made.read_bytes(), f"{committed} is stale: nox -s results"


def test_the_committed_instances_give_the_committed_miou() -> None:
    from benchmarks.instances import read_instances

    path, record = shown()
    assert record.instances is not None
    table = read_instances(path.parent / record.instances)
    means = table.groupby(["model", "protocol"]).iou.agg(["mean", "size"])
    scored = [row for row in record.miou if row.miou is not None]
    assert scored
    for row in scored:
        mean, size = means.loc[(row.model, row.protocol)]
        assert row.miou == pytest.approx(mean)
        assert row.n_instances == size
