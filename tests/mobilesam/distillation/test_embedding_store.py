"""The embedding store: reading, writing, teachers; kills, damage and full disks."""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from small_store import TWO, Pair, content, fill

from mobilesam.distillation.embedding_store import (
    MANIFEST_NAME,
    EmbeddingStore,
    Entry,
    StoreWriter,
    Teacher,
    image_key,
    to_storable,
    valid_cells,
    verify,
)
from mobilesam.errors import BenchError, DataError, UsageError, WeightsError


def test_read_by_index_and_key(five: Path, teacher: Teacher, pair: Pair) -> None:
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
def test_round_trip(
    tmp_path: Path, teacher: Teacher, made: list[tuple[str, Any, tuple[int, int]]], shard_bytes: int
) -> None:
    folder = tmp_path / "store"
    shutil.rmtree(folder, ignore_errors=True)
    wanted = [
        (Entry(f"{i:064x}", name, size, (7, 9)), torch.from_numpy(values))
        for i, (name, values, size) in enumerate(made)
    ]
    with StoreWriter(folder, teacher, shard_bytes=shard_bytes) as writer:
        for entry, embedding in wanted:
            writer.add(entry, embedding)
    store = EmbeddingStore(folder, teacher)
    assert store.entries == tuple(entry for entry, _ in wanted)
    for i, (_, embedding) in enumerate(wanted):
        assert torch.equal(store[i].features, embedding)
    per_shard = max(1, shard_bytes // 24)
    found = verify(folder)
    assert (found.n_embeddings, found.problems) == (len(made), ())
    assert found.n_shards == -(-len(made) // per_shard)


def test_embeddings_are_copies_and_stores_can_be_pickled(five: Path, teacher: Teacher) -> None:
    store = EmbeddingStore(five, teacher)
    first = store[0]
    assert first.features.untyped_storage().nbytes() == 48
    first.features.zero_()
    again = pickle.loads(pickle.dumps(store))
    assert again[0].features.abs().sum() > 0
    assert torch.equal(again[0].features, store[0].features)
    assert verify(five).problems == ()


def test_threads_can_share_a_store(five: Path, teacher: Teacher) -> None:
    store = EmbeddingStore(five, teacher)
    whole = [store[i].features for i in range(5)]
    order = [i % 5 for i in range(200)]
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda i: store[i].features, order))
    finally:
        sys.setswitchinterval(before)
    assert all(torch.equal(each, whole[i]) for i, each in zip(order, found, strict=True))


def test_store_grows(five: Path, teacher: Teacher, pair: Pair) -> None:
    assert fill(five, teacher, pair, range(7)) == [5, 6]
    assert fill(five, teacher, pair, range(7)) == []
    store = EmbeddingStore(five, teacher)
    assert [entry.name for entry in store.entries] == [f"image {i}.jpg" for i in range(7)]
    assert verify(five).n_embeddings == 7


@pytest.mark.parametrize("command", ["EmbeddingStore", "StoreWriter"])
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
def test_store_of_another_teacher_is_refused(
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
        "StoreWriter": lambda: fill(five, other, pair, [9]),
        "EmbeddingStore": lambda: EmbeddingStore(five, other),
    }
    with pytest.raises(kind) as caught:
        uses[command]()
    assert str(value or "none") in str(caught.value)
    assert str(getattr(teacher, field)) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert content(five) == before


def test_folder_without_store(tmp_path: Path) -> None:
    for use in (lambda: EmbeddingStore(tmp_path), lambda: verify(tmp_path)):
        with pytest.raises(DataError, match="holds no embedding store"):
            use()


def test_only_one_process_may_write(tmp_path: Path, teacher: Teacher, pair: Pair) -> None:
    with (
        StoreWriter(tmp_path, teacher, shard_bytes=TWO),
        pytest.raises(DataError, match="another process is writing"),
    ):
        fill(tmp_path, teacher, pair, [0])
    assert fill(tmp_path, teacher, pair, [0]) == [0]


def test_other_note_or_shape_is_refused(tmp_path: Path, teacher: Teacher, pair: Pair) -> None:
    fill(tmp_path, teacher, pair, [0], note="mine")
    assert EmbeddingStore(tmp_path).manifest.note == "mine"
    assert fill(tmp_path, teacher, pair, [0, 1]) == [1]
    with pytest.raises(UsageError, match="'mine'"):
        fill(tmp_path, teacher, pair, [2], note="other")
    with (
        pytest.raises(DataError, match=r"\(2, 3, 4\).*\(1, 1, 1\)"),
        StoreWriter(tmp_path, teacher, shard_bytes=TWO) as writer,
    ):
        writer.add(pair(3)[0], torch.zeros(1, 1, 1).half())
    with pytest.raises(ValueError), StoreWriter(tmp_path, teacher, shard_bytes=TWO) as writer:
        writer.add(*pair(0))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e6])
def test_values_beyond_float16_are_refused(value: float) -> None:
    assert to_storable(torch.ones(1, 2, 3, 4), "a").shape == (2, 3, 4)
    with pytest.raises(DataError, match=r"a\.jpg.*beyond float16"):
        to_storable(torch.full((2, 3, 4), value), "a.jpg")
    with pytest.raises(DataError, match="must be"):
        to_storable(torch.zeros(2, 2, 3, 4), "a.jpg")


