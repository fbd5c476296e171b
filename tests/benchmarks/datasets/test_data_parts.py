"""Datasets cut into parts: the same images in the same order, and a small list in memory."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest

from benchmarks.datasets.coco import CocoDataset
from benchmarks.datasets.dataset import Dataset, Sample, ShardDataset, UnreadableImage
from benchmarks.datasets.make import write_coco, write_sa1b
from benchmarks.datasets.sa1b import Sa1bDataset
from benchmarks.datasets.synthetic import SyntheticDataset

SCENES = SyntheticDataset(n_images=7, seed=3, size_hw=(48, 64), n_objects=(2, 3))


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    write_sa1b(SCENES, folder, tar=True, images_per_tar=3)
    return folder


def described(dataset: Dataset) -> list[object]:
    return [
        sample
        if isinstance(sample, UnreadableImage)
        else (
            sample.image_id,
            sample.name,
            sample.image.tobytes(),
            [(each.annotation_id, each.rle, each.box.tolist()) for each in sample.instances],
        )
        for sample in dataset.samples()
    ]


def in_parts(dataset: Dataset, n_images: int) -> list[object]:
    parts = list(dataset.shards(n_images))
    assert all(len(part.readers) <= n_images for part in parts)
    assert [part.name for part in parts] == sorted({part.name for part in parts})
    assert sum(part.share for part in parts) <= 1.000001
    return [
        each for part in pickle.loads(pickle.dumps(parts)) for each in described(ShardDataset(part))
    ]


@pytest.mark.parametrize("n_images", [1, 2, 50])
def test_parts_of_shards_are_what_the_whole_is(shards: Path, n_images: int) -> None:
    assert in_parts(Sa1bDataset(shards, streaming=True), n_images) == described(Sa1bDataset(shards))
    assert described(Sa1bDataset(shards, streaming=True)) == described(Sa1bDataset(shards))


@pytest.mark.parametrize("limit", [1, 3, 4, 7])
def test_a_limit_takes_the_same_pairs(shards: Path, limit: int) -> None:
    assert in_parts(Sa1bDataset(shards, limit, streaming=True), 2) == described(
        Sa1bDataset(shards, limit)
    )


def test_a_folder_that_is_damaged_gives_the_same_samples(tmp_path: Path) -> None:
    write_sa1b(SCENES, tmp_path)
    (tmp_path / "sa_2.json").unlink()
    (tmp_path / "sa_4.jpg").unlink()
    (tmp_path / "sa_5.jpg").write_bytes(b"")
    (tmp_path / "notes.txt").write_text("not a part of it")
    assert in_parts(Sa1bDataset(tmp_path, streaming=True), 3) == described(Sa1bDataset(tmp_path))


def test_a_shard_that_is_cut_off_or_comes_twice_is_told_as_before(
    shards: Path, tmp_path: Path
) -> None:
    cut = tmp_path / "cut.tar"
    cut.write_bytes((shards / "sa_000001.tar").read_bytes()[:-6000])
    roots = [shards, shards / "sa_000000.tar", cut]
    found = in_parts(Sa1bDataset(roots, streaming=True), 2)
    assert found == described(Sa1bDataset(roots))
    assert any("earlier folder or tar" in str(each) for each in found)


def test_annotations_left_out_are_counted_part_by_part(tmp_path: Path) -> None:
    write_sa1b(SCENES, tmp_path)
    path = tmp_path / "sa_1.json"
    path.write_text(path.read_text().replace('"counts": "', '"counts": "~', 1))
    whole = Sa1bDataset(tmp_path)
    described(whole)
    (first, second) = (
        ShardDataset(part) for part in Sa1bDataset(tmp_path, streaming=True).shards(4)
    )
    described(first), described(second)
    assert (first.left_out, first.problems) == (whole.left_out, whole.problems)
    assert whole.left_out["malformed"] == 1
    assert second.problems == ()


def test_the_state_of_a_shard_is_in_its_fingerprints_alone(shards: Path, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(shards, copy)
    before, parts = (
        Sa1bDataset(copy, streaming=True).fingerprint,
        list(Sa1bDataset(copy, streaming=True).shards(3)),
    )
    assert Sa1bDataset(copy, streaming=True).fingerprint == before
    os.utime(copy / "sa_000001.tar", ns=(1, 1))
    after = list(Sa1bDataset(copy, streaming=True).shards(3))
    assert Sa1bDataset(copy, streaming=True).fingerprint != before
    changed = [a.fingerprint != b.fingerprint for a, b in zip(parts, after, strict=True)]
    assert changed == [False, True, False]


def test_a_file_of_a_folder_is_in_the_fingerprint(tmp_path: Path) -> None:
    write_sa1b(SCENES, tmp_path)
    before = Sa1bDataset(tmp_path, streaming=True).fingerprint
    os.utime(tmp_path / "sa_3.json", ns=(1, 1))
    assert Sa1bDataset(tmp_path, streaming=True).fingerprint != before
    assert (
        Sa1bDataset(tmp_path, limit=2, streaming=True).fingerprint
        != Sa1bDataset(tmp_path, streaming=True).fingerprint
    )


def test_scenes_and_coco_are_cut_as_well(tmp_path: Path) -> None:
    assert in_parts(SCENES, 3) == described(SCENES)
    write_coco(SCENES, tmp_path)
    coco = CocoDataset(tmp_path / "images", tmp_path / "instances.json")
    assert in_parts(coco, 3) == described(coco)


def test_an_image_that_must_not_be_read_keeps_its_place_and_its_name() -> None:
    (part,) = SCENES.shards(7)
    found = list(ShardDataset(part.without({2: "it kills"})).samples())
    bad = found.pop(2)
    assert isinstance(bad, UnreadableImage)
    wanted = SCENES.sample(2)
    assert (bad.reason, bad.image_id, bad.name) == ("it kills", 2, wanted.name)
    assert all(isinstance(each, Sample) for each in found)
