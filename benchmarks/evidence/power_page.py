"""The part of docs/regressions.md that is generated from the committed power of the A/B gate.

`python -m benchmarks.evidence.power_page` writes it; a test fails when it is stale.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydantic import ValidationError

from benchmarks.evidence.pages import ROOT, PageColumn, markdown_table, replace_block
from benchmarks.evidence.power import CASES, Case, Power, allowed
from mobilesam.errors import DataError, first_problem

RECORD, PAGE = Path("results/regress/power.json"), Path("docs/regressions.md")
BEGIN, END = "<!-- power:begin -->", "<!-- power:end -->"
_CHANGES: dict[Case, str] = {
    "same": "nothing: it must pass",
    "slower": "one phase {slowdown:g} times as slow: it must fail and name the phase",
    "loss": "0.01 mIoU lost: it must fail and name the protocol",
    "comments": "comments: it must pass",
}


def read_power(path: Path) -> Power:
    """Reads a record of power.

    Raises:
        DataError: It cannot be read.
    """
    try:
        return Power.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        reason = error.strerror if isinstance(error, OSError) else first_problem(error)
        raise DataError(f"cannot read {path}: {reason}; make it with nox -s power") from error


def power_block(power: Power) -> str:
    """The Markdown between the markers: a row a case, and where it was measured."""

    def floor(case: Case) -> str:
        floors = [trial.noise_floor for trial in power.of(case) if trial.noise_floor is not None]
        return f"{max(floors):.3f}" if floors else ""

    columns = (
        PageColumn(
            "Changed", lambda case: _CHANGES[case].format(slowdown=power.slowdown), align="left"
        ),
        PageColumn(
            "Right",
            lambda case: f"{len(power.of(case)) - power.wrong(case)} of {len(power.of(case))}",
        ),
        PageColumn("Wrong at most", lambda case: str(allowed(case))),
        PageColumn(
            "A trial",
            lambda case: f"{np.median([trial.duration_s for trial in power.of(case)]):.0f}",
            "s",
        ),
        PageColumn("Largest noise floor", floor),
    )
    here = power.environment
    notes = (
        f"measured on {here.cpu}, {here.cpu_physical_cores} cores; commit {power.commit[:12]}; "
        f"threshold {power.threshold:g}",
        *power.warnings,
    )
    return markdown_table(columns, [case for case in CASES if power.of(case)], notes)


def main() -> int:
    """Writes the block."""
    replace_block(ROOT / PAGE, BEGIN, END, power_block(read_power(ROOT / RECORD)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
