"""The timer: it knows no model, only a call, a device to wait for, and a rule for when to stop."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

MS = 1e-6  # milliseconds a nanosecond
_STABLE_CALLS = 3
_STABLE_SPREAD = 0.10
_MAX_WARMUP_CALLS = 50


@dataclass(frozen=True, slots=True)
class StopRule:
    """When a measurement has run long enough.

    Attributes:
        min_calls: At least so many calls are timed ...
        min_seconds: ... and at least so many seconds, ...
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
    call: Callable[[], object], rule: StopRule, synchronize: Callable[[], None] = lambda: None
) -> Samples:
    """Warms up, then times calls until the rule is met.

    The garbage collector is off while calls are timed: its pauses belong to nobody.
    """
    warmup_ms, stable = _warm_up(call, rule, synchronize)
    # A call that alone outlasts the warm-up's budget was warmed up by the caller's first call.
    slow = not warmup_ms
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        times = _sample(call, rule, synchronize)
    finally:
        if collecting:
            gc.enable()
    warnings = []
    if not stable and not slow:
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
    while True:
        times.append(time_once(call, synchronize))
        elapsed_s = sum(times) / 1e3
        if len(times) >= rule.min_calls and elapsed_s >= rule.min_seconds:
            return times
        if elapsed_s + statistics.median(times) / 1e3 > rule.cap_seconds:
            return times
