"""The command `report`: one HTML file from the records of runs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from mobilesam.errors import UsageError


def report(
    runs: Sequence[Path],
    out: Path,
    images: Path | None,
    cases: int | None,
    *,
    failures_first: bool,
    quiet: bool,
) -> int:
    """Writes the report and says where it is, and which runs are in its history only.

    Args:
        runs: Folders of runs, or folders that hold such folders.
        out: The file to write.
        images: Folder of the dataset's images.
        cases: Worst, median and best prompts of a model and protocol; None for the usual number.
        failures_first: The gallery begins with failures.
        quiet: Say nothing.
    """
    from benchmarks.report.page import CASES_EACH, write_report

    if out.is_dir():
        raise UsageError(f"--out {out} is a folder; name a file, such as {out / 'report.html'}")
    each = CASES_EACH if cases is None else cases
    joined = write_report(runs, out, images=images, cases=each, failures_first=failures_first)
    if not quiet:
        for run_id, why in joined.apart.items():
            sys.stderr.write(f"run {run_id} is in the history only: {why}\n")
        sys.stdout.write(f"report  {out} ({out.stat().st_size / 1e6:.1f} MB)\n")
    return 0
