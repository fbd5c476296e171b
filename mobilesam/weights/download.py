"""Fetching one large file over HTTP: verified, atomic, resumed after a broken transfer."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from mobilesam.errors import WeightsError, WeightsUnavailableError
from mobilesam.weights.cache import CACHE_ENV
from mobilesam.weights.checkpoint_specs import FileDigest
from mobilesam.weights.connectivity import require_reachable

if TYPE_CHECKING:
    import requests

ProgressCallback = Callable[[str, int, int], None]
"""Called with (file name, bytes so far, bytes in all); the bytes so far never fall."""

_LOG = logging.getLogger(__name__)
_OTHER_FILE = "nothing was kept: try again, or give a copy that you trust with --weights NAME=PATH"


@dataclass(frozen=True, slots=True)
class DownloadPolicy:
    """How patient a download is.

    Attributes:
        reach_timeout_s: Time within which the server (or proxy) must take a first connection,
            name look-up included; after that there is no network. This is tried once.
        connect_timeout_s: Time for each later connection, per address of the server.
        read_timeout_s: A server that sends nothing for this long has stalled; the transfer is then
            tried again from where it stopped.
        attempts: Tries in all, for broken transfers and for HTTP 408, 429 and 5xx.
        backoff_s: Pause before the second try; it doubles with every further one.
        chunk_bytes: Size of the pieces in which a body is read and progress reported.
    """

    reach_timeout_s: float = 4.0
    connect_timeout_s: float = 3.0
    read_timeout_s: float = 30.0
    attempts: int = 4
    backoff_s: float = 1.0
    chunk_bytes: int = 1 << 18


DEFAULT_POLICY = DownloadPolicy()


def download(
    url: str,
    target: Path,
    *,
    accepted: Sequence[FileDigest],
    progress: ProgressCallback | None = None,
    policy: DownloadPolicy = DEFAULT_POLICY,
) -> FileDigest:
    """Fetches a file of known content; it appears under its name complete and verified, or not.

    The body goes to `.NAME.part` beside the target, which is removed whatever happens; hold the
    lock of `cache.exclusive` around the call. Proxies are taken from the environment, as requests
    does. A transfer that breaks is resumed with a Range request where the server knows them.

    Args:
        url: Address of the file, http or https.
        target: Where it goes; its folder exists.
        accepted: The contents that are right; a size that none of them has is refused before the
            body is read.
        progress: Told of every piece; None for silence.
        policy: Timeouts and retries.

    Returns:
        The one of `accepted` that the file is.

    Raises:
        WeightsUnavailableError: No network, or the server does not give the file.
        WeightsError: Other content than accepted, too little disk space, or an unwritable folder.
    """
    part = target.with_name(f".{target.name}.part")
    try:
        _require_space(target, max(digest.n_bytes for digest in accepted))
        require_reachable(
            url,
            connect_timeout_s=policy.connect_timeout_s,
            total_timeout_s=policy.reach_timeout_s,
        )
        with part.open("wb") as file:
            sink = _Sink(file, url, target.name, accepted, progress)
            _transfer(url, sink, policy)
            found = sink.verified()
            file.flush()
            os.fsync(file.fileno())
        part.replace(target)
    except OSError as error:
        raise WeightsError(
            f"{target} cannot be written ({error.strerror or error}); "
            f"free space there or set {CACHE_ENV} to another folder"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink()
    return found


@contextlib.contextmanager
def stderr_progress() -> Iterator[ProgressCallback | None]:
    """Draws one progress bar a file on standard error; yields None where that is no terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich import progress as rich_progress
    from rich.console import Console

    columns = (
        rich_progress.TextColumn("{task.description}"),
        rich_progress.BarColumn(),
        rich_progress.DownloadColumn(),
        rich_progress.TransferSpeedColumn(),
        rich_progress.TimeRemainingColumn(),
    )
    with rich_progress.Progress(*columns, console=Console(stderr=True)) as bars:
        tasks: dict[str, rich_progress.TaskID] = {}

        def report(name: str, done_bytes: int, total_bytes: int) -> None:
            if name not in tasks:
                tasks[name] = bars.add_task(name)
            bars.update(tasks[name], completed=done_bytes, total=total_bytes)

        yield report


