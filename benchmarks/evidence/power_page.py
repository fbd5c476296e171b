"""The part of docs/regressions.md that is generated from the committed power of the A/B gate.

`python -m benchmarks.evidence.power_page` writes it; a test fails when it is stale.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from benchmarks.evidence.pages import ROOT, render, replace_block
from benchmarks.evidence.power import CASES, Power, allowed
from mobilesam.errors import DataError, first_problem

RECORD, PAGE = Path("results/regress/power.json"), Path("docs/regressions.md")
BEGIN, END = "<!-- power:begin -->", "<!-- power:end -->"


def read_power(path: Path) -> Power:
    """Reads a record of power, or raises a DataError."""
    try:
        return Power.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        reason = error.strerror if isinstance(error, OSError) else first_problem(error)
        raise DataError(f"cannot read {path}: {reason}; make it with nox -s power") from error


def power_block(power: Power) -> str:
    """The Markdown between the markers: a row a case, and where it was measured."""
    cases = {case: power.of(case) for case in CASES if power.of(case)}
    problem = "the record of power is incomplete"
    return render("power.md", problem, power=power, cases=cases, allowed=allowed)


def main() -> int:
    """Writes the block."""
    replace_block(ROOT / PAGE, BEGIN, END, power_block(read_power(ROOT / RECORD)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
