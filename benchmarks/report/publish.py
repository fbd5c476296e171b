"""Makes the committed tables, plots and the README's table from a committed run.

`python -m benchmarks.report.publish results/runs/NAME`
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks.records import RECORD_NAME, load_record
from benchmarks.report.plots import write_plots
from benchmarks.report.readme import update_readme
from benchmarks.report.tables import write_tables
from mobilesam.errors import BenchError

ROOT = Path(__file__).resolve().parents[2]
RUNS, README = Path("results") / "runs", Path("README.md")


def publish(run: Path, root: Path = ROOT) -> list[Path]:
    """Writes `results/tables`, `results/plots`, `results/summary.md` and the README's block.

    Args:
        run: Folder of the run, below `results/runs`.
        root: The checkout.

    Returns:
        The files written.

    Raises:
        DataError: The record cannot be read, or a file cannot be written.
    """
    record = load_record(run)
    results = root / "results"
    files = [*write_tables(record, results), *write_plots(record, results)]
    update_readme(root / README, record, run / RECORD_NAME)
    return [*files, root / README]


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="folder of a run below results/runs")
    try:
        files = publish(parser.parse_args().run.resolve())
    except BenchError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    for path in files:
        sys.stdout.write(f"{path.relative_to(ROOT)}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
