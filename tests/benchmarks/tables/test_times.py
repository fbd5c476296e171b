"""Times as they are shown: an interval from five processes on, a range from fewer."""

from __future__ import annotations

import csv
import io
from typing import Any

import pytest

from benchmarks.records.record import EverythingRow, LatencyRow, RunRecord, WeightsRow
from benchmarks.records.statistics import Spread
from benchmarks.tables.columns import (
    bars_text,
    median_cell,
    median_column,
    sample_notes,
    spread_notes,
)
from benchmarks.tables.record_queries import spread_of
from benchmarks.tables.record_tables import latency_table, summary_table


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


def test_what_older_records_promise_is_not_shown() -> None:
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
def test_the_header_says_what_surrounds_a_median(processes: tuple[int, ...], header: str) -> None:
    rows = [timed_row(each) for each in processes]
    notes = spread_notes(map(spread_of, rows))
    assert median_column(rows).header == header
    assert ("range" in header) == any(note.startswith("Range") for note in notes)
    assert ("CI" in header) == any(note.startswith("Intervals") for note in notes)
    assert ("range" in header) == ("range" in bars_text(map(spread_of, rows)))


def test_tables_of_times_call_a_range_so(record: RunRecord) -> None:
    """The record has a model of three processes, and others of five."""
    for table in (latency_table(record), summary_table(record)):
        text = table.to_markdown()
        assert "(range " in text
        assert "Range of times: " in text
        assert "Intervals of times: 95 %, over processes." in text


def test_a_csv_keeps_interval_and_range_apart(record: RunRecord) -> None:
    rows = list(csv.DictReader(io.StringIO(latency_table(record).to_csv())))
    for row in rows:
        if row["median_ms"]:
            is_range = row["model"] == "mobilesam"
            assert bool(row["range_low_ms"]) == is_range
            assert bool(row["ci95_low_ms"]) != is_range


def test_few_and_unstable_samples_stand_beside_the_tables(record: RunRecord) -> None:
    warnings = ("few samples: 1 of 5 (cap of the profile)", "not stable after 3 warm-up calls")
    rows = [
        row.model_copy(update={"warnings": warnings})
        if row.model == "grabcut" and row.phase in ("encode", "load")
        else row
        for row in record.latency
    ]
    warned = record.model_copy(update={"latency": tuple(rows)})
    notes = latency_table(warned).notes
    assert "Few samples: 1 of 5 (cap of the profile): grabcut load, grabcut encode." in notes
    assert "Not stable after 3 warm-up calls: grabcut load, grabcut encode." in notes
    # The summary shows no time of loading.
    assert "Not stable after 3 warm-up calls: grabcut encode." in summary_table(warned).notes
    assert sample_notes(record.latency) == ()
