"""The interface of datasets: shards, and reading them."""

import pickle

import pytest

from benchmarks.datasets import MAX_PROBLEMS
from benchmarks.datasets.coco import CocoDataset
from benchmarks.datasets.dataset import LoadedImage, Sample, Shard, ShardDataset, UnreadableImage
from benchmarks.datasets.synthetic import SyntheticDataset
from benchmarks.datasets.writers import write_coco

SCENES = SyntheticDataset(n_images=7, seed=3, size_hw=(48, 64), n_objects=(2, 3))


@pytest.fixture(scope="module")
def coco(tmp_path_factory):
    folder = tmp_path_factory.mktemp("coco")
    write_coco(SCENES, folder)
    return CocoDataset(folder / "images", folder / "instances.json")


@pytest.mark.parametrize(
    ("images_per_shard", "sizes"), [(None, [7]), (3, [3, 3, 1]), (7, [7]), (50, [7])]
)
@pytest.mark.parametrize("kind", ["synthetic", "coco"])
def test_shards_contain_all_images_in_order(kind, images_per_shard, sizes, coco):
    dataset = coco if kind == "coco" else SCENES
    shards = list(dataset.shards(images_per_shard))
    assert [len(shard.readers) for shard in shards] == sizes
    assert [shard.name for shard in shards] == sorted({shard.name for shard in shards})
    assert len({shard.fingerprint for shard in shards}) == len(shards)
    assert sum(shard.share for shard in shards) == pytest.approx(1)
    assert {shard.dataset for shard in shards} == {dataset.name}
    copies = pickle.loads(pickle.dumps(shards))
    found = [sample for shard in copies for sample in ShardDataset(shard).samples()]
    for sample, wanted in zip(found, dataset.samples(), strict=True):
        assert (sample.image_id, sample.name) == (wanted.image_id, wanted.name)
        assert sample.image.tobytes() == wanted.image.tobytes()
        assert [each.rle for each in sample.instances] == [each.rle for each in wanted.instances]


def test_an_image_that_must_not_be_read_keeps_its_place():
    (shard,) = SCENES.shards()
    found = list(ShardDataset(shard.without({2: "it crashes"})).samples())
    assert found.pop(2) == UnreadableImage(2, "scene_000002.png", "it crashes")
    assert all(isinstance(each, Sample) for each in found)


def test_a_shard_is_a_dataset_of_its_own(coco):
    shard = next(coco.shards(3))
    dataset = ShardDataset(shard)
    assert (dataset.name, dataset.n_images) == (coco.name, 3)
    assert (dataset.fingerprint, dataset.images_state) == (shard.fingerprint, shard.images_state)
    assert dataset.fingerprint != coco.fingerprint
    assert list(dataset.shards(1)) == [shard]


def test_problems_are_counted_in_the_order_of_images_for_each_pass():
    def read(index):
        left_out = {"malformed": 30} if index else {}
        image = UnreadableImage(index, f"{index}.png", "no pixels")
        return LoadedImage(image, left_out, tuple(f"{index}: {n}" for n in range(30 * index)))

    readers = tuple((lambda index=index: read(index)) for index in range(4))
    images = tuple((index, f"{index}.png") for index in range(4))
    dataset = ShardDataset(Shard("a", "data", "f", readers, images, 1))
    for _ in range(2):
        for load in reversed(list(dataset.loaders())):
            load()
        assert dataset.left_out == {"malformed": 90}
        assert dataset.problems[:31] == (*(f"1: {n}" for n in range(30)), "2: 0")
        assert len(dataset.problems) == MAX_PROBLEMS
