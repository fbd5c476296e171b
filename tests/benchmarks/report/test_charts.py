from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from example_records import sized_record

from benchmarks.evaluation.subgroups import SubgroupRow
from benchmarks.latency.timer import NOTHING_MS
from benchmarks.records.record import RunRecord, WeightsRow
from benchmarks.report.charts import (
    Figure,
    accuracy_by_size,
    accuracy_latency,
    decode_prompts,
    history,
    latency,
    robustness,
    scatter,
    subgroups,
)
from benchmarks.tables.record_queries import headline, model_names, setups

RANGE = "range (fewer than 5 processes)"


def figures(record: RunRecord) -> list[Figure]:
    setup = setups(record)[0]
    protocol = headline(record)[0]
    found = (
        accuracy_latency(record, setup, protocol),
        accuracy_by_size(record, protocol),
        latency(record, setup),
        decode_prompts(record, setup),
    )
    return [figure for figure in found if figure is not None]


def values(figure: Figure) -> list[dict[str, Any]]:
    """All data of the chart of a figure."""
    return [row for rows in figure.chart["datasets"].values() for row in rows]


@pytest.mark.parametrize("n_models", [1, 12])
def test_charts_are_valid_json_with_descriptions(
    make_record: Callable[..., RunRecord], n_models: int
) -> None:
    record = make_record(n_models)
    found = [
        *figures(record),
        *history([record, record.model_copy(update={"id": "b"})], ["mobilesam"]),
    ]
    assert len(found) > 4
    for figure in found:
        json.dumps(figure.chart, allow_nan=False)
        assert figure.chart["width"] == "container"
        assert figure.chart["description"] == f"{figure.title}. {figure.alt}"
        assert {param["name"] for param in figure.chart["params"]} == {"shown", "zoom"}
        assert figure.table.rows
        tips = {row["tip"] for row in values(figure) if "tip" in row}
        assert any("mobilesam" in tip for tip in tips)


def test_foreign_text_is_data_and_no_expression(record: RunRecord) -> None:
    evil = "'];alert(1);['</script>"
    text = record.model_dump_json().replace("grabcut", evil)
    hostile = RunRecord.model_validate_json(text)
    older = hostile.model_copy(update={"id": evil, "created_utc": evil})
    found = history([hostile, older], model_names(hostile))
    labels = f"[[{json.dumps(evil[:10])}, "
    assert labels in next(each for each in _found(found[0].chart, "labelExpr"))
    for figure in figures(hostile):
        spec = {
            key: value for key, value in figure.chart.items() if key not in ("datasets", "data")
        }
        expressions = json.dumps(spec).split('"expr"')[1:]
        assert not any("alert" in each[:40] for each in expressions)
        assert not any("alert" in str(each) for each in _found(spec, "transform"))


def _found(node: Any, key: str) -> list[Any]:
    children = node.values() if isinstance(node, dict) else node if isinstance(node, list) else []
    own = [node[key]] if isinstance(node, dict) and key in node else []
    return [*own, *(each for child in children for each in _found(child, key))]


def test_scatter_has_a_diagonal_and_room_for_objects() -> None:
    spec = scatter()
    assert spec["datasets"].pop("pairs") == []
    assert [{"a": 0, "b": 0}, {"a": 1, "b": 1}] in spec["datasets"].values()


def test_empty_record_has_no_figures(empty_record: RunRecord) -> None:
    assert setups(empty_record) == ()
    assert headline(empty_record) == ()
    assert history([empty_record, empty_record], []) == []


def test_accuracy_latency_table_matches_the_record(record: RunRecord) -> None:
    figure = accuracy_latency(record, setups(record)[0], headline(record)[0])
    assert figure is not None
    rows = {str(row[0].raw[0]): row for row in figure.table.rows}
    assert rows["mobilesam"][2].raw == pytest.approx((74.4, 71.4, 76.9))
    # Grabcut is slower than the box and more accurate; both are on the front.
    on_front = [name for name, row in rows.items() if row[4].text == "yes"]
    assert on_front == ["box", "grabcut", "mobilesam"]
    # Those without parameters have their own shape, too, and are hollow.
    filled, hollow = (each for each in figure.chart["layer"] if "shape" in each["encoding"])
    assert filled["encoding"]["shape"] == hollow["encoding"]["shape"]
    assert hollow["mark"]["style"] == "hollow"


