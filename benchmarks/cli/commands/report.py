"""The command `report`: one HTML file from the records of runs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path


def report(
    runs: Sequence[Path],
    out: Path,
    images: Path | None,
    cases: int | None,
    *,
    failures_first: bool,
    quiet: bool,
) -> int:
    """Writes the HTML report, prints its path and the runs that are in its history only.

    The arguments are those of `benchmarks.report.page.write_report`; `cases` None is its default.
    """
    from benchmarks.report.page import CASES_EACH, write_report

    each = CASES_EACH if cases is None else cases
    merged = write_report(runs, out, images=images, cases=each, failures_first=failures_first)
    if not quiet:
        for run_id, why in merged.apart.items():
            sys.stderr.write(f"run {run_id} is in the history only: {why}\n")
        sys.stdout.write(f"report  {out} ({out.stat().st_size / 1e6:.1f} MB)\n")
    return 0
