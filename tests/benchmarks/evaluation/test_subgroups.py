"""Accuracy by subgroup, against numbers worked out from the rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from evaluation_doubles import instance_row, instances_table

from benchmarks.evaluation.subgroups import COMPLEXITY, CROWDING, SubgroupRow, subgroup_rows
from benchmarks.evaluation.summaries import SIZES
from benchmarks.records.instances import InstanceRow, write_instances
from benchmarks.records.statistics import clustered_mean

BOX = [("box", "ground-truth")]


def instances(n_images: int = 12) -> list[InstanceRow]:
    """Image n has n objects; every fifth has no centre prompt."""
    rng = np.random.default_rng(0)
    return [
        instance_row(
            100 * image + number,
            image,
            model,
            protocol,
            iou=float(rng.random()),
            area=(500.0, 5000.0, 50_000.0)[number % 3],
            category=("", "cat", "dog")[number % 3],
            boundary_complexity=(1.0, 1.75, 2.0, 9.0)[number % 4],
        )
        for image in range(1, n_images + 1)
        for number in range(image)
        for model in ("a", "b")
        for protocol in ("box", "center")
        if protocol == "box" or number % 5
    ]


def found(rows: Sequence[InstanceRow], dimension: str) -> dict[tuple[str, str], SubgroupRow]:
    return {
        (row.group, row.model): row
        for row in subgroup_rows([instances_table(rows)], "d", BOX)
        if row.dimension == dimension
    }


def test_means_counts_and_intervals_are_those_of_the_members() -> None:
    rows = [row for row in instances() if row.protocol == "box"]
    for row in found(rows, "category").values():
        members = [r for r in rows if r.category == row.group and r.model == row.model]
        ious = np.array([r.iou for r in members])
        wanted = clustered_mean(ious, np.array([r.image_id for r in members]))
        assert (row.n_instances, row.n_images) == (len(members), wanted.n_clusters)
        assert row.miou == pytest.approx(wanted.mean)
        assert row.ci95 == pytest.approx(wanted.ci95)


def test_groups_are_in_order_and_every_instance_is_in_one() -> None:
    rows = instances()
    wanted = {
        "size": list(SIZES),
        "category": ["cat", "dog"],
        "crowding": list(CROWDING)[:4],
        "boundary complexity": list(COMPLEXITY),
    }
    for dimension, names in wanted.items():
        groups = found(rows, dimension)
        assert list(dict.fromkeys(name for name, _ in groups)) == names
        n = sum(row.n_instances for (_, model), row in groups.items() if model == "a")
        without = 30 if dimension == "category" else 0  # objects that have none
        assert n == 78 - without
    # Half-open: 2.0 is in the higher bin.
    complexity = found(rows, "boundary complexity")
    assert complexity["1.5 to 2", "a"].n_instances == 21
    assert complexity["2 to 3", "a"].n_instances == 18


def test_crowding_counts_the_objects_of_all_protocols() -> None:
    crowding = found(instances(), "crowding")
    assert crowding["5 to 9", "a"].n_images == 5
    center = [
        row
        for row in subgroup_rows([instances_table(instances())], "d", [("center", "ground-truth")])
        if row.dimension == "crowding" and row.model == "a"
    ]
    # Image 1 has no centre prompt; image 6 has six objects, four of them with one.
    assert [(row.group, row.n_images) for row in center] == [
        ("2 to 4", 3), ("5 to 9", 5), ("10 to 19", 3),
    ]  # fmt: skip


def test_too_few_images_have_no_interval() -> None:
    crowding = found(instances(), "crowding")
    assert crowding["1 object", "a"].ci95 is None
    assert crowding["2 to 4", "a"].ci95 is not None


def test_tables_of_shards_and_the_order_of_rows_do_not_matter(tmp_path: Path) -> None:
    rows = instances()
    whole = subgroup_rows([write_instances(rows, tmp_path / "whole.parquet")], "d", BOX)
    parts = [
        write_instances([r for r in rows[::-1] if r.image_id % 3 == part], tmp_path / f"{part}.p")
        for part in range(3)
    ]
    again = subgroup_rows(parts, "d", BOX)
    assert {(r.dimension, r.group, r.model, r.n_instances, round(r.miou, 12)) for r in whole} == {
        (r.dimension, r.group, r.model, r.n_instances, round(r.miou, 12)) for r in again
    }


def test_an_older_table_gives_all_but_the_boundary_complexity(tmp_path: Path) -> None:
    path = write_instances(instances(), tmp_path / "a.parquet")
    pq.write_table(pq.read_table(path).drop_columns(["boundary_complexity"]), path)
    rows = subgroup_rows([path], "d", BOX)
    assert {row.dimension for row in rows} == {"size", "category", "crowding"}
