"""Which file a name leads to, what is known of it, and what is remembered."""

import hashlib
import json
import logging
import os
import time
from pathlib import Path

import pytest

from mobilesam import cache, checkpoint_specs, checkpoints
from mobilesam.cache import CACHE_ENV, MEMO_NAME, digest_file
from mobilesam.checkpoint_specs import CheckpointSpec, FileDigest, parse_specs, specs
from mobilesam.checkpoints import WEIGHTS_ENV, fetch, parse_override, status_rows, verify
from mobilesam.errors import UsageError, WeightsError, WeightsUnavailableError

CONTENT = b"the published weights"
VARIANT = b"the same weights, saved again by another publisher"
PICKLE = b"a published pickle"
FOREIGN = b"somebody's own weights"


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def make_spec(name: str, *contents: bytes, file_format: str = "state_dict") -> CheckpointSpec:
    digests = tuple(FileDigest(len(content), sha256(content)) for content in contents)
    url = f"https://weights.invalid/{name}"
    return CheckpointSpec(name, f"{name}.pt", url, digests, "MIT", file_format)  # type: ignore[arg-type]


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
    monkeypatch.setattr(checkpoints, "download", None)


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


def test_the_shipped_list_is_that_of_the_publishers():
    assert {spec.name: (spec.file, spec.n_bytes, spec.format) for spec in specs().values()} == {
        "mobilesam": ("mobile_sam.pt", 40_728_226, "state_dict"),
        "sam-vit-h": ("sam_vit_h_4b8939.pth", 2_564_550_879, "state_dict"),
        "sam-vit-l": ("sam_vit_l_0b3195.pth", 1_249_524_607, "state_dict"),
        "sam-vit-b": ("sam_vit_b_01ec64.pth", 375_042_383, "state_dict"),
        "fastsam-x": ("FastSAM-x.pt", 144_943_063, "pickle"),
        "fastsam-s": ("FastSAM-s.pt", 23_851_578, "pickle"),
    }
    digests = [digest.sha256 for spec in specs().values() for digest in spec.digests]
    assert len(digests) == len(set(digests)) == 7
    for name, spec in specs().items():
        assert name == spec.name
        assert spec.url.startswith("https://")
        assert spec.url.endswith("/" + spec.file)
        assert spec.licence == ("AGPL-3.0-only" if spec.format == "pickle" else "Apache-2.0")
        assert "\n" not in spec.note
    with pytest.raises(TypeError):
        specs()["mobilesam"] = specs()["sam-vit-h"]  # type: ignore[index]


@pytest.mark.shared
def test_the_shipped_list_agrees_with_the_paper_notes():
    paper = Path(__file__).resolve().parents[2].parent / "shared" / "PAPER.md"
    if not paper.exists():
        pytest.skip(f"{paper} is not here")
    text = paper.read_text(encoding="utf-8")
    for spec in specs().values():
        row = next(line for line in text.splitlines() if line.startswith(f"| {spec.file} "))
        assert spec.url in row
        assert f"{spec.n_bytes:,}" in row
        assert spec.sha256 in row


ENTRY = """[[checkpoint]]
name = "a"
file = "a.pt"
url = "https://weights.invalid/a.pt"
bytes = 1
sha256 = "{}"
licence = "MIT"
format = "state_dict"
""".format("0" * 64)


