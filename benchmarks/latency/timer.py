"""Times a call: warm-up, stop rule, and nothing but the call in the timed region.

This module imports the standard library alone, since the worker process loads it by its path while
`benchmarks` may belong to another version of this code.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

MS = 1e-6  # milliseconds in a nanosecond
_STABLE_CALLS = 3
_STABLE_SPREAD = 0.10
_MAX_WARMUP_CALLS = 50
MAX_CALLS = 1000
"""Limit for calls of microseconds, which would otherwise fill the seconds with equal samples."""
NOTHING_MS = 0.01
"""Shorter times are call overhead: the phase does nothing in that model."""


def milliseconds(value_ms: float) -> str:
    """Prints a time for the log with its unit, such as `12.35 ms`, `23910 ms` or `< 0.01 ms`."""
    if value_ms < NOTHING_MS:
        return f"< {NOTHING_MS:g} ms"
    return f"{value_ms:.0f} ms" if value_ms >= 1000 else f"{value_ms:.4g} ms"


@dataclass(frozen=True, slots=True)
class StopRule:
    """When a measurement has run long enough.

    Attributes:
        min_calls: Minimum number of timed calls.
        min_seconds: Minimum total of the timed calls, unless `MAX_CALLS` is reached before.
        cap_seconds: No call is started that would probably end after this many seconds; one call
            is always timed.
        warmup_seconds: The warm-up ends when three calls in a row differ by less than 10 %, or
            after this many seconds.
    """

    min_calls: int
    min_seconds: float
    cap_seconds: float
    warmup_seconds: float


@dataclass(frozen=True, slots=True)
class Samples:
    """Times of the calls in milliseconds, in order, with warnings."""

    ms: tuple[float, ...]
    warmup_calls: int
    warnings: tuple[str, ...]


def time_once(call: Callable[[], object], synchronize: Callable[[], None]) -> float:
    """Milliseconds of one call; the device is idle before and after."""
    synchronize()
    start = time.perf_counter_ns()
    call()
    synchronize()
    return (time.perf_counter_ns() - start) * MS


def time_calls(
    call: Callable[[], object], n_calls: int, synchronize: Callable[[], None]
) -> list[float]:
    """Milliseconds of each of `n_calls` calls, with the garbage collector off."""
    with _collector_off():
        return [time_once(call, synchronize) for _ in range(n_calls)]


def measure(
    call: Callable[[], object],
    rule: StopRule,
    synchronize: Callable[[], None] = lambda: None,
    *,
    expected_ms: float = 0.0,
) -> Samples:
    """Warms up, then times calls until the rule is met, with the garbage collector off.

    A call that is expected to take longer than the whole warm-up is not repeated for it.
    """
    warmup_ms: list[float] = []
    budget_ms = rule.warmup_seconds * 1e3
    stable = expected_ms > budget_ms
    while not stable and sum(warmup_ms) < budget_ms and len(warmup_ms) < _MAX_WARMUP_CALLS:
        warmup_ms.append(time_once(call, synchronize))
        last = warmup_ms[-_STABLE_CALLS:]
        stable = len(last) == _STABLE_CALLS and max(last) <= min(last) * (1 + _STABLE_SPREAD)
    gc.collect()
    times: list[float] = []
    elapsed_ms = 0.0
    with _collector_off():
        while len(times) < MAX_CALLS:
            times.append(time_once(call, synchronize))
            elapsed_ms += times[-1]
            if len(times) >= rule.min_calls and elapsed_ms >= rule.min_seconds * 1e3:
                break
            if elapsed_ms + elapsed_ms / len(times) > rule.cap_seconds * 1e3:
                break
    warnings = []
    if warmup_ms and not stable:
        warnings.append(f"not stable after {len(warmup_ms)} warm-up calls")
    if len(times) < rule.min_calls:
        warnings.append(f"fewer than {rule.min_calls} calls of a process (cap of the profile)")
    return Samples(tuple(times), len(warmup_ms), tuple(warnings))


@contextmanager
def _collector_off() -> Iterator[None]:
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()
