"""Phases of a model, their rows, and processes that fail, against small models and stand-ins."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch

from baselines.interface import ModelOptions
from benchmarks.config.run_config import PROFILES, Profile
from benchmarks.latency import controller, runner
from benchmarks.latency.runner import PhaseLine, time_batches, time_phases
from benchmarks.latency.timer import StopRule
from benchmarks.latency.worker import Server
from benchmarks.records.record import load_record

RULE = StopRule(min_calls=2, min_seconds=0.0, cap_seconds=0.05, warmup_seconds=0.01)
PROFILE = Profile("test", processes=1, rule=RULE, n_prompts=(1, 10))


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A file of a small image."""
    path = tmp_path / "image.npy"
    np.save(path, np.zeros((48, 64, 3), np.uint8))
    return path


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Replaces the worker by a script: it answers the set-up, then runs `last_lines`."""

    def install(*last_lines: str) -> None:
        path = tmp_path / "worker.py"
        lines = (
            "import json, os, sys, time",
            "sys.stdin.readline()",
            "print(json.dumps({'load_ms': 1.5}), flush=True)",
            *last_lines,
        )
        path.write_text("\n".join(lines))
        monkeypatch.setattr(controller, "WORKER", path)

    return install


@pytest.mark.parametrize(
    ("last_line", "message"),
    [
        ("print('{', end='', flush=True); os.kill(os.getpid(), 9)", "out of memory"),
        ("os.kill(os.getpid(), 11)", "SIGSEGV"),
        ("raise ValueError('seven')", "ValueError: seven"),
    ],
)
def test_phases_before_a_crash_are_kept(
    script: Any, image: Path, last_line: str, message: str
) -> None:
    script(last_line)
    found = runner.run_model(ModelOptions("box"), PROFILE, 1, image)
    assert [line.samples_ms for line in found.phases] == [(1.5,)]
    assert found.error is not None
    assert message in found.error


def test_a_process_that_hangs_is_stopped(
    script: Any, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script("time.sleep(60)")
    monkeypatch.setattr(runner, "time_limit_s", lambda _: 1.0)
    found = runner.run_model(ModelOptions("box"), PROFILE, 1, image)
    assert found.error == "the timing process had not answered after 1 s and was stopped"
    assert [line.samples_ms for line in found.phases] == [(1.5,)]


def test_the_limit_exceeds_the_longest_phase_of_every_profile() -> None:
    for profile in PROFILES.values():
        rule = profile.rule
        longest_s = rule.warmup_seconds + 2 * rule.cap_seconds
        assert runner.time_limit_s(rule) > longest_s + 1000


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel of Linux ends the child")
@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_the_timing_process_of_a_killed_run_ends(tmp_path: Path, how: signal.Signals) -> None:
    command = [sys.executable, "-m", "benchmarks", "latency", "--models=dummy", "--profile=full"]
    environment = {**os.environ, "MOBILESAM_CACHE": str(tmp_path / "cache")}
    with (tmp_path / "log").open("wb") as log:
        run = subprocess.Popen(
            [*command, f"--out={tmp_path / 'o'}"],
            env=environment,
            stdout=log,
            stderr=log,
            cwd=Path(__file__).resolve().parents[3],
        )
    try:
        parent, children = psutil.Process(run.pid), []
        deadline = time.monotonic() + 60
        while not children and time.monotonic() < deadline:
            time.sleep(0.05)
            children = parent.children()
        assert children, (tmp_path / "log").read_text()
        time.sleep(1.0)  # the child has started Python by now
        run.send_signal(how)
        assert run.wait(60) == (143 if how is signal.SIGTERM else -how)
        _, alive = psutil.wait_procs(children, timeout=20)
        assert not alive
        if how is signal.SIGTERM:
            assert not load_record(tmp_path / "o").complete
            assert "what was finished is kept" in (tmp_path / "log").read_text()
    finally:
        run.kill()
        run.wait()


@pytest.mark.slow
def test_unusable_weights_give_error_rows_and_exit_code_1(run: Any, tmp_path: Path) -> None:
    torch.save({"layer": torch.zeros(1)}, tmp_path / "wrong.pt")
    done = run("latency", "--models=mobilesam", "--weights=mobilesam=wrong.pt", "--profile=quick",
               "--json")  # fmt: skip
    assert done.code == 1
    rows = done.json["rows"]
    assert {"load", "encode", "decode", "end_to_end"} <= {row["phase"] for row in rows}
    assert {row["status"] for row in rows} == {"error"}
    assert all("does not fit this architecture" in row["why"] for row in rows)
    assert done.json["failures"]
    assert "Traceback" not in done.err
    done = run("latency", "--models=mobilesam", "--weights=mobilesam=wrong.pt", "--profile=quick",
               "--json", "--debug", "--out=again")  # fmt: skip
    assert done.code == 1
    assert "Traceback (most recent call last)" in done.err
    assert "in load_strictly" in done.err


class LocalWorker:
    """Answers in this process, with requests and answers as JSON."""

    def __init__(self, name: str, image: Path) -> None:
        setup = controller.model_setup(ModelOptions(name), image, threads=1)
        self.server = Server({**setup.subject, "threads": 1, "imports": ()})

    def answer(self) -> Any:
        return json.loads(json.dumps(self.server.ready()))

    def ask(self, do: str, **request: Any) -> Any:
        request = json.loads(json.dumps({"do": do, **request}))
        return json.loads(json.dumps(self.server.answer(request)))


def phases(
    name: str, image: Path, profile: Profile = PROFILE
) -> dict[tuple[str, int | None], PhaseLine]:
    lines = list(time_phases(LocalWorker(name, image), profile))
    assert len({(line.phase, line.n_prompts) for line in lines}) == len(lines)
    return {(line.phase, line.n_prompts): line for line in lines}


def test_every_phase_is_reported_once(image: Path) -> None:
    found = phases("dummy", image)
    assert set(found) == {
        ("load", None), ("first_call", 1), ("preprocess", None), ("encode", None),
        ("decode", 1), ("decode", 10), ("end_to_end", 1), ("everything", None),
    }  # fmt: skip
    assert all(line.status == "ok" for line in found.values())


def test_calls_far_beyond_the_cap_are_skipped(image: Path) -> None:
    quick = StopRule(min_calls=2, min_seconds=0.0, cap_seconds=0.001, warmup_seconds=0.0)
    found = phases("dummy", image, Profile("test", 1, quick, n_prompts=(1, 1000)))
    line = found["decode", 1000]
    assert line.status == "skipped"
    assert line.why is not None
    assert "use a longer profile" in line.why
    # The encoder is never left out: its first call is reported instead.
    assert len(found["encode", None].samples_ms) == 1
    assert "first call" in found["encode", None].warnings[0]
    assert found["end_to_end", 1].status == "skipped"


def test_a_detector_with_random_weights_is_timed_without_its_search(image: Path) -> None:
    found = phases("fastsam-s", image)
    assert found["encode", None].status == "ok"
    skipped = {key for key, line in found.items() if line.status == "skipped"}
    assert skipped == {
        ("first_call", 1), ("postprocess", None), ("decode", 1), ("decode", 10),
        ("end_to_end", 1), ("everything", None),
    }  # fmt: skip
    for key in skipped:
        assert "depends on its weights" in str(found[key].why)


class SplitTiming:
    """A model whose decoding is split in two, with the given times; answers as `Worker`."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, int | None]] = []

    def answer(self) -> Any:
        return {"load_ms": 1.0}

    def ask(self, do: str, **request: Any) -> Any:
        if do == "first_call":
            return {
                "ms": {"prepare": 1.0, "encode": 2.0, "decode": 3.0}, "supports": ["everything"],
                "weights": "random", "is_detector": False, "splits_decoding": True,
            }  # fmt: skip
        assert request["rule"] == asdict(RULE)
        self.asked.append((request["phase"], request["n_prompts"]))
        return {"ms": [60.0, 60.0], "warmup_calls": 0, "warnings": []}