class _Sink:
    """What the downloader writes to: hashes, counts and reports, and judges every response."""

    def __init__(
        self,
        file: BinaryIO,
        url: str,
        name: str,
        accepted: Sequence[FileDigest],
        progress: ProgressCallback | None,
    ) -> None:
        self.n_bytes = 0
        self.response: requests.Response | None = None
        self._file = file
        self._url = url
        self._name = name
        self._accepted = accepted
        self._sizes = sorted({digest.n_bytes for digest in accepted})
        self._announced_bytes: int | None = None
        self._progress = progress
        self._sha256 = hashlib.sha256()
        self._reported_bytes = 0

    @property
    def complete(self) -> bool:
        if self._announced_bytes is None:
            return self.n_bytes in self._sizes
        return self.n_bytes == self._announced_bytes

    def write(self, chunk: bytes) -> None:
        self.n_bytes += len(chunk)
        if self.n_bytes > self._sizes[-1]:
            raise WeightsError(
                f"{self._url} sends more than the published {self._sizes[-1]} bytes: "
                f"it is another file; {_OTHER_FILE}"
            )
        self._file.write(chunk)
        self._sha256.update(chunk)
        self._report()

    def flush(self) -> None:
        """Pooch flushes after every chunk; once at the end is enough."""

    def on_response(self, response: requests.Response, *_: Any, **__: Any) -> None:
        """Refuses an answer that cannot be the file, before its body is read."""
        self.close()
        self.response = response
        if response.is_redirect or not response.ok:
            return
        try:
            self._judge(response)
        except WeightsError:
            self.close()
            raise

    def close(self) -> None:
        if self.response is not None:
            self.response.close()
            self.response = None

    def verified(self) -> FileDigest:
        found = FileDigest(self.n_bytes, self._sha256.hexdigest())
        if found not in self._accepted:
            wanted = " or ".join(digest.sha256 for digest in self._accepted)
            raise WeightsError(
                f"{self._url} is not the published file: sha256 {found.sha256}, wanted {wanted}; "
                f"{_OTHER_FILE}"
            )
        return found

    def _judge(self, response: requests.Response) -> None:
        if response.status_code not in (200, 206):
            raise WeightsUnavailableError(f"{self._url} answers HTTP {response.status_code}")
        if response.headers.get("Content-Type", "").lower().startswith("text/html"):
            raise WeightsUnavailableError(
                f"{self._url} answers with a web page instead of the file (a login or proxy page?)"
            )
        span = response.headers.get("Content-Range", "")
        if response.status_code == 206 and not span.startswith(f"bytes {self.n_bytes}-"):
            raise WeightsUnavailableError(
                f"{self._url} answers with bytes {span!r} when asked for those from {self.n_bytes}"
            )
        if response.status_code == 200 and self.n_bytes:
            self._restart()
        length = response.headers.get("Content-Length", "")
        if not length.isdecimal():
            return
        announced_bytes = self.n_bytes + int(length)
        if announced_bytes not in self._sizes:
            raise WeightsError(
                f"{self._url} offers {announced_bytes} bytes, the published file has "
                f"{' or '.join(map(str, self._sizes))}; {_OTHER_FILE}"
            )
        self._announced_bytes = announced_bytes
        self._report()

    def _restart(self) -> None:
        self._file.seek(0)
        self._file.truncate()
        self._sha256 = hashlib.sha256()
        self._announced_bytes = None
        self.n_bytes = 0

    def _report(self) -> None:
        self._reported_bytes = max(self._reported_bytes, self.n_bytes)
        if self._progress is not None:
            total_bytes = self._announced_bytes or self._sizes[-1]
            self._progress(self._name, self._reported_bytes, total_bytes)


def _transfer(url: str, sink: _Sink, policy: DownloadPolicy) -> None:
    why = ""
    for attempt in range(policy.attempts):
        if attempt:
            _LOG.warning("%s: %s; trying again", url, why)
            time.sleep(policy.backoff_s * 2 ** (attempt - 1))
        failure = _attempt(url, sink, policy)
        if failure is None:
            return
        why = failure
    raise WeightsUnavailableError(f"{url} could not be fetched in {policy.attempts} tries: {why}")


def _attempt(url: str, sink: _Sink, policy: DownloadPolicy) -> str | None:
    """One request; returns None when the body is whole, else why it is worth another try."""
    import pooch
    from requests import exceptions

    # Compressed transfer would make Content-Length and Range count other bytes than the file's.
    headers = {"Accept-Encoding": "identity"}
    if sink.n_bytes:
        headers["Range"] = f"bytes={sink.n_bytes}-"
    fetch = pooch.HTTPDownloader(
        chunk_size=policy.chunk_bytes,
        timeout=(policy.connect_timeout_s, policy.read_timeout_s),
        headers=headers,
        hooks={"response": sink.on_response},
    )
    failure = ""
    try:
        fetch(url, sink, None)
    except exceptions.HTTPError as error:
        status = error.response.status_code
        failure = f"HTTP {status} {error.response.reason}".strip()
        if status < 500 and status not in (408, 429):
            raise WeightsUnavailableError(f"{url} answers {failure}") from error
    except exceptions.RequestException as error:
        failure = _explain(error, sink, policy)
        # A proxy's refusal and a bad certificate do not mend themselves within seconds.
        passing = (
            exceptions.ConnectionError,
            exceptions.Timeout,
            exceptions.ChunkedEncodingError,
        )
        lasting = (exceptions.ProxyError, exceptions.SSLError)
        if not isinstance(error, passing) or isinstance(error, lasting):
            raise WeightsUnavailableError(f"{url} cannot be fetched: {failure}") from error
    finally:
        sink.close()
    if sink.complete:
        return None
    return failure or f"the transfer ended after {sink.n_bytes} bytes"


def _explain(error: Exception, sink: _Sink, policy: DownloadPolicy) -> str:
    """The innermost cause in a few words: requests' own text repeats the address at length."""
    from requests import exceptions

    if isinstance(error, exceptions.ConnectTimeout):
        return f"no connection within {policy.connect_timeout_s:g} s"
    root: BaseException = error
    while inner := _inner(root):
        root = inner
    text = " ".join(str(root).split())
    if "timed out" in text:
        return f"nothing came for {policy.read_timeout_s:g} s after {sink.n_bytes} bytes"
    if isinstance(error, exceptions.ChunkedEncodingError):
        return f"the transfer broke off after {sink.n_bytes} bytes"
    return text.rsplit(": ", 1)[-1] or type(root).__name__


def _inner(error: BaseException) -> BaseException | None:
    # Not __context__: that also leads to errors which the caller is handling.
    causes = (getattr(error, "reason", None), *reversed(error.args))
    return next((cause for cause in causes if isinstance(cause, BaseException)), None)


def _require_space(target: Path, n_bytes: int) -> None:
    free_bytes = shutil.disk_usage(target.parent).free
    if free_bytes < n_bytes:
        raise WeightsError(
            f"{target.name} needs {n_bytes / 1e6:.0f} MB in {target.parent}, where "
            f"{free_bytes / 1e6:.0f} MB are free; free space or set {CACHE_ENV} to another folder"
        )
