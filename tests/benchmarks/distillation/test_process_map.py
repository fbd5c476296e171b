"""Calls in several processes: order of results, failures, end of the parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest

from benchmarks.distillation.process_map import map_processes
from mobilesam.errors import DataError, TrainingError

ROOT = Path(__file__).resolve().parents[3]

_SCRIPT = """
    import os, signal, sys, time
    from pathlib import Path
    from benchmarks.distillation.process_map import map_processes

    def nothing():
        pass

    def task(path):
        path.write_text(str(os.getpid()))
        time.sleep(60)

    if __name__ == "__main__":
        # A shell starts what it runs in the background with interrupts ignored.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        paths = [Path(sys.argv[1]) / f"started-{i}" for i in range(6)]
        map_processes(task, paths, 2, print, nothing)
"""


def _fail(number: int) -> int:
    if number == 1:
        raise DataError("the second one")
    time.sleep(0 if number == 0 else 60)
    return number


def _nothing() -> None:
    pass


def _double(number: int) -> int:
    return 2 * number


def _kill(number: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return number


def test_results_are_in_the_order_of_tasks() -> None:
    done: list[int] = []
    assert map_processes(_double, [3, 1, 2], 2, done.append, _nothing) == [6, 2, 4]
    assert sorted(done) == [2, 4, 6]


def test_failure_ends_all_processes() -> None:
    start = time.monotonic()
    with pytest.raises(DataError, match="the second one"):
        map_processes(_fail, list(range(6)), 2, lambda _: None, _nothing)
    assert time.monotonic() - start < 50


def test_killed_process_is_reported() -> None:
    with pytest.raises(TrainingError, match="a training was killed"):
        map_processes(_kill, [1, 2], 2, lambda _: None, _nothing)


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL])
def test_processes_end_with_their_parent(tmp_path: Path, sent: signal.Signals) -> None:
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(_SCRIPT))
    parent = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        started = _wait_for(tmp_path, 2)
        parent.send_signal(sent)
        assert parent.wait(timeout=30) != 0
        deadline = time.monotonic() + 30
        while any(psutil.pid_exists(pid) for pid in started) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not [pid for pid in started if psutil.pid_exists(pid)]
        assert len(list(tmp_path.glob("started-*"))) == 2
    finally:
        parent.kill()
        parent.wait()


def _wait_for(folder: Path, count: int) -> list[int]:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        texts = [path.read_text() for path in folder.glob("started-*")]
        if len(texts) >= count and all(texts):
            return [int(text) for text in texts]
        time.sleep(0.1)
    raise AssertionError("no process has started")
