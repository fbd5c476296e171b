"""Downloads one file of known content: resumed after broken transfers, verified, atomic."""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import os
import queue
import shutil
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from mobilesam.errors import NetworkUnreachableError, WeightsError, WeightsUnavailableError
from mobilesam.weights.cache import CACHE_ENV
from mobilesam.weights.checkpoint_specs import FileDigest

if TYPE_CHECKING:
    import requests

ProgressCallback = Callable[[str, int, int], None]
"""Called with file name, downloaded bytes (never decreasing) and total bytes."""

_LOG = logging.getLogger(__name__)
_OTHER_FILE = "nothing was kept: try again, or give a copy that you trust with --weights NAME=PATH"
_DEFAULT_PORTS = {"http": 80, "https": 443}
_SOCKS_PORT = 1080


@dataclass(frozen=True, slots=True)
class DownloadPolicy:
    """Timeouts and retries of a download.

    Attributes:
        reach_timeout_s: Time for the first connection to server or proxy, name look-up included;
            it is tried once, and means that there is no network.
        connect_timeout_s: Time for each later connection, per address of the server.
        read_timeout_s: Longest pause of the server; after it the transfer is resumed.
        attempts: Number of tries, for broken transfers and for HTTP 408, 429 and 5xx.
        backoff_s: Pause before the second try; it doubles with every further one.
        chunk_bytes: Size of the pieces that are read and reported.
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
    """Downloads a file; it appears under its name when it is complete and verified.

    The body is written to `.NAME.part` beside the target, which is always removed. Hold the lock of
    `cache.exclusive` around the call. Proxies are taken from the environment.

    Args:
        url: http or https address of the file.
        target: Path of the file in an existing folder.
        accepted: Valid contents. A response of another size is refused before its body is read.
        progress: Called with every piece.
        policy: Timeouts and retries.

    Returns:
        The content of `accepted` that the file has.

    Raises:
        WeightsUnavailableError: There is no network, or the server does not provide the file.
        WeightsError: The content is not accepted, or the file cannot be written.
    """
    part = target.with_name(f".{target.name}.part")
    try:
        _require_space(target, max(digest.n_bytes for digest in accepted))
        _require_reachable(url, policy)
        with part.open("w+b") as file:
            transfer = _Transfer(file, url, target.name, accepted, progress, policy)
            transfer.run()
            file.flush()
            os.fsync(file.fileno())
            found = transfer.verified()
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
    """Draws a progress bar for each file on standard error; None if that is no terminal."""
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


class _Transfer:
    """Requests a file until it is complete, and continues where the last request broke off."""

    def __init__(
        self,
        file: io.BufferedRandom,
        url: str,
        name: str,
        accepted: Sequence[FileDigest],
        progress: ProgressCallback | None,
        policy: DownloadPolicy,
    ) -> None:
        self._file = file
        self._url = url
        self._name = name
        self._accepted = accepted
        self._sizes = sorted({digest.n_bytes for digest in accepted})
        self._progress = progress
        self._policy = policy
        self._n_bytes = 0
        self._reported_bytes = 0
        self._announced_bytes: int | None = None

    def run(self) -> None:
        """Downloads the file, with retries."""
        problem, policy = "", self._policy
        for attempt in range(policy.attempts):
            if attempt:
                _LOG.warning("%s: %s; trying again", self._url, problem)
                time.sleep(policy.backoff_s * 2 ** (attempt - 1))
            problem = self._request()
            if not problem:
                return
        raise WeightsUnavailableError(
            f"{self._url} could not be fetched in {policy.attempts} tries: {problem}"
        )

    def verified(self) -> FileDigest:
        """Compares the file with the accepted digests."""
        self._file.seek(0)
        found = FileDigest(self._n_bytes, hashlib.file_digest(self._file, "sha256").hexdigest())
        if found not in self._accepted:
            wanted = " or ".join(digest.sha256 for digest in self._accepted)
            raise WeightsError(
                f"{self._url} is not the published file: sha256 {found.sha256}, wanted {wanted}; "
                f"{_OTHER_FILE}"
            )
        return found

    def _request(self) -> str:
        """Requests the missing bytes; returns an empty text if they are complete.

        Otherwise it returns why another try may succeed.
        """
        import requests
        from requests import exceptions

        # Compression would change the meaning of Content-Length and Range.
        headers = {"Accept-Encoding": "identity"}
        if self._n_bytes:
            headers["Range"] = f"bytes={self._n_bytes}-"
        timeout = (self._policy.connect_timeout_s, self._policy.read_timeout_s)
        problem = ""
        try:
            with requests.get(self._url, headers=headers, stream=True, timeout=timeout) as response:
                status = response.status_code
                if status >= 500 or status in (408, 429):
                    return f"HTTP {status} {response.reason}".strip()
                self._check(response)
                for chunk in response.iter_content(self._policy.chunk_bytes):
                    self._write(chunk)
        except exceptions.RequestException as error:
            problem = self._explain(error)
            temporary = (
                exceptions.ConnectionError,
                exceptions.Timeout,
                exceptions.ChunkedEncodingError,
            )
            permanent = (exceptions.ProxyError, exceptions.SSLError)
            if not isinstance(error, temporary) or isinstance(error, permanent):
                raise WeightsUnavailableError(
                    f"{self._url} cannot be fetched: {problem}"
                ) from error
        complete = (
            self._n_bytes in self._sizes
            if self._announced_bytes is None
            else self._n_bytes == self._announced_bytes
        )
        if complete:
            return ""
        return problem or f"the transfer ended after {self._n_bytes} bytes"

    def _check(self, response: requests.Response) -> None:
        """Refuses a response that cannot be the file; restarts if it ignores the range."""
        status = response.status_code
        if status not in (200, 206):
            answer = f"HTTP {status} {response.reason}".strip()
            raise WeightsUnavailableError(f"{self._url} answers {answer}")
        if response.headers.get("Content-Type", "").lower().startswith("text/html"):
            raise WeightsUnavailableError(
                f"{self._url} answers with a web page instead of the file (a login or proxy page?)"
            )
        span = response.headers.get("Content-Range", "")
        if status == 206 and not span.startswith(f"bytes {self._n_bytes}-"):
            raise WeightsUnavailableError(
                f"{self._url} answers with bytes {span!r} when asked for those from {self._n_bytes}"
            )
        if status == 200 and self._n_bytes:
            self._file.seek(0)
            self._file.truncate()
            self._n_bytes = 0
        length = response.headers.get("Content-Length", "")
        self._announced_bytes = self._n_bytes + int(length) if length.isdecimal() else None
        if self._announced_bytes not in (None, *self._sizes):
            raise WeightsError(
                f"{self._url} offers {self._announced_bytes} bytes, the published file has "
                f"{' or '.join(map(str, self._sizes))}; {_OTHER_FILE}"
            )
        self._report()

    def _write(self, chunk: bytes) -> None:
        self._n_bytes += len(chunk)
        if self._n_bytes > self._sizes[-1]:
            raise WeightsError(
                f"{self._url} sends more than the published {self._sizes[-1]} bytes: "
                f"it is another file; {_OTHER_FILE}"
            )
        self._file.write(chunk)
        self._report()

    def _report(self) -> None:
        self._reported_bytes = max(self._reported_bytes, self._n_bytes)
        if self._progress is not None:
            total_bytes = self._announced_bytes or self._sizes[-1]
            self._progress(self._name, self._reported_bytes, total_bytes)

    def _explain(self, error: Exception) -> str:
        """The innermost cause in a few words, because requests' text repeats the address."""
        from requests import exceptions

        if isinstance(error, exceptions.ConnectTimeout):
            return f"no connection within {self._policy.connect_timeout_s:g} s"
        root: BaseException = error
        while inner := _inner(root):
            root = inner
        text = " ".join(str(root).split())
        if "timed out" in text:
            seconds = self._policy.read_timeout_s
            return f"nothing came for {seconds:g} s after {self._n_bytes} bytes"
        if isinstance(error, exceptions.ChunkedEncodingError):
            return f"the transfer broke off after {self._n_bytes} bytes"
        return text.rsplit(": ", 1)[-1] or type(root).__name__


