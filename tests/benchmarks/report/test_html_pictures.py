"""Pictures of the report's gallery: outlines of masks, images by their number, and their size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.datasets.masks import iou
from benchmarks.report.gallery_images import Images, mask_path, photos_of, scenes_of, shrink
from mobilesam.errors import DataError


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_an_outline_covers_what_its_mask_covers(scale: float) -> None:
    from PIL import ImageDraw

    rows, columns = np.mgrid[:120, :160]
    mask = ((columns - 60) / 50) ** 2 + ((rows - 55) / 40) ** 2 <= 1
    mask &= (columns - 60) ** 2 + (rows - 55) ** 2 > 15**2  # a hole
    mask[100:, 120:] = True  # a corner of the image
    large = Image.new("1", (1600, 1200))
    for part in mask_path(mask, scale).split("M")[1:]:
        points = [tuple(float(v) * 10 / scale for v in p.split(",")) for p in part[:-1].split("L")]
        piece = Image.new("1", large.size)
        ImageDraw.Draw(piece).polygon(points, fill=1)  # type: ignore[arg-type]
        large = Image.fromarray(np.asarray(large) ^ np.asarray(piece))
    drawn = np.asarray(large.resize((160, 120), Image.Resampling.NEAREST))
    assert iou(drawn, mask) > 0.96


def test_an_empty_mask_has_no_outline() -> None:
    assert mask_path(np.zeros((5, 5), np.bool_), 1) == ""


def test_drawn_scenes_are_known_by_their_name_and_checked() -> None:
    from benchmarks.datasets.synthetic import SyntheticDataset

    for made in (SyntheticDataset(3, 7), SyntheticDataset(2, 0, (96, 128), (1, 2))):
        again = scenes_of(made.name, made.fingerprint)
        assert again is not None
        assert again.name == made.name
    assert scenes_of("coco:val2017", "") is None
    with pytest.raises(DataError, match="another version"):
        scenes_of("synthetic:seed=7,n=3", "0" * 64)


@pytest.mark.parametrize("limit", [None, 1, 18, 40])
def test_packaged_photos_are_known_by_their_name_and_checked(limit: int | None) -> None:
    from benchmarks.datasets.photos import FOLDER, open_photos

    dataset = open_photos(limit)
    assert photos_of(dataset.name, dataset.fingerprint) == FOLDER / "images"
    assert photos_of("coco:photos", dataset.fingerprint) is None
    with pytest.raises(DataError, match="another version"):
        photos_of("photos", "0" * 64)


def test_images_shrink_until_they_fit(rng: np.random.Generator) -> None:
    noise = {i: (f"{i}.png", rng.integers(0, 256, (480, 640, 3), np.uint8)) for i in range(4)}
    roomy, tight = shrink(noise, 10_000_000), shrink(noise, 300_000)
    assert {p.width_px for p in roomy.values()} == {640}
    assert {p.width_px for p in tight.values()} < {512, 416, 320, 224}
    assert sum(len(p.uri) for p in tight.values()) <= 300_000
    assert all(p.scale == p.width_px / 640 for p in tight.values())


def test_a_file_belongs_to_the_image_that_its_name_ends_with(tmp_path: Path) -> None:
    for name in ("000000000139.png", "sa_7.png", "notes.txt", "cover.png"):
        Image.new("RGB", (4, 3)).save(tmp_path / name, "png")
    images = Images(tmp_path, None)
    assert images.get(139, (3, 4))[0] == "000000000139.png"
    assert images.get(7, (3, 4))[0] == "sa_7.png"
    with pytest.raises(DataError, match="ends with its number, 8"):
        images.get(8, (3, 4))
    with pytest.raises(DataError, match="4x3 px"):
        images.get(7, (9, 9))
    Image.new("RGB", (4, 3)).save(tmp_path / "copy-7.png")
    with pytest.raises(DataError, match=r"copy-7\.png and sa_7\.png"):
        Images(tmp_path, None)
    with pytest.raises(DataError, match="--images"):
        Images(tmp_path / "nowhere", None)
