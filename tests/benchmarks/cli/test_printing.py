"""Tables on the terminal: their columns depend on its width, and nothing is cut silently."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from example_records import MODELS, build_record, many_rows
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.cli.commands.printing import PIPE_COLUMNS, all_columns, print_table, terminal_width
from benchmarks.records.record import RunRecord
from benchmarks.tables.accuracy_tables import accuracy_tables
from benchmarks.tables.record_tables import headline_table, latency_table, params_table
from benchmarks.tables.table import Cell, Column, Table

WIDTHS = (80, 100, 160)


@pytest.fixture(scope="module")
def tables() -> Sequence[Table]:
    names = [name for name in MODELS if "/" not in name]  # a very long name is folded
    record: RunRecord = build_record(names, miou=[row for each in names for row in many_rows(each)])
    found = (headline_table(record), params_table(record), latency_table(record))
    return [table for table in (*found, *accuracy_tables(record)) if table.rows]


@pytest.mark.parametrize("width", WIDTHS)
def test_tables_fit_and_name_what_they_leave_out(
    tables: Sequence[Table],
    width: int,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    for table in tables:
        print_table(table)
        text = capsys.readouterr().out
        assert max(map(len, text.splitlines())) <= width
        assert "…" not in text
        shown, left_out = table.fitting(width)
        titles = {column.title for column in shown.columns}
        for column in table.columns:
            assert column.csv_only or column.title in titles or column.title in " ".join(left_out)
        words = text.split()
        for row in table.rows:
            assert set(row[0].text.split()) <= set(words)
        assert ("Left out to fit" in text) == bool(left_out)


def test_all_columns_are_printed_on_request(
    tables: Sequence[Table], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with all_columns(wanted=True):
        for table in tables:
            print_table(table)
            text = capsys.readouterr().out
            assert "Left out" not in text
            lines = text.splitlines()
            for column in table.columns:
                assert column.csv_only or any(column.title in line for line in lines)
            for row in table.rows:
                texts = [cell.text for c, cell in zip(table.columns, row, strict=True)
                         if not c.csv_only]  # fmt: skip
                assert any(all(each in line for each in texts) for line in lines)


def test_the_width_is_that_of_columns_or_of_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "123")
    assert terminal_width() == 123
    monkeypatch.delenv("COLUMNS")
    monkeypatch.setattr("sys.__stdout__", io.StringIO())
    assert terminal_width() == PIPE_COLUMNS


def test_the_option_wide_is_for_every_command(run: Callable[..., Any], monkeypatch: Any) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    narrow, wide = run("models"), run("models", "--wide")
    assert "Left out to fit 80 columns" in narrow.out
    assert "Left out" not in wide.out
    assert "Commercial" in wide.out.splitlines()[2]
    assert run("models").out == narrow.out  # it holds for one command


CELLS = st.text("ab 1…", max_size=30)


@given(
    st.lists(st.tuples(st.booleans(), st.integers(0, 3)), min_size=1, max_size=8),
    st.integers(1, 200),
    st.data(),
)
def test_columns_of_the_lowest_rank_stay(
    heads: list[tuple[bool, int]], width: int, data: st.DataObject
) -> None:
    columns = tuple(
        Column(f"h{i}", (str(i),), align="right" if right else "left", rank=rank)
        for i, (right, rank) in enumerate(heads)
    )
    texts = data.draw(
        st.lists(st.lists(CELLS, min_size=len(heads), max_size=len(heads)), max_size=4)
    )
    rows = tuple(tuple(Cell(text, (text,)) for text in row) for row in texts)
    table = Table("t", "t", columns, rows)
    shown, left_out = table.fitting(width)
    assert len(shown.columns) + len(left_out) == len(columns)
    assert {column for column in columns if column.rank == 0} <= set(shown.columns)
    wider, fewer = table.fitting(width + 50)
    assert set(shown.columns) <= set(wider.columns)
    assert len(fewer) <= len(left_out)
