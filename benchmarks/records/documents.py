"""Results of measurements as JSON documents: printed, and written to a file if requested."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mobilesam.errors import DataError
from mobilesam.files import write_atomic


def write_document(found: Mapping[str, Any], out: Path | None, *, print_it: bool = True) -> None:
    """Prints a document on standard output, and writes it to `out` unless that is None."""
    text = json.dumps(found, indent=1) + "\n"
    if out is not None:
        write_atomic(out, text.encode())
    if print_it:
        sys.stdout.write(text)


def read_document(path: Path, kind: str) -> dict[str, Any] | None:
    """Reads a document of a kind of measurement, such as "trial"; None if there is no file."""
    try:
        found: dict[str, Any] = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is no result of a {kind}: {error}") from error
    return found
