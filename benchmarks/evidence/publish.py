"""Makes the committed tables, plots, ledger and the README's table from committed runs.

`python -m benchmarks.evidence.publish results/runs/NAME [results/runs/NAME ...]`
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from benchmarks.debugging import one_line_errors
from benchmarks.evidence.pages import ROOT, replace_block, split_at_markers
from benchmarks.paper.claims import load_claims
from benchmarks.paper.paper_output import FOLDER, LEDGER, write_claims
from benchmarks.paper.verdicts import ClaimVerdict, judge, tally_text
from benchmarks.records.record import RECORD_NAME, RunRecord, load_record, write_atomic
from benchmarks.records.run_folder import held
from benchmarks.report.captions import Caption
from benchmarks.report.plots import plots_of, write_plots
from benchmarks.tables.columns import WEIGHTS_COLUMN
from benchmarks.tables.formatting import escape_markdown, number
from benchmarks.tables.merging import merge_records
from benchmarks.tables.record_queries import model_names, shipped_models_notes
from benchmarks.tables.record_tables import headline_table, write_tables
from mobilesam.errors import DataError

RESULTS, README = Path("results"), Path("README.md")
RUNS, FIGURES = RESULTS / "runs", RESULTS / "figures"
BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"
GENERATED = {
    "tables": (".csv", ".md", ".tex"),
    "plots": (".md", ".png", ".svg"),
    FOLDER: (".csv", ".json", ".md", ".tex"),
}
"""Folders below `results` that hold only generated files, and the suffixes of these files."""
_PLOT = re.compile(
    r"!\[(?:\\.|[^\]\\\n])*\]\((results/[^)\s]*plots/[^)\s]+\.png)\)(?:\n\n\*[^\n]*\*(?=\n))?"
)
"""A plot in Markdown, and its message if there is one."""
README_MODELS = (
    *("mobilesam", "mobilesam-fast", "mobilesam-onnx", "mobilesam-openvino"),
    *("grabcut", "box"),
)
"""Models in the README's table; if a record has none of them, all its models are shown."""


def publish(runs: Sequence[Path], root: Path = ROOT) -> list[Path]:
    """Writes `results/tables`, `plots`, `paper` and `summary.md`; block and captions of the README.

    At the end, older generated files that these runs do not produce are removed. Several runs below
    `results/runs` are merged.

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
            results / "plots" / README,
        ]
        write_atomic(files[-1], plots_page(record).encode())
        paths = [run / RECORD_NAME for run in runs]
        update_readme(root / README, record, paths, readme_links(verdicts, root))
        text = (root / README).read_text(encoding="utf-8")
        write_atomic(root / README, with_captions(text, record, root).encode())
        for path in stale_files(results, files):
            try:
                path.unlink()
            except OSError as error:
                reason = f"cannot remove {path}, which is stale: {error.strerror}"
                raise DataError(reason) from error
    return [*files, root / README]


def stale_files(results: Path, files: Iterable[Path]) -> list[Path]:
    """Generated files in the folders of `GENERATED` below `results` that are none of `files`."""
    kept = {path.resolve() for path in files}
    return [
        path
        for folder, suffixes in GENERATED.items()
        for path in sorted((results / folder).glob("[!.]*"))
        if path.suffix in suffixes and path.is_file() and path.resolve() not in kept
    ]


def plots_page(record: RunRecord) -> str:
    """A page of Markdown with all plots of a record, their titles and messages."""
    parts = [
        "# Plots of the committed runs\n\nWritten by `python -m benchmarks.evidence.publish`.\n"
    ]
    for stem, caption, _ in plots_of(record):
        shown = plot_markdown(f"{stem}.png", caption)
        parts.append(f"## {escape_markdown(caption.title)}\n\n{shown}\n")
    return "\n".join(parts)


def plot_markdown(path: str, caption: Caption) -> str:
    """The picture of a plot with its title as the alternative text, and its message below."""
    title, message = (escape_markdown(text) for text in caption)
    return f"![{title}]({path})\n\n*{message}*"


def with_captions(text: str, record: RunRecord, root: Path = ROOT) -> str:
    """Renews title and message of all plots in a page of Markdown at the root of the checkout.

    Plots in `results/plots` are those of `record`, the others of the run in whose folder they are.
    """

    def renewed(match: re.Match[str]) -> str:
        """Markdown of one plot."""
        path = PurePosixPath(match[1])
        run = path.parent.parent
        source = record if run == PurePosixPath(RESULTS) else load_record(root / run)
        found = {plot.stem: plot for plot in plots_of(source)}
        if path.stem not in found:
            raise DataError(f"the page shows {path}, of which {run} has no values; remove it there")
        return plot_markdown(match[1], found[path.stem].caption)

    return _PLOT.sub(renewed, text)


def readme_links(verdicts: Sequence[ClaimVerdict], root: Path = ROOT) -> list[str]:
    """Lines of Markdown for the README: the tally of the verdicts, and the figures that exist."""
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


def readme_block(record: RunRecord, record_paths: Sequence[str], links: Sequence[str] = ()) -> str:
    """A short table of a record with its notes and provenance, as Markdown.

    `record_paths` are relative to the page, with `/`; `links` are further lines of Markdown.
    """
    present = [model for model in README_MODELS if model in model_names(record)]
    table = headline_table(record, present or None)
    # All MobileSAM rows use the same weights, which a note states.
    columns = tuple(replace(c, csv_only=c == WEIGHTS_COLUMN) for c in table.columns)
    weights = shipped_models_notes(record, present or model_names(record))
    table = replace(table, columns=columns, notes=(*table.notes, *weights))
    records = ", ".join(
        f"[{escape_markdown(PurePosixPath(path).parent.name)}]({path})" for path in record_paths
    )
    env, idle = record.environment, ""
    if env.other_load is not None:
        idle = f" (just before, other processes used {env.other_load:.2f} of a core)"
    where = escape_markdown(
        f"Times measured {record.created_utc[:10]} on {env.cpu} ({env.cpu_logical_cores} logical "
        f"cores, {number(env.ram_bytes / 2**30)} GiB), {env.threads} threads{idle}; torch "
        f"{env.libraries.get('torch', 'unknown')}."
    )
    further = "".join(f"- {line}\n" for line in links)
    text = f"{table.to_markdown(heading='')}\n{where} Records: {records}.\n"
    return f"{text}\n{further}" if links else text


def update_readme(
    path: Path, record: RunRecord, record_paths: Sequence[Path], links: Sequence[str] = ()
) -> bool:
    """Writes the block of a record between the markers of a README; returns whether it changed."""
    return replace_block(path, BEGIN, END, _block(path, record, record_paths, links))


def readme_is_fresh(
    path: Path, record: RunRecord, record_paths: Sequence[Path], links: Sequence[str] = ()
) -> bool:
    """Whether a README shows exactly what `update_readme` would write."""
    return split_at_markers(path, BEGIN, END)[1] == _block(path, record, record_paths, links)


def _block(
    path: Path, record: RunRecord, record_paths: Sequence[Path], links: Sequence[str]
) -> str:
    folder = path.resolve().parent
    relative = [Path(os.path.relpath(each.resolve(), folder)).as_posix() for each in record_paths]
    return readme_block(record, relative, links)


@one_line_errors
def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=Path, nargs="+", help="folder of a run below results/runs")
    files = publish([run.resolve() for run in parser.parse_args().runs])
    for path in files:
        sys.stdout.write(f"{path.relative_to(ROOT)}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
