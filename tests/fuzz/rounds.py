"""Runs a target on many inputs: a fixed few for the test suite, ever new ones for the runner."""

from __future__ import annotations

import contextlib
import signal
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from hypothesis import HealthCheck, given, seed, settings

from .targets import Target

# Processor time of one thread for one input: the limit does not depend on the number of threads.
HANG_CPU_S = 20.0
_LOOK_EVERY_S = 1.0
_SIGNAL = getattr(signal, "SIGVTALRM", 0)


class HangError(AssertionError):
    """A thread took more processor time than any answer is worth, or threads never end."""


@dataclass
class Counts:
    """How many inputs a target was given, and what it made of them."""

    read: int = 0
    refused: int = 0

    @property
    def total(self) -> int:
        return self.read + self.refused


def _cpu_s_by_thread() -> dict[int, float]:
    """Processor time of each thread of this process, in seconds."""
    return {each.id: each.user_time + each.system_time for each in psutil.Process().threads()}


@contextlib.contextmanager
def no_hang() -> Iterator[None]:
    """Raises a HangError in the main thread as soon as one thread has taken `HANG_CPU_S` seconds.

    A thread of its own looks, and interrupts the main thread by a signal sent to that very thread:
    a timer's signal may go to another thread, and would not wake a main thread that waits.
    """
    if not hasattr(signal, "pthread_kill"):  # Windows
        yield
        return
    main, before, ended = threading.get_ident(), _cpu_s_by_thread(), threading.Event()

    def look() -> None:
        while not ended.wait(_LOOK_EVERY_S):
            # The number of a thread that has ended may be given to another one.
            taken = [
                spent - min(spent, before.get(each, 0.0))
                for each, spent in _cpu_s_by_thread().items()
            ]
            if max(taken) > HANG_CPU_S:
                signal.pthread_kill(main, _SIGNAL)
                return

    def stop(*_: Any) -> None:
        raise HangError(f"a thread has not ended after {HANG_CPU_S:g} s of processor time")

    old = signal.signal(_SIGNAL, stop)
    looking = threading.Thread(target=look, daemon=True)
    looking.start()
    try:
        yield
    finally:
        ended.set()
        looking.join()
        signal.signal(_SIGNAL, old)


def run_round(target: Target, n_inputs: int, number: int | None = None) -> Counts:
    """Gives a target some inputs; what it must not do is raised with the smallest such input.

    Args:
        target: Which.
        n_inputs: How many.
        number: Seed of the inputs; None for those of the test suite, always the same.
    """
    counts = Counts()

    @settings(
        max_examples=n_inputs,
        derandomize=number is None,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(target.inputs())
    def check(data: Any) -> None:
        with tempfile.TemporaryDirectory(prefix="fuzz-") as folder, no_hang():
            if target.refuses(data, Path(folder)):
                counts.refused += 1
            else:
                counts.read += 1

    (check if number is None else seed(number)(check))()
    return counts