def test_both_parts_of_a_split_decoder_are_timed() -> None:
    worker = SplitTiming()
    found = {(line.phase, line.n_prompts): line for line in time_phases(worker, PROFILE)}
    assert worker.asked == [
        ("preprocess", None), ("encode", None), ("decode", 1), ("postprocess", 1),
        ("end_to_end", 1),
    ]  # fmt: skip
    assert found["first_call", 1].samples_ms == (6.0,)
    # Ten prompts would take 600 ms: neither part is timed.
    assert found["decode", 10].status == found["postprocess", 10].status == "skipped"
    assert "weights" in str(found["everything", None].why)


ENCODE = PhaseLine(phase="encode", samples_ms=(20.0, 40.0))


def test_batches_of_images_are_timed_in_one_call(image: Path) -> None:
    np.save(image, np.random.default_rng(1).integers(0, 255, (48, 64, 3), np.uint8))
    worker = LocalWorker("mobilesam-mini", image)
    sizes: list[int] = []
    model = worker.server.subject._model
    encode_batch = model.encode_batch

    def counted(prepared: Any) -> Any:
        sizes.append(len({each.payload.numpy().tobytes() for each in prepared}))
        return encode_batch(prepared)

    model.encode_batch = counted
    found = list(time_batches(worker, PROFILE, (1, 3), ENCODE))  # type: ignore[arg-type]
    assert [(line.phase, line.n_images, line.status) for line in found] == [
        ("encode", 1, "ok"), ("encode", 3, "ok"),
    ]  # fmt: skip
    assert set(sizes) == {1, 3}  # different images
    slow = list(time_batches(worker, PROFILE, (100,), ENCODE))  # type: ignore[arg-type]
    assert slow[0].status == "skipped"
    assert "about 3 s a call" in str(slow[0].why)


