"""The parts of the HTML report: colours, drawings, advice, and which cases the gallery shows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pandas as pd
import pytest

from benchmarks.records.record import ComparisonRow, RunRecord, WeightsRow
from benchmarks.report.html_accuracy import accuracy_by_size, accuracy_latency
from benchmarks.report.html_advice import main_protocols
from benchmarks.report.html_cases import choose_cases, medians
from benchmarks.report.html_figure import Figure
from benchmarks.report.html_findings import findings
from benchmarks.report.html_history import history
from benchmarks.report.html_latency import decode_prompts, falls, waterfall
from benchmarks.report.html_svg import Canvas, Scale, log_scale
from benchmarks.report.html_theme import (
    DARK,
    LEAST_GRAPHIC,
    LEAST_TEXT,
    LIGHT,
    Theme,
    contrast,
    mark_color,
    readable,
)
from benchmarks.report.style import PALETTE
from benchmarks.tables.record_queries import headline, setups


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
def test_every_text_can_be_read_on_every_ground(theme: Theme) -> None:
    colors = asdict(theme)
    for ground in ("page", "surface", "raised"):
        for text in ("ink", "muted", "accent", "good", "bad"):
            assert contrast(colors[text], colors[ground]) >= LEAST_TEXT, (text, ground)
        assert contrast(theme.edge, colors[ground]) >= LEAST_GRAPHIC
    # What is pressed has the surface's colour on the accent's.
    assert contrast(theme.surface, theme.accent) >= LEAST_TEXT


def test_contrast_is_that_of_wcag() -> None:
    assert contrast("#ffffff", "#000000") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)
    assert contrast("#123456", "#123456") == 1


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
def test_every_model_colour_can_be_seen_and_told_apart(theme: Theme) -> None:
    shown = [mark_color(color, theme) for color in PALETTE]
    assert all(contrast(color, theme.surface) >= LEAST_GRAPHIC for color in shown)
    assert len(set(shown)) == len(PALETTE)


def test_a_colour_that_can_be_seen_stays_as_it_is() -> None:
    assert readable("#0072B2", LIGHT.surface).lower() == "#0072b2"


def test_ticks_are_round_and_few() -> None:
    assert Scale(47, 78, 0, 300).ticks(8) == [50, 55, 60, 65, 70, 75]
    assert Scale(0, 100, 0, 300).ticks(4) == [0, 50, 100]
    assert log_scale([0.07, 1700], 0, 700).ticks(5) == [0.1, 1, 10, 100, 1000]
    assert len(log_scale([1e-4, 1e9], 0, 700).ticks(5)) <= 5
    # A single value stands in the middle of a decade.
    assert log_scale([10], 0, 100)(10) == pytest.approx(50)


def test_drawings_escape_what_is_foreign() -> None:
    canvas = Canvas(10, 10)
    bad = "</text><script>alert(1)</script>\"'&"
    canvas.text(0, 0, bad)
    with canvas.mark(bad, 0):
        canvas.marker("P", 1, 1, 1, "dot")
    root = ET.fromstring(str(canvas.render(bad, "wide")))  # noqa: S314 - our own
    texts = [each.text for each in root.iter() if each.text]
    assert texts == [bad, bad]
    assert root.attrib["aria-label"] == bad


@pytest.mark.parametrize("kind", ["o", "s", "^", "v", "D", "P", "x"])
def test_every_marker_is_drawn_where_it_belongs(kind: str) -> None:
    import re

    canvas = Canvas(100, 100)
    canvas.marker(kind, 40, 60, 5, "dot")
    text = str(canvas.render("", "wide"))
    found = re.search(r'(?:points|d)="([^"]+)"', text)
    if found is None:
        assert 'cx="40" cy="60" r="5"' in text
        return
    values = [float(each) for each in re.findall(r"-?[\d.]+", found[1])]
    assert np.mean(values[::2]) == pytest.approx(40, abs=0.1)
    assert all(abs(x - 40) <= 6.1 for x in values[::2])
    assert all(abs(y - 60) <= 6.1 for y in values[1::2])


def figures(record: RunRecord) -> list[Figure]:
    setup = setups(record)[0]
    protocol = headline(record)[0]
    found = (
        accuracy_latency(record, setup, protocol),
        accuracy_by_size(record, protocol),
        waterfall(record, setup),
        decode_prompts(record, setup),
    )
    return [figure for figure in found if figure is not None]


@pytest.mark.parametrize("n_models", [1, 9, 12])
def test_figures_are_xml_in_both_widths_and_stay_inside(
    make_record: Callable[..., RunRecord], n_models: int
) -> None:
    found = figures(make_record(n_models))
    assert len(found) == 4
    for figure in found:
        for svg in (figure.wide, figure.narrow):
            root = ET.fromstring(str(svg))  # noqa: S314 - our own
            *_, width, height = (float(each) for each in root.attrib["viewBox"].split())
            for each in root.iter("{http://www.w3.org/2000/svg}text"):
                assert 0 <= float(each.attrib["x"]) <= width
                assert 0 <= float(each.attrib["y"]) <= height
        assert figure.table.rows


def test_a_record_without_measurements_has_no_figures(empty_record: RunRecord) -> None:
    assert setups(empty_record) == ()
    assert headline(empty_record) == ()
    assert history([empty_record, empty_record], {}) == []


def test_the_values_of_the_trade_off_are_those_of_the_record(record: RunRecord) -> None:
    figure = accuracy_latency(record, setups(record)[0], headline(record)[0])
    assert figure is not None
    rows = {str(row[0].raw[0]): row for row in figure.table.rows}
    assert rows["mobilesam"][2].raw == pytest.approx((74.4, 71.4, 76.9))
    assert rows["mobilesam"][4].text == "yes"
    # Grabcut is slower than the box and more accurate; both are on the front.
    assert [name for name, row in rows.items() if row[4].text == "yes"] == [
        "box", "grabcut", "mobilesam",
    ]  # fmt: skip


def test_a_waterfall_adds_its_phases_up(record: RunRecord) -> None:
    found = {fall.model: fall for fall in falls(record, setups(record)[0])}
    assert [name for name, _ in found["mobilesam"].steps] == ["preprocess", "encode", "decode"]
    assert found["mobilesam"].sum_ms == pytest.approx(14 + 1200 + 55)
    # Their search for masks was not timed, and the page must not invent it.
    assert [name for name, _ in found["fastsam-x"].steps] == ["preprocess", "encode"]


def texts(record: RunRecord) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {"advice": [], "fact": [], "caution": []}
    for each in findings(record, []):
        found[each.kind].append(f"{each.text} {each.why}")
    return found


def test_advice_names_the_only_model_with_trained_weights(record: RunRecord) -> None:
    said = texts(record)
    assert len(said["advice"]) == 1
    assert "run mobilesam for prompts of box, center, center-multi" in said["advice"][0]
    assert "alone has trained weights" in said["advice"][0]
    assert "box: mobilesam 74.4 % [71.4, 76.9]" in said["advice"][0]
    assert any("accuracy of sam-vit-h, sam-vit-l, sam-vit-b" in each for each in said["caution"])


def tie(record: RunRecord, p: float) -> RunRecord:
    rows = [
        ComparisonRow(
            dataset="coco:val2017_dev", protocol=protocol, reference="ground-truth",
            model_a="mobilesam", model_b=other, n_images=50, n_instances=400,
            difference=0.001, ci95=(-0.01, 0.01), p_value=p, p_adjusted=p,
        )
        for protocol in ("box", "center", "center-multi")
        for other in ("mobilesam-onnx", "mobilesam-openvino")
    ]  # fmt: skip
    return record.model_copy(update={"comparisons": tuple(rows)})


def test_of_models_that_cannot_be_told_apart_the_fastest_is_advised(
    make_record: Callable[..., RunRecord],
) -> None:
    said = texts(tie(make_record(11), 0.8))
    assert "run mobilesam-openvino for prompts of" in said["advice"][0]
    assert "nobody is measurably more accurate" in said["advice"][0]
    assert len(said["advice"]) == 1


def test_where_they_differ_the_best_is_advised_and_the_trade_told(
    make_record: Callable[..., RunRecord],
) -> None:
    said = texts(tie(make_record(11), 0.001))
    assert "run mobilesam for prompts of" in said["advice"][0]
    assert "it is the most accurate" in said["advice"][0]
    faster = [each for each in said["advice"][1:] if "time matters more" in each]
    assert {each.split(": it takes")[0] for each in faster} == {
        "Where time matters more, run mobilesam-onnx",
        "Where time matters more, run mobilesam-openvino",
    }


def test_the_words_follow_the_record(record: RunRecord) -> None:
    """Another record says something else: nothing is written by hand."""
    rows = tuple(
        row if row.model != "mobilesam" else row.model_copy(update={"weights": WeightsRow(
            kind="random")}) for row in record.models
    )  # fmt: skip
    said = texts(record.model_copy(update={"models": rows}))
    assert said["advice"] == []
    assert "cannot say which model to run" in said["caution"][0]


def test_without_times_or_accuracies_less_is_said(make_record: Callable[..., RunRecord]) -> None:
    assert "No time was measured" in texts(make_record(9, latency=()))["advice"][0]
    assert "By time alone, run mobilesam" in texts(make_record(9, miou=()))["advice"][0]


def test_photos_come_before_drawn_scenes(record: RunRecord) -> None:
    drawn = tuple(
        row.model_copy(update={"dataset": "synthetic:seed=0,n=9", "n_instances": 9999})
        for row in record.miou
    )
    both = record.model_copy(update={"miou": (*drawn, *record.miou)})
    assert {p.dataset for p in main_protocols(both)} == {"coco:val2017_dev"}
    only = record.model_copy(update={"miou": drawn})
    assert {p.dataset for p in main_protocols(only)} == {"synthetic:seed=0,n=9"}
    assert any("drawn scenes, not on photos" in each for each in texts(only)["caution"])


def test_history_joins_runs_of_one_machine_only(make_record: Callable[..., RunRecord]) -> None:
    one = make_record(2, id="a", created_utc="2026-01-01T00:00:00Z")
    two = make_record(2, id="b", created_utc="2026-01-02T00:00:00Z")
    elsewhere = one.environment.model_copy(update={"cpu": "Another"})
    far = make_record(2, id="c", created_utc="2026-01-03T00:00:00Z", environment=elsewhere)
    found = history([far, two, one], {"mobilesam": 0, "sam-vit-h": 1})
    times = next(figure for figure in found if figure.key.startswith("history-encode"))
    drawn = str(times.wide)
    assert drawn.count("<polyline") == 6  # two models: two machines each, and the legend's
    lines = [part.split('"')[0] for part in drawn.split('points="')[1:]]
    assert sorted(len(line.split()) for line in lines if len(line.split()) > 0) == [
        1, 1, 2, 2, 2, 2,
    ]  # fmt: skip
    assert [row[0].text for row in times.table.rows][::2] == ["a", "b", "c"]
    assert history([one], {"mobilesam": 0}) == []


def test_history_joins_accuracies_against_one_teachers_weights_only(
    make_record: Callable[..., RunRecord],
) -> None:
    runs = []
    for number, digit in enumerate("aab"):
        weights = WeightsRow(kind="file", sha256=64 * digit)
        update = {"reference": "teacher:t", "reference_weights": weights}
        one = make_record(1, id=f"r{number}", created_utc=f"2026-01-0{number + 1}T00:00:00Z")
        rows = tuple(row.model_copy(update=update) for row in one.miou)
        runs.append(one.model_copy(update={"miou": rows}))
    found = history(runs, {"mobilesam": 0})
    accuracy = next(figure for figure in found if "teacher" in figure.key)
    assert str(accuracy.wide).count("<polyline") == 3  # of each teacher, and the legend's
    assert "Lines join runs of the same machine and weights of the teacher only." in accuracy.notes


def frame(n_images: int, models: tuple[str, ...] = ("a", "b")) -> Any:
    rng = np.random.default_rng(0)
    rows = [
        {"image_id": image, "annotation_id": 10 * image + k, "model": model, "protocol": protocol,
         "iou": float(rng.uniform())}
        for image in range(n_images) for k in range(2) for model in models
        for protocol in ("box", "center")
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_the_worst_the_median_and_the_best_of_every_model_are_shown() -> None:
    table = frame(40)
    cases = choose_cases(table, ["box", "center"], each=1, most=12)
    shown = {(case.protocol, case.annotation_id) for case in cases}
    for (protocol, _), part in table.groupby(["protocol", "model"]):
        ranked = part.sort_values("iou").annotation_id.tolist()
        assert (protocol, ranked[0]) in shown
        assert (protocol, ranked[-1]) in shown
        # Of an even number two are equally near to the median.
        half = len(ranked) // 2
        assert {(protocol, ranked[half - 1]), (protocol, ranked[half])} & shown
    assert [case.protocol for case in cases] == sorted(case.protocol for case in cases)
    box = [case.lowest for case in cases if case.protocol == "box"]
    assert box == sorted(box)


def test_every_image_is_shown_as_far_as_there_is_room() -> None:
    table = frame(40)
    assert {case.image_id for case in choose_cases(table, ["box"], each=1)} == set(range(40))
    few = choose_cases(table, ["box", "center"], each=5, most=8)
    assert len(few) == 8
    # Where not all fit, neither protocol loses everything.
    assert {case.protocol for case in few} == {"box", "center"}


def test_a_model_that_did_not_answer_is_absent() -> None:
    table = frame(3)
    table = table[~((table.model == "b") & (table.protocol == "center"))]
    cases = choose_cases(table, ["box", "center", "random-1"], each=2)
    assert {tuple(case.ious) for case in cases if case.protocol == "center"} == {("a",)}
    assert medians(table, ["center"], ["a", "b"])[0][1] is None


def test_custom_weights_are_said_to_be_custom(make_record: Callable[..., RunRecord]) -> None:
    said = texts(make_record(10))
    assert any("mobilesam-onnx did not run the published" in each for each in said["caution"])
