"""Downloads one file of known content with pooch: verified, atomic, with retries."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import logging
import shutil
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import pooch
from rich.console import Console
from rich.progress import DownloadColumn, Progress

from mobilesam.errors import NetworkUnreachableError, WeightsError, WeightsUnavailableError
from mobilesam.weights.cache import CACHE_ENV
from mobilesam.weights.checkpoint_specs import FileDigest

CONNECT_TIMEOUT_S = 3.0
"""Time for the name look-up, and for the connection to each address of the server."""
READ_TIMEOUT_S = 30.0
"""Longest pause of the server during a transfer."""
RETRIES = 3
"""Repetitions after a broken transfer or HTTP 408, 429 and 5xx."""

_CHUNK_BYTES = 1 << 18
_LOG = logging.getLogger(__name__)

_NOT_KEPT = "nothing was kept: try again, or give a copy that you trust with --weights NAME=PATH"

# Failed transfers are logged here, with their reason.
pooch.get_logger().setLevel(logging.WARNING)


class _BrokenTransferError(ValueError):
    """A transfer that pooch repeats, as it does after every ValueError."""


def download(
    url: str, target: Path, *, accepted: Sequence[FileDigest], progress: bool = False
) -> FileDigest:
    """Downloads a file of one of the accepted contents (any if there is none); returns its content.

    The file appears under its name, in an existing folder, when it is complete and verified. The
    transfer uses the folder `.NAME.download` next to it, which is removed afterwards. Hold the lock
    of `cache.exclusive` around the call. Proxies are taken from the environment. `progress` shows
    a progress bar if standard error is a terminal.

    Raises:
        WeightsUnavailableError: There is no network, or the server does not provide the file.
        WeightsError: The content is not accepted, or the file cannot be written.
    """
    folder = target.with_name(f".{target.name}.download")
    n_bytes = max((digest.n_bytes for digest in accepted), default=0)
    try:
        free_bytes = shutil.disk_usage(target.parent).free
        if free_bytes < n_bytes:
            raise OSError(f"{n_bytes / 1e6:.0f} MB needed, {free_bytes / 1e6:.0f} MB are free")
        _require_host(_server(url))
        shutil.rmtree(folder, ignore_errors=True)  # of a killed process
        with _progress_bar(target.name, shown=progress) as report:
            downloader = _Downloader(accepted, report)
            files = pooch.create(
                path=folder,
                base_url="",
                registry={target.name: None},  # verified by the downloader
                urls={target.name: url},
                retry_if_failed=RETRIES,
            )
            files.fetch(target.name, downloader=downloader)
        found = downloader.found
        (folder / target.name).chmod(0o644)
        (folder / target.name).replace(target)
    except _BrokenTransferError as error:
        raise WeightsUnavailableError(
            f"{url} could not be fetched in {RETRIES + 1} tries: {error}"
        ) from error
    except OSError as error:
        raise WeightsError(
            f"{target} cannot be written ({error.strerror or error}); "
            f"free space there or set {CACHE_ENV} to another folder"
        ) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return found


class _Downloader:
    """Downloader for pooch that accepts some contents only and repeats only broken transfers.

    It is also the file that pooch writes to, which limits the size and reports the progress.
    `found` is the accepted content.
    """

    found: FileDigest

    def __init__(self, accepted: Sequence[FileDigest], report: Callable[..., None]) -> None:
        self._accepted = accepted
        self._report = report
        self._response: Any = None

    def __call__(self, url: str, output_file: str, _files: object) -> None:
        """Downloads the URL to the temporary file of pooch."""
        transfer = pooch.HTTPDownloader(
            chunk_size=_CHUNK_BYTES,
            timeout=(CONNECT_TIMEOUT_S, READ_TIMEOUT_S),
            headers={"Accept-Encoding": "identity"},  # Content-Length is the size of the file
            hooks={"response": self._check},
        )
        self._n_bytes = 0
        self._sha256 = hashlib.sha256()
        try:
            with Path(output_file).open("wb") as self._file:
                transfer(url, self, None)
            if self._n_bytes < int(self._response.headers.get("Content-Length", 0)):
                raise _BrokenTransferError("the transfer ended early")
        except (OSError, ValueError) as error:
            if isinstance(error, OSError) and error.errno:
                raise  # of the file: the errors of requests have no number
            reason = _reason(error)
            if self._response is None:
                raise _no_network(_server(url), reason) from error
            _LOG.warning("%s: %s after %d bytes", url, reason, self._n_bytes)
            raise _BrokenTransferError(f"{reason} after {self._n_bytes} bytes") from error
        finally:
            if self._response is not None:
                self._response.close()
        found = FileDigest(self._n_bytes, self._sha256.hexdigest())
        if self._accepted and not any(
            found.sha256 == each.sha256 and each.n_bytes in (0, found.n_bytes)
            for each in self._accepted
        ):
            wanted = " or ".join(each.sha256 for each in self._accepted)
            raise WeightsError(
                f"{url} is not the published file: sha256 {found.sha256}, wanted {wanted}; "
                f"{_NOT_KEPT}"
            )
        self.found = found

    def write(self, chunk: bytes) -> None:
        """Writes a piece of the body."""
        self._n_bytes += len(chunk)
        if self._total is not None and self._n_bytes > self._total:
            raise WeightsError(
                f"{self._response.url} sends more than the published {self._total} bytes; "
                f"{_NOT_KEPT}"
            )
        self._file.write(chunk)
        self._sha256.update(chunk)
        self._report(completed=self._n_bytes, total=self._total)

    def flush(self) -> None:
        """Does nothing; the file is complete when it is closed."""

    def _check(self, response: Any, **_: object) -> None:
        """Refuses a response that cannot be the file; requests calls it before the body."""
        self._response = response
        status, headers = response.status_code, response.headers
        answer = f"HTTP {status} {response.reason}".strip()
        if status >= 500 or status in (408, 429):
            raise _BrokenTransferError(answer)
        if response.is_redirect:
            return
        is_page = headers.get("Content-Type", "").lower().startswith("text/html")
        if status == 200 and is_page:
            answer = "a web page instead of the file (a login or proxy page?)"
        if status != 200 or is_page:
            raise WeightsUnavailableError(f"{response.url} answers with {answer}")
        wanted = [each.n_bytes for each in self._accepted]
        length = headers.get("Content-Length", "")
        sized = bool(wanted) and all(wanted)  # else any size may be right
        self._total: int | None = max(wanted) if sized else None
        if length.isdecimal():
            self._total = int(length)
        if sized and self._total not in wanted:
            raise WeightsError(
                f"{response.url} offers {length} bytes, the published file has "
                f"{' or '.join(map(str, wanted))}; {_NOT_KEPT}"
            )


def _server(url: str) -> str:
    """Host and port that a download connects to: the server, or a proxy of the environment."""
    parts = urlsplit(url)
    proxies = {} if proxy_bypass(parts.netloc) else getproxies()
    address = proxies.get(parts.scheme) or proxies.get("all") or url
    return address.rpartition("://")[2].partition("/")[0].rpartition("@")[2]


def _require_host(server: str) -> None:
    """Limits the time of a name look-up, for which requests has no timeout."""

    def look_up() -> None:
        with contextlib.suppress(OSError, ValueError):  # the download reports it
            socket.getaddrinfo(server.rpartition(":")[0] or server, None)

    thread = threading.Thread(target=look_up, name=f"look-up of {server}", daemon=True)
    thread.start()
    thread.join(CONNECT_TIMEOUT_S)
    if thread.is_alive():
        raise _no_network(server, f"no answer to the name look-up within {CONNECT_TIMEOUT_S:g} s")


def _no_network(server: str, reason: str) -> NetworkUnreachableError:
    message = f"no network: {server} cannot be reached ({reason})"
    return NetworkUnreachableError(message, f"no network ({server} cannot be reached)")


def _reason(error: BaseException) -> str:
    """The innermost cause in a few words, because the text of requests repeats the address."""
    inner: BaseException | None = error
    while inner is not None:
        error = inner
        # Not __context__, which may be an unrelated error that a caller is handling.
        causes = (getattr(error, "reason", None), *reversed(error.args))
        inner = next((cause for cause in causes if isinstance(cause, BaseException)), None)
    text = " ".join(str(error).split())
    return "timed out" if "timed out" in text else text.rsplit(": ", 1)[-1] or type(error).__name__


@contextlib.contextmanager
def _progress_bar(name: str, *, shown: bool) -> Iterator[Callable[..., None]]:
    """Draws a progress bar on standard error if that is a terminal; yields its update function."""
    columns = (*Progress.get_default_columns(), DownloadColumn())
    hidden = not (shown and sys.stderr.isatty())
    with Progress(*columns, console=Console(stderr=True), disable=hidden) as bar:
        yield functools.partial(bar.update, bar.add_task(name))
