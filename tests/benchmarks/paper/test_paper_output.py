"""Tables, the terminal and the command."""

from __future__ import annotations

import csv
import io
import json
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pytest

from benchmarks import run as run_module
from benchmarks.cli.commands.paper import paper
from benchmarks.config.options import AccuracyArguments, ModelArguments, OutputArguments
from benchmarks.config.run_config import RunConfig
from benchmarks.paper.claims import Claim, models_needed, protocols_needed
from benchmarks.paper.paper_output import ledger_table, ledger_text, paper_tables, verdict_tables
from benchmarks.paper.verdicts import judge, tally_text
from benchmarks.records.record import EverythingRow, Failure, RunRecord, save_record
from mobilesam.errors import DataError, UsageError

Ledger = dict[str, Claim]


def tables_of(record: RunRecord, ledger: Ledger) -> dict[str, Any]:
    return {t.name: t for t in paper_tables(judge(record, list(ledger.values())))}


def rows_of(table: Any) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(table.to_csv())))


def test_the_papers_tables_show_measured_below_published(kit: Any, ledger: Ledger) -> None:
    tables = tables_of(kit.build(), ledger)
    assert list(tables) == [
        f"paper-{name}"
        for name in ("table1", "table2", "table3", "table4", "table6", "table7", "fastsam-latency")
    ]
    rows = {(r["row"], r["line"]): r for r in rows_of(tables["paper-table3"])}
    assert rows["Encoder, ms", "published"]["sam_vit_h"] == "452.0"
    assert rows["Encoder, ms", "measured"]["mobilesam"] == "8.0"
    assert rows["Encoder, ms", "measured"]["ratio"] == "56.5"
    assert rows["Encoder, ms", "verdict"]["ratio"] == "needs GPU"
    times = {(r["row"], r["line"]): r for r in rows_of(tables["paper-fastsam-latency"])}
    assert [times["SAM-H", "published"][c] for c in ("1", "10", "100", "e_64_2")] == [
        "446.0", "464.0", "627.0", "6972.0",
    ]  # fmt: skip
    assert "≥ 60.0" in tables["paper-fastsam-latency"].to_markdown()


def test_another_teacher_is_named(kit: Any, ledger: Ledger) -> None:
    rows = tuple(
        kit.miou_row(
            "mobilesam", f"two-point-{d}", 1.0, reference="teacher:mobilesam",
            dataset="coco:val2017_dev", n_images=100, n_instances=929, weights=kit.custom,
        )
        for d in (100, 200, 300, 400, 500)
    )  # fmt: skip
    table = tables_of(kit.build(miou=rows), ledger)["paper-table7"]
    lines = {(r["row"], r["line"]): r for r in rows_of(table)}
    assert lines["MobileSAM", "orientation"]["500_px"] == "1.0"
    assert "measured with teacher:mobilesam" in table.title
    assert ("MobileSAM", "measured") not in lines
    assert lines["MobileSAM", "verdict"]["500_px"] == "needs weights"
    assert any("no evidence: measured against teacher:mobilesam" in n for n in table.notes)


def test_the_official_teacher_is_measured(kit: Any, ledger: Ledger) -> None:
    row = kit.miou_row(
        "mobilesam", "two-point-100", 0.72, reference="teacher:sam-vit-h", dataset="sa1b:x"
    )
    record = kit.build(models=tuple(kit.model_rows(kit.official)), miou=(row,))
    lines = {(r["row"], r["line"]): r for r in rows_of(tables_of(record, ledger)["paper-table7"])}
    assert lines["MobileSAM", "measured"]["100_px"] == "0.72"
    assert lines["MobileSAM", "verdict"]["100_px"] == "reproduced"
    assert lines["MobileSAM, v1", "verdict"]["100_px"] == "not reproduced"


def test_a_table_without_its_claim_is_refused(kit: Any, ledger: Ledger) -> None:
    verdicts = judge(kit.build(), [ledger["mobilesam.table1.encoder-h"]])
    with pytest.raises(DataError, match=r"table1 shows mobilesam\.table1\.encoder-l"):
        paper_tables(verdicts)


def test_the_ledger_is_grouped_by_source_and_counted(kit: Any, ledger: Ledger) -> None:
    verdicts = judge(kit.build(), list(ledger.values()))
    table = ledger_table(verdicts)
    rows = rows_of(table)
    assert {row["id"] for row in rows} == set(ledger)
    sources = [row["source"] for row in rows]
    runs = [s for i, s in enumerate(sources) if i == 0 or sources[i - 1] != s]
    assert len(runs) == len(set(runs))
    assert table.notes[0].startswith(f"13 of {len(ledger) - 21} published figures were tested: ")
    assert "times and accuracies, none was tested. The others: " in table.notes[0]
    assert " official weights" in table.notes[0]
    by_id = {verdict.id: verdict.basis for verdict in verdicts}
    assert by_id["mobilesam.table1.encoder-h"] == "count"
    assert by_id["mobilesam.training.images"] == "arithmetic"
    assert by_id["mobilesam.table3.encoder-latency"] == "measurement"


def test_papers_have_published_results_alone(kit: Any, ledger: Ledger) -> None:
    verdicts = judge(kit.build(), list(ledger.values()))
    rows = {row["paper"]: row for row in rows_of(verdict_tables(verdicts)[0])}
    apart = [int(rows.pop(name)["claims"]) for name in (
        "Figures that follow from others", "Counts made by this project")]  # fmt: skip
    assert sum(apart) + sum(int(row["claims"]) for row in rows.values()) == len(verdicts)
    counted = sum(int(row["reproduced"] or 0) for row in rows.values())
    assert f": {counted} reproduced" in tally_text(verdicts)


