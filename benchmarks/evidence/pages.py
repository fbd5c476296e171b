"""Parts that the generated pages of docs/ share: tables, provenance, and blocks between markers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any

from benchmarks.records.record import write_atomic
from benchmarks.tables.formatting import escape_markdown
from benchmarks.tables.table import Align, Cell, Column, Table
from mobilesam.errors import DataError

ROOT = Path(__file__).resolve().parents[2]
_LIBRARIES = ("torch", "segment-anything", "ultralytics")


@dataclass(frozen=True, slots=True)
class PageColumn:
    """A column of a table on a page.

    Attributes:
        header: Displayed header, without the unit.
        show: Formats the cell of a row.
        unit: Unit displayed after the header.
        align: `right` for numbers.
    """

    header: str
    show: Callable[[Any], str]
    unit: str = ""
    align: Align = "right"


def text_columns(*headers: tuple[str, str, Align]) -> list[PageColumn]:
    """Columns of rows that are tuples of texts, from header, unit and alignment of each."""
    return [
        PageColumn(header, itemgetter(index), unit, align)
        for index, (header, unit, align) in enumerate(headers)
    ]


def markdown_table(
    columns: Sequence[PageColumn],
    rows: Iterable[Any],
    notes: Iterable[str] = (),
    title: str = "",
    heading: str = "##",
) -> str:
    """A table in Markdown, with a heading if it has a title; empty notes are left out."""
    heads = tuple(
        Column(each.header, (str(index),), each.unit, each.align)
        for index, each in enumerate(columns)
    )
    cells = tuple(tuple(Cell(each.show(row), (None,)) for each in columns) for row in rows)
    table = Table("page", title, heads, cells, tuple(filter(None, notes)))
    return table.to_markdown(heading if title else "")


def measured_on(found: Mapping[str, Any]) -> str:
    """A line of Markdown: the machine, the software and the commit of a measurement.

    Args:
        found: A result whose `environment` is `benchmarks.records.record.Environment` as JSON.
    """
    here = found["environment"]
    features = here.get("cpu_features")
    cpu = here["cpu"] + (f" ({' '.join(features)})" if features else "")
    versions = here.get("libraries", {})
    software = [f"{name} {versions[name]}" for name in _LIBRARIES if name in versions]
    load = here.get("load_1min")
    threads = "1 thread" if here["threads"] == 1 else f"{here['threads']} threads"
    machine = [cpu, threads, here["allocator"]]
    if load is not None:
        machine.append(f"load before it {load:.1f}")
    changed = " (changed)" if here["git_dirty"] else ""
    commit = f"commit {str(here['git_commit'])[:12]}{changed}"
    parts = (", ".join(machine), ", ".join([f"Python {here['python']}", *software]), commit)
    return f"Measured on {escape_markdown('; '.join(parts))}.\n"


def render(template: str, **values: Any) -> str:
    """Fills a template of `templates/`; blank lines at the end are removed."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(  # noqa: S701 - Markdown, whose parts are escaped
        loader=PackageLoader("benchmarks.evidence"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    text = environment.get_template(template).render(measured_on=measured_on, **values)
    return text.rstrip("\n") + "\n"


def split_at_markers(path: Path, begin: str, end: str) -> tuple[str, str, str]:
    """Text of a page before its generated block, the block, and the text after it.

    Args:
        path: File of the page.
        begin: Marker before the block, on a line of its own.
        end: Marker after the block.

    Raises:
        DataError: The page cannot be read, or does not hold each marker once, in this order.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {path}: {error}") from error
    if text.count(begin) != 1 or text.count(end) != 1:
        raise DataError(f"{path} must hold {begin} and {end} once each; add them, one a line")
    before, rest = text.split(begin)
    if end not in rest:
        raise DataError(f"{path} holds {end} before {begin}; swap them")
    block, after = rest.split(end)
    return before, block.removeprefix("\n"), after


def replace_block(path: Path, begin: str, end: str, block: str) -> bool:
    """Writes a block between the markers of a page; returns whether it changed.

    Raises:
        DataError: The page cannot be read or written, or its markers are missing.
    """
    before, old, after = split_at_markers(path, begin, end)
    if block != old:
        write_atomic(path, f"{before}{begin}\n{block}{end}{after}".encode())
    return block != old


def write_page(page: Path, text: str) -> int:
    """Writes a page, whose path is relative to the checkout; returns the exit code 0."""
    write_atomic(ROOT / page, text.encode())
    return 0
