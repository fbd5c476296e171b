"""Tables of accuracy: mean IoU, leaderboards, boxes of a detector, segment everything."""

from __future__ import annotations

import io
from collections.abc import Callable
from itertools import combinations
from typing import Any

import pytest
from table_values import column_texts, csv_rows

from benchmarks.records.record import (
    BySize,
    ComparisonRow,
    DetectorRow,
    EverythingRow,
    MiouRow,
    RunRecord,
    WeightsRow,
)
from benchmarks.tables.accuracy_tables import (
    detector_table,
    everything_table,
    leaderboard_tables,
    miou_tables,
)
from benchmarks.tables.record_tables import summary_table
from benchmarks.tables.table import Table

Make = Callable[..., RunRecord]


TRAINED = WeightsRow(kind="file", sha256="6dbb9052" + "0" * 56, official=True)
RANDOM = WeightsRow(kind="random", why="no network")


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


def test_references_never_share_a_column(record: RunRecord) -> None:
    agreement = tuple(
        row.model_copy(update={"reference": "teacher:sam-vit-h"}) for row in record.miou
    )
    both = record.model_copy(update={"miou": (*record.miou, *agreement)})
    made = miou_tables(both)
    assert [set(column_texts(part, "Reference")) for part in made] == [
        {"ground-truth"},
        {"teacher:sam-vit-h"},
    ]
    assert len({part.name for part in made}) == 2
    assert "which is not accuracy" in made[1].to_markdown()


def test_tables_of_sa1b_have_its_caution(record: RunRecord) -> None:
    rows: tuple[MiouRow, ...] = tuple(
        row.model_copy(update={"dataset": "sa1b:dev"}) for row in record.miou
    )
    made = record.model_copy(update={"miou": rows})
    for part in (summary_table(made), *miou_tables(made)):
        assert "they favour SAM" in part.to_markdown()


def column(table: Table, header: str, protocol: str = "box") -> list[str]:
    headers = [each.header for each in table.columns]
    index = headers.index(header)
    return [
        row[index].text for row in table.rows if row[headers.index("Protocol")].text == protocol
    ]


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
    assert any("share a letter cannot be distinguished" in note for note in table.notes)


def test_the_distance_to_the_best_is_positive_for_either_order_of_a_pair(board: RunRecord) -> None:
    (table,) = leaderboard_tables(board)
    assert column(table, "Behind best [CI]")[:2] == ["best", "0.6 [−1.4, 1.6]"]
    assert column(table, "p")[:2] == ["", "<0.001"]
    raw = csv_rows(table)
    assert float(raw[1]["behind_best"]) == pytest.approx(0.006)
    assert float(raw[1]["behind_best_low"]) == pytest.approx(-0.014)
    assert float(raw[1]["p_adjusted"]) == 1e-9
    assert raw[0]["behind_best"] == ""
    assert raw[0]["dataset"] == "coco:val2017_dev"


def test_protocols_without_comparisons_have_ranks_but_no_groups(board: RunRecord) -> None:
    (table,) = leaderboard_tables(board)
    assert column(table, "Rank", "center")[0] == "1"
    assert set(column(table, "Group", "center")) == {""}
    assert set(column(table, "Behind best [CI]", "center")[1:]) == {"not tested"}
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
    shown = {row["model"] for row in csv_rows(table)}
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


def test_comparisons_on_fewer_prompts_have_a_note(board: RunRecord) -> None:
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


def test_all_outputs_of_a_leaderboard(board: RunRecord) -> None:
    from rich.console import Console

    (table,) = leaderboard_tables(board)
    console = Console(width=160, file=io.StringIO(), record=True)
    console.print(table.to_rich())
    text = console.export_text()
    assert "74.4 [71.4, 76.9]" in text
    assert "Behind best [CI] (points)" in text
    assert table.to_latex().count(r"\\") == len(table.rows) + 1
    assert "&lt;0.001" in table.to_markdown()


def detector(model: str, **changes: Any) -> DetectorRow:
    values: dict[str, Any] = {
        "model": model,
        "dataset": "coco:val2017",
        "detections": "vitdet|h.json",
        "detections_sha256": "ab" * 32,
        "n_images": 5000,
        "n_detections": 123456,
        "ap": 0.41234,
        "ap50": 0.6,
        "ap75": 0.45,
        "ap_by_size": BySize(small=0.3, medium=0.5),
        "weights": TRAINED,
        "seconds": 1234.5,
    }
    return DetectorRow(**{**values, **changes})


def everything(model: str, **changes: Any) -> EverythingRow:
    values: dict[str, Any] = {
        "model": model,
        "dataset": "sa1b:x",
        "n_images": 20,
        "n_objects": 100,
        "ar10": 0.1,
        "ar100": 0.3,
        "ar1000": 0.5912,
        "ar1000_by_size": BySize(small=0.4, large=0.8),
        "masks_per_image": 87.25,
        "median_ms": 1600.0,
        "ci95_ms": (1500.0, 1700.0),  # of an older record: one process gives none
        "range_ms": (1200.0, 2900.0),
        "weights": TRAINED,
    }
    return EverythingRow(**{**values, **changes})


