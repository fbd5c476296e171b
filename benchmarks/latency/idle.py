"""Waits until other processes leave the processor idle, for runs whose times are published."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.records.environment import busy_seconds
from mobilesam.errors import BenchError

RESULTS = Path(__file__).resolve().parents[2] / "results"
MAX_OTHER_LOAD = 0.3
"""Cores that other processes may use, on average over `WINDOW_S`."""
WINDOW_S = 20.0
TIMEOUT_S = 600.0
_MOST_NAMED = 3
_NEGLIGIBLE_LOAD = 0.05


class BusyMachineError(BenchError):
    """Other processes use the processor, so times measured now would not be reproducible."""


@dataclass(frozen=True, slots=True)
class Load:
    """Mean number of cores that other processes keep busy, and the busiest of these by name."""

    cores: float
    busiest: tuple[tuple[str, float], ...] = ()

    @property
    def description(self) -> str:
        """Text such as `python3 (0.9), cc1plus (0.4)`; empty if `busiest` is empty."""
        return ", ".join(f"{name} ({cores:.1f})" for name, cores in self.busiest[:_MOST_NAMED])


def other_load(window_s: float = WINDOW_S) -> Load:
    """Measures the load of all processes other than this one and its children over a window."""
    before, busy_before, start = _cpu_seconds(), busy_seconds(), time.monotonic()
    time.sleep(window_s)
    elapsed_s = time.monotonic() - start
    after, busy = _cpu_seconds(), busy_seconds() - busy_before
    this = psutil.Process()
    ours = {this.pid, *(child.pid for child in this.children(recursive=True))}
    others: list[tuple[str, float]] = []
    for key, (name, seconds) in after.items():
        used_s = seconds - before.get(key, (name, 0.0))[1]
        if key[0] in ours:
            busy -= used_s
        elif used_s / elapsed_s > _NEGLIGIBLE_LOAD:
            others.append((name, used_s / elapsed_s))
    busiest = tuple(sorted(others, key=lambda each: -each[1]))
    return Load(max(busy, 0.0) / elapsed_s, busiest)


class LoadMeter:
    """Mean number of cores that other processes use, from now on.

    Child processes count as this one once they have ended and were waited for.
    """

    def __init__(self) -> None:
        self._start, self._before = time.monotonic(), self._busy_s()

    @staticmethod
    def _busy_s() -> float:
        return busy_seconds() - sum(os.times()[:4])

    def cores(self) -> float:
        """The mean up to now."""
        elapsed_s = time.monotonic() - self._start
        return max(0.0, self._busy_s() - self._before) / elapsed_s if elapsed_s > 0 else 0.0


def wait_until_idle(
    say: Callable[[str], object], *, measure: Callable[[], Load] = other_load
) -> float:
    """Waits until other processes use less than `MAX_OTHER_LOAD` cores; returns their load."""
    limit = f"{MAX_OTHER_LOAD:g}"
    say(f"waiting until other processes use less than {limit} of a core ({WINDOW_S:.0f} s)")
    start = time.monotonic()
    while True:
        load = measure()
        if load.cores < MAX_OTHER_LOAD:
            say(f"the machine is idle: other processes use {load.cores:.2f} of a core")
            return load.cores
        if time.monotonic() - start >= TIMEOUT_S:
            by = f" ({load.description})" if load.description else ""
            raise BusyMachineError(
                f"the machine is not idle: other processes use {load.cores:.1f} cores{by} after "
                f"{TIMEOUT_S / 60:.0f} minutes of waiting, and published times allow {limit}; "
                "stop them, or run without --publishable"
            )


def wait_if_published(out: Path | None) -> float | None:
    """Waits until the machine is idle if a result goes to `results/`, whose figures are published.

    Returns the number of cores used by other processes, or None if the result is not published.
    """
    if out is None or RESULTS not in out.resolve().parents:
        return None
    return wait_until_idle(lambda line: sys.stderr.write(line + "\n"))


def _cpu_seconds() -> dict[tuple[int, float], tuple[str, float]]:
    """Name and processor time of every process, by process id and start time."""
    found = {}
    for process in psutil.process_iter(["pid", "create_time", "name", "cpu_times"]):
        info = process.info
        if info["cpu_times"] is not None:
            seconds = info["cpu_times"].user + info["cpu_times"].system
            found[info["pid"], info["create_time"]] = info["name"] or "unknown", seconds
    return found
