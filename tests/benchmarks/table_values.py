"""Reads the values of a table: its CSV rows, and the displayed texts of a column."""

from __future__ import annotations

import csv
import io

from benchmarks.tables.table import Table


def csv_rows(table: Table) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(table.to_csv())))


def column_texts(table: Table, header: str) -> list[str]:
    index = [column.header for column in table.columns].index(header)
    return [row[index].text for row in table.rows]
