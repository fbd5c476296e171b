"""The part of README.md that is generated from a record, and the check that it is fresh."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from benchmarks.records import RunRecord, write_atomic
from benchmarks.report.formatting import escape_markdown
from benchmarks.report.summary import provenance, summary_table
from mobilesam.errors import DataError

BEGIN = "<!-- results:begin -->"
END = "<!-- results:end -->"


def readme_block(record: RunRecord, record_path: str, links: Sequence[str] = ()) -> str:
    """The Markdown between the two markers: the summary, what belongs to it, where it comes from.

    Args:
        record: The run to show.
        record_path: Path of its record as a reader of the README finds it, with `/`.
        links: Lines of Markdown, such as links to what else was made of the run.

    Returns:
        Lines that end with a newline, a function of the arguments alone.
    """
    lines = [f"Record: {record_path}", f"Run: {record.id}", *provenance(record)]
    return (
        summary_table(record).to_markdown(heading="")
        + ("\nSee also:\n\n" if links else "")
        + "".join(f"- {line}\n" for line in links)
        + "\nWhere these numbers come from:\n\n"
        + "".join(f"- {escape_markdown(line)}\n" for line in lines)
    )


def update_readme(
    path: Path, record: RunRecord, record_path: Path, links: Sequence[str] = ()
) -> bool:
    """Writes the block of a record between the markers of a README.

    Args:
        path: The README; it must hold each marker once, on a line of its own.
        record: The run to show.
        record_path: The record's file; printed relative to the README's folder.
        links: As for `readme_block`.

    Returns:
        Whether the file changed.

    Raises:
        DataError: The README cannot be read or written, or its markers are missing.
    """
    before, old, after = _split(path)
    new = _block(path, record, record_path, links)
    if new == old:
        return False
    write_atomic(path, f"{before}{BEGIN}\n{new}{END}{after}".encode())
    return True


def readme_is_fresh(
    path: Path, record: RunRecord, record_path: Path, links: Sequence[str] = ()
) -> bool:
    """Whether a README shows exactly what `update_readme` would write.

    Raises:
        DataError: The README cannot be read, or its markers are missing.
    """
    return _split(path)[1] == _block(path, record, record_path, links)


def _block(path: Path, record: RunRecord, record_path: Path, links: Sequence[str]) -> str:
    relative = os.path.relpath(record_path.resolve(), path.resolve().parent)
    return readme_block(record, Path(relative).as_posix(), links)


def _split(path: Path) -> tuple[str, str, str]:
    """Text before the first marker, between the two, and after the second."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {path}: {error}") from error
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise DataError(f"{path} must hold {BEGIN} and {END} once each; add them, one a line")
    before, rest = text.split(BEGIN)
    if END not in rest:
        raise DataError(f"{path} holds {END} before {BEGIN}; swap them")
    block, after = rest.split(END)
    return before, block.removeprefix("\n"), after
