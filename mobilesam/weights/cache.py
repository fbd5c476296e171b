"""The folder of fetched checkpoints: where it is, its locks, and the digests remembered in it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mobilesam.errors import WeightsError
from mobilesam.weights.checkpoint_specs import FileDigest

CACHE_ENV = "MOBILESAM_CACHE"
MEMO_NAME = "digests.json"

# A file changed twice within the clock's resolution keeps its mtime; one that has rested this long
# cannot be caught in the middle of that.
_SETTLED_NS = 2_000_000_000

_LOG = logging.getLogger(__name__)


def cache_dir() -> Path:
    """The folder of fetched checkpoints; it need not exist.

    Returns:
        `$MOBILESAM_CACHE` where set and not empty, else `mobilesam-bench` in the user's cache
        folder (`~/.cache` on Linux).
    """
    chosen = os.environ.get(CACHE_ENV)
    if chosen:
        return Path(chosen).expanduser().absolute()
    import platformdirs

    return platformdirs.user_cache_path("mobilesam-bench", appauthor=False)


@contextlib.contextmanager
def exclusive(target: Path) -> Iterator[None]:
    """Holds the lock under which `target` may be written; other processes and threads wait.

    The folder is made where it is missing. The lock file `.NAME.lock` stays behind: deleting it
    would let two processes lock two files of one name.

    Raises:
        WeightsError: The folder cannot be made or written.
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
            f"the cache folder {target.parent} cannot be written ({_reason(error)}); "
            f"set {CACHE_ENV} to one that can"
        ) from error
    try:
        yield
    finally:
        lock.release()


def digest_file(path: Path, *, memo_dir: Path | None = None) -> FileDigest:
    """Computes the SHA-256 of a file, or recalls it if the file has not changed since.

    Args:
        path: Any regular file.
        memo_dir: Folder of the memo (`digests.json`), which is best effort: one that is missing,
            damaged or read-only costs time, never an error. None reads the file in any case.

    Returns:
        Size and SHA-256. A recalled digest was computed when path, size, mtime (ns) and inode were
        the same.

    Raises:
        WeightsError: The file is missing, unreadable, empty, not a regular file, or is being
            written to.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise WeightsError(f"{path} is not a file; give the path of a checkpoint file")
        with path.open("rb") as file:
            before = os.fstat(file.fileno())
            if not before.st_size:
                raise WeightsError(f"{path} is empty; fetch or copy it again")
            known = _recall(path, before, memo_dir) if memo_dir else None
            sha256 = known or hashlib.file_digest(file, "sha256").hexdigest()
            after = os.fstat(file.fileno())
    except OSError as error:
        raise WeightsError(
            f"{path} cannot be read ({_reason(error)}); check the path and its permissions"
        ) from error
    if _identity(before) != _identity(after):
        raise WeightsError(f"{path} changed while it was read; wait until it is complete")
    if memo_dir and not known and time.time_ns() - before.st_mtime_ns > _SETTLED_NS:
        _remember(path, before, sha256, memo_dir)
    return FileDigest(before.st_size, sha256)


def remember_digest(path: Path, sha256: str, *, memo_dir: Path) -> None:
    """Stores the digest of a file that this process has just written, best effort."""
    with contextlib.suppress(OSError):
        _remember(path, path.stat(), sha256, memo_dir)


def _identity(status: os.stat_result) -> dict[str, int]:
    return {
        "n_bytes": status.st_size,
        "mtime_ns": status.st_mtime_ns,
        "inode": status.st_ino,
    }


def _load_memo(memo_dir: Path) -> dict[str, Any]:
    try:
        entries = json.loads((memo_dir / MEMO_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return entries if isinstance(entries, dict) else {}


def _recall(path: Path, status: os.stat_result, memo_dir: Path) -> str | None:
    entry = _load_memo(memo_dir).get(str(path.absolute()))
    if not isinstance(entry, dict):
        return None
    sha256 = entry.get("sha256")
    if entry != {**_identity(status), "sha256": sha256}:
        return None
    try:
        return FileDigest(status.st_size, sha256).sha256  # type: ignore[arg-type]  # it validates
    except WeightsError:
        return None


def _remember(path: Path, status: os.stat_result, sha256: str, memo_dir: Path) -> None:
    entries = {known: value for known, value in _load_memo(memo_dir).items() if _exists(known)}
    entries[str(path.absolute())] = {**_identity(status), "sha256": sha256}
    with contextlib.suppress(OSError):
        memo_dir.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=memo_dir, prefix=f".{MEMO_NAME}.")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump(entries, file, indent=1, sort_keys=True)
            Path(name).replace(memo_dir / MEMO_NAME)
        finally:
            Path(name).unlink(missing_ok=True)


def _exists(path: str) -> bool:
    try:
        return Path(path).exists()
    except OSError:
        return False


def _reason(error: BaseException) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return text or type(error).__name__
