from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from benchmarks.records.record import RunRecord, WeightsRow
from benchmarks.report.accuracy_plot import (
    Point,
    accuracy_figure,
    accuracy_points,
    area_scale,
    pareto_front,
)
from benchmarks.report.decode_plot import decode_figure, decode_series, slope_ms
from benchmarks.report.labels import Rect, Spot, place_labels, spread
from benchmarks.report.plots import (
    latency_figure,
    params_figure,
    plot_names,
    size_figure,
    write_plots,
)
from benchmarks.report.protocol_plot import clicks_figure, percent_limits, protocols_figure
from benchmarks.report.style import model_styles, plot_style, save_figure, short_names
from benchmarks.tables.record_queries import Protocol, protocols, setups

FILES = {"params", "latency", "decode", "accuracy-latency-box", "size-box"}


@pytest.fixture
def styled() -> Iterator[None]:
    with plot_style():
        yield


def overlapping_texts(figure: Any) -> list[tuple[str, str]]:
    """Pairs of texts of a figure that cover each other, and texts that its edge cuts off."""
    from matplotlib.text import Text

    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()
    hidden = hidden_labels(figure)
    boxes = [
        (text.get_text(), text.get_window_extent(renderer).padded(-1))
        for text in figure.findobj(Text)
        if text.get_text() and text.get_visible() and text not in hidden
    ]
    page = figure.bbox.padded(1)
    cut = [(n, "edge") for n, b in boxes if not (page.contains(*b.min) and page.contains(*b.max))]
    return cut + [(a, b) for (a, one), (b, two) in combinations(boxes, 2) if one.overlaps(two)]


def hidden_labels(figure: Any) -> set[Any]:
    """Texts that matplotlib holds but does not draw: ticks outside of the view, hidden axes."""
    from matplotlib.text import Text

    hidden: set[Any] = set()
    for ax in figure.axes:
        if not ax.get_visible():
            hidden |= set(ax.findobj(Text))
        for axis in (ax.xaxis, ax.yaxis):
            low, high = sorted(axis.get_view_interval())
            for tick in [*axis.get_major_ticks(), *axis.get_minor_ticks()]:
                if not low <= tick.get_loc() <= high:
                    hidden |= {tick.label1, tick.label2}
    return hidden


def figures(record: RunRecord) -> list[Any]:
    (setup,) = setups(record)
    box = protocols(record)[0]
    made = [
        params_figure(record),
        latency_figure(record, setup),
        decode_figure(record, setup),
        accuracy_figure(record, setup, box),
        size_figure(record, box),
    ]
    return [figure for figure in made if figure is not None]


@pytest.mark.parametrize("n_models", [1, 2, 9, 12])
@pytest.mark.usefixtures("styled")
def test_no_text_covers_another(make_record: Callable[..., RunRecord], n_models: int) -> None:
    made = figures(make_record(n_models))
    assert len(made) == 5
    for figure in made:
        assert overlapping_texts(figure) == []


def by_reference(record: RunRecord, reference: str) -> list[Protocol]:
    return [p for p in protocols(record) if p.reference == reference]


@pytest.mark.parametrize("n_models", [1, 9, 12])
@pytest.mark.usefixtures("styled")
def test_no_text_covers_another_in_overviews(
    make_many: Callable[[int], RunRecord], n_models: int
) -> None:
    record = make_many(n_models)
    for reference in ("ground-truth", "teacher:sam-vit-h"):
        figure = protocols_figure(record, by_reference(record, reference))
        assert overlapping_texts(figure) == []
    assert overlapping_texts(clicks_figure(record, by_reference(record, "ground-truth"))) == []


@pytest.mark.usefixtures("styled")
def test_overlap_is_noticed(make_record: Callable[..., RunRecord]) -> None:
    figure = figures(make_record(2))[3]
    figure.axes[0].set_title("x" * 30, loc="right")
    assert overlapping_texts(figure) != []


def test_files_and_equal_bytes(make_record: Callable[..., RunRecord], tmp_path: Path) -> None:
    source = make_record(1)
    record = source.model_copy(update={"miou": source.miou[:1], "latency": source.latency[3:6]})
    first, second = (write_plots(record, tmp_path / name) for name in ("a", "b"))
    assert {path.stem for path in first} == FILES
    assert {path.suffix for path in first} == {".svg", ".png"}
    for one, two in zip(first, second, strict=True):
        assert one.read_bytes() == two.read_bytes()
    assert b"<dc:date>" not in first[0].read_bytes()


def test_bytes_do_not_depend_on_the_user_settings(
    make_record: Callable[..., RunRecord], tmp_path: Path
) -> None:
    import matplotlib as mpl

    record, made = make_record(1), []
    for color in ("red", "white"):
        with mpl.rc_context({"axes.facecolor": color}), plot_style():
            (path, _) = save_figure(params_figure(record), tmp_path / color, "params")
        made.append(path.read_bytes())
    assert made[0] == made[1]


