"""A table as a value, and its four outputs: Markdown, CSV, LaTeX and the terminal."""

from __future__ import annotations

import csv
import io
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from benchmarks.records.record import write_atomic
from benchmarks.tables.formatting import clean, escape_latex, escape_markdown

if TYPE_CHECKING:
    from rich.table import Table as RichTable

Raw = str | int | float | None
Align = Literal["left", "right"]
_EMPTY = "Nothing was measured."
_GAP = 2
"""Blanks between two columns on the terminal."""
_TEXT_WIDTH = 24
"""Text wraps on the terminal in columns of at least this width, in characters."""
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""First characters of text that spreadsheets interpret as a formula."""


@dataclass(frozen=True, slots=True)
class Column:
    """A displayed column, and the CSV columns behind it, whose names are distinct within a table.

    Columns that are `csv_only` are left out of all other outputs. On a terminal that is too narrow,
    columns are left out in the order of their rank, the highest first; those of rank 0 stay.
    """

    header: str
    raw: tuple[str, ...]
    unit: str = ""
    align: Align = "left"
    csv_only: bool = False
    rank: int = 0

    @property
    def title(self) -> str:
        """Header and unit, such as `Encode (ms)`."""
        return f"{self.header} ({self.unit})" if self.unit else self.header


@dataclass(frozen=True, slots=True)
class Cell:
    """Displayed text, a value for each CSV column, a footnote, and a reason that gets a number."""

    text: str
    raw: tuple[Raw, ...]
    note: str | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Table:
    """A table with its footnotes; `name` is the stem of its files, such as `latency`.

    Raises:
        ValueError: A row or a cell does not fit the columns, or two CSV columns share a name.
    """

    name: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        names = self.raw_names
        if len(set(names)) != len(names):
            raise ValueError(f"table {self.name}: CSV columns share a name: {names}")
        widths = [len(column.raw) for column in self.columns]
        for index, row in enumerate(self.rows):
            if [len(cell.raw) for cell in row] != widths:
                raise ValueError(f"table {self.name}: row {index} does not fit its columns")

    @property
    def raw_names(self) -> tuple[str, ...]:
        """Names of the CSV columns."""
        return tuple(name for column in self.columns for name in column.raw)

    @property
    def footnotes(self) -> tuple[str, ...]:
        """Notes of the table and of its displayed cells, each once."""
        cells = (cell.note for row in self._displayed for cell in row if cell.note)
        return tuple(dict.fromkeys([*self.notes, *cells]))

    @property
    def _heads(self) -> list[Column]:
        return [column for column in self.columns if not column.csv_only]

    @property
    def _displayed(self) -> list[list[Cell]]:
        shown = [index for index, column in enumerate(self.columns) if not column.csv_only]
        return [[row[index] for index in shown] for row in self.rows]

    def to_markdown(self, heading: str = "##") -> str:
        """GitHub's Markdown with a heading; an empty `heading` leaves the title out."""
        lines = [f"{heading} {escape_markdown(self.title)}", ""] if heading else []
        if self.rows:
            rule = ["---:" if head.align == "right" else "---" for head in self._heads]
            titles = [escape_markdown(head.title) for head in self._heads]
            body = [[escape_markdown(cell.text) for cell in row] for row in self._displayed]
            lines += [f"| {' | '.join(cells)} |" for cells in (titles, rule, *body)]
        else:
            lines.append(_EMPTY)
        if self.footnotes:
            lines += ["", *(f"- {escape_markdown(note)}" for note in self.footnotes)]
        return "\n".join(lines) + "\n"

    def to_csv(self) -> str:
        """CSV of the raw values: numbers unrounded, missing values empty.

        Text that a spreadsheet would interpret as a formula starts with an apostrophe.
        """
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerow([_csv_field(name) for name in self.raw_names])
        for row in self.rows:
            writer.writerow([_csv_field(value) for cell in row for value in cell.raw])
        return buffer.getvalue()

    def to_latex(self) -> str:
        """A `table` environment for booktabs and T1 fonts, with all text escaped."""

        def line(texts: list[str]) -> str:
            return " & ".join(escape_latex(text) for text in texts) + r" \\"

        spec = "".join("r" if head.align == "right" else "l" for head in self._heads)
        body = [line([cell.text for cell in row]) for row in self._displayed]
        lines = [
            "% needs \\usepackage{booktabs} and \\usepackage[T1]{fontenc}",
            r"\begin{table}",
            rf"\caption{{{escape_latex(self.title)}}}",
            rf"\begin{{tabular}}{{{spec}}}",
            r"\toprule",
            line([head.title for head in self._heads]),
            r"\midrule",
            *(body or [rf"\multicolumn{{{len(spec)}}}{{l}}{{{_EMPTY}}} \\"]),
            r"\bottomrule",
            r"\end{tabular}",
            *(rf"\par\footnotesize {escape_latex(note)}" for note in self.footnotes),
            r"\end{table}",
        ]
        return "\n".join(lines) + "\n"

    def fitting(self, width: int | None) -> tuple[Table, list[str]]:
        """Leaves out columns until the table fits a terminal of `width` characters.

        Columns with the same text in all of several rows go first, then those of the highest rank.
        Returns the table, and the titles of the columns left out, with that text.
        """
        if width is None:
            return self, []
        shown = [index for index, column in enumerate(self.columns) if not column.csv_only]
        constant = {
            index: texts.pop()
            for index in shown
            if len(self.rows) > 1 and len(texts := {row[index].text for row in self.rows}) == 1
        }
        optional = [index for index in shown if self.columns[index].rank]
        optional.sort(key=lambda index: (index in constant, self.columns[index].rank, index))
        left_out: set[int] = set()
        widths = {index: self._width_range(index)[0] for index in shown}
        while optional and _total_width(widths.values()) > width:
            left_out.add(index := optional.pop())
            del widths[index]
        titles = [
            f"{self.columns[index].title} ({constant[index] or 'empty'} in all rows)"
            if index in constant
            else self.columns[index].title
            for index in sorted(left_out)
        ]
        kept = [index for index in range(len(self.columns)) if index not in left_out]
        columns = tuple(self.columns[index] for index in kept)
        rows = tuple(tuple(row[index] for index in kept) for row in self.rows)
        return Table(self.name, self.title, columns, rows, self.notes), titles

    def _width_range(self, index: int) -> tuple[int, int]:
        """Width of a column in which no number or word is broken, and in which no cell is."""
        from rich.cells import cell_len

        head = self.columns[index]
        cells = [cell_len(clean(row[index].text)) for row in self.rows]
        words = [cell_len(word) for row in self.rows for word in clean(row[index].text).split()]
        least_head = max(map(cell_len, head.title.split()), default=0)
        least = widest = max(cells, default=0)
        if head.align == "left":
            least = min(widest, max([*words, _TEXT_WIDTH]))
        return max(least, least_head), max(widest, cell_len(head.title))

    def to_rich(self, width: int | None = None) -> RichTable:
        """The rows for the terminal, without title and notes; markup is printed as it is.

        `width` is that of the terminal in characters; None leaves all columns as wide as their
        text.
        """
        from rich.box import SIMPLE_HEAD
        from rich.table import Table as RichTable
        from rich.text import Text

        shown = [index for index, column in enumerate(self.columns) if not column.csv_only]
        ranges = [self._width_range(index) for index in shown]
        widths = [least for least, _ in ranges]
        room = 10**6 if width is None else max(0, width - _total_width(widths))
        for place, (least, natural) in enumerate(ranges):
            more = min(room, natural - least)
            widths[place] += more
            room -= more
        table = RichTable(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
        for head, column_width in zip(self._heads, widths, strict=True):
            title = Text(clean(head.title))
            table.add_column(title, justify=head.align, overflow="fold", width=column_width)
        for row in self._displayed:
            table.add_row(*(Text(clean(cell.text)) for cell in row))
        return table

    def write(self, folder: Path, stem: str | None = None) -> list[Path]:
        """Writes `STEM.md`, `.csv` and `.tex` into a folder; the stem is the name by default."""
        outputs = {"md": self.to_markdown, "csv": self.to_csv, "tex": self.to_latex}
        paths = {suffix: folder / f"{stem or self.name}.{suffix}" for suffix in outputs}
        for suffix, path in paths.items():
            write_atomic(path, outputs[suffix]().encode())
        return list(paths.values())


def _total_width(widths: Collection[int]) -> int:
    """Width of a table on the terminal, with the blanks between its columns and at its edges."""
    return sum(widths) + _GAP * (len(widths) - 1) + 2


def _csv_field(value: Raw) -> str | int | float:
    if value is None:
        return ""
    if not isinstance(value, str):
        return value
    # CSV readers reject a lone carriage return, which the writer does not quote.
    text = value.replace("\r\n", "\n").replace("\r", "\n")
    if not value.startswith(_FORMULA):
        return text
    try:
        float(value)
    except ValueError:
        return f"'{text}"
    return text
