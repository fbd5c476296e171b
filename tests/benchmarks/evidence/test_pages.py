"""Templates, blocks between markers, and provenance of generated pages."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.evidence.pages import measured_on, render, replace_block, split_at_markers
from mobilesam.errors import DataError


def test_a_template_without_its_values_is_an_error() -> None:
    with pytest.raises(DataError, match=r"^a\.json is no result: .*stream"):
        render("scale.md", "a.json is no result")


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
