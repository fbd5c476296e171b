"""`mobilesam-bench report`: one self-contained HTML file from the records of runs."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Sequence
from itertools import product
from pathlib import Path
from typing import NamedTuple

from benchmarks import __version__
from benchmarks.evaluation.subgroups import SubgroupRow
from benchmarks.paper.claims import load_claims
from benchmarks.paper.paper_output import ledger_table, paper_tables
from benchmarks.paper.verdicts import ClaimVerdict, judge
from benchmarks.records.record import RECORD_NAME, RunRecord, load_record, write_atomic
from benchmarks.report import charts
from benchmarks.report.advice import findings
from benchmarks.report.frames import machine_label
from benchmarks.report.gallery import Gallery, build_gallery
from benchmarks.report.style import DARK, LIGHT, theme_css, vega_config
from benchmarks.tables import columns as cells
from benchmarks.tables.accuracy_tables import (
    accuracy_tables,
    category_tables,
    robustness_tables,
)
from benchmarks.tables.columns import RowColumn, build_table, text_column
from benchmarks.tables.formatting import clean, number
from benchmarks.tables.merging import merge_records
from benchmarks.tables.record_queries import Protocol, grouped, headline, model_names, setups
from benchmarks.tables.record_tables import (
    batches_table,
    latency_table,
    models_table,
    params_table,
    summary_table,
)
from benchmarks.tables.subgroup_tables import (
    record_subgroups,
    subgroup_protocol,
    subgroup_tables,
)
from benchmarks.tables.table import Cell, Column, Table
from mobilesam.errors import DataError, UsageError

MOST_OPEN_ROWS = 30
"""A longer table is collapsed."""


class MergedRuns(NamedTuple):
    """All `runs` of a page, and the newest merged with all comparable ones as `record`.

    `folders` are those of the merged runs, newest first; `apart` is the reason by id for every run
    that could not be merged.
    """

    record: RunRecord
    folders: tuple[Path, ...]
    runs: tuple[RunRecord, ...]
    apart: dict[str, str]


def find_runs(paths: Sequence[Path]) -> list[Path]:
    """Folders of runs: the given ones, and the subfolders of a folder that holds runs."""
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
    cases: int | None = None,
    failures_first: bool = False,
) -> MergedRuns:
    """Writes the report of runs and returns them.

    `paths` are folders of runs, or folders of such folders; for the rest see `build_gallery`.
    """
    if out.is_dir():
        raise UsageError(f"--out {out} is a folder; name a file, such as {out / 'report.html'}")
    if cases is not None and cases < 1:
        raise UsageError(f"--cases must be at least 1; got {cases}")
    merged = join_runs(find_runs(paths))
    models = model_names(merged.record)
    gallery = build_gallery(
        merged.folders, models, images=images, each=cases, failures_first=failures_first
    )
    verdicts = judge(merged.record, load_claims())
    rows, problems = find_subgroups(merged.folders)
    warnings = (*merged.record.warnings, *problems)
    merged = merged._replace(record=merged.record.model_copy(update={"warnings": warnings}))
    write_atomic(out, render(merged, gallery, verdicts, rows).encode())
    return merged


def find_subgroups(folders: Sequence[Path]) -> tuple[list[SubgroupRow], list[str]]:
    """Subgroups of runs, those of the newest that measured the same; lines about lost tables."""
    found: dict[tuple[str, Protocol], list[SubgroupRow]] = {}
    problems = []
    for folder in folders:
        try:
            rows = record_subgroups(load_record(folder), folder)
        except DataError as error:
            problems.append(f"subgroups left out: {error}")
            continue
        for key, part in grouped(((r.model, subgroup_protocol(r)), r) for r in rows).items():
            found.setdefault(key, part)
    return [row for part in found.values() for row in part], problems


def render(
    merged: MergedRuns,
    gallery: Gallery,
    verdicts: Sequence[ClaimVerdict],
    subgroups: Sequence[SubgroupRow] = (),
) -> str:
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
    environment.filters |= {"clean": clean, "sort_key": _sort_key}
    style_css, gallery_css, *scripts = (
        loader.get_source(environment, name)[0]
        for name in (
            *("style.css", "gallery.css"),
            *("theme.js", "tables.js", "figures.js", "masks.js", "lightbox.js", "gallery.js"),
        )
    )
    style = theme_css() + style_css + gallery_css
    script = "\n".join([charts.vega_script(), *scripts])
    record = merged.record
    models, parts = model_names(record), _sections(merged, verdicts, subgroups)
    figures = [figure for part in parts.values() for figure in part.figures]
    csv = {each.key: each.table.to_csv() for part in parts.values() for each in part.tables}
    csv |= {f"{figure.key}-values": figure.table.to_csv() for figure in figures}
    return environment.get_template("page.html").render(
        record=record,
        n_runs=len(merged.runs),
        version=__version__,
        findings=findings(record, verdicts),
        sections=parts,
        gallery=gallery,
        # For the scripts: charts, raw values of tables, and masks with their pictures.
        data={
            "charts": {figure.key: figure.chart for figure in figures},
            "themes": {"light": vega_config(LIGHT, models), "dark": vega_config(DARK, models)},
            "csv": csv,
            "gallery": gallery.document(),
        },
        # Files of this package and of Vega, without text from records.
        style=Markup(style),  # noqa: S704
        script=Markup(script),  # noqa: S704
        style_hash=_source_hash(style),
        script_hash=_source_hash(script),
    )


def _source_hash(text: str) -> str:
    """Source expression of an inline style or script in a content security policy."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _sort_key(cell: Cell) -> str | None:
    """Number that a cell is sorted by, empty without one; None if it is sorted by its text."""
    first = cell.raw[0] if cell.raw else None
    return None if isinstance(first, str) else "" if first is None else repr(float(first))