def dots(figure: Any) -> list[Any]:
    """Lines with markers, one a model."""
    return [line for line in figure.axes[0].lines if line.get_marker() not in ("None", None, "")]


@pytest.mark.usefixtures("styled")
def test_a_row_a_protocol_with_a_dot_a_model(make_many: Callable[[int], RunRecord]) -> None:
    record = make_many(9)
    group = by_reference(record, "ground-truth")
    figure = protocols_figure(record, group)
    rows = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert rows == [p.protocol for p in group if p.protocol != "annotation-point"]
    drawn = dots(figure)
    legend = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert legend == ["mobilesam", "grabcut", "box"]
    assert len(drawn) == 3
    for line, (first, step) in zip(drawn, ((71.4, 1), (58, 1), (52, 1)), strict=True):
        assert line.get_xdata() == pytest.approx([first + step * index for index in range(12)])
        assert [round(y) for y in line.get_ydata()] == list(range(12))
    in_row = [line.get_ydata()[1] for line in drawn]
    assert in_row == sorted(set(in_row))  # side by side, in the order of the legend
    assert {line.get_color() for line in drawn} == {
        model_styles(["mobilesam", "grabcut", "box"])[name].color for name in legend
    }
    notes = " ".join(figure.get_supxlabel().split())
    assert "annotation-point: mobilesam, grabcut, box (no such point)" in notes
    assert "every protocol: sam-vit-h, sam-vit-l, sam-vit-b, fastsam-x, fastsam-s" in notes


@pytest.mark.usefixtures("styled")
def test_agreement_is_not_called_accuracy(make_many: Callable[[int], RunRecord]) -> None:
    record = make_many(1)
    figure = protocols_figure(record, by_reference(record, "teacher:sam-vit-h"))
    assert "not accuracy" in figure.get_supxlabel()
    assert "vs teacher:sam-vit-h" in figure.get_suptitle()
    assert clicks_figure(record, by_reference(record, "teacher:sam-vit-h")) is None


@pytest.mark.usefixtures("styled")
def test_few_protocols_have_no_overview(record: RunRecord) -> None:
    assert protocols_figure(record, protocols(record)) is None
    assert clicks_figure(record, protocols(record)) is None


@pytest.mark.usefixtures("styled")
def test_clicks_rise_along_their_number(make_many: Callable[[int], RunRecord]) -> None:
    record = make_many(9)
    group = by_reference(record, "ground-truth")
    figure = clicks_figure(record, group)
    lines = dots(figure)
    assert len(lines) == 3
    for line, first in zip(lines, (78.4, 65, 59), strict=True):
        assert [round(x) for x in line.get_xdata()] == [1, 2, 3, 4, 5]
        assert line.get_ydata() == pytest.approx([first + index for index in range(5)])
    first, second = (line.get_xdata()[0] for line in lines[:2])
    assert first < second
    once = [p for p in group if p.protocol in ("center", "clicks-1")]
    assert clicks_figure(record, once) is None


def test_percent_limits() -> None:
    assert percent_limits([52.0, 71.4]) == (38, 82)
    assert percent_limits([0.0, 100.0]) == (-2, 102)


def test_many_protocols_leave_few_files(make_many: Callable[[int], RunRecord]) -> None:
    record = make_many(1).model_copy(update={"params": (), "latency": ()})
    names = {Path(name).stem for name in plot_names(record)}
    assert names == {
        "size-box", "size-center", "size-center-multi", "size-center-teacher-sam-vit-h",
        "protocols-ground-truth", "protocols-teacher-sam-vit-h", "clicks",
    }  # fmt: skip
    other = [row.model_copy(update={"dataset": "sa1b:dev"}) for row in record.miou]
    both = record.model_copy(update={"miou": (*record.miou[:1], *other[:13])})
    names = {Path(name).stem for name in plot_names(both)}
    assert names == {
        "size-center-coco-val2017-dev", "size-center-sa1b-dev", "size-box-sa1b-dev",
        "size-center-multi-sa1b-dev", "protocols-ground-truth-sa1b-dev", "clicks-sa1b-dev",
    }  # fmt: skip


