"""The command `compare`: two runs side by side."""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.cli.commands.printing import print_json, print_table
from benchmarks.config.options import OutputArguments
from benchmarks.config.requests import new_folder
from benchmarks.records.run_folder import held
from benchmarks.regression.compare import (
    THRESHOLD,
    check_threshold,
    compare_runs,
    compare_tables,
    differences,
    load_run,
    tally,
    tally_text,
    write_comparison,
)

APART = (
    "the runs were made at different times, and the intervals do not cover changes of the machine "
    "in between; regress measures two versions in turns"
)


def compare(a: Path, b: Path, threshold: float | None, output: OutputArguments) -> int:
    """Compares two runs; prints tables or one JSON document, and writes tables and plots.

    Args:
        a: Folder or record of the first run.
        b: Folder or record of the second run.
        threshold: Ratio from which on times and memory count as different; None for the default.
        output: Output options; with `--json`, files are written only if `--out` is given.

    Raises:
        UsageError: The threshold is not above 1.
        DataError: A run cannot be read.
    """
    limit = THRESHOLD if threshold is None else threshold
    check_threshold(limit, THRESHOLD)
    first, second = load_run(a), load_run(b)
    rows = compare_runs(first, second, limit)
    notes = (
        *differences(first.record, second.record),
        f"times and memory count as different where all of the interval is beyond {limit}",
        APART,
    )
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
            "notes": notes,
        }
        print_json(document)
        return 0
    for table in compare_tables(rows):
        print_table(table)
    lines = () if output.quiet else (*(f"note: {note}" for note in notes),)
    files_line = () if output.quiet else (f"files   {out} ({len(files)})",)
    summary = f"{title}: {tally_text(rows) or 'nothing in common'}"
    sys.stdout.write("".join(f"{line}\n" for line in (*lines, *files_line, summary)))
    return 0
