"""The speed benchmarks: turns, ratios, matching of masks, and options."""

from __future__ import annotations

import argparse
import importlib.util
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.datasets.masks import encode_mask
from benchmarks.evidence import speed
from benchmarks.evidence.speed import Timings, summarise, time_backends
from benchmarks.latency.controller import WorkerError
from mobilesam.errors import UsageError
from mobilesam.model.mobile_sam import build_mobile_sam
from mobilesam.model.tiny_vit import TinyVitConfig


class FakeWorker:
    """Takes 10 ms plain and 4 ms fast, with the same drift."""

    def __init__(self, backend: str) -> None:
        self.backend, self.calls = backend, 0

    def answer(self) -> dict[str, Any]:
        return {"load_ms": 1.0}

    def ask(self, do: str, **request: Any) -> dict[str, Any]:
        if do == "output":
            np.save(
                request["path"], np.full(2, 1.0 if self.backend == "plain" else 1.5, np.float32)
            )
            return {}
        assert request == {"phase": "encoder", **speed.BLOCK}
        self.calls += 1
        ms = {"plain": 10.0, "fast": 4.0}[self.backend] * (1 + self.calls)
        return {"ms": ms, "first_ms": 3 * ms, "cpu_ms": 2 * ms, "faults": 3}


@contextmanager
def fake_processes(setups: Mapping[str, Any], *_: Any, **__: Any) -> Iterator[dict[str, Any]]:
    yield {name: FakeWorker(name) for name in setups}


def test_ratios_are_of_calls_of_the_same_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "fresh_processes", fake_processes)
    found = time_backends(("plain", "fast"), ("encoder",), None, threads=1, processes=2, n_turns=3)
    assert [len(each) for each in found["encoder"]["fast"].ms] == [3, 3]
    rows = {row["side"]: row for row in summarise(found)}
    assert rows["fast"]["ratio"] == rows["fast"]["cpu_ratio"] == 2.5
    assert rows["plain"]["ratio"] == 1
    assert rows["fast"]["ci95"] is None  # two processes
    assert rows["fast"]["range"] == (2.5, 2.5)
    assert rows["fast"]["ms"] == 16  # of turns 2 to 4: the first one of a process is not timed
    assert rows["fast"]["first_of_turn_ms"] == 48
    assert rows["fast"]["max_difference"] == 0.5
    assert rows["fast"]["page_faults"] == 3


def test_table_has_a_row_for_each_side(capsys: pytest.CaptureFixture[str]) -> None:
    timings = timings_of([2.0])
    speed.print_rows(summarise({"encoder": {"plain": timings, "bf16": timings}}))
    head, plain, rough = capsys.readouterr().out.splitlines()
    assert "times faster" in head
    assert "plain" in plain
    assert "bf16" in rough


def timings_of(processes: list[float]) -> Timings:
    """Three calls of so many ms in each process."""
    ms = [[each] * 3 for each in processes]
    return Timings(ms, ms, ms, ms, np.ones(2, np.float32))


