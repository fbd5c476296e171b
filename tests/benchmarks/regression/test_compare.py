"""Comparison of two runs: verdicts, notes, tables and plots."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from example_records import sized_record
from hypothesis import given, settings
from hypothesis import strategies as st

from baselines import dummy
from benchmarks.cli.app import main
from benchmarks.datasets.synthetic import SyntheticDataset
from benchmarks.datasets.writers import write_coco
from benchmarks.records.record import (
    Environment,
    LatencyRow,
    MemoryRow,
    ParamsRow,
    RunRecord,
    WeightsRow,
    load_record,
    save_record,
)
from benchmarks.records.statistics import summarise_times
from benchmarks.regression.compare import (
    FEW_IMAGES,
    NO_PEAKS,
    ONE_PROCESS,
    CompareRow,
    Kind,
    Run,
    Verdict,
    compare_runs,
    compare_tables,
    load_run,
    ratio_verdict,
    verdict_sentence,
)

KINDS, VERDICTS = get_args(Kind), get_args(Verdict)


def latency(model: str, phase: str, factor: float, seed: int) -> LatencyRow:
    rng = np.random.default_rng(seed)
    samples = tuple(map(tuple, (factor * rng.lognormal(0, 0.03, (3, 20))).tolist()))
    found = summarise_times(samples)
    return LatencyRow(
        model=model, phase=phase, device="cpu", precision="fp32", threads=1, weights="none",
        decode_kind="decoder", n=found.n, processes=3, median_ms=found.median_ms,
        ci95_ms=found.ci95_ms, mean_ms=found.mean_ms, min_ms=found.min_ms, samples_ms=samples,
    )  # fmt: skip


def with_times(
    record: RunRecord, encode: float, seed: int, *, more: str, peak: int, total: int
) -> RunRecord:
    """The record with times of a model `m`, and of a model that only this run has."""
    rows = (latency("m", "encode", encode, seed), latency("m", "preprocess", 1, seed + 1))
    only = latency(more, "encode", 1, seed)
    memory = MemoryRow(
        model="m",
        device="cpu",
        processes=3,
        rss_before_load_bytes=1,
        peak_rss_bytes=peak,
        peaks_rss_bytes=(peak, peak + 1, peak - 1),
        weight_bytes=1,
    )
    params = ParamsRow(model="m", component="all", total=total, weight_bytes=4 * total)
    return record.model_copy(
        update={"latency": (*rows, only), "memory": (memory,), "params": (params,)}
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs: in the second the dummy's masks are worse, and `m` takes twice the time."""
    folder = tmp_path_factory.mktemp("runs")
    scenes = folder / "scenes"
    write_coco(SyntheticDataset(n_images=9, seed=5, size_hw=(96, 128)), scenes)
    data = [f"--images={scenes / 'images'}", f"--annotations={scenes / 'instances.json'}"]
    arguments = ["miou", "--dataset=coco", *data, "--models=dummy,box", "--protocol=box", "--quiet"]
    with pytest.MonkeyPatch.context() as patch:
        for name, encode, more, peak, total in (("a", 1, "x", 100, 7), ("b", 2, "y", 160, 8)):
            assert main([*arguments, f"--out={folder / name}"]) == 0
            record = load_record(folder / name)
            changed = with_times(record, encode, ord(name), more=more, peak=peak, total=total)
            save_record(changed, folder / name)
            patch.setattr(dummy, "SINGLE", replace(dummy.SINGLE, part=0.5))
    return folder


@pytest.fixture
def runs(made: Path, tmp_path: Path) -> list[Path]:
    """Copies of the two runs, which a test may change."""
    return [Path(shutil.copytree(made / name, tmp_path / name)) for name in ("a", "b")]