def test_nothing_to_show_leaves_no_file(empty_record: RunRecord, tmp_path: Path) -> None:
    assert write_plots(empty_record, tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_failed_times_leave_no_empty_plot(
    make_record: Callable[..., RunRecord], tmp_path: Path
) -> None:
    source = make_record(1)
    failed = tuple(
        row.model_copy(update={"status": "error", "why": "x", "median_ms": None})
        for row in source.latency
    )
    record = source.model_copy(update={"latency": failed, "params": (), "miou": ()})
    assert write_plots(record, tmp_path) == []


def test_setups_are_never_mixed(make_record: Callable[..., RunRecord], tmp_path: Path) -> None:
    source = make_record(1, miou=(), params=())
    rows = source.latency[4:6]
    half = [row.model_copy(update={"precision": "bfloat16"}) for row in rows]
    record = source.model_copy(update={"latency": (*rows, *half)})
    names = {path.name for path in write_plots(record, tmp_path) if path.suffix == ".svg"}
    assert names == {
        f"{kind}-cpu-{precision}-4-threads.svg"
        for kind in ("latency", "decode")
        for precision in ("float32", "bfloat16")
    }


def test_models_without_accuracy_are_named(record: RunRecord) -> None:
    points, label, notes = accuracy_points(record, setups(record)[0], protocols(record)[0])
    assert [point.model for point in points] == ["mobilesam", "grabcut", "box"]
    assert label == "end to end"
    assert "sam-vit-h, sam-vit-l, sam-vit-b, fastsam-x, fastsam-s" in notes[0]
    assert "dummy" in notes[1]


def test_sums_stand_in_for_all_or_for_none(record: RunRecord) -> None:
    latency = tuple(r for r in record.latency if not (r.model == "box" and r.phase == "end_to_end"))
    partial = record.model_copy(update={"latency": latency})
    points, label, _ = accuracy_points(partial, setups(record)[0], protocols(record)[0])
    assert label == "encode + decode of one prompt"
    assert [point.time_ms for point in points] == pytest.approx([1255, 400.1, 0.06])
    assert points[0].time_bounds_ms == pytest.approx((0.98 * 1255, 1.02 * 1255))
    assert points[0].time_spread is not None
    assert points[0].time_spread.is_range


def test_random_weights_have_no_point_and_hollow_marks(record: RunRecord) -> None:
    rows = tuple(r.model_copy(update={"weights": WeightsRow(kind="random")}) for r in record.miou)
    forged = record.model_copy(update={"miou": rows})
    assert size_figure(forged, protocols(record)[0]) is None
    with plot_style():
        figure = params_figure(record)
    lines = [line for line in figure.axes[0].lines if line.get_marker() not in ("None", None)]
    faces = [line.get_markerfacecolor() == "white" for line in lines]
    assert faces == [False, True, True, True, True, True]


def test_pareto_front() -> None:
    data = [("a", 1.0, 50.0), ("b", 2.0, 40.0), ("c", 3.0, 60.0), ("d", 3.0, 55.0)]
    points = [Point(name, time, None, miou, None, None) for name, time, miou in data]
    assert [point.model for point in pareto_front(points)] == ["a", "c"]


def test_areas_are_proportional_and_bounded() -> None:
    assert area_scale([]) == 0
    assert 641e6 * area_scale([10_000_000, 641_000_000]) == pytest.approx(1600)
    assert 10e6 * area_scale([10_000_000]) == pytest.approx(120)


def test_slope(record: RunRecord) -> None:
    series = decode_series(record, setups(record)[0])
    assert "fastsam-x" not in series
    assert slope_ms(series["mobilesam"]) == pytest.approx((2650 - 55) / 99)
    assert slope_ms(series["mobilesam"][:1]) is None


def test_styles_are_stable_and_distinct() -> None:
    names = [f"model-{index}" for index in range(20)]
    styles = model_styles(["mobilesam", *names, "dummy"])
    assert len(set(styles.values())) == 22
    assert styles["mobilesam"] == model_styles(["mobilesam"])["mobilesam"]
    alone = model_styles(["model-3"])
    assert model_styles(["sam-vit-b", "model-3", "box"])["model-3"] == alone["model-3"]


def test_short_names_stay_distinct() -> None:
    names = ["a" * 30 + str(index) + "b" * 30 for index in range(3)]
    short = short_names([*names, "box"])
    assert len(set(short.values())) == 4
    assert max(map(len, short.values())) <= 28
    assert short["box"] == "box"


def test_labels_avoid_each_other() -> None:
    spots = [Spot(100 + 3 * index, 100, 5, 60, 12) for index in range(6)]
    placed = place_labels(spots, [], Rect(0, 0, 400, 300))
    assert all(a.overlap(b) == 0 for a, b in combinations(placed, 2))
    assert all(place.outside(Rect(0, 0, 400, 300)) == 0 for place in placed)


def test_spread() -> None:
    moved = spread([0.5, 0.51, 0.49, 0.99], 0.1, 0.0, 1.0)
    assert sorted(moved) == pytest.approx([0.49, 0.59, 0.69, 0.99])
    assert moved[2] < moved[0] < moved[1]
    tight = spread([0.9] * 5, 0.5, 0.0, 1.0)
    assert sorted(tight) == pytest.approx([0, 0.25, 0.5, 0.75, 1])


def test_importing_the_report_loads_nothing_heavy() -> None:
    code = (
        "import sys, benchmarks.evidence.readme, benchmarks.report.plots;"
        "import benchmarks.tables.record_tables;"
        "print([m for m in ('matplotlib', 'torch', 'pandas', 'rich') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
