"""Printing on standard output: one JSON document, lines, or tables."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchmarks.tables.table import Table

PIPE_COLUMNS = 100
"""Width of tables where standard output is no terminal and COLUMNS is not set."""
_WIDE: ContextVar[bool] = ContextVar("all columns of tables", default=False)


@contextmanager
def all_columns(*, wanted: bool) -> Iterator[None]:
    """Prints tables with all columns, however wide, while the block runs."""
    token = _WIDE.set(wanted)
    try:
        yield
    finally:
        _WIDE.reset(token)


def terminal_width() -> int:
    """Width of the output in characters: COLUMNS, the terminal's, or `PIPE_COLUMNS`."""
    return shutil.get_terminal_size((PIPE_COLUMNS, 24)).columns


def print_json(document: Any) -> None:
    """Prints one JSON document."""
    sys.stdout.write(json.dumps(document, indent=1, allow_nan=False) + "\n")


def print_lines(*lines: str) -> None:
    """Prints lines."""
    sys.stdout.write("".join(f"{line}\n" for line in lines))


def print_table(table: Table) -> None:
    """Prints a table with the columns that fit, its notes, and which columns were left out."""
    from rich.console import Console

    from benchmarks.tables.formatting import clean

    width = terminal_width()
    shown, left_out = table.fitting(None if _WIDE.get() else width)
    notes = list(shown.footnotes)
    if left_out:
        notes.append(f"Left out to fit {width} columns: {', '.join(left_out)}; --wide shows them.")
    rows = shown.to_rich(None if _WIDE.get() else width)
    console = Console(file=sys.stdout, width=width, highlight=False)
    console.print(clean(shown.title), style="bold", markup=False)
    wide = Console(file=sys.stdout, width=10**4) if _WIDE.get() else console
    wide.print(rows)
    for note in notes:
        console.print(clean(note), style="dim", markup=False)
    console.print()


def text_table(
    title: str,
    columns: dict[str, str],
    rows: list[dict[str, str]],
    *notes: str,
    right: str = "",
    optional: Sequence[str] = (),
) -> Table:
    """A table of text: `columns` has the header of each key.

    The column `right` is aligned there. Columns `optional` are left out of a narrow terminal, the
    last one first.
    """
    from benchmarks.tables.table import Cell, Column, Table

    ranks = {key: rank for rank, key in enumerate(optional, start=1)}
    heads = tuple(
        Column(header, (key,), align="right" if key == right else "left", rank=ranks.get(key, 0))
        for key, header in columns.items()
    )
    cells = tuple(tuple(Cell(row[key], (row[key],)) for key in columns) for row in rows)
    return Table("text", title, heads, cells, notes)