def _inner(error: BaseException) -> BaseException | None:
    # Not __context__, which may be an unrelated error that a caller is handling.
    causes = (getattr(error, "reason", None), *reversed(error.args))
    return next((cause for cause in causes if isinstance(cause, BaseException)), None)


def _require_space(target: Path, n_bytes: int) -> None:
    free_bytes = shutil.disk_usage(target.parent).free
    if free_bytes < n_bytes:
        raise WeightsError(
            f"{target.name} needs {n_bytes / 1e6:.0f} MB in {target.parent}, where "
            f"{free_bytes / 1e6:.0f} MB are free; free space or set {CACHE_ENV} to another folder"
        )


def _require_reachable(url: str, policy: DownloadPolicy) -> None:
    """Opens one connection to the server or proxy, because retries without network take minutes.

    Raises:
        WeightsUnavailableError: There is no connection within `policy.reach_timeout_s`.
    """
    from requests.utils import get_environ_proxies, select_proxy

    proxy = select_proxy(url, get_environ_proxies(url))
    address = url if not proxy else proxy if "://" in proxy else f"http://{proxy}"
    try:
        parts = urlsplit(address)
        host, port = parts.hostname, parts.port or _DEFAULT_PORTS.get(parts.scheme, _SOCKS_PORT)
    except ValueError:
        host, port = None, 0
    if not host:
        raise WeightsUnavailableError(
            f"{address!r} is no address to connect to; check the proxy variables of the environment"
        )
    answers: queue.SimpleQueue[str] = queue.SimpleQueue()

    def connect() -> None:
        try:
            socket.create_connection((host, port), timeout=policy.connect_timeout_s).close()
        except OSError as error:
            answers.put(error.strerror or str(error) or type(error).__name__)
        else:
            answers.put("")

    # In a thread, because a name look-up has no timeout.
    threading.Thread(target=connect, name=f"reach {host}", daemon=True).start()
    try:
        reason = answers.get(timeout=policy.reach_timeout_s)
    except queue.Empty:
        reason = f"no answer within {policy.reach_timeout_s:g} s"
    if reason:
        message = f"no network: {host}:{port} cannot be reached ({reason})"
        raise NetworkUnreachableError(message, f"no network ({host} cannot be reached)")
