"""The power of the A/B gate is as required, and the page shows its record."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.evidence.pages import ROOT, replace_block, split_at_markers
from benchmarks.evidence.power import CASES, Power, trials_of
from benchmarks.evidence.power_page import BEGIN, END, PAGE, RECORD, power_block, read_power
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
    block = split_at_markers(ROOT / PAGE, BEGIN, END)[1]
    assert block == power_block(power), "stale: python -m benchmarks.evidence.power_page"
    assert "20 of 20" in block or "19 of 20" in block


def test_a_page_without_markers_and_an_invalid_record_are_errors(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("nothing")
    with pytest.raises(DataError, match="must hold"):
        replace_block(page, BEGIN, END, "block")
    broken = tmp_path / "power.json"
    broken.write_text("{}")
    with pytest.raises(DataError, match=r"cannot read .*nox -s power"):
        read_power(broken)
    with pytest.raises(DataError, match=r"cannot read .*No such file"):
        read_power(tmp_path / "absent.json")
