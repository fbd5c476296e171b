from __future__ import annotations

from collections.abc import Callable

import pytest

from benchmarks.records.record import RunRecord
from benchmarks.report.frames import (
    accuracy_latency_frame,
    area_scale,
    decode_frame,
    object_frame,
    percent_limits,
    protocol_frame,
    size_frame,
    size_notes,
)
from benchmarks.tables.record_queries import protocols, setups


def test_models_without_accuracy_are_named(record: RunRecord) -> None:
    points, label, notes = accuracy_latency_frame(record, setups(record)[0], protocols(record)[0])
    assert list(points["model"]) == ["mobilesam", "grabcut", "box"]
    assert label == "end to end"
    assert "sam-vit-h, sam-vit-l, sam-vit-b, fastsam-x, fastsam-s" in notes[0]
    assert "dummy" in notes[1]


def test_sum_of_times_is_used_for_all_models_or_none(record: RunRecord) -> None:
    latency = tuple(r for r in record.latency if not (r.model == "box" and r.phase == "end_to_end"))
    partial = record.model_copy(update={"latency": latency})
    points, label, _ = accuracy_latency_frame(partial, setups(record)[0], protocols(record)[0])
    assert label == "encode + decode of one prompt"
    assert list(points["ms"]) == pytest.approx([1255, 400.1, 0.06])
    first = points.iloc[0]
    assert (first["ms_low"], first["ms_high"]) == pytest.approx((0.98 * 1255, 1.02 * 1255))
    assert first["spread"].is_range


def test_decode_frame_has_slopes(record: RunRecord) -> None:
    frame = decode_frame(record, setups(record)[0]).set_index("model")
    assert "fastsam-x" not in frame.index
    assert frame.loc["mobilesam", "slope_ms"].unique() == pytest.approx([(2650 - 55) / 99])
    single = record.model_copy(update={"latency": record.latency[:5]})
    assert list(decode_frame(single, setups(record)[0])["slope_ms"]) == [None]


def test_random_weights_have_no_accuracy(record: RunRecord) -> None:
    protocol = protocols(record)[0]
    assert set(size_frame(record, protocol)["model"]) == {"mobilesam", "grabcut", "box"}


def test_percent_limits() -> None:
    assert percent_limits([52.0, 71.4]) == (38, 82)
    assert percent_limits([0.0, 100.0]) == (-2, 102)


def test_area_scale() -> None:
    def scale(*parameters: int | None) -> float:
        return area_scale(object_frame({"parameters": n} for n in parameters), 120, 1600)

    assert scale(None) == 0
    assert 641e6 * scale(10_000_000, 641_000_000) == pytest.approx(1600)
    assert 10e6 * scale(10_000_000, None, 0) == pytest.approx(120)


def test_a_model_is_not_plotted_against_its_own_masks(
    make_record: Callable[..., RunRecord],
) -> None:
    rows = make_record(12).miou
    own = [row.model_copy(update={"reference": "teacher:mobilesam"}) for row in rows]
    record = make_record(12, miou=tuple(own))
    protocol = protocols(record)[0]
    points, _, notes = accuracy_latency_frame(record, setups(record)[0], protocol)
    assert "mobilesam" not in set(points["model"])
    assert "Left out, its own masks are the reference: mobilesam." in notes
    sizes = size_frame(record, protocol)
    assert "mobilesam" not in set(sizes["model"])
    assert "grabcut" in set(sizes["model"])
    text = "Left out, its own masks are the reference: mobilesam."
    assert text in size_notes(record, protocol, sizes)
    assert "mobilesam" not in set(protocol_frame(record, protocols(record))["model"])
