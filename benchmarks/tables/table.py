"""A table as a value, and the four forms it is printed in: Markdown, CSV, LaTeX, terminal."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from benchmarks.tables.formatting import clean, escape_latex, escape_markdown

if TYPE_CHECKING:
    from rich.table import Table as RichTable

Raw = str | int | float | None
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""First characters of text that spreadsheets interpret as a formula."""
Align = Literal["left", "right"]


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table for people, and the columns of the CSV that it stands for.

    Attributes:
        header: What people read, without the unit.
        raw: Names of the CSV columns, each with its unit, such as `encode_ms`; all distinct
            within a table.
        unit: Unit as printed behind the header; empty for text.
        align: Numbers are aligned to the right.
        csv_only: People are told in another way, such as a note that holds for all rows.
    """

    header: str
    raw: tuple[str, ...]
    unit: str = ""
    align: Align = "left"
    csv_only: bool = False

    @property
    def title(self) -> str:
        """Header and unit, such as `Encode (ms)`."""
        return f"{self.header} ({self.unit})" if self.unit else self.header


@dataclass(frozen=True, slots=True)
class Cell:
    """Displayed text of one cell, and the raw values behind it, one for each CSV column.

    Attributes:
        text: Displayed text.
        raw: Values of the CSV columns.
        note: Explanation of the text, printed once below the table; None if it needs none.
    """

    text: str
    raw: tuple[Raw, ...]
    note: str | None = None


@dataclass(frozen=True, slots=True)
class Table:
    """A table with its footnotes.

    Attributes:
        name: Stem of its files, such as `latency`.
        title: One line.
        columns: At least one.
        rows: Cells, as many in each row as there are columns.
        notes: Plain sentences printed below.

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
        for index, row in enumerate(self.rows):
            widths = [len(cell.raw) for cell in row]
            if widths != [len(column.raw) for column in self.columns]:
                raise ValueError(f"table {self.name}: row {index} does not fit its columns")

    @property
    def raw_names(self) -> tuple[str, ...]:
        """Names of the CSV columns, in order."""
        return tuple(name for column in self.columns for name in column.raw)

    @property
    def footnotes(self) -> tuple[str, ...]:
        """Notes of the table and of the displayed cells, without repetition."""
        cells = (row[i].note for row in self.rows for i in self._shown)
        return tuple(dict.fromkeys([*self.notes, *(note for note in cells if note)]))

    @property
    def _shown(self) -> tuple[int, ...]:
        return tuple(i for i, column in enumerate(self.columns) if not column.csv_only)

    @property
    def _heads(self) -> list[Column]:
        return [self.columns[i] for i in self._shown]

    @property
    def _texts(self) -> list[list[str]]:
        return [[row[i].text for i in self._shown] for row in self.rows]

    def to_markdown(self, heading: str = "##") -> str:
        """GitHub's Markdown with a heading; an empty `heading` leaves the title out."""
        lines = [f"{heading} {escape_markdown(self.title)}", ""] if heading else []
        if self.rows:
            lines.append(_markdown_row([escape_markdown(head.title) for head in self._heads]))
            lines.append(
                _markdown_row(["---:" if head.align == "right" else "---" for head in self._heads])
            )
            lines += [_markdown_row([escape_markdown(text) for text in row]) for row in self._texts]
        else:
            lines.append("Nothing was measured.")
        if self.footnotes:
            lines += ["", *(f"- {escape_markdown(note)}" for note in self.footnotes)]
        return "\n".join(lines) + "\n"

    def to_csv(self) -> str:
        """Raw values at full precision; an absent value is an empty field. RFC 4180, LF.

        Text that a spreadsheet would interpret as a formula is prefixed with an apostrophe.
        """
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerow([_field(name) for name in self.raw_names])
        for row in self.rows:
            writer.writerow([_field(value) for cell in row for value in cell.raw])
        return buffer.getvalue()

    def to_latex(self) -> str:
        """A `table` environment for booktabs and T1 fonts; everything foreign is escaped."""
        spec = "".join("r" if head.align == "right" else "l" for head in self._heads)
        body = [_latex_row(row) for row in self._texts]
        if not body:
            body = [rf"\multicolumn{{{len(spec)}}}{{l}}{{Nothing was measured.}} \\"]
        notes = [rf"\par\footnotesize {escape_latex(note)}" for note in self.footnotes]
        return "\n".join(
            [
                "% needs \\usepackage{booktabs} and \\usepackage[T1]{fontenc}",
                r"\begin{table}",
                rf"\caption{{{escape_latex(self.title)}}}",
                rf"\begin{{tabular}}{{{spec}}}",
                r"\toprule",
                _latex_row([head.title for head in self._heads]),
                r"\midrule",
                *body,
                r"\bottomrule",
                r"\end{tabular}",
                *notes,
                r"\end{table}",
                "",
            ]
        )

    def to_rich(self) -> RichTable:
        """A table for the terminal; foreign text is never read as markup."""
        from rich.box import SIMPLE_HEAD
        from rich.table import Table as RichTable
        from rich.text import Text

        notes = "\n".join(clean(note) for note in self.footnotes)
        caption = Text(notes) if notes else None
        table = RichTable(
            title=Text(clean(self.title)),
            title_justify="left",
            caption=caption,
            caption_justify="left",
            box=SIMPLE_HEAD,
            pad_edge=False,
            collapse_padding=True,
        )
        for head in self._heads:
            table.add_column(Text(clean(head.title)), justify=head.align, overflow="fold")
        for row in self._texts:
            table.add_row(*(Text(clean(text)) for text in row))
        return table


def _field(value: Raw) -> str | int | float:
    """Converts a value to a CSV field; numbers are unchanged, also those given as text."""
    if value is None:
        return ""
    if not isinstance(value, str):
        return value
    # CSV readers reject a lone carriage return, which the writer does not quote.
    text = value.replace("\r\n", "\n").replace("\r", "\n")
    return f"'{text}" if value.startswith(_FORMULA) and not _is_number(value) else text


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _markdown_row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _latex_row(cells: list[str]) -> str:
    return " & ".join(escape_latex(cell) for cell in cells) + r" \\"
