"""Atomic writing of files."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from mobilesam.errors import DataError


def write_atomic(
    path: Path, data: bytes, hint: str = "choose another --out", *, durable: bool = True
) -> None:
    """Writes under a temporary name in the same folder and renames, so no reader sees a part.

    The folder is created if missing; a process that is killed may leave `.NAME.letters` in it.
    `hint` is for the DataError if it cannot be written. `durable` files survive a loss of power.
    """
    temporary: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except OSError as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        raise DataError(f"cannot write {path}: {error.strerror}; {hint}") from error
