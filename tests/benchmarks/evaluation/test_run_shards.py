"""`miou --chunk`: the rows of a run in one shard, resumed shard by shard, in bounded memory."""

from __future__ import annotations

import gc
import os
import tracemalloc
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from evaluation_doubles import accuracy_task, read_slowly
from run_outputs import lasting, tables

from baselines.dummy import DummySegmenter
from baselines.interface import ModelOptions, Prepared, UInt8Array
from benchmarks.datasets.dataset import Shard
from benchmarks.datasets.sa1b import Sa1bDataset
from benchmarks.evaluation.evaluate import AccuracyWorker
from benchmarks.evaluation.run_shards import ModelWorker, ThroughputMeter
from benchmarks.evaluation.shard_store import (
    TIMES_FOLDER,
    ShardInfo,
    ShardStore,
    ShardSummary,
)
from benchmarks.records import environment
from benchmarks.records.instances import read_instances
from benchmarks.records.progress import Reporter
from benchmarks.records.record import load_record
from benchmarks.tables.accuracy_tables import miou_tables
from mobilesam.errors import DataError

PROTOCOLS = (
    "box,box-multi,center,center-oracle,clicks-3,annotation-point,box-jitter-20,point-offset-20"
)
KEY = ["model", "reference", "protocol", "image_id", "annotation_id"]


def miou(run: Any, shards: Path, out: str, *more: str) -> Any:
    default = {"--models": "dummy", "--protocol": "box", "--threads": "1"}
    given = {each.partition("=")[0] for each in more}
    kept = [f"{name}={value}" for name, value in default.items() if name not in given]
    return run("miou", "--dataset=sa1b", f"--root={shards}", f"--out={out}", *kept, *more, "--json")


def shards_made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    made: list[str] = []
    whole = AccuracyWorker.run

    def counted(self: AccuracyWorker, part: Any, poison: Any = None) -> Any:
        made.append(part.name)
        return whole(self, part, poison)

    monkeypatch.setattr(AccuracyWorker, "run", counted)
    return made


def sorted_rows(out: str) -> pd.DataFrame:
    frame = read_instances(Path(out) / "instances.parquet")
    return frame.sort_values(KEY).reset_index(drop=True)


@pytest.mark.parametrize("lanes", ["0", "2"])
def test_shards_give_the_rows_and_figures_of_the_whole(run: Any, shards: Path, lanes: str) -> None:
    arguments = ("--models=dummy,box", f"--protocol={PROTOCOLS}",
                 "--reference=ground-truth,teacher:dummy")  # fmt: skip
    whole = miou(run, shards, "whole", *arguments)
    parts = miou(run, shards, "parts", *arguments, "--chunk=3", f"--lanes={lanes}")
    assert (whole.code, parts.code) == (0, 0), parts.err
    pd.testing.assert_frame_equal(sorted_rows("parts"), sorted_rows("whole"))
    ours, theirs = parts.json, whole.json
    assert len(ours["rows"]) == len(theirs["rows"]) > 20
    for mine, other in zip(ours["rows"], theirs["rows"], strict=True):
        flat = pd.json_normalize([mine, other]).drop(columns=["seconds", "manifest_sha256"])
        for name in flat:
            first, second = flat[name]
            if name.endswith("thresholds"):
                frames = pd.DataFrame(first), pd.DataFrame(second)
                pd.testing.assert_frame_equal(*frames, rtol=0, atol=1e-12)
            elif isinstance(first, float | list):
                assert first == pytest.approx(second, abs=1e-12, nan_ok=True), name
            else:
                assert first == second, name
    for mine, other in zip(ours["comparisons"], theirs["comparisons"], strict=True):
        assert mine == {
            key: pytest.approx(value, abs=1e-12) if not isinstance(value, str) else value
            for key, value in other.items()
        }
    assert lasting(Path("parts"))["warnings"] == lasting(Path("whole"))["warnings"]
    assert len(list(Path("parts/instances.parquet").iterdir())) == 5  # of 4, 4 and 3 images


