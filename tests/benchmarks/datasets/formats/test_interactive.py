"""Datasets of interactive segmentation in their usual layout, written by Pillow and scipy."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from benchmarks.config.from_options import open_dataset
from benchmarks.config.options import AccuracyArguments
from benchmarks.datasets.dataset import Sample, UnreadableImage
from benchmarks.datasets.formats import INTERACTIVE
from benchmarks.datasets.formats.interactive import LAYOUTS, InteractiveDataset
from benchmarks.datasets.masks import decode_mask
from mobilesam.errors import DataError, UsageError

SIZE_HW = (40, 60)
OBJECT = np.zeros(SIZE_HW, np.bool_)
OBJECT[10:25, 20:40] = True
EDGE = np.zeros(SIZE_HW, np.bool_)
EDGE[25:27, 20:40] = True


def write(root: Path, name: str, *stems: str) -> Path:
    """Writes a dataset with an object and, where the layout has it, undecided pixels below it."""
    layout = LAYOUTS[name]
    for folder in (layout.images, layout.masks):
        (root / folder).mkdir(parents=True)
    for stem in stems:
        Image.new("RGB", SIZE_HW[::-1], (90, 120, 30)).save(root / layout.images / f"{stem}.jpg")
        levels = np.where(OBJECT, 255, np.where(EDGE, layout.ignore or 0, 0)).astype(np.uint8)
        if layout.split is None:
            suffix = "bmp" if name == "grabcut" else "png"
            Image.fromarray(levels).save(root / layout.masks / f"{stem}.{suffix}")
        else:
            fields = {"Segmentation": OBJECT + 2 * EDGE.astype(np.uint8), "Categories": [[3], [7]]}
            savemat(root / layout.masks / f"{stem}.mat", {"GTinst": fields})
            with (root / layout.split).open("a") as file:
                file.write(f"{stem}\n")
    return root


def test_the_command_line_knows_all_layouts() -> None:
    assert tuple(LAYOUTS) == INTERACTIVE


@pytest.mark.parametrize("name", LAYOUTS)
def test_objects_of_a_dataset(name: str, tmp_path: Path) -> None:
    root = write(tmp_path / "data", name, "b", "a")
    dataset = InteractiveDataset(name, root)
    assert dataset.name == name
    found = list(dataset.samples())
    assert len(found) == 2
    for sample in found:
        assert isinstance(sample, Sample)
        assert sample.image.shape == (*SIZE_HW, 3)
        expected = [OBJECT, EDGE] if name == "sbd" else [OBJECT]
        masks = [instance.mask() for instance in sample.instances]
        np.testing.assert_array_equal(masks, expected)
        ignored = sample.instances[0].ignored
        assert (ignored is not None) == (LAYOUTS[name].ignore is not None)
        if ignored is not None:
            np.testing.assert_array_equal(decode_mask(ignored), EDGE)


def test_colours_of_one_object_are_one_object(tmp_path: Path) -> None:
    """As in DAVIS, whose masks may be images with a palette."""
    root = write(tmp_path, "davis345", "a")
    picture = Image.fromarray(OBJECT + EDGE.astype(np.uint8) * 2)
    picture.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0])
    picture.save(root / "gt" / "a.png")
    (sample,) = InteractiveDataset("davis345", root).samples()
    assert isinstance(sample, Sample)
    (instance,) = sample.instances
    np.testing.assert_array_equal(instance.mask(), OBJECT | EDGE)


def test_wrong_files_are_named(tmp_path: Path) -> None:
    root = write(tmp_path, "grabcut", "a", "b", "c", "d")
    (root / "boundary_GT" / "a.bmp").unlink()
    Image.new("L", (9, 9), 255).save(root / "boundary_GT" / "b.bmp")
    (root / "data_GT" / "c.jpg").unlink()
    Image.new("I;16", SIZE_HW[::-1]).save(root / "boundary_GT" / "e.png")
    (root / "data_GT" / "d.jpg").rename(root / "data_GT" / "e.jpg")
    (root / "boundary_GT" / "d.bmp").unlink()
    found = {each.name: each for each in InteractiveDataset("grabcut", root).samples()}
    problems = {k: each.reason for k, each in found.items() if isinstance(each, UnreadableImage)}
    assert "its mask is missing" in problems["data_GT/a.jpg"]
    assert "9x9" in problems["data_GT/b.jpg"]
    assert "its image is missing" in problems["boundary_GT/c.bmp"]
    assert "mode I;16" in problems["data_GT/e.jpg"]


def test_a_folder_of_another_layout_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "grabcut", "a")
    with pytest.raises(DataError, match="img does not exist; --dataset davis345 needs the folder"):
        InteractiveDataset("davis345", tmp_path)
    root = write(tmp_path / "sbd", "sbd", "a")
    (root / "inst" / "a.mat").write_bytes(b"no MATLAB file")
    (sample,) = InteractiveDataset("sbd", root).samples()
    assert isinstance(sample, UnreadableImage)
    assert "a.mat is no file of SBD" in sample.reason


def test_a_set_is_named_on_the_command_line(tmp_path: Path) -> None:
    root = write(tmp_path / "GrabCut", "grabcut", "a", "b")
    options = AccuracyArguments(dataset="grabcut", root=(root,), limit=1)
    dataset = open_dataset(options, n_scenes=1, seed=0)
    assert (dataset.name, dataset.n_images) == ("grabcut", 1)
    with pytest.raises(UsageError, match="--ignore does not belong to --dataset grabcut"):
        open_dataset(replace(options, ignore=128), n_scenes=1, seed=0)
    with pytest.raises(UsageError, match="--dataset sbd needs --root"):
        open_dataset(AccuracyArguments(dataset="sbd"), n_scenes=1, seed=0)
