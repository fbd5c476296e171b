from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from baselines.interface import Embedding, Masks, Prepared, Prompts, Segmenter
from baselines.options import ModelOptions
from benchmarks.config.profiles import PROFILES
from benchmarks.latency import runner as latency
from benchmarks.latency import worker as latency_worker
from benchmarks.latency.task import Task
from benchmarks.latency.timer import StopRule
from benchmarks.records.record import load_record

RULE = StopRule(min_calls=2, min_seconds=0.0, cap_seconds=0.05, warmup_seconds=0.01)


def task(name: str, **changes: Any) -> Task:
    known = {
        "options": ModelOptions(name),
        "rule": RULE,
        "n_prompts": (1, 10),
        "threads": 1,
        "image_hw": (48, 64),
    }
    return Task(**{**known, **changes})


class Finished:
    """Stands for a process that ended."""

    def __init__(self, code: int, out: str, err: str = "") -> None:
        self.returncode, self.stdout, self.stderr = code, out, err


LINE = json.dumps({"phase": {"phase": "encode", "samples_ms": [1.5, 2.5]}})


@pytest.mark.parametrize(
    ("process", "message"),
    [
        (Finished(-9, LINE + "\n" + LINE[:20]), "out of memory"),
        (Finished(-11, LINE), "SIGSEGV"),
        (Finished(1, LINE, "Traceback\n  somewhere\nValueError: seven"), "ValueError: seven"),
    ],
)
def test_a_process_that_dies_keeps_what_it_measured(
    monkeypatch: pytest.MonkeyPatch, process: Finished, message: str
) -> None:
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: process)
    found = latency.run_task(task("box"))
    assert [line.samples_ms for line in found.phases] == [(1.5, 2.5)]
    assert found.error is not None
    assert message in found.error


def test_a_process_that_hangs_is_stopped_and_keeps_what_it_measured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    script = f"import time; print({LINE!r}, flush=True); time.sleep(60)"
    real = subprocess.run

    def hanging(_: list[str], **options: Any) -> Any:
        return real([sys.executable, "-c", script], **options)

    monkeypatch.setattr(subprocess, "run", hanging)
    monkeypatch.setattr(latency, "time_limit_s", lambda _: 1.0)
    found = latency.run_task(task("box"))
    assert found.error == "the timing process had not ended after 1 s and was stopped"
    assert [line.samples_ms for line in found.phases] == [(1.5, 2.5)]


def test_the_limit_is_beyond_all_that_a_profile_can_take() -> None:
    for profile in PROFILES.values():
        rule = profile.rule
        asked = task("box", rule=rule, n_prompts=profile.n_prompts)
        n_phases = 5 + 2 * len(profile.n_prompts)
        longest_s = n_phases * (rule.warmup_seconds + 2 * rule.cap_seconds)
        assert latency.time_limit_s(asked) > longest_s + 1000


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel of Linux ends the child")
@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_run_that_is_killed_takes_its_timing_process_along(
    tmp_path: Path, how: signal.Signals
) -> None:
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
def test_useless_weights_are_an_error_row_and_exit_code_1(run: Any, tmp_path: Path) -> None:
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


def phases(name: str, **changes: Any) -> dict[tuple[str, int | None], Any]:
    lines = [line for line in latency_worker.run(task(name, **changes)) if hasattr(line, "phase")]
    return {(line.phase, line.n_prompts): line for line in lines}


def test_every_phase_is_reported_once() -> None:
    found = phases("dummy")
    assert set(found) == {
        ("load", None), ("first_call", 1), ("preprocess", None), ("encode", None),
        ("decode", 1), ("decode", 10), ("end_to_end", 1), ("everything", None),
    }  # fmt: skip
    assert all(line.status == "ok" for line in found.values())


def test_a_call_far_beyond_the_cap_is_skipped_and_says_so() -> None:
    quick = StopRule(min_calls=2, min_seconds=0.0, cap_seconds=0.001, warmup_seconds=0.0)
    found = phases("dummy", rule=quick, n_prompts=(1, 1000))
    line = found["decode", 1000]
    assert line.status == "skipped"
    assert "use a longer profile" in line.why
    # The encoder is never left out: its first call stands in.
    assert len(found["encode", None].samples_ms) == 1
    assert "first call" in found["encode", None].warnings[0]
    assert found["end_to_end", 1].status == "skipped"


def test_a_detector_with_random_weights_is_timed_without_its_search() -> None:
    found = phases("fastsam-s")
    assert found["encode", None].status == "ok"
    for key in (
        ("postprocess", None),
        ("decode", 1),
        ("decode", 10),
        ("end_to_end", 1),
        ("everything", None),
    ):
        assert found[key].status == "skipped"
        assert "depends on its weights" in found[key].why


class Halves(Segmenter):
    """A split decoder that counts its calls."""

    def __init__(self) -> None:
        from baselines.dummy import DummySegmenter

        self.info = DummySegmenter().info
        self.calls: list[str] = []

    def prepare(self, image: Any) -> Prepared:
        return Prepared(None, image.shape[:2])

    def encode(self, prepared: Prepared) -> Embedding:
        return Embedding(None, prepared.size_hw, self.info.name)

    def decode(self, embedding: Embedding, prompts: Prompts, *, multimask: bool = False) -> Masks:
        raise AssertionError("a split decoder is timed by its halves")

    def decode_logits(self, embedding: Embedding, prompts: Prompts, *, multimask: bool = False):
        self.calls.append("decode")

    def postprocess(self, found: object) -> None:
        self.calls.append("postprocess")


def test_network_and_resize_of_a_split_decoder_are_timed_apart() -> None:
    import numpy as np

    model = Halves()
    image = np.zeros((8, 8, 3), np.uint8)
    embedding = model.encode(model.prepare(image))
    prompts = latency_worker.prompts_for(model, image, 3)
    names = []
    for name, call in latency_worker._decode_calls(model, embedding, prompts):
        model.calls.clear()
        call()
        names.append(name)
        assert model.calls == [name]
    assert names == ["decode", "postprocess"]


def test_prompts_are_seeded_and_inside_the_image() -> None:
    import numpy as np

    image = np.zeros((40, 60, 3), np.uint8)
    first, again = (latency_worker.prompts_for(Halves(), image, 10) for _ in range(2))
    assert first.points is not None
    assert again.points is not None
    assert np.array_equal(first.points, again.points)
    assert (first.points >= 0).all()
    assert (first.points < [60, 40]).all()
