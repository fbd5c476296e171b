"""Tables of accuracy by subgroup, from the tables of instances of records."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from benchmarks.evaluation.subgroups import Dimension, SubgroupRow, subgroup_rows
from benchmarks.records.record import RunRecord
from benchmarks.tables import record_queries as queries
from benchmarks.tables.accuracy_tables import INTERVALS, few_images
from benchmarks.tables.columns import (
    MODEL,
    build_table,
    count_column,
    interval_column,
    named_for,
    text_column,
)
from benchmarks.tables.formatting import slug
from benchmarks.tables.record_queries import Protocol, grouped, has_accuracy, protocol_of
from benchmarks.tables.table import Table

NOTES: dict[Dimension, str] = {
    "size": "Small < 32² ≤ medium < 96² ≤ large, annotation area in pixels.",
    "category": "Categories by number of instances.",
    "crowding": "Crowding: number of scored objects of the image.",
    "boundary complexity": "Boundary complexity: perimeter^2 / (4 pi area) of the reference mask, "
    "by Crofton's formula; a disc has 1, a square 1.1.",
}
"""Definition of each dimension."""
COLUMNS = (
    text_column("Subgroup", "group"),
    MODEL,
    interval_column("mIoU [95 % CI]", "miou", "ci95"),
    count_column("Images", "n_images"),
    count_column("Instances", "n_instances"),
)
"""Columns of a table of `SubgroupRow`."""


def record_subgroups(record: RunRecord, folder: Path) -> tuple[SubgroupRow, ...]:
    """Subgroups of the headline protocols of a record; none if its instances are not in the folder.

    A `DataError` is raised if they cannot be read.
    """
    path = None if record.instances is None else folder / record.instances
    if path is None or not path.exists():
        return ()
    tables = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    shown = queries.headline(record)
    # All accuracies of a run are of one dataset. Rows of models without one are left out, too.
    valid = {(row.model, protocol_of(row)) for row in record.miou if has_accuracy(row)}
    rows: list[SubgroupRow] = []
    for dataset in queries.unique(protocol.dataset for protocol in shown):
        tasks = {(each.protocol, each.reference) for each in shown if each.dataset == dataset}
        rows += subgroup_rows(tables, dataset, tasks, record.names)
    return tuple(row for row in rows if (row.model, subgroup_protocol(row)) in valid)


def subgroup_protocol(row: SubgroupRow) -> Protocol:
    """Protocol of a row."""
    return Protocol(row.dataset, row.reference, row.protocol)


def by_dimension(
    rows: Iterable[SubgroupRow],
) -> dict[tuple[Protocol, Dimension], list[SubgroupRow]]:
    """Rows by protocol and dimension, in order of appearance."""
    return grouped(((subgroup_protocol(row), row.dimension), row) for row in rows)


def subgroup_tables(rows: Sequence[SubgroupRow]) -> tuple[Table, ...]:
    """One table for each protocol and dimension."""
    tables = {}
    for (protocol, dimension), part in by_dimension(rows).items():
        parts = ("subgroups", dimension, protocol.protocol, protocol.reference)
        name = "-".join(map(slug, parts))
        name = f"{name}-{slug(protocol.dataset)}" if name in tables else name
        order = {name: index for index, name in enumerate(queries.unique(r.group for r in part))}
        part.sort(key=lambda row: order[row.group])
        notes = [NOTES[dimension], f"{INTERVALS.capitalize()}. CSV: fractions.", *few_images(part)]
        noun = queries.accuracy_name(protocol.reference, title=True)
        title = f"{noun} by {dimension}, {protocol.label}"
        columns = named_for(protocol.reference, COLUMNS)
        tables[name] = build_table(name, title, columns, part, notes)
    return tuple(tables.values())
