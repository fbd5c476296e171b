from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from example_records import sized_record
from matplotlib.legend import Legend

from benchmarks.records.record import RunRecord, WeightsRow
from benchmarks.report import captions, frames
from benchmarks.report.labels import prompt_label
from benchmarks.report.plots import (
    accuracy_figure,
    clicks_figure,
    decode_figure,
    draw_plot,
    latency_figure,
    params_figure,
    plots_of,
    protocols_figure,
    size_figure,
    write_plots,
)
from benchmarks.report.style import MUTED, plot_style, print_styles, save_figure
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
def test_texts_do_not_overlap(make_record: Callable[..., RunRecord], n_models: int) -> None:
    made = figures(make_record(n_models))
    assert len(made) == 5
    for figure in made:
        assert overlapping_texts(figure) == []


def by_reference(record: RunRecord, reference: str) -> list[Protocol]:
    return [p for p in protocols(record) if p.reference == reference]


@pytest.mark.parametrize("n_models", [1, 9, 12])
@pytest.mark.usefixtures("styled")
def test_texts_do_not_overlap_in_overviews(
    make_many: Callable[[int], RunRecord], n_models: int
) -> None:
    record = make_many(n_models)
    for reference in ("ground-truth", "teacher:sam-vit-h"):
        figure = protocols_figure(record, by_reference(record, reference))
        assert overlapping_texts(figure) == []
    assert overlapping_texts(clicks_figure(record, by_reference(record, "ground-truth"))) == []


@pytest.mark.usefixtures("styled")
def test_latency_shows_three_times_and_the_message(record: RunRecord) -> None:
    (setup,) = setups(record)
    figure = latency_figure(record, setup)
    titles = [ax.get_title(loc="left") for ax in figure.axes]
    assert titles == ["encode", "decode, 1 prompt", "end to end, 1 prompt"]
    found = captions.latency(record, setup)
    assert found is not None
    assert found.message in [" ".join(text.get_text().split()) for text in figure.texts]
    assert figure.get_suptitle() == found.title
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert names.index("box") < names.index("mobilesam") < names.index("sam-vit-h")  # by time


@pytest.mark.usefixtures("styled")
@pytest.mark.parametrize("n_models", [9, 12])
def test_names_stand_next_to_their_points(
    make_record: Callable[..., RunRecord], n_models: int
) -> None:
    """Without a line to the point; names without a place are in the key, several as numbers."""
    record = make_record(n_models)
    (setup,) = setups(record)
    box = protocols(record)[0]
    points, _, _ = frames.accuracy_latency_frame(record, setup, box)
    (ax,) = accuracy_figure(record, setup, box).axes
    legends = [each for each in ax.get_children() if isinstance(each, Legend)]
    key = [text.get_text() for legend in legends for text in legend.get_texts()]
    said = {text.get_text() for text in ax.texts}
    for name in points["label"]:
        (number,) = [entry.split()[0] for entry in key if name in entry] or [None]
        if number is not None and not number.isdecimal():
            continue  # a single name in the key needs no number
        assert any(name in text or number in text.split(", ") for text in said), (name, said, key)
    straight = [line for line in ax.lines if len(line.get_xdata()) == 2]
    assert all(line.get_transform() != ax.transAxes for line in straight)


@pytest.mark.usefixtures("styled")
def test_overlapping_texts_are_found(make_record: Callable[..., RunRecord]) -> None:
    figure = figures(make_record(2))[3]
    figure.axes[0].set_title("x" * 30, loc="right")
    assert overlapping_texts(figure) != []


def test_files_are_equal_to_the_byte(make_record: Callable[..., RunRecord], tmp_path: Path) -> None:
    source = make_record(1)
    record = source.model_copy(update={"miou": source.miou[:1], "latency": source.latency[3:6]})
    first, second = (write_plots(record, tmp_path / name) for name in ("a", "b"))
    assert {path.stem for path in first} == FILES
    assert {path.suffix for path in first} == {".svg", ".png"}
    for one, two in zip(first, second, strict=True):
        assert one.read_bytes() == two.read_bytes()
    assert b"<dc:date>" not in first[0].read_bytes()