def test_detector_figures_are_percent_in_text_and_fractions_in_csv(make_record: Make) -> None:
    table = detector_table(make_record(1, detector=(detector("mobilesam"),)))
    assert column_texts(table, "AP") == ["41.2"]
    assert column_texts(table, "AP large") == [""]
    (row,) = csv_rows(table)
    assert (row["ap"], row["ap_small"], row["ap_large"]) == ("0.41234", "0.3", "")
    assert (row["detections"], row["detections_sha256"]) == ("vitdet|h.json", "ab" * 32)
    assert row["n_detections"] == "123456"
    assert "vitdet\\|h.json" in table.to_markdown()
    assert any("detector's score" in note for note in table.notes)
    assert any("ab" * 8 in note for note in table.notes)


def test_failed_rows_stay_with_their_reason(make_record: Make) -> None:
    gone = {"ap": None, "ap50": None, "ap75": None, "ap_by_size": BySize()}
    rows = (
        detector("mobilesam", **gone, status="error", why="RuntimeError: a|b"),
        detector("sam", weights=RANDOM, **gone, status="skipped", why="no network at all " * 3),
    )
    table = detector_table(make_record(1, detector=rows))
    assert column_texts(table, "Status") == ["error: RuntimeError: a|b", "skipped (1)"]
    assert table.notes[-1].startswith("(1) no network at all")
    assert csv_rows(table)[0]["why"] == "RuntimeError: a|b"


def test_left_out_boxes_are_a_note(make_record: Make) -> None:
    row = detector("mobilesam", why="boxes left out: 3 without area")
    table = detector_table(make_record(1, detector=(row,)))
    assert column_texts(table, "Status") == ["ok"]
    assert "mobilesam, vitdet|h.json: boxes left out: 3 without area." in table.notes


def test_everything_figures_time_and_provenance(make_record: Make) -> None:
    config = {"device": "cpu", "precision": "fp32"}
    table = everything_table(make_record(1, everything=(everything("m"),), config=config))
    assert column_texts(table, "AR@1000") == ["59.1"]
    assert column_texts(table, "AR@1000 medium") == [""]
    assert column_texts(table, "Median (range)") == ["1,600 (range 1,200 to 2,900)"]
    assert "Range of times: the fastest and the slowest image." in table.notes
    (row,) = csv_rows(table)
    assert (row["ar1000"], row["ar1000_large"]) == ("0.5912", "0.8")
    assert [row[name] for name in ("median_ms", "ci95_low_ms", "ci95_high_ms")] == [
        "1600.0",
        "",
        "",
    ]
    assert (row["range_low_ms"], row["range_high_ms"]) == ("1200.0", "2900.0")
    assert any("cpu, fp32, 4 threads" in note for note in table.notes)
    assert any("they favour SAM" in note for note in table.notes)


def test_random_weights_never_show_a_figure(make_record: Make) -> None:
    record = make_record(
        1,
        detector=(detector("m", weights=RANDOM),),
        everything=(everything("m", weights=RANDOM),),
    )
    for table, names in (
        (detector_table(record), ("ap", "ap50", "ap75", "ap_small", "ap_medium")),
        (everything_table(record), ("ar10", "ar100", "ar1000", "ar1000_small", "median_ms")),
    ):
        (row,) = csv_rows(table)
        assert [row[name] for name in names] == [""] * len(names)
        assert (row["status"], row["why"]) == ("skipped", "random weights have no accuracy")


def test_nothing_measured_is_a_table_without_rows(empty_record: RunRecord) -> None:
    for table in (detector_table(empty_record), everything_table(empty_record)):
        assert table.rows == ()
        assert table.notes == ()


def test_values_that_print_alike_share_their_rank(make_record: Make) -> None:
    base = make_record(1).miou[0]
    rows = [
        base.model_copy(update={"model": name, "miou": miou})
        for name, miou in (("a", 0.71641), ("b", 0.7164), ("c", 0.71), ("d", 0.70999))
    ]
    (table,) = leaderboard_tables(make_record(0, miou=tuple(rows)))
    assert column_texts(table, "Rank") == ["1", "1", "3", "3"]


def test_a_model_is_not_ranked_against_its_own_masks(make_record: Make) -> None:
    base = make_record(1).miou[0].model_copy(update={"reference": "teacher:net"})
    rows = [
        base.model_copy(update={"model": name, "miou": miou})
        for name, miou in (("net", 1.0), ("other", 0.9))
    ]
    record = make_record(0, miou=tuple(rows))
    (board,) = leaderboard_tables(record)
    assert column_texts(board, "Model") == ["other"]
    assert column_texts(board, "Behind best [CI]") == ["best"]
    assert any("(its own masks are the reference): net" in note for note in board.notes)
    (accuracies,) = miou_tables(record)
    assert "net is compared with its own masks, which is no result." in accuracies.notes
    summary = summary_table(record)
    assert column_texts(summary, "Agreement box vs teacher:net") == [
        "reference (1)",
        "90.0 [71.4, 76.9]",
    ]
    only = make_record(0, miou=(rows[0],))
    assert leaderboard_tables(only) == ()
