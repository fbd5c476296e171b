"""Runs a target on many inputs: a fixed few in the test suite, new ones in the fuzzer."""

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
_CHECK_EVERY_S = 1.0
_SIGNAL = getattr(signal, "SIGVTALRM", 0)


class HangError(AssertionError):
    """A thread exceeded its processor time, or threads do not end."""


@dataclass
class Counts:
    """Number of inputs that a target has read and refused."""

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
    """Raises a HangError in the main thread once a thread has taken `HANG_CPU_S` seconds.

    A monitoring thread sends the signal to the main thread directly: the signal of a timer may be
    delivered to another thread, and would not wake a waiting main thread.
    """
    if not hasattr(signal, "pthread_kill"):  # Windows
        yield
        return
    main, before, ended = threading.get_ident(), _cpu_s_by_thread(), threading.Event()

    def monitor() -> None:
        while not ended.wait(_CHECK_EVERY_S):
            # The id of an ended thread may be reused.
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
    monitoring = threading.Thread(target=monitor, daemon=True)
    monitoring.start()
    try:
        yield
    finally:
        ended.set()
        monitoring.join()
        signal.signal(_SIGNAL, old)


def run_round(target: Target, n_inputs: int, number: int | None = None) -> Counts:
    """Runs a target on generated inputs; raises its failure for the smallest failing input.

    Args:
        target: Target to run.
        n_inputs: Number of inputs.
        number: Seed of the inputs; None for the fixed inputs of the test suite.
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
