"""Downloads by name from a local server."""

import hashlib
import logging
import threading

import numpy as np
import pytest

from mobilesam.errors import WeightsError, WeightsUnavailableError
from mobilesam.weights import checkpoint_specs, checkpoints
from mobilesam.weights.cache import CACHE_ENV, cache_dir
from mobilesam.weights.checkpoint_specs import CheckpointSpec, FileDigest

pytestmark = pytest.mark.usefixtures("clean_environment", "quick_downloads")

PAYLOAD = np.random.default_rng(0).bytes(100_000)
OTHER = np.random.default_rng(1).bytes(len(PAYLOAD))
FILE = "sam_vit_t.pth"


def digest_of(content: bytes) -> FileDigest:
    return FileDigest(len(content), hashlib.sha256(content).hexdigest())


@pytest.fixture
def server(weights_server):
    weights_server.payload, weights_server.other, weights_server.file = PAYLOAD, OTHER, FILE
    return weights_server


@pytest.fixture
def spec(server, monkeypatch) -> CheckpointSpec:
    known = CheckpointSpec(
        name="tiny",
        file=FILE,
        url=server.url,
        n_bytes=len(PAYLOAD),
        sha256=digest_of(PAYLOAD).sha256,
        licence="Apache-2.0",
        format="state_dict",
    )
    monkeypatch.setattr(checkpoint_specs, "specs", lambda: {"tiny": known})
    return known


def resolve(**changes: object) -> checkpoints.LocalCheckpoint:
    arguments: dict = {"overrides": {}, "offline": False, "trust": False}
    return checkpoints.resolve("tiny", **{**arguments, **changes})


def test_fetched_once_then_found(server, spec):
    first = resolve()
    assert first.path == cache_dir() / FILE
    assert (first.official, first.trusted, first.n_bytes) == (True, True, len(PAYLOAD))
    assert first.sha256 == spec.sha256
    assert resolve() == resolve(offline=True) == resolve(fetch=False) == first
    assert checkpoints.fetch("tiny") == first
    assert len(server.seen) == 1
    assert checkpoints.fetch("tiny", force=True) == first
    assert len(server.seen) == 2
    server.script.append("404")
    with pytest.raises(WeightsUnavailableError):
        checkpoints.fetch("tiny", force=True)
    assert resolve(offline=True) == first


@pytest.mark.parametrize("content", [OTHER, PAYLOAD[:-1], b""])
def test_corrupt_file_in_the_cache_is_replaced(server, spec, content, caplog):
    cached = cache_dir() / FILE
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


def test_failed_download_says_what_to_do(server, spec):
    server.script.append("404")
    with pytest.raises(WeightsUnavailableError, match=r"HTTP 404.*--weights tiny=PATH"):
        resolve()
    assert not (cache_dir() / FILE).exists()


def test_concurrent_fetches_download_once(server, spec):
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


def test_unwritable_cache_is_named(server, spec, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv(CACHE_ENV, str(tmp_path / "file" / "below"))
    with pytest.raises(WeightsError, match=rf"file/below cannot be written.*{CACHE_ENV}"):
        resolve()
    assert server.seen == []


def test_a_file_without_a_known_digest_is_fetched_and_is_not_official(server, spec, monkeypatch):
    unconfirmed = spec.model_copy(update={"sha256": None, "n_bytes": None})
    monkeypatch.setattr(checkpoint_specs, "specs", lambda: {"tiny": unconfirmed})
    found = resolve()
    assert (found.official, found.trusted, found.sha256) == (False, False, spec.sha256)
    assert checkpoints.verify("tiny").status == "unconfirmed"
    assert "no published sha256" in checkpoints.verify("tiny").message
    assert resolve(offline=True) == found
    assert len(server.seen) == 1


def test_a_digest_without_a_size_is_verified(server, spec, monkeypatch):
    unsized = spec.model_copy(update={"n_bytes": None, "about_mb": 0.1})
    monkeypatch.setattr(checkpoint_specs, "specs", lambda: {"tiny": unsized})
    assert resolve().official
    wrong = unsized.model_copy(update={"sha256": "0" * 64})
    monkeypatch.setattr(checkpoint_specs, "specs", lambda: {"tiny": wrong})
    with pytest.raises(WeightsError, match="is not the published file"):
        checkpoints.fetch("tiny", force=True)


def test_a_gated_file_says_how_to_get_it(server, spec, monkeypatch):
    gated = spec.model_copy(update={"gate": "gated: accept it first"})
    server.script.append("401")
    monkeypatch.setattr(checkpoint_specs, "specs", lambda: {"tiny": gated})
    with pytest.raises(WeightsUnavailableError, match="gated: accept it first"):
        resolve()
