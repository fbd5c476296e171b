"""All readers on fixed damaged inputs; `nox -s fuzz` tests further ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st

from mobilesam.errors import DataError

from .__main__ import describe, fuzz
from .rounds import run_round
from .targets import TARGETS, Target


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_damaged_input_is_read_or_refused_in_one_line(target: Target) -> None:
    counts = run_round(target, n_inputs=80)
    # Inputs that are all refused, or all read, would test only half of the reader.
    assert counts.refused
    assert counts.read


def _broken(data: int, folder: Path) -> None:
    if data > 1000:
        raise ZeroDivisionError
    if data > 10:
        raise DataError("too much")


def test_a_crash_is_found_and_reported() -> None:
    target = Target("broken", lambda: st.integers(0, 10_000), _broken)
    with pytest.raises(ZeroDivisionError):
        run_round(target, n_inputs=200)
    text = describe(fuzz([target], minutes=1, seed=1))
    assert "1 readers crashed" in text
    assert "ZeroDivisionError" in text
    assert "1001" in text  # the smallest input that shows it


@pytest.mark.parametrize("message", ["", "two\nlines", "\ud800"])
def test_an_error_text_that_is_not_one_line_is_a_crash(message: str) -> None:
    def refuse(data: Any, folder: Path) -> None:
        raise DataError(message)

    with pytest.raises((AssertionError, UnicodeEncodeError)):
        run_round(Target("unclear", st.integers, refuse), n_inputs=1)