def test_a_list_of_one():
    (spec,) = parse_specs(ENTRY).values()
    assert spec.digests == (FileDigest(1, "0" * 64),)
    assert spec.note == ""


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("bytes = 1", "bytes = 0", "entry a: bytes must be a positive integer; got 0"),
        ("bytes = 1", "bytes = true", "bytes must be"),
        ("bytes = 1", 'bytes = "1"', "bytes must be"),
        ("0" * 64, "0" * 63, "sha256 must be 64"),
        ("0" * 64, "A" * 64, "sha256 must be 64"),
        ("https://", "ftp://", "url must be"),
        ('"a.pt"', '"../a.pt"', "bare, visible file name"),
        ('"a.pt"', '".digests"', "bare, visible file name"),
        ('"a.pt"', "3", "file must be text"),
        ('"MIT"', '""', "must not be empty"),
        ('"state_dict"', '"onnx"', "format must be one of state_dict, pickle; got 'onnx'"),
        ('licence = "MIT"\n', "", r"missing keys \['licence'\]"),
        ("bytes = 1", "bytes = 1\nsize = 1", r"unknown keys \['size'\]"),
        ("bytes = 1", "bytes = 1\nalso = 3", "also must be a list"),
        ("bytes = 1", "bytes = 1\nalso = [{bytes = 1}]", "missing keys"),
        ("bytes = 1", "bytes = ", "not TOML"),
        ("[[checkpoint]]", "[[checkpoints]]", "tables and nothing else"),
        ("[[checkpoint]]", ENTRY + "[[checkpoint]]", "appears twice"),
        (ENTRY, "checkpoint = [1]", "must be a table; got 1"),
    ],
)
def test_a_malformed_list_is_refused(old, new, words):
    with pytest.raises(WeightsError, match=words):
        parse_specs(ENTRY.replace(old, new))


