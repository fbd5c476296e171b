"""The synthetic dataset: seeds, names, and annotations of its samples."""

import hashlib

import numpy as np
import pytest

from benchmarks.datasets.synthetic import SyntheticDataset
from mobilesam.errors import UsageError

SMALL = (96, 128)


def small(n_images, seed=0, **options):
    return SyntheticDataset(n_images, seed, SMALL, **options)


def test_scenes_depend_on_seed_and_index_only():
    a, b = list(small(5).samples()), list(small(3).samples())
    for one, other in zip(a, b, strict=False):
        assert np.array_equal(one.image, other.image)
        assert [i.rle for i in one.instances] == [i.rle for i in other.instances]
    assert np.array_equal(small(1).scene(4).image, a[4].image)
    assert not np.array_equal(a[0].image, a[1].image)
    assert not np.array_equal(a[0].image, small(1, seed=1).scene(0).image)


def test_samples_agree_with_scenes():
    dataset = small(3)
    ids = set()
    for index, sample in enumerate(dataset.samples()):
        scene = dataset.scene(index)
        assert sample.image_id == index
        assert len(sample.instances) == len(scene.masks)
        for item, mask, kind in zip(sample.instances, scene.masks, scene.categories, strict=True):
            assert np.array_equal(item.mask(), mask)
            assert item.area_px == mask.sum()
            assert item.category == kind
            rows, columns = np.nonzero(mask)
            tight = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            assert item.box.tolist() == tight
            ids.add(item.annotation_id)
    assert len(ids) == sum(len(s.instances) for s in dataset.samples())
    assert min(ids) > 0
    assert dataset.n_images == 3
    assert dataset.left_out == {}


def test_names_and_fingerprints_differ():
    datasets = [
        SyntheticDataset(20, 0),
        SyntheticDataset(21, 0),
        SyntheticDataset(20, 1),
        SyntheticDataset(20, 0, (128, 128)),
        SyntheticDataset(20, 0, n_objects=(1, 2)),
    ]
    assert datasets[0].name == "synthetic:seed=0,n=20"
    assert datasets[3].name == "synthetic:seed=0,n=20,size=128x128"
    assert len({d.name for d in datasets}) == len({d.fingerprint for d in datasets}) == 5


@pytest.mark.parametrize(
    "options",
    [
        {"n_images": 0},
        {"seed": -1},
        {"size_hw": (40, 100)},
        {"n_objects": (0, 3)},
        {"n_objects": (4, 3)},
        {"n_objects": (3, 999)},
    ],
)
def test_arguments_out_of_range_are_rejected(options):
    with pytest.raises(UsageError):
        SyntheticDataset(**({"n_images": 2, "seed": 0} | options))


def test_scenes_do_not_change_between_versions():
    """Noise and blur of other versions of Pillow may differ; masks do not depend on them."""
    digest = hashlib.sha256()
    for sample in SyntheticDataset(4, 3, (64, 80)).samples():
        for each in sample.instances:
            digest.update(f"{each.annotation_id} {each.category} {each.rle['counts']}".encode())
    assert digest.hexdigest() == (
        "6fb533fca556eaa49ac5433125c28c271a806452528bf4e1cd39febea90d7936"
    )
