"""Printing on standard output: one JSON document, lines, or tables."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchmarks.tables.table import Table

TERMINAL_COLUMNS = 100
"""Width of a table that should fit a usual terminal."""
_WIDE_COLUMNS = 160


def print_json(document: Any) -> None:
    """Prints one JSON document."""
    sys.stdout.write(json.dumps(document, indent=1, allow_nan=False) + "\n")


def print_lines(*lines: str) -> None:
    """Prints lines."""
    sys.stdout.write("".join(f"{line}\n" for line in lines))


def print_table(table: Table, width: int = _WIDE_COLUMNS) -> None:
    """Prints a table as wide as the terminal, or with `width` columns if there is none."""
    from rich.console import Console

    wanted = None if sys.stdout.isatty() else width
    console = Console(file=sys.stdout, width=wanted, highlight=False)
    console.print(table.to_rich())


def text_table(
    title: str, columns: dict[str, str], rows: list[dict[str, str]], *notes: str, right: str = ""
) -> Table:
    """A table of text: `columns` has the header of each key; the one `right` is aligned there."""
    from benchmarks.tables.table import Cell, Column, Table

    heads = tuple(
        Column(header, (key,), align="right" if key == right else "left")
        for key, header in columns.items()
    )
    cells = tuple(tuple(Cell(row[key], (row[key],)) for key in columns) for row in rows)
    return Table("text", title, heads, cells, notes)
