"""Parts that the generated pages of docs/ share: templates, provenance, blocks between markers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.records.record import write_atomic
from benchmarks.tables.formatting import escape_markdown, number
from mobilesam.errors import DataError

ROOT = Path(__file__).resolve().parents[2]
_LIBRARIES = ("torch", "segment-anything", "ultralytics")


def measured_on(found: Mapping[str, Any]) -> str:
    """A line of Markdown: machine, software and commit of a result, from its `environment`."""
    here = found["environment"]
    features, versions = here.get("cpu_features"), here.get("libraries", {})
    machine = [
        here["cpu"] + (f" ({' '.join(features)})" if features else ""),
        *([f"limited to {found['isa'].upper()} instructions"] if found.get("isa") else []),
        "1 thread" if here["threads"] == 1 else f"{here['threads']} threads",
        here["allocator"],
    ]
    if here.get("load_1min") is not None:
        machine.append(f"load before it {here['load_1min']:.1f}")
    software = [f"{name} {versions[name]}" for name in _LIBRARIES if name in versions]
    changed = " (changed)" if here["git_dirty"] else ""
    commit = f"commit {str(here['git_commit'])[:12]}{changed}"
    parts = (", ".join(machine), ", ".join([f"Python {here['python']}", *software]), commit)
    return f"Measured on {escape_markdown('; '.join(parts))}.\n"


def render(template: str, problem: str, **values: Any) -> str:
    """Fills a template, in which the filter `md` escapes text; errors begin with `problem`."""
    from jinja2 import Environment, PackageLoader, StrictUndefined, UndefinedError

    environment = Environment(  # noqa: S701 - Markdown, whose parts are escaped
        loader=PackageLoader("benchmarks.evidence"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(md=escape_markdown, number=number)
    try:
        text = environment.get_template(template).render(measured_on=measured_on, **values)
    except (KeyError, TypeError, UndefinedError, ValueError) as error:
        raise DataError(f"{problem}: {error}") from error
    return text.rstrip("\n") + "\n"


def split_at_markers(path: Path, begin: str, end: str) -> tuple[str, str, str]:
    """A page's text before its generated block, the block, and the text after it."""
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
    """Writes a block between the markers of a page; returns whether it changed."""
    before, old, after = split_at_markers(path, begin, end)
    if block != old:
        write_atomic(path, f"{before}{begin}\n{block}{end}{after}".encode())
    return block != old


def write_page(page: Path, text: str) -> int:
    """Writes a page, whose path is relative to the checkout; returns the exit code 0."""
    write_atomic(ROOT / page, text.encode())
    return 0
