from __future__ import annotations

import re
from collections.abc import Callable
from itertools import product

import pytest
from hypothesis import given, settings
from made_tables import UNFIT, Made, Pairs, relation_of, table, tables

from benchmarks.records.record import (
    ComparisonRow,
    RunRecord,
    WeightsRow,
)
from benchmarks.records.statistics import Spread
from benchmarks.report.advice import (
    DRAWN,
    ORACLE,
    answer,
    candidates,
    findings,
    main_protocols,
    network_forms,
)
from benchmarks.report.frames import accuracy_latency_frame, pareto_front
from benchmarks.tables import record_queries as queries
from benchmarks.tables.record_tables import selection_table


def texts(record: RunRecord) -> dict[str, list[str]]:
    """All statements by kind, first the answers that are advice."""
    found: dict[str, list[str]] = {"advice": [], "fact": [], "caution": []}
    for pair in product(queries.setups(record) or (None,), queries.protocols(record) or (None,)):
        text = " ".join(answer(record, *pair))
        if re.match("Run |By time alone|For prompts of", text):
            found["advice"].append(text)
    for each in findings(record, []):
        found[each.kind].append(f"{each.text} {each.why}")
    return found


def test_advice_for_a_single_trained_model(record: RunRecord) -> None:
    said = texts(record)
    assert all(each.startswith("Run mobilesam: it has the highest") for each in said["advice"])
    assert "of the 3 models compared, and the only network (COCO val2017 dev," in said["advice"][0]
    assert "mIoU mobilesam 74.4 % [71.4, 76.9]" in said["advice"][0]
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


def test_fastest_of_tied_models_is_advised(
    make_record: Callable[..., RunRecord],
) -> None:
    said = texts(tie(make_record(11), 0.8))
    assert "Run mobilesam-openvino: " in said["advice"][0]
    assert "no other is measurably more accurate, and it is the fastest" in said["advice"][0]
    assert not any("time matters more" in each for each in said["advice"])


def test_best_model_is_advised_with_faster_alternatives(
    make_record: Callable[..., RunRecord],
) -> None:
    said = texts(tie(make_record(11), 0.001))
    assert "Run mobilesam: " in said["advice"][0]
    faster = [each for each in said["advice"] if "time matters more" in each and "box" in each]
    assert [re.findall(r"run (\S+): it is", each) for each in faster] == [
        ["mobilesam-onnx"],
        ["mobilesam-openvino"],
    ]


def test_models_with_random_weights_are_never_advised(record: RunRecord) -> None:
    rows = tuple(
        row if row.model != "mobilesam" else row.model_copy(update={"weights": WeightsRow(
            kind="random")}) for row in record.models
    )  # fmt: skip
    said = texts(record.model_copy(update={"models": rows}))
    assert {*re.findall(r"[Rr]un ([\w-]+):", " ".join(said["advice"]))} == {"grabcut"}
    without = record.model_copy(update={"models": (), "latency": (), "miou": ()})
    said = texts(without)
    assert said["advice"] == []
    assert "cannot say which model to run" in answer(without, None, None)[0]


def test_advice_without_times_or_accuracies(make_record: Callable[..., RunRecord]) -> None:
    assert "The tables of Time have none of these" in texts(make_record(9, latency=()))["advice"][0]
    assert "By time alone, mobilesam has the fastest" in texts(make_record(9, miou=()))["advice"][0]


def test_photos_are_preferred_to_synthetic_scenes(record: RunRecord) -> None:
    drawn = tuple(
        row.model_copy(update={"dataset": "synthetic:seed=0,n=9", "n_instances": 9999})
        for row in record.miou
    )
    both = record.model_copy(update={"miou": (*drawn, *record.miou)})
    assert {p.dataset for p in main_protocols(both)} == {"coco:val2017_dev"}
    only = record.model_copy(update={"miou": drawn})
    assert {p.dataset for p in main_protocols(only)} == {"synthetic:seed=0,n=9"}
    for each in (only, both):
        said = [answer(each, queries.setups(each)[0], p)[0] for p in queries.protocols(each)]
        assert any(DRAWN in text for text in said)
        assert all(DRAWN in text for text in said) == (each is only)
        assert all("(" in advice for advice in texts(each)["advice"])


