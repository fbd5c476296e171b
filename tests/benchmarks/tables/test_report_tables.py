from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.records.record import (
    AccuracyTimeRow,
    DetectorRow,
    EverythingRow,
    LatencyRow,
    MiouRow,
    ModelRow,
    RunRecord,
    WeightsRow,
)
from benchmarks.tables import formatting
from benchmarks.tables.accuracy_tables import miou_tables
from benchmarks.tables.merging import merge_records
from benchmarks.tables.record_queries import used_parameters
from benchmarks.tables.record_tables import (
    latency_table,
    params_table,
    summary_table,
    write_tables,
)
from benchmarks.tables.table import Cell, Column, Table
from mobilesam.errors import UsageError

HOSTILE = "a|b&c_d%e<script>$x${y}~^#\\`*[z](u)\x1b[31m\nnew"


def table(text: str) -> Table:
    cell = Cell(text, (text,))
    return Table("t", text, (Column(text, ("x",)),), ((cell,),), (text,))


def rows_of(table: Table) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(table.to_csv())))


def texts(table: Table, header: str) -> list[str]:
    index = [column.header for column in table.columns].index(header)
    return [row[index].text for row in table.rows]


def test_markdown_escapes_foreign_text() -> None:
    text = table(HOSTILE).to_markdown()
    assert "<script>" not in text
    assert "&lt;script&gt;" in text
    assert "\x1b" not in text
    assert "](u)" not in text.replace("\\](u)", "")
    row = text.splitlines()[4]
    assert len(re.findall(r"(?<!\\)\|", row)) == 2  # only the two borders


def test_markdown_keeps_intervals_readable() -> None:
    assert "1.2 [1.1, 1.3]" in table("1.2 [1.1, 1.3]").to_markdown()


def test_latex_escapes_foreign_text() -> None:
    text = table(HOSTILE).to_latex()
    body = text[text.index(r"\midrule") : text.index(r"\bottomrule")]
    assert r"a\textbar{}b\&c\_d\%e\textless{}script\textgreater{}\$x\$\{y\}" in body
    assert r"\textasciitilde{}\textasciicircum{}\#\textbackslash{}\textasciigrave{}" in body
    assert body.count(" & ") == 0


@pytest.mark.parametrize("start", ["[x]", "*x"])
def test_latex_cell_is_not_an_argument_of_the_line_break(start: str) -> None:
    line = table(start).to_latex().split("\\midrule\n")[1]
    assert line.startswith("{")


def test_latex_keeps_double_dashes() -> None:
    assert formatting.escape_latex("a--b-c") == "a-{}-b-c"


def test_rich_reads_no_markup(record: RunRecord) -> None:
    from rich.console import Console

    console = Console(width=200, file=io.StringIO(), record=True)
    console.print(table("[bold]x[/bold] \x1b[31mred").to_rich())
    console.print(summary_table(record).to_rich())
    shown = console.export_text(styles=True)
    assert "[bold]x[/bold]" in shown
    assert "\x1b[31m" not in shown


def test_csv_holds_raw_numbers(record: RunRecord) -> None:
    found = rows_of(latency_table(record))
    assert len(found) == len(record.latency)
    ok = {(r.model, r.phase, str(r.n_prompts or "")): r for r in record.latency}
    for row in found:
        source = ok[row["model"], row["phase"], row["n_prompts"]]
        assert row["status"] == source.status
        assert row["median_ms"] == ("" if source.median_ms is None else repr(source.median_ms))
        if source.ci95_ms:
            assert float(row["ci95_low_ms"]) == source.ci95_ms[0]
    for text in ("=1+2", "+1 x", "-a", "@sum", "\tx", "\r="):
        assert next(iter(rows_of(table(text))[0].values())) == f"'{text}".replace("\r", "\n")
    for text in ("-1.5", "+2", "a=1", "1e-3", ""):
        assert next(iter(rows_of(table(text))[0].values())) == text
    hostile = rows_of(table('a,"b"'))
    assert hostile == [{"x": 'a,"b"'}]


def test_skipped_and_failed_rows_stay(record: RunRecord) -> None:
    latency = latency_table(record)
    status = texts(latency, "Status")
    assert len(status) == len(record.latency)
    (failed,) = (text for text in status if text.startswith("error"))
    number = failed.removeprefix("error ")
    assert f"{number} RuntimeError: out of memory | at <box>" in latency.notes
    assert sum(text.startswith("skipped") for text in status) == 6
    (accuracy,) = miou_tables(record)
    assert len(accuracy.rows) == len(record.miou)
    assert any(text.startswith("skipped") for text in texts(accuracy, "Status"))
    assert any("box takes no points as prompts" in note for note in accuracy.notes)


