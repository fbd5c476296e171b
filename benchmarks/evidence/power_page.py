"""The part of docs/regressions.md that is made from the committed power of the A/B gate.

`python -m benchmarks.evidence.power_page` writes it; a test fails when it is stale.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydantic import ValidationError

from benchmarks.evidence.power import CASES, Case, Power, allowed
from benchmarks.records.record import write_atomic
from benchmarks.tables.table import Cell, Column, Table
from mobilesam.errors import DataError
from mobilesam.validation import first_problem

ROOT = Path(__file__).resolve().parents[2]
RECORD, PAGE = Path("results/regress/power.json"), Path("docs/regressions.md")
BEGIN, END = "<!-- power:begin -->", "<!-- power:end -->"
_SAID: dict[Case, str] = {
    "same": "nothing: it must pass",
    "slower": "one phase {slowdown:g} times as slow: it must fail and name the phase",
    "loss": "0.01 mIoU lost: it must fail and name the protocol",
    "comments": "comments: it must pass",
}


def read_power(path: Path) -> Power:
    """Reads a record of power.

    Raises:
        DataError: It is missing or no such record.
    """
    try:
        return Power.model_validate_json(path.read_bytes())
    except OSError as error:
        why = error.strerror or str(error)
        raise DataError(f"cannot read {path}: {why}; make it with nox -s power") from error
    except ValidationError as error:
        raise DataError(
            f"cannot read {path}: {first_problem(error)}; make it with nox -s power"
        ) from error


def power_block(power: Power) -> str:
    """The Markdown between the markers: a row a case, and where it was measured."""
    columns = (
        Column("Changed", ("changed",)),
        Column("Right", ("right",), "", "right"),
        Column("Wrong at most", ("allowed",), "", "right"),
        Column("A trial", ("duration_s",), "s", "right"),
        Column("Largest noise floor", ("noise_floor",), "", "right"),
    )
    rows = tuple(
        _row(power, case) for case in CASES if any(trial.case == case for trial in power.trials)
    )
    here = power.environment
    commit = power.commit[:12]
    notes = (
        f"measured on {here.cpu}, {here.cpu_physical_cores} cores; commit {commit}; "
        f"threshold {power.threshold:g}",
        *power.warnings,
    )
    title = "Verdicts of the A/B gate on known changes"
    return Table("power", title, columns, rows, notes).to_markdown("")


def _row(power: Power, case: Case) -> tuple[Cell, ...]:
    own = [trial for trial in power.trials if trial.case == case]
    right = len(own) - power.wrong(case)
    floors = [trial.noise_floor for trial in own if trial.noise_floor is not None]
    floor = max(floors, default=None)
    seconds = float(np.median([trial.duration_s for trial in own]))
    said = _SAID[case].format(slowdown=power.slowdown)
    return (
        Cell(said, (said,)),
        Cell(f"{right} of {len(own)}", (right,)),
        Cell(str(allowed(case)), (allowed(case),)),
        Cell(f"{seconds:.0f}", (seconds,)),
        Cell("" if floor is None else f"{floor:.3f}", (floor,)),
    )


def with_power(page: str, power: Power) -> str:
    """The page with the block of a record between its markers.

    Raises:
        DataError: It has no such markers.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise DataError(f"{PAGE} lacks the lines {BEGIN} and {END}")
    return f"{before}{BEGIN}\n{power_block(power)}{END}{after}"


def main() -> int:
    """Writes the page."""
    path = ROOT / PAGE
    write_atomic(path, with_power(path.read_text(), read_power(ROOT / RECORD)).encode())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