def test_custom_weights_give_a_caution(make_record: Callable[..., RunRecord]) -> None:
    said = texts(make_record(10))
    assert any(
        "mobilesam-onnx ran weights that are not official" in each for each in said["caution"]
    )


def advised(said: str) -> str | None:
    """The model that one statement recommends, alone."""
    found = re.search(r"[Rr]un (\w):", said)
    return found and found[1]


@settings(max_examples=60, deadline=None)
@given(tables())
def test_advice_is_right_on_generated_tables(case: tuple[dict[str, Made], Pairs]) -> None:
    models, pairs = case
    record = table(models, pairs)
    fit = {n: (m.miou, m.ms) for n, m in models.items() if m.kind not in UNFIT and m.miou}
    both = {name: (miou, ms) for name, (miou, ms) in fit.items() if ms}
    networks = {name for name in fit if models[name].kind != "classical"}
    if networks and networks.isdisjoint(both):
        both = {}
    spreads = {name: Spread(ms[1:], is_range=True) for name, (_, ms) in both.items()}
    said = texts(record)
    first = next((each for each in said["advice"] if not each.startswith("By time")), None)
    assert (first is not None) == (len(both or fit) > 1)
    for text in said["advice"]:
        named = advised(text)
        if named is None or named not in both:
            assert not both or "By time alone" in text
            continue
        miou, (ms, *_) = both[named]
        for other, (other_miou, (other_ms, *_)) in both.items():
            better = (other_miou > miou, other_ms < ms)
            assert not (other_miou >= miou and other_ms <= ms and any(better)), (text, other)
        if "fastest of those" in text:
            equal = [
                name
                for name in both
                if name != named and relation_of(models, pairs, name, named) == "equal"
            ]
            assert equal
            assert all(spreads[named].below(spreads[name]) for name in equal)
        if "times as fast as" in text and "time matters" in text:
            slower = re.search(r"as fast as (\w),", text)
            assert slower is not None
            assert spreads[named].below(spreads[slower[1]])
            assert miou < both[slower[1]][0]
        if tied := re.search(r"ties with ([\w, ]+?) in time too(, with the higher)?", text):
            for name in re.findall(r"\b[a-f]\b", tied[1].replace(" and ", ", ")):
                assert not spreads[named].below(spreads[name])
                assert not spreads[name].below(spreads[named])
                assert relation_of(models, pairs, name, named) in ("equal", "tied")
                assert tied[2] is None or both[name][0] < miou
        if "no other is measurably more accurate" in text and "timed here" not in text:
            for name in fit:
                more = fit[name][0] > miou
                assert not (more and relation_of(models, pairs, name, named) == "different")
        if "it is the most accurate" in text:
            assert all(miou > fit[name][0] for name in both if name != named)
    facts = " ".join(said["fact"])
    for one, side, other in re.findall(r"(\w) is [\w .]+ points (above|below) (\w),", facts):
        higher, lower = (one, other) if side == "above" else (other, one)
        assert fit[higher][0] > fit[lower][0]
    for text in (each for group in said.values() for each in group):
        assert not re.search(r"(?<![\w.])-\d", text), text
    for setup in queries.setups(record):
        for protocol in queries.protocols(record):
            points, _, _ = accuracy_latency_frame(record, setup, protocol)
            if points.empty:
                continue
            front = set(pareto_front(points)["model"])
            assert front
            for name in points["model"]:
                assert models[name].kind not in UNFIT
                beaten = any(
                    spreads[other].below(spreads[name])
                    and (
                        fit[other][0] >= fit[name][0]
                        or relation_of(models, pairs, other, name) == "equal"
                    )
                    for other in both
                )
                assert beaten == (name not in front)