def test_summary_says_why_a_cell_is_empty(record: RunRecord) -> None:
    summary = summary_table(record)
    assert texts(summary, "Model") == [row.model for row in record.models]
    by_model = {row["model"]: row for row in rows_of(summary)}
    key = "box:ground-truth:coco:val2017_dev"
    assert by_model["mobilesam"][f"miou:{key}"] == "0.744"
    assert by_model["sam-vit-h"][f"status:{key}"] == "skipped: random weights"
    boxes = texts(summary, "mIoU box vs ground-truth")
    assert boxes[:2] == ["74.4 [71.4, 76.9]", "no weights"]
    errors = texts(summary, "End to end")
    assert errors[5] == "error (2)"
    assert "(2) RuntimeError: out of memory | at <box>" in summary.notes
    assert all(cell.text for row in summary.rows for cell in row[2:])
    assert "coco:val2017_dev" in " ".join(summary.notes)


def test_model_that_failed_to_load_keeps_its_row(make_record: Callable[..., RunRecord]) -> None:
    source = make_record(1)
    failed = ModelRow(
        model="broken",
        family="SAM",
        input_size_px=1024,
        licence="MIT",
        decode_kind="decoder",
        weights=WeightsRow(kind="random"),
        status="error",
        why="truncated file",
    )
    record = source.model_copy(update={"models": (*source.models, failed)})
    row = summary_table(record).rows[1]
    assert [cell.text for cell in row[3:6]] == ["truncated file"] * 3


def test_accuracy_from_random_weights_is_never_shown(record: RunRecord) -> None:
    rows = tuple(
        row.model_copy(update={"weights": WeightsRow(kind="random")}) for row in record.miou
    )
    models = tuple(
        row.model_copy(update={"weights": WeightsRow(kind="random")}) for row in record.models
    )
    forged = record.model_copy(update={"miou": rows, "models": models})
    for made in (*miou_tables(forged), summary_table(forged)):
        assert "74.4" not in made.to_markdown()
        assert "0.744" not in made.to_csv()


def test_both_meanings_of_m(record: RunRecord) -> None:
    made = params_table(record)
    first = rows_of(made)[0]
    assert first["total"] == "6065532"
    assert float(first["total_1e6"]) == pytest.approx(6.065532)
    assert float(first["total_2_20"]) == pytest.approx(5.7845, abs=1e-4)
    text = made.to_markdown()
    assert "| 6,065,532 | 6.066 | 5.785 | 5,743,892 | 5.744 | 5.478 |" in text
    assert "One multiply-add is 2 FLOP" in text
    assert "aten::softmax" in text


def test_used_parameters_need_every_component(record: RunRecord) -> None:
    assert used_parameters(record, "mobilesam") == 9_808_452
    assert used_parameters(record, "fastsam-x") == 72_234_149
    assert used_parameters(record, "box") == 0
    broken = record.params[1].model_copy(update={"status": "error", "used": None})
    partial = record.model_copy(update={"params": (record.params[0], broken, *record.params[2:])})
    assert used_parameters(partial, "mobilesam") is None


def test_references_never_share_a_column(record: RunRecord) -> None:
    agreement = tuple(
        row.model_copy(update={"reference": "teacher:sam-vit-h"}) for row in record.miou
    )
    both = record.model_copy(update={"miou": (*record.miou, *agreement)})
    made = miou_tables(both)
    assert [set(texts(part, "Reference")) for part in made] == [
        {"ground-truth"},
        {"teacher:sam-vit-h"},
    ]
    assert len({part.name for part in made}) == 2
    assert "which is not accuracy" in made[1].to_markdown()


def test_empty_record(empty_record: RunRecord, tmp_path: Path) -> None:
    assert [path.name for path in write_tables(empty_record, tmp_path)] == ["summary.md"]
    assert "Nothing was measured." in (tmp_path / "summary.md").read_text()
    for made in (summary_table(empty_record), latency_table(empty_record)):
        assert "Nothing was measured." in made.to_markdown()
        assert "Nothing was measured." in made.to_latex()


