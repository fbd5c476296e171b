"""`mobilesam-bench report`: one self-contained HTML file from the records of runs."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import __version__
from benchmarks.paper.claims import load_claims
from benchmarks.paper.verdicts import ClaimVerdict, judge
from benchmarks.records.record import RECORD_NAME, RunRecord, load_record, write_atomic
from benchmarks.report.advice import findings
from benchmarks.report.charts import vega_script
from benchmarks.report.gallery import FAILURE_IOU, Gallery, build_gallery
from benchmarks.report.sections import Section, sections, sort_key
from benchmarks.report.style import DARK, LIGHT, theme_css, vega_config
from benchmarks.tables.formatting import clean
from benchmarks.tables.merging import merge_records
from benchmarks.tables.record_queries import model_names
from mobilesam.errors import UsageError

CASES_EACH = 6
"""Default number of worst, median and best prompts per model and protocol in the gallery."""


@dataclass(frozen=True, slots=True)
class MergedRuns:
    """Runs of a page.

    Attributes:
        record: The newest run, merged with all comparable ones.
        folders: Folders of the merged runs, newest first.
        runs: All runs.
        apart: Reason by id for every run that could not be merged.
    """

    record: RunRecord
    folders: tuple[Path, ...]
    runs: tuple[RunRecord, ...]
    apart: dict[str, str]


def find_runs(paths: Sequence[Path]) -> list[Path]:
    """Folders of runs: the given ones, and the subfolders of a folder that holds runs.

    Raises:
        UsageError: No path was given, or one holds no record.
    """
    found: list[Path] = []
    for path in paths:
        if path.name == RECORD_NAME and path.is_file():
            found.append(path.parent)
        elif (path / RECORD_NAME).is_file():
            found.append(path)
        elif below := sorted(each.parent for each in path.glob(f"*/{RECORD_NAME}")):
            found += below
        else:
            raise UsageError(f"{path} holds no {RECORD_NAME}; name the folder of a run")
    if not found:
        raise UsageError("no run given; name the folder of at least one, such as results/runs/NAME")
    return list(dict.fromkeys(found))


def join_runs(folders: Sequence[Path]) -> MergedRuns:
    """Merges the newest run with all comparable ones, newer ones first.

    Runs with another machine, other weights or other prompts appear in the history only.

    Raises:
        DataError: A record cannot be read.
    """
    loaded = [(folder, load_record(folder)) for folder in folders]
    loaded.sort(key=lambda pair: (pair[1].created_utc, pair[1].id), reverse=True)
    kept: list[tuple[Path, RunRecord]] = []
    apart: dict[str, str] = {}
    for folder, run in loaded:
        try:
            merge_records([run, *(other for _, other in kept)])
        except UsageError as error:
            apart[run.id] = str(error)
        else:
            kept.append((folder, run))
    record = merge_records([run for _, run in kept])
    return MergedRuns(record, tuple(f for f, _ in kept), tuple(run for _, run in loaded), apart)


def write_report(
    paths: Sequence[Path],
    out: Path,
    *,
    images: Path | None = None,
    cases: int = CASES_EACH,
    failures_first: bool = False,
) -> MergedRuns:
    """Writes the report of runs and returns them.

    Args:
        paths: Folders of runs, or folders that hold such folders.
        out: File to write.
        images: Folder of the images of the dataset, for the gallery.
        cases: Worst, median and best prompts per model and protocol in the gallery.
        failures_first: Whether the gallery starts with failures.

    Raises:
        UsageError: No run was given, `out` is a folder, or `cases` is below 1.
        DataError: A record cannot be read, or the file cannot be written.
    """
    if out.is_dir():
        raise UsageError(f"--out {out} is a folder; name a file, such as {out / 'report.html'}")
    if cases < 1:
        raise UsageError(f"--cases must be at least 1; got {cases}")
    merged = join_runs(find_runs(paths))
    gallery = build_gallery(
        merged.folders,
        model_names(merged.record),
        images=images,
        each=cases,
        failures_first=failures_first,
    )
    verdicts = judge(merged.record, load_claims())
    write_atomic(out, render(merged, gallery, verdicts).encode())
    return merged


def render(merged: MergedRuns, gallery: Gallery, verdicts: Sequence[ClaimVerdict]) -> str:
    """The HTML of the page, determined by the arguments alone."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    loader = PackageLoader("benchmarks.report", "templates")
    environment = Environment(
        loader=loader,
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )

    def source(name: str) -> str:
        return loader.get_source(environment, name)[0]

    environment.filters |= {"clean": clean, "sort_key": sort_key}
    record = merged.record
    style = theme_css() + source("style.css")
    scripts = ("theme.js", "tables.js", "figures.js", "gallery.js")
    script = "\n".join([vega_script(), *map(source, scripts)])
    parts = sections(record, merged.runs, merged.apart, verdicts)
    return environment.get_template("page.html").render(
        record=record,
        n_runs=len(merged.runs),
        version=__version__,
        findings=findings(record, verdicts),
        sections=parts,
        gallery=gallery,
        pictures={view.case.image_id: view.picture for view in gallery.cases},
        data=_script_data(record, tuple(parts.values()), gallery),
        # Files of this package and of Vega, without text from records.
        style=Markup(style),  # noqa: S704
        script=Markup(script),  # noqa: S704
        style_hash=content_hash(style),
        script_hash=content_hash(script),
    )


def content_hash(text: str) -> str:
    """Source expression of an inline style or script in a content security policy."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _script_data(record: RunRecord, parts: Sequence[Section], gallery: Gallery) -> dict[str, Any]:
    """Data for the scripts: charts, raw values of tables, and medians of the gallery."""
    figures = [figure for part in parts for figure in part.figures]
    csv = {each.key: each.table.to_csv() for part in parts for each in part.tables}
    csv |= {f"{figure.key}-values": figure.table.to_csv() for figure in figures}
    models = model_names(record)
    return {
        "charts": {figure.key: figure.chart for figure in figures},
        "themes": {"light": vega_config(LIGHT, models), "dark": vega_config(DARK, models)},
        "csv": csv,
        "models": gallery.models,
        "protocols": gallery.protocols,
        "medians": gallery.medians,
        "failure": FAILURE_IOU,
    }