def test_a_tie_goes_to_the_more_accurate_and_is_called_a_tie() -> None:
    models = {
        "int8": Made(miou=0.716, ms=(999, 987, 1062)),
        "float": Made(miou=0.726, ms=(1004, 983, 1062)),
    }
    said = texts(table(models, {("int8", "float"): (0.2, 0.008)}))
    (text,) = said["advice"]
    assert "Run float: of the 2 models compared, no other is measurably more accurate" in text
    assert "it ties with int8 in time too, with the higher mIoU" in text
    assert "no measurable difference" in text


def test_too_few_images_advise_no_trivial_baseline() -> None:
    models = {
        "net": Made(miou=0.71, ms=(600, 590, 610)),
        "box": Made("classical", miou=0.65, ms=(0.03, 0.03, 0.04)),
    }
    said = texts(table(models, {("net", "box"): (0.3, 0.2)}))
    (text,) = said["advice"]
    few = "few images shows large differences only: shipped photos, 9 images."
    assert any(few in c for c in said["caution"])
    assert "Run net: " in text
    assert "Run net: of the 2 models compared (1 network, 1 baseline), no other is " in text
    assert "measurably more accurate; box is faster, " in text
    assert "and 9 images cannot show whether it is as accurate" in text


def test_a_baseline_above_a_network_is_told_the_right_way_round() -> None:
    models = {
        "net": Made("file", miou=0.678, ms=(300, 290, 310)),
        "weak": Made("file", miou=0.5, ms=(100, 90, 110)),
        "grabcut": Made("classical", miou=0.831, ms=(200, 190, 210)),
    }
    pairs = {("net", "grabcut"): (0.001, 0.02), ("weak", "grabcut"): (0.001, 0.02)}
    said = texts(table(models, pairs | {("net", "weak"): (0.001, 0.02)}))
    assert "Run grabcut: it is the most accurate" in said["advice"][0]
    below = [each for each in said["fact"] if "below grabcut" in each]
    assert ["15.3 points below" in each for each in below] == [True, False]
    assert "33.1 points below" in below[1]
    assert not any("above" in each for each in said["fact"])
    assert "grabcut, a baseline without a network" in below[0]
    models["box"] = Made("classical", miou=0.829, ms=(0.03, 0.03, 0.04))
    tied = pairs | {("net", "box"): (0.001, 0.02), ("box", "grabcut"): (0.6, 0.02)}
    facts = texts(table(models, tied))["fact"]
    assert any("below grabcut, a baseline without a network" in each for each in facts)
    models["box"] = models["box"]._replace(miou=0.4)
    apart = tied | {("box", "grabcut"): (0.001, 0.02)}
    facts = texts(table(models, apart))["fact"]
    assert any("below grabcut, the best baseline without a network" in each for each in facts)


@pytest.mark.parametrize("kind", ["dummy", "oracle"])
def test_models_for_tests_are_left_out_and_named(kind: str) -> None:
    models = {
        "net": Made(miou=0.7),
        "other": Made(miou=0.6),
        "known": Made(kind, miou=0.99, ms=(1, 0.9, 1.1)),
    }
    record = table(models, {("net", "known"): (0.001, 0.02)})
    said = texts(record)
    assert "Run net: it has the highest mIoU of the 2 models" in said["advice"][0]
    assert any("other models: known. A model for tests" in each for each in said["caution"])
    points, _, notes = accuracy_latency_frame(
        record, queries.setups(record)[0], queries.protocols(record)[0]
    )
    assert list(points["model"]) == ["net", "other"]
    assert "Left out, a model for tests: known." in notes


def test_masks_equal_to_the_reference_are_no_accuracy() -> None:
    models = {"leak": Made(miou=1.0, ms=(1, 0.9, 1.1)), "net": Made(), "weak": Made(miou=0.5)}
    said = texts(table(models, {}))
    assert "Run net" in said["advice"][0]
    assert any("leak. Its masks are those of the reference" in each for each in said["caution"])


