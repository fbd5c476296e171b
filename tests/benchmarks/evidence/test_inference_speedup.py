from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.evidence import speed_inference as inference
from benchmarks.evidence.speed_inference import Turns, Worker, measure, summarise, workers


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
    assert rows["fast"]["ci95"] is None  # two processes
    assert rows["fast"]["range"] == (2.5, 2.5)
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


def turns_of(processes: list[float]) -> Turns:
    """Three calls of so many ms in each process."""
    ms = [[each] * 3 for each in processes]
    return Turns(ms, ms, [0], [9.0], np.ones(2, np.float32))


@pytest.mark.parametrize("processes", [4, 5])
def test_five_processes_give_an_interval_and_fewer_a_range(
    processes: int, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = turns_of([10.0, 11.0, 9.0, 10.5, 10.0][:processes])
    rows = summarise({"encoder": {"plain": plain, "fast": turns_of([4.0] * processes)}})
    fast = rows[1]
    inference.print_rows(rows)
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
        (["--tasks", "decoder-0"], "unknown task 'decoder-0'"),
        (["--turns", "0"], "--turns must be at least 1; got 0"),
        (["--weights", "no.pt"], "no.pt is no file"),
        (["--out", "no/such/folder.json"], "is no folder"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    with pytest.raises(SystemExit, match="2"):
        inference.main(arguments)
    assert message in capsys.readouterr().err


@pytest.mark.skipif(
    importlib.util.find_spec("mobile_sam") is not None, reason="the authors' package is installed"
)
@pytest.mark.slow
def test_a_side_that_cannot_run_is_told_in_lines(capfd: pytest.CaptureFixture[str]) -> None:
    assert inference.main(["--sides", "authors", "--tasks", "decoder-1"]) == 1
    told = capfd.readouterr().err
    assert "error: the authors' package cannot be imported" in told
    assert "error: the process of authors ended during decoder-1" in told
    assert "Traceback" not in told


@pytest.mark.slow
def test_a_worker_answers_and_ends(tmp_path: Path) -> None:
    with workers(("plain", "fast"), None, 1, tmp_path) as running:
        took = [worker.ask("decoder-1") for worker in running]
        plain, fast = (worker.answer() for worker in running)
    assert all(each["ms"] > 0 for each in took)
    np.testing.assert_allclose(fast, plain, atol=1e-3)
    assert json.dumps(took)
    assert all(worker._process.poll() == 0 for worker in running)
