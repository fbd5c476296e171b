"""`mobilesam-bench report`: one self-contained HTML file from the records of runs."""

from __future__ import annotations

import base64
import hashlib
import json
import textwrap
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from baselines.registry import entries
from benchmarks import __version__
from benchmarks.evaluation.subgroups import SubgroupRow
from benchmarks.paper.claims import load_claims
from benchmarks.paper.paper_output import paper_tables, verdict_tables
from benchmarks.paper.verdicts import ClaimVerdict, judge, tally_text
from benchmarks.records.record import RECORD_NAME, Environment, RunRecord, load_record, write_atomic
from benchmarks.report import charts, frames
from benchmarks.report.advice import (
    Candidate,
    answer,
    candidate_rows,
    candidates,
    choose,
    findings,
    main_protocols,
    shown_model,
)
from benchmarks.report.frames import machine_label
from benchmarks.report.gallery import Gallery, build_gallery
from benchmarks.report.labels import Scope, prompt_label, scope_of, with_reference
from benchmarks.report.pairs import PageData, page_data, read_runs, with_all_comparisons
from benchmarks.report.style import DARK, LIGHT, short_names, theme_css, vega_config
from benchmarks.tables import columns as cells
from benchmarks.tables.accuracy_tables import accuracy_tables, category_tables
from benchmarks.tables.columns import RowColumn, build_table, text_column
from benchmarks.tables.formatting import clean, number, slug
from benchmarks.tables.merging import (
    accuracy_only,
    by_precision,
    merge_records,
    with_same_weights,
)
from benchmarks.tables.record_queries import (
    TEST_FAMILIES,
    Protocol,
    by_reference,
    grouped,
    headline,
    listed,
    model_names,
    protocols,
    setup_of,
    setups,
    unique,
    was_skipped,
)
from benchmarks.tables.record_tables import (
    batches_table,
    latency_table,
    models_table,
    params_table,
    selection_table,
)
from benchmarks.tables.subgroup_tables import record_subgroups, subgroup_protocol
from benchmarks.tables.table import Cell, Column, Table
from mobilesam.errors import DataError, UsageError

MOST_CELL_LENGTH = 70
"""Of a longer text in a cell, the end is folded."""
HEADER_LENGTH = 12
_FILES = (
    *("theme.js", "select.js", "tables.js", "figures.js", "compare.js"),
    *("masks.js", "lightbox.js", "gallery.js", "start.js"),
)
"""Scripts of the page, in their order."""
_QUANTITIES = {
    "params": "parameters: mobilesam-bench params",
    "latency": "times: mobilesam-bench latency",
    "batches": "times of several images at once: mobilesam-bench latency --batch 1,4,8",
    "memory": "memory: mobilesam-bench run",
    "miou": "accuracy: mobilesam-bench miou",
    "robustness": "robustness to disturbed prompts: mobilesam-bench miou "
    "--protocol box-jitter-10,point-offset-10,mask-eroded",
    "detector": "AP with the boxes of a detector: mobilesam-bench miou --protocol detector-box "
    "--detections FILE",
    "everything": "recall of segment everything: mobilesam-bench everything",
}
"""Lists of a record, what they measure, and the command."""


class MergedRuns(NamedTuple):
    """All `runs` of a page, and the newest merged with all comparable ones as `record`.

    `kept` are the merged runs and their folders, newest first; `left_out` says, by the id of a run,
    what of it could not be merged, and why.
    """

    record: RunRecord
    kept: tuple[tuple[Path, RunRecord], ...]
    runs: tuple[RunRecord, ...]
    left_out: dict[str, str]


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


