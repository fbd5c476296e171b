"""Tables of subgroups of a run, as files and on the page of the report."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from benchmarks.records.instances import read_instances
from benchmarks.records.record import load_record
from benchmarks.report.page import find_subgroups
from benchmarks.tables.subgroup_tables import record_subgroups, subgroup_tables
from mobilesam.errors import DataError


def test_a_run_writes_its_subgroups_and_the_report_shows_them(run: Any, scenes: Any) -> None:
    arguments = ("--models=box,dummy", *scenes.arguments, "--protocol=box", "--out=o")
    assert run("miou", *arguments).code == 0
    names = {path.stem for path in Path("o/tables").glob("subgroups-*.md")}
    kinds = ("size", "category", "crowding", "boundary-complexity")
    assert names == {f"subgroups-{kind}-box-ground-truth" for kind in kinds}
    text = Path("o/tables/subgroups-crowding-box-ground-truth.csv").read_text()
    rows = list(csv.DictReader(io.StringIO(text)))
    frame = read_instances(Path("o/instances.parquet"))
    for model in ("box", "dummy"):
        n = sum(int(row["n_instances"]) for row in rows if row["model"] == model)
        assert n == (frame.model == model).sum()
    assert frame["boundary_complexity"].between(0.5, 100).all()

    # An older run, without the column, has the other three.
    table = pq.read_table("o/instances.parquet").drop_columns(["boundary_complexity"])
    pq.write_table(table, "o/instances.parquet")
    assert run("report", "o", "--out=r.html").code == 0
    page = Path("r.html").read_text()
    shown = set(re.findall(r"<figcaption>Box, by ([a-z ]+): ", page))
    assert {"size", "category", "crowding"} <= shown
    assert "boundary complexity" not in shown

    # A damaged table is a warning of the page.
    Path("o/instances.parquet").write_bytes(b"damaged")
    rows, (problem,) = find_subgroups([(Path("o"), load_record(Path("o")))])
    assert rows == []
    assert problem.startswith("subgroups left out: cannot read instances from o/instances")


def test_a_record_without_its_instances_has_none(record: Any, tmp_path: Path) -> None:
    named = record.model_copy(update={"instances": "instances.parquet"})
    for each in (record, named):
        assert record_subgroups(each, tmp_path) == ()
    assert subgroup_tables(()) == ()
    (tmp_path / "instances.parquet").write_bytes(b"damaged")
    with pytest.raises(DataError, match="cannot read instances"):
        record_subgroups(named, tmp_path)
