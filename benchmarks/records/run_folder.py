"""Folder of a run: created without races, locked by one process, and resumed if unfinished."""

from __future__ import annotations

import os
import platform
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import count
from pathlib import Path

from filelock import FileLock, Timeout
from pydantic import ValidationError

from benchmarks.records.record import RECORD_NAME, RunRecord, load_record
from mobilesam.errors import DataError
from mobilesam.files import write_atomic
from mobilesam.frozen_model import FrozenModel

LOCK_NAME = ".run.lock"
HOLDER_NAME = ".run-holder.json"
"""A separate file, since some versions of `filelock` empty the lock file on each attempt."""


class Holder(FrozenModel):
    """The process that has locked a folder; `since_utc` is ISO 8601."""

    pid: int
    host: str
    command: str
    since_utc: str


def create_folder(parent: Path, name: str) -> Path:
    """Creates a new folder `NAME`, or `NAME-2` and so on; two processes never get the same."""
    try:
        parent.mkdir(parents=True, exist_ok=True)
        for number in count(1):
            folder = parent / (name if number == 1 else f"{name}-{number}")
            try:
                folder.mkdir(exist_ok=False)
            except FileExistsError:
                continue
            return folder
    except OSError as error:
        raise DataError(
            f"cannot create a folder in {parent}: {error.strerror}; choose another --out"
        ) from error
    raise AssertionError("counting does not end")


@contextmanager
def held(folder: Path, command: str | None = None) -> Iterator[None]:
    """Locks a folder, created if missing, until the block or the process ends.

    Code that writes several files below a folder keeps the lock until the last file is written, so
    that files of two processes are never mixed. Other processes that need the folder fail with an
    error that shows the command, by default the command line of this process.
    """
    lock = FileLock(folder / LOCK_NAME)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout as error:
        by = "another process"  # if its file is missing for a moment
        try:
            found = Holder.model_validate_json((folder / HOLDER_NAME).read_bytes())
            host = found.host or "an unnamed machine"
            by = f"process {found.pid} on {host} since {found.since_utc} ({found.command})"
        except (OSError, ValidationError):
            pass
        raise DataError(
            f"{folder} is being written by {by}; wait until it has ended, or choose another --out"
        ) from error
    except (OSError, NotImplementedError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"cannot lock {folder}: {reason}; choose another --out") from error
    try:
        holder = Holder(
            pid=os.getpid(),
            host=platform.node(),
            command=command_line() if command is None else command,
            since_utc=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        write_atomic(folder / HOLDER_NAME, holder.model_dump_json().encode(), durable=False)
        yield
    finally:
        (folder / HOLDER_NAME).unlink(missing_ok=True)
        lock.release()


def command_line() -> str:
    """Returns the command line of this process as a user types it."""
    return shlex.join(["mobilesam-bench", *sys.argv[1:]])


def require_writable(folder: Path) -> None:
    """Raises `DataError` before hours of work if a folder cannot be written."""
    probe = folder / ".writable"
    write_atomic(probe, b"")
    probe.unlink()


def find_finished(
    folder: Path, key: str, images_state: str | None, say: Callable[[str], None]
) -> RunRecord | None:
    """Returns the record of a run if the folder holds it complete and without failures.

    `images_state` is that of its dataset; `say` is called with a line if the folder holds this run,
    finished or not. If it holds another, or this one on image files that have changed, that is a
    `DataError`.
    """
    if not (folder / RECORD_NAME).exists():
        return None
    record = load_record(folder)
    if record.resume_key != key:
        raise DataError(
            f"{folder} holds a run of other inputs, weights, code or libraries; choose another "
            "--out"
        )
    if record.failures or not record.complete:
        say(f"resuming the run in {folder}, which was interrupted or had failures")
        return None
    if record.config.get("images_state") != images_state:
        raise DataError(
            f"{folder} holds this run on image files that were moved or changed since; choose "
            "another --out"
        )
    say(f"{folder} already holds this run, finished {record.created_utc}: nothing to do")
    return record
