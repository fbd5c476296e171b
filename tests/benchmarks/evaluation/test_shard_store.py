"""Results of shards on disk, and their summary."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from benchmarks.datasets.dataset import Shard
from benchmarks.evaluation.shard_store import (
    ShardInfo,
    ShardResult,
    ShardStore,
    ShardTimes,
    shard_key,
)
from benchmarks.records.instances import InstanceRow
from benchmarks.records.record import AccuracyTimeRow, Failure
from mobilesam.errors import DataError

TIME = AccuracyTimeRow(
    model="m", dataset="d", wall_s=2, model_s=1, data_s=0.5, prompts_s=0, scoring_s=0, writing_s=0
)


def result(name: str, key: str = "k", n_images: int = 3) -> ShardResult:
    bad = Failure(stage="data", culprit="sa_1.jpg", why="cut off")
    info = ShardInfo(key=key, n_images=n_images, failures=(bad,), left_out={"empty": 2})
    times = ShardTimes(key=key, times=(TIME,), machine=("a processor",))
    return ShardResult.of_rows(name, info, InstanceRow, (), times)


def shard(name: str, fingerprint: str = "f", n_images: int = 3, share: float = 0.25) -> Shard:
    readers = (partial(pytest.fail, "read"),) * n_images
    names = tuple((index, f"{index}.jpg") for index in range(n_images))
    return Shard(name, "d", fingerprint, readers, names, share)


def test_a_stored_shard_is_read_back(tmp_path: Path) -> None:
    store = ShardStore(tmp_path / "tables")
    made = result("00000-00001")
    store.write(made)
    assert store.info("00000-00001") == made.info
    assert store.times("00000-00001", "k") == ShardTimes(
        key="k", times=(TIME,), machine=("a processor",)
    )
    assert store.times("00000-00001", "another") is None
    assert list(store.names()) == ["00000-00001"]
    store.remove("00000-00001")
    assert store.info("00000-00001") is None


def test_files_of_a_killed_writer_are_swept(tmp_path: Path) -> None:
    store = ShardStore(tmp_path / "tables")
    store.write(result("a"))
    left = store.path / ".b.parquet.x7"
    left.write_bytes(b"half")
    assert list(store.names()) == ["a"]
    store.sweep()
    assert not left.exists()
    assert store.file("a").is_file()


def test_a_damaged_file_is_missing(tmp_path: Path) -> None:
    store = ShardStore(tmp_path)
    (tmp_path / "a.parquet").write_bytes(b"PAR1 not really")
    assert store.file("a").is_file()
    assert store.info("a") is None


def test_a_folder_that_is_a_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "tables").write_text("in the way")
    with pytest.raises(DataError, match="cannot write"):
        ShardStore(tmp_path / "tables").write(result("a"))


def test_the_key_depends_on_run_and_data() -> None:
    keys = {
        shard_key("run", shard("a")),
        shard_key("other", shard("a")),
        shard_key("run", shard("a", fingerprint="g")),
        shard_key("run", shard("a", n_images=4)),
    }
    assert len(keys) == 4
    assert shard_key("run", shard("b")) in keys  # the name is not part of it
