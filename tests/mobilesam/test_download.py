"""Downloads against a real HTTP server on 127.0.0.1 that misbehaves on demand."""

import contextlib
import hashlib
import io
import logging
import shutil
import socket
import sys
import threading
import time
from collections import deque
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from mobilesam import checkpoint_specs, checkpoints, reach
from mobilesam.cache import CACHE_ENV
from mobilesam.checkpoint_specs import CheckpointSpec, FileDigest
from mobilesam.download import DEFAULT_POLICY, DownloadPolicy, download, stderr_progress
from mobilesam.errors import WeightsError, WeightsUnavailableError

PAYLOAD = np.random.default_rng(0).bytes(600_000)
OTHER = np.random.default_rng(1).bytes(len(PAYLOAD))
# The tag of a SAM file is its MD5's first digits: this name claims to be PAYLOAD, whoever bears it.
FILE = f"sam_vit_t_{hashlib.md5(PAYLOAD, usedforsecurity=False).hexdigest()[:6]}.pth"
QUICK = DownloadPolicy(read_timeout_s=0.3, attempts=3, backoff_s=0.01, chunk_bytes=1 << 14)


def digest_of(content: bytes) -> FileDigest:
    return FileDigest(len(content), hashlib.sha256(content).hexdigest())


class Handler(BaseHTTPRequestHandler):
    """Answers a GET as the next entry of the server's script says; `ok` when it is used up."""

    server: "Server"

    def log_message(self, *_args: object) -> None:
        pass

    def do_GET(self) -> None:
        server = self.server
        mode = server.script.popleft() if server.script else "ok"
        server.seen.append((self.path, self.headers.get("Range")))
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
        span = self.headers.get("Range")
        if span is None:
            self.do_whole()
            return
        first = int(span.removeprefix("bytes=").removesuffix("-"))
        rest = PAYLOAD[first:]
        content_range = f"bytes {first}-{len(PAYLOAD) - 1}/{len(PAYLOAD)}"
        self.start(206, len(rest), Content_Range=content_range)
        self.wfile.write(rest)

    def do_whole(self) -> None:
        self.start(200, len(PAYLOAD), Content_Type="application/octet-stream")
        self.wfile.write(PAYLOAD)

    def do_slow(self) -> None:
        time.sleep(0.15)
        self.do_whole()

    def do_wrong_range(self) -> None:
        self.start(206, len(PAYLOAD), Content_Range=f"bytes 0-{len(PAYLOAD) - 1}/{len(PAYLOAD)}")

    def do_truncated(self) -> None:
        self.start(200, len(PAYLOAD))
        self.wfile.write(PAYLOAD[: len(PAYLOAD) // 2])

    def do_stalled(self) -> None:
        self.do_truncated()
        self.wfile.flush()
        self.server.release.wait(10)

    def do_silent(self) -> None:
        self.server.release.wait(10)

    def do_other(self) -> None:
        self.start(200, len(OTHER))
        self.wfile.write(OTHER)

    def do_short(self) -> None:
        self.start(200, 1000)
        self.wfile.write(PAYLOAD[:1000])

    def do_unannounced(self) -> None:
        self.start(200, None)
        self.wfile.write(PAYLOAD)

    def do_endless(self) -> None:
        self.start(200, None)
        with contextlib.suppress(OSError):
            for _ in range(1000):
                self.wfile.write(PAYLOAD)

    def do_html(self) -> None:
        self.start(200, 6, Content_Type="text/html; charset=utf-8")
        self.wfile.write(b"<html>")

    def do_redirect(self) -> None:
        self.start(302, 0, Location=f"/elsewhere/{FILE}")


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.script: deque[str] = deque()
        self.seen: list[tuple[str, str | None]] = []
        self.release = threading.Event()

    def handle_error(self, *_args: object) -> None:
        """A client that hangs up is part of the tests."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/{FILE}"


@pytest.fixture
def server():
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.release.set()
        running.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch, tmp_path):
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.delenv(checkpoints.WEIGHTS_ENV, raising=False)
    monkeypatch.setenv(CACHE_ENV, str(tmp_path / "cache"))


@pytest.fixture
def closed_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


def get(server: Server, folder: Path, **changes: object) -> FileDigest:
    arguments: dict = {"accepted": [digest_of(PAYLOAD)], "policy": QUICK, **changes}
    return download(server.url, folder / FILE, **arguments)


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith(".lock"))


def test_success_and_progress(server, tmp_path):
    calls: list[tuple[str, int, int]] = []
    found = get(server, tmp_path, progress=lambda *call: calls.append(call))
    assert found == digest_of(PAYLOAD)
    assert (tmp_path / FILE).read_bytes() == PAYLOAD
    assert leftovers(tmp_path) == [FILE]
    done = [call[1] for call in calls]
    assert len(done) > 10
    assert done == sorted(done)
    assert (done[0], done[-1]) == (0, len(PAYLOAD))
    assert {(call[0], call[2]) for call in calls} == {(FILE, len(PAYLOAD))}


def test_wrong_content_under_the_right_name_and_size_is_refused(server, tmp_path):
    server.script.append("other")
    with pytest.raises(WeightsError) as caught:
        get(server, tmp_path)
    assert digest_of(OTHER).sha256 in str(caught.value)
    assert digest_of(PAYLOAD).sha256 in str(caught.value)
    assert not isinstance(caught.value, WeightsUnavailableError)
    assert leftovers(tmp_path) == []
    assert len(server.seen) == 1


@pytest.mark.parametrize(
    ("mode", "words"),
    [
        ("short", "offers 1000 bytes, the published file has 600000"),
        ("endless", "more than the published 600000 bytes"),
        ("html", "web page"),
        ("404", "HTTP 404"),
        ("403", "HTTP 403"),
        ("204", "HTTP 204"),
    ],
)
def test_hopeless_answers_are_not_asked_for_again(server, tmp_path, mode, words):
    server.script.append(mode)
    with pytest.raises(WeightsError, match=words) as caught:
        get(server, tmp_path)
    assert "\n" not in str(caught.value)
    assert leftovers(tmp_path) == []
    assert len(server.seen) == 1


@pytest.mark.parametrize("failure", ["500", "503", "429", "408"])
def test_passing_failures_are_tried_again(server, tmp_path, failure, caplog):
    server.script.extend([failure, failure])
    with caplog.at_level(logging.WARNING):
        get(server, tmp_path)
    assert (tmp_path / FILE).read_bytes() == PAYLOAD
    assert [span for _, span in server.seen] == [None] * 3
    assert f"HTTP {failure}" in caplog.text


def test_gives_up_after_the_last_attempt(server, tmp_path):
    server.script.extend(["502"] * 9)
    with pytest.raises(WeightsUnavailableError, match="in 3 tries: HTTP 502"):
        get(server, tmp_path)
    assert len(server.seen) == 3


def test_a_broken_transfer_is_resumed(server, tmp_path):
    server.script.append("truncated")
    calls: list[int] = []
    get(server, tmp_path, progress=lambda _name, done, _total: calls.append(done))
    assert (tmp_path / FILE).read_bytes() == PAYLOAD
    (_, first), (_, second) = server.seen
    assert first is None
    assert second is not None
    assert 0 < int(second.removeprefix("bytes=").removesuffix("-")) <= len(PAYLOAD) // 2
    assert calls == sorted(calls)


def test_a_server_without_ranges_starts_over(server, tmp_path):
    server.script.extend(["truncated", "whole"])
    calls: list[int] = []
    get(server, tmp_path, progress=lambda _name, done, _total: calls.append(done))
    assert (tmp_path / FILE).read_bytes() == PAYLOAD
    assert calls == sorted(calls)


def test_a_wrong_range_is_refused(server, tmp_path):
    server.script.extend(["truncated", "wrong_range"])
    with pytest.raises(WeightsUnavailableError, match="when asked for those from"):
        get(server, tmp_path)
    assert leftovers(tmp_path) == []


def test_truncated_for_good(server, tmp_path):
    server.script.extend(["truncated"] * 3)
    with pytest.raises(WeightsUnavailableError, match="broke off after") as caught:
        get(server, tmp_path)
    assert "\n" not in str(caught.value)
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("mode", ["stalled", "silent"])
def test_a_stalled_server_is_given_up(server, tmp_path, mode):
    server.script.extend([mode] * 3)
    start = time.monotonic()
    with pytest.raises(WeightsUnavailableError, match=r"nothing came for 0\.3 s"):
        get(server, tmp_path)
    assert time.monotonic() - start < 5
    assert leftovers(tmp_path) == []


def test_a_body_of_unannounced_length(server, tmp_path):
    server.script.append("unannounced")
    bigger = FileDigest(len(PAYLOAD) + 1, "0" * 64)
    assert get(server, tmp_path, accepted=[bigger, digest_of(PAYLOAD)]) == digest_of(PAYLOAD)


def test_any_published_variant_is_accepted(server, tmp_path):
    accepted = [digest_of(b"the principal one"), digest_of(PAYLOAD)]
    assert get(server, tmp_path, accepted=accepted) == digest_of(PAYLOAD)


def test_redirects_are_followed(server, tmp_path):
    server.script.append("redirect")
    get(server, tmp_path)
    assert server.seen[-1][0] == f"/elsewhere/{FILE}"


def test_a_refused_port_is_no_network_at_once(closed_port, tmp_path):
    start = time.monotonic()
    with pytest.raises(WeightsUnavailableError, match=r"no network: .*refused") as caught:
        download(
            f"http://127.0.0.1:{closed_port}/{FILE}",
            tmp_path / FILE,
            accepted=[digest_of(PAYLOAD)],
        )
    assert time.monotonic() - start < 5
    assert "\n" not in str(caught.value)
    assert leftovers(tmp_path) == []


def test_a_look_up_that_hangs_is_not_waited_for(monkeypatch, tmp_path):
    hanging = threading.Event()

    def look_up(*_args: object, **_options: object) -> None:
        hanging.wait(10)
        raise OSError("look-up failed at last")

    monkeypatch.setattr(reach.socket, "create_connection", look_up)
    start = time.monotonic()
    with pytest.raises(WeightsUnavailableError, match=r"no answer within 0\.2 s"):
        download(
            "http://weights.invalid/x",
            tmp_path / "x",
            accepted=[digest_of(PAYLOAD)],
            policy=DownloadPolicy(reach_timeout_s=0.2),
        )
    assert time.monotonic() - start < 2
    hanging.set()
    assert DEFAULT_POLICY.reach_timeout_s < 5


def test_the_proxy_of_the_environment_is_used(server, tmp_path, monkeypatch):
    monkeypatch.setenv("http_proxy", f"127.0.0.1:{server.server_port}")
    url = f"http://weights.invalid/{FILE}"
    download(url, tmp_path / FILE, accepted=[digest_of(PAYLOAD)], policy=QUICK)
    assert server.seen == [(url, None)]


def test_a_dead_proxy_is_named(closed_port, tmp_path, monkeypatch):
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{closed_port}")
    with pytest.raises(WeightsUnavailableError, match=f"127.0.0.1:{closed_port}"):
        download("http://weights.invalid/x", tmp_path / "x", accepted=[digest_of(PAYLOAD)])


def test_a_proxy_that_refuses_is_not_asked_again(server, tmp_path, monkeypatch):
    # This server knows no CONNECT: it answers 501, as a proxy does that forbids tunnels.
    monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{server.server_port}")
    start = time.monotonic()
    slow = DownloadPolicy(backoff_s=10)
    with pytest.raises(WeightsUnavailableError, match=r"cannot be fetched: .*501") as caught:
        download(
            "https://weights.invalid/x",
            tmp_path / "x",
            accepted=[digest_of(PAYLOAD)],
            policy=slow,
        )
    assert time.monotonic() - start < 5
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, RuntimeError])
def test_an_interrupted_download_leaves_nothing(server, tmp_path, interruption):
    def interrupt(_name: str, done_bytes: int, total_bytes: int) -> None:
        if done_bytes > total_bytes // 2:
            raise interruption

    with pytest.raises(interruption):
        get(server, tmp_path, progress=interrupt)
    assert leftovers(tmp_path) == []


def test_the_leftover_of_a_killed_process_is_overwritten(server, tmp_path):
    (tmp_path / f".{FILE}.part").write_bytes(OTHER + OTHER)
    get(server, tmp_path)
    assert (tmp_path / FILE).read_bytes() == PAYLOAD
    assert leftovers(tmp_path) == [FILE]


def test_too_little_disk_space_is_said_before_the_first_byte(server, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=len(PAYLOAD) - 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage)
    with pytest.raises(WeightsError, match=f"MB are free.*{CACHE_ENV}"):
        get(server, tmp_path)
    assert server.seen == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_disk_that_fills_up_meanwhile(server, tmp_path):
    (tmp_path / f".{FILE}.part").symlink_to("/dev/full")
    with pytest.raises(WeightsError, match=r"cannot be written .*No space left"):
        get(server, tmp_path)
    assert leftovers(tmp_path) == []


def test_progress_bar_only_on_a_terminal(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with stderr_progress() as silent:
        assert silent is None
    monkeypatch.setattr(sys, "stderr", Terminal())
    with stderr_progress() as report:
        assert report is not None
        report("a.pt", 1, 2)
        report("b.pt", 2, 2)
    assert "a.pt" in sys.stderr.getvalue()
    assert "b.pt" in sys.stderr.getvalue()


# --- through the public functions of mobilesam.checkpoints


@pytest.fixture
def spec(server, monkeypatch) -> CheckpointSpec:
    known = CheckpointSpec(
        name="tiny",
        file=FILE,
        url=server.url,
        digests=(digest_of(PAYLOAD),),
        licence="Apache-2.0",
        format="state_dict",
    )
    monkeypatch.setattr(checkpoint_specs, "specs", lambda: {"tiny": known})
    return known


def resolve(**changes: object) -> checkpoints.LocalCheckpoint:
    arguments: dict = {"overrides": {}, "offline": False, "trust": False, "policy": QUICK}
    return checkpoints.resolve("tiny", **{**arguments, **changes})


def test_fetched_once_then_found(server, spec):
    first = resolve()
    assert first.path == checkpoints.cache_dir() / FILE
    assert (first.official, first.trusted, first.n_bytes) == (True, True, len(PAYLOAD))
    assert first.sha256 == spec.sha256
    assert resolve() == resolve(offline=True) == resolve(fetch=False) == first
    assert checkpoints.fetch("tiny", policy=QUICK) == first
    assert len(server.seen) == 1
    assert checkpoints.fetch("tiny", force=True, policy=QUICK) == first
    assert len(server.seen) == 2


@pytest.mark.parametrize("content", [OTHER, PAYLOAD[:-1], b""])
def test_a_corrupt_file_in_the_cache_is_replaced(server, spec, content, caplog):
    cached = checkpoints.cache_dir() / FILE
    cached.parent.mkdir()
    cached.write_bytes(content)
    for harmless in ({"offline": True}, {"fetch": False}):
        with pytest.raises(WeightsError, match="weights fetch tiny") as caught:
            resolve(**harmless)
        assert not isinstance(caught.value, WeightsUnavailableError)
        assert str(cached) in str(caught.value)
    assert server.seen == []
    with caplog.at_level(logging.WARNING):
        assert resolve().official
    assert "fetching it again" in caplog.text
    assert cached.read_bytes() == PAYLOAD


def test_a_failed_download_names_the_cure(server, spec):
    server.script.append("404")
    with pytest.raises(WeightsUnavailableError, match=r"HTTP 404.*--weights tiny=PATH"):
        resolve()
    assert not (checkpoints.cache_dir() / FILE).exists()


def test_two_at_once_fetch_once(server, spec):
    server.script.append("slow")
    together = threading.Barrier(2)
    results: list[checkpoints.LocalCheckpoint] = []

    def work() -> None:
        together.wait()
        results.append(resolve())

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 2
    assert results[0] == results[1]
    assert len(server.seen) == 1


def test_a_cache_that_cannot_be_written_is_named(server, spec, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv(CACHE_ENV, str(tmp_path / "file" / "below"))
    with pytest.raises(WeightsError, match=rf"file/below cannot be written.*{CACHE_ENV}"):
        resolve()
    assert server.seen == []