def join_runs(folders: Sequence[Path], preferred: Collection[Path] = ()) -> MergedRuns:
    """Merges the newest run with all comparable ones, newer ones first.

    Runs of `preferred` folders come before all others. Of runs on another machine, or with another
    number of threads, the accuracies alone are merged, and of runs with other weights, the rows of
    the other models; runs with other prompts are not merged.
    """
    records = by_precision([load_record(folder) for folder in folders])
    loaded = list(zip(folders, records, strict=True))
    first = {run.id for folder, run in loaded if folder in preferred}
    loaded.sort(key=lambda pair: (pair[1].id in first, pair[1].created_utc, pair[1].id))
    loaded.reverse()
    kept: list[tuple[Path, RunRecord]] = []
    left_out: dict[str, str] = {}
    for folder, run in loaded:
        others = [other for _, other in kept]
        same, why = with_same_weights(run, others)
        reasons = [why] if why else []
        for each in (same, accuracy_only(same)) if same.models else ():
            try:
                merge_records([each, *others], first)
            except UsageError as error:
                reasons.append(f"{'times' if each is same else 'accuracies'}: {error}")
            else:
                kept.append((folder, each))
                break
        left_out |= {run.id: "; ".join(reasons)} if reasons else {}
    record = merge_records([run for _, run in kept], first)
    runs = tuple(run for _, run in loaded)
    return MergedRuns(record, tuple(kept), runs, left_out)


def write_report(
    paths: Sequence[Path],
    out: Path,
    *,
    images: Path | None = None,
    cases: int | None = None,
    failures_first: bool = False,
) -> MergedRuns:
    """Writes the report of runs and returns them.

    `paths` are folders of runs, or folders of such folders: if two runs measured the same, those
    that are named come before those in a named folder, then newer ones before older ones. For the
    rest see `build_gallery`.
    """
    if out.is_dir():
        raise UsageError(f"--out {out} is a folder; name a file, such as {out / 'report.html'}")
    if cases is not None and cases < 1:
        raise UsageError(f"--cases must be at least 1; got {cases}")
    folders = find_runs(paths)
    named = {path.parent if path.name == RECORD_NAME else path for path in paths}
    merged = join_runs(folders, named)
    models = model_names(merged.record)
    models_of = {run.id: run.models for run in merged.runs}
    names = {f: run.names for f, run in merged.kept if run.models == models_of[run.id]}
    gallery = build_gallery(
        list(names), models, images=images, each=cases, failures_first=failures_first, names=names
    )
    verdicts = judge(merged.record, load_claims())
    rows, problems = find_subgroups(merged.kept)
    instances = read_runs(merged.kept)
    record = with_all_comparisons(merged.record, instances)
    record = record.model_copy(update={"warnings": (*record.warnings, *problems)})
    merged = merged._replace(record=record)
    pairs = page_data(record, instances)
    write_atomic(out, render(merged, gallery, verdicts, rows, pairs).encode())
    return merged


def find_subgroups(
    runs: Iterable[tuple[Path, RunRecord]],
) -> tuple[list[SubgroupRow], list[str]]:
    """Subgroups of runs, those of the first that measured the same; lines about lost tables."""
    found: dict[tuple[str, Protocol, str], list[SubgroupRow]] = {}
    problems = []
    for folder, run in runs:
        try:
            rows = record_subgroups(run, folder)
        except DataError as error:
            problems.append(f"subgroups left out: {error}")
            continue
        keys = ((r.model, subgroup_protocol(r), r.dimension) for r in rows)
        for key, part in grouped(zip(keys, rows, strict=True)).items():
            found.setdefault(key, part)
    return [row for part in found.values() for row in part], problems


