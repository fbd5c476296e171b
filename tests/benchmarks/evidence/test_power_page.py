"""The measured power of the A/B gate is met, and shown as its record says."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.evidence.power import CASES, Power, trials_of
from benchmarks.evidence.power_page import (
    PAGE,
    RECORD,
    ROOT,
    power_block,
    read_power,
    with_power,
)
from mobilesam.errors import DataError


@pytest.fixture(scope="module")
def power() -> Power:
    return read_power(ROOT / RECORD)


def test_the_committed_power_is_met(power: Power) -> None:
    for case in CASES:
        assert sum(trial.case == case for trial in power.trials) == trials_of(case, 20)
    assert power.met
    assert power.slowdown == pytest.approx(1.3)


def test_the_page_shows_the_record(power: Power) -> None:
    page = (ROOT / PAGE).read_text()
    assert with_power(page, power) == page, "stale: python -m benchmarks.evidence.power_page"
    assert "20 of 20" in power_block(power) or "19 of 20" in power_block(power)


def test_a_page_without_markers_and_a_record_that_is_none_are_errors(
    power: Power, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="lacks the lines"):
        with_power("nothing", power)
    broken = tmp_path / "power.json"
    broken.write_text("{}")
    with pytest.raises(DataError, match="cannot read"):
        read_power(broken)
