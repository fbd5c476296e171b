"""Chunks on disk, and how far a run has come."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from benchmarks.datasets.dataset import Shard
from benchmarks.evaluation.shard_store import Chunk, ChunkInfo, ChunkStore, ChunkTimes, chunk_key
from benchmarks.evaluation.throughput import Pace
from benchmarks.records.progress import Reporter
from benchmarks.records.record import AccuracyTimeRow, Failure
from mobilesam.errors import DataError

TIME = AccuracyTimeRow(
    model="m", dataset="d", wall_s=2, model_s=1, data_s=0.5, prompts_s=0, scoring_s=0, writing_s=0
)


def chunk(name: str, key: str = "k", n_images: int = 3) -> Chunk:
    bad = Failure(stage="data", culprit="sa_1.jpg", why="cut off")
    info = ChunkInfo(key=key, n_images=n_images, failures=(bad,), left_out={"empty": 2})
    return Chunk.of(name, info, (), (TIME,), ("a processor",))


def part(name: str, fingerprint: str = "f", n_images: int = 3, share: float = 0.25) -> Shard:
    readers = (partial(pytest.fail, "read"),) * n_images
    names = tuple((index, f"{index}.jpg") for index in range(n_images))
    return Shard(name, "d", fingerprint, readers, names, share)


def test_a_chunk_says_after_the_disk_what_it_said_before(tmp_path: Path) -> None:
    store = ChunkStore(tmp_path / "tables")
    made = chunk("00000-00001")
    store.write(made)
    assert store.info("00000-00001") == made.info
    assert store.times("00000-00001", "k") == ChunkTimes(
        key="k", times=(TIME,), machine=("a processor",)
    )
    assert store.times("00000-00001", "another") is None
    assert list(store.names()) == ["00000-00001"]
    store.remove("00000-00001")
    assert store.info("00000-00001") is None


def test_what_a_killed_writer_left_is_no_chunk_and_is_swept(tmp_path: Path) -> None:
    store = ChunkStore(tmp_path / "tables")
    store.write(chunk("a"))
    left = store.folder / ".b.parquet.x7"
    left.write_bytes(b"half")
    assert list(store.names()) == ["a"]
    store.sweep()
    assert not left.exists()
    assert store.has("a")


def test_a_foreign_or_damaged_file_is_no_chunk(tmp_path: Path) -> None:
    store = ChunkStore(tmp_path)
    (tmp_path / "a.parquet").write_bytes(b"PAR1 not really")
    assert store.has("a")
    assert store.info("a") is None


def test_a_folder_that_is_a_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "tables").write_text("in the way")
    with pytest.raises(DataError, match="cannot write"):
        ChunkStore(tmp_path / "tables").write(chunk("a"))


def test_the_key_tells_runs_data_and_cuts_apart() -> None:
    keys = {
        chunk_key("run", part("a")),
        chunk_key("other", part("a")),
        chunk_key("run", part("a", fingerprint="g")),
        chunk_key("run", part("a", n_images=4)),
    }
    assert len(keys) == 4
    assert chunk_key("run", part("b")) in keys  # what it is called changes nothing


def test_the_pace_tells_throughput_and_time_left() -> None:
    now = [0.0]
    with Reporter(quiet=True).bar("x", None) as bar:
        pace = Pace(bar, lambda: now[0])
        assert pace.seconds_left() is None
        pace.known(part("0", share=0.5))
        for name in ("1", "2"):
            pace.given(part(name, share=0.125))
        now[0] = 10.0
        pace.done(chunk("1"))
        # An eighth took ten seconds, three eighths are left.
        assert pace.seconds_left() == pytest.approx(30)
        assert pace.note() == "0.3 images/s, 0 rows/s, 0:00:30 left, 1 failures"
