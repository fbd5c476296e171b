"""Targets of the mini family and their outcomes."""

from __future__ import annotations

import pytest
from family_record import family

from benchmarks.distillation.family_targets import family_targets, family_targets_table


@pytest.mark.parametrize(("student_box", "outcome"), [(0.82, "reached"), (0.80, "missed")])
def test_outcomes_of_targets(student_box: float, outcome: str) -> None:
    found = {aim.what: aim for aim in family_targets(family(student_box))}
    assert found["sam-mini, box"].outcome == "reached"
    behind = found["mobilesam-mini, box, behind its teacher"]
    assert behind.measured == pytest.approx(85 - 100 * student_box)
    assert behind.outcome == outcome
    assert found["mobilesam-mini, center, agreement with its teacher"].outcome == "missed"
    assert found["encoder's parameters, teacher by student"].measured == 4
    assert found["encoder's parameters, teacher by student"].outcome == "reached"
    assert found["encoder's time, teacher by student"].measured == 1.5
    assert found["encoder's time, teacher by student"].outcome == "missed"
    assert found["sam-mini, center-multi"].outcome == "not measured"


def test_table_of_targets() -> None:
    text = family_targets_table(family(0.82)).to_markdown("")
    assert "| sam-mini, box | at least 82 % | 85.0 % | reached |" in text
