from __future__ import annotations

import csv
import io
from collections.abc import Callable
from itertools import combinations
from typing import Any

import pytest

from benchmarks.records.record import ComparisonRow, MiouRow, RunRecord
from benchmarks.tables.accuracy_tables import leaderboard_tables
from benchmarks.tables.table import Table

Make = Callable[..., RunRecord]


def compared(rows: tuple[MiouRow, ...], p_values: dict[str, float]) -> tuple[ComparisonRow, ...]:
    """All pairs of one protocol; `p_values` by the names of a pair, such as `a-b`."""
    return tuple(
        ComparisonRow(
            dataset=a.dataset,
            protocol=a.protocol,
            reference=a.reference,
            model_a=a.model,
            model_b=b.model,
            n_images=50,
            n_instances=400,
            difference=(a.miou or 0) - (b.miou or 0),
            ci95=((a.miou or 0) - (b.miou or 0) - 0.01, (a.miou or 0) - (b.miou or 0) + 0.02),
            p_value=p_values.get(f"{a.model}-{b.model}", 1e-9),
            p_adjusted=p_values.get(f"{a.model}-{b.model}", 1e-9),
        )
        for a, b in combinations(rows, 2)
    )


@pytest.fixture
def board(make_record: Make) -> RunRecord:
    """Six models with accuracy under three protocols, of which `box` has comparisons.

    By mIoU: third-party 75.0, mobilesam 74.4, -onnx 74.3, -openvino 74.2, grabcut 61, box 55.
    """
    source = make_record(12)
    rows = tuple(r for r in source.miou if r.protocol == "box" and r.status == "ok")
    ties = {
        "mobilesam-mobilesam-onnx": 0.4,
        "mobilesam-mobilesam-openvino": 0.03,
        "mobilesam-onnx-mobilesam-openvino": 0.2,
        "grabcut-box": 0.0499,
    }
    return source.model_copy(update={"comparisons": compared(rows, ties)})


def rows_of(table: Table) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(table.to_csv())))


def column(table: Table, header: str, protocol: str = "box") -> list[str]:
    headers = [each.header for each in table.columns]
    index = headers.index(header)
    return [
        row[index].text for row in table.rows if row[headers.index("Protocol")].text == protocol
    ]


def test_models_are_ranked_with_their_groups(board: RunRecord) -> None:
    (table,) = leaderboard_tables(board)
    assert table.name == "leaderboard"
    assert column(table, "Model")[1:] == [
        "mobilesam",
        "mobilesam-onnx",
        "mobilesam-openvino",
        "grabcut",
        "box",
    ]
    assert column(table, "Rank") == ["1", "2", "3", "4", "5", "6"]
    assert column(table, "Group") == ["a", "b", "bc", "c", "d", "e"]
    assert column(table, "Weights")[1] == "official 6dbb9052"
    assert any("share a letter cannot be told apart" in note for note in table.notes)


def test_the_distance_to_the_best_is_positive_whichever_model_came_first(board: RunRecord) -> None:
    (table,) = leaderboard_tables(board)
    assert column(table, "Behind best [CI]")[:2] == ["best", "0.6 [-1.4, 1.6]"]
    assert column(table, "p")[:2] == ["", "<0.001"]
    raw = rows_of(table)
    assert float(raw[1]["behind_best"]) == pytest.approx(0.006)
    assert float(raw[1]["behind_best_low"]) == pytest.approx(-0.014)
    assert float(raw[1]["p_adjusted"]) == 1e-9
    assert raw[0]["behind_best"] == ""
    assert raw[0]["dataset"] == "coco:val2017_dev"


def test_protocols_without_comparisons_have_ranks_but_no_groups(board: RunRecord) -> None:
    (table,) = leaderboard_tables(board)
    assert column(table, "Rank", "center")[0] == "1"
    assert set(column(table, "Group", "center")) == {""}
    assert set(column(table, "Behind best [CI]", "center")[1:]) == {"not compared"}
    assert any(note.startswith("center has no groups: ") for note in table.notes)


def test_one_missing_pair_leaves_no_groups_rather_than_a_false_tie(board: RunRecord) -> None:
    lame = board.model_copy(update={"comparisons": board.comparisons[:-1]})
    (table,) = leaderboard_tables(lame)
    assert set(column(table, "Group")) == {""}
    assert any("were not compared" in note for note in table.notes)


