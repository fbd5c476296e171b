"""The embedding store: what goes in comes out, for its own teacher only."""

from __future__ import annotations

import pickle
import shutil
import sys
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

from mobilesam.distillation.store import EmbeddingStore
from mobilesam.distillation.store_check import verify
from mobilesam.distillation.store_format import (
    Entry,
    Teacher,
    image_key,
    valid_cells,
)
from mobilesam.distillation.store_writer import to_storable, writing
from mobilesam.errors import BenchError, DataError, UsageError, WeightsError


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


def test_threads_that_share_a_store_read_what_one_reads(
    five: Path, teacher: Teacher, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mobilesam.distillation import store as module

    monkeypatch.setattr(module, "_KEPT_OPEN", 1)
    store = EmbeddingStore(five, teacher)
    whole = [store[i].features for i in range(5)]
    order = [i % 5 for i in range(400)]
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda i: store[i].features, order))
    finally:
        sys.setswitchinterval(before)
    assert all(torch.equal(each, whole[i]) for i, each in zip(order, found, strict=True))


def test_a_store_is_taken_up_and_grows(five: Path, teacher: Teacher, pair: Pair) -> None:
    assert fill(five, teacher, pair, range(7)) == [5, 6]
    assert fill(five, teacher, pair, range(7)) == []
    store = EmbeddingStore(five, teacher)
    assert [entry.name for entry in store.entries] == [f"image {i}.jpg" for i in range(7)]
    assert verify(five).n_embeddings == 7


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


def test_a_folder_without_a_store_is_named(tmp_path: Path) -> None:
    for use in (lambda: EmbeddingStore(tmp_path), lambda: verify(tmp_path)):
        with pytest.raises(DataError, match="holds no embedding store"):
            use()


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
