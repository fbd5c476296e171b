from __future__ import annotations

import gc
import time
from collections.abc import Callable

import pytest

from benchmarks.latency import timer
from benchmarks.latency.timer import StopRule, measure, time_once


class FakeClock:
    """A clock that only moves when a call says so."""

    def __init__(self) -> None:
        self.ns = 0

    def takes(self, *seconds: float) -> Callable[[], None]:
        """A call that takes these times in turn, the last for ever after."""
        left = list(seconds)

        def call() -> None:
            now = left.pop(0) if len(left) > 1 else left[0]
            self.ns += round(now * 1e9)

        return call


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    fake = FakeClock()
    monkeypatch.setattr(timer.time, "perf_counter_ns", lambda: fake.ns)
    return fake


RULE = StopRule(min_calls=5, min_seconds=1.0, cap_seconds=10.0, warmup_seconds=2.0)


def test_a_call_is_timed_with_the_device_idle_before_and_after(clock: FakeClock) -> None:
    events: list[str] = []

    def synchronize() -> None:
        events.append("wait")
        clock.ns += 3_000_000  # what was still queued

    ms = time_once(lambda: events.append("call"), synchronize)
    assert events == ["wait", "call", "wait"]
    assert ms == pytest.approx(3.0)


def test_it_goes_on_until_both_calls_and_seconds_are_enough(clock: FakeClock) -> None:
    assert len(measure(clock.takes(0.1), RULE).ms) == 10
    assert len(measure(clock.takes(0.5), RULE).ms) == 5


def test_warm_up_ends_when_three_calls_agree_and_is_not_counted(clock: FakeClock) -> None:
    found = measure(clock.takes(0.9, 0.5, 0.21, 0.2, 0.2, 0.2), RULE)
    assert found.warmup_calls == 5
    assert found.ms == pytest.approx([200.0] * 5)
    assert found.warnings == ()


def test_an_unstable_warm_up_is_capped_and_said(clock: FakeClock) -> None:
    found = measure(clock.takes(*[0.2, 0.4] * 50), RULE)
    assert found.warmup_calls == 7
    assert found.warnings == ("not stable after 7 warm-up calls",)


def test_the_cap_ends_slow_calls_and_says_so(clock: FakeClock) -> None:
    found = measure(clock.takes(4.0), RULE)
    assert len(found.ms) == 2
    assert "fewer than 5 calls of a process (cap of the profile)" in found.warnings


def test_one_call_is_always_timed(clock: FakeClock) -> None:
    assert len(measure(clock.takes(30.0), RULE).ms) == 1


def test_the_garbage_collector_is_off_while_timing_and_on_again_afterwards(
    clock: FakeClock,
) -> None:
    states: list[bool] = []
    advance = clock.takes(0.5)

    def call() -> None:
        states.append(gc.isenabled())
        advance()

    found = measure(call, RULE)
    assert not any(states[found.warmup_calls :])
    assert gc.isenabled()


def test_it_is_right_about_a_real_sleep() -> None:
    rule = StopRule(min_calls=5, min_seconds=0.0, cap_seconds=5.0, warmup_seconds=0.05)
    found = measure(lambda: time.sleep(0.02), rule)
    assert 20.0 <= min(found.ms) < 30.0


def test_calls_of_microseconds_come_to_an_end(clock: FakeClock) -> None:
    assert len(measure(clock.takes(1e-6), RULE).ms) == timer.MAX_CALLS


def test_a_call_known_to_be_slow_is_not_made_once_more_to_warm_up(clock: FakeClock) -> None:
    found = measure(clock.takes(4.0), RULE, expected_ms=4000.0)
    assert found.warmup_calls == 0
    assert found.warnings == ("fewer than 5 calls of a process (cap of the profile)",)
