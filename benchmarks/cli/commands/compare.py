"""The command `compare`: two runs side by side."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.cli.commands.printing import print_json, print_table
from benchmarks.config.options import OutputArguments
from benchmarks.config.requests import new_folder
from benchmarks.records.record import RunRecord
from benchmarks.records.run_folder import held
from benchmarks.regression.compare import (
    THRESHOLD,
    CompareRow,
    compare_runs,
    differences,
    load_run,
    tally,
)
from benchmarks.regression.compare_output import compare_tables, tally_text, write_comparison
from mobilesam.errors import UsageError

APART = (
    "the runs were made at different times, whose drift is in no interval; "
    "regress measures two versions in turns"
)


def compare(a: Path, b: Path, threshold: float | None, output: OutputArguments) -> int:
    """Compares two runs; prints tables or one JSON document, and writes tables and plots.

    Args:
        a: Folder or record of the first run.
        b: Of the second.
        threshold: Ratio from which on times and memory count as different; None for the usual.
        output: Where the files go; with `--json` they are written only where `--out` is given.

    Raises:
        UsageError: The threshold is not above 1.
        DataError: A run cannot be read.
    """
    limit = THRESHOLD if threshold is None else threshold
    if not limit > 1:
        raise UsageError(f"--threshold is a ratio above 1, such as {THRESHOLD}; got {limit}")
    first, second = load_run(a), load_run(b)
    rows = compare_runs(first, second, limit)
    notes = _notes(first.record, second.record, limit)
    title = f"{a} (A) against {b} (B)"
    out = output.out
    if out is None and not output.json:
        out = new_folder("compare")
    files = []
    if out is not None:
        with held(out):
            files = write_comparison(rows, notes, title, out)
    if output.json:
        document = {
            "a": first.record.id,
            "b": second.record.id,
            "threshold": limit,
            "tally": tally(rows),
            "rows": [row.model_dump(mode="json") for row in rows],
            "notes": list(notes),
        }
        print_json(document)
        return 0
    _print(rows, notes if not output.quiet else ())
    if not output.quiet:
        sys.stdout.write(f"files   {out} ({len(files)})\n")
    sys.stdout.write(f"{title}: {tally_text(rows) or 'nothing in common'}\n")
    return 0


def _notes(a: RunRecord, b: RunRecord, limit: float) -> tuple[str, ...]:
    return (
        *differences(a, b),
        f"times and memory count as different where all of the interval is beyond {limit}",
        APART,
    )


def _print(rows: Sequence[CompareRow], notes: Sequence[str]) -> None:
    for table in compare_tables(rows):
        print_table(table)
    sys.stdout.write("".join(f"note: {note}\n" for note in notes))
