"""Headline protocols and accuracies in percent."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from benchmarks.records.record import Clicks, MiouRow, Noc, RunRecord, WeightsRow
from benchmarks.tables.record_queries import (
    disturbances,
    doubtful_end_to_end,
    headline,
    miou_percent,
    numbers_of_clicks,
    protocols,
    used_parameters,
)
from benchmarks.tables.record_tables import latency_table, summary_table


def only(record: RunRecord, *names: str, reference: str = "ground-truth") -> RunRecord:
    rows = [r for r in record.miou if r.protocol in names and r.reference == reference]
    return record.model_copy(update={"miou": tuple(rows)})


def shown(record: RunRecord) -> list[tuple[str, str]]:
    return [(p.protocol, p.reference) for p in headline(record)]


def test_all_of_few_protocols_are_headlines(record: RunRecord) -> None:
    assert headline(record) == protocols(record)


def test_the_default_ones_of_many_are_headlines(make_many: Callable[[int], RunRecord]) -> None:
    record = make_many(1)
    truth = "ground-truth"
    teacher = "teacher:sam-vit-h"
    assert shown(record) == [
        ("center", truth), ("box", truth), ("center-multi", truth), ("center", teacher),
    ]  # fmt: skip
    assert shown(only(record, "clicks-1", "clicks-2", "clicks-3", "box")) == [("box", truth)]
    clicks = [f"clicks-{number}" for number in range(1, 6)]
    assert shown(only(record, *clicks)) == [(name, truth) for name in clicks[:3]]
    assert shown(only(record, *clicks, reference=teacher)) == [("clicks-1", teacher)]


def test_percent_only_of_what_is_accuracy(record: RunRecord) -> None:
    row = record.miou[0]
    value, bounds = miou_percent(row) or (None, None)
    assert value == pytest.approx(74.4)
    assert bounds == pytest.approx((71.4, 76.9))
    assert miou_percent(None) is None
    assert miou_percent(row.model_copy(update={"status": "error"})) is None


def test_used_parameters_need_every_component(record: RunRecord) -> None:
    assert used_parameters(record, "mobilesam") == 9_808_452
    assert used_parameters(record, "fastsam-x") == 72_234_149
    assert used_parameters(record, "box") == 0
    broken = record.params[1].model_copy(update={"status": "error", "used": None})
    partial = record.model_copy(update={"params": (record.params[0], broken, *record.params[2:])})
    assert used_parameters(partial, "mobilesam") is None


@pytest.mark.parametrize(
    ("whole_ms", "text"),
    [
        (1100.0, "end to end 1.10 s is shorter than encode alone, 1.20 s"),
        (1199.0, None),
        (1250.0, None),
        (2539.0, "end to end 2.54 s is 2.00 times the sum of its phases, 1.27 s"),
    ],
)
def test_doubtful_times_end_to_end_are_flagged(
    make_record: Callable[..., RunRecord], whole_ms: float, text: str | None
) -> None:
    record = make_record(1)
    whole = next(row for row in record.latency if row.phase == "end_to_end")
    factor = whole_ms / (whole.median_ms or 1)
    samples = tuple(tuple(factor * each for each in group) for group in whole.samples_ms)
    changed = whole.model_copy(update={"median_ms": whole_ms, "samples_ms": samples})
    rows = tuple(changed if row is whole else row for row in record.latency)
    record = record.model_copy(update={"latency": rows})
    found = doubtful_end_to_end(record, changed)
    assert (found is None) == (text is None)
    for table in (latency_table(record), summary_table(record)):
        noted = [note for note in table.notes if "mobilesam: end to end" in note]
        assert len(noted) == (text is not None)
        assert text is None or text in noted[0]
    assert all(doubtful_end_to_end(record, row) is None for row in rows if row is not changed)


@pytest.mark.parametrize(("slowest", "disturbed"), [(1.2, False), (2.0, True)])
def test_calls_of_one_process_that_vary_are_named(
    make_record: Callable[..., RunRecord], slowest: float, disturbed: bool
) -> None:
    record = make_record(1)
    row = next(row for row in record.latency if row.phase == "encode")
    calls = ((100.0,) * 8 + (100 * slowest,) * 2,)
    changed = record.model_copy(update={"latency": (row.model_copy(update={"samples_ms": calls}),)})
    said = "mobilesam: encode of the same process varies: the 90th percentile of its calls is "
    said += "2.00 times the 10th"
    assert disturbances(changed) == ({"mobilesam": said} if disturbed else {})


def test_phases_that_were_not_timed_raise_no_doubt(make_record: Callable[..., RunRecord]) -> None:
    record = make_record(1)
    whole = next(row for row in record.latency if row.phase == "end_to_end")
    assert doubtful_end_to_end(record.model_copy(update={"latency": (whole,)}), whole) is None


def test_numbers_of_clicks_of_older_records() -> None:
    row = MiouRow(
        model="m", dataset="d", protocol="clicks-5", reference="ground-truth", n_instances=10,
        weights=WeightsRow(kind="none"),
        clicks=Clicks(budget=5, noc85=3.5, failed85=0.3, noc90=4.25, failed90=0.7),
    )  # fmt: skip
    assert numbers_of_clicks(row) == {
        0.85: Noc(iou=0.85, noc=3.5, n_failed=3), 0.9: Noc(iou=0.9, noc=4.25, n_failed=7),
    }  # fmt: skip
    assert numbers_of_clicks(row.model_copy(update={"clicks": None})) == {}
