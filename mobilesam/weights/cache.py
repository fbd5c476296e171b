"""The folder of downloaded checkpoints: its path, its locks, and remembered digests."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import re
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mobilesam.errors import DataError, WeightsError
from mobilesam.files import write_atomic
from mobilesam.weights.checkpoint_specs import FileDigest

CACHE_ENV = "MOBILESAM_CACHE"
MEMO_NAME = "digests.json"

# A file may change twice within the resolution of its mtime, so that recent files are not recorded.
_SETTLED_NS = 2_000_000_000
_SHA256 = re.compile(r"[0-9a-f]{64}")

_LOG = logging.getLogger(__name__)


def cache_dir() -> Path:
    """Folder of downloaded checkpoints, which may not exist yet.

    `$MOBILESAM_CACHE`, or `mobilesam-bench` in the user's cache folder (`~/.cache` on Linux).
    """
    chosen = os.environ.get(CACHE_ENV)
    if chosen:
        return Path(chosen).expanduser().absolute()
    import platformdirs

    return platformdirs.user_cache_path("mobilesam-bench", appauthor=False)


@contextlib.contextmanager
def exclusive(target: Path) -> Iterator[None]:
    """Holds the lock for writing `target`, whose folder is made; other processes and threads wait.

    The file `.NAME.lock` is not deleted: two processes could then lock two files of that name.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(target.with_name(f".{target.name}.lock"))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            _LOG.warning("waiting for another process that is fetching %s", target.name)
            lock.acquire()
    except (OSError, NotImplementedError) as error:
        raise WeightsError(
            f"the cache folder {target.parent} cannot be written "
            f"({getattr(error, 'strerror', None) or error}); set {CACHE_ENV} to another folder"
        ) from error
    try:
        yield
    finally:
        lock.release()


def digest_file(path: Path, *, memo_dir: Path | None = None) -> FileDigest:
    """Computes the SHA-256 of a file, or returns the remembered one of an unchanged file.

    `memo_dir` is the folder of `digests.json`, the remembered digests of paths with their size,
    mtime and inode; it may be missing, damaged or read-only. None always reads the file.

    Raises:
        WeightsError: The file is missing, unreadable, empty, not a regular file, or being written.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise WeightsError(f"{path} is not a file; give the path of a checkpoint file")
        with path.open("rb") as file:
            before = _identity(file.fileno())
            if not before["n_bytes"]:
                raise WeightsError(f"{path} is empty; fetch or copy it again")
            known = None if memo_dir is None else _recall(memo_dir, path, before)
            sha256 = known or hashlib.file_digest(file, "sha256").hexdigest()
            after = _identity(file.fileno())
    except OSError as error:
        raise WeightsError(
            f"{path} cannot be read ({error.strerror or error}); check the path and its permissions"
        ) from error
    if before != after:
        raise WeightsError(f"{path} changed while it was read; wait until it is complete")
    if memo_dir and not known and time.time_ns() - before["mtime_ns"] > _SETTLED_NS:
        # Read again, because another process may have added a digest meanwhile.
        kept = _read_memo(memo_dir).items()
        entries = {name: value for name, value in kept if os.path.exists(name)}  # noqa: PTH110
        entries[str(path.absolute())] = {**before, "sha256": sha256}
        text = json.dumps(entries, indent=1, sort_keys=True)
        with contextlib.suppress(DataError):
            write_atomic(memo_dir / MEMO_NAME, text.encode(), durable=False)
    return FileDigest(before["n_bytes"], sha256)


def _identity(descriptor: int) -> dict[str, int]:
    status = os.fstat(descriptor)
    return {"n_bytes": status.st_size, "mtime_ns": status.st_mtime_ns, "inode": status.st_ino}


def _read_memo(memo_dir: Path) -> dict[str, Any]:
    try:
        entries = json.loads((memo_dir / MEMO_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return entries if isinstance(entries, dict) else {}


def _recall(memo_dir: Path, path: Path, identity: dict[str, int]) -> str | None:
    entry = _read_memo(memo_dir).get(str(path.absolute()))
    sha256 = entry.get("sha256") if isinstance(entry, dict) else None
    valid = isinstance(sha256, str) and _SHA256.fullmatch(sha256)
    return sha256 if valid and entry == {**identity, "sha256": sha256} else None
