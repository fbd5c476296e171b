"""What the generated pages of docs/ share: their results, and where those were measured."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.tables.formatting import escape_markdown
from mobilesam.errors import DataError

_LIBRARIES = ("torch", "segment-anything", "ultralytics")


def read_result(path: Path, kind: str) -> dict[str, Any] | None:
    """Reads the JSON document of a measurement; None where it has not been made yet.

    Args:
        path: Its file.
        kind: What it should be, for the error: "trial", say.

    Raises:
        DataError: It is there and cannot be read.
    """
    try:
        found: dict[str, Any] = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is no result of a {kind}: {error}") from error
    return found


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
