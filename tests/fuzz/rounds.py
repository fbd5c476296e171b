"""Runs a target on many inputs: a fixed few for the test suite, ever new ones for the runner."""

from __future__ import annotations

import contextlib
import signal
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, seed, settings

from .targets import Target

HANG_CPU_S = 20.0


class HangError(AssertionError):
    """A reader took more processor time than any answer is worth."""


@dataclass
class Counts:
    """How many inputs a target was given, and what it made of them."""

    read: int = 0
    refused: int = 0

    @property
    def total(self) -> int:
        return self.read + self.refused


@contextlib.contextmanager
def _no_hang() -> Iterator[None]:
    def stop(*_: Any) -> None:
        raise HangError(f"no answer after {HANG_CPU_S:.0f} s of processor time")

    if not hasattr(signal, "setitimer"):  # Windows
        yield
        return
    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, HANG_CPU_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


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
        with tempfile.TemporaryDirectory(prefix="fuzz-") as folder, _no_hang():
            if target.refuses(data, Path(folder)):
                counts.refused += 1
            else:
                counts.read += 1

    (check if number is None else seed(number)(check))()
    return counts
