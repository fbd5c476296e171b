"""Remembered digests: changes, damage."""

import hashlib
import json
import os
import time
from pathlib import Path

import pytest

from mobilesam.errors import WeightsError
from mobilesam.weights import cache
from mobilesam.weights.cache import MEMO_NAME, digest_file
from mobilesam.weights.checkpoint_specs import FileDigest

CONTENT = b"some weights"
CONTENT_DIGEST = FileDigest(len(CONTENT), hashlib.sha256(CONTENT).hexdigest())
VARIANT = b"weights some"


def write(path: Path, content: bytes, age_s: float = 60) -> Path:
    path.write_bytes(content)
    moment_ns = time.time_ns() - int(age_s * 1e9)
    os.utime(path, ns=(moment_ns, moment_ns))
    return path


def test_digest_is_remembered_until_the_file_changes(tmp_path, reads):
    path = write(tmp_path / "mine.pt", CONTENT, age_s=60)
    for _ in range(3):
        assert digest_file(path, memo_dir=tmp_path) == CONTENT_DIGEST
    assert len(reads) == 1
    write(path, bytes(len(CONTENT)), age_s=59)
    assert digest_file(path, memo_dir=tmp_path) != CONTENT_DIGEST
    assert len(reads) == 2
    replacement = write(tmp_path / "other", VARIANT, age_s=59)
    replacement.replace(path)
    assert digest_file(path, memo_dir=tmp_path).sha256 == hashlib.sha256(VARIANT).hexdigest()
    assert len(reads) == 3


def test_replaced_file_of_equal_size_and_mtime(tmp_path):
    memo = tmp_path / "memo"
    path = write(tmp_path / "a", b"one")
    assert digest_file(path, memo_dir=memo).sha256 == hashlib.sha256(b"one").hexdigest()
    status = path.stat()
    other = write(tmp_path / "b", b"two")
    os.utime(other, ns=(status.st_mtime_ns, status.st_mtime_ns))
    other.replace(path)
    assert digest_file(path, memo_dir=memo).sha256 == hashlib.sha256(b"two").hexdigest()


def test_recent_files_are_not_remembered(tmp_path, reads):
    path = write(tmp_path / "mine.pt", CONTENT, age_s=0)
    for _ in range(2):
        digest_file(path, memo_dir=tmp_path)
    assert len(reads) == 2


@pytest.mark.parametrize(
    "damage",
    ["", "[]", "{", "\x00", '{"PATH": 3}', '{"PATH": {"sha256": "x"}}', '{"a\\u0000": 1}'],
)
def test_damaged_memo_is_ignored(tmp_path, damage):
    path = write(tmp_path / "mine.pt", CONTENT)
    content = damage.replace("PATH", str(path)).encode()
    memo = write(tmp_path / MEMO_NAME, content)
    assert digest_file(path, memo_dir=tmp_path) == CONTENT_DIGEST
    assert list(json.loads(memo.read_text())) == [str(path)]


def test_malformed_digest_in_the_memo_is_ignored(tmp_path, reads):
    path = write(tmp_path / "mine.pt", CONTENT)
    digest_file(path, memo_dir=tmp_path)
    memo = tmp_path / MEMO_NAME
    memo.write_text(memo.read_text().replace(CONTENT_DIGEST.sha256, "nonsense"))
    assert digest_file(path, memo_dir=tmp_path).sha256 == CONTENT_DIGEST.sha256
    assert len(reads) == 2


def test_file_that_changes_while_it_is_read(tmp_path, monkeypatch):
    path = write(tmp_path / "mine.pt", CONTENT)
    honest = hashlib.file_digest

    def slow(file, *args):
        with path.open("ab") as writer:
            writer.write(b"more")
        return honest(file, *args)

    monkeypatch.setattr(cache.hashlib, "file_digest", slow)
    with pytest.raises(WeightsError, match="changed while it was read"):
        digest_file(path)