def test_legends_are_not_read_out(record: RunRecord) -> None:
    """Vega would read out all models of the scale, not those of the legend."""
    for figure in figures(record):
        legends = [each for each in _found(figure.chart, "legend") if each]
        assert legends
        assert not any(legend["aria"] for legend in legends)


def test_latency_chart_has_three_times_of_a_model_on_one_line(record: RunRecord) -> None:
    figure = latency(record, setups(record)[0])
    assert figure is not None
    own = [row for row in values(figure) if row["name"] == "mobilesam"]
    assert {row["step"]: row["value"] for row in own} == {
        "encode": 1200.0, "decode": 55.0, "end to end": 1269.0,
    }  # fmt: skip
    assert min(row["value"] for row in values(figure)) >= NOTHING_MS
    order = figure.chart["layer"][0]["encoding"]["y"]["sort"]
    assert order.index("box") < order.index("mobilesam") < order.index("sam-vit-h")
    assert any("Hollow: random weights" in note for note in figure.notes)
    assert figure.scope == {"device": "cpu, 4 threads", "precision": "float32"}


def test_captions_name_ranges_of_few_processes(record: RunRecord) -> None:
    """The record has a model of three processes, and others of five."""
    setup, protocol = setups(record)[0], headline(record)[0]
    for figure in (latency(record, setup), decode_prompts(record, setup)):
        assert figure is not None
        assert any(RANGE in note for note in figure.notes)
        assert "(range " in figure.table.to_markdown()
    trade_off = accuracy_latency(record, setup, protocol)
    assert trade_off is not None
    assert f"{RANGE} of time" in trade_off.notes[0]


def test_few_samples_are_noted(record: RunRecord) -> None:
    rows = [
        row.model_copy(update={"warnings": ("fewer than 5 calls of a process",)})
        if row.model == "grabcut" and row.phase == "encode"
        else row
        for row in record.latency
    ]
    changed = record.model_copy(update={"latency": tuple(rows)})
    figure = latency(changed, setups(record)[0])
    assert figure is not None
    assert any("Fewer than 5 calls" in note for note in figure.notes)


def lines(figure: Figure) -> list[list[str]]:
    """Dates of the runs that each line of a history joins."""
    found: dict[tuple[str, str], list[str]] = {}
    for row in values(figure):
        if "tip" in row:
            found.setdefault((row["model"], row["where"]), []).append(row["tip"].split(", ")[1])
    return list(found.values())


def test_history_joins_runs_of_one_machine_only(make_record: Callable[..., RunRecord]) -> None:
    one = make_record(2, id="a", created_utc="2026-01-01T00:00:00Z")
    two = make_record(2, id="b", created_utc="2026-01-02T00:00:00Z")
    elsewhere = one.environment.model_copy(update={"cpu": "Another"})
    far = make_record(2, id="c", created_utc="2026-01-01T12:00:00Z", environment=elsewhere)
    found = history([far, two, one], model_names(one))
    times = next(figure for figure in found if figure.key.startswith("history-encode"))
    assert lines(times) == [["a", "b"], ["a", "b"], ["c"], ["c"]]
    assert '"detail": {"field": "where"' in json.dumps(times.chart)
    assert [row[0].text for row in times.table.rows][::2] == ["a", "b", "c"]
    # Runs of a machine stay together even if a run of another one lies between them in time.
    assert [row["label"] for row in values(times) if "edge" in row] == ["machine 1", "machine 2"]
    assert "Machine 2: Another, avx2, 4 threads, glibc." in times.notes
    assert history([one], ["mobilesam"]) == []


def test_history_joins_agreements_with_one_teacher_only(
    make_record: Callable[..., RunRecord],
) -> None:
    runs = []
    for number, digit in enumerate("aab"):
        weights = WeightsRow(kind="file", sha256=64 * digit)
        update = {"reference": "teacher:t", "reference_weights": weights}
        one = make_record(1, id=f"r{number}", created_utc=f"2026-01-0{number + 1}T00:00:00Z")
        rows = tuple(row.model_copy(update=update) for row in one.miou)
        runs.append(one.model_copy(update={"miou": rows}))
    found = history(runs, ["mobilesam"])
    accuracy = next(f for f in found if "teacher" in f.scope.get("protocol", ""))
    assert lines(accuracy) == [["r0", "r1"], ["r2"]]
    assert (
        "Lines join only runs of the same data, prompts, weights and precision." in accuracy.notes
    )


