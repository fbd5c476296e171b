"""Figures with fewer than five processes show a range and call it so."""

from __future__ import annotations

from benchmarks.records.record import RunRecord
from benchmarks.report.accuracy_plot import accuracy_points, bars_note
from benchmarks.report.html_latency import decode_prompts, waterfall
from benchmarks.report.plots import latency_figure
from benchmarks.tables.record_queries import protocols, setups

RANGE = "range (fewer than 5 processes)"


def test_captions_of_times_call_a_range_so(record: RunRecord) -> None:
    """The record has a model of three processes, and others of five."""
    (setup,) = setups(record)
    for figure in (waterfall(record, setup), decode_prompts(record, setup)):
        assert figure is not None
        assert any(RANGE in note for note in figure.notes)
        assert "(range " in figure.table.to_markdown()
    points, _, _ = accuracy_points(record, setup, protocols(record)[0])
    assert f"{RANGE} of time" in bars_note(points)
    plot = latency_figure(record, setup)
    texts = [text.get_text() for text in plot.findobj(lambda each: hasattr(each, "get_text"))]
    assert any(RANGE in " ".join(text.split()) for text in texts)


def test_few_samples_are_noted_below_the_figure(record: RunRecord) -> None:
    rows = [
        row.model_copy(update={"warnings": ("few samples: 1 of 5",)})
        if row.model == "grabcut" and row.phase == "encode"
        else row
        for row in record.latency
    ]
    (setup,) = setups(record)
    figure = waterfall(record.model_copy(update={"latency": tuple(rows)}), setup)
    assert figure is not None
    assert any("Few samples" in note for note in figure.notes)
