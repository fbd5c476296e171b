"""Makes the committed tables, plots, ledger and the README's table from committed runs.

`python -m benchmarks.evidence.publish results/runs/NAME [results/runs/NAME ...]`
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from benchmarks.evidence.readme import update_readme
from benchmarks.paper.claims import load_claims
from benchmarks.paper.paper_output import FOLDER, LEDGER, write_claims
from benchmarks.paper.verdicts import ClaimVerdict, judge, tally_text
from benchmarks.records.record import RECORD_NAME, load_record
from benchmarks.records.run_folder import held
from benchmarks.report.plots import write_plots
from benchmarks.tables.formatting import escape_markdown
from benchmarks.tables.merging import merge_records
from benchmarks.tables.record_tables import write_tables
from mobilesam.errors import BenchError, DataError

ROOT = Path(__file__).resolve().parents[2]
RESULTS, README = Path("results"), Path("README.md")
RUNS, FIGURES = RESULTS / "runs", RESULTS / "figures"
GENERATED = {
    "tables": (".csv", ".md", ".tex"),
    "plots": (".png", ".svg"),
    FOLDER: (".csv", ".json", ".md", ".tex"),
}
"""Folders below `results` that hold nothing but what a run gives, and the kinds of their files."""


def publish(runs: Sequence[Path], root: Path = ROOT) -> list[Path]:
    """Writes `results/tables`, `plots`, `paper` and `summary.md`, and the README's block.

    Older files of the same kinds in these folders, which this run does not give, are removed once
    all else is done.

    Args:
        runs: Folders of the runs, below `results/runs`; several are merged.
        root: The checkout.

    Returns:
        The files written.

    Raises:
        DataError: A record or the ledger cannot be read, times were measured on a machine that was
            not idle, or a file cannot be written or removed.
        UsageError: The runs cannot be merged.
    """
    records = [load_record(run) for run in runs]
    for run, each in zip(runs, records, strict=True):
        if each.latency and each.environment.other_load is None:
            raise DataError(
                f"{run} holds times of a machine that may have been busy; measure them again with "
                "--publishable"
            )
    record = merge_records(records)
    verdicts = judge(record, load_claims())
    results = root / RESULTS
    with held(results, "python -m benchmarks.evidence.publish"):
        files = [
            *write_tables(record, results),
            *write_plots(record, results),
            *write_claims(record, verdicts, results),
        ]
        paths = [run / RECORD_NAME for run in runs]
        update_readme(root / README, record, paths, readme_links(verdicts, root))
        for path in stale_files(results, files):
            try:
                path.unlink()
            except OSError as error:
                raise DataError(
                    f"cannot remove {path}, which is stale: {error.strerror}"
                ) from error
    return [*files, root / README]


def readme_links(verdicts: Sequence[ClaimVerdict], root: Path = ROOT) -> list[str]:
    """Lines of Markdown for the README: the tally of the verdicts, and the figures that exist.

    Args:
        verdicts: On the whole ledger, from the run that the README shows.
        root: The checkout.
    """
    ledger = (RESULTS / FOLDER / f"{LEDGER}.md").as_posix()
    summary = (RESULTS / "summary.md").as_posix()
    lines = [
        f"All models, protocols, intervals, hashes and warnings: [{summary}]({summary}).",
        f"[Published claims]({ledger}), judged by these runs: {tally_text(verdicts)}.",
    ]
    figures = sorted((root / FIGURES).glob("*.png"))
    if figures:
        links = (f"[{escape_markdown(p.stem)}]({(FIGURES / p.name).as_posix()})" for p in figures)
        lines.append(f"Masks of the models side by side: {', '.join(links)}.")
    return lines


def stale_files(results: Path, files: Iterable[Path]) -> list[Path]:
    """Files in the folders of `GENERATED`, of their kinds, that are not among those given.

    Args:
        results: The folder that holds these folders.
        files: What a run gives.
    """
    kept = {path.resolve() for path in files}
    found = (
        path
        for folder, kinds in GENERATED.items()
        for path in sorted((results / folder).glob("[!.]*"))
        if path.suffix in kinds and path.is_file()
    )
    return [path for path in found if path.resolve() not in kept]


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=Path, nargs="+", help="folder of a run below results/runs")
    try:
        files = publish([run.resolve() for run in parser.parse_args().runs])
    except BenchError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    for path in files:
        sys.stdout.write(f"{path.relative_to(ROOT)}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
