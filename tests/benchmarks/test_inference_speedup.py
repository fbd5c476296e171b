from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.speedups import inference
from benchmarks.speedups.inference import Turns, Worker, measure, summarise, workers


class FakeWorker(Worker):
    """Takes 10 ms plain and 4 ms fast, drifting alike."""

    started = 0

    def __init__(self, side: str, weights: Path | None, threads: int, folder: Path) -> None:
        FakeWorker.started += 1
        self.side, self.calls = side, 0

    def ask(self, task: str) -> dict[str, float]:
        self.calls += 1
        ms = {"plain": 10.0, "fast": 4.0}[self.side] * (1 + self.calls)
        return {"ms": ms, "cpu_ms": 2 * ms, "faults": 3}

    def answer(self) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
        return np.full(2, 1.0 if self.side == "plain" else 1.5, np.float32)

    def close(self) -> None:
        FakeWorker.started -= 1


def test_ratio_is_of_calls_of_the_same_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inference, "Worker", FakeWorker)
    found = measure(("plain", "fast"), ("encoder",), None, threads=1, processes=2, turns=3)
    assert [len(each) for each in found["encoder"]["fast"].ms] == [3, 3]
    rows = {row["side"]: row for row in summarise(found)}
    assert rows["fast"]["ratio"] == rows["fast"]["cpu_ratio"] == 2.5
    assert rows["plain"]["ratio"] == 1
    assert rows["fast"]["first_ms"] == 8  # the first call of all, which no ratio has in it
    assert rows["fast"]["max_difference"] == 0.5
    assert rows["fast"]["page_faults"] == 3
    assert FakeWorker.started == 0


def test_table_has_a_row_for_each_side(capsys: pytest.CaptureFixture[str]) -> None:
    turns = Turns([[2.0, 2.0, 2.0]], [[2.0, 2.0, 2.0]], [0], [9.0], np.ones(2, np.float32))
    inference.print_rows(summarise({"encoder": {"plain": turns, "bf16": turns}}))
    head, plain, rough = capsys.readouterr().out.splitlines()
    assert "times faster" in head
    assert "plain" in plain
    assert "bf16" in rough


def test_unknown_sides_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        inference.main(["--sides", "fastest"])
    assert "'fastest'" in capsys.readouterr().err


@pytest.mark.slow
def test_a_worker_answers_and_ends(tmp_path: Path) -> None:
    with workers(("plain", "fast"), None, 1, tmp_path) as running:
        took = [worker.ask("decoder-1") for worker in running]
        plain, fast = (worker.answer() for worker in running)
    assert all(each["ms"] > 0 for each in took)
    np.testing.assert_allclose(fast, plain, atol=1e-3)
    assert json.dumps(took)
    assert all(worker._process.poll() == 0 for worker in running)
