"""The synthetic dataset: seeds, names, annotations; masks, surfaces and silhouettes of scenes."""

import hashlib

import numpy as np
import pytest

from benchmarks.datasets import synthetic
from benchmarks.datasets.synthetic import (
    MIN_VISIBLE_PX,
    SHAPES,
    SyntheticDataset,
    draw_shape,
    render_scene,
)
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


@pytest.mark.parametrize("size_hw", [(48, 48), (128, 128), (101, 75), (240, 320)])
def test_masks_are_disjoint_visible_and_counted(size_hw):
    for seed in range(6):
        found = render_scene(np.random.default_rng(seed), size_hw)
        assert found.image.shape == (*size_hw, 3)
        assert found.image.dtype == np.uint8
        assert found.masks.shape[1:] == size_hw
        assert found.masks.dtype == np.bool_
        assert 1 <= len(found.masks) <= 8
        assert len(found.categories) == len(found.masks)
        assert found.masks.sum(axis=0).max() <= 1
        assert found.masks.sum(axis=(1, 2)).min() >= MIN_VISIBLE_PX


def test_the_number_of_objects_is_within_the_range():
    counts = {len(render_scene(np.random.default_rng(s), (160, 160)).masks) for s in range(60)}
    assert counts == {3, 4, 5, 6, 7, 8}
    assert len(render_scene(np.random.default_rng(0), (160, 160), (1, 1)).masks) == 1


def test_objects_overlap():
    """In most scenes two objects meet without ground between them."""
    touching = 0
    for seed in range(20):
        masks = render_scene(np.random.default_rng(seed), SMALL).masks
        labels = (masks * np.arange(1, len(masks) + 1)[:, None, None]).sum(axis=0)
        left, right = labels[:, :-1], labels[:, 1:]
        touching += bool(((left != right) & (left > 0) & (right > 0)).any())
    assert touching >= 12


def test_image_edges_are_at_mask_edges():
    """Colours change more across a mask's edge than elsewhere, textures and noise included."""
    ratios = []
    for seed in range(40):
        found = render_scene(np.random.default_rng(seed), (128, 128))
        labels = (found.masks * np.arange(1, len(found.masks) + 1)[:, None, None]).sum(axis=0)
        edge = labels[:, 1:] != labels[:, :-1]
        step = np.abs(np.diff(found.image.astype(float), axis=1)).sum(axis=2)
        ratios.append(step[edge].mean() / step[~edge].mean())
    assert np.median(ratios) > 1.8


def test_colour_alone_does_not_separate_objects_from_the_ground():
    """The best single threshold on any channel does not find the objects."""
    scores = []
    for seed in range(30):
        found = render_scene(np.random.default_rng(seed), (128, 128))
        objects = found.masks.any(axis=0)
        best = 0.0
        for channel in range(3):
            for level in range(16, 250, 16):
                above = found.image[:, :, channel] > level
                for guess in (above, ~above):
                    best = max(best, (guess & objects).sum() / (guess | objects).sum())
        scores.append(best)
    assert np.mean(scores) < 0.75


def test_masks_do_not_depend_on_photos(monkeypatch):
    def four():
        rng = np.random.default_rng(0)
        return [render_scene(rng, SMALL) for _ in range(4)]

    before = four()
    monkeypatch.setattr(synthetic, "load_photos", lambda _: ())
    after = four()
    assert any(not np.array_equal(a.image, b.image) for a, b in zip(before, after, strict=True))
    assert all(np.array_equal(a.masks, b.masks) for a, b in zip(before, after, strict=True))


def test_photos_are_optional():
    assert len(synthetic.load_photos(synthetic.OBJECT_PHOTOS)) == len(synthetic.OBJECT_PHOTOS)
    assert synthetic.load_photos(("no such photo",)) == ()


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("extent_px", [9, 60, 200])
def test_silhouettes_fit_their_patch(kind, extent_px):
    for seed in range(5):
        alpha = draw_shape(np.random.default_rng(seed), kind, extent_px)
        assert alpha.dtype == np.float32
        assert alpha.shape[0] == alpha.shape[1] <= extent_px + 6
        assert 0 <= alpha.min() <= alpha.max() <= 1
        assert (alpha >= 0.5).sum() >= 0.015 * extent_px**2
        assert alpha[[0, -1]].max() == 0
        assert alpha[:, [0, -1]].max() == 0


@pytest.mark.parametrize("kind", ["stroke", "oval", "blob", "cloud"])
def test_silhouettes_are_connected(kind):
    from scipy import ndimage

    for seed in range(15):
        mask = draw_shape(np.random.default_rng(seed), kind, 150) >= 0.5
        assert ndimage.label(mask)[1] == 1
        if kind in ("oval", "blob"):
            assert np.array_equal(ndimage.binary_fill_holes(mask), mask)
        if kind == "stroke":
            holes, n_holes = ndimage.label(ndimage.binary_fill_holes(mask) & ~mask)
            assert all((holes == i + 1).sum() > 4 for i in range(n_holes))
