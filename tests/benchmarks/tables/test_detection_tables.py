from __future__ import annotations

import csv
import io
from collections.abc import Callable
from typing import Any

from benchmarks.records.record import BySize, DetectorRow, EverythingRow, RunRecord, WeightsRow
from benchmarks.tables.accuracy_tables import detector_table, everything_table
from benchmarks.tables.table import Table

TRAINED = WeightsRow(kind="file", sha256="6dbb9052" + "0" * 56, official=True)
RANDOM = WeightsRow(kind="random", why="no network")
Make = Callable[..., RunRecord]


def raw(table: Table) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(table.to_csv())))


def texts(table: Table, header: str) -> list[str]:
    index = [column.header for column in table.columns].index(header)
    return [row[index].text for row in table.rows]


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


def test_detector_figures_in_percent_for_people_and_as_they_are_in_csv(make_record: Make) -> None:
    table = detector_table(make_record(1, detector=(detector("mobilesam"),)))
    assert texts(table, "AP") == ["41.2"]
    assert texts(table, "AP large") == [""]
    (row,) = raw(table)
    assert (row["ap"], row["ap_small"], row["ap_large"]) == ("0.41234", "0.3", "")
    assert (row["detections"], row["detections_sha256"]) == ("vitdet|h.json", "ab" * 32)
    assert row["n_detections"] == "123456"
    assert "vitdet\\|h.json" in table.to_markdown()
    assert any("detector's score" in note for note in table.notes)
    assert any("ab" * 8 in note for note in table.notes)


def test_rows_that_failed_keep_their_place_and_say_why(make_record: Make) -> None:
    gone = {"ap": None, "ap50": None, "ap75": None, "ap_by_size": BySize()}
    rows = (
        detector("mobilesam", **gone, status="error", why="RuntimeError: a|b"),
        detector("sam", weights=RANDOM, **gone, status="skipped", why="no network at all " * 3),
    )
    table = detector_table(make_record(1, detector=rows))
    assert texts(table, "Status") == ["error: RuntimeError: a|b", "skipped (1)"]
    assert table.notes[-1].startswith("(1) no network at all")
    assert raw(table)[0]["why"] == "RuntimeError: a|b"


def test_boxes_left_out_are_a_note_of_a_good_row(make_record: Make) -> None:
    row = detector("mobilesam", why="boxes left out: 3 without area")
    table = detector_table(make_record(1, detector=(row,)))
    assert texts(table, "Status") == ["ok"]
    assert "mobilesam, vitdet|h.json: boxes left out: 3 without area." in table.notes


def test_everything_figures_time_and_provenance(make_record: Make) -> None:
    config = {"device": "cpu", "precision": "fp32"}
    table = everything_table(make_record(1, everything=(everything("m"),), config=config))
    assert texts(table, "AR@1000") == ["59.1"]
    assert texts(table, "AR@1000 medium") == [""]
    assert texts(table, "Median (range)") == ["1600 (range 1200 to 2900)"]
    assert "Range of times: the quickest and the slowest image." in table.notes
    (row,) = raw(table)
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
        (row,) = raw(table)
        assert [row[name] for name in names] == [""] * len(names)
        assert (row["status"], row["why"]) == ("skipped", "random weights have no accuracy")


def test_nothing_measured_is_a_table_without_rows(empty_record: RunRecord) -> None:
    for table in (detector_table(empty_record), everything_table(empty_record)):
        assert table.rows == ()
        assert table.notes == ()