class _ListedTable(NamedTuple):
    """A table on the page; its key is unique there and the stem of the saved file."""

    key: str
    table: Table
    folded: bool


class _Section:
    """Figures, of which one at a time is shown, and tables of a section of the page."""

    def __init__(
        self, figures: Iterable[charts.Figure | None] = (), tables: Iterable[Table] = ()
    ) -> None:
        self.figures = [figure for figure in figures if figure is not None]
        self.tables: list[_ListedTable] = []
        self.add(tables)

    def add(
        self, tables: Iterable[Table], *, folded: bool | None = None, numbered: bool = False
    ) -> None:
        """Adds the tables that have rows; long ones are collapsed unless told otherwise."""
        for index, table in enumerate(table for table in tables if table.rows):
            key = f"{table.name}-{index}" if numbered else table.name
            long = len(table.rows) > MOST_OPEN_ROWS
            self.tables.append(_ListedTable(key, table, long if folded is None else folded))


def _sections(
    merged: MergedRuns, verdicts: Sequence[ClaimVerdict], subgroups: Sequence[SubgroupRow]
) -> dict[str, _Section]:
    """Content of the sections that hold figures or tables, by the anchors in `page.html`."""
    record = merged.record
    timed, scored = setups(record), headline(record)
    trade_offs = (charts.accuracy_latency(record, *each) for each in product(timed, scored))
    waterfalls = (charts.waterfall(record, setup) for setup in timed)
    decodes = (charts.decode_prompts(record, setup) for setup in timed)
    sizes = (charts.accuracy_by_size(record, protocol) for protocol in scored)
    disturbed = robustness_tables(record)
    history = charts.history(merged.runs, model_names(record))
    found = {
        "glance": _Section((), [summary_table(record)]),
        "accuracy-latency": _Section(trade_offs),
        "latency": _Section(waterfalls, [latency_table(record), batches_table(record)]),
        "decode": _Section(decodes),
        "accuracy": _Section(
            sizes, (each for each in accuracy_tables(record) if each not in disturbed)
        ),
        "subgroups": _Section(charts.subgroups(model_names(record), subgroups)),
        "robustness": _Section(charts.robustness(record), disturbed),
        "parameters": _Section((), [params_table(record)]),
        "claims": _Section(),
        "history": _Section(history, [_runs_table(merged)]),
        "environment": _Section((), [_environment_table(record), models_table(record)]),
        "warnings": _Section((), [_failures_table(record)]),
    }
    found["accuracy"].add(category_tables(record), folded=True, numbered=True)
    found["subgroups"].add(subgroup_tables(subgroups), folded=True)
    if verdicts:
        found["claims"].add([ledger_table(verdicts)], folded=False)
        found["claims"].add(paper_tables(verdicts), folded=True)
    return found


def _environment_table(record: RunRecord) -> Table:
    """Machine, libraries and code version, one row each."""
    env = record.environment
    changes = {True: "yes", False: "no", None: "unknown, or several"}
    rows = {
        "CPU": env.cpu,
        "Cores": f"{env.cpu_physical_cores or '?'} physical, {env.cpu_logical_cores} logical",
        "CPU features": ", ".join(env.cpu_features) or "unknown",
        "GPU": ", ".join(env.gpu) or "none",
        "RAM": f"{number(env.ram_bytes / 2**30)} GiB",
        "Operating system": env.os,
        "Python": env.python,
        "Threads": f"{env.threads}, between operators {env.interop_threads}",
        "Allocator": env.allocator,
        "Load before the run": "unknown" if env.load_1min is None else f"{env.load_1min:.1f}",
        "Commit": env.git_commit or "unknown, or several",
        "Uncommitted changes": changes[env.git_dirty],
        **{f"Library {name}": version for name, version in sorted(env.libraries.items())},
    }
    columns = (text_column("Property", "what", get=["0"]), text_column("Value", "value", get=["1"]))
    return build_table("environment", "Environment", columns, rows.items())


def _failures_table(record: RunRecord) -> Table:
    """Failures that did not end the run."""
    fields = (("Stage", "stage"), ("Source", "culprit"), ("Reason", "why"))
    columns = [text_column(header, name) for header, name in fields]
    return build_table("failures", "Failures", columns, record.failures)


def _runs_table(merged: MergedRuns) -> Table:
    """All runs, newest first, with the reason where one is in the history only."""

    def joined(run: RunRecord) -> str:
        apart = merged.apart.get(run.id)
        text = "rows and history" if apart is None else f"history only: {apart}"
        return text if run.complete else f"interrupted; {text}"

    def commit(run: RunRecord) -> Cell:
        env = run.environment
        text = f"{(env.git_commit or 'unknown')[:12]}{' with changes' if env.git_dirty else ''}"
        return Cell(text, (env.git_commit, env.git_dirty))

    columns = (
        text_column("Run", "id"),
        text_column("Date", "created_utc"),
        text_column("Command", "command"),
        text_column("Profile", "profile"),
        cells.count_column("Models", "n_models", get=[lambda run: len(run.models)]),
        cells.value_column("Duration", "duration_s", show="{:.0f}".format, unit="s"),
        text_column("Machine", "machine", get=[lambda run: machine_label(run.environment)]),
        RowColumn(Column("Commit", ("git_commit", "git_dirty")), commit),
        text_column("On this page", "joined", get=[joined]),
    )
    ordered = sorted(merged.runs, key=lambda run: (run.created_utc, run.id), reverse=True)
    return build_table("runs", "Runs", columns, ordered)
