"""The part of README.md that is generated from a record, and the check that it is fresh."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from benchmarks.records.record import RunRecord, write_atomic
from benchmarks.tables.columns import WEIGHTS_COLUMN
from benchmarks.tables.formatting import escape_markdown
from benchmarks.tables.record_queries import model_names, shipped_models_notes
from benchmarks.tables.record_tables import headline_table
from mobilesam.errors import DataError

BEGIN = "<!-- results:begin -->"
END = "<!-- results:end -->"


README_MODELS = (
    "mobilesam",
    "mobilesam-fast",
    "mobilesam-onnx",
    "mobilesam-openvino",
    "grabcut",
    "box",
)
"""Models in the README's table; if a record has none of them, all its models are shown."""


def readme_block(record: RunRecord, record_paths: Sequence[str], links: Sequence[str] = ()) -> str:
    """The Markdown between the two markers: a short table, its notes, and where it comes from.

    Args:
        record: The run to show, or several that `merge_records` joined.
        record_paths: Paths of their records as a reader of the README finds them, with `/`.
        links: Lines of Markdown, such as links to other results of the runs.

    Returns:
        Lines that end with a newline, a function of the arguments alone.
    """
    present = [model for model in README_MODELS if model in model_names(record)]
    table = headline_table(record, present or None)
    # All MobileSAM rows use the same weights, which a note states.
    columns = tuple(replace(c, csv_only=c == WEIGHTS_COLUMN) for c in table.columns)
    weights = shipped_models_notes(record, present or model_names(record))
    table = replace(table, columns=columns, notes=(*table.notes, *weights))
    records = ", ".join(
        f"[{escape_markdown(PurePosixPath(path).parent.name)}]({path})" for path in record_paths
    )
    env = record.environment
    idle = (
        "" if env.other_load is None else f"; other processes used {env.other_load:.2f} of a core"
    )
    where = escape_markdown(
        f"Measured {record.created_utc[:10]} on {env.cpu} ({env.cpu_logical_cores} logical cores, "
        f"{env.ram_bytes / 2**30:.0f} GiB), {env.threads} threads, torch "
        f"{env.libraries.get('torch', 'unknown')}{idle}."
    )
    return (
        table.to_markdown(heading="")
        + f"\n{where} Records: {records}.\n"
        + ("\n" if links else "")
        + "".join(f"- {line}\n" for line in links)
    )


def update_readme(
    path: Path, record: RunRecord, record_paths: Sequence[Path], links: Sequence[str] = ()
) -> bool:
    """Writes the block of a record between the markers of a README.

    Args:
        path: The README; it must hold each marker once, on a line of its own.
        record: The run to show, or several that `merge_records` joined.
        record_paths: The records' files; printed relative to the README's folder.
        links: As for `readme_block`.

    Returns:
        Whether the file changed.

    Raises:
        DataError: The README cannot be read or written, or its markers are missing.
    """
    before, old, after = _split(path)
    new = _block(path, record, record_paths, links)
    if new == old:
        return False
    write_atomic(path, f"{before}{BEGIN}\n{new}{END}{after}".encode())
    return True


def readme_is_fresh(
    path: Path, record: RunRecord, record_paths: Sequence[Path], links: Sequence[str] = ()
) -> bool:
    """Whether a README shows exactly what `update_readme` would write.

    Raises:
        DataError: The README cannot be read, or its markers are missing.
    """
    return _split(path)[1] == _block(path, record, record_paths, links)


def _block(
    path: Path, record: RunRecord, record_paths: Sequence[Path], links: Sequence[str]
) -> str:
    folder = path.resolve().parent
    relative = [Path(os.path.relpath(each.resolve(), folder)).as_posix() for each in record_paths]
    return readme_block(record, relative, links)


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
