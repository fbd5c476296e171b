"""Downloads from a local server that fails on demand."""

import hashlib
import io
import logging
import re
import shutil
import socket
import sys
import threading
import time
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pooch
import pytest

from mobilesam.errors import NetworkUnreachableError, WeightsError, WeightsUnavailableError
from mobilesam.weights import download as module
from mobilesam.weights.cache import CACHE_ENV
from mobilesam.weights.checkpoint_specs import FileDigest
from mobilesam.weights.download import download

pytestmark = pytest.mark.usefixtures("clean_environment", "quick_downloads")

PAYLOAD = np.random.default_rng(0).bytes(600_000)
OTHER = np.random.default_rng(1).bytes(len(PAYLOAD))
FILE = "sam_vit_t.pth"


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
    arguments: dict = {"accepted": [digest_of(PAYLOAD)], **changes}
    return download(server.url, folder / FILE, **arguments)


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith(".lock"))


def test_success(server, tmp_path, monkeypatch):
    log = io.StringIO()
    monkeypatch.setattr(pooch.get_logger().handlers[0], "stream", log)
    assert get(server, tmp_path) == digest_of(PAYLOAD)
    assert (tmp_path / FILE).read_bytes() == PAYLOAD
    assert (tmp_path / FILE).stat().st_mode & 0o777 == 0o644
    assert leftovers(tmp_path) == [FILE]
    assert log.getvalue() == ""


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
    assert len(server.seen) == 3
    assert f"HTTP {failure}" in caplog.text


def test_gives_up_after_the_last_attempt(server, tmp_path):
    server.script.extend(["502"] * 9)
    with pytest.raises(WeightsUnavailableError, match="in 3 tries: HTTP 502") as caught:
        get(server, tmp_path)
    assert "\n" not in str(caught.value)
    assert leftovers(tmp_path) == []
    assert len(server.seen) == 3


@pytest.mark.parametrize("mode", ["truncated", "stalled"])
def test_broken_transfer_is_repeated(server, tmp_path, mode, caplog):
    server.script.append(mode)
    with caplog.at_level(logging.WARNING):
        get(server, tmp_path)
    assert (tmp_path / FILE).read_bytes() == PAYLOAD
    assert len(server.seen) == 2
    assert re.search(r"after \d{3,} bytes", caplog.text)


@pytest.mark.parametrize(("mode", "words"), [("truncated", "IncompleteRead"), ("stalled", "timed")])
def test_repeatedly_broken_transfer(server, tmp_path, mode, words):
    server.script.extend([mode] * 3)
    with pytest.raises(WeightsUnavailableError, match=rf"in 3 tries: {words}.* bytes") as caught:
        get(server, tmp_path)
    assert "\n" not in str(caught.value)
    assert leftovers(tmp_path) == []


def test_silent_server_is_not_tried_again(server, tmp_path):
    server.script.append("silent")
    with pytest.raises(NetworkUnreachableError, match=rf"{server.server_port}.*timed out"):
        get(server, tmp_path)
    assert len(server.seen) == 1
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
    assert server.seen[-1] == f"/elsewhere/{FILE}"


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

    def look_up(*_args: object) -> None:
        hanging.wait(10)
        raise OSError("look-up failed at last")

    monkeypatch.setattr(module.socket, "getaddrinfo", look_up)
    monkeypatch.setattr(module, "CONNECT_TIMEOUT_S", 0.2)
    with pytest.raises(NetworkUnreachableError, match=r"weights.invalid.*within 0\.2 s"):
        download("http://weights.invalid/x", tmp_path / "x", accepted=[digest_of(PAYLOAD)])
    hanging.set()


def test_proxy_of_the_environment(server, tmp_path, monkeypatch):
    monkeypatch.setenv("http_proxy", f"127.0.0.1:{server.server_port}")
    url = f"http://weights.invalid/{FILE}"
    download(
        url,
        tmp_path / FILE,
        accepted=[digest_of(PAYLOAD)],
    )
    assert server.seen == [url]


def test_unreachable_proxy_is_named(closed_port, tmp_path, monkeypatch):
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{closed_port}")
    with pytest.raises(WeightsUnavailableError, match=f"127.0.0.1:{closed_port}"):
        download("http://weights.invalid/x", tmp_path / "x", accepted=[digest_of(PAYLOAD)])


def test_refusing_proxy_is_not_retried(server, tmp_path, monkeypatch):
    # This server knows no CONNECT: it answers 501, as a proxy does that forbids tunnels.
    monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{server.server_port}")
    with pytest.raises(WeightsUnavailableError, match=r"cannot be reached .*501") as caught:
        download("https://weights.invalid/x", tmp_path / "x", accepted=[digest_of(PAYLOAD)])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, RuntimeError])
def test_interrupted_download_leaves_no_file(server, tmp_path, interruption, monkeypatch):
    def interrupt(*, completed: int, total: int) -> None:
        if completed > total // 2:
            raise interruption

    monkeypatch.setattr(module, "_progress_bar", lambda *_, **__: nullcontext(interrupt))
    with pytest.raises(interruption):
        get(server, tmp_path)
    assert leftovers(tmp_path) == []


def test_partial_file_of_a_killed_process_is_removed(server, tmp_path):
    folder = tmp_path / f".{FILE}.download"
    folder.mkdir()
    (folder / "tmp0").write_bytes(OTHER)
    (folder / FILE).write_bytes(OTHER)
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
def test_disk_fills_up_during_the_download(server, tmp_path, monkeypatch):
    monkeypatch.setattr("pooch.core.temporary_file", lambda **_: nullcontext("/dev/full"))
    with pytest.raises(WeightsError, match=r"cannot be written .*No space left"):
        get(server, tmp_path)
    assert leftovers(tmp_path) == []
    assert len(server.seen) == 1


def test_progress_bar_only_on_a_terminal(server, tmp_path, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    for stream, shown in ((io.StringIO(), False), (Terminal(), True)):
        monkeypatch.setattr(sys, "stderr", stream)
        get(server, tmp_path, progress=True)
        assert (FILE in stream.getvalue()) == shown
    assert "100%" in stream.getvalue()
