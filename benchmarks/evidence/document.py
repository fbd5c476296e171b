"""How a speed benchmark gives its result: one JSON document, printed or kept if asked for."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.latency.idle import wait_until_idle
from benchmarks.records.record import write_atomic

RESULTS = Path(__file__).resolve().parents[2] / "results"


def wait_if_published(out: Path | None) -> float | None:
    """Waits until the machine is idle if a result goes to `results/`, whose figures are published.

    Args:
        out: File of the result, or None.

    Returns:
        Number of cores used by other processes, or None if the result is not published.

    Raises:
        BusyMachineError: The machine stays busy.
    """
    if out is None or RESULTS not in out.resolve().parents:
        return None
    return wait_until_idle(lambda line: sys.stderr.write(line + "\n"))


def give(found: Mapping[str, Any], out: Path | None) -> None:
    """Prints a result on standard output, and writes it to `out`.

    Raises:
        DataError: The file cannot be written.
    """
    if out is not None:
        keep(found, out)
    sys.stdout.write(_text(found))


def keep(found: Mapping[str, Any], out: Path) -> None:
    """Writes a result to a file.

    Raises:
        DataError: It cannot be written.
    """
    write_atomic(out, _text(found).encode())


def _text(found: Mapping[str, Any]) -> str:
    return json.dumps(found, indent=1) + "\n"
