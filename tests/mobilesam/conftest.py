"""One thread for torch; for checkpoints, an HTTP server that misbehaves on demand."""

import contextlib
import hashlib
import threading
import time
from collections import deque
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest

from mobilesam.weights import cache, download
from mobilesam.weights.cache import CACHE_ENV
from mobilesam.weights.checkpoints import WEIGHTS_ENV


class Handler(BaseHTTPRequestHandler):
    """Answers a GET as the next entry of the server's script says; `ok` when it is used up."""

    server: "Server"

    def log_message(self, *_args: object) -> None:
        pass

    def do_GET(self) -> None:
        server = self.server
        mode = server.script.popleft() if server.script else "ok"
        server.seen.append(self.path)
        if mode.isdecimal():
            self.send_response(int(mode))
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        getattr(self, f"do_{mode}")()

    def start(self, status: int, length: int | None, **headers: str) -> None:
        self.send_response(status)
        if length is not None:
            self.send_header("Content-Length", str(length))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    def do_ok(self) -> None:
        self.start(200, len(self.server.payload), Content_Type="application/octet-stream")
        self.wfile.write(self.server.payload)

    def do_slow(self) -> None:
        time.sleep(0.15)
        self.do_ok()

    def do_truncated(self) -> None:
        self.start(200, len(self.server.payload))
        self.wfile.write(self.server.payload[: len(self.server.payload) // 2])

    def do_stalled(self) -> None:
        self.do_truncated()
        self.wfile.flush()
        self.server.release.wait(10)

    def do_silent(self) -> None:
        self.server.release.wait(10)

    def do_other(self) -> None:
        self.start(200, len(self.server.other))
        self.wfile.write(self.server.other)

    def do_short(self) -> None:
        self.start(200, 1000)
        self.wfile.write(self.server.payload[:1000])

    def do_unannounced(self) -> None:
        self.start(200, None)
        self.wfile.write(self.server.payload)

    def do_endless(self) -> None:
        self.start(200, None)
        with contextlib.suppress(OSError):
            for _ in range(1000):
                self.wfile.write(self.server.payload)

    def do_html(self) -> None:
        self.start(200, 6, Content_Type="text/html; charset=utf-8")
        self.wfile.write(b"<html>")

    def do_redirect(self) -> None:
        self.start(302, 0, Location=f"/elsewhere/{self.server.file}")


class Server(ThreadingHTTPServer):
    """Gives `payload` at any address, unless `script` names other behaviour for the next requests.

    Attributes:
        payload: The right file.
        other: What it gives instead as `other`.
        file: Name of the file in `url`.
        seen: Path of every request so far.
        release: Set to end all stalling.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.payload = b""
        self.other = b""
        self.file = ""
        self.script: deque[str] = deque()
        self.seen: list[str] = []
        self.release = threading.Event()

    def handle_error(self, *_args: object) -> None:
        """A client that hangs up is part of the tests."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/{self.file}"


@pytest.fixture(autouse=True)
def _one_thread(set_threads: Callable[[int], None]) -> None:
    set_threads(1)


@pytest.fixture
def weights_server():
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.release.set()
        running.shutdown()
        thread.join()


@pytest.fixture
def clean_environment(monkeypatch, tmp_path):
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.delenv(WEIGHTS_ENV, raising=False)
    monkeypatch.setenv(CACHE_ENV, str(tmp_path / "cache"))


@pytest.fixture
def quick_downloads(monkeypatch):
    """Short timeouts, three tries without pauses, small pieces."""
    monkeypatch.setattr(download, "READ_TIMEOUT_S", 0.3)
    monkeypatch.setattr(download, "RETRIES", 2)
    monkeypatch.setattr(download, "_CHUNK_BYTES", 1 << 14)
    monkeypatch.setattr("pooch.core.time", SimpleNamespace(sleep=lambda _seconds: None))


@pytest.fixture
def reads(monkeypatch) -> list[str]:
    """The files whose content is really read."""
    names: list[str] = []
    honest = hashlib.file_digest

    def counting(file, *args):
        names.append(Path(file.name).name)
        return honest(file, *args)

    monkeypatch.setattr(cache.hashlib, "file_digest", counting)
    return names
