"""Tables, blocks between markers, and provenance of generated pages."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.evidence.pages import (
    PageColumn,
    markdown_table,
    measured_on,
    replace_block,
    split_at_markers,
    text_columns,
)
from mobilesam.errors import DataError


def test_tables_from_rows_of_any_kind() -> None:
    columns = (
        PageColumn("Name", lambda row: row["name"], align="left"),
        PageColumn("Time", lambda row: f"{row['ms']:.1f}", "ms"),
    )
    text = markdown_table(columns, [{"name": "a|b", "ms": 1.25}], ("a note", ""), "Title", "###")
    assert text.startswith("### Title\n")
    assert "| Name | Time (ms) |" in text
    assert "| a\\|b | 1.2 |" in text
    assert "- a note" in text
    texts = markdown_table(text_columns(("A", "", "left"), ("B", "s", "right")), [("x", "y")])
    assert texts.splitlines()[0] == "| A | B (s) |"
    assert "| x | y |" in texts


def test_a_block_is_replaced_between_its_markers(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<b>\nold\n<e>\nafter\n")
    assert replace_block(page, "<b>", "<e>", "new\n")
    assert not replace_block(page, "<b>", "<e>", "new\n")
    assert page.read_text() == "before\n<b>\nnew\n<e>\nafter\n"
    assert split_at_markers(page, "<b>", "<e>")[1] == "new\n"
    with pytest.raises(DataError, match="swap them"):
        split_at_markers(page, "<e>", "<b>")


def test_provenance_is_one_line() -> None:
    environment = {
        "cpu": "A <cpu>", "threads": 1, "allocator": "glibc", "python": "3.11",
        "libraries": {"torch": "2.5", "numpy": "2"}, "load_1min": 0.25,
        "git_commit": "abcdef0123456789", "git_dirty": True,
    }  # fmt: skip
    assert measured_on({"environment": environment}) == (
        "Measured on A &lt;cpu&gt;, 1 thread, glibc, load before it 0.2; Python 3.11, torch 2.5; "
        "commit abcdef012345 (changed).\n"
    )
