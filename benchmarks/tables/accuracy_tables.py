"""Tables of accuracy: mean IoU, leaderboard, clicks, detector boxes, segment everything, times."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from operator import itemgetter
from typing import TypeVar

from benchmarks.evaluation.comparison import LEVEL, tie_groups
from benchmarks.records.record import (
    ComparisonRow,
    DetectorRow,
    EverythingRow,
    MiouRow,
    RunRecord,
)
from benchmarks.tables.columns import (
    MODEL,
    STATUS,
    WEIGHTS,
    RowColumn,
    build_table,
    count_column,
    interval_column,
    median_cell,
    median_column,
    number_column,
    percent_column,
    text_column,
    value_column,
)
from benchmarks.tables.formatting import number, percent, slug
from benchmarks.tables.record_queries import (
    Protocol,
    has_accuracy,
    headline,
    model_names,
    protocol_of,
    protocols,
    unique,
)
from benchmarks.tables.table import Cell, Column, Raw, Table
from mobilesam.errors import DataError

_AccuracyRow = TypeVar("_AccuracyRow", MiouRow, DetectorRow, EverythingRow)
_FIGURES = (
    "miou", "ci95", "miou_per_image", "boundary_miou", "boundary_ci95", "clicks", "by_size", "ap",
    "ap50", "ap75", "ap_by_size", "ar10", "ar100", "ar1000", "ar1000_by_size", "masks_per_image",
    "median_ms", "range_ms",
)  # fmt: skip
"""Fields that have no meaning for random weights."""
_SIZES = ("small", "medium", "large")
_COCO_SIZES = "Small <= 32^2 <= medium <= 96^2 <= large, annotation area in pixels, as pycocotools."
_SAM_MASKS = "SA-1B's masks were made by a SAM: they favour SAM."
_LEAST_P = 0.001
_decimal_column = partial(value_column, show=partial(number, digits=2))


def accuracy_tables(record: RunRecord) -> tuple[Table, ...]:
    """All tables of accuracy that have rows, without those by category."""
    tables = (
        *miou_tables(record),
        *leaderboard_tables(record),
        clicks_table(record),
        detector_table(record),
        everything_table(record),
        times_table(record),
    )
    return tuple(table for table in tables if table.rows)


def sa1b_notes(datasets: Iterable[str]) -> list[str]:
    """The caution for accuracy on SA-1B, if it is among the datasets."""
    return [_SAM_MASKS] if any(name.startswith("sa1b") for name in datasets) else []


def _without_random_figures(row: _AccuracyRow) -> _AccuracyRow:
    """Removes the figures of a row with random weights."""
    if row.weights.kind != "random":
        return row
    fields = type(row).model_fields
    blank = {name: fields[name].get_default() for name in _FIGURES if name in fields}
    status = "skipped" if row.status == "ok" else row.status
    why = row.why or "random weights have no accuracy"
    return row.model_copy(update={**blank, "status": status, "why": why})


def _by_reference(
    base: str, found: Iterable[Protocol]
) -> list[tuple[str, str, str, list[Protocol]]]:
    """Table name, dataset, reference and protocols of each table with one dataset and reference.

    Agreement with a teacher and accuracy against ground truth never share a table.
    """
    groups: dict[tuple[str, str], list[Protocol]] = {}
    for protocol in found:
        groups.setdefault((protocol.dataset, protocol.reference), []).append(protocol)
    tables: dict[str, tuple[str, str, list[Protocol]]] = {}
    for (dataset, reference), group in groups.items():
        name = base if len(groups) == 1 else f"{base}-{slug(dataset)}-{slug(reference)}"
        name = f"{name}-{len(tables)}" if name in tables else name
        tables[name] = (dataset, reference, group)
    return [(name, *table) for name, table in tables.items()]


def _reference_notes(dataset: str, reference: str) -> list[str]:
    notes = []
    if reference.startswith("teacher:"):
        notes.append("Agreement with the masks of another model, which is not accuracy.")
    return [*notes, *sa1b_notes([dataset])]


def _size_column(size: str) -> RowColumn:
    def n_instances(row: MiouRow) -> Raw:
        value = getattr(row.n_by_size, size)
        return None if value is None else int(value)

    get = (f"by_size.{size}", n_instances)
    return percent_column(size.capitalize(), f"miou_{size}", f"n_{size}", get=get)


_MIOU_COLUMNS = (
    MODEL,
    WEIGHTS,
    text_column("Dataset", "dataset", csv_only=True),
    text_column("Protocol", "protocol"),
    text_column("Reference", "reference", csv_only=True),
    interval_column("mIoU [95 % CI]", "miou", "ci95"),
    percent_column(
        "Boundary IoU", "boundary_miou", "boundary_ci95_low", "boundary_ci95_high",
        get=("boundary_miou", "boundary_ci95.0", "boundary_ci95.1"),
    ),
    percent_column("Mean over images", "miou_per_image"),
    *(_size_column(size) for size in _SIZES),
    count_column("Images", "n_images"),
    count_column("Instances", "n_instances", "n_left_out"),
    STATUS,
)  # fmt: skip


def miou_tables(record: RunRecord) -> tuple[Table, ...]:
    """Mean IoU, one table for each dataset and reference."""
    return tuple(_miou_table(record, *part) for part in _by_reference("miou", protocols(record)))


def _miou_table(
    record: RunRecord, name: str, dataset: str, reference: str, group: Sequence[Protocol]
) -> Table:
    rows = [row for row in record.miou if protocol_of(row) in group]
    notes = [
        "mIoU: mean over instances; intervals: 95 % bootstrap over images. CSV: fractions.",
        "Boundary IoU: IoU of the pixels within 2 % of the image diagonal from the outline.",
        "Small < 32^2 <= medium < 96^2 <= large, annotation area in pixels.",
        *_reference_notes(dataset, reference),
    ]
    left_out = sorted({f"{row.protocol} {row.n_left_out}" for row in rows if row.n_left_out})
    if left_out:
        notes.append(
            "Instances for which the protocol has no prompt, left out for all models: "
            f"{', '.join(left_out)}."
        )
    partial: dict[str, list[str]] = {}
    for row in rows:
        if row.status == "ok" and row.why is not None:
            partial.setdefault(row.why, []).append(row.model)
    notes += [f"{', '.join(unique(models))}: {why}." for why, models in partial.items()]
    hashes = unique(row.manifest_sha256[:16] for row in rows if row.manifest_sha256)
    if hashes:
        notes.append(f"Prompt manifests (sha256): {', '.join(hashes)}.")
    models = model_names(record)
    rows.sort(key=lambda row: (group.index(protocol_of(row)), models.index(row.model)))
    shown = map(_without_random_figures, rows)
    title = f"Accuracy on {dataset}, reference {reference}"
    return build_table(name, title, _MIOU_COLUMNS, shown, notes)


@dataclass(frozen=True, slots=True)
class _Ranked:
    """A model on the leaderboard of one protocol.

    Attributes:
        row: Accuracy of the model.
        rank: Rank, shared by models of equal accuracy.
        group: Letters of the groups of models that cannot be told apart; None if not compared.
        best: Accuracy of the best model of the protocol.
        behind: Comparison of the best model (A) with this one (B); None for the best model.
    """

    row: MiouRow
    rank: int
    group: str | None
    best: MiouRow
    behind: ComparisonRow | None


def _behind_cell(ranked: _Ranked) -> Cell:
    found = ranked.behind
    if found is None:
        text = "best" if ranked.row is ranked.best else "not compared"
        return Cell(text, (None, None, None))
    raw = (found.difference, *(found.ci95 or (None, None)))
    return Cell(percent(found.difference, found.ci95), raw)


def _p_text(value: float) -> str:
    return f"{value:.3f}" if value >= _LEAST_P else f"<{_LEAST_P}"


def _row_of(column: RowColumn) -> RowColumn:
    """The column for ranked rows."""
    return RowColumn(column.column, lambda ranked: column.cell(ranked.row))


def _leaderboard_columns(*, boundary: bool) -> tuple[RowColumn, ...]:
    behind = ("behind_best", "behind_best_low", "behind_best_high")
    return (
        _row_of(text_column("Protocol", "protocol")),
        count_column("Rank", "rank"),
        _row_of(MODEL),
        text_column("Group", "group"),
        _row_of(interval_column("mIoU [CI]", "miou", "ci95")),
        _row_of(percent_column("Boundary", "boundary_miou", csv_only=not boundary)),
        RowColumn(Column("Behind best [CI]", behind, "points", "right"), _behind_cell),
        value_column(
            "p", "p_adjusted", "p_value", show=_p_text, get=("behind.p_adjusted", "behind.p_value")
        ),
        _row_of(WEIGHTS),
        _row_of(text_column("Dataset", "dataset", csv_only=True)),
        _row_of(text_column("Reference", "reference", csv_only=True)),
    )


def leaderboard_tables(record: RunRecord) -> tuple[Table, ...]:
    """Models ranked under each protocol, one table for each dataset and reference.

    Models without an accuracy are named below the table, with the reason. A protocol without any
    accuracy has no rows.
    """
    scored = {protocol_of(row) for row in record.miou if has_accuracy(row)}
    found = [protocol for protocol in protocols(record) if protocol in scored]
    return tuple(_leaderboard(record, *part) for part in _by_reference("leaderboard", found))


def _leaderboard(
    record: RunRecord, name: str, dataset: str, reference: str, group: Sequence[Protocol]
) -> Table:
    ranked: list[_Ranked] = []
    ungrouped = []
    for protocol in group:
        models, why = _rank(record, protocol)
        ranked += models
        ungrouped += [why] if why else []
    notes = []
    if any(each.group for each in ranked):
        notes.append(
            "Group: models of one protocol that share a letter cannot be told apart on this "
            f"dataset (corrected p above {LEVEL}); their order is then no evidence."
        )
    if any(_protocol(row) in group for row in record.comparisons):
        notes.append(
            "Behind best: paired on the same prompts; the interval is for that pair alone. p: "
            "two-sided, corrected (Holm) over all pairs of models and all protocols here."
        )
    notes += [
        "mIoU: mean over instances; CI: 95 % bootstrap over images. CSV: fractions.",
        *_reference_notes(dataset, reference),
        *ungrouped,
    ]
    for each in ranked:
        n_instances = max(each.row.n_instances, each.best.n_instances)
        if each.behind is not None and each.behind.n_instances < n_instances:
            notes.append(
                f"{each.row.protocol}: {each.row.model} is compared on the "
                f"{each.behind.n_instances:,} prompts that it and {each.best.model} both answered."
            )
    notes += _unranked_notes(record, dataset, reference)
    boundary = any(each.row.boundary_miou is not None for each in ranked)
    title = f"Leaderboard on {dataset}, reference {reference}"
    return build_table(name, title, _leaderboard_columns(boundary=boundary), ranked, notes)


def _protocol(row: ComparisonRow) -> Protocol:
    return Protocol(row.dataset, row.reference, row.protocol)


def _rank(record: RunRecord, protocol: Protocol) -> tuple[list[_Ranked], str | None]:
    """Models of a protocol, best first, and the reason if they have no groups."""
    rows = [row for row in record.miou if protocol_of(row) == protocol and has_accuracy(row)]
    rows.sort(key=lambda row: -(row.miou or 0))
    comparisons = [row for row in record.comparisons if _protocol(row) == protocol]
    groups, why = {}, None
    try:
        groups = tie_groups({row.model: row.miou or 0 for row in rows}, comparisons)
    except DataError as error:
        why = f"{protocol.protocol} has no groups: {error}."
    behind = {}
    for pair in reversed(comparisons):
        if pair.model_a == rows[0].model:
            behind[pair.model_b] = pair
        elif pair.model_b == rows[0].model:
            behind[pair.model_a] = _swapped(pair)
    values = [row.miou or 0 for row in rows]
    ranked = [
        _Ranked(
            row,
            rank=1 + values.index(row.miou or 0),
            group=groups.get(row.model),
            best=rows[0],
            behind=behind.get(row.model),
        )
        for row in rows
    ]
    return ranked, why


def _swapped(row: ComparisonRow) -> ComparisonRow:
    """The same comparison with its two models exchanged."""
    return row.model_copy(
        update={
            "model_a": row.model_b,
            "model_b": row.model_a,
            "difference": 0.0 - row.difference,  # zero stays without a sign
            "ci95": None if row.ci95 is None else (-row.ci95[1], -row.ci95[0]),
        }
    )


def _unranked_notes(record: RunRecord, dataset: str, reference: str) -> list[str]:
    """Models without an accuracy, those with the same reason in one line."""
    missing: dict[str, list[MiouRow]] = {}
    for row in record.miou:
        if (row.dataset, row.reference) == (dataset, reference) and not has_accuracy(row):
            why = f"{row.status}: {row.why or 'no reason given'}"
            if row.weights.kind == "random" and row.status != "error":
                why = "no trained weights"
            missing.setdefault(why, []).append(row)
    return [
        f"Not ranked in {', '.join(unique(row.protocol for row in rows))} ({why}): "
        f"{', '.join(unique(row.model for row in rows))}."
        for why, rows in missing.items()
    ]


_CLICKS_COLUMNS = (
    MODEL,
    WEIGHTS,
    text_column("Dataset", "dataset"),
    text_column("Protocol", "protocol"),
    _decimal_column("NoC@85", "noc85", unit="clicks", get=("clicks.noc85",)),
    percent_column("never reached", "failed85", get=("clicks.failed85",)),
    _decimal_column("NoC@90", "noc90", unit="clicks", get=("clicks.noc90",)),
    percent_column("never reached 90", "failed90", get=("clicks.failed90",)),
    percent_column("mIoU after the last", "miou"),
)


def clicks_table(record: RunRecord) -> Table:
    """Mean number of clicks until an IoU is reached, one row a model and budget."""
    rows = [
        row
        for row in record.miou
        if row.clicks is not None and row.clicks.budget > 1 and has_accuracy(row)
    ]
    note = (
        "NoC@85, NoC@90: mean number of clicks until IoU 0.85 or 0.90 with the ground truth; an "
        "instance that never reaches it counts with the whole budget."
    )
    return build_table("clicks", "Clicks until an IoU is reached", _CLICKS_COLUMNS, rows, [note])


def category_tables(record: RunRecord) -> tuple[Table, ...]:
    """Mean IoU by category, one table for each headline protocol, one column a model."""
    tables = []
    for protocol in headline(record):
        rows = [row for row in record.miou if protocol_of(row) == protocol and has_accuracy(row)]
        means = {row.model: {c.category: c.miou for c in row.by_category} for row in rows}
        models = [model for model, categories in means.items() if categories]
        if models:
            counts = {c.category: c.n_instances for row in rows for c in row.by_category}
            order = sorted(counts, key=lambda category: (-counts[category], category))
            values = [(c, counts[c], *(means[m].get(c) for m in models)) for c in order]
            columns = (
                text_column("Category", "category", get=(itemgetter(0),)),
                count_column("Instances", "n_instances", get=(itemgetter(1),)),
                *(
                    percent_column(model, f"miou_{model}", get=(itemgetter(index),))
                    for index, model in enumerate(models, start=2)
                ),
            )
            name = "-".join(("categories", slug(protocol.protocol), slug(protocol.reference)))
            title = f"mIoU by category, {protocol.label}"
            tables.append(build_table(name, title, columns, values))
    return tuple(tables)


_TIME_PARTS = ("model", "data", "prompts", "scoring", "writing")
_TIMES_COLUMNS = (
    MODEL,
    text_column("Dataset", "dataset"),
    number_column("Wall time", "wall_s", unit="s"),
    percent_column("Outside the model", "overhead"),
    *(_decimal_column(part.capitalize(), f"{part}_s", unit="s") for part in _TIME_PARTS),
    count_column("Embeddings from the cache", "cached_embeddings"),
)


def times_table(record: RunRecord) -> Table:
    """Wall time of the accuracy measurement by part."""
    title = "Time of the accuracy measurement"
    return build_table("accuracy-times", title, _TIMES_COLUMNS, record.accuracy_times)


_DETECTOR_COLUMNS = (
    MODEL,
    WEIGHTS,
    text_column("Dataset", "dataset"),
    text_column("Boxes from", "detections", "detections_sha256"),
    text_column("Mask", "mask"),
    percent_column("AP", "ap"),
    percent_column("AP50", "ap50"),
    percent_column("AP75", "ap75"),
    *(percent_column(f"AP {size}", f"ap_{size}", get=(f"ap_by_size.{size}",)) for size in _SIZES),
    count_column("Images", "n_images"),
    count_column("Boxes", "n_detections"),
    number_column("Time", "seconds", unit="s"),
    STATUS,
)


def detector_table(record: RunRecord) -> Table:
    """COCO AP of the masks for a detector's boxes, one row a model and results file."""
    files = unique((row.detections, row.detections_sha256) for row in record.detector)
    notes = [
        "Protocol detector-box: COCO AP of masks by pycocotools (IoU 0.50 to 0.95, at most 100 "
        "boxes of a category of an image). A mask's score is the detector's score of its box.",
        "Mask: single, the single-mask output of the model; multi, the best scored of three masks.",
        _COCO_SIZES,
        "Boxes (sha256): " + ", ".join(f"{name} {sha256[:16]}" for name, sha256 in files) + ".",
    ]
    notes += [
        f"{row.model}, {row.detections}: {row.why}."
        for row in record.detector
        if row.status == "ok" and row.why
    ]
    rows = [_without_random_figures(row) for row in record.detector]
    title = "Average precision of masks for a detector's boxes"
    return build_table("detector-box", title, _DETECTOR_COLUMNS, rows, notes if rows else ())