def test_equal_models_share_their_rank(make_record: Make) -> None:
    source = make_record(1)
    first = source.miou[0]
    copies = tuple(first.model_copy(update={"model": name}) for name in "xyz")
    last = first.model_copy(update={"model": "last", "miou": 0.1, "ci95": None})
    rows = (last, *copies)
    record = source.model_copy(
        update={
            "miou": rows,
            "comparisons": compared(rows, {"x-y": 1.0, "x-z": 1.0, "y-z": 1.0}),
        }
    )
    (table,) = leaderboard_tables(record)
    assert column(table, "Rank") == ["1", "1", "1", "4"]
    assert column(table, "Group") == ["a", "a", "a", "b"]
    assert column(table, "Behind best [CI]")[1].startswith("0.0 [")
    assert column(table, "mIoU [CI]")[-1] == "10.0"


def test_models_without_accuracy_are_named_with_the_reason(board: RunRecord) -> None:
    (table,) = leaderboard_tables(board)
    shown = {row["model"] for row in rows_of(table)}
    assert "sam-vit-h" not in shown
    (line,) = (note for note in table.notes if "(no trained weights)" in note)
    assert line.startswith("Not ranked in box, center, center-multi")
    assert "sam-vit-h" in line
    assert any("box takes no points as prompts): " in note for note in table.notes)


def test_datasets_and_references_have_tables_of_their_own(board: RunRecord) -> None:
    def changed(**changes: Any) -> RunRecord:
        return board.model_copy(
            update={
                "miou": tuple(r.model_copy(update=changes) for r in board.miou),
                "comparisons": tuple(r.model_copy(update=changes) for r in board.comparisons),
            }
        )

    others = [changed(reference="teacher:sam-vit-h"), changed(dataset="sa1b:x")]
    whole = board.model_copy(
        update={
            "miou": sum((r.miou for r in others), board.miou),
            "comparisons": sum((r.comparisons for r in others), board.comparisons),
        }
    )
    tables = leaderboard_tables(whole)
    assert [table.name for table in tables] == [
        "leaderboard-coco-val2017-dev-ground-truth",
        "leaderboard-coco-val2017-dev-teacher-sam-vit-h",
        "leaderboard-sa1b-x-ground-truth",
    ]
    assert len({len(table.rows) for table in tables}) == 1
    assert any("not accuracy" in note for note in tables[1].notes)
    assert any("favour SAM" in note for note in tables[2].notes)
    assert not any("favour SAM" in note for note in tables[0].notes)


def test_comparisons_on_fewer_prompts_are_said(board: RunRecord) -> None:
    fewer = tuple(
        row.model_copy(update={"n_instances": 390})
        if "grabcut" in (row.model_a, row.model_b)
        else row
        for row in board.comparisons
    )
    (table,) = leaderboard_tables(board.model_copy(update={"comparisons": fewer}))
    (line,) = (note for note in table.notes if "both answered" in note)
    assert line.startswith("box: grabcut is compared on the 390 prompts")


def test_boundary_iou_has_a_column_where_it_was_measured(board: RunRecord) -> None:
    (without,) = leaderboard_tables(board)
    assert "Boundary" not in without.to_markdown()
    rows = tuple(
        row if row.miou is None else row.model_copy(update={"boundary_miou": row.miou / 2})
        for row in board.miou
    )
    (table,) = leaderboard_tables(board.model_copy(update={"miou": rows}))
    assert "| Boundary (%) |" in table.to_markdown()
    assert column(table, "Boundary")[1] == "37.2"


def test_a_record_without_accuracy_has_no_leaderboard(
    empty_record: RunRecord, make_record: Make
) -> None:
    assert leaderboard_tables(empty_record) == ()
    source = make_record(1)
    failed = tuple(
        r.model_copy(update={"status": "error", "why": "broken", "miou": None}) for r in source.miou
    )
    assert leaderboard_tables(source.model_copy(update={"miou": failed})) == ()


def test_all_forms_are_printed(board: RunRecord) -> None:
    from rich.console import Console

    (table,) = leaderboard_tables(board)
    console = Console(width=160, file=io.StringIO(), record=True)
    console.print(table.to_rich())
    text = console.export_text()
    assert "74.4 [71.4, 76.9]" in text
    assert "Behind best [CI] (points)" in text
    assert table.to_latex().count(r"\\") == len(table.rows) + 1
    assert "&lt;0.001" in table.to_markdown()
