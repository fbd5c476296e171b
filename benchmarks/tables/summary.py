"""The table with a row a model, and the lines that say where its numbers come from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from benchmarks.latency.timer import NOTHING_MS
from benchmarks.prompts.protocols import reference_model
from benchmarks.records.record import LatencyRow, RunRecord, WeightsRow
from benchmarks.tables.cells import WEIGHTS_COLUMN, Reasons, percent, text_cell, weights_cell
from benchmarks.tables.formatting import MIB, clean, number, spread_text
from benchmarks.tables.record_queries import (
    Protocol,
    Setup,
    find_latency,
    find_memory,
    find_miou,
    has_accuracy,
    has_random_weights,
    headline,
    model_names,
    model_row,
    protocols,
    setups,
    spread_of,
    unique,
    used_parameters,
    weights_label,
)
from benchmarks.tables.table import Cell, Column, Table
from benchmarks.tables.times import ENDS, sample_notes, spread_ends, spread_notes

_SHOWN_TIMES = (("encode", None), ("decode", 1), ("end_to_end", 1))


def summary_table(record: RunRecord) -> Table:
    """One row a model (and setup, where several were timed): size, time, memory, accuracy.

    A cell without a number says why. Decode times stand beside the kind of decoding.
    """
    timed: tuple[Setup | None, ...] = setups(record) or (None,)
    shown = headline(record)
    cuda = any(row.cuda_peak_allocated_bytes is not None for row in record.memory)
    reasons = Reasons()
    rows = []
    for model in model_names(record):
        for setup in timed:
            row = [*_model_cells(record, model, setup, reasons)]
            row += _time_cells(record, model, setup, reasons)
            row += _memory_cells(record, model, setup, cuda=cuda)
            row += [_miou_cell(record, model, protocol, reasons) for protocol in shown]
            rows.append(tuple(row))
    columns = _columns(shown, several=len(timed) > 1, cuda=cuda)
    notes = (*_notes(record, timed, shown), *reasons.notes())
    return Table("summary", "Summary", columns, tuple(rows), notes)


def headline_table(record: RunRecord, models: Sequence[str] | None = None) -> Table:
    """Table of the six most important columns, for a terminal of 100 columns.

    Model, weights, parameters, median times of encode and decode (one prompt), and mean IoU of box
    prompts against ground truth on each dataset (of the first protocol if box prompts were not
    measured). Models of which only parameters were counted come last, with a dash in the other
    cells and a note that gives the reason.

    Args:
        record: One run, or several that `merge_records` joined.
        models: Models to show; None shows all.
    """
    setup = next(iter(setups(record)), None)
    shown = _headline_protocols(record)
    columns = _headline_columns(shown)
    reasons = Reasons()
    measured, counted = [], []
    left_out: dict[str, list[str]] = {}
    for model in model_names(record) if models is None else models:
        info = model_row(record, model)
        *_, weights, size = _model_cells(record, model, setup, reasons)
        if info is not None and info.status == "skipped":
            random = info.weights.kind == "random"
            why = "no trained weights here" if random else info.why or "not asked for"
            left_out.setdefault(why, []).append(model)
            status = f"skipped: {info.why}"
            empty = [Cell("-", (*[None] * (len(c.raw) - 1), status)) for c in columns[3:]]
            weights = replace(weights, text="none here") if random else weights
            counted.append((text_cell(model), weights, size, *empty))
            continue
        row = [text_cell(model), weights, size]
        for phase, n_prompts in (("encode", None), ("decode", 1)):
            found = None if setup is None else find_latency(record, setup, model, phase, n_prompts)
            row.append(_time_cell(record, model, found, reasons, bounds=False))
        row += [_miou_cell(record, model, protocol, reasons) for protocol in shown]
        measured.append(tuple(row))
    notes = [] if setup is None else [f"Median times on {setup.label}; decode: one prompt."]
    notes += [
        f"mIoU: {protocol.protocol} prompts on {protocol.dataset}, mean over objects "
        "[95 % bootstrap interval over images]."
        for protocol in shown
    ]
    notes += [f"Not measured, {why}: {', '.join(names)}." for why, names in left_out.items()]
    notes += reasons.notes()
    rows = (*measured, *counted)
    return Table("headline", "Results", columns, rows, tuple(notes))


def _headline_columns(shown: Sequence[Protocol]) -> tuple[Column, ...]:
    full = {column.header: column for column in _columns(shown, several=False, cuda=False)}
    several = len(shown) > 1
    scores = (
        replace(column, header=f"mIoU {p.protocol}{f', {p.dataset}' if several else ''}")
        for column, p in zip(list(full.values())[-len(shown) :], shown, strict=True)
    )
    return (
        full["Model"],
        full["Weights"],
        replace(full["Parameters used"], header="Params"),
        full["Encode"],
        replace(full["Decode, 1 prompt"], header="Decode"),
        *(scores if shown else ()),
    )


def _headline_protocols(record: RunRecord) -> tuple[Protocol, ...]:
    """One protocol for each dataset: box prompts against ground truth, else the first one."""
    found = [p for p in protocols(record) if reference_model(p.reference) is None]
    shown = []
    for dataset in unique(p.dataset for p in found):
        group = [p for p in found if p.dataset == dataset]
        shown.append(next((p for p in group if p.protocol == "box"), group[0]))
    return tuple(shown)


def _columns(shown: Sequence[Protocol], *, several: bool, cuda: bool) -> tuple[Column, ...]:
    def time(header: str, name: str) -> Column:
        raw = (f"{name}_ms", *(f"{name}_{end}_ms" for end in ENDS), f"{name}_status")
        return Column(header, raw, "ms", "right")

    def accuracy(protocol: Protocol) -> Column:
        key = f"{protocol.protocol}:{protocol.reference}:{protocol.dataset}"
        raw = tuple(f"{part}:{key}" for part in ("miou", "ci95_low", "ci95_high", "status"))
        label = f"{protocol.protocol} vs {protocol.reference}"
        # One dataset for all is said once, in a note.
        where = "" if len({p.dataset for p in shown}) == 1 else f", {protocol.dataset}"
        return Column(f"mIoU {label}{where}", raw, "%", "right")

    return (
        Column("Model", ("model",)),
        Column("Setup", ("device", "precision", "threads"), csv_only=not several),
        WEIGHTS_COLUMN,
        Column("Parameters used", ("used_parameters", "parameters_status"), "10^6", "right"),
        time("Encode", "encode"),
        time("Decode, 1 prompt", "decode_1"),
        Column("Decode kind", ("decode_kind",)),
        time("End to end", "end_to_end"),
        Column("Peak RSS", ("peak_rss_bytes",), "MiB", "right"),
        *([Column("CUDA peak", ("cuda_peak_bytes",), "MiB", "right")] if cuda else []),
        *(accuracy(protocol) for protocol in shown),
    )


def _model_cells(
    record: RunRecord, model: str, setup: Setup | None, reasons: Reasons
) -> tuple[Cell, ...]:
    info = model_row(record, model)
    used = used_parameters(record, model)
    if used is None:
        bad = (r for r in record.params if r.model == model and r.status != "ok")
        row = next(bad, None)
        status, why = _why_missing(record, model) if row is None else (row.status, row.why)
        size = reasons.cell(status, why, 1)
    else:
        size = Cell(f"{used / 1e6:.3f}" if used else "0", (used, "ok"))
    return (
        text_cell(model),
        Cell("", (None, None, None))
        if setup is None
        else Cell(setup.label, (setup.device, setup.precision, setup.threads)),
        Cell("unknown", (None,) * len(WEIGHTS_COLUMN.raw))
        if info is None
        else weights_cell(info.weights),
        size,
    )


def _time_cells(
    record: RunRecord, model: str, setup: Setup | None, reasons: Reasons
) -> tuple[Cell, ...]:
    def find(phase: str, n_prompts: int | None = None) -> LatencyRow | None:
        return None if setup is None else find_latency(record, setup, model, phase, n_prompts)

    info = model_row(record, model)
    decode = find("decode", 1)
    kind = info.decode_kind if info else decode.decode_kind if decode else None
    return (
        _time_cell(record, model, find("encode"), reasons),
        _time_cell(record, model, decode, reasons),
        Cell(kind or "", (kind,)),
        _time_cell(record, model, find("end_to_end"), reasons),
    )


def _time_cell(
    record: RunRecord,
    model: str,
    row: LatencyRow | None,
    reasons: Reasons,
    *,
    bounds: bool = True,
) -> Cell:
    """Median time, with its interval or range if `bounds` is True, or why there is none."""
    if row is None:
        return reasons.cell(*_why_missing(record, model), 1 + len(ENDS))
    if row.status != "ok" or row.median_ms is None:
        return reasons.cell(row.status, row.why, 1 + len(ENDS))
    spread = spread_of(row)
    # Shorter times are call overhead: the phase does nothing in that model.
    tiny = row.median_ms < NOTHING_MS
    shown = spread if bounds else None
    text = f"< {NOTHING_MS:g}" if tiny else spread_text(row.median_ms, shown)
    return Cell(text, (row.median_ms, *spread_ends(spread), "ok"))


def _memory_cells(
    record: RunRecord, model: str, setup: Setup | None, *, cuda: bool
) -> tuple[Cell, ...]:
    device = setup.device if setup else next((row.device for row in record.memory), "")
    row = find_memory(record, device, model)

    def cell(value: int | None) -> Cell:
        text = "not measured" if value is None else f"{value / MIB:.0f}"
        return Cell(text, (value,))

    peak = cell(row.peak_rss_bytes if row else None)
    return (peak, cell(row.cuda_peak_allocated_bytes if row else None)) if cuda else (peak,)


def _miou_cell(record: RunRecord, model: str, protocol: Protocol, reasons: Reasons) -> Cell:
    row = find_miou(record, protocol, model)
    if row is not None and row.miou is not None and has_accuracy(row):
        low, high = row.ci95 or (None, None)
        return Cell(percent(row.miou, row.ci95), (row.miou, low, high, "ok"))
    if row is not None and row.status == "skipped" and row.weights.kind == "random":
        return Cell("no weights", (None, None, None, f"skipped: {row.why or 'no weights'}"))
    if row is not None and row.status != "ok":
        return reasons.cell(row.status, row.why, 3)
    if has_random_weights(record, model) or (row and row.weights.kind == "random"):
        return reasons.cell("skipped", "random weights", 3)
    return reasons.cell(*_why_missing(record, model), 3)


def _why_missing(record: RunRecord, model: str) -> tuple[str, str | None]:
    """Status and reason of something that has no row of its own."""
    info = model_row(record, model)
    if info is not None and info.status != "ok":
        return info.status, info.why
    return "not measured", None


def _notes(
    record: RunRecord, timed: Sequence[Setup | None], shown: Sequence[Protocol]
) -> tuple[str, ...]:
    notes = [f"Times on {setup.label}." for setup in timed if setup and len(timed) == 1]
    if record.latency:
        times = [
            row
            for row in record.latency
            if (row.phase, row.n_prompts) in _SHOWN_TIMES and row.median_ms is not None
        ]
        notes += ["Times: medians.", *spread_notes(map(spread_of, times)), *sample_notes(times)]
        notes.append(
            "Decode kind: decoder runs a network for each prompt, select picks among masks that "
            "encode has found, classical runs an algorithm; their times do not compare."
        )
    if shown:
        datasets = ", ".join(unique(protocol.dataset for protocol in shown))
        notes.append(
            f"mIoU on {datasets}: mean over instances [95 % bootstrap interval over images]; "
            "columns name protocol and reference."
        )
    hidden = [protocol for protocol in protocols(record) if protocol not in shown]
    if hidden:
        counts = Counter(protocol.reference for protocol in hidden)
        parts = ", ".join(f"{count} vs {reference}" for reference, count in counts.items())
        notes.append(
            f"Protocols not shown here: {parts}; the tables of accuracy (miou, leaderboard) hold "
            "all of them."
        )
    if any(protocol.dataset.startswith("sa1b") for protocol in shown):
        notes.append("SA-1B's masks were made by a SAM: they favour SAM.")
    random = [model for model in model_names(record) if has_random_weights(record, model)]
    if random:
        notes.append(
            "Random weights, on the exact architecture: times shown hold, accuracy does not exist."
        )
    waiting = [row.model for row in record.models if row.weights.kind == "random"]
    if waiting:
        notes.append(
            f"No trained weights were at hand for {', '.join(waiting)} (the table of accuracy says "
            "why): mobilesam-bench weights fetch NAME, or --weights NAME=PATH."
        )
    return tuple(notes)


def provenance(record: RunRecord) -> tuple[str, ...]:
    """Where, when and with what a run was made: one plain line each."""
    env = record.environment
    commit = "commit unknown" if env.git_commit is None else f"commit {env.git_commit[:12]}"
    dirty = " with uncommitted changes" if env.git_dirty else ""
    torch = env.libraries.get("torch")
    datasets = unique(row.dataset for row in record.miou)
    gpu = f"; {', '.join(env.gpu)}" if env.gpu else ""
    weights = [f"{row.model} {_hash_line(row.weights)}" for row in record.models]
    lines = [
        f"Date: {record.created_utc}",
        f"Machine: {env.cpu}, {env.cpu_logical_cores} logical cores, "
        f"{number(env.ram_bytes / 2**30)} GiB{gpu}; {env.os}",
        f"Threads: {env.threads}; allocator: {env.allocator}",
        f"Python {env.python}, torch {torch or 'unknown'}",
        f"Code: {commit}{dirty}",
        f"Dataset: {', '.join(datasets) or 'none'}",
        f"Weights: {'; '.join(weights) or 'none'}",
    ]
    if record.warnings:
        lines.append(f"Warnings: {'; '.join(record.warnings)}")
    if record.note:
        lines.append(f"Note: {record.note}")
    return tuple(clean(line) for line in lines)


def _hash_line(weights: WeightsRow) -> str:
    label = weights_label(weights)
    return f"{label}, not official" if label.startswith("custom") else label