def test_cache_dir(monkeypatch, tmp_path):
    assert checkpoints.cache_dir() == tmp_path / "cache"
    monkeypatch.setenv(CACHE_ENV, "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert checkpoints.cache_dir().name == "mobilesam-bench"


@pytest.mark.parametrize("text", ["", "tiny", "=x.pt", "tiny=", " = "])
def test_malformed_overrides(text):
    with pytest.raises(UsageError, match="NAME=PATH"):
        parse_override(text)


def test_overrides_are_split_at_the_first_sign():
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
def test_an_override_comes_first_and_is_official_by_content(
    tmp_path, folder, name, content, official, trust
):
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


def test_the_weights_folder_comes_before_the_cache(folder):
    write(checkpoints.cache_dir() / "tiny.pt", CONTENT)
    write(folder / "tiny.pt", VARIANT)
    assert resolve("tiny").path == folder / "tiny.pt"
    assert resolve("tiny").official
    assert fetch("tiny").path == folder / "tiny.pt"


def test_foreign_content_in_the_weights_folder_is_used_but_not_official(folder, caplog):
    write(folder / "tiny.pt", FOREIGN)
    with caplog.at_level(logging.WARNING):
        found = resolve("tiny")
    assert (found.official, found.trusted) == (False, False)
    assert "not the published file" in caplog.text
    assert resolve("tiny", trust=True).trusted
    write(checkpoints.cache_dir() / "tiny.pt", CONTENT)
    assert fetch("tiny").path == checkpoints.cache_dir() / "tiny.pt"


def test_a_weights_folder_that_is_none(monkeypatch, tmp_path):
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


def test_a_right_name_with_a_wrong_content_is_refused(monkeypatch):
    """The tag in SAM's file names proves nothing, not even together with the right size."""
    forged = bytes(len(CONTENT))
    write(checkpoints.cache_dir() / "tiny.pt", forged)
    with pytest.raises(WeightsError, match=sha256(forged)):
        resolve("tiny")
    assert verify("tiny").status == "corrupt"


def test_verify_by_name(folder):
    assert verify("tiny").status == "absent"
    assert verify("tiny").path == checkpoints.cache_dir() / "tiny.pt"
    assert "weights fetch tiny" in verify("tiny").message
    cached = write(checkpoints.cache_dir() / "tiny.pt", CONTENT)
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


def test_status_rows(folder):
    write(folder / "tiny.pt", FOREIGN)
    tiny, fast = status_rows()
    assert (tiny.name, tiny.place, tiny.path, tiny.status) == (
        "tiny",
        "folder",
        folder / "tiny.pt",
        "custom",
    )
    assert (fast.place, fast.path, fast.status) == (None, None, "absent")
    assert fast.megabytes == len(PICKLE) / 1e6
    write(checkpoints.cache_dir() / "fast.pt", PICKLE)
    assert [(row.place, row.status) for row in status_rows()] == [
        ("folder", "custom"),
        ("cache", "ok"),
    ]


# --- the memo of digests


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


def test_a_digest_is_remembered_until_the_file_changes(tmp_path, reads):
    path = write(tmp_path / "mine.pt", CONTENT, age_s=60)
    for _ in range(3):
        assert resolve("tiny", overrides={"tiny": path}).official
    assert len(reads) == 1
    write(path, bytes(len(CONTENT)), age_s=59)
    assert not resolve("tiny", overrides={"tiny": path}).official
    assert len(reads) == 2
    replacement = write(tmp_path / "other", VARIANT, age_s=59)
    replacement.replace(path)
    assert resolve("tiny", overrides={"tiny": path}).sha256 == sha256(VARIANT)
    assert len(reads) == 3


def test_a_same_sized_file_with_the_same_mtime_is_told_by_its_inode(tmp_path):
    memo = tmp_path / "memo"
    path = write(tmp_path / "a", b"one")
    assert digest_file(path, memo_dir=memo).sha256 == sha256(b"one")
    status = path.stat()
    other = write(tmp_path / "b", b"two")
    os.utime(other, ns=(status.st_mtime_ns, status.st_mtime_ns))
    other.replace(path)
    assert digest_file(path, memo_dir=memo).sha256 == sha256(b"two")


def test_a_file_just_written_is_not_remembered(tmp_path, reads):
    path = write(tmp_path / "mine.pt", CONTENT, age_s=0)
    for _ in range(2):
        resolve("tiny", overrides={"tiny": path})
    assert len(reads) == 2


def test_verify_does_not_trust_the_memo(reads):
    cached = write(checkpoints.cache_dir() / "tiny.pt", CONTENT)
    resolve("tiny")
    memo = checkpoints.cache_dir() / MEMO_NAME
    assert str(cached) in json.loads(memo.read_text())
    verify("tiny")
    assert len(reads) == 2


def test_a_pickle_is_read_every_time(tmp_path, reads):
    path = write(tmp_path / "mine.pt", PICKLE)
    for _ in range(2):
        assert resolve("fast", overrides={"fast": path}).trusted
    assert len(reads) == 2


@pytest.mark.parametrize(
    "damage",
    ["", "[]", "{", "\x00", '{"PATH": 3}', '{"PATH": {"sha256": "x"}}', '{"a\\u0000": 1}'],
)
def test_a_damaged_memo_does_no_harm(tmp_path, damage):
    path = write(tmp_path / "mine.pt", CONTENT)
    content = damage.replace("PATH", str(path)).encode()
    memo = write(checkpoints.cache_dir() / MEMO_NAME, content)
    assert resolve("tiny", overrides={"tiny": path}).official
    assert list(json.loads(memo.read_text())) == [str(path)]


def test_a_forged_digest_in_the_memo_must_at_least_be_one(tmp_path, reads):
    path = write(tmp_path / "mine.pt", CONTENT)
    digest_file(path, memo_dir=tmp_path)
    memo = tmp_path / MEMO_NAME
    memo.write_text(memo.read_text().replace(sha256(CONTENT), "nonsense"))
    assert digest_file(path, memo_dir=tmp_path).sha256 == sha256(CONTENT)
    assert len(reads) == 2


def test_a_cache_that_cannot_be_written_costs_time_only(tmp_path, monkeypatch, reads):
    write(tmp_path / "file", b"no folder")
    monkeypatch.setenv(CACHE_ENV, str(tmp_path / "file" / "below"))
    path = write(tmp_path / "mine.pt", CONTENT)
    for _ in range(2):
        assert resolve("tiny", overrides={"tiny": path}).official
    assert len(reads) == 2
    with pytest.raises(WeightsUnavailableError, match="--offline"):
        resolve("tiny")


def test_a_file_that_grows_while_it_is_read(tmp_path, monkeypatch):
    path = write(tmp_path / "mine.pt", CONTENT)
    honest = hashlib.file_digest

    def slow(file, *args):
        with path.open("ab") as writer:
            writer.write(b"more")
        return honest(file, *args)

    monkeypatch.setattr(cache.hashlib, "file_digest", slow)
    with pytest.raises(WeightsError, match="changed while it was read"):
        resolve("tiny", overrides={"tiny": path})


def test_no_heavy_library_is_imported_to_look_something_up():
    import subprocess
    import sys

    code = (
        "import sys, mobilesam.checkpoints as c; c.specs(); c.cache_dir(); "
        "heavy = {'torch', 'numpy', 'pooch', 'requests', 'rich', 'filelock'} & set(sys.modules); "
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
