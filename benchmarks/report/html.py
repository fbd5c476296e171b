"""`mobilesam-bench report`: one HTML file that opens from disk, from the records of runs."""

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
from benchmarks.report.html_cases import FAILURE_IOU
from benchmarks.report.html_findings import findings
from benchmarks.report.html_gallery import Gallery, build_gallery
from benchmarks.report.html_sections import Section, sections
from benchmarks.report.html_theme import theme_css
from benchmarks.tables.merging import merge_records
from benchmarks.tables.record_queries import model_names
from mobilesam.errors import UsageError

CASES_EACH = 6
"""Worst, median and best prompts of a model and protocol in the gallery, unless told."""
STYLES = ("style.css",)
SCRIPTS = ("theme.js", "tables.js", "figures.js", "gallery.js")


@dataclass(frozen=True, slots=True)
class Joined:
    """Runs as the page shows them.

    Attributes:
        record: The newest run, and all that could be joined with it.
        folders: Where these lie, the newest first.
        runs: All runs.
        apart: Id of each run that could not be joined, with the reason.
    """

    record: RunRecord
    folders: tuple[Path, ...]
    runs: tuple[RunRecord, ...]
    apart: dict[str, str]


def find_runs(paths: Sequence[Path]) -> list[Path]:
    """Folders of runs: those given, and those below a folder that is no run itself.

    Raises:
        UsageError: None was given, or one holds no record.
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


def join_runs(folders: Sequence[Path]) -> Joined:
    """Joins the newest run with every other that is comparable, newer ones first.

    Runs of other machines, weights or prompts stay apart, and are told in the history only.

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
    return Joined(record, tuple(f for f, _ in kept), tuple(run for _, run in loaded), apart)


def write_report(
    paths: Sequence[Path],
    out: Path,
    *,
    images: Path | None = None,
    cases: int = CASES_EACH,
    failures_first: bool = False,
) -> Joined:
    """Writes the report of some runs.

    Args:
        paths: Folders of runs, or folders that hold such folders.
        out: The file to write.
        images: Folder of the dataset's images, for the gallery.
        cases: Worst, median and best prompts of a model and protocol in the gallery.
        failures_first: The gallery begins with failures.

    Returns:
        What was reported.

    Raises:
        UsageError: There is no run, or a number makes no sense.
        DataError: A record cannot be read, or the file not be written.
    """
    if cases < 1:
        raise UsageError(f"--cases must be at least 1; got {cases}")
    joined = join_runs(find_runs(paths))
    gallery = build_gallery(
        joined.folders,
        model_names(joined.record),
        images=images,
        each=cases,
        failures_first=failures_first,
    )
    verdicts = judge(joined.record, load_claims())
    write_atomic(out, render(joined, gallery, verdicts).encode())
    return joined


def render(joined: Joined, gallery: Gallery, verdicts: Sequence[ClaimVerdict]) -> str:
    """The whole page as text, a function of its arguments alone."""
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

    def read(names: Sequence[str]) -> str:
        return "\n".join(loader.get_source(environment, name)[0] for name in names)

    record = joined.record
    style, script = theme_css(model_names(record)) + read(STYLES), read(SCRIPTS)
    parts = sections(record, joined.runs, joined.apart, verdicts)
    return environment.get_template("page.html").render(
        record=record,
        n_runs=len(joined.runs),
        version=__version__,
        findings=findings(record, verdicts),
        sections=parts,
        gallery=gallery,
        pictures={view.case.image_id: view.picture for view in gallery.cases},
        data=_data(parts, gallery),
        # Files of this package, not of a run: nothing foreign is in them.
        style=Markup(style),  # noqa: S704
        script=Markup(script),  # noqa: S704
        style_hash=content_hash(style),
        script_hash=content_hash(script),
    )


def content_hash(text: str) -> str:
    """How a content security policy names an inline style or script: `sha256-...`."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _data(parts: Sequence[Section], gallery: Gallery) -> dict[str, Any]:
    """What scripts need that does not stand on the page: untouched values, and medians."""
    tables = {table.key: table.csv for part in parts for table in part.tables}
    views = [view for part in parts for group in part.groups for view in group.figures]
    figures = {view.figure.key: view.values.csv for view in views}
    return {
        "csv": {**tables, **{view.values.key: view.values.csv for view in views}, **figures},
        "models": gallery.models,
        "protocols": gallery.protocols,
        "medians": gallery.medians,
        "failure": FAILURE_IOU,
    }
