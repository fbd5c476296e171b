"""What of a run in chunks must be the same whenever and wherever it was made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.records.record import load_record

# What differs between two runs that find the same.
_OF_THE_MOMENT = {"id", "created_utc", "command", "environment", "duration_s", "accuracy_times"}


def lasting(out: Path) -> dict[str, Any]:
    """What a run has found: its record, but for times."""
    found = load_record(out).model_dump(mode="json", exclude=_OF_THE_MOMENT)
    for row in found["miou"]:
        row.pop("seconds")
    found["warnings"] = [line for line in found["warnings"] if not line.startswith("noisy")]
    return found


def tables(out: Path) -> dict[str, bytes]:
    """The files of all chunks by name."""
    return {path.name: path.read_bytes() for path in (out / "instances.parquet").iterdir()}