def test_verdicts_of_two_runs(runs: list[Path], run: Any, tmp_path: Path) -> None:
    done = run("compare", *runs, "--json")
    assert done.code == 0
    rows = {(r["kind"], r["model"], r["what"].split()[0]): r for r in done.json["rows"]}
    verdicts = {key: row["verdict"] for key, row in rows.items()}
    assert verdicts["time", "m", "encode"] == "worse"
    assert verdicts["time", "m", "preprocess"] == "same"
    assert verdicts["time", "x", "encode"] == "missing"
    assert verdicts["time", "y", "encode"] == "new"
    assert verdicts["memory", "m", "peak"] == "worse"
    assert verdicts["accuracy", "dummy", "box"] == "worse"
    assert verdicts["accuracy", "box", "box"] == "same"
    assert verdicts["size", "m", "all"] == "changed"
    assert rows["time", "m", "encode"]["change"] == pytest.approx(2, abs=0.1)
    accuracy = rows["accuracy", "dummy", "box"]
    assert accuracy["ci95"][0] < accuracy["change"] < accuracy["ci95"][1] < 0
    assert accuracy["change"] == pytest.approx(accuracy["b"] - accuracy["a"])
    assert not (tmp_path / "bench-runs").exists()  # --json alone leaves no files

    back = run("compare", runs[1], runs[0], "--json", "--threshold=3").json["rows"]
    other = {(r["kind"], r["model"], r["what"].split()[0]): r["verdict"] for r in back}
    assert other["accuracy", "dummy", "box"] == "better"
    assert other["time", "m", "encode"] == "same"  # twice is less than three times


def test_the_verdict_comes_first_in_one_sentence(runs: list[Path], run: Any) -> None:
    done = run("compare", *runs, "--out=c")
    first = done.out.splitlines()[0]
    found = run("compare", *runs, "--json").json
    assert first == found["verdict"]
    rows = [row for row in found["rows"] if row["kind"] == "time"]
    slower = sum(row["verdict"] == "worse" for row in rows)
    both = sum(row["verdict"] not in ("missing", "new") for row in rows)
    assert slower > 0
    assert f"slower in {slower} of {both} times" in first


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(KINDS), st.sampled_from(VERDICTS)), max_size=12))
def test_the_verdict_counts_what_is_in_the_rows(pairs: list[tuple[Any, Any]]) -> None:
    rows = [CompareRow(kind=k, model="m", what=str(i), unit="", verdict=v)
            for i, (k, v) in enumerate(pairs)]  # fmt: skip
    text = verdict_sentence(rows)
    both = [(kind, verdict) for kind, verdict in pairs if verdict not in ("missing", "new")]
    words = {"accuracy": ("less accurate", "more accurate"), "time": ("slower", "faster"),
             "memory": ("larger in memory", "smaller in memory")}  # fmt: skip
    for kind, sides in words.items():
        total = sum(each == kind for each, _ in both)
        for word, verdict in zip(sides, ("worse", "better"), strict=True):
            n = both.count((kind, verdict))
            assert (f"{word} in {n} of {total} " in text) == (n > 0)
    assert ("nothing can be compared" in text.lower()) == (not both)
    n_unclear = sum(verdict == "unclear" for _, verdict in both)
    assert ("unclear" in text) == (n_unclear > 0)
    assert text.endswith(".")
    assert text.count(".") == 1


def test_tables_and_plots_are_written(runs: list[Path], run: Any, tmp_path: Path) -> None:
    done = run("compare", *runs, "--out=out")
    assert done.code == 0
    assert "3 worse" in done.out
    names = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.*")}
    assert {"summary.md", "tables/compare-time.csv", "plots/compare-time.svg",
            "plots/compare-accuracy.png"} <= names  # fmt: skip
    assert "| new |" in (tmp_path / "out" / "summary.md").read_text()


def test_a_run_equals_itself(runs: list[Path], run: Any) -> None:
    one = load_run(runs[0])
    found = run("compare", runs[0], runs[0], "--json").json
    assert found["notes"] == ["A and B are the same run"]
    assert found["verdict"].startswith("No difference between A and B; ")
    assert {row.verdict for row in compare_runs(one, one)} == {"same"}
    assert not [t for t in compare_tables(compare_runs(one, one)) if t.name == "compare-size"]