def test_write_tables(record: RunRecord, tmp_path: Path) -> None:
    paths = write_tables(record, tmp_path)
    names = {str(path.relative_to(tmp_path)) for path in paths}
    stems = ("summary", "params", "latency", "miou", "leaderboard")
    wanted = {f"tables/{stem}.{end}" for stem in stems for end in ("md", "csv", "tex")}
    assert names == wanted | {"summary.md"}
    text = (tmp_path / "summary.md").read_text()
    assert "Example CPU \\| 9000" in text
    assert "## Failures" in text
    assert "noisy machine" in text


def test_several_setups_get_a_row_each(record: RunRecord) -> None:
    half = [row.model_copy(update={"precision": "bfloat16"}) for row in record.latency]
    both = record.model_copy(update={"latency": (*record.latency, *half)})
    summary = summary_table(both)
    assert len(summary.rows) == 2 * len(record.models)
    assert "cpu, bfloat16, 4 threads" in summary.to_markdown()
    assert "cpu, float32" not in "\n".join(
        line for line in summary_table(record).to_markdown().splitlines() if line.startswith("|")
    )


def test_table_refuses_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="row 0"):
        Table("t", "t", (Column("a", ("a", "b")),), ((Cell("x", (1,)),),))
    with pytest.raises(ValueError, match="share a name"):
        Table("t", "t", (Column("a", ("a",)), Column("b", ("a",))), ())


@pytest.mark.parametrize(
    ("value", "bounds", "text"),
    [
        (28012.3, (28001.0, 28020.4), "28012 [28001, 28020]"),
        (5.1234, (5.1221, 5.1249), "5.123 [5.122, 5.125]"),
        (0.0123, None, "0.0123"),
        (0.9997, None, "1.00"),
        (0.0, (0.0, 0.0), "0 [0, 0]"),
        (120.0, (100.0, 140.0), "120 [100, 140]"),
    ],
)
def test_interval(value: float, bounds: tuple[float, float] | None, text: str) -> None:
    assert formatting.interval(value, bounds) == text


@pytest.mark.parametrize(
    ("value_ms", "text"),
    [
        (0.01, "10.0 µs"),
        (0.9996, "1.00 ms"),
        (999.4, "999 ms"),
        (999.7, "1.00 s"),
        (28000, "28.0 s"),
    ],
)
def test_milliseconds(value_ms: float, text: str) -> None:
    assert formatting.milliseconds(value_ms) == text


@settings(derandomize=True, deadline=None, max_examples=200)
@given(st.floats(1e-6, 1e9))
def test_three_significant_digits_survive(value: float) -> None:
    assert float(formatting.number(value)) == pytest.approx(value, rel=5.1e-3)


@settings(derandomize=True, deadline=None, max_examples=100)
@given(st.text(min_size=0, max_size=40))
def test_any_text_stays_within_its_cell(text: str) -> None:
    lines = table(text).to_markdown(heading="").splitlines()
    assert len(re.findall(r"(?<!\\)(?:\\\\)*\|", lines[2])) == 2
    (row,) = rows_of(Table("t", "t", (Column("t", ("x",)),), ((Cell(text, (text,)),),)))
    assert row["x"].removeprefix("'").splitlines() == text.removeprefix("'").splitlines()
    assert len(re.findall(r"(?<!\\)[&%$#_]", formatting.escape_latex(text))) == 0


def test_merge_takes_the_newest_row(make_record: Callable[..., RunRecord]) -> None:
    old = make_record(2, id="old", created_utc="2026-01-01T00:00:00Z")
    row: LatencyRow = old.latency[3].model_copy(update={"median_ms": 7.0})
    new = make_record(
        2, id="new", created_utc="2026-02-01T00:00:00Z", latency=(row,), params=(), miou=()
    )
    merged = merge_records([new, old])
    assert merged.latency[3].median_ms == 7.0
    assert len(merged.latency) == len(old.latency)
    assert merged.params == old.params
    assert merged.id == "old+new"
    assert any("replaced by run new" in warning for warning in merged.warnings)
    assert merge_records([old]) is old


def test_merge_refuses_what_does_not_compare(make_record: Callable[..., RunRecord]) -> None:
    one = make_record(1, id="one")
    slower = one.environment.model_copy(update={"threads": 1})
    with pytest.raises(UsageError, match="threads: 4 in run one, 1 in run two"):
        merge_records([one, make_record(1, id="two", environment=slower)])
    other = one.models[0].model_copy(update={"weights": WeightsRow(kind="random")})
    with pytest.raises(UsageError, match="weights of mobilesam: official"):
        merge_records([one, make_record(1, id="two", models=(other,))])
    with pytest.raises(UsageError, match="no record"):
        merge_records([])


