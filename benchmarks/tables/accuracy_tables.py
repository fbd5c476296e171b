"""Tables of accuracy: means, number of clicks, categories, and where the time went."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from benchmarks.records.record import BySize, CategoryMean, Clicks, MiouRow, RunRecord
from benchmarks.tables.cells import (
    WEIGHTS_COLUMN,
    Reasons,
    percent,
    percent_cell,
    text_cell,
    weights_cell,
)
from benchmarks.tables.detection_tables import detector_table, everything_table
from benchmarks.tables.formatting import number, slug
from benchmarks.tables.leaderboard import leaderboard_tables
from benchmarks.tables.record_queries import (
    Protocol,
    find_miou,
    has_accuracy,
    headline,
    model_names,
    protocol_of,
    protocols,
    unique,
)
from benchmarks.tables.table import Cell, Column, Table

_STATUS = Column("Status", ("status", "why"))
_MODEL = Column("Model", ("model",))


def accuracy_tables(record: RunRecord) -> tuple[Table, ...]:
    """What people read of accuracy, each table only where the record has rows for it."""
    tables = (
        *miou_tables(record),
        *leaderboard_tables(record),
        clicks_table(record),
        detector_table(record),
        everything_table(record),
        times_table(record),
    )
    return tuple(table for table in tables if table.rows)


def miou_tables(record: RunRecord) -> tuple[Table, ...]:
    """Accuracy, one table for each dataset and reference.

    Agreement with a teacher and accuracy against ground truth never share a column.
    """
    found = protocols(record)
    groups = unique((p.dataset, p.reference) for p in found)
    names: list[str] = []
    for dataset, reference in groups:
        name = "miou" if len(groups) == 1 else f"miou-{slug(dataset)}-{slug(reference)}"
        names.append(f"{name}-{len(names)}" if name in names else name)
    return tuple(
        _miou_table(record, [p for p in found if (p.dataset, p.reference) == group], name)
        for group, name in zip(groups, names, strict=True)
    )


def _miou_table(record: RunRecord, group: Sequence[Protocol], name: str) -> Table:
    dataset, reference = group[0].dataset, group[0].reference
    columns = (
        _MODEL,
        WEIGHTS_COLUMN,
        Column("Dataset", ("dataset",), csv_only=True),
        Column("Protocol", ("protocol",)),
        Column("Reference", ("reference",), csv_only=True),
        Column("mIoU [95 % CI]", ("miou", "ci95_low", "ci95_high"), "%", "right"),
        Column(
            "Boundary IoU",
            ("boundary_miou", "boundary_ci95_low", "boundary_ci95_high"),
            "%",
            "right",
        ),
        Column("Mean over images", ("miou_per_image",), "%", "right"),
        Column("Small", ("miou_small", "n_small"), "%", "right"),
        Column("Medium", ("miou_medium", "n_medium"), "%", "right"),
        Column("Large", ("miou_large", "n_large"), "%", "right"),
        Column("Images", ("n_images",), align="right"),
        Column("Instances", ("n_instances", "n_left_out"), align="right"),
        _STATUS,
    )
    names = model_names(record)
    reasons = Reasons()
    rows = [
        _miou_cells(record, protocol, model, reasons)
        for protocol in group
        for model in names
        if find_miou(record, protocol, model) is not None
    ]
    title = f"Accuracy on {dataset}, reference {reference}"
    notes = (*_miou_notes(record, group), *reasons.notes())
    return Table(name, title, columns, tuple(rows), notes)


def _miou_notes(record: RunRecord, group: Sequence[Protocol]) -> tuple[str, ...]:
    notes = [
        "mIoU: mean over instances; intervals: 95 % bootstrap over images. CSV: fractions.",
        "Boundary IoU: of the pixels within 2 % of the image's diagonal of the outline.",
        "Small < 32^2 <= medium < 96^2 <= large, annotation area in pixels.",
    ]
    if group[0].reference.startswith("teacher:"):
        notes.append("Agreement with the masks of another model, which is not accuracy.")
    if group[0].dataset.startswith("sa1b"):
        notes.append("SA-1B's masks were made by a SAM: they favour SAM.")
    left_out = {
        f"{row.protocol} {row.n_left_out}"
        for row in record.miou
        if protocol_of(row) in group and row.n_left_out
    }
    if left_out:
        notes.append(
            "Instances for which the protocol has no prompt, left out for all models: "
            f"{', '.join(sorted(left_out))}."
        )
    notes += partial_notes(row for row in record.miou if protocol_of(row) in group)
    hashes = unique(
        row.manifest_sha256
        for row in record.miou
        if protocol_of(row) in group and row.manifest_sha256
    )
    if hashes:
        notes.append("Prompt manifests (sha256): " + ", ".join(h[:16] for h in hashes) + ".")
    return tuple(notes)


def partial_notes(rows: Iterable[MiouRow]) -> list[str]:
    """Notes on rows whose figures do not cover all images, one note for each reason."""
    found: dict[str, list[str]] = {}
    for row in rows:
        if row.status == "ok" and row.why is not None:
            found.setdefault(row.why, []).append(row.model)
    return [f"{', '.join(unique(models))}: {why}." for why, models in found.items()]


def _miou_cells(
    record: RunRecord, protocol: Protocol, model: str, reasons: Reasons
) -> tuple[Cell, ...]:
    row = find_miou(record, protocol, model)
    assert row is not None  # noqa: S101 - the caller asks only for rows that exist
    if row.weights.kind == "random":
        row = row.model_copy(
            update={
                "miou": None,
                "ci95": None,
                "miou_per_image": None,
                "boundary_miou": None,
                "boundary_ci95": None,
                "clicks": None,
                "by_size": BySize(),
                "status": "skipped" if row.status == "ok" else row.status,
                "why": row.why or "random weights have no accuracy",
            }
        )
    low, high = row.ci95 or (None, None)
    boundary_low, boundary_high = row.boundary_ci95 or (None, None)
    sizes, counts = row.by_size, row.n_by_size
    return (
        text_cell(row.model),
        weights_cell(row.weights),
        text_cell(row.dataset),
        text_cell(row.protocol),
        text_cell(row.reference),
        Cell("" if row.miou is None else percent(row.miou, row.ci95), (row.miou, low, high)),
        Cell(
            "" if row.boundary_miou is None else percent(row.boundary_miou),
            (row.boundary_miou, boundary_low, boundary_high),
        ),
        percent_cell(row.miou_per_image),
        *(
            Cell("" if value is None else percent(value), (value, None if n is None else int(n)))
            for value, n in (
                (sizes.small, counts.small),
                (sizes.medium, counts.medium),
                (sizes.large, counts.large),
            )
        ),
        Cell(str(row.n_images), (row.n_images,)),
        Cell(str(row.n_instances), (row.n_instances, row.n_left_out)),
        reasons.status_cell(row.status, row.why),
    )


def clicks_table(record: RunRecord) -> Table:
    """Mean number of clicks until an IoU is reached, one row a model and budget."""
    columns = (
        _MODEL,
        WEIGHTS_COLUMN,
        Column("Dataset", ("dataset",)),
        Column("Protocol", ("protocol",)),
        Column("NoC@85", ("noc85",), "clicks", "right"),
        Column("never reached", ("failed85",), "%", "right"),
        Column("NoC@90", ("noc90",), "clicks", "right"),
        Column("never reached 90", ("failed90",), "%", "right"),
        Column("mIoU after the last", ("miou",), "%", "right"),
    )
    rows = tuple(
        _clicks_cells(row, row.clicks)
        for row in record.miou
        if row.clicks is not None and row.clicks.budget > 1 and has_accuracy(row)
    )
    notes = (
        "NoC@85, NoC@90: mean number of clicks until IoU 0.85 or 0.90 with the ground truth; an "
        "instance that never reaches it counts with the whole budget.",
    )
    return Table("clicks", "Clicks until an IoU is reached", columns, rows, notes)


def _clicks_cells(row: MiouRow, clicks: Clicks) -> tuple[Cell, ...]:
    return (
        text_cell(row.model),
        weights_cell(row.weights),
        text_cell(row.dataset),
        text_cell(row.protocol),
        Cell(number(clicks.noc85, 2), (clicks.noc85,)),
        percent_cell(clicks.failed85),
        Cell(number(clicks.noc90, 2), (clicks.noc90,)),
        percent_cell(clicks.failed90),
        percent_cell(row.miou),
    )


def category_tables(record: RunRecord) -> tuple[Table, ...]:
    """Mean IoU by category, one table for each headline protocol, one column a model."""
    tables = []
    for protocol in headline(record):
        found = {
            row.model: {each.category: each for each in row.by_category}
            for row in record.miou
            if protocol_of(row) == protocol and has_accuracy(row) and row.by_category
        }
        if found:
            tables.append(_category_table(protocol, found))
    return tuple(tables)


def _category_table(protocol: Protocol, found: Mapping[str, Mapping[str, CategoryMean]]) -> Table:
    counts = {
        each.category: each.n_instances for of_model in found.values() for each in of_model.values()
    }
    columns = (
        Column("Category", ("category",)),
        Column("Instances", ("n_instances",), align="right"),
        *(Column(model, (f"miou_{model}",), "%", "right") for model in found),
    )
    rows = tuple(
        (
            text_cell(category),
            Cell(str(counts[category]), (counts[category],)),
            *(
                percent_cell(of_model[category].miou if category in of_model else None)
                for of_model in found.values()
            ),
        )
        for category in sorted(counts, key=lambda name: (-counts[name], name))
    )
    name = "-".join(("categories", slug(protocol.protocol), slug(protocol.reference)))
    return Table(name, f"mIoU by category, {protocol.label}", columns, rows)


def times_table(record: RunRecord) -> Table:
    """Where the wall time of accuracy went."""
    parts = ("model_s", "data_s", "prompts_s", "scoring_s", "writing_s")
    columns = (
        _MODEL,
        Column("Dataset", ("dataset",)),
        Column("Wall time", ("wall_s",), "s", "right"),
        Column("Outside the model", ("overhead",), "%", "right"),
        *(Column(each.removesuffix("_s").capitalize(), (each,), "s", "right") for each in parts),
        Column("Embeddings from the cache", ("cached_embeddings",), align="right"),
    )
    rows = tuple(
        (
            text_cell(row.model),
            text_cell(row.dataset),
            Cell(number(row.wall_s), (row.wall_s,)),
            percent_cell(row.overhead),
            *(Cell(number(getattr(row, part), 2), (getattr(row, part),)) for part in parts),
            Cell(str(row.cached_embeddings), (row.cached_embeddings,)),
        )
        for row in record.accuracy_times
    )
    return Table("accuracy-times", "Time of the accuracy measurement", columns, rows)