def test_image_key_depends_on_pixels_and_shape(rng: np.random.Generator) -> None:
    image = rng.integers(0, 256, (4, 6, 3), np.uint8)
    changed = image.copy()
    changed[3, 5, 2] ^= 1
    keys = {image_key(each) for each in (image, changed, image.reshape(6, 4, 3), image[::-1])}
    assert len(keys) == 4
    assert image_key(np.asfortranarray(image)) == image_key(image)


def test_valid_cells() -> None:
    assert valid_cells((1024, 1024), 1024, (64, 64)) == (64, 64)
    assert valid_cells((683, 1024), 1024, (64, 64)) == (43, 64)  # 42.7
    assert valid_cells((16, 1), 1024, (64, 64)) == (1, 1)


class Killed(BaseException):
    """Simulates SIGKILL: file operations after it fail, too."""


def _dying(monkeypatch: pytest.MonkeyPatch, at: int) -> Iterator[None]:
    """Raises before operation number `at` on the disk, and before all later ones."""
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


def test_kill_at_any_operation_loses_no_finished_shard(
    tmp_path: Path, teacher: Teacher, pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed = 0
    for at in range(200):
        folder = tmp_path / f"killed-{at}"
        try:
            for _ in _dying(monkeypatch, at):
                with StoreWriter(folder, teacher, shard_bytes=TWO) as writer:
                    for number in range(5):
                        writer.add(*pair(number))
        except Killed:
            killed += 1
        else:
            break
        kept = sum(1 for _ in folder.glob("shard-*")) * 2
        assert fill(folder, teacher, pair, range(5)) == list(range(kept, 5))
        assert verify(folder).problems == ()
        assert not list(folder.glob(".shard-*"))
        store = EmbeddingStore(folder)
        assert all(torch.equal(store[i].features, pair(i)[1]) for i in range(5))
        shutil.rmtree(folder)
    assert 10 < killed < 199  # at least four operations for each of four files


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_exception_writes_the_unfinished_shard(
    tmp_path: Path, teacher: Teacher, pair: Pair, error: type[BaseException]
) -> None:
    def stopped() -> None:
        with StoreWriter(tmp_path, teacher, shard_bytes=TWO) as writer:
            for number in range(3):
                writer.add(*pair(number))
            raise error

    with pytest.raises(error):
        stopped()
    assert len(EmbeddingStore(tmp_path)) == 3
    assert fill(tmp_path, teacher, pair, range(5)) == [3, 4]


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("damage", [_cut, Path.unlink, _flip])
def test_damage_is_named_and_repaired(
    five: Path, teacher: Teacher, pair: Pair, damage: Callable[[Path], None]
) -> None:
    broken = five / "shard-000001.safetensors"
    damage(broken)
    found = verify(five)
    assert (found.n_embeddings, found.n_shards, len(found.problems)) == (3, 2, 1)
    assert broken.name in found.problems[0]
    if damage is not _flip:  # found only by reading the data
        for use in (lambda: EmbeddingStore(five), lambda: fill(five, teacher, pair, range(5))):
            with pytest.raises(DataError, match=r"shard-000001.*--repair"):
                use()
    with StoreWriter(five, teacher, shard_bytes=TWO, repair=True) as writer:
        assert len(writer) == 3
        assert broken.name in writer.dropped[0]
    assert fill(five, teacher, pair, range(5)) == [2, 3]
    store = EmbeddingStore(five)
    assert all(torch.equal(store.get(pair(i)[0].key).features, pair(i)[1]) for i in range(5))
    assert verify(five).problems == ()


@pytest.mark.parametrize("text", ["", "[]", '{"version": 2}'])
def test_damaged_manifest_is_named(five: Path, teacher: Teacher, pair: Pair, text: str) -> None:
    (five / MANIFEST_NAME).write_text(text)
    for use in (
        lambda: EmbeddingStore(five),
        lambda: verify(five),
        lambda: fill(five, teacher, pair, [9]),
    ):
        with pytest.raises(DataError, match=r"manifest\.json is not a manifest"):
            use()


def test_shard_of_another_store_is_refused(
    five: Path, tmp_path: Path, teacher: Teacher, pair: Pair
) -> None:
    other = teacher.model_copy(update={"weights_sha256": "b" * 64})
    fill(tmp_path / "other", other, pair, [7])
    shutil.copy(tmp_path / "other" / "shard-000000.safetensors", five / "shard-000003.safetensors")
    with pytest.raises(DataError, match=r"shard-000003\.safetensors belongs to another store"):
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


def test_full_disk_keeps_finished_shards(small_disk: Path, teacher: Teacher, pair: Pair) -> None:
    store, ballast = small_disk / "store", small_disk / "ballast"
    fill(store, teacher, pair, range(2))
    ballast.write_bytes(bytes(36 * 1024))
    with pytest.raises(DataError, match="No space left on device") as caught:
        fill(store, teacher, pair, range(20))
    assert "\n" not in str(caught.value)
    found = verify(store)
    assert found.problems == ()
    done = found.n_embeddings
    assert 2 < done < 20
    ballast.unlink()
    assert fill(store, teacher, pair, range(done)) == []
    assert len(EmbeddingStore(store)) == done


def test_folder_that_cannot_be_written(tmp_path: Path, teacher: Teacher, pair: Pair) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot write"):
        fill(tmp_path / "file" / "store", teacher, pair, [0])


def test_folder_without_permission(
    tmp_path: Path, teacher: Teacher, pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Simulated, because root may write anywhere.
    def refused(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refused)
    with pytest.raises(DataError, match=r"Permission denied; free space or choose another --out"):
        fill(tmp_path / "store", teacher, pair, [0])
