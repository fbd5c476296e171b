"""How a speed benchmark gives its result: one JSON document, printed and kept if asked for."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.records import write_atomic


def give(found: Mapping[str, Any], out: Path | None) -> None:
    """Prints a result on standard output, and writes it to `out`.

    Raises:
        DataError: The file cannot be written.
    """
    text = json.dumps(found, indent=1)
    if out is not None:
        write_atomic(out, f"{text}\n".encode())
    sys.stdout.write(f"{text}\n")
