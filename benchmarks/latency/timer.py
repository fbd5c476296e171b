"""The timer: it knows no model, only a call, a device to wait for, and a rule for when to stop."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass

MS = 1e-6  # milliseconds a nanosecond
_STABLE_CALLS = 3
_STABLE_SPREAD = 0.10
_MAX_WARMUP_CALLS = 50
# A call of microseconds would fill the seconds with samples that tell nothing new.
MAX_CALLS = 1000
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
        min_calls: At least so many calls are timed ...
        min_seconds: ... and at least so many seconds (or `MAX_CALLS`), ...
        cap_seconds: ... but no call is begun that would probably end after so many seconds; one
            call is always timed.
        warmup_seconds: Untimed calls go on until three in a row differ by less than 10 %, or for
            so many seconds.
    """

    min_calls: int
    min_seconds: float
    cap_seconds: float
    warmup_seconds: float


@dataclass(frozen=True, slots=True)
class Samples:
    """Times of the calls in milliseconds, in order, and what was odd about them."""

    ms: tuple[float, ...]
    warmup_calls: int
    warnings: tuple[str, ...]


def time_once(call: Callable[[], object], synchronize: Callable[[], None]) -> float:
    """Milliseconds of one call, the device idle before and after."""
    synchronize()
    start = time.perf_counter_ns()
    call()
    synchronize()
    return (time.perf_counter_ns() - start) * MS


def measure(
    call: Callable[[], object],
    rule: StopRule,
    synchronize: Callable[[], None] = lambda: None,
    *,
    expected_ms: float = 0.0,
) -> Samples:
    """Warms up, then times calls until the rule is met.

    The garbage collector is off while calls are timed: its pauses belong to nobody.

    Args:
        call: What is timed.
        rule: When to stop.
        synchronize: Waits for the device.
        expected_ms: What the call is thought to take, having been made before. One that alone
            outlasts the warm-up is not made once more just to warm up.
    """
    slow = expected_ms > rule.warmup_seconds * 1e3
    warmup_ms, stable = ([], True) if slow else _warm_up(call, rule, synchronize)
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        times = _sample(call, rule, synchronize)
    finally:
        if collecting:
            gc.enable()
    warnings = []
    if not stable:
        warnings.append(f"not stable after {len(warmup_ms)} warm-up calls")
    if len(times) < rule.min_calls:
        warnings.append(f"few samples: {len(times)} of {rule.min_calls} (cap of the profile)")
    return Samples(tuple(times), len(warmup_ms), tuple(warnings))


def _warm_up(
    call: Callable[[], object], rule: StopRule, synchronize: Callable[[], None]
) -> tuple[list[float], bool]:
    times: list[float] = []
    budget = rule.warmup_seconds * 1e3
    while sum(times) < budget and len(times) < _MAX_WARMUP_CALLS:
        times.append(time_once(call, synchronize))
        last = times[-_STABLE_CALLS:]
        if len(last) == _STABLE_CALLS and max(last) <= min(last) * (1 + _STABLE_SPREAD):
            return times, True
    return times, not times


def _sample(
    call: Callable[[], object], rule: StopRule, synchronize: Callable[[], None]
) -> list[float]:
    times: list[float] = []
    elapsed_ms = 0.0
    while len(times) < MAX_CALLS:
        times.append(time_once(call, synchronize))
        elapsed_ms += times[-1]
        if len(times) >= rule.min_calls and elapsed_ms >= rule.min_seconds * 1e3:
            break
        if elapsed_ms + elapsed_ms / len(times) > rule.cap_seconds * 1e3:
            break
    return times
