"""The embedding store: what goes in comes out, whenever the process that fills it dies."""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor

from mobilesam.distillation import store_writer
from mobilesam.distillation.store import EmbeddingStore
from mobilesam.distillation.store_check import verify
from mobilesam.distillation.store_format import (
    INDEX_NAME,
    MANIFEST_NAME,
    PENDING_NAME,
    Entry,
    Teacher,
    image_key,
    valid_cells,
)
from mobilesam.distillation.store_writer import to_storable, writing
from mobilesam.errors import BenchError, DataError, UsageError, WeightsError

Pair = Callable[[int], tuple[Entry, Tensor]]
TWO = 2 * 2 * 2 * 3 * 4  # bytes of two embeddings


def fill(
    folder: Path, teacher: Teacher, pair: Pair, numbers: Sequence[int], **options: Any
) -> list[int]:
    """Adds what is not there yet; returns what was added."""
    added = []
    with writing(folder, teacher, shard_bytes=TWO, **options) as writer:
        for number in numbers:
            entry, embedding = pair(number)
            if entry.key not in writer:
                writer.add(entry, embedding)
                added.append(number)
    return added


def content(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.fixture
def five(tmp_path: Path, teacher: Teacher, pair: Pair) -> Path:
    """Five embeddings in three shards."""
    fill(tmp_path / "five", teacher, pair, range(5))
    return tmp_path / "five"


def test_what_goes_in_comes_out_by_index_and_by_key(
    five: Path, teacher: Teacher, pair: Pair
) -> None:
    store = EmbeddingStore(five, teacher)
    assert len(store) == 5
    assert sorted(path.name for path in five.glob("shard-*")) == [
        f"shard-{i:06d}.safetensors" for i in range(3)
    ]
    for i in (4, 0, 2, 1, 3):
        entry, embedding = pair(i)
        for found in (store[i], store.get(entry.key), store[i - 5]):
            assert found.entry == entry
            assert found.features.dtype == torch.float16
            assert torch.equal(found.features, embedding)
            assert found.valid_hw == (2, 4)  # 32 of 64 px over 3 rows: one and a half
        assert store.index_of(entry.key) == i
        assert entry.key in store
    assert [each.entry.name for each in store] == [f"image {i}.jpg" for i in range(5)]
    assert store.manifest.embedding_shape == (2, 3, 4)
    with pytest.raises(IndexError):
        store[5]
    with pytest.raises(DataError, match="no embedding of the image"):
        store.get("f" * 64)


_names = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(
        st.tuples(
            _names,
            arrays(np.float16, (2, 2, 3), elements=st.floats(-60000, 60000, width=16)),
            st.tuples(st.integers(1, 9999), st.integers(1, 9999)),
        ),
        min_size=1,
        max_size=7,
    ),
    st.integers(1, 100),
)
def test_every_store_can_be_read_again(
    tmp_path: Path, teacher: Teacher, made: list[tuple[str, Any, tuple[int, int]]], shard_bytes: int
) -> None:
    folder = tmp_path / "store"
    shutil.rmtree(folder, ignore_errors=True)
    wanted = [
        (Entry(f"{i:064x}", name, size, (7, 9)), torch.from_numpy(values))
        for i, (name, values, size) in enumerate(made)
    ]
    with writing(folder, teacher, shard_bytes=shard_bytes) as writer:
        for entry, embedding in wanted:
            writer.add(entry, embedding)
    store = EmbeddingStore(folder, teacher)
    assert store.entries == tuple(entry for entry, _ in wanted)
    for i, (_, embedding) in enumerate(wanted):
        assert torch.equal(store[i].features, embedding)
    per_shard = max(1, shard_bytes // 24)
    found = verify(folder)
    assert (found.n_embeddings, found.problems, found.n_pending) == (len(made), (), 0)
    assert found.n_shards == -(-len(made) // per_shard)


def test_a_read_embedding_is_its_own_and_the_store_can_be_sent(
    five: Path, teacher: Teacher
) -> None:
    store = EmbeddingStore(five, teacher)
    first = store[0]
    assert first.features.untyped_storage().nbytes() == 48
    first.features.zero_()
    again = pickle.loads(pickle.dumps(store))
    assert again[0].features.abs().sum() > 0
    assert torch.equal(again[0].features, store[0].features)
    assert verify(five).problems == ()


def test_many_shards_are_read_with_few_of_them_open(
    five: Path, teacher: Teacher, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mobilesam.distillation import store as module

    monkeypatch.setattr(module, "_KEPT_OPEN", 1)
    store = EmbeddingStore(five, teacher)
    whole = [float(store[i].features.sum()) for i in range(5)]
    assert [float(store[i].features.sum()) for i in (4, 0, 3)] == [whole[i] for i in (4, 0, 3)]
    assert len(store._open) == 1


def test_a_store_is_taken_up_and_grows(five: Path, teacher: Teacher, pair: Pair) -> None:
    assert fill(five, teacher, pair, range(7)) == [5, 6]
    assert fill(five, teacher, pair, range(7)) == []
    store = EmbeddingStore(five, teacher)
    assert [entry.name for entry in store.entries] == [f"image {i}.jpg" for i in range(7)]
    assert verify(five).n_embeddings == 7


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


@pytest.mark.parametrize("command", ["EmbeddingStore", "writing"])
@pytest.mark.parametrize(
    ("field", "value", "kind"),
    [
        ("name", "other", UsageError),
        ("input_size_px", 32, UsageError),
        ("precision", "bf16", UsageError),
        ("weights_sha256", "b" * 64, WeightsError),
        ("weights_sha256", None, WeightsError),
    ],
)
def test_a_store_of_another_teacher_is_refused_and_both_are_named(
    five: Path,
    teacher: Teacher,
    pair: Pair,
    command: str,
    field: str,
    value: Any,
    kind: type[BenchError],
) -> None:
    other = teacher.model_copy(update={field: value})
    before = content(five)
    uses = {
        "writing": lambda: fill(five, other, pair, [9]),
        "EmbeddingStore": lambda: EmbeddingStore(five, other),
    }
    with pytest.raises(kind) as caught:
        uses[command]()
    assert str(value or "none") in str(caught.value)
    assert str(getattr(teacher, field)) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert content(five) == before


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


def test_a_folder_without_a_store_is_named(tmp_path: Path) -> None:
    for use in (lambda: EmbeddingStore(tmp_path), lambda: verify(tmp_path)):
        with pytest.raises(DataError, match="holds no embedding store"):
            use()


def test_a_shard_of_another_store_is_not_taken_in(
    five: Path, tmp_path: Path, teacher: Teacher, pair: Pair
) -> None:
    other = teacher.model_copy(update={"weights_sha256": "b" * 64})
    fill(tmp_path / "other", other, pair, [7])
    shutil.copy(tmp_path / "other" / "shard-000000.safetensors", five / "shard-000009.safetensors")
    with pytest.raises(WeightsError, match="b" * 64):
        fill(five, teacher, pair, range(5))


def test_only_one_process_writes(tmp_path: Path, teacher: Teacher, pair: Pair) -> None:
    with (
        writing(tmp_path, teacher, shard_bytes=TWO),
        pytest.raises(DataError, match="another process is writing"),
    ):
        fill(tmp_path, teacher, pair, [0])
    assert fill(tmp_path, teacher, pair, [0]) == [0]


def test_other_notes_and_shapes_are_refused(tmp_path: Path, teacher: Teacher, pair: Pair) -> None:
    fill(tmp_path, teacher, pair, [0], note="mine")
    assert EmbeddingStore(tmp_path).manifest.note == "mine"
    assert fill(tmp_path, teacher, pair, [0, 1]) == [1]
    with pytest.raises(UsageError, match="'mine'"):
        fill(tmp_path, teacher, pair, [2], note="other")
    with (
        pytest.raises(DataError, match=r"\(2, 3, 4\).*\(1, 1, 1\)"),
        writing(tmp_path, teacher, shard_bytes=TWO) as writer,
    ):
        writer.add(pair(3)[0], torch.zeros(1, 1, 1).half())
    with pytest.raises(ValueError), writing(tmp_path, teacher, shard_bytes=TWO) as writer:
        writer.add(*pair(0))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e6])
def test_what_float16_cannot_hold_is_refused(value: float) -> None:
    assert to_storable(torch.ones(1, 2, 3, 4), "a").shape == (2, 3, 4)
    with pytest.raises(DataError, match=r"a\.jpg.*beyond float16"):
        to_storable(torch.full((2, 3, 4), value), "a.jpg")
    with pytest.raises(DataError, match="must be"):
        to_storable(torch.zeros(2, 2, 3, 4), "a.jpg")


def test_a_key_tells_pixels_and_shapes_apart(rng: np.random.Generator) -> None:
    image = rng.integers(0, 256, (4, 6, 3), np.uint8)
    changed = image.copy()
    changed[3, 5, 2] ^= 1
    keys = {image_key(each) for each in (image, changed, image.reshape(6, 4, 3), image[::-1])}
    assert len(keys) == 4
    assert image_key(np.asfortranarray(image)) == image_key(image)


def test_cells_that_see_any_of_the_image_count() -> None:
    assert valid_cells((1024, 1024), 1024, (64, 64)) == (64, 64)
    assert valid_cells((683, 1024), 1024, (64, 64)) == (43, 64)  # 42.7
    assert valid_cells((16, 1), 1024, (64, 64)) == (1, 1)


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