def test_a_second_start_runs_only_missing_shards(
    run: Any, shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert miou(run, shards, "out", "--chunk=2").code == 0
    before, record = tables(Path("out")), lasting(Path("out"))
    Path("out/record.json").unlink()
    Path("out/instances.parquet/00001-00000.parquet").unlink()
    Path("out/instances.parquet/00002-00001.parquet").write_bytes(b"half of it")
    made = shards_made(monkeypatch)
    done = miou(run, shards, "out", "--chunk=2", "--verbose")
    assert done.code == 0
    assert made == ["00001-00000", "00002-00001"]
    assert "4 of 6 chunks were there from before" in done.err
    assert (tables(Path("out")), lasting(Path("out"))) == (before, record)


@pytest.mark.parametrize("what", ["cpu_name", "allocator", "a lost file"])
def test_shards_of_another_machine_are_resumed_without_their_time(
    run: Any, shards: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    first = miou(run, shards, "out", "--chunk=2").json
    assert first["rows"][0]["seconds"] == first["times"][0]["wall_s"] > 0
    before, record = tables(Path("out")), lasting(Path("out"))
    Path("out/record.json").unlink()
    Path("out/instances.parquet/00001-00000.parquet").unlink()
    if what == "a lost file":
        Path("out/chunk-times/instances/00000-00000.json").unlink()
    else:
        monkeypatch.setattr(environment, what, lambda: "another")
    made = shards_made(monkeypatch)
    moved = miou(run, shards, "out", "--chunk=2")
    assert made == ["00001-00000"]
    assert tables(Path("out")) == before
    assert moved.json["times"] == []
    assert moved.json["rows"][0]["seconds"] is None
    (warning,) = set(lasting(Path("out"))["warnings"]) - set(record["warnings"])
    assert warning.startswith("accuracy of dummy: time left out: some chunks")
    assert warning in moved.err


def test_times_of_a_cluster_are_of_one_machine(run: Any, shards: Path) -> None:
    """Any machine may have started the run; times of several machines do not add up."""
    miou(run, shards, "out", "--chunk=2")
    store = ShardStore(Path("out/instances.parquet"))
    names = tuple(store.names())
    for expected, other, is_timed in (
        (None, ("theirs",), True),
        (("ours",), ("theirs",), False),
        (("theirs",), ("theirs",), True),
    ):
        for name in names:
            move_to(store, name, other)
        assert bool(summary_of(store, expected).times) == is_timed
    move_to(store, names[-1], ("a third",))
    assert summary_of(store, None).times == {}
    assert summary_of(store, None).untimed is not None


def summary_of(store: ShardStore, machine: tuple[str, ...] | None) -> ShardSummary:
    summary = ShardSummary("d", machine)
    for name in store.names():
        info = store.info(name)
        assert info is not None
        summary.add(info, store.times(name, info.key))
    return summary


def move_to(store: ShardStore, name: str, machine: tuple[str, ...]) -> None:
    """Changes the machine of the times of a shard."""
    info = store.info(name)
    assert info is not None
    times = store.times(name, info.key)
    assert times is not None
    path = store.path.parent / TIMES_FOLDER / store.path.stem / f"{name}.json"
    path.write_text(times.model_copy(update={"machine": machine}).model_dump_json())


def test_a_changed_shard_is_evaluated_again(
    run: Any, shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert miou(run, shards, "out", "--chunk=2").code == 0
    os.utime(shards / "sa_000001.tar", ns=(1, 1))
    refused = miou(run, shards, "out", "--chunk=2")
    assert refused.code == 1
    assert "holds a run of other inputs" in refused.err
    Path("out/record.json").unlink()  # as if it had been killed before the end
    made = shards_made(monkeypatch)
    done = miou(run, shards, "out", "--chunk=2")
    assert done.code == 0
    assert made == ["00001-00000", "00001-00001"]
    assert "made from other inputs" in done.err


@pytest.mark.parametrize("change", ["--protocol=box-multi", "--seed=3", "--chunk=3"])
def test_another_configuration_starts_again(
    run: Any, shards: Path, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert miou(run, shards, "out", "--chunk=2").code == 0
    Path("out/record.json").unlink()
    made = shards_made(monkeypatch)
    arguments = ["--chunk=2", change] if not change.startswith("--chunk") else [change]
    changed = miou(run, shards, "out", *arguments)
    assert changed.code == 0
    assert "made from other inputs" in changed.err
    assert len(made) == len(tables(Path("out")))
    assert lasting(Path("out"))["miou"][0]["n_images"] == 11


class Picky(DummySegmenter):
    """Fails on one image, identified by its first pixel."""

    pixel: tuple[int, ...] = ()

    def prepare(self, image: UInt8Array) -> Prepared:
        if tuple(image[0, 0]) == Picky.pixel:
            raise RuntimeError("too green")
        return super().prepare(image)


def picky(options: ModelOptions) -> Picky:
    return Picky(options.name, {})


def test_an_image_that_a_model_fails_on_is_left_out_for_it_and_listed(
    run: Any, shards: Path, third_party: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from benchmarks.datasets.dataset import Sample
    from benchmarks.datasets.sa1b import Sa1bDataset

    samples = [each for each in Sa1bDataset(shards).samples() if isinstance(each, Sample)]
    pixels = [tuple(each.image[0, 0]) for each in samples]
    victim = next(i for i, pixel in enumerate(pixels) if pixels.count(pixel) == 1)
    monkeypatch.setattr(Picky, "pixel", pixels[victim])
    third_party("picky", f"{__name__}:picky")
    done = miou(run, shards, "out", "--models=dummy,picky", "--chunk=20")
    assert done.code == 1
    (failure,) = done.json["failures"]
    assert failure["culprit"] == samples[victim].name
    assert "picky fails at it: RuntimeError: too green" in failure["why"]
    assert [row["n_images"] for row in done.json["rows"]] == [11, 10]
    assert [row["n_images"] for row in done.json["comparisons"]] == [10]
    assert any("picky answered" in line for line in done.json["warnings"])
    whole = miou(run, shards, "whole", "--models=dummy,picky")
    assert whole.json["failures"] == done.json["failures"]
    assert lasting(Path("whole"))["warnings"] == lasting(Path("out"))["warnings"]
    assert [row["n_images"] for row in whole.json["rows"]] == [11, 10]
    again = shards_made(monkeypatch)
    monkeypatch.setattr(Picky, "pixel", ())
    repaired = miou(run, shards, "out", "--models=dummy,picky", "--chunk=20")
    assert repaired.code == 0
    assert len(again) == 1  # the chunk with the failure alone
    assert [row["n_images"] for row in repaired.json["rows"]] == [11, 11]


def test_a_broken_model_has_an_error_and_others_have_figures(
    run: Any, shards: Path, third_party: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Any, image: UInt8Array) -> Prepared:
        raise RuntimeError("no luck")

    monkeypatch.setattr(Picky, "prepare", fail)
    third_party("picky", f"{__name__}:picky")
    done = miou(run, shards, "out", "--models=dummy,picky", "--chunk=6")
    assert done.code == 1
    statuses = {row["model"]: (row["status"], row["n_images"]) for row in done.json["rows"]}
    assert statuses["picky"] == ("error", 0)
    assert statuses["dummy"] == ("ok", 11)
    whole = miou(run, shards, "whole", "--models=dummy,picky")
    assert whole.json["failures"] == done.json["failures"]
    (failure,) = done.json["failures"]
    said = "fails at each of the first 5 images: RuntimeError: no luck (in prepare)"
    assert (failure["culprit"], failure["why"]) == ("picky", said)
    assert [row["why"] for row in whole.json["rows"]] == [None, said]


def test_bad_images_are_counted_and_listed(run: Any, shards: Path) -> None:
    cut = shards / "sa_000002.tar"
    cut.write_bytes(cut.read_bytes()[:-14000])
    whole = miou(run, shards, "whole")
    parts = miou(run, shards, "parts", "--chunk=2")
    assert (whole.code, parts.code) == (1, 1)
    assert parts.json["failures"] == whole.json["failures"]
    (row,), (other,) = whole.json["rows"], parts.json["rows"]
    assert row["status"] == other["status"] == "ok"
    n_bad = len(whole.json["failures"])
    assert row["why"] == f"images left out: {n_bad} unusable (see the failures)"
    assert other["why"] == row["why"]
    (table,) = miou_tables(load_record(Path("parts")))
    assert f"dummy: {row['why']}." in table.notes


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--chunk=0"], "--chunk must be at least 1"),
        (["--chunk=2", "--save-masks"], "not in chunks"),
        (["--chunk=2", "--protocol=detector-box"], "not in chunks"),
        (["--rescore=x", "--chunk=2"], "--rescore takes"),
    ],
)
def test_unsupported_combinations_with_chunks_are_usage_errors(
    run: Any, shards: Path, arguments: list[str], said: str
) -> None:
    done = run("miou", "--models=dummy", "--dataset=sa1b", f"--root={shards}", *arguments)
    assert done.code == 2
    assert said in done.err


@pytest.mark.parametrize("chunk", [(), ("--chunk=4",)])
def test_boundary_iou_can_be_left_out(run: Any, shards: Path, chunk: tuple[str, ...]) -> None:
    with_it = miou(run, shards, "with", *chunk).json["rows"][0]
    options = ("--no-boundary", "--reference=ground-truth,teacher:dummy", *chunk)
    rows = miou(run, shards, "without", *options).json["rows"]
    assert rows[0]["miou"] == with_it["miou"]
    assert with_it["boundary_miou"] > 0
    assert [row["boundary_miou"] for row in rows] == [None, None]
    assert [row["boundary_ci95"] for row in rows] == [None, None]
    table = read_instances(Path("without/instances.parquet"))
    assert table["boundary_iou"].isna().all()


def test_a_model_that_fails_does_not_affect_others(
    run: Any, shards: Path, monkeypatch: pytest.MonkeyPatch, third_party: Any
) -> None:
    """Reads that still run when a pass fails must add nothing to the pass of the next model."""
    third_party("failing", "cluster_doubles:build_failing")
    read_slowly(monkeypatch, 0.03)
    options = ("--protocol=box,center", "--chunk=6", "--lanes=3")
    alone = miou(run, shards, "alone", *options).json["rows"]
    done = miou(run, shards, "both", "--models=failing,dummy", *options)
    assert done.code == 1
    rows = {(row["model"], row["protocol"]): row for row in done.json["rows"]}
    assert "always red" in rows["failing", "box"]["why"]
    for row in alone:
        both = rows["dummy", row["protocol"]]
        assert (both["n_instances"], both["miou"]) == (row["n_instances"], row["miou"])


def test_a_summary_reads_only_shards_of_its_own_run(run: Any, shards: Path) -> None:
    """A file of another run under the name of a missing shard is not averaged."""
    assert miou(run, shards, "o", "--chunk=3").code == 0
    store = ShardStore(Path("o") / "instances.parquet")
    names = tuple(store.names())
    keys = {name: found.key for name in names if (found := store.info(name)) is not None}
    assert tuple(store.finished(keys)) == names
    foreign = {**keys, names[0]: "of another run", "99999-00000": "not here"}
    assert tuple(store.finished(foreign)) == names[1:]


def test_a_shard_that_another_process_replaced_is_an_error(
    run: Any, shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = ShardStore.finished

    def without_first(store: ShardStore, keys: Mapping[str, str]) -> dict[str, ShardInfo]:
        return dict(list(real(store, keys).items())[1:])

    monkeypatch.setattr(ShardStore, "finished", without_first)
    done = miou(run, shards, "o", "--chunk=3")
    assert done.code == 1
    assert "another process changed the folder" in done.err
    assert not Path("o/record.json").exists() or not load_record(Path("o")).complete


def test_shards_that_could_not_be_run_are_named_in_the_rows(
    run: Any, shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = AccuracyWorker.run
    lost = {"00000-00000"}

    def failing(self: AccuracyWorker, part: Any, poison: Any = None) -> Any:
        if not lost or part.name in lost:
            raise DataError("the worker is out of luck")
        return whole(self, part, poison)

    monkeypatch.setattr(AccuracyWorker, "run", failing)
    done = miou(run, shards, "o", "--chunk=3")
    assert done.code == 1
    (row,) = done.json["rows"]
    assert (row["status"], row["n_images"]) == ("ok", 8)
    assert row["why"] == "images left out: 3 in chunks that could not be made (see the failures)"
    lost.clear()
    (row,) = miou(run, shards, "none", "--chunk=3").json["rows"]
    assert (row["status"], row["miou"], row["n_images"]) == ("error", None, 0)
    assert "11 in chunks that could not be made" in row["why"]


def test_a_row_of_fewer_images_has_a_note(
    run: Any, shards: Path, third_party: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that fails on two images has figures of the others."""
    calls: list[int] = []

    def fail(self: Any, image: UInt8Array) -> Prepared:
        calls.append(1)
        if len(calls) in (2, 3):
            raise RuntimeError("no luck")
        return DummySegmenter.prepare(self, image)

    monkeypatch.setattr(Picky, "prepare", fail)
    third_party("picky", f"{__name__}:picky")
    done = miou(run, shards, "o", "--models=dummy,picky", "--chunk=4", "--lanes=0")
    rows = {row["model"]: row for row in done.json["rows"]}
    assert rows["dummy"]["why"] is None
    assert rows["dummy"]["n_images"] == 11
    assert rows["picky"]["status"] == "ok"
    assert rows["picky"]["n_images"] == 9
    assert rows["picky"]["why"] == "images left out: 2 unusable (see the failures)"


def test_the_meter_shows_throughput_and_time_left() -> None:
    def shard(name: str, share: float) -> Shard:
        return Shard(name, "d", "f", (), (), share)

    now = [0.0]
    with Reporter(quiet=True).bar("x", None) as bar:
        meter = ThroughputMeter(bar, lambda: now[0])
        assert meter.seconds_left() is None
        meter.skip(shard("0", 0.5))
        for name in ("1", "2"):
            meter.begin(shard(name, 0.125))
        now[0] = 10.0
        meter.done("1", n_images=3, n_rows=0, n_failures=1)
        # An eighth took ten seconds, three eighths are left.
        assert meter.seconds_left() == pytest.approx(30)
        assert meter.note() == "0.3 images/s, 0 rows/s, 0:00:30 left, 1 failures"


def test_a_worker_keeps_no_images(shards: Path, tmp_path: Path) -> None:
    worker = accuracy_task(tmp_path, "baselines.dummy:build_instant", "box", "center").worker()
    parts = list(Sa1bDataset(shards, streaming=True).shards(4))
    n_rows = run(worker, parts, 2)
    tracemalloc.start()
    try:
        run(worker, parts, 2)
        before = held_bytes()
        more = run(worker, parts, 8)
        grown = held_bytes() - before
    finally:
        tracemalloc.stop()
        worker.close()
    assert more == 4 * n_rows  # of 88 images
    # A row takes a kilobyte, a mask three; small blocks come and go.
    assert grown < 200 * more


def run(worker: ModelWorker, parts: list[Shard], times: int) -> int:
    return sum(worker.run(part).n_rows for _ in range(times) for part in parts)


def held_bytes() -> int:
    gc.collect()
    return tracemalloc.get_traced_memory()[0]
