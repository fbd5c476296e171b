"""Outputs of a table: Markdown, CSV, LaTeX and the terminal."""

from __future__ import annotations

import io
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from table_values import csv_rows

from benchmarks.tables.formatting import escape_latex
from benchmarks.tables.table import Cell, Column, Table

HOSTILE = "a|b&c_d%e<script>$x${y}~^#\\`*[z](u)\x1b[31m\nnew"


def one_cell(text: str) -> Table:
    cell = Cell(text, (text,))
    return Table("t", text, (Column(text, ("x",)),), ((cell,),), (text,))


def test_markdown_escapes_foreign_text() -> None:
    text = one_cell(HOSTILE).to_markdown()
    assert "<script>" not in text
    assert "&lt;script&gt;" in text
    assert "\x1b" not in text
    assert "](u)" not in text.replace("\\](u)", "")
    row = text.splitlines()[4]
    assert len(re.findall(r"(?<!\\)\|", row)) == 2  # only the two borders


def test_markdown_keeps_intervals_readable() -> None:
    assert "1.2 [1.1, 1.3]" in one_cell("1.2 [1.1, 1.3]").to_markdown()


def test_latex_escapes_foreign_text() -> None:
    text = one_cell(HOSTILE).to_latex()
    body = text[text.index(r"\midrule") : text.index(r"\bottomrule")]
    assert r"a\textbar{}b\&c\_d\%e\textless{}script\textgreater{}\$x\$\{y\}" in body
    assert r"\textasciitilde{}\textasciicircum{}\#\textbackslash{}\textasciigrave{}" in body
    assert body.count(" & ") == 0


@pytest.mark.parametrize("start", ["[x]", "*x"])
def test_latex_cell_is_not_an_argument_of_the_line_break(start: str) -> None:
    line = one_cell(start).to_latex().split("\\midrule\n")[1]
    assert line.startswith("{")


def test_table_refuses_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="row 0"):
        Table("t", "t", (Column("a", ("a", "b")),), ((Cell("x", (1,)),),))
    with pytest.raises(ValueError, match="share a name"):
        Table("t", "t", (Column("a", ("a",)), Column("b", ("a",))), ())


@settings(derandomize=True, deadline=None, max_examples=100)
@given(st.text(min_size=0, max_size=40))
def test_any_text_stays_within_its_cell(text: str) -> None:
    lines = one_cell(text).to_markdown(heading="").splitlines()
    assert len(re.findall(r"(?<!\\)(?:\\\\)*\|", lines[2])) == 2
    (row,) = csv_rows(Table("t", "t", (Column("t", ("x",)),), ((Cell(text, (text,)),),)))
    assert row["x"].removeprefix("'").splitlines() == text.removeprefix("'").splitlines()
    assert len(re.findall(r"(?<!\\)[&%$#_]", escape_latex(text))) == 0


def test_rich_reads_no_markup() -> None:
    from rich.console import Console

    console = Console(width=200, file=io.StringIO(), record=True)
    console.print(one_cell("[bold]x[/bold] \x1b[31mred").to_rich())
    shown = console.export_text(styles=True)
    assert "[bold]x[/bold]" in shown
    assert "\x1b[31m" not in shown


def test_csv_quotes_text_that_a_spreadsheet_would_run() -> None:
    for text in ("=1+2", "+1 x", "-a", "@sum", "\tx", "\r="):
        assert csv_rows(one_cell(text)) == [{"x": f"'{text}".replace("\r", "\n")}]
    for text in ("-1.5", "+2", "a=1", "1e-3", "", 'a,"b"'):
        assert csv_rows(one_cell(text)) == [{"x": text}]
