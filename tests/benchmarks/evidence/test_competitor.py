"""The busy process of the benchmark under load."""

from __future__ import annotations

import time
from collections.abc import Callable

import psutil

from benchmarks.evidence.competitor import competitor


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_it_is_busy_while_it_competes_and_ends_with_the_block() -> None:
    before = {each.pid for each in psutil.Process().children()}
    with competitor(1) as other:
        (process,) = (each for each in psutil.Process().children() if each.pid not in before)
        assert process.nice() == psutil.Process().nice() + 1
        wait_until(lambda: process.status() == psutil.STATUS_STOPPED)
        used = sum(process.cpu_times()[:2])
        other.compete(wanted=True)
        wait_until(lambda: sum(process.cpu_times()[:2]) > used + 0.05)
        other.compete(wanted=False)
        wait_until(lambda: process.status() == psutil.STATUS_STOPPED)
    assert not process.is_running()
