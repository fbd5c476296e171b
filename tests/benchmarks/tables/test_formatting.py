"""Numbers keep their significant digits, and text is escaped."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.tables import formatting


@pytest.mark.parametrize(
    ("value", "bounds", "text"),
    [
        (28012.3, (28001.0, 28020.4), "28,012 [28,001, 28,020]"),
        (5.1234, (5.1221, 5.1249), "5.123 [5.122, 5.125]"),
        (0.0123, None, "0.0123"),
        (0.9997, None, "1.00"),
        (0.0, (0.0, 0.0), "0 [0, 0]"),
        (120.0, (100.0, 140.0), "120 [100, 140]"),
    ],
)
def test_interval(value: float, bounds: tuple[float, float] | None, text: str) -> None:
    assert formatting.interval(value, bounds) == text


@pytest.mark.parametrize(
    ("value_ms", "text"),
    [
        (0.01, "10.0 µs"),
        (0.9996, "1.00 ms"),
        (999.4, "999 ms"),
        (999.7, "1.00 s"),
        (28000, "28.0 s"),
    ],
)
def test_milliseconds(value_ms: float, text: str) -> None:
    assert formatting.milliseconds(value_ms) == text


@settings(derandomize=True, deadline=None, max_examples=200)
@given(st.floats(1e-6, 1e9))
def test_three_significant_digits_survive(value: float) -> None:
    assert float(formatting.number(value).replace(",", "")) == pytest.approx(value, rel=5.1e-3)


def test_latex_keeps_double_dashes() -> None:
    assert formatting.escape_latex("a--b-c −1") == "a-{}-b-c $-$1"


def test_a_value_that_rounds_to_zero_has_no_sign() -> None:
    assert formatting.number(-0.04, 1) == "0.0"
    assert formatting.percent(-0.0001, (-0.0002, 0.0001)) == "0.0 [0.0, 0.0]"
    assert formatting.number(-0.06, 1) == f"{formatting.MINUS}0.1"


@given(st.floats(1e-4, 1e7))
def test_a_printed_bound_holds(value: float) -> None:
    least, most = (formatting.number(value, bound=bound) for bound in ("at least", "at most"))
    low, high = (float(text.replace(",", "")) for text in (least, most))
    assert low <= value * (1 + 1e-9)
    assert value <= high * (1 + 1e-9)
    assert high - low <= 0.011 * value + 1e-9
