"""Tables of a record: parameters, latency, a summary, and the headline table of the README.

Rows that were skipped or failed stay in their table, with the reason.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.latency.timer import NOTHING_MS
from benchmarks.prompts.protocols import reference_model
from benchmarks.records.record import (
    LatencyRow,
    ModelRow,
    ParamsRow,
    RunRecord,
    WeightsRow,
    write_atomic,
)
from benchmarks.tables import record_queries as queries
from benchmarks.tables.accuracy_tables import accuracy_tables, category_tables, sa1b_notes
from benchmarks.tables.columns import (
    ENDS,
    MODEL,
    STATUS,
    WEIGHTS_COLUMN,
    RowColumn,
    build_table,
    count_column,
    median_cell,
    median_column,
    number_column,
    reason_cell,
    sample_notes,
    spread_ends,
    spread_notes,
    text_column,
    value_column,
    weights_cell,
)
from benchmarks.tables.formatting import (
    MIB,
    clean,
    escape_markdown,
    interval,
    number,
    percent,
    spread_text,
)
from benchmarks.tables.record_queries import Protocol, Setup, model_names, model_row, spread_of
from benchmarks.tables.subgroup_tables import record_subgroups, subgroup_tables
from benchmarks.tables.table import Cell, Column, Table
from mobilesam.weights.checkpoint_specs import specs
from mobilesam.weights.checkpoints import OWN_LABEL

NOT_MEASURED = "not measured"
_SUMMARY_TIMES = (("encode", None), ("decode", 1), ("end_to_end", 1))
_DECODE_KINDS = (
    "Decode kind: decoder runs a network for each prompt, select picks among masks that encode has "
    "found, classical runs an algorithm; their times are not comparable."
)


def _parameter_columns(header: str, name: str) -> tuple[RowColumn, ...]:
    """A count as an integer, in 10⁶ and in 2²⁰: published "M" are either, often unstated."""

    def scaled(suffix: str, printed: str, unit: float, rank: int) -> RowColumn:
        """The count in a unit."""

        def value(row: ParamsRow) -> float | None:
            count = getattr(row, name)
            return None if count is None else count / unit

        raw = f"{name}_{suffix}"
        return value_column(
            header, raw, show="{:.3f}".format, unit=printed, get=(value,), rank=rank
        )

    whole = value_column(header, name, show="{:,}".format, rank=2)
    return whole, scaled("1e6", "10⁶", 1e6, 0), scaled("2_20", "2²⁰", MIB, 3)


_PARAMS_COLUMNS = (
    MODEL,
    text_column("Component", "component"),
    *_parameter_columns("Total", "total"),
    *_parameter_columns("Used", "used"),
    value_column("Arithmetic", "flops", unit="GFLOP", show=lambda flops: number(flops / 1e9)),
    value_column(
        "Weights", "weight_bytes", unit="MiB", show=lambda size: number(size / MIB), rank=1
    ),
    STATUS,
)


def params_table(record: RunRecord) -> Table:
    """Parameters, arithmetic and bytes of every component."""
    notes = ["Total: every parameter. Used: those that take part in the forward pass."]
    if any(row.flops is not None for row in record.params):
        notes.append(
            "One multiply-add is 2 FLOP. Encoder: one image; prompt encoder and mask decoder: one "
            "point prompt."
        )
    left_out = sorted({op for row in record.params for op in row.flops_not_counted})
    if left_out:
        notes.append(f"Not counted in FLOP: {', '.join(left_out)}; by component in the record.")
    models = queries.by_model(record, record.models)
    about = ((row.weights_note, row.model) for row in models if row.weights_note)
    notes += [f"{', '.join(names)}: {note}." for note, names in queries.grouped(about).items()]
    rows = queries.by_model(record, record.params)
    return build_table("params", "Parameters and arithmetic", _PARAMS_COLUMNS, rows, notes)


def weights_terms(row: ModelRow) -> tuple[str | None, str | None]:
    """Licence and commercial use of the weights that ran; the published terms if none did."""
    if row.weights.kind != "file" or row.weights.official:
        return row.weights_licence, row.commercial_use
    if row.weights.shipped == OWN_LABEL:
        return row.licence, row.commercial_use
    shipped = (spec.shipped for spec in specs().values())
    licences = {file.sha256: file.licence for file in shipped if file is not None}
    return licences.get(row.weights.sha256 or "", "unknown"), None


def licence_text(row: ModelRow) -> str:
    """Licences of code and weights, and commercial use, where they are known."""
    licence, use = weights_terms(row)
    return "; ".join(filter(None, (row.licence, licence, use and f"commercial use: {use}")))


def _model_weights(row: ModelRow) -> Cell:
    """The weights of a model that ran; "none here" if it did not run for lack of them."""
    cell = weights_cell(row.weights)
    none = row.status == "skipped" and row.weights.kind == "random"
    return replace(cell, text="none here") if none else cell


def models_table(record: RunRecord) -> Table:
    """Every model with its input size, licences and weights."""

    def notes_cell(row: ModelRow) -> Cell:
        text = clean("; ".join(filter(None, (row.weights_note, row.note))))
        raw = (row.weights_note, row.note, row.weights.why)
        why = row.weights.why and clean(row.weights.why)
        official = "not the official weights: " if row.weights.kind == "file" else ""
        return Cell(text, raw, reason=why and f"{official}{why}")

    columns = (
        MODEL,
        text_column("Family", "family"),
        value_column(
            "Input", "input_size_px", unit="px", show=lambda side: str(side) if side else "any"
        ),
        text_column("Decode kind", "decode_kind"),
        value_column(
            "Licence (code; weights)", "licence", "weights_licence", "commercial_use",
            text=licence_text, align="left",
            get=("licence", lambda r: weights_terms(r)[0], lambda r: weights_terms(r)[1]),
        ),
        RowColumn(WEIGHTS_COLUMN, _model_weights),
        STATUS,
        RowColumn(Column("Note", ("weights_note", "note", "weights_why")), notes_cell),
    )  # fmt: skip
    rows = queries.by_model(record, record.models)
    return build_table("models", "Models and their weights", columns, rows)


def _rate_cell(row: LatencyRow) -> Cell:
    """Images a second, with the ends of its interval or range."""

    def rate(ms: float | None) -> float | None:
        return 1e3 * row.n_images / ms if ms else None

    ends = spread_ends(spread_of(row))
    raw = (rate(row.median_ms), *(rate(ends[index]) for index in (1, 0, 3, 2)))
    return Cell("" if raw[0] is None else number(raw[0]), raw)


def batches_table(record: RunRecord) -> Table:
    """Times of encoding several images in one call, and images a second."""
    found = queries.by_model(record, record.batches)
    # A model with the same reason for all of its rows has a note instead of rows.
    reasons = queries.grouped(
        (row.model, row.why if row.status == "skipped" else None) for row in found
    )
    left_out = {model: whys[0] for model, whys in reasons.items() if whys[0] and len({*whys}) == 1}
    rows = [row for row in found if row.model not in left_out]
    one_setup = len(queries.setups(record)) == 1
    rates = ("images_per_s", *(f"images_per_s_{end}" for end in ENDS))
    columns = (
        MODEL,
        text_column("Device", "device", csv_only=one_setup),
        text_column("Precision", "precision", csv_only=one_setup),
        count_column("Threads", "threads", csv_only=one_setup),
        count_column("Images", "n_images"),
        RowColumn(median_column(rows), median_cell),
        RowColumn(Column("Throughput", rates, "images/s", "right"), _rate_cell),
        count_column("Calls", "n"),
        count_column("Processes", "processes"),
        STATUS,
    )
    notes = [f"Measured on {queries.setups(record)[0].label}."] if one_setup else []
    notes += [
        "Encode alone, with all images in one call. Throughput: images over median time.",
        *(
            f"Left out: {', '.join(models)} ({why})."
            for why, models in queries.grouped((w, model) for model, w in left_out.items()).items()
        ),
        *spread_notes(map(spread_of, rows)),
        *sample_notes(rows),
    ]
    return build_table("batches", "Encoding batches of images", columns, rows, notes)


def latency_table(record: RunRecord) -> Table:
    """Times of every phase: median with interval or range, and percentiles if n is large enough."""
    one_setup = len(queries.setups(record)) == 1
    rows = queries.by_model(record, sorted(record.latency, key=queries.phase_order))

    def weights(row: LatencyRow) -> Cell:
        info = model_row(record, row.model)
        same = info is not None and info.weights.kind == row.weights
        return weights_cell(info.weights if info and same else WeightsRow(kind=row.weights))

    def median(row: LatencyRow) -> Cell:
        doubt = queries.doubtful_end_to_end(record, row)
        return replace(median_cell(row), reason=doubt and f"{row.model}: {doubt}")

    def decode_kind(row: LatencyRow) -> str:
        # The kind of decoding has no influence on the other phases.
        return (row.decode_kind or "") if row.phase == "decode" else ""

    columns = (
        MODEL,
        RowColumn(WEIGHTS_COLUMN, weights),
        text_column("Device", "device", csv_only=one_setup, rank=1),
        text_column("Precision", "precision", csv_only=one_setup, rank=1),
        count_column("Threads", "threads", csv_only=one_setup, rank=1),
        text_column("Phase", "phase", show=lambda name: name.replace("_", " ")),
        count_column("Prompts", "n_prompts"),
        value_column("Decode kind", "decode_kind", text=decode_kind, align="left", rank=4),
        RowColumn(median_column(rows), median),
        *(
            number_column(header, f"{header.lower()}_ms", unit="ms", rank=rank)
            for header, rank in {"Mean": 3, "Min": 3, "p95": 2, "p99": 3}.items()
        ),
        count_column("Calls", "n", rank=2),
        count_column("Processes", "processes", rank=2),
        STATUS,
    )
    notes = [f"Measured on {queries.setups(record)[0].label}."] if one_setup else []
    if any(row.status == "ok" for row in rows):
        notes.append("A percentile is empty if there are too few calls for it.")
    if any(row.model.endswith("-int8") for row in rows):
        notes.append(
            "Precision: that of the run; a model named int8 has 8-bit weights in any case."
        )
    if any(row.weights == "random" for row in rows):
        notes.append("random: seeded random weights, whose values do not change the times.")
    if len({row.decode_kind for row in rows}) > 1:
        notes.append(_DECODE_KINDS)
    notes += [*spread_notes(map(spread_of, rows)), *sample_notes(rows)]
    return build_table("latency", "Latency", columns, rows, notes)


@dataclass(frozen=True, slots=True)
class _Entry:
    """A model of a record with one setup; the setup is None if nothing was timed."""

    record: RunRecord
    model: str
    setup: Setup | None

    @property
    def info(self) -> ModelRow | None:
        return model_row(self.record, self.model)

    @property
    def missing(self) -> tuple[str, str | None]:
        """Status and reason of a figure that has no row of its own."""
        info = self.info
        if info is None or info.status == "ok":
            return NOT_MEASURED, None
        return info.status, info.why

    @property
    def skipped(self) -> bool:
        return self.missing[0] == "skipped"

    @property
    def untrained(self) -> bool:
        return self.info is not None and self.info.weights.kind == "random"

    def latency(self, phase: str, n_prompts: int | None = None) -> LatencyRow | None:
        if self.setup is None:
            return None
        return queries.find_latency(self.record, self.setup, self.model, phase, n_prompts)

    @property
    def decode_kind(self) -> str | None:
        owner = self.info or self.latency("decode", 1)
        return None if owner is None else owner.decode_kind


def _weights_cell(entry: _Entry) -> Cell:
    if entry.info is None:
        return Cell("unknown", (None,) * len(WEIGHTS_COLUMN.raw))
    return _model_weights(entry.info)


def _time_column(header: str, phase: str, n_prompts: int | None, *, bounds: bool) -> RowColumn:
    """Median times, with intervals or ranges if `bounds` is True, or reasons for their lack."""

    def cell(entry: _Entry) -> Cell:
        row = entry.latency(phase, n_prompts)
        if row is None or row.status != "ok" or row.median_ms is None:
            status, why = entry.missing if row is None else (row.status, row.why)
            return reason_cell(status, why, 1 + len(ENDS))
        spread = spread_of(row)
        text = spread_text(row.median_ms, spread if bounds else None)
        # Shorter times are call overhead: the phase does nothing in that model.
        text = f"< {NOTHING_MS:g}" if row.median_ms < NOTHING_MS else text
        doubt = queries.doubtful_end_to_end(entry.record, row)
        raw = (row.median_ms, *spread_ends(spread), "ok")
        return Cell(text, raw, reason=doubt and f"{entry.model}: {doubt}")

    stem = phase if phase != "decode" else f"decode_{n_prompts}"
    raw = (f"{stem}_ms", *(f"{stem}_{end}_ms" for end in ENDS), f"{stem}_status")
    return RowColumn(Column(header, raw, "ms", "right"), cell)


def _clicks_column(steps: queries.Steps) -> RowColumn:
    """Time of an image and several clicks, which was not timed as a whole."""

    def cell(entry: _Entry) -> Cell:
        time = entry.setup and steps.time(entry.record, entry.setup, entry.model)
        if not time:
            return reason_cell(*entry.missing, 1)
        return Cell(interval(time.ms, None), (time.ms, "ok"))

    return RowColumn(Column(steps.label.capitalize(), ("clicks_ms", "status"), "ms", "right"), cell)


def _memory_column(header: str, raw: str, attribute: str) -> RowColumn:
    def value(entry: _Entry) -> Any:
        memory = entry.record.memory
        device = entry.setup.device if entry.setup else memory[0].device if memory else ""
        return getattr(queries.find_memory(entry.record, device, entry.model), attribute, None)

    def text(entry: _Entry) -> str:
        size = value(entry)
        return NOT_MEASURED if size is None else f"{size / MIB:,.0f}"

    return value_column(header, raw, text=text, unit="MiB", get=(value,))


def _miou_column(protocol: Protocol, where: str = "") -> RowColumn:
    """Mean IoU with its interval, or the reason for its lack; `where` ends the header."""
    header = f"{queries.accuracy_name(protocol.reference, title=True)}{where}"

    def cell(entry: _Entry) -> Cell:
        row = queries.find_miou(entry.record, protocol, entry.model)
        random = row is not None and row.weights.kind == "random"
        if row is not None and queries.is_own_reference(row):
            return reason_cell("reference", "its own masks are the reference", 3)
        if row is not None and row.miou is not None and queries.has_accuracy(row):
            return Cell(percent(row.miou, row.ci95), (row.miou, *(row.ci95 or (None, None)), "ok"))
        if row is not None and row.status == "skipped" and random:
            return Cell("no weights", (None, None, None, f"skipped: {row.why or 'no weights'}"))
        if row is not None and row.status != "ok":
            return reason_cell(row.status, row.why, 3)
        if random or (entry.untrained and not entry.skipped):
            return reason_cell("skipped", "random weights", 3)
        return reason_cell(*entry.missing, 3)

    key = f"{protocol.protocol}:{protocol.reference}:{protocol.dataset}"
    raw = tuple(f"{part}:{key}" for part in ("miou", "ci95_low", "ci95_high", "status"))
    return RowColumn(Column(header, raw, "%", "right"), cell)


def _size_column(header: str) -> RowColumn:
    """Parameters used, or the reason for their lack."""

    def cell(entry: _Entry) -> Cell:
        used = queries.used_parameters(entry.record, entry.model)
        if used is not None:
            return Cell(f"{used / 1e6:.3f}" if used else "0", (used, "ok"))
        rows = (row for row in entry.record.params if row.model == entry.model)
        failed = next((row for row in rows if row.status != "ok"), None)
        return reason_cell(*(entry.missing if failed is None else (failed.status, failed.why)), 1)

    raw = ("used_parameters", "parameters_status")
    return RowColumn(Column(header, raw, "10⁶", "right"), cell)


def summary_table(record: RunRecord) -> Table:
    """Size, times, memory and accuracy or the reason for their lack, by model and setup."""
    timed: tuple[Setup | None, ...] = queries.setups(record) or (None,)
    shown = queries.headline(record)
    one_dataset = len({protocol.dataset for protocol in shown}) == 1
    columns = [
        text_column("Model", "model"),
        value_column(
            "Setup", "device", "precision", "threads", align="left", csv_only=len(timed) == 1,
            text=lambda entry: entry.setup.label if entry.setup else "",
            get=("setup.device", "setup.precision", "setup.threads"),
        ),
        RowColumn(WEIGHTS_COLUMN, _weights_cell),
        _size_column("Parameters used"),
        _time_column("Encode", "encode", None, bounds=True),
        _time_column("Decode, 1 prompt", "decode", 1, bounds=True),
        text_column("Decode kind", "decode_kind"),
        _time_column("End to end", "end_to_end", None, bounds=True),
        _memory_column("Peak RSS", "peak_rss_bytes", "peak_rss_bytes"),
    ]  # fmt: skip
    if any(row.cuda_peak_allocated_bytes is not None for row in record.memory):
        columns.append(_memory_column("CUDA peak", "cuda_peak_bytes", "cuda_peak_allocated_bytes"))
    for protocol in shown:
        # A dataset that all columns share is named in a note.
        dataset = "" if one_dataset else f", {protocol.dataset}"
        where = f" {protocol.protocol} vs {protocol.reference}{dataset}"
        columns.append(_miou_column(protocol, where))
    rows = (_Entry(record, model, setup) for model in model_names(record) for setup in timed)
    return build_table("summary", "Summary", columns, rows, _summary_notes(record, timed, shown))


def _summary_notes(
    record: RunRecord, timed: Sequence[Setup | None], shown: Sequence[Protocol]
) -> list[str]:
    notes = [f"Times on {setup.label}." for setup in timed if setup and len(timed) == 1]
    if record.latency:
        times = [
            row
            for row in record.latency
            if (row.phase, row.n_prompts) in _SUMMARY_TIMES and row.median_ms is not None
        ]
        notes += ["Times: medians.", *spread_notes(map(spread_of, times)), *sample_notes(times)]
        notes.append(_DECODE_KINDS)
    if shown:
        datasets = ", ".join(queries.unique(protocol.dataset for protocol in shown))
        notes.append(
            f"Accuracy on {datasets}: mean IoU over instances [95 % interval over images, "
            "symmetric bootstrap-t]; columns name protocol and reference."
        )
    hidden = Counter(p.reference for p in queries.protocols(record) if p not in shown)
    if hidden:
        parts = ", ".join(f"{count} vs {reference}" for reference, count in hidden.items())
        notes.append(
            f"Protocols not shown here: {parts}; the tables of accuracy (miou, leaderboard) "
            "contain all of them."
        )
    notes += sa1b_notes(protocol.dataset for protocol in shown)
    if any(row.weights == "random" and row.status == "ok" for row in record.latency):
        notes.append("Random weights: times are valid, there is no accuracy.")
    waiting = [row.model for row in record.models if row.weights.kind == "random"]
    if waiting:
        notes.append(
            f"No trained weights were available for {', '.join(waiting)} (reasons: table "
            "of models): mobilesam-bench weights fetch NAME, or --weights NAME=PATH."
        )
    return notes


def selection_table(record: RunRecord, setup: Setup | None, protocol: Protocol | None) -> Table:
    """Table of seven columns for one setup and protocol, the most accurate model first.

    It has the models with an accuracy under the protocol, or all models if there is none.
    """

    def order(entry: _Entry) -> tuple[float, float]:
        row = None if protocol is None else queries.find_miou(record, protocol, entry.model)
        whole = entry.latency("end_to_end")
        miou = row.miou if row is not None and queries.is_ranked(row) else None
        time = whole.median_ms if whole is not None else None
        return -round(miou or -1, 3), math.inf if time is None else time

    entries = sorted((_Entry(record, name, setup) for name in model_names(record)), key=order)
    ranked = [entry for entry in entries if order(entry)[0] <= 0]
    others = [entry.model for entry in entries if entry not in ranked]
    clicks = None if protocol is None else queries.click_steps(protocol.protocol)
    whole = _time_column("End to end", "end_to_end", None, bounds=False)
    costs = [
        whole if clicks is None else _clicks_column(clicks),
        _time_column("Encode", "encode", None, bounds=False),
        _time_column("Decode", "decode", 1, bounds=False),
        _size_column("Params"),
        _memory_column("Memory", "peak_rss_bytes", "peak_rss_bytes"),
    ]
    accuracy = [] if protocol is None else [_miou_column(protocol)]
    columns = [MODEL, *accuracy, *map(_dash_if_not_measured, costs)]
    shown = ranked or entries
    notes = ["Times: medians, decode of one prompt. Params: used. Memory: peak of the process."]
    if any(column.cell(entry).text == "-" for column in columns for entry in shown):
        notes.append("A dash: not in the tables of times and memory; Params: not counted.")
    if clicks is not None:
        notes.append(
            f"{clicks.label.capitalize()}: preprocessing and encoding once, decoding and "
            "postprocessing once a click."
        )
    if ranked and others:
        reference = None if protocol is None else reference_model(protocol.reference)
        own = [name for name in others if name == reference]
        missing = queries.without_value(record, (name for name in others if name not in own))
        notes += queries.group_notes({**missing, queries.OWN_REFERENCE: own})
    return build_table("selection", "Models", columns, shown, notes)


def headline_table(record: RunRecord, models: Iterable[str] | None = None) -> Table:
    """Table of the six most important columns, for a terminal of 100 columns.

    Model, weights, parameters, median times of encode and decode (one prompt), and mean IoU of box
    prompts against ground truth on each dataset (of the first protocol if box prompts were not
    measured). Models of which only parameters were counted come last, with a note on the reason.
    """
    setup = next(iter(queries.setups(record)), None)
    # One protocol for each dataset: box prompts against ground truth, else the first one.
    shown = [
        next((protocol for protocol in group if protocol.protocol == "box"), group[0])
        for (_, reference), group in queries.by_reference(queries.protocols(record)).items()
        if reference_model(reference) is None
    ]

    measured = [
        _time_column("Encode", "encode", None, bounds=False),
        _time_column("Decode", "decode", 1, bounds=False),
    ]
    for protocol in shown:
        dataset = f", {protocol.dataset}" if len(shown) > 1 else ""
        measured.append(_miou_column(protocol, f" {protocol.protocol}{dataset}"))
    columns = (
        text_column("Model", "model"),
        RowColumn(WEIGHTS_COLUMN, _weights_cell),
        _size_column("Params"),
        *map(_dash_if_skipped, measured),
    )
    names = model_names(record) if models is None else models
    all_entries = (_Entry(record, name, setup) for name in names)
    entries = sorted(all_entries, key=lambda entry: entry.skipped)
    notes = [] if setup is None else [f"Median times on {setup.label}; decode: one prompt."]
    notes += [
        f"mIoU: {protocol.protocol} prompts on {protocol.dataset}, mean over objects "
        "[95 % interval over images, bootstrap-t]."
        for protocol in shown
    ]
    left_out: dict[str, list[str]] = {}
    for entry in entries:
        if entry.skipped:
            reason = entry.missing[1] or "not requested"
            why = "no trained weights here" if entry.untrained else reason
            left_out.setdefault(why, []).append(entry.model)
    notes += [f"Not measured, {why}: {', '.join(names)}." for why, names in left_out.items()]
    return build_table("headline", "Results", columns, entries, notes)


def _dash_if_skipped(column: RowColumn) -> RowColumn:
    """The column with a dash for models that were skipped."""
    empty = [None] * (len(column.column.raw) - 1)

    def cell(entry: _Entry) -> Cell:
        if entry.skipped:
            return Cell("-", (*empty, f"skipped: {entry.missing[1]}"))
        return column.cell(entry)

    return RowColumn(column.column, cell)


def _dash_if_not_measured(column: RowColumn) -> RowColumn:
    """The column with a dash for what was not measured."""

    def cell(entry: _Entry) -> Cell:
        found = column.cell(entry)
        return replace(found, text="-") if found.text == NOT_MEASURED else found

    return RowColumn(column.column, cell)


def provenance(record: RunRecord) -> tuple[str, ...]:
    """Date, machine, code, data and weights of a run, one plain line each."""
    env = record.environment
    unknown = "several commits" if "+" in record.id else "commit unknown"
    commit = unknown if env.git_commit is None else f"commit {env.git_commit[:12]}"
    dirty = " with uncommitted changes" if env.git_dirty else ""
    datasets = queries.unique(row.dataset for row in record.miou)
    gpu = f"; {', '.join(env.gpu)}" if env.gpu else ""
    weights = []
    for row in record.models:
        label = _model_weights(row).text
        caution = ", not official" if label.startswith("custom") else ""
        weights.append(f"{row.model} {label}{caution}")
    lines = [
        f"End: {record.created_utc}",
        f"Machine: {env.cpu}, {env.cpu_logical_cores} logical cores, "
        f"{number(env.ram_bytes / 2**30)} GiB{gpu}; {env.os}",
        f"Threads: {env.threads}; allocator: {env.allocator}",
        f"Python {env.python}, torch {env.libraries.get('torch') or 'unknown'}",
        f"Code: {commit}{dirty}",
        f"Dataset: {', '.join(datasets) or 'none'}",
        f"Weights: {'; '.join(weights) or 'none'}",
    ]
    if record.warnings:
        lines.append(f"Warnings: {'; '.join(record.warnings)}")
    if record.note:
        lines.append(f"Note: {record.note}")
    return tuple(clean(line) for line in lines)


def write_tables(record: RunRecord, folder: Path) -> list[Path]:
    """Writes `tables/NAME.md`, `.csv`, `.tex` and `summary.md`; returns the files."""

    def items(lines: Iterable[str]) -> str:
        return "".join(f"- {escape_markdown(line)}\n" for line in lines)

    found = (summary_table(record), params_table(record), latency_table(record))
    timed_in_batches = [batches_table(record)] if record.batches else []
    tables = (*found, *timed_in_batches, *accuracy_tables(record), models_table(record))
    shown = [table for table in tables if table.rows]
    categories = [table for table in category_tables(record) if table.rows]
    subgroups = subgroup_tables(record_subgroups(record, folder))
    tables = (*shown, *categories, *subgroups)
    written = [path for table in tables for path in table.write(folder / "tables")]
    parts = [f"# Run {escape_markdown(record.id)}\n", items(provenance(record))]
    parts += [table.to_markdown() for table in shown] or ["Nothing was measured.\n"]
    if record.failures:
        lines = (f"{each.stage}, {each.culprit}: {each.why}" for each in record.failures)
        parts.append(f"## Failures\n\n{items(lines)}")
    if record.warnings:
        parts.append(f"## Warnings\n\n{items(record.warnings)}")
    path = folder / "summary.md"
    write_atomic(path, "\n".join(parts).encode())
    return [*written, path]
