"""Search order of checkpoints, verification, downloads by name."""

import hashlib
import json
import logging
import os
import time
from pathlib import Path

import pytest

from mobilesam.errors import UsageError, WeightsError, WeightsUnavailableError
from mobilesam.weights import checkpoint_specs, checkpoints
from mobilesam.weights.cache import CACHE_ENV, MEMO_NAME, cache_dir
from mobilesam.weights.checkpoint_specs import CheckpointSpec, FileDigest, RepublishedFile
from mobilesam.weights.checkpoints import (
    WEIGHTS_ENV,
    checkpoint_statuses,
    fetch,
    parse_override,
    verify,
)

CONTENT = b"the published weights"
VARIANT = b"the same weights, saved again by another publisher"
PICKLE = b"a published pickle"
FOREIGN = b"somebody's own weights"


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def make_spec(name: str, *contents: bytes, file_format: str = "state_dict") -> CheckpointSpec:
    first, *others = contents
    return CheckpointSpec(
        name=name,
        file=f"{name}.pt",
        url=f"https://weights.invalid/{name}",
        n_bytes=len(first),
        sha256=sha256(first),
        also=tuple(
            RepublishedFile(n_bytes=len(each), sha256=sha256(each), source="a copy")
            for each in others
        ),
        licence="MIT",
        format=file_format,  # type: ignore[arg-type]
    )


@pytest.fixture(autouse=True)
def environment(monkeypatch, tmp_path):
    known = {
        "tiny": make_spec("tiny", CONTENT, VARIANT),
        "fast": make_spec("fast", PICKLE, file_format="pickle"),
    }
    monkeypatch.setattr(checkpoint_specs, "specs", lambda: known)
    monkeypatch.setenv(CACHE_ENV, str(tmp_path / "cache"))
    monkeypatch.delenv(WEIGHTS_ENV, raising=False)
    # Nothing here may go to the network.
    monkeypatch.setattr("mobilesam.weights.download.download", None)


@pytest.fixture
def folder(monkeypatch, tmp_path) -> Path:
    path = tmp_path / "weights"
    path.mkdir()
    monkeypatch.setenv(WEIGHTS_ENV, str(path))
    return path


def resolve(name: str, **changes: object) -> checkpoints.LocalCheckpoint:
    arguments: dict = {"overrides": {}, "offline": True, "trust": False}
    return checkpoints.resolve(name, **{**arguments, **changes})


def write(path: Path, content: bytes, age_s: float = 60) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    moment_ns = time.time_ns() - int(age_s * 1e9)
    os.utime(path, ns=(moment_ns, moment_ns))
    return path


