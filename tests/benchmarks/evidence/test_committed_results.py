"""What is committed under results/ is what its records give: nothing stale, nothing by hand."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks.evidence.publish import (
    BEGIN,
    END,
    README,
    RESULTS,
    RUNS,
    plots_page,
    readme_is_fresh,
    readme_links,
    stale_files,
    with_captions,
)
from benchmarks.paper.claims import load_claims
from benchmarks.paper.paper_output import write_claims
from benchmarks.paper.verdicts import judge
from benchmarks.records.record import RECORD_NAME, RunRecord, load_record
from benchmarks.report.plots import plots_of
from benchmarks.tables.merging import merge_records
from benchmarks.tables.record_tables import write_tables

ROOT = Path(__file__).resolve().parents[3]
COMMITTED = sorted((ROOT / RUNS).glob(f"*/{RECORD_NAME}"))


def shown() -> tuple[list[Path], RunRecord]:
    """The runs that the README shows, in the order in which its block links them, and merged."""
    block = (ROOT / README).read_text(encoding="utf-8").split(BEGIN)[1].split(END)[0]
    known = {path.relative_to(ROOT).as_posix(): path for path in COMMITTED}
    named = [known[link] for link in re.findall(r"\]\(([^)]+record\.json)\)", block)]
    assert named, "the README links no committed run"
    return named, merge_records([load_record(path) for path in named])


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.parent.name)
def test_every_committed_record_is_valid_and_clean(path: Path) -> None:
    record = load_record(path)
    assert record.complete
    assert record.environment.git_commit is not None
    assert record.environment.git_dirty is False
    for row in record.miou:
        assert row.miou is None or row.weights.kind != "random"


def test_the_readme_is_fresh() -> None:
    paths, record = shown()
    links = readme_links(judge(record, load_claims()))
    assert readme_is_fresh(ROOT / README, record, paths, links)
    text = (ROOT / README).read_text(encoding="utf-8")
    assert with_captions(text, record) == text
    plots = (ROOT / RESULTS / "plots" / README).read_text(encoding="utf-8")
    assert plots == plots_page(record)
    assert all(
        each.environment.other_load is not None for each in map(load_record, paths) if each.latency
    )


@pytest.mark.parametrize("text", [README, RESULTS / README.name], ids=str)
def test_what_the_texts_show_exists(text: Path) -> None:
    links = re.findall(r"\]\((?!http|#)([^)#]+)", (ROOT / text).read_text(encoding="utf-8"))
    assert [link for link in links if not (ROOT / text.parent / link).exists()] == []


def assert_fresh(made: list[Path], folder: Path) -> None:
    for path in made:
        committed = ROOT / RESULTS / path.relative_to(folder)
        assert committed.is_file(), f"{committed} is missing: nox -s results"
        assert committed.read_bytes() == path.read_bytes(), f"{committed} is stale: nox -s results"


def test_the_committed_tables_are_fresh(tmp_path: Path) -> None:
    _, record = shown()
    assert_fresh(write_tables(record, tmp_path), tmp_path)


def test_the_committed_ledger_is_fresh(tmp_path: Path) -> None:
    _, record = shown()
    assert_fresh(write_claims(record, judge(record, load_claims()), tmp_path), tmp_path)


def test_nothing_is_left_of_earlier_runs(tmp_path: Path) -> None:
    """Plots by name alone: their bytes depend on the version of matplotlib."""
    _, record = shown()
    made = [
        *write_tables(record, tmp_path),
        *write_claims(record, judge(record, load_claims()), tmp_path),
    ]
    names = [f"{plot.stem}.{suffix}" for plot in plots_of(record) for suffix in ("svg", "png")]
    plots = [Path("plots") / name for name in (*names, README.name)]
    given = [ROOT / RESULTS / path for path in (*(p.relative_to(tmp_path) for p in made), *plots)]
    assert [path for path in plots if not (ROOT / RESULTS / path).is_file()] == []
    assert stale_files(ROOT / RESULTS, given) == []


def test_the_committed_instances_give_the_committed_miou() -> None:
    from benchmarks.records.instances import read_instances

    paths, _ = shown()
    for path in paths:
        record = load_record(path)
        assert record.instances is not None
        table = read_instances(path.parent / record.instances)
        means = table.groupby(["model", "protocol", "reference"]).iou.agg(["mean", "size"])
        scored = [row for row in record.miou if row.miou is not None]
        assert scored
        for row in scored:
            mean, size = means.loc[(row.model, row.protocol, row.reference)]
            assert row.miou == pytest.approx(mean)
            assert row.n_instances == size