def test_a_better_model_without_a_time_is_named() -> None:
    models = {"net": Made(miou=0.7), "slow": Made(miou=0.8, ms=None)}
    record = table(models, {("net", "slow"): (0.001, 0.01)})
    assert texts(record)["advice"] == []
    text, why = answer(record, queries.setups(record)[0], queries.protocols(record)[0])
    assert text.startswith("Only net has an accuracy and a time with prompts of box: mIoU 70.0 %,")
    assert why == "Without a time: slow 80.0 %."
    weak = {**models, "weak": Made(miou=0.5)}
    (text,) = texts(table(weak, {}))["advice"]
    assert "Run net: it has the highest mIoU of the 2 models timed here" in text
    assert "without a time: slow 80.0 %" in text


def test_one_model_is_no_advice() -> None:
    record = table({"net": Made()}, {})
    assert texts(record)["advice"] == []
    text, _ = answer(record, queries.setups(record)[0], queries.protocols(record)[0])
    assert text.startswith(
        "Only net has an accuracy in the tables with prompts of box: mIoU 70.0 %, end to end"
    )
    without = record.model_copy(update={"latency": ()})
    assert texts(without)["advice"] == []
    assert (
        "Only net has an accuracy in the tables"
        in answer(without, None, queries.protocols(record)[0])[0]
    )


def test_an_accuracy_beside_a_baseline_alone_says_so() -> None:
    models = {"net": Made(miou=0.8), "box": Made("classical", miou=0.6, ms=(0.03, 0.03, 0.04))}
    (text,) = texts(table(models, {("net", "box"): (0.001, 0.02)}))["advice"]
    assert "the most accurate of the 2 models compared, and the only network (shipped" in text


def test_faster_advice_is_no_worse_than_a_baseline() -> None:
    models = {
        "net": Made(miou=0.8),
        "small": Made(miou=0.65, ms=(50, 49, 51)),
        "grabcut": Made("classical", miou=0.65, ms=(40, 39, 41)),
    }
    pairs = {("net", "grabcut"): (0.001, 0.02), ("small", "grabcut"): (0.5, 0.02)}
    assert "time matters" not in " ".join(texts(table(models, pairs))["advice"])
    slow = models | {"grabcut": Made("classical", miou=0.6, ms=(70, 69, 71))}
    *_, text = texts(table(slow, pairs))["advice"]
    assert "run small: it is 2.00 times as fast as net" in text
    assert "it was not shown to be more accurate than grabcut" in text
    sure = pairs | {("small", "grabcut"): (0.001, 0.02)}
    *_, text = texts(table(slow, sure))["advice"]
    assert "run small" in text
    assert "not shown" not in text


def test_ratios_of_two_runs_or_of_few_calls_are_approximate() -> None:
    models = {"net": Made(miou=0.8), "small": Made(miou=0.7, ms=(51, 49, 52))}
    record = table(models, {})

    def said(*changes: dict[str, object]) -> str:
        rows = zip(record.latency, changes, strict=True)
        times = tuple(row.model_copy(update=change) for row, change in rows)
        return texts(record.model_copy(update={"latency": times}))["advice"][1]

    assert "1.96 times as fast as net," in said({"run": "a", "n": 9}, {"run": "a", "n": 9})
    assert "about 2.0 times as fast as net (times of two runs)" in said({"run": "a"}, {"run": "b"})
    assert "about 2.0 times as fast as net (one call each)" in said({"n": 1}, {"n": 1})
    assert "about 2.0 times as fast as net (few calls)" in said({"n": 9}, {"n": 3})


def test_a_mask_chosen_with_the_ground_truth_is_named() -> None:
    record = table({"a": Made(), "b": Made(miou=0.5)}, {})
    rows = tuple(r.model_copy(update={"protocol": "center-oracle"}) for r in record.miou)
    record = record.model_copy(update={"miou": rows})
    for each in (record, record.model_copy(update={"miou": rows[:1]})):
        text, _ = answer(each, queries.setups(each)[0], queries.protocols(each)[0])
        assert ORACLE in text


def test_no_time_is_that_of_baselines_alone() -> None:
    record = table({"net": Made(), "box": Made("classical", miou=0.5)}, {})
    box = record.model_copy(update={"latency": record.latency[1:]})
    (setup,), (protocol,) = queries.setups(box), queries.protocols(box)
    assert answer(box, setup, protocol)[0].startswith("For prompts of box, run net")
    assert candidates(box, setup, protocol)[0] == []