def test_files_do_not_depend_on_user_settings(
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
def test_protocols_figure_has_a_row_per_protocol(make_many: Callable[[int], RunRecord]) -> None:
    record = make_many(9)
    group = by_reference(record, "ground-truth")
    figure = protocols_figure(record, group)
    rows = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    named = [prompt_label(p.protocol) for p in group if p.protocol != "annotation-point"]
    assert [" ".join(row.split()) for row in rows] == named
    drawn = dots(figure)
    legend = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert legend == ["mobilesam", "grabcut", "box"]
    assert len(drawn) == 3 * 12
    for index, first in enumerate((71.4, 58, 52)):
        values = [float(line.get_xdata()[0]) for line in drawn[index::3]]
        assert values == pytest.approx([first + row for row in range(12)])
    heights = [float(line.get_ydata()[0]) for line in drawn]
    assert heights == sorted(set(heights))  # in each row in the order of the legend
    assert {line.get_color() for line in drawn} == {
        print_styles(["mobilesam", "grabcut", "box"])[name].color for name in legend
    }
    notes = " ".join(figure.get_supxlabel().split())
    stored = "No dot at The point stored with the annotation: mobilesam, grabcut, box"
    assert f"{stored} (no such point)" in notes
    assert "No dot at all: sam-vit-h, sam-vit-l, sam-vit-b, fastsam-x, fastsam-s" in notes


@pytest.mark.usefixtures("styled")
def test_agreement_with_a_model_is_noted(make_many: Callable[[int], RunRecord]) -> None:
    record = make_many(1)
    figure = protocols_figure(record, by_reference(record, "teacher:sam-vit-h"))
    assert "not accuracy" in figure.get_supxlabel()
    assert "agreement with sam-vit-h" in figure.get_suptitle()
    assert clicks_figure(record, by_reference(record, "teacher:sam-vit-h")) is None


@pytest.mark.usefixtures("styled")
def test_few_protocols_have_no_overview(record: RunRecord) -> None:
    assert protocols_figure(record, protocols(record)) is None
    assert clicks_figure(record, protocols(record)) is None


@pytest.mark.usefixtures("styled")
def test_clicks_figure(make_many: Callable[[int], RunRecord]) -> None:
    record = make_many(9)
    group = by_reference(record, "ground-truth")
    figure = clicks_figure(record, group)
    lines = [line for line in dots(figure) if len(line.get_xdata()) == 5]
    assert len(lines) == 3
    for line, first in zip(lines, (78.4, 65, 59), strict=True):
        assert [round(x) for x in line.get_xdata()] == [1, 2, 3, 4, 5]
        assert line.get_ydata() == pytest.approx([first + index for index in range(5)])
    first, second = (line.get_xdata()[0] for line in lines[:2])
    assert first < second
    once = [p for p in group if p.protocol in ("center", "clicks-1")]
    assert clicks_figure(record, once) is None


def test_many_protocols_give_few_files(make_many: Callable[[int], RunRecord]) -> None:
    record = make_many(1).model_copy(update={"params": (), "latency": ()})
    names = {plot.stem for plot in plots_of(record)}
    assert names == {
        "size-box", "size-center", "size-center-multi", "size-center-teacher-sam-vit-h",
        "protocols-ground-truth", "protocols-teacher-sam-vit-h", "clicks",
    }  # fmt: skip
    other = [row.model_copy(update={"dataset": "sa1b:dev"}) for row in record.miou]
    both = record.model_copy(update={"miou": (*record.miou[:1], *other[:13])})
    names = {plot.stem for plot in plots_of(both)}
    assert names == {
        "size-center-coco-val2017-dev", "size-center-sa1b-dev", "size-box-sa1b-dev",
        "size-center-multi-sa1b-dev", "protocols-ground-truth-sa1b-dev", "clicks-sa1b-dev",
    }  # fmt: skip


def test_disturbed_prompts_are_drawn_by_percentage(disturbed_record: RunRecord) -> None:
    alone = disturbed_record.model_copy(update={"latency": (), "params": ()})
    figure = draw_plot(alone, "robustness-box")
    assert figure is not None
    (ax,) = figure.axes
    assert [label.get_text() for label in ax.get_xticklabels()] == ["0", "5", "20"]
    assert ax.get_xlabel() == "Largest move of a side (% of the box)"


def test_empty_record_writes_no_file(empty_record: RunRecord, tmp_path: Path) -> None:
    assert write_plots(empty_record, tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_failed_times_write_no_plot(make_record: Callable[..., RunRecord], tmp_path: Path) -> None:
    source = make_record(1)
    failed = tuple(
        row.model_copy(update={"status": "error", "why": "x", "median_ms": None})
        for row in source.latency
    )
    record = source.model_copy(update={"latency": failed, "params": (), "miou": ()})
    assert write_plots(record, tmp_path) == []


def test_setups_have_separate_files(make_record: Callable[..., RunRecord], tmp_path: Path) -> None:
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


def test_random_weights_are_hollow(record: RunRecord) -> None:
    rows = tuple(r.model_copy(update={"weights": WeightsRow(kind="random")}) for r in record.miou)
    forged = record.model_copy(update={"miou": rows})
    assert size_figure(forged, protocols(record)[0]) is None
    with plot_style():
        figure = params_figure(record)
    lines = [line for line in figure.axes[0].lines if line.get_marker() not in ("None", None)]
    faces = [line.get_markerfacecolor() == "white" for line in lines]
    assert faces == [False, True, True, True, True, True]


def test_import_is_light() -> None:
    code = (
        "import sys, benchmarks.evidence.publish, benchmarks.report.plots;"
        "import benchmarks.tables.record_tables;"
        "print([m for m in ('matplotlib', 'torch', 'pandas', 'rich') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.usefixtures("styled")
def test_ranges_of_few_processes_are_noted(record: RunRecord) -> None:
    figure = latency_figure(record, setups(record)[0])
    texts = [text.get_text() for text in figure.findobj(lambda each: hasattr(each, "get_text"))]
    assert any("range (fewer than 5 processes)" in " ".join(text.split()) for text in texts)


@pytest.mark.usefixtures("styled")
def test_input_sizes_of_a_model_are_one_curve() -> None:
    record = sized_record()
    figure = accuracy_figure(record, setups(record)[0], protocols(record)[0])
    assert overlapping_texts(figure) == []
    (ax,) = figure.axes
    texts = {text.get_text() for text in ax.texts}
    assert texts == {"mobilesam, 1024 px", "768 px", "512 px", "grabcut"}
    color = print_styles(["mobilesam"])["mobilesam"].color
    (curve,) = (line for line in ax.lines if len(line.get_xdata()) == 3 and line.get_c() == color)
    assert list(curve.get_xdata()) == sorted(curve.get_xdata())
    assert "Lines join the input sizes" in figure.get_supxlabel()


def test_the_front_ends_at_its_last_model(record: RunRecord) -> None:
    setup, protocol = setups(record)[0], protocols(record)[0]
    points, *_ = frames.accuracy_latency_frame(record, setup, protocol)
    (ax,) = accuracy_figure(record, setup, protocol).axes
    (line,) = (each for each in ax.lines if each.get_color() == MUTED)
    assert max(line.get_xdata()) == max(frames.pareto_front(points)["ms"])
