from __future__ import annotations

from collections.abc import Callable

from benchmarks.records.record import ComparisonRow, RunRecord, WeightsRow
from benchmarks.report.advice import findings, main_protocols


def texts(record: RunRecord) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {"advice": [], "fact": [], "caution": []}
    for each in findings(record, []):
        found[each.kind].append(f"{each.text} {each.why}")
    return found


def test_advice_for_a_single_trained_model(record: RunRecord) -> None:
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


def test_fastest_of_tied_models_is_advised(
    make_record: Callable[..., RunRecord],
) -> None:
    said = texts(tie(make_record(11), 0.8))
    assert "run mobilesam-openvino for prompts of" in said["advice"][0]
    assert "no other is measurably more accurate" in said["advice"][0]
    assert len(said["advice"]) == 1


def test_best_model_is_advised_with_faster_alternatives(
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


def test_no_advice_without_trained_weights(record: RunRecord) -> None:
    rows = tuple(
        row if row.model != "mobilesam" else row.model_copy(update={"weights": WeightsRow(
            kind="random")}) for row in record.models
    )  # fmt: skip
    said = texts(record.model_copy(update={"models": rows}))
    assert said["advice"] == []
    assert "cannot say which model to run" in said["caution"][0]


def test_advice_without_times_or_accuracies(make_record: Callable[..., RunRecord]) -> None:
    assert "No time was measured" in texts(make_record(9, latency=()))["advice"][0]
    assert "By time alone, run mobilesam" in texts(make_record(9, miou=()))["advice"][0]


def test_photos_are_preferred_to_synthetic_scenes(record: RunRecord) -> None:
    drawn = tuple(
        row.model_copy(update={"dataset": "synthetic:seed=0,n=9", "n_instances": 9999})
        for row in record.miou
    )
    both = record.model_copy(update={"miou": (*drawn, *record.miou)})
    assert {p.dataset for p in main_protocols(both)} == {"coco:val2017_dev"}
    only = record.model_copy(update={"miou": drawn})
    assert {p.dataset for p in main_protocols(only)} == {"synthetic:seed=0,n=9"}
    assert any("drawn scenes, not on photos" in each for each in texts(only)["caution"])


def test_custom_weights_give_a_caution(make_record: Callable[..., RunRecord]) -> None:
    said = texts(make_record(10))
    assert any("mobilesam-onnx did not run the published" in each for each in said["caution"])