def test_accuracy_on_other_prompts_is_unclear(runs: list[Path]) -> None:
    a, b = map(load_run, runs)
    rows = [row.model_copy(update={"manifest_sha256": "0" * 64}) for row in b.record.miou]
    other = replace(b, record=b.record.model_copy(update={"miou": tuple(rows)}))
    found = {r.model: r for r in compare_runs(a, other) if r.kind == "accuracy"}
    assert found["dummy"].verdict == "unclear"
    assert found["dummy"].ci95 is None
    assert found["dummy"].why is not None


def test_without_instances_accuracy_has_no_test(runs: list[Path], tmp_path: Path) -> None:
    (tmp_path / "c").mkdir()
    shutil.copy(runs[1] / "record.json", tmp_path / "c")
    found = {r.model: r for r in compare_runs(load_run(runs[0]), load_run(tmp_path / "c"))
             if r.kind == "accuracy"}  # fmt: skip
    assert found["dummy"].verdict == "unclear"


def test_differences_of_the_runs_are_noted(runs: list[Path], run: Any) -> None:
    record = load_record(runs[1])
    update: dict[str, Any] = {"cpu": "another", "cpu_features": ("avx9",)}
    here: Environment = record.environment.model_copy(update=update)
    noisy = "noisy: load average 9.0 on 2 cores before the run"
    save_record(
        record.model_copy(update={"environment": here, "profile": "quick", "warnings": (noisy,)}),
        runs[1],
    )
    notes = run("compare", *runs, "--json").json["notes"]
    assert f"cpu: {record.environment.cpu} -> another" in notes
    assert "cpu features: " in " ".join(notes)
    assert "profile: none -> quick" in notes
    assert f"B: {noisy}" in notes


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("a", "nowhere"), 1, "cannot read the record nowhere"),
        (("a", "b", "--threshold=1"), 2, "above 1"),
    ],
)
def test_invalid_requests(
    runs: list[Path], run: Any, arguments: tuple[str, ...], code: int, message: str
) -> None:
    done = run("compare", *arguments)
    assert done.code == code
    assert message in done.err


def test_a_verdict_needs_the_whole_interval() -> None:
    assert ratio_verdict((1.04, 1.2), 1.05) == "same"
    assert ratio_verdict((1.06, 1.2), 1.05) == "worse"
    assert ratio_verdict((0.8, 0.94), 1.05) == "better"
    assert ratio_verdict(None, 1.05) == "unclear"


def with_reference(run: Run, sha256: str) -> Run:
    weights = WeightsRow(kind="file", sha256=sha256)
    rows = tuple(
        row.model_copy(update={"reference": "teacher:t", "reference_weights": weights})
        for row in run.record.miou
    )
    assert run.instances is not None
    instances = run.instances.assign(reference="teacher:t")
    return Run(run.record.model_copy(update={"miou": rows}), instances)


def test_other_weights_of_the_reference_model_are_another_reference(runs: list[Path]) -> None:
    a = load_run(runs[0])
    one, same, other = (with_reference(a, sha) for sha in ("1" * 64, "1" * 64, "2" * 64))
    verdicts = [row.verdict for row in compare_runs(one, same) if row.kind == "accuracy"]
    assert set(verdicts) == {"same"}
    rows = [row for row in compare_runs(one, other) if row.kind == "accuracy"]
    assert {row.verdict for row in rows} == {"unclear"}
    for row in rows:
        assert row.change is None
        assert row.why is not None
        assert "1" * 64 in row.why
        assert "2" * 64 in row.why


def test_other_devices_and_precisions_are_noted(runs: list[Path], run: Any) -> None:
    record = load_record(runs[1])
    rows = tuple(
        row.model_copy(update={"device": "cuda", "precision": "bf16"}) for row in record.latency
    )
    config = {**record.config, "device": "cuda", "precision": "bf16"}
    save_record(record.model_copy(update={"latency": rows, "config": config}), runs[1])
    found = run("compare", *runs, "--json").json
    assert {"device: cpu -> cuda", "precision: fp32 -> bf16"} <= set(found["notes"])
    times = [row for row in found["rows"] if row["kind"] == "time" and row["change"]]
    assert times
    assert all("cpu, fp32, 1 thread -> cuda, bf16, 1 thread" in row["why"] for row in times)


