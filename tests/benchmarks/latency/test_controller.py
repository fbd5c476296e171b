"""Timing processes are started, asked and ended; orders are drawn from a seed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.latency.controller import (
    Setup,
    Worker,
    WorkerError,
    fresh_processes,
    run_task,
    shuffled,
    task_setup,
    turns,
)

TASKS = """
import os
from mobilesam.errors import DataError

def threads(power):
    return {"run": lambda: int(os.environ["OMP_NUM_THREADS"]) ** power}.__getitem__

def refused():
    raise DataError("no such task")
"""


@pytest.fixture(autouse=True)
def tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tasks in a module that a child process finds."""
    (tmp_path / "some_tasks.py").write_text(TASKS)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))


def test_orders_are_drawn_from_the_seed() -> None:
    names = tuple("abcdefgh")
    first, again = (shuffled(names, np.random.default_rng(1)) for _ in range(2))
    assert first == again != list(names)
    assert sorted(first) == list(names)


def test_names_that_drop_out_have_no_further_turns() -> None:
    running, taken = ["a", "b", "c"], []
    for name in turns(lambda: tuple(running), 3, np.random.default_rng(0)):
        taken.append(name)
        if len(taken) == 3:
            running.remove("b")
    assert [taken.count(name) for name in "abc"] == [3, 1, 3]
    assert set(taken[:3]) == {"a", "b", "c"}


def test_a_task_runs_in_a_fresh_process() -> None:
    found = run_task("some_tasks:threads", 3, power=2)
    assert found["value"] == 9
    assert found["ms"] > 0
    assert 0 < found["loaded_bytes"] <= found["peak_rss_bytes"]
    with pytest.raises(WorkerError, match=r"^no such task$"):
        run_task("some_tasks:refused", 1)


def test_processes_are_ended_after_an_error() -> None:
    setups = {name: task_setup("some_tasks:threads", 1, power=1) for name in ("one", "two")}
    kept: list[Worker] = []

    def fail() -> None:
        with fresh_processes(setups, np.random.default_rng(0)) as workers:
            kept.extend(workers.values())
            raise KeyError("one")

    with pytest.raises(KeyError):
        fail()
    assert len(kept) == 2
    assert all(worker._process.poll() is not None for worker in kept)


def test_a_process_that_cannot_start_reports_its_last_lines() -> None:
    setup = Setup({"kind": "unknown"}, 1)
    with (
        fresh_processes({"one": setup}, np.random.default_rng(0)) as workers,
        pytest.raises(WorkerError, match=r"failed: .*KeyError: 'unknown'"),
    ):
        workers["one"].answer()
