"""The table of instances."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from benchmarks.records.instances import (
    COLUMNS,
    InstanceRow,
    parquet_file,
    read_instances,
    to_frame,
    write_instances,
)
from mobilesam.errors import DataError


def row(annotation_id: int, boundary_iou: float | None = None) -> InstanceRow:
    return InstanceRow(
        image_id=7, annotation_id=annotation_id, model="box", protocol="box",
        reference="ground-truth", iou=0.5, boundary_iou=boundary_iou, score=1.0, area=12.5,
        category="",
    )  # fmt: skip


def test_a_table_is_read_as_it_was_written(tmp_path: Path) -> None:
    rows = [row(1), row(2, 0.25)]
    frame = read_instances(write_instances(rows, tmp_path / "a.parquet"))
    assert tuple(frame.columns) == COLUMNS
    assert frame["boundary_iou"].isna().tolist() == [True, False]
    assert frame.astype(object).equals(to_frame(rows).astype(frame.dtypes).astype(object))
    assert list(read_instances(tmp_path / "a.parquet", ["iou"]).columns) == ["iou"]


def test_an_older_table_lacks_the_optional_column(tmp_path: Path) -> None:
    path = write_instances([row(1), row(2)], tmp_path / "a.parquet")
    old = pq.read_table(path).drop_columns(["boundary_complexity"])
    pq.write_table(old, tmp_path / "old.parquet")
    frame = read_instances(tmp_path / "old.parquet")
    assert tuple(frame.columns) == COLUMNS
    assert frame["boundary_complexity"].isna().all()
    assert frame["annotation_id"].tolist() == [1, 2]
    with pytest.raises(DataError, match="cannot read instances"):
        read_instances(tmp_path / "old.parquet", ["colour"])


def test_a_folder_of_files_is_one_table(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        write_instances([row(number)], tmp_path / "all" / f"{number}.parquet")
    assert sorted(read_instances(tmp_path / "all")["annotation_id"]) == [1, 2, 3]


def test_the_same_rows_are_the_same_file() -> None:
    assert parquet_file(InstanceRow, [row(1)], {b"a": b"b"}) == parquet_file(
        InstanceRow, [row(1)], {b"a": b"b"}
    )
    assert parquet_file(InstanceRow, [row(1)]) != parquet_file(InstanceRow, [row(2)])


def test_files_that_are_no_tables_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("hello")
    for name in ("text", "absent"):
        with pytest.raises(DataError, match=f"cannot read instances from .*{name}"):
            read_instances(tmp_path / name)
