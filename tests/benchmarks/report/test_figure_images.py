from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from baselines.interface import Prompts
from benchmarks.datasets.synthetic import SyntheticDataset
from benchmarks.report.figure_images import (
    PHOTOS,
    FigureImage,
    dataset_images,
    file_image,
    photo_image,
    prompts_text,
)
from mobilesam.errors import DataError, UsageError


def test_prompts_of_a_scene_are_for_its_largest_object() -> None:
    dataset = SyntheticDataset(n_images=1, seed=3, size_hw=(96, 128))
    (picture,) = dataset_images(dataset, 1)
    assert isinstance(picture, FigureImage)
    areas = [int(mask.sum()) for mask in picture.references]
    assert areas[0] == max(areas)
    assert len(areas) > 1
    assert picture.point.points is not None
    assert picture.box.boxes is not None
    x, y = picture.point.points[0, 0].astype(int)
    assert picture.references[0][y, x]
    rows, columns = np.nonzero(picture.references[0])
    box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    assert picture.box.boxes[0].tolist() == box


@pytest.mark.parametrize("name", PHOTOS)
def test_photos_are_free_and_their_prompts_inside(name: str) -> None:
    picture = photo_image(name)
    assert picture.licence in ("CC0-1.0", "public domain")
    height, width = picture.image.shape[:2]
    assert picture.point.points is not None
    assert picture.box.boxes is not None
    assert (picture.point.points[0] < (width, height)).all()
    assert (picture.box.boxes[0] <= (width, height, width, height)).all()


def test_the_error_for_an_unknown_photo_suggests_a_name() -> None:
    with pytest.raises(UsageError, match="did you mean coffee"):
        photo_image("cofee")


def test_a_photo_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.datasets.synthetic.load_photos", lambda *_: ())
    with pytest.raises(DataError, match=r"coffee\.png"):
        photo_image("coffee")


def save(path: Path, height: int, width: int) -> Path:
    Image.fromarray(np.full((height, width, 3), 90, np.uint8)).save(path)
    return path


def test_default_prompts_of_a_file_are_at_its_centre(tmp_path: Path) -> None:
    picture = file_image(save(tmp_path / "mine.png", 40, 60))
    assert prompts_text(picture.point) == "point 30,20"
    assert prompts_text(picture.box) == "box 15,10,45,30"
    assert picture.chosen == "point: the image's centre; box: the image's centre"
    assert picture.source == "file mine.png"


def test_an_image_of_one_pixel(tmp_path: Path) -> None:
    assert prompts_text(file_image(save(tmp_path / "one.png", 1, 1)).point) == "point 0,0"


def test_points_of_the_background_are_printed_as_such() -> None:
    points = np.array([[[1, 2], [3, 4.5]]], np.float32)
    prompts = Prompts(points=points, labels=np.array([[1, 0]], np.int64))
    assert prompts_text(prompts) == "points 1,2 and 3,4.5 (not)"


def test_the_hash_depends_on_pixels_and_shape(tmp_path: Path) -> None:
    pictures = [file_image(save(tmp_path / f"{h}.png", h, w)) for h, w in ((4, 6), (6, 4), (4, 7))]
    assert len({picture.sha256 for picture in pictures}) == 3
    assert file_image(save(tmp_path / "again.png", 4, 6)).sha256 == pictures[0].sha256
