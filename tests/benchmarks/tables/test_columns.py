"""Declared columns, footnotes for long reasons, and medians with an interval or a range."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.records.record import EverythingRow, LatencyRow, RunRecord, WeightsRow
from benchmarks.records.statistics import Spread
from benchmarks.tables.columns import (
    STATUS,
    bars_text,
    build_table,
    median_cell,
    median_column,
    percent_column,
    sample_notes,
    spread_notes,
    text_column,
)
from benchmarks.tables.record_queries import spread_of


def timed_row(processes: int, **more: Any) -> LatencyRow:
    samples = tuple((0.9 + number / 100, 1.0 + number / 100) for number in range(processes))
    known: dict[str, Any] = {
        "model": "m",
        "phase": "encode",
        "device": "cpu",
        "precision": "fp32",
        "threads": 1,
        "weights": "none",
        "decode_kind": "decoder",
        "median_ms": 1.0,
        "processes": processes,
        "samples_ms": samples,
    }
    return LatencyRow(**{**known, **more})


def test_intervals_of_older_records_are_not_shown() -> None:
    old = timed_row(1, ci95_ms=(0.99, 1.01))
    assert spread_of(old) == Spread((0.9, 1.0), is_range=True)
    cell = median_cell(old)
    assert cell.text == "1.00 (range 0.90 to 1.00)"
    assert cell.raw == (1.0, None, None, 0.9, 1.0)
    everything = EverythingRow(
        model="m",
        dataset="d",
        median_ms=1.0,
        ci95_ms=(0.9, 1.1),
        weights=WeightsRow(kind="none"),
    )
    assert spread_of(everything) is None
    assert median_cell(everything).text == "1.00"


@pytest.mark.parametrize(
    ("processes", "header"),
    [
        ((), "Median"),
        ((5, 6), "Median [95 % CI]"),
        ((1, 4), "Median (range)"),
        ((4, 5), "Median [95 % CI] or (range)"),
    ],
)
def test_the_header_names_interval_or_range(processes: tuple[int, ...], header: str) -> None:
    rows = [timed_row(each) for each in processes]
    notes = spread_notes(map(spread_of, rows))
    assert median_column(rows).header == header
    assert ("range" in header) == any(note.startswith("Range") for note in notes)
    assert ("CI" in header) == any(note.startswith("Intervals") for note in notes)
    assert ("range" in header) == ("range" in bars_text(map(spread_of, rows)))


def test_stable_samples_give_no_note(record: RunRecord) -> None:
    assert sample_notes(record.latency) == ()


def test_long_reasons_are_numbered_footnotes_and_short_ones_stay_in_the_cell() -> None:
    long, other = "a reason that is too long for a cell", "another reason that is too long"
    reasons = [("ok", None), ("error", long), ("skipped", other), ("error", long), ("error", "x")]
    rows = [SimpleNamespace(status=status, why=why) for status, why in reasons]
    table = build_table("t", "T", [STATUS], rows, ["A note.", "A note."])
    texts = [row[0].text for row in table.rows]
    assert texts == ["ok", "error (1)", "skipped (2)", "error (1)", "error: x"]
    assert table.notes == ("A note.", f"(1) {long}", f"(2) {other}")
    assert [row[0].raw for row in table.rows] == reasons


def test_columns_follow_paths_and_leave_missing_values_empty() -> None:
    columns = [
        text_column("Name", "name", csv_only=True),
        percent_column("Small", "small", get=("sizes.small",)),
        percent_column("Low", "low", get=("ci.0",)),
    ]
    rows = [
        SimpleNamespace(name="a\nb", sizes=SimpleNamespace(small=0.5), ci=(0.25, 0.75)),
        SimpleNamespace(name="c", sizes=SimpleNamespace(small=None), ci=None),
    ]
    table = build_table("t", "T", columns, rows)
    assert [[cell.text for cell in row] for row in table.rows] == [
        ["a b", "50.0", "25.0"],
        ["c", "", ""],
    ]
    assert table.to_csv().splitlines()[-1] == "c,,"
    assert "| Small (%) | Low (%) |" in table.to_markdown()