@pytest.mark.parametrize("width", [80, 100])
def test_the_ledger_fits_the_terminal(kit: Any, ledger: Ledger, width: int) -> None:
    rows = (kit.miou_row("mobilesam", "box", 0.744, weights=kit.custom),)
    text = ledger_text(judge(kit.build(miou=rows), list(ledger.values())), width)
    assert max(map(len, text.splitlines())) <= width
    for name in ledger:
        assert f"  {name}" in text
    assert text.count("mobilesam-bench distill") == 1


def test_models_and_protocols_needed(ledger: Ledger) -> None:
    claims = list(ledger.values())
    needed = set(models_needed(claims))
    assert {
        "mobilesam", "sam-vit-h", "sam-vit-l", "sam-vit-b", "fastsam-x", "fastsam-s",
    } <= needed  # fmt: skip
    assert {"sam2.1-l", "sam3-tracker", "tinysam", "efficientvit-sam-xl1"} <= needed
    coco, sa1b = protocols_needed(claims, "coco"), protocols_needed(claims, "sa1b")
    assert {"box", "box-multi", "center-multi", "random-1", "two-point-500"} <= set(coco)
    assert "annotation-point" not in coco
    assert {"annotation-point", "clicks-3", "two-point-100"} <= set(sa1b)
    assert "random-1" not in sa1b
    assert protocols_needed(claims, "photos") == protocols_needed(claims, "synthetic")
    assert {"box", "center"} <= set(protocols_needed(claims, "photos"))


def run_command(
    runs: list[Path], out: Path | None = None, *, as_json: bool = True, **data: Any
) -> int:
    return paper(
        run=tuple(runs),
        data=AccuracyArguments(**data),
        output=OutputArguments(out=out, json=as_json, quiet=True),
    )


def test_a_run_is_judged_without_measuring(
    kit: Any,
    ledger: Ledger,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    save_record(kit.build(), tmp_path / "run")
    assert run_command([tmp_path / "run"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert len(document["claims"]) == len(ledger)
    wanted = {"id", "source", "claimed", "measured", "verdict", "why"}
    assert all(wanted <= claim.keys() for claim in document["claims"])
    assert [each.name for each in tmp_path.iterdir()] == ["run"]


def test_tables_and_claims_are_written(
    kit: Any, ledger: Ledger, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_record(kit.build(), tmp_path / "run")
    assert run_command([tmp_path / "run"], tmp_path / "out", as_json=False) == 0
    text = capsys.readouterr().out
    assert "Table 7 of MobileSAM" in text
    assert "published figures were tested" in " ".join(text.split())
    assert "reproduced, 11 explained" in " ".join(text.split())
    folder = tmp_path / "out" / "paper"
    document = json.loads((folder / "claims.json").read_text())
    assert document["verdicts"]["reproduced"] == 23
    assert document["by_basis"]["count"]["reproduced"] == 21
    assert document["by_basis"]["arithmetic"] == {"reproduced": 2}
    names = {path.name for path in folder.iterdir()}
    assert {"table7.md", "table7.csv", "table7.tex", "ledger.md"} <= names
    assert len(names) == 25


def test_several_runs_are_joined(
    kit: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recall = EverythingRow(
        model="fastsam-x", dataset="coco:lvis_v1_val", n_images=100, n_objects=900, ar1000=0.497,
        weights=kit.official,
    )  # fmt: skip
    models = tuple(kit.model_rows(kit.official))
    first = kit.build(models=models, everything=(recall,))
    second = kit.build(id="run-2", created_utc="2026-01-02T00:00:00+00:00", models=models)
    save_record(first, tmp_path / "a")
    save_record(second, tmp_path / "b")
    run_command([tmp_path / "a", tmp_path / "b"])
    claims = json.loads(capsys.readouterr().out)["claims"]
    (found,) = (each for each in claims if each["id"] == "mobilesamv2.ar.fastsam")
    assert found["verdict"] == "reproduced"


@pytest.mark.parametrize(("failures", "code"), [(0, 0), (1, 1)])
def test_one_run_is_planned_for_all_that_claims_need(
    kit: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    failures: int,
    code: int,
) -> None:
    asked: list[RunConfig] = []
    failed = tuple(Failure(stage="load", culprit="x", why="w") for _ in range(failures))

    def executed(request: RunConfig, reporter: object) -> AbstractContextManager[RunRecord]:
        asked.append(request)
        return nullcontext(kit.build(failures=failed))

    monkeypatch.setattr(run_module, "executed", executed)
    assert run_command([], tmp_path / "out", limit=2) == code
    (request,) = asked
    assert "grabcut" not in [entry.name for entry in request.models]
    assert len(request.models) == 6
    assert request.references == ("ground-truth", "teacher:sam-vit-h")
    assert [entry.name for entry in request.reference_models] == ["sam-vit-h"]
    assert {"box", "two-point-500"} <= {protocol.name for protocol in request.protocols}
    assert request.count_parameters
    assert request.profile is not None
    assert request.profile.name == "quick"


def test_models_without_claims_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no claim is about 'dummy'"):
        paper(models=ModelArguments(models="dummy"), output=OutputArguments(out=tmp_path))


def test_a_committed_run_is_judged(ledger: Ledger) -> None:
    from benchmarks.records.record import load_record

    run = Path(__file__).resolve().parents[3] / "results" / "runs" / "cpu-2core-standard"
    verdicts = judge(load_record(run), list(ledger.values()))
    counted = [v for v in verdicts if ledger[v.id].measure.kind.startswith("params")]
    timed = [v for v in verdicts if ledger[v.id].measure.kind.startswith("latency")]
    assert {v.verdict for v in counted} == {"reproduced", "explained", "not measured"}
    assert all(v.ratio is not None for v in timed)
    assert not any(v.verdict == "not reproduced" for v in verdicts)
