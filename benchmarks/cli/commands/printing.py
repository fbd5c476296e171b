"""Printing on standard output: one JSON document, or tables."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchmarks.tables.table import Table


def print_json(document: Any) -> None:
    """Prints one JSON document."""
    sys.stdout.write(json.dumps(document, indent=1, allow_nan=False) + "\n")


TERMINAL_COLUMNS = 100
"""Width of a table that should fit a usual terminal."""
_WIDE_COLUMNS = 160


def print_table(table: Table, width: int = _WIDE_COLUMNS) -> None:
    """Prints a table as wide as the terminal.

    Args:
        table: What to print.
        width: Number of columns if standard output is not a terminal.
    """
    from rich.console import Console

    wanted = None if sys.stdout.isatty() else width
    console = Console(file=sys.stdout, width=wanted, highlight=False)
    console.print(table.to_rich())