def test_history_joins_accuracies_of_equal_data_and_weights_on_any_machine(
    make_record: Callable[..., RunRecord],
) -> None:
    one = make_record(1, id="r0", created_utc="2026-01-01T00:00:00Z")
    elsewhere = one.environment.model_copy(update={"threads": 1})
    weights = WeightsRow(kind="file", sha256="f" * 64)
    runs = [one, one.model_copy(update={"id": "r1", "environment": elsewhere})]
    for name, change in (("r2", {"n_images": 25}), ("r3", {"weights": weights})):
        rows = tuple(row.model_copy(update=change) for row in one.miou)
        runs.append(one.model_copy(update={"id": name, "miou": rows}))
    (figure, *_) = (f for f in history(runs, ["mobilesam"]) if f.key.startswith("history-miou"))
    assert lines(figure) == [["r0", "r1"], ["r2"], ["r3"]]


@pytest.mark.parametrize(
    "change", [{"cpu_features": ("avx2", "avx_vnni")}, {"libraries": {"torch": "0"}}, None]
)
def test_history_joins_no_times_of_other_features_or_libraries_or_of_busy_machines(
    make_record: Callable[..., RunRecord], change: dict[str, Any] | None
) -> None:
    one = make_record(1, id="r0", warnings=())
    other = one.environment.model_copy(update=change or {})
    warnings = () if change else ("noisy: load average 4.0 on 2 cores before the run",)
    two = one.model_copy(update={"id": "r1", "environment": other, "warnings": warnings})
    times = next(f for f in history([one, two], ["mobilesam"]) if "encode" in f.key)
    assert sorted(lines(times)) == [["r0"], ["r1"]]
    assert times.message == "No two of these runs compare."


def test_subgroups_leave_out_the_reference_and_name_it() -> None:
    where = ("photos", "box", "teacher:a", "size")
    rows = [SubgroupRow(*where, "large", name, 9, 90, 0.5, None) for name in "ab"]
    (figure,) = subgroups(["a", "b"], rows, {})
    assert figure.title == "Box, by size: shipped photos, agreement with a"
    assert {row["model"] for row in values(figure)} == {"b"}
    assert figure.message == ""
    many = [SubgroupRow(*where[:3], "category", f"c{i}", "b", 9, 90, 0.5, None) for i in range(21)]
    (figure,) = subgroups(["a", "b"], many, {})
    assert figure.notes[-1] == "In the chart are the 12 largest."
    few = SubgroupRow(*where[:3], "category", "rare", "b", 4, 19, 1.0, (0.0, 1.0))
    (figure,) = subgroups(["a", "b"], [*many[:3], few], {})
    assert {row["label"].split("|")[0] for row in values(figure)} == {"c0", "c1", "c2"}
    assert "1 of 4 have fewer than 20 objects or 8 images" in figure.notes[-1]
    assert any("Intervals over 4 images are wide" in note for note in figure.notes)
    assert "rare" in figure.table.to_csv()
    assert len(figure.table.rows) == 4


def test_disturbed_prompts_are_drawn_by_percentage(disturbed_record: RunRecord) -> None:
    (figure,) = robustness(disturbed_record)
    assert figure.choice == "box-jitter"
    assert figure.scope == {"dataset": "coco:val2017_dev", "reference": "ground-truth"}
    drawn = [
        (row["percent"], round(row["value"], 6))
        for row in values(figure)
        if row["model"] == "mobilesam"
    ]
    assert drawn[0][0] == 0
    assert drawn[1:] == [(5.0, 70.0), (20.0, 60.0)]
    assert len(figure.table.rows) == len(values(figure))
    one = disturbed_record.robustness[:1]
    assert robustness(disturbed_record.model_copy(update={"robustness": one})) == []


def test_input_sizes_of_a_model_are_one_curve() -> None:
    record = sized_record()
    figure = accuracy_latency(record, setups(record)[0], headline(record)[0])
    assert figure is not None
    lines = [each for each in figure.chart["layer"] if each["mark"]["type"] == "line"]
    (curve,) = (each for each in lines if "color" in each["encoding"])
    rows = figure.chart["datasets"][curve["data"]["name"]]
    assert {row["name"] for row in rows} == {"mobilesam"}
    assert {row["text"] for row in rows} == {"1024 px", "768 px", "512 px"}
    assert any("Lines join the input sizes" in note for note in figure.notes)
