"""The embedding store outlives kills at any moment, damage, full disks and foreign files."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from small_store import TWO, Pair, content, fill

from mobilesam.distillation import store_writer
from mobilesam.distillation.store import EmbeddingStore
from mobilesam.distillation.store_check import verify
from mobilesam.distillation.store_format import (
    INDEX_NAME,
    MANIFEST_NAME,
    PENDING_NAME,
    Teacher,
)
from mobilesam.distillation.store_writer import writing
from mobilesam.errors import DataError, WeightsError


class Killed(BaseException):
    """The process is gone: nothing after it runs, but what `finally` does to locks."""


def _dying(monkeypatch: pytest.MonkeyPatch, at: int) -> Iterator[None]:
    """Kills before operation number `at` on the disk."""
    left = iter(range(at, -1, -1))

    def dies(real: Any) -> Any:
        def operation(*arguments: Any, **options: Any) -> Any:
            if next(left, 0) == 0:
                raise Killed
            return real(*arguments, **options)

        return operation

    with monkeypatch.context() as patch:
        for owner, name in (
            (os, "fsync"),
            (os, "fdopen"),
            (Path, "replace"),
            (Path, "unlink"),
            (Path, "open"),
        ):
            patch.setattr(owner, name, dies(getattr(owner, name)))
        yield


def test_killed_before_any_operation_nothing_finished_is_done_again_and_the_end_is_the_same(
    tmp_path: Path, teacher: Teacher, pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path / "whole", teacher, pair, range(5))
    whole = content(tmp_path / "whole")
    killed = 0
    for at in range(200):
        folder = tmp_path / f"killed-{at}"
        done: list[int] = []
        try:
            for _ in _dying(monkeypatch, at):
                with writing(folder, teacher, shard_bytes=TWO) as writer:
                    for number in range(5):
                        writer.add(*pair(number))
                        done.append(number)
        except Killed:
            killed += 1
        else:
            break
        added = fill(folder, teacher, pair, range(5))
        assert not set(added) & set(done), f"done twice after operation {at}"
        assert content(folder) == whole, f"operation {at}"
        shutil.rmtree(folder)
    assert 30 < killed < 199  # each of the operations was tried, to the last


def _stop_after(
    n: int, folder: Path, teacher: Teacher, pair: Pair, error: type[BaseException]
) -> None:
    def stopped() -> None:
        with writing(folder, teacher, shard_bytes=TWO) as writer:
            for number in range(n):
                writer.add(*pair(number))
            raise error

    with pytest.raises(error):
        stopped()


def test_ctrl_c_leaves_a_store_that_can_be_read(
    tmp_path: Path, teacher: Teacher, pair: Pair
) -> None:
    _stop_after(3, tmp_path, teacher, pair, KeyboardInterrupt)
    assert len(EmbeddingStore(tmp_path)) == 3
    assert fill(tmp_path, teacher, pair, range(5)) == [3, 4]


def test_another_error_leaves_what_is_done_for_the_next_run(
    tmp_path: Path, teacher: Teacher, pair: Pair
) -> None:
    _stop_after(3, tmp_path, teacher, pair, RuntimeError)
    found = verify(tmp_path)
    assert (found.n_embeddings, found.n_pending) == (2, 1)
    assert fill(tmp_path, teacher, pair, range(5)) == [3, 4]


def test_a_half_written_waiting_embedding_is_made_again(
    tmp_path: Path, teacher: Teacher, pair: Pair
) -> None:
    _stop_after(3, tmp_path, teacher, pair, RuntimeError)
    last = max((tmp_path / PENDING_NAME).iterdir())
    data = last.read_bytes()
    last.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    (tmp_path / PENDING_NAME / ".00000003.safetensors.tmp").write_bytes(b"half")
    assert fill(tmp_path, teacher, pair, range(3)) == [2]
    assert [path.name for path in (tmp_path / PENDING_NAME).iterdir()] == []


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("damage", [_cut, Path.unlink, _flip])
def test_damage_is_found_named_and_repaired(
    five: Path, teacher: Teacher, pair: Pair, damage: Callable[[Path], None]
) -> None:
    broken = five / "shard-000001.safetensors"
    damage(broken)
    found = verify(five)
    assert (found.n_embeddings, found.n_shards, len(found.problems)) == (3, 2, 1)
    assert broken.name in found.problems[0]
    assert "2 embeddings" in found.problems[0]
    if damage is not _flip:  # which only reading everything shows
        for use in (lambda: EmbeddingStore(five), lambda: fill(five, teacher, pair, range(5))):
            with pytest.raises(DataError, match=r"shard-000001.*--repair"):
                use()
    with writing(five, teacher, shard_bytes=TWO, repair=True) as writer:
        assert len(writer) == 3
        assert broken.name in writer.dropped[0]
    assert fill(five, teacher, pair, range(5)) == [2, 3]
    store = EmbeddingStore(five)
    assert all(torch.equal(store.get(pair(i)[0].key).features, pair(i)[1]) for i in range(5))
    assert verify(five).problems == ()


def test_the_list_of_shards_is_made_again_from_the_shards(
    five: Path, teacher: Teacher, pair: Pair
) -> None:
    before = content(five)
    (five / INDEX_NAME).unlink()
    assert len(verify(five).problems) == 3
    assert fill(five, teacher, pair, range(5)) == []
    assert content(five) == before


def test_a_torn_last_line_is_no_damage_and_one_before_it_is(
    five: Path, teacher: Teacher, pair: Pair
) -> None:
    before = content(five)
    whole = (five / INDEX_NAME).read_bytes()
    (five / INDEX_NAME).write_bytes(whole[:-9])
    assert len(EmbeddingStore(five)) == 4
    assert fill(five, teacher, pair, range(5)) == []
    assert content(five) == before
    (five / INDEX_NAME).write_bytes(b"{}\n" + whole)
    with pytest.raises(DataError, match="line 1"):
        EmbeddingStore(five)


@pytest.mark.parametrize("text", ["", "[]", '{"version": 2}'])
def test_a_foreign_manifest_is_named(five: Path, teacher: Teacher, pair: Pair, text: str) -> None:
    (five / MANIFEST_NAME).write_text(text)
    for use in (
        lambda: EmbeddingStore(five),
        lambda: verify(five),
        lambda: fill(five, teacher, pair, [9]),
    ):
        with pytest.raises(DataError, match=r"manifest\.json is not the manifest"):
            use()


def test_a_shard_of_another_store_is_not_taken_in(
    five: Path, tmp_path: Path, teacher: Teacher, pair: Pair
) -> None:
    other = teacher.model_copy(update={"weights_sha256": "b" * 64})
    fill(tmp_path / "other", other, pair, [7])
    shutil.copy(tmp_path / "other" / "shard-000000.safetensors", five / "shard-000009.safetensors")
    with pytest.raises(WeightsError, match="b" * 64):
        fill(five, teacher, pair, range(5))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(folder)]
    if not shutil.which("mount") or os.geteuid() != 0:
        pytest.skip("mounting a small disk needs root")
    if subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("this system does not let a small disk be mounted")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_one_line_and_what_is_finished_is_kept(
    small_disk: Path, teacher: Teacher, pair: Pair
) -> None:
    store, ballast = small_disk / "store", small_disk / "ballast"
    fill(store, teacher, pair, range(2))
    ballast.write_bytes(bytes(36 * 1024))
    with pytest.raises(DataError, match="No space left on device") as caught:
        fill(store, teacher, pair, range(20))
    assert "\n" not in str(caught.value)
    found = verify(store)
    assert found.problems == ()
    done = found.n_embeddings + found.n_pending
    assert 2 < done < 20
    ballast.unlink()
    assert fill(store, teacher, pair, range(done)) == []
    assert len(EmbeddingStore(store)) == done


def test_a_folder_that_cannot_be_written_is_named(
    tmp_path: Path, teacher: Teacher, pair: Pair
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot write"):
        fill(tmp_path / "file" / "store", teacher, pair, [0])


def test_a_folder_without_permission_is_named(
    tmp_path: Path, teacher: Teacher, pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Root may write anywhere, so that the refusal is simulated where it would come from.
    def refused(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(store_writer.Path, "mkdir", refused)
    with pytest.raises(DataError, match=r"Permission denied; make room or choose another --out"):
        fill(tmp_path / "store", teacher, pair, [0])
