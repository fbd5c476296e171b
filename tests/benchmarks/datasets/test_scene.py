"""Rendered scenes: masks, overlap, surfaces and silhouettes."""

import numpy as np
import pytest

from benchmarks.datasets import scene
from benchmarks.datasets.scene import MIN_VISIBLE_PX, SHAPES, draw_shape, render_scene

SMALL = (96, 128)


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
    monkeypatch.setattr(scene, "load_photos", lambda _: ())
    after = four()
    assert any(not np.array_equal(a.image, b.image) for a, b in zip(before, after, strict=True))
    assert all(np.array_equal(a.masks, b.masks) for a, b in zip(before, after, strict=True))


def test_photos_are_optional():
    assert len(scene.load_photos(scene.OBJECT_PHOTOS)) == len(scene.OBJECT_PHOTOS)
    assert scene.load_photos(("no such photo",)) == ()


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
