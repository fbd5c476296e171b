"""Runs of one machine are joined; runs that do not compare are refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from example_records import sized_record

from benchmarks.records.record import (
    AccuracyTimeRow,
    ComparisonRow,
    DetectorRow,
    EverythingRow,
    LatencyRow,
    MiouRow,
    RunRecord,
    WeightsRow,
)
from benchmarks.tables.merging import (
    accuracy_only,
    by_precision,
    merge_records,
    with_same_weights,
)
from mobilesam.errors import UsageError


def test_merge_takes_the_newest_row(make_record: Callable[..., RunRecord]) -> None:
    old = make_record(2, id="old", created_utc="2026-01-01T00:00:00Z")
    row: LatencyRow = old.latency[3].model_copy(update={"median_ms": 7.0})
    new = make_record(
        2, id="new", created_utc="2026-02-01T00:00:00Z", latency=(row,), params=(), miou=()
    )
    merged = merge_records([new, old])
    assert merged.latency[3].median_ms == 7.0
    assert len(merged.latency) == len(old.latency)
    assert merged.params == old.params
    assert merged.id == "old+new"
    assert any("replaced by run new" in warning for warning in merged.warnings)
    assert merge_records([old]) == old


def test_merge_refuses_what_does_not_compare(make_record: Callable[..., RunRecord]) -> None:
    one = make_record(1, id="one")
    slower = one.environment.model_copy(update={"threads": 1})
    with pytest.raises(UsageError, match="threads: 4 in run one, 1 in run two"):
        merge_records([one, make_record(1, id="two", environment=slower)])
    other = one.models[0].model_copy(update={"weights": WeightsRow(kind="random")})
    with pytest.raises(UsageError, match="weights of mobilesam: official"):
        merge_records([one, make_record(1, id="two", models=(other,))])
    with pytest.raises(UsageError, match="no record"):
        merge_records([])


def test_rows_of_models_with_other_weights_are_left_out(
    make_record: Callable[..., RunRecord],
) -> None:
    one = make_record(9)
    weights = WeightsRow(kind="file", sha256="ab" * 32)
    model, *rest = one.models
    of_other = one.miou[0].model_copy(update={"model": rest[0].model})
    row = of_other.model_copy(update={"reference": f"teacher:{model.model}"})
    other = make_record(
        9, models=(model.model_copy(update={"weights": weights}), *rest), miou=(*one.miou, row)
    )
    same, why = with_same_weights(other, [one])
    assert why == (
        f"rows of {model.model}: weights custom abababab, here official 6dbb9052; "
        f"rows of dummy: a model for tests; rows with the reference teacher:{model.model}"
    )
    assert same.models == tuple(row for row in rest if row.model != "dummy")
    assert of_other.reference in {each.reference for each in same.miou}
    assert not any(model.model in (each.model, each.reference[8:]) for each in same.miou)
    assert not any(each.model == model.model for each in (*same.latency, *same.params))
    merge_records([one, same])
    assert with_same_weights(one, [one]) == (one, "")


@pytest.mark.parametrize("name", ["cpu", "threads", "allocator"])
def test_merge_leaves_out_times_of_accuracy_from_another_machine(
    make_record: Callable[..., RunRecord], name: str
) -> None:
    timed = make_record(2, id="timed", created_utc="2026-01-01T00:00:00Z", miou=())
    elsewhere = timed.environment.model_copy(update={name: 99 if name == "threads" else "another"})
    seconds = AccuracyTimeRow(
        model="m", dataset="d", wall_s=2, model_s=1, data_s=1, prompts_s=0, scoring_s=0, writing_s=0
    )
    row = make_record(2).miou[0].model_copy(update={"seconds": 2.0})
    found = DetectorRow(
        model="m", dataset="d", detections="b", detections_sha256="0", weights=row.weights,
        ap=0.5, seconds=3.0,
    )  # fmt: skip
    accuracy = make_record(
        2, id="accuracy", created_utc="2026-02-01T00:00:00Z", environment=elsewhere, latency=(),
        memory=(), everything=(), miou=(row,), accuracy_times=(seconds,), detector=(found,),
    )  # fmt: skip
    merged = merge_records([timed, accuracy])
    assert merged.environment == timed.environment  # that of the times
    assert merged.accuracy_times == ()
    assert merged.miou == (row.model_copy(update={"seconds": None}),)
    assert merged.detector == (found.model_copy(update={"seconds": None}),)
    (warning,) = (text for text in merged.warnings if "times of accuracy left out" in text)
    assert warning.startswith("run accuracy: ")
    here = merge_records([timed, accuracy.model_copy(update={"environment": timed.environment})])
    assert here.accuracy_times == (seconds,)
    assert not [text for text in here.warnings if "times of accuracy left out" in text]


def test_merge_refuses_masks_of_two_weights_of_one_teacher(
    make_record: Callable[..., RunRecord],
) -> None:
    one = make_record(1, id="one")

    def against(sha256: str) -> tuple[MiouRow, ...]:
        weights = WeightsRow(kind="file", sha256=sha256)
        update = {"reference": "teacher:sam-vit-h", "reference_weights": weights}
        return tuple(row.model_copy(update=update) for row in one.miou)

    first = one.model_copy(update={"miou": against("1" * 64)})
    again = make_record(1, id="two", miou=against("1" * 64))
    assert len(merge_records([first, again]).miou) == len(one.miou)
    other = make_record(1, id="two", miou=against("1" * 63 + "2"))
    with pytest.raises(
        UsageError, match=r"weights of teacher:sam-vit-h: file 1+ in run one, file 1+2 in run two"
    ):
        merge_records([first, other])


def test_merge_warns_of_accuracies_on_different_devices(
    make_record: Callable[..., RunRecord],
) -> None:
    cpu = make_record(1, id="first", config={"device": "cpu", "precision": "fp32"})
    gpu = make_record(1, id="second", config={"device": "cuda", "precision": "fp32"})
    warning = "accuracies on different devices (cpu: first; cuda: second)"
    assert warning in merge_records([cpu, gpu]).warnings
    alone = merge_records([cpu, make_record(1, id="two", config=cpu.config)])
    assert not [text for text in alone.warnings if "devices" in text]
    row = EverythingRow(model="m", dataset="d", weights=WeightsRow(kind="none"), median_ms=1.0)
    runs = [each.model_copy(update={"everything": (row,)}) for each in (cpu, gpu)]
    with pytest.raises(UsageError, match=r"whole images: cpu in .*cuda in"):
        merge_records(runs)


def test_models_in_another_precision_are_kept_apart_by_name(
    make_record: Callable[..., RunRecord],
) -> None:
    made = make_record(3)
    plain, *others = (row.model for row in made.models)
    without = made.models[0].model_copy(update={"weights": WeightsRow(kind="none")})
    teacher = f"teacher:{others[0]}"
    own = [row.model_copy(update={"reference": teacher}) for row in made.miou]
    sized = made.miou[0].model_copy(update={"model": "m@512"})
    rows = {"models": (without, *made.models[1:]), "miou": (*made.miou, *own, sized)}

    def run(precision: str) -> RunRecord:
        return make_record(3, id=precision, config={"precision": precision}, **rows)

    one, half = run("fp32"), run("bf16")
    merged = merge_records([one, half])
    renamed = [f"{model} (bf16)" for model in others]
    assert {row.model for row in merged.miou} == {*others, *renamed, plain, "m@512", "m (bf16)@512"}
    of_teacher = {(row.model, row.reference) for row in merged.miou if row.reference == teacher}
    assert of_teacher == {(model, teacher) for model in others} | {(plain, teacher)}
    for name in ("models", "params", "latency", "memory"):
        found = {row.model for row in getattr(merged, name)}
        known = {row.model for row in getattr(one, name)}
        assert found == known | {f"{model} (bf16)" for model in known - {plain}}
    assert not any(each in text for each in others for text in merged.warnings)
    assert merged.config == {}
    # Names are not changed twice, and not where all runs are in one precision.
    again = merge_records(by_precision([one, half]))
    assert again.miou == merged.miou
    same = merge_records([half, half.model_copy(update={"id": "other"})])
    assert {row.model for row in same.miou} == {*others, plain, "m@512"}
    assert same.config == half.config


def test_load_before_a_run_without_times_is_no_caution_about_times(
    make_record: Callable[..., RunRecord],
) -> None:
    load = "noisy: load average 4.0 on 2 cores before the run"
    timed = make_record(1, id="timed", created_utc="2026-01-01T00:00:00Z", warnings=())
    other = make_record(1, id="other", latency=(), memory=(), warnings=(load,))
    assert (
        f"run other, no latency of which is in the tables: {load}"
        in merge_records([timed, other]).warnings
    )
    noisy = timed.model_copy(update={"warnings": (load,)})
    named = "noisy: run timed (times of mobilesam): load average 4.0 on 2 cores before the run"
    assert named in merge_records([noisy, other]).warnings
    newer = timed.model_copy(update={"id": "newer", "created_utc": "2026-02-01T00:00:00Z"})
    merged = merge_records([noisy, newer])
    assert f"run timed, no latency of which is in the tables: {load}" in merged.warnings
    assert {row.run for row in merged.latency} == {"newer"}


def test_batches_are_merged_by_their_size() -> None:
    record = sized_record()
    newer = record.model_copy(update={"id": "b", "batches": record.batches[:1]})
    merged = merge_records([record, newer])
    assert sorted((row.model, row.n_images) for row in merged.batches) == [
        ("grabcut", 1), ("mobilesam", 1), ("mobilesam", 4),
    ]  # fmt: skip
    assert len(merged.latency) == len(record.latency)


def test_p_values_are_corrected_over_all_merged_comparisons(
    make_record: Callable[..., RunRecord],
) -> None:
    def run(name: str, b: str) -> RunRecord:
        row = ComparisonRow(
            dataset="d", protocol="box", reference="ground-truth", model_a="a", model_b=b,
            n_images=9, n_instances=9, difference=0.1, ci95=None, p_value=0.03, p_adjusted=0.03,
        )  # fmt: skip
        return make_record(1, id=name, comparisons=(row,))

    merged = merge_records([run("one", "b"), run("two", "c")])
    assert [row.p_adjusted for row in merged.comparisons] == [0.03, 0.03]


def test_a_replaced_row_names_the_run_that_is_shown(make_record: Callable[..., RunRecord]) -> None:
    runs = [make_record(1, id=f"r{n}", created_utc=f"2026-0{n}-01") for n in (1, 2, 3)]
    warnings = [text for text in merge_records(runs).warnings if "replaced" in text]
    assert {text.rpartition(" by ")[2] for text in warnings} == {"run r3"}


def test_accuracies_of_another_machine_are_merged_without_its_times(
    make_record: Callable[..., RunRecord],
) -> None:
    here = make_record(1, id="here", miou=())
    other = here.environment.model_copy(update={"cpu_features": ("neon",)})
    there = make_record(1, id="there", environment=other)
    with pytest.raises(UsageError, match=r"cpu features: .* in run here, neon in run there"):
        merge_records([here, there])
    merged = merge_records([here, accuracy_only(there)])
    assert merged.miou
    assert {row.run for row in merged.latency} == {"here"}