def test_times_are_compared_within_each_setup(runs: list[Path]) -> None:
    a = load_run(runs[0])
    half = tuple(
        row.model_copy(
            update={
                "precision": "bf16",
                "samples_ms": tuple(tuple(ms / 3 for ms in group) for group in row.samples_ms),
                "median_ms": (row.median_ms or 0) / 3,
            }
        )
        for row in a.record.latency
    )
    both = Run(a.record.model_copy(update={"latency": (*half, *a.record.latency)}))
    rows = [row for row in compare_runs(a, both) if row.kind == "time"]
    assert {row.verdict for row in rows} == {"same", "new"}
    assert all(("bf16" in row.what) == (row.verdict == "new") for row in rows)


def test_a_run_of_one_process_is_unclear(runs: list[Path]) -> None:
    a, b = map(load_run, runs)
    one = tuple(
        row.model_copy(update={"samples_ms": row.samples_ms[:1], "processes": 1})
        for row in a.record.latency
    )
    single = Run(a.record.model_copy(update={"latency": one}))
    other = Run(b.record.model_copy(update={"latency": tuple(
        row.model_copy(update={"samples_ms": row.samples_ms[:1], "processes": 1})
        for row in b.record.latency
    )}))  # fmt: skip
    for pair, sides in (((single, b), "A"), ((b, single), "B"), ((single, other), "A and B")):
        rows = [row for row in compare_runs(*pair) if row.kind == "time" and row.change]
        assert rows
        assert {row.verdict for row in rows} == {"unclear"}
        assert {row.why for row in rows} == {ONE_PROCESS.format(sides)}
    assert {row.verdict for row in compare_runs(single, single)} == {"same"}


def with_memory(run: Run, **changes: Any) -> Run:
    rows = tuple(row.model_copy(update=changes) for row in run.record.memory)
    return Run(run.record.model_copy(update={"memory": rows}))


def test_memory_is_judged_over_processes(runs: list[Path]) -> None:
    a, b = map(load_run, runs)
    one = {"processes": 1, "peaks_rss_bytes": (160,)}
    older: dict[str, Any] = {"peaks_rss_bytes": ()}
    for changes, verdict, why in (
        ({}, "worse", None),
        ({"peaks_rss_bytes": (100, 160, 220)}, "same", None),  # they differ too much to tell
        (one, "unclear", ONE_PROCESS.format("B")),
        ({**one, **older}, "unclear", ONE_PROCESS.format("B")),
        (older, "unclear", NO_PEAKS),
    ):
        (row,) = (r for r in compare_runs(a, with_memory(b, **changes)) if r.kind == "memory")
        assert (row.verdict, row.why) == (verdict, why)
        assert row.change == pytest.approx(1.6)
        assert (row.ci95 is None) == (verdict == "unclear")
    (row,) = (r for r in compare_runs(with_memory(b, **one), a) if r.kind == "memory")
    assert row.verdict == "unclear"


def test_accuracy_on_two_images_is_unclear(runs: list[Path]) -> None:
    few = []
    for run in map(load_run, runs):
        assert run.instances is not None
        ids = sorted(run.instances["image_id"].unique())[:2]
        few.append(replace(run, instances=run.instances[run.instances["image_id"].isin(ids)]))
    found = {row.model: row for row in compare_runs(*few) if row.kind == "accuracy"}
    assert (found["dummy"].verdict, found["dummy"].why) == ("unclear", FEW_IMAGES)
    assert found["dummy"].change is not None
    assert found["box"].verdict == "same"  # no mask has changed


def test_batches_are_compared_with_batches_of_the_same_size() -> None:
    record = sized_record()
    slower = [
        row.model_copy(update={"median_ms": row.median_ms and 2 * row.median_ms})
        for row in record.batches
    ]
    other = record.model_copy(update={"batches": tuple(slower)})
    rows = compare_runs(Run(record, None), Run(other, None), 1.05)
    times = {row.what: (row.a, row.b) for row in rows if row.kind == "time" and row.a != row.b}
    assert times == {
        "batch of 1 image": (900.0, 1800.0), "batch of 4 images": (3600.0, 7200.0),
    }  # fmt: skip