@pytest.mark.parametrize("name", ["cpu", "threads", "allocator"])
def test_merge_leaves_out_times_of_accuracy_from_another_machine(
    make_record: Callable[..., RunRecord], name: str
) -> None:
    timed = make_record(2, id="timed", created_utc="2026-01-01T00:00:00Z", miou=())
    elsewhere = timed.environment.model_copy(update={name: 99 if name == "threads" else "another"})
    seconds = AccuracyTimeRow(
        model="m", dataset="d", wall_s=2, model_s=1, data_s=1, prompts_s=0, scoring_s=0, writing_s=0
    )
    row = make_record(2).miou[0].model_copy(update={"seconds": 2.0})
    found = DetectorRow(
        model="m", dataset="d", detections="b", detections_sha256="0", weights=row.weights,
        ap=0.5, seconds=3.0,
    )  # fmt: skip
    accuracy = make_record(
        2, id="accuracy", created_utc="2026-02-01T00:00:00Z", environment=elsewhere, latency=(),
        memory=(), everything=(), miou=(row,), accuracy_times=(seconds,), detector=(found,),
    )  # fmt: skip
    merged = merge_records([timed, accuracy])
    assert merged.environment == timed.environment  # that of the times
    assert merged.accuracy_times == ()
    assert merged.miou == (row.model_copy(update={"seconds": None}),)
    assert merged.detector == (found.model_copy(update={"seconds": None}),)
    (warning,) = (text for text in merged.warnings if "times of accuracy left out" in text)
    assert warning.startswith("run accuracy: ")
    here = merge_records([timed, accuracy.model_copy(update={"environment": timed.environment})])
    assert here.accuracy_times == (seconds,)
    assert not [text for text in here.warnings if "times of accuracy left out" in text]


def test_merge_refuses_masks_of_two_weights_of_one_teacher(
    make_record: Callable[..., RunRecord],
) -> None:
    one = make_record(1, id="one")

    def against(sha256: str) -> tuple[MiouRow, ...]:
        weights = WeightsRow(kind="file", sha256=sha256)
        update = {"reference": "teacher:sam-vit-h", "reference_weights": weights}
        return tuple(row.model_copy(update=update) for row in one.miou)

    first = one.model_copy(update={"miou": against("1" * 64)})
    again = make_record(1, id="two", miou=against("1" * 64))
    assert len(merge_records([first, again]).miou) == len(one.miou)
    other = make_record(1, id="two", miou=against("1" * 63 + "2"))
    with pytest.raises(
        UsageError, match=r"weights of teacher:sam-vit-h: file 1+ in run one, file 1+2 in run two"
    ):
        merge_records([first, other])


def test_merge_tells_of_other_devices_and_precisions(make_record: Callable[..., RunRecord]) -> None:
    cpu = make_record(1, id="cpu", config={"device": "cpu", "precision": "fp32"})
    gpu = make_record(1, id="gpu", config={"device": "cuda", "precision": "bf16"})
    merged = merge_records([cpu, gpu])
    told = [text for text in merged.warnings if "different devices or precisions" in text]
    assert any(text.startswith("box vs ground-truth") for text in told)
    assert any(text.startswith("memory on cpu") for text in told)
    assert all("cpu, fp32 / cuda, bf16" in text for text in told)
    alone = merge_records([cpu, make_record(1, id="two", config=cpu.config)])
    assert not [text for text in alone.warnings if "precisions" in text]
    row = EverythingRow(model="m", dataset="d", weights=WeightsRow(kind="none"), median_ms=1.0)
    runs = [each.model_copy(update={"everything": (row,)}) for each in (cpu, gpu)]
    with pytest.raises(UsageError, match=r"whole images: cpu, fp32 in .*cuda, bf16 in"):
        merge_records(runs)


def test_sa1b_says_whom_it_favours(record: RunRecord) -> None:
    rows: tuple[MiouRow, ...] = tuple(
        row.model_copy(update={"dataset": "sa1b:dev"}) for row in record.miou
    )
    made = record.model_copy(update={"miou": rows})
    for part in (summary_table(made), *miou_tables(made)):
        assert "they favour SAM" in part.to_markdown()
