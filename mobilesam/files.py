"""Writing files so that a reader, or a process that is killed, never leaves half of one."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from mobilesam.errors import DataError


def write_atomic(
    path: Path, data: bytes, cure: str = "choose another --out", *, durable: bool = True
) -> None:
    """Writes under a temporary name in the same folder and renames: a reader never sees a part.

    The temporary name is that of the file with a dot before it and letters behind it; a process
    that is killed may leave one.

    Args:
        path: Its folder is made where it is missing.
        data: All of it.
        cure: What a user is told to do where it cannot be written.
        durable: Wait until it is on the disk, so that it outlasts the machine's loss of power and
            not the process alone.

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
        raise DataError(f"cannot write {path}: {error.strerror}; {cure}") from error
