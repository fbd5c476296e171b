"""Downloads from a local server that fails on demand."""

import hashlib
import io
import logging
import shutil
import socket
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from mobilesam.errors import WeightsError, WeightsUnavailableError
from mobilesam.weights import download as module
from mobilesam.weights.cache import CACHE_ENV
from mobilesam.weights.checkpoint_specs import FileDigest
from mobilesam.weights.download import DEFAULT_POLICY, DownloadPolicy, download, stderr_progress

pytestmark = pytest.mark.usefixtures("clean_environment")

PAYLOAD = np.random.default_rng(0).bytes(600_000)
OTHER = np.random.default_rng(1).bytes(len(PAYLOAD))
# As in SAM's file names, the tag is the start of the content's MD5.
FILE = f"sam_vit_t_{hashlib.md5(PAYLOAD, usedforsecurity=False).hexdigest()[:6]}.pth"
QUICK = DownloadPolicy(read_timeout_s=0.3, attempts=3, backoff_s=0.01, chunk_bytes=1 << 14)


def digest_of(content: bytes) -> FileDigest:
    return FileDigest(len(content), hashlib.sha256(content).hexdigest())


@pytest.fixture
def server(weights_server):
    weights_server.payload, weights_server.other, weights_server.file = PAYLOAD, OTHER, FILE
    return weights_server


@pytest.fixture
def closed_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


def get(server, folder: Path, **changes: object) -> FileDigest:
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


def test_wrong_content_of_the_right_size_is_refused(server, tmp_path):
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
def test_permanent_failures_are_not_retried(server, tmp_path, mode, words):
    server.script.append(mode)
    with pytest.raises(WeightsError, match=words) as caught:
        get(server, tmp_path)
    assert "\n" not in str(caught.value)
    assert leftovers(tmp_path) == []
    assert len(server.seen) == 1


@pytest.mark.parametrize("failure", ["500", "503", "429", "408"])
def test_temporary_failures_are_retried(server, tmp_path, failure, caplog):
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


def test_broken_transfer_is_resumed(server, tmp_path):
    server.script.append("truncated")
    calls: list[int] = []
    get(server, tmp_path, progress=lambda _name, done, _total: calls.append(done))
    assert (tmp_path / FILE).read_bytes() == PAYLOAD
    (_, first), (_, second) = server.seen
    assert first is None
    assert second is not None
    assert 0 < int(second.removeprefix("bytes=").removesuffix("-")) <= len(PAYLOAD) // 2
    assert calls == sorted(calls)


def test_server_without_ranges_restarts(server, tmp_path):
    server.script.extend(["truncated", "whole"])
    calls: list[int] = []
    get(server, tmp_path, progress=lambda _name, done, _total: calls.append(done))
    assert (tmp_path / FILE).read_bytes() == PAYLOAD
    assert calls == sorted(calls)


def test_wrong_range_is_refused(server, tmp_path):
    server.script.extend(["truncated", "wrong_range"])
    with pytest.raises(WeightsUnavailableError, match="when asked for those from"):
        get(server, tmp_path)
    assert leftovers(tmp_path) == []


def test_repeatedly_truncated_transfer(server, tmp_path):
    server.script.extend(["truncated"] * 3)
    with pytest.raises(WeightsUnavailableError, match="broke off after") as caught:
        get(server, tmp_path)
    assert "\n" not in str(caught.value)
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("mode", ["stalled", "silent"])
def test_stalled_server(server, tmp_path, mode):
    server.script.extend([mode] * 3)
    start = time.monotonic()
    with pytest.raises(WeightsUnavailableError, match=r"nothing came for 0\.3 s"):
        get(server, tmp_path)
    assert time.monotonic() - start < 5
    assert leftovers(tmp_path) == []


def test_body_without_content_length(server, tmp_path):
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


def test_refused_connection_is_no_network(closed_port, tmp_path):
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


def test_hanging_name_lookup(monkeypatch, tmp_path):
    hanging = threading.Event()

    def look_up(*_args: object, **_options: object) -> None:
        hanging.wait(10)
        raise OSError("look-up failed at last")

    monkeypatch.setattr(module.socket, "create_connection", look_up)
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


def test_proxy_of_the_environment(server, tmp_path, monkeypatch):
    monkeypatch.setenv("http_proxy", f"127.0.0.1:{server.server_port}")
    url = f"http://weights.invalid/{FILE}"
    download(url, tmp_path / FILE, accepted=[digest_of(PAYLOAD)], policy=QUICK)
    assert server.seen == [(url, None)]


def test_unreachable_proxy_is_named(closed_port, tmp_path, monkeypatch):
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{closed_port}")
    with pytest.raises(WeightsUnavailableError, match=f"127.0.0.1:{closed_port}"):
        download("http://weights.invalid/x", tmp_path / "x", accepted=[digest_of(PAYLOAD)])


def test_refusing_proxy_is_not_retried(server, tmp_path, monkeypatch):
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
def test_interrupted_download_leaves_no_file(server, tmp_path, interruption):
    def interrupt(_name: str, done_bytes: int, total_bytes: int) -> None:
        if done_bytes > total_bytes // 2:
            raise interruption

    with pytest.raises(interruption):
        get(server, tmp_path, progress=interrupt)
    assert leftovers(tmp_path) == []


def test_partial_file_of_a_killed_process_is_overwritten(server, tmp_path):
    (tmp_path / f".{FILE}.part").write_bytes(OTHER + OTHER)
    get(server, tmp_path)
    assert (tmp_path / FILE).read_bytes() == PAYLOAD
    assert leftovers(tmp_path) == [FILE]


def test_too_little_disk_space(server, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=len(PAYLOAD) - 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage)
    with pytest.raises(WeightsError, match=f"MB are free.*{CACHE_ENV}"):
        get(server, tmp_path)
    assert server.seen == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_disk_fills_up_during_the_download(server, tmp_path):
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