@pytest.mark.parametrize("processes", [4, 5])
def test_five_processes_give_an_interval_and_fewer_a_range(
    processes: int, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = timings_of([10.0, 11.0, 9.0, 10.5, 10.0][:processes])
    rows = summarise({"encoder": {"plain": plain, "fast": timings_of([4.0] * processes)}})
    fast = rows[1]
    speed.print_rows(rows)
    printed = capsys.readouterr().out.splitlines()[2]
    if processes == 4:
        assert (fast["ci95"], fast["range"]) == (None, (2.25, 2.75))
        assert "(2.25 to 2.75)" in printed
    else:
        assert fast["range"] is None
        assert 2.2 < fast["ci95"][0] < fast["ratio"] < fast["ci95"][1] < 2.8
        assert "[2." in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sides", "fastest"], "unknown side 'fastest'"),
        (["--isa", "avx2", "--sides", "fast,onnx"], "onnx cannot be limited to avx2; choose from"),
        (["--tasks", "decoder-0"], "unknown task 'decoder-0'"),
        (["--turns", "0"], "--turns must be at least 1; got 0"),
        (["--weights", "no.pt"], "no.pt is no file"),
        (["--out", "no/such/folder.json"], "is no folder"),
    ],
)
def test_invalid_options_are_refused(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    with pytest.raises(SystemExit, match="2"):
        speed.main(["inference", *arguments])
    assert message in capsys.readouterr().err


def test_the_limit_of_instructions_is_that_of_all_processes_and_checked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in speed.ISA["avx2"]:
        monkeypatch.setenv(name, "")  # so that it is restored
    seen: list[dict[str, str]] = []
    uses = "avx2"

    def run_task(path: str, _: int) -> dict[str, str]:
        seen.append({name: os.environ[name] for name in speed.ISA["avx2"]})
        return {"value": uses}

    monkeypatch.setattr(speed, "run_task", run_task)
    given = speed._parse(["inference", "--isa", "avx2"])
    assert set(given.sides) <= {"plain", "authors", "ultralytics", "fast"}
    speed._limit("avx2")
    assert seen == [speed.ISA["avx2"]]
    uses = "avx512"
    with pytest.raises(UsageError, match="--isa avx2: torch uses avx512 in spite of ATEN_CPU"):
        speed._limit("avx2")


@pytest.mark.skipif(
    importlib.util.find_spec("mobile_sam") is not None, reason="the authors' package is installed"
)
@pytest.mark.slow
def test_a_backend_that_cannot_run_is_a_short_error(
    capfd: pytest.CaptureFixture[str],
) -> None:
    assert speed.main(["inference", "--sides", "authors", "--tasks", "decoder-1"]) == 1
    told = capfd.readouterr().err
    assert "error: authors: the authors' package cannot be imported" in told
    assert "Traceback" not in told


class FakeCompetitor:
    busy = False

    def compete(self, *, wanted: bool) -> None:
        FakeCompetitor.busy = wanted


class LoadedWorker(FakeWorker):
    """Spinning threads are slowed down three times, others twice; one thread not at all."""

    def ask(self, do: str, **_: Any) -> dict[str, Any]:
        slower = {"fast-spinning": 3.0, "fast-free": 1.5, "fast": 2.0}[self.backend]
        return {"ms": 10.0 * (slower if FakeCompetitor.busy else 1.0)}


def test_slowdowns_are_of_calls_of_the_same_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    @contextmanager
    def workers(setups: Mapping[str, Any], *_: Any, **__: Any) -> Iterator[dict[str, Any]]:
        seen.update(setups)
        yield {name: LoadedWorker(name) for name in setups}

    monkeypatch.setattr(speed, "fresh_processes", workers)
    monkeypatch.setattr(speed, "competitor", lambda _: nullcontext(FakeCompetitor()))
    given = argparse.Namespace(
        tasks=["encoder"], weights=None, threads=2, processes=2, turns=2, nice=10
    )
    sides = ("fast", "fast-free", "fast-spinning")
    rows = speed.summarise_load(speed.time_under_load(sides, given))
    assert [(row["side"], row["slowdown"]) for row in rows] == [
        ("fast", 2.0), ("fast-free", 1.5), ("fast-spinning", 3.0),
    ]  # fmt: skip
    assert {(row["alone_ms"], row["range"]) for row in rows if row["side"] == "fast-free"} == {
        (10.0, (1.5, 1.5))
    }
    assert {name: setup.threads for name, setup in seen.items()} == {
        "fast": 2, "fast-free": 1, "fast-spinning": 2,
    }  # fmt: skip
    assert seen["fast-spinning"].variables == {"OMP_WAIT_POLICY": None}
    assert not seen["fast"].variables


def test_cold_starts_take_turns_and_answer_alike(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    calls: list[str] = []
    mask = np.ones((2, 2), np.bool_)

    def start(side: str, *_: Any) -> dict[str, Any]:
        calls.append(side)
        total = {"fast": 2.0, "authors": 4.0}[side] + len(calls) / 100
        return {"total": total, "import": 1.0, "load": 0.5, "image": 0.4, "box": 0.1, "mask": mask}

    monkeypatch.setattr(speed, "start_cold", start)
    given = argparse.Namespace(weights=tmp_path, threads=1, turns=5)
    fast, authors = speed.measure_cold_start(given)["rows"]
    assert calls[:2] == ["fast", "authors"]
    assert len(calls) == 12
    assert 0.45 < fast["share"] < 0.55
    assert authors["share"] == fast["iou"] == 1
    assert fast["import_s"] == 1.0
    assert fast["ci95"] is not None


def test_a_failing_cold_start_is_an_error(tmp_path: Path) -> None:
    image, box = np.zeros((8, 8, 3), np.uint8), (0.0, 0.0, 4.0, 4.0)
    with pytest.raises(WorkerError, match="unknown: KeyError: 'unknown'"):
        speed.start_cold("unknown", tmp_path / "w.pt", tmp_path, image, box, 1)


SECONDS = {"reference": 12.0, "grid": 2.0, "hierarchical": 1.0}
PEAKS = {"reference": 3000, "grid": 1000, "hierarchical": 1000}
SECONDS = {"reference": 12.0, "grid": 2.0, "hierarchical": 1.0, "object-aware": 0.5}
PEAKS = {"reference": 3000, "grid": 1000, "hierarchical": 1000, "object-aware": 1000}


def masks_of(side: str, image: np.ndarray) -> list[dict[str, Any]]:
    """The reference and the grid find the same two masks, the hierarchical mode one of them."""
    found = []
    for left in (0, image.shape[1] // 2):
        mask = np.zeros(image.shape[:2], np.bool_)
        mask[:, left : left + image.shape[1] // 2] = True
        found.append({"segmentation": encode_mask(mask), "predicted_iou": 0.9})
    return found[:1] if side == "hierarchical" else found


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    sides: list[str] = []

    def fake(_: argparse.Namespace, side: str, sample: Any) -> dict[str, Any]:
        sides.append(side)
        return {
            "seconds": SECONDS[side],
            "loaded_bytes": 10,
            "peak_bytes": PEAKS[side],
            "records": masks_of(side, sample.image),
        }

    monkeypatch.setattr(speed, "segment", fake)
    return sides


def arguments(scenes: Any, **changes: Any) -> argparse.Namespace:
    given: dict[str, Any] = {
        "images": scenes.images,
        "annotations": scenes.annotations,
        "limit": 3,
        "base_limit": None,
        "points_per_side": None,
        "sides": speed.DEFAULT_SIDES,
    }
    return argparse.Namespace(**(given | changes))


def test_ratios_matches_and_memory(scenes: Any, taken: list[str]) -> None:
    document = speed.measure_everything(arguments(scenes))
    found = document["sides"]
    assert len(taken) == 12
    assert found["grid"]["times_quicker"] == 6
    assert found["grid"]["times_quicker_range"] == (6, 6)  # three images
    assert found["grid"]["ours_among_theirs"] == found["grid"]["theirs_among_ours"] == 1
    assert found["grid"]["peak_of_theirs"] == pytest.approx(1 / 3)
    assert found["hierarchical"]["ours_among_theirs"] == 1
    assert found["hierarchical"]["theirs_among_ours"] == 0.5
    assert found["hierarchical"]["against_grid"]["times_quicker"] == 2
    assert found["hierarchical"]["against_grid"]["theirs_among_ours"] == 0.5
    assert found["object-aware"]["times_quicker"] == 24
    assert found["object-aware"]["average_recall"]["1000"] is None


def test_a_missing_image_is_a_short_error(
    scenes: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--images", str(tmp_path), "--annotations", str(scenes.annotations)]
    assert speed.main(["everything", *given]) == 1
    assert "every image is needed here" in capsys.readouterr().err


def test_the_order_of_the_sides_rotates(scenes: Any, taken: list[str]) -> None:
    speed.measure_everything(arguments(scenes))
    assert [taken[0], taken[4], taken[8]] == ["reference", "grid", "hierarchical"]


def test_the_first_side_may_have_the_first_images_only(scenes: Any, taken: list[str]) -> None:
    found = speed.measure_everything(arguments(scenes, base_limit=1))["sides"]
    assert (taken.count("reference"), taken.count("grid")) == (1, 3)
    assert [found[side]["images"] for side in speed.DEFAULT_SIDES] == [1, 3, 3, 3]
    assert found["grid"]["times_quicker"] == 6
    assert found["grid"]["masks"] == 2


def test_without_masks_nothing_matches() -> None:
    assert speed.matched([], masks_of("grid", np.zeros((4, 4, 3), np.uint8))) == (0, 0)


def test_the_loop_and_a_generator_run_as_tasks(
    scenes: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shape: dict[str, Any] = {
        "embed_dims": (8, 16, 20, 40),
        "num_heads": (1, 2, 2, 4),
        "image_size_px": 128,
    }
    small = build_mobile_sam(TinyVitConfig(**shape, n_classes=None))
    monkeypatch.setattr("mobilesam.model.mobile_sam.load_mobile_sam", lambda _: small)
    image = tmp_path / "image.npy"
    np.save(image, np.zeros((40, 60, 3), np.uint8))
    given = "w.pt", str(image), 1, [[0.0, 0.0, 40.0, 30.0]]
    assert isinstance(speed.everything_task("reference", *given)("run")(), list)
    assert len(speed.everything_task("object-aware", *given)("run")()) == 1
    data = (str(scenes.images), str(scenes.annotations))
    found = speed.loop_task("w.pt", *data, 1, keep=False)("run")()
    assert 0 < found["encoder_s"] < found["seconds"]
    assert set(found["miou"]) == set(speed.PROTOCOLS)
