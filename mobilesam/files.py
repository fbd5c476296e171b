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

    The temporary name is that of the file with a dot before it and letters behind it; a process
    that is killed may leave one.

    Args:
        path: The file; its folder is created if missing.
        data: The content.
        hint: What to do if it cannot be written, for the error.
        durable: Wait until the data is on the disk, so that it survives a loss of power.

    Raises:
        DataError: The folder cannot be written, or the disk is full.
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