def test_few_calls_and_busy_runs_are_named() -> None:
    record = table({"net": Made()}, {})
    rows = tuple(row.model_copy(update={"n": 1, "processes": 1}) for row in record.latency)
    busy = "noisy: run r (times of net): load average 4.0 on 2 cores"
    said = texts(record.model_copy(update={"latency": rows, "warnings": (busy,)}))["caution"]
    assert any("fewer than 5 calls: net (end to end 1)." in each for each in said)
    assert any("was busy: run r (times of net)" in each for each in said)
    assert any("one process only: all models." in each for each in said)


def phases(record: RunRecord, times: dict[str, tuple[float, float]]) -> RunRecord:
    """The record with times to encode and to decode one prompt, each by model."""
    rows = []
    for row in record.latency:
        for phase, ms in zip(("encode", "decode"), times[row.model], strict=True):
            same: dict[str, object] = {
                "median_ms": ms,
                "range_ms": (0.9 * ms, 1.1 * ms),
                "phase": phase,
            }
            same |= {"n_prompts": None} if phase == "encode" else {}
            rows.append(row.model_copy(update=same))
    return record.model_copy(update={"latency": (*record.latency, *rows)})


def test_a_contradicting_time_end_to_end_is_not_used() -> None:
    models = {
        "slow": Made(miou=0.74, ms=(1400, 1300, 1500)),
        "fast": Made(miou=0.7401, ms=(1730, 1200, 2060)),
    }
    record = phases(table(models, {("slow", "fast"): (1.0, 0.001)}), {"slow": (1300, 60),
        "fast": (500, 17)})  # fmt: skip
    said = texts(record)
    (text,) = said["advice"]
    assert text.startswith("Run fast: of the 2 models compared, no other is measurably more")
    assert "Times end to end were disturbed, so this is by encode + decode of one prompt: " in text
    assert any("disturbed: fast; measure again" in each for each in said["caution"])
    (setup,), (protocol,) = queries.setups(record), queries.protocols(record)
    points, _, _ = accuracy_latency_frame(record, setup, protocol)
    assert list(pareto_front(points)["model"]) == ["fast"]


def test_the_time_of_several_clicks_is_that_of_all() -> None:
    record = phases(table({"net": Made()}, {}), {"net": (90, 8)})
    rows = tuple(r.model_copy(update={"protocol": "clicks-20"}) for r in record.miou)
    clicked = record.model_copy(update={"miou": rows})
    (setup,), (protocol,) = queries.setups(record), queries.protocols(clicked)
    assert "encode + 20 clicks 250 ms" in answer(clicked, setup, protocol)[0]
    cell = selection_table(clicked, setup, protocol).rows[0][2]
    assert (cell.text, cell.raw[0]) == ("250", 250.0)
    whole = clicked.model_copy(update={"latency": clicked.latency[:1]})
    assert (
        "Only net has an accuracy in the tables with prompts of clicks-20: mIoU 70.0 % ("
        in (answer(whole, setup, protocol)[0])
    )


def test_ratios_are_of_one_run_where_there_is_one() -> None:
    models = {"net": Made(miou=0.8), "small": Made(miou=0.7, ms=(55, 54, 56))}
    record = table(models, {})
    net, small = (row.model_copy(update={"run": "b"}) for row in record.latency)
    merged = record.model_copy(
        update={
            "latency": (net.model_copy(update={"run": "a", "median_ms": 121.0}), small),
            "other_latency": (net, small),
        }
    )
    assert (
        "it is 1.82 times as fast as net (55.0 ms against 100 ms in one run), and"
        in texts(merged)["advice"][1]
    )


def test_forms_of_one_network_are_counted_once() -> None:
    models = {"net": Made("file"), "net@512": Made("file"), "box": Made("classical")}
    record = table(models, {})
    said = network_forms(record, list(models))
    assert said == "3 models compared (one network in 2 forms, 1 baseline)"