def render(
    merged: MergedRuns,
    gallery: Gallery,
    verdicts: Sequence[ClaimVerdict],
    subgroups: Sequence[SubgroupRow] = (),
    pairs: PageData | None = None,
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
    environment.filters |= {
        "clean": clean,
        "sort_key": _sort_key,
        "folded_text": _folded_text,
        "scope": _scope_attribute,
        "unbroken": _unbroken,
    }
    # The order of the models is that of their colours.
    environment.policies["json.dumps_kwargs"] = {"sort_keys": False}
    style_css, gallery_css, *scripts = (
        loader.get_source(environment, name)[0] for name in ("style.css", "gallery.css", *_FILES)
    )
    style = theme_css() + style_css + gallery_css
    script = "\n".join([charts.vega_script(), *scripts])
    record = merged.record
    models = model_names(record)
    with charts.unvalidated():
        answers = _answers(record)
        sections = _sections(merged, verdicts, subgroups)
    sections["compare"].always = pairs is not None and bool(pairs["pairs"])
    figures = [figure for part in sections.values() for figure in part.figures]
    figures += [each.figure for each in answers if each.figure is not None]
    csv = {each.key: each.table.to_csv() for part in sections.values() for each in part.tables}
    csv |= {each.key: each.table.to_csv() for each in answers}
    csv |= {f"{figure.key}-values": figure.table.to_csv() for figure in figures}
    return environment.get_template("page.html").render(
        record=record,
        day=max(map(frames.day, merged.runs)),
        n_runs=len(merged.runs),
        machines=_machines(merged),
        version=__version__,
        findings=findings(record, verdicts),
        answers=answers,
        sections=sections,
        missing=_missing(record),
        gallery=gallery,
        # For the scripts: charts, raw values of tables, pairs of models, masks with their pictures.
        data={
            "charts": {figure.key: figure.chart for figure in figures},
            "themes": {"light": vega_config(LIGHT, models), "dark": vega_config(DARK, models)},
            "csv": csv,
            "selection": _choices(answers),
            "prompts": {
                each.short: with_reference(prompt_label(each.protocol), each.reference)
                for each in protocols(record)
            },
            "names": short_names(models),
            "pairs": pairs or {"datasets": {}, "pairs": {}},
            "scatter": charts.scatter(),
            "gallery": gallery.document(),
            "masked": gallery.dataset,
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


def _unbroken(header: str) -> str:
    """A header that breaks only between parts of about `HEADER_LENGTH` characters."""
    wrapper = textwrap.TextWrapper(HEADER_LENGTH, break_on_hyphens=False, break_long_words=False)
    lines = wrapper.wrap(header)
    return " ".join(line.replace(" ", "\u00a0") for line in lines)


def _folded_text(text: str) -> tuple[str, str]:
    """Beginning of a text that is always visible, and the rest, empty for a short text."""
    if len(text) <= MOST_CELL_LENGTH:
        return text, ""
    cut = text.rfind(" ", 0, MOST_CELL_LENGTH - 10)
    return text[:cut], text[cut:]


def _scope_attribute(scope: Scope) -> str:
    """HTML attribute by which the script hides what is not selected."""
    from markupsafe import Markup

    return Markup(' data-scope="{}"').format(json.dumps(scope)) if scope else Markup("")


class _Answer(NamedTuple):
    """What the first screen shows for one protocol and setup."""

    scope: Scope
    text: str
    why: str
    figure: charts.Figure | None
    table: Table
    order: tuple[str, ...]
    """Models that are shown first where only some are: the recommended one, then by accuracy."""

    @property
    def key(self) -> str:
        """Identifier of its table."""
        return slug("-".join(("models", *self.scope.values())))


def _answers(record: RunRecord) -> list[_Answer]:
    """Answers for all protocols and setups, those of the main protocol first."""
    found = listed(protocols(record))
    main = main_protocols(record)
    ordered = [*main, *(each for each in found if each not in main)]
    answers = []
    for setup, protocol in product(setups(record) or (None,), ordered or (None,)):
        figure, timed = None, list[Candidate]()
        if setup and protocol:
            figure = charts.accuracy_latency(record, setup, protocol)
            timed, _ = candidates(record, setup, protocol)
        table = selection_table(record, setup, protocol)
        first = [choose(record, timed).model] if timed else []
        order = unique([*first, *(str(row[0].raw[0]) for row in table.rows)])
        scope, (text, why) = scope_of(protocol, setup), answer(record, setup, protocol)
        answers.append(_Answer(scope, text, why, figure, table, order))
    return answers


def _choices(answers: Sequence[_Answer]) -> dict[str, Any]:
    """Options of the selector: protocols by dataset and precisions by device; and the first choice.

    The first choice is the setup and protocol of the first answer with a chart.
    """
    scopes = [each.scope for each in answers]
    by_dataset = grouped((s["dataset"], s["protocol"]) for s in scopes if "dataset" in s)
    by_device = grouped((s["device"], s["precision"]) for s in scopes if "device" in s)
    start = next((each.scope for each in answers if each.figure is not None), scopes[0])
    return {
        "protocols": {dataset: unique(names) for dataset, names in by_dataset.items()},
        "precisions": {device: unique(names) for device, names in by_device.items()},
        "start": start,
    }


class _ListedTable(NamedTuple):
    """A table on the page; its key is unique there and the stem of the saved file."""

    key: str
    table: Table
    scope: Scope
    folded: bool

    @property
    def by_protocol(self) -> bool:
        """Whether only the rows of the selected protocol are shown."""
        return self.table.name.startswith(("miou", "leaderboard"))


class _Section:
    """Groups of figures, of which one of each is shown at a time, and tables of a section."""

    def __init__(
        self,
        short: str,
        title: str,
        lead: str = "",
        groups: Mapping[str, Iterable[charts.Figure | None]] | None = None,
    ) -> None:
        found = {name: [f for f in own if f is not None] for name, own in (groups or {}).items()}
        self.short, self.title, self.lead = short, title, lead
        self.groups = {name: own for name, own in found.items() if own}
        self.tables: list[_ListedTable] = []
        self.always = False

    @property
    def figures(self) -> list[charts.Figure]:
        """All figures."""
        return [figure for own in self.groups.values() for figure in own]

    @property
    def shown(self) -> bool:
        """Whether it has content."""
        return bool(self.always or self.groups or self.tables)

    def add(
        self, tables: Iterable[Table], scope: Scope | None = None, *, folded: bool = True
    ) -> None:
        """Adds the tables that have rows."""
        for table in tables:
            if table.rows:
                key = slug("-".join((table.name, *(scope or {}).values())))
                self.tables.append(_ListedTable(key, table, scope or {}, folded))


def _sections(
    merged: MergedRuns,
    verdicts: Sequence[ClaimVerdict],
    subgroups: Sequence[SubgroupRow],
) -> dict[str, _Section]:
    """The sections below the answer, by their anchors."""
    record = merged.record
    models = model_names(record)
    about = {
        protocol: shown_model(record, protocol, [row.model for row in rows])
        for protocol in listed(protocols(record))
        if (rows := candidate_rows(record, protocol))
    }
    by_group = charts.subgroups(models, subgroups, about)
    detailed = [figure.scope for figure in by_group]
    sizes = [
        charts.accuracy_by_size(record, protocol)
        for protocol in listed(protocols(record))
        if scope_of(protocol) not in detailed
    ]
    found = {
        "findings": _Section(
            "Findings",
            "Findings",
            "Click a line for its figures. Differences are computed before rounding.",
        ),
        "compare": _Section("Compare", "Compare two models", "The same prompts, object by object."),
        "gallery": _Section("Masks", "Masks"),
        "time": _Section(
            "Time",
            "Time",
            "",
            {
                "Latency": (charts.latency(record, setup) for setup in setups(record)),
                "Decode": (charts.decode_prompts(record, setup) for setup in setups(record)),
            },
        ),
        "accuracy": _Section(
            "Accuracy",
            "Accuracy in detail",
            "",
            {"By": [*by_group, *sizes], "Disturbed prompts": charts.robustness(record)},
        ),
        "models": _Section("Models", "Parameters and weights"),
        "claims": _Section("Claims", "Published claims"),
        "history": _Section(
            "History", "History", "", {"Quantity": charts.history(merged.runs, models)}
        ),
        "environment": _Section("Environment", "Environment and warnings"),
    }
    for setup in setups(record):
        same = {
            name: tuple(row for row in getattr(record, name) if setup_of(row) == setup)
            for name in ("latency", "batches")
        }
        own = record.model_copy(update=same)
        found["time"].add((latency_table(own), batches_table(own)), scope_of(setup))
    for dataset, reference in by_reference(protocols(record)):
        own = _narrowed(record, dataset, reference)
        scope = {"dataset": dataset, "reference": reference}
        found["accuracy"].add(accuracy_tables(own), scope)
        for protocol in headline(own):
            if scope_of(protocol) not in detailed:
                part = _narrowed(record, dataset, reference, protocol.protocol)
                found["accuracy"].add(category_tables(part), scope_of(protocol))
    found["findings"].always = True
    found["gallery"].always = True
    found["models"].add((params_table(record), models_table(record)))
    if verdicts:
        by_paper, ledger = verdict_tables(verdicts)
        found["claims"].lead = f"{tally_text(verdicts)}."
        found["claims"].add((by_paper,), folded=False)
        found["claims"].add((ledger, *paper_tables(verdicts)))
    shown = {row[0].raw[0] for f in found["history"].figures for row in f.table.rows}
    found["history"].add([_runs_table(merged, shown)])
    found["environment"].add((_failures_table(record), _environment_table(merged)))
    return found


def _narrowed(
    record: RunRecord, dataset: str, reference: str, protocol: str | None = None
) -> RunRecord:
    """The record with the accuracies of one dataset and reference, and of one protocol."""
    wanted = {"dataset": dataset, "reference": reference, "protocol": protocol or None}
    names = ("miou", "comparisons", "robustness", "accuracy_times", "detector", "everything")
    kept = {
        name: tuple(
            row
            for row in getattr(record, name)
            if all(getattr(row, key, value) == value for key, value in wanted.items() if value)
        )
        for name in names
    }
    return record.model_copy(update=kept)


def _missing(record: RunRecord) -> list[str]:
    """What the record lacks, and how to measure it."""
    found = [text for name, text in _QUANTITIES.items() if not getattr(record, name)]
    if not any(row.phase == "everything" and row.status == "ok" for row in record.latency):
        found = [text.replace("recall of", "recall and times of") for text in found]
    measured = (name for name in model_names(record) if not was_skipped(record, name))
    known = {*measured, *TEST_FAMILIES}
    models = ", ".join(name for name in entries() if name not in known)
    return [*found, f"models: {models}; see mobilesam-bench models"] if models else found


def _machines(merged: MergedRuns) -> list[str]:
    """Machine, threads and allocator of all runs, each once."""
    return list(unique(machine_label(run.environment) for run in merged.runs))


def _environment_table(merged: MergedRuns) -> Table:
    """Machine, libraries and code version of every run."""
    runs = merged.runs
    properties = [_properties(run.environment) for run in runs]
    columns = (
        text_column("Property", "what", get=["0"]),
        *(
            text_column(run.id if len(runs) > 1 else "Value", f"value_{index}", get=[str(index)])
            for index, run in enumerate(runs, 1)
        ),
    )
    names = unique(name for each in properties for name in each)
    rows = [(name, *(each.get(name, "") for each in properties)) for name in names]
    return build_table("environment", "Environment", columns, rows)


def _properties(env: Environment) -> dict[str, str]:
    """Machine, libraries and code version by name."""
    changes = {True: "yes", False: "no", None: "unknown, or several"}
    loads = {
        "Load average (1 min)": env.load_1min,
        "Cores that other processes used just before it": env.other_load,
    }
    return {
        "CPU": env.cpu,
        "Cores": f"{env.cpu_physical_cores or '?'} physical, {env.cpu_logical_cores} logical",
        "CPU features": ", ".join(env.cpu_features) or "unknown",
        "GPU": ", ".join(env.gpu) or "none",
        "RAM": f"{number(env.ram_bytes / 2**30)} GiB",
        "Operating system": env.os,
        "Python": env.python,
        "Threads": f"{env.threads}, between operators {env.interop_threads}",
        "Allocator": env.allocator,
        **{name: f"{load:.2f}" for name, load in loads.items() if load is not None},
        "Commit": env.git_commit or "unknown, or several",
        "Uncommitted changes": changes[env.git_dirty],
        **{f"Library {name}": version for name, version in sorted(env.libraries.items())},
    }


def _failures_table(record: RunRecord) -> Table:
    """Failures that did not end the run."""
    fields = (("Stage", "stage"), ("Source", "culprit"), ("Reason", "why"))
    columns = [text_column(header, name) for header, name in fields]
    return build_table("failures", "Failures", columns, record.failures)


def _runs_table(merged: MergedRuns, in_history: Collection[Any]) -> Table:
    """All runs, newest first, where they are on the page, and what of them is not in tables."""
    in_tables = {run.id for _, run in merged.kept}

    def joined(run: RunRecord) -> str:
        places = ["tables"] * (run.id in in_tables) + ["history"] * (run.id in in_history)
        text = " and ".join(places) or "nothing"
        if why := merged.left_out.get(run.id):
            text += f"; not in tables: {why}"
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
        cells.value_column("Duration", "duration_s", show="{:,.0f}".format, unit="s"),
        text_column("Machine", "machine", get=[lambda run: machine_label(run.environment)]),
        RowColumn(Column("Commit", ("git_commit", "git_dirty")), commit),
        text_column("On this page", "joined", get=[joined]),
        text_column("Note", "note"),
    )
    ordered = sorted(merged.runs, key=lambda run: (run.created_utc, run.id), reverse=True)
    return build_table("runs", "Runs", columns, ordered)
