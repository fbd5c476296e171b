"""Headline protocols and accuracies in percent."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from benchmarks.records.record import RunRecord
from benchmarks.tables.record_queries import (
    accuracy_frame,
    headline,
    latency_frame,
    miou_percent,
    model_frame,
    protocols,
    used_parameters,
)


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


def test_frames_hold_a_row_for_each_row_of_the_record(record: RunRecord) -> None:
    models, times, scores = model_frame(record), latency_frame(record), accuracy_frame(record)
    assert list(models.model) == [row.model for row in record.models]
    assert models.set_index("model").used_parameters["mobilesam"] == 9_808_452
    assert models.set_index("model").random["sam-vit-h"]
    assert len(times) == len(record.latency)
    assert (
        times.loc[times.status == "ok", ["median_ms", "low_ms", "high_ms"]].notna().all(axis=None)
    )
    assert set(times.model[times.is_range]) == {"mobilesam"}
    assert len(scores) == len(record.miou)
    first = scores.iloc[0]
    assert (first.miou, first.low, first.n_small) == pytest.approx((74.4, 71.4, 120))
    assert scores.miou[scores.status != "ok"].isna().all()


def test_frames_of_an_empty_record_have_their_columns(empty_record: RunRecord) -> None:
    for make in (model_frame, latency_frame, accuracy_frame):
        frame = make(empty_record)
        assert len(frame) == 0
        assert "model" in frame.columns


def test_used_parameters_need_every_component(record: RunRecord) -> None:
    assert used_parameters(record, "mobilesam") == 9_808_452
    assert used_parameters(record, "fastsam-x") == 72_234_149
    assert used_parameters(record, "box") == 0
    broken = record.params[1].model_copy(update={"status": "error", "used": None})
    partial = record.model_copy(update={"params": (record.params[0], broken, *record.params[2:])})
    assert used_parameters(partial, "mobilesam") is None