def test_a_model_of_one_image_at_a_time_is_skipped(image: Path) -> None:
    (line,) = time_batches(LocalWorker("dummy", image), PROFILE, (4,), ENCODE)  # type: ignore[arg-type]
    assert (line.n_images, line.status, line.samples_ms) == (4, "skipped", ())


def test_a_crash_on_a_batch_keeps_phases_and_memory(script: Any, image: Path) -> None:
    script(
        "for line in sys.stdin:",
        "    asked = json.loads(line)",
        "    if 'n_images' in asked: os.kill(os.getpid(), 9)",
        "    print(json.dumps({'ms': [1.0] if asked['do'] == 'time' else {'encode': 1.0},",
        "        'weights': 'random', 'is_detector': False, 'splits_decoding': False,",
        "        'supports': [], 'warmup_calls': 0, 'warnings': [], 'encodes_batches': True,",
        "        'rss_before_load_bytes': 1, 'peak_rss_bytes': 2, 'weight_bytes': 3}), flush=True)",
    )
    found = runner.run_model(ModelOptions("box"), PROFILE, 1, image, (2,))
    assert [line.phase for line in found.phases][-1] == "end_to_end"
    assert found.memory is not None
    assert "out of memory" in str(found.error)


@pytest.mark.slow
@pytest.mark.usefixtures("short_quick")
def test_rows_of_batches_are_apart(run: Any) -> None:
    done = run("latency", "--models=mobilesam-mini,box", "--batch=2,1", "--profile=quick",
               "--threads=1", "--json")  # fmt: skip
    assert done.code == 0
    assert {row["n_images"] for row in done.json["rows"]} == {1}
    assert len([row for row in done.json["rows"] if row["phase"] == "encode"]) == 2
    assert [(row["model"], row["n_images"], row["status"]) for row in done.json["batches"]] == [
        ("mobilesam-mini", 1, "ok"), ("mobilesam-mini", 2, "ok"),
        ("box", 1, "skipped"), ("box", 2, "skipped"),
    ]  # fmt: skip
    assert "--batch: left out box" in done.err