def test_cache_dir(monkeypatch, tmp_path):
    assert cache_dir() == tmp_path / "cache"
    monkeypatch.setenv(CACHE_ENV, "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_dir().name == "mobilesam-bench"


@pytest.mark.parametrize("text", ["", "tiny", "=x.pt", "tiny=", " = "])
def test_malformed_overrides(text):
    with pytest.raises(UsageError, match="NAME=PATH"):
        parse_override(text)


def test_overrides_are_split_at_the_first_equals_sign():
    assert parse_override("tiny=/a=b.pt") == ("tiny", Path("/a=b.pt"))
    assert parse_override("tiny=~/x.pt") == ("tiny", Path.home() / "x.pt")


@pytest.mark.parametrize(
    ("name", "content", "official"),
    [
        ("tiny", CONTENT, True),
        ("tiny", VARIANT, True),
        ("tiny", FOREIGN, False),
        ("tiny", PICKLE, False),
        ("third-party", CONTENT, False),
    ],
)
@pytest.mark.parametrize("trust", [False, True])
def test_override_comes_first(tmp_path, folder, name, content, official, trust):
    write(folder / "tiny.pt", CONTENT)
    mine = write(tmp_path / "mine.pt", content)
    found = resolve(name, overrides={name: mine}, trust=trust)
    assert found == checkpoints.LocalCheckpoint(
        mine, sha256(content), official, len(content), official or trust
    )


def test_unusable_overrides(tmp_path):
    missing = tmp_path / "missing.pt"
    for path, words in ((missing, "cannot be read"), (tmp_path, "not a file")):
        with pytest.raises(WeightsError, match=words) as caught:
            resolve("tiny", overrides={"tiny": path})
        assert str(path) in str(caught.value)
        assert not isinstance(caught.value, WeightsUnavailableError)
    with pytest.raises(WeightsError, match="is empty"):
        resolve("tiny", overrides={"tiny": write(tmp_path / "empty.pt", b"")})


def test_weights_folder_comes_before_the_cache(folder):
    write(cache_dir() / "tiny.pt", CONTENT)
    write(folder / "tiny.pt", VARIANT)
    assert resolve("tiny").path == folder / "tiny.pt"
    assert resolve("tiny").official
    assert fetch("tiny").path == folder / "tiny.pt"


def test_other_content_in_the_weights_folder_is_unofficial(folder, caplog):
    write(folder / "tiny.pt", FOREIGN)
    with caplog.at_level(logging.WARNING):
        found = resolve("tiny")
    assert (found.official, found.trusted) == (False, False)
    assert "not the published file" in caplog.text
    assert resolve("tiny", trust=True).trusted
    write(cache_dir() / "tiny.pt", CONTENT)
    assert fetch("tiny").path == cache_dir() / "tiny.pt"


def test_missing_weights_folder(monkeypatch, tmp_path):
    monkeypatch.setenv(WEIGHTS_ENV, str(tmp_path / "nowhere"))
    with pytest.raises(WeightsError, match=f"{WEIGHTS_ENV} names .*nowhere"):
        resolve("tiny")


def test_not_available(monkeypatch):
    for arguments, words in (
        ({"offline": True}, "--offline forbids"),
        ({"offline": False, "fetch": False}, "fetches nothing"),
    ):
        with pytest.raises(WeightsUnavailableError, match=words) as caught:
            resolve("tiny", **arguments)
        assert "mobilesam-bench weights fetch tiny" in str(caught.value)
        assert "--weights tiny=PATH" in str(caught.value)
        assert "\n" not in str(caught.value)
    with pytest.raises(WeightsUnavailableError, match="--weights third-party=PATH"):
        resolve("third-party", offline=False)
    with pytest.raises(UsageError, match="unknown checkpoint 'third-party'; known are tiny, fast"):
        fetch("third-party")


def test_wrong_content_in_the_cache_is_refused(monkeypatch):
    forged = bytes(len(CONTENT))
    write(cache_dir() / "tiny.pt", forged)
    with pytest.raises(WeightsError, match=sha256(forged)):
        resolve("tiny")
    assert verify("tiny").status == "corrupt"


def test_verify_by_name(folder):
    assert verify("tiny").status == "absent"
    assert verify("tiny").path == cache_dir() / "tiny.pt"
    assert "weights fetch tiny" in verify("tiny").message
    cached = write(cache_dir() / "tiny.pt", CONTENT)
    report = verify("tiny")
    assert (report.status, report.name, report.path) == ("ok", "tiny", cached)
    assert report.found == FileDigest(len(CONTENT), sha256(CONTENT))
    write(cached, FOREIGN)
    assert verify("tiny").status == "corrupt"
    write(cached, b"")
    assert verify("tiny").status == "corrupt"
    write(folder / "tiny.pt", FOREIGN)
    report = verify("tiny")
    assert (report.status, report.path) == ("custom", folder / "tiny.pt")
    assert sha256(FOREIGN) in report.message
    assert sha256(CONTENT) in report.message


def test_verify_by_path(tmp_path):
    renamed = write(tmp_path / "renamed.bin", PICKLE)
    report = verify(renamed)
    assert (report.status, report.name) == ("ok", "fast")
    assert verify(str(renamed)) == report
    assert verify(write(tmp_path / "own.bin", FOREIGN)).status == "custom"
    assert verify(write(tmp_path / "tiny.pt", FOREIGN)).status == "corrupt"
    assert verify(write(tmp_path / "tiny.pt", PICKLE)).status == "corrupt"
    assert verify(tmp_path / "missing").status == "absent"
    assert verify(tmp_path).status == "corrupt"
    with pytest.raises(UsageError, match="neither a file nor a known checkpoint"):
        verify("missing")


def test_checkpoint_statuses(folder):
    write(folder / "tiny.pt", FOREIGN)
    found = checkpoint_statuses()
    assert list(found) == ["tiny", "fast"]
    tiny, fast = found.values()
    assert (tiny.place, tiny.path, tiny.status) == ("folder", folder / "tiny.pt", "custom")
    assert (fast.place, fast.path, fast.status) == (None, cache_dir() / "fast.pt", "absent")
    write(cache_dir() / "fast.pt", PICKLE)
    assert [(report.place, report.status) for report in checkpoint_statuses().values()] == [
        ("folder", "custom"),
        ("cache", "ok"),
    ]


def test_verify_reads_the_file(reads):
    cached = write(cache_dir() / "tiny.pt", CONTENT)
    resolve("tiny")
    memo = cache_dir() / MEMO_NAME
    assert str(cached) in json.loads(memo.read_text())
    verify("tiny")
    assert len(reads) == 2


def test_pickles_are_read_every_time(tmp_path, reads):
    path = write(tmp_path / "mine.pt", PICKLE)
    for _ in range(2):
        assert resolve("fast", overrides={"fast": path}).trusted
    assert len(reads) == 2


def test_unwritable_cache_is_no_error_for_local_files(tmp_path, monkeypatch, reads):
    write(tmp_path / "file", b"no folder")
    monkeypatch.setenv(CACHE_ENV, str(tmp_path / "file" / "below"))
    path = write(tmp_path / "mine.pt", CONTENT)
    for _ in range(2):
        assert resolve("tiny", overrides={"tiny": path}).official
    assert len(reads) == 2
    with pytest.raises(WeightsUnavailableError, match="--offline"):
        resolve("tiny")


def test_lookups_import_no_heavy_library():
    import subprocess
    import sys

    code = (
        "import sys, mobilesam.weights.checkpoints as c; c.checkpoint_statuses(); c.cache_dir(); "
        "heavy = {'torch', 'numpy', 'pooch', 'requests', 'rich', 'filelock'} & set(sys.modules); "
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