def everything_table(record: RunRecord) -> Table:
    """Average recall and time of segment everything, one row a model and dataset."""
    columns = (
        MODEL,
        WEIGHTS,
        text_column("Dataset", "dataset"),
        *(percent_column(f"AR@{n}", f"ar{n}") for n in (10, 100, 1000)),
        *(
            percent_column(f"AR@1000 {size}", f"ar1000_{size}", get=(f"ar1000_by_size.{size}",))
            for size in _SIZES
        ),
        number_column("Masks an image", "masks_per_image"),
        RowColumn(median_column(record.everything), median_cell),
        count_column("Images", "n_images"),
        count_column("Objects", "n_objects"),
        STATUS,
    )
    rows = [_without_random_figures(row) for row in record.everything]
    notes = _everything_notes(record) if rows else []
    title = "Segment everything: recall and time"
    return build_table("everything", title, columns, rows, notes)


def _everything_notes(record: RunRecord) -> list[str]:
    where = [str(record.config[key]) for key in ("device", "precision") if key in record.config]
    threads = record.environment.threads
    where.append(f"{threads} thread{'s' * (threads != 1)}")
    notes = [
        "Protocol everything: class-agnostic COCO average recall of masks by pycocotools (IoU 0.50 "
        "to 0.95), at 10, 100 and 1000 masks an image, ranked by the score of the model. "
        "Crowd regions are left out.",
        _COCO_SIZES,
        f"Time: one call an image, median over images in one process; {', '.join(where)}.",
    ]
    notes += [
        f"{row.model} on {row.dataset}: {row.why}."
        for row in record.everything
        if row.status == "ok" and row.why is not None
    ]
    if any(row.range_ms is not None for row in record.everything):
        notes.append("Range of times: the fastest and the slowest image.")
    return [*notes, *sa1b_notes(row.dataset for row in record.everything)]
