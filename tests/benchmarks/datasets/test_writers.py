"""Both writers, read back, and what they do with unreadable images and interruptions."""

import json

import numpy as np
import pytest
from listed_dataset import ListedDataset

from benchmarks.datasets.coco import CocoDataset
from benchmarks.datasets.dataset import Instance, Sample, UnreadableImage
from benchmarks.datasets.masks import encode_mask, rle_box
from benchmarks.datasets.sa1b import Sa1bDataset
from benchmarks.datasets.synthetic import SyntheticDataset
from benchmarks.datasets.writers import write_coco, write_sa1b
from mobilesam.errors import DataError, UsageError

SCENES = SyntheticDataset(4, 0, (64, 80))


def same(sample, other, pixels):
    assert isinstance(sample, Sample)
    assert isinstance(other, Sample)
    assert sample.image_id == other.image_id
    assert len(sample.instances) == len(other.instances)
    for one, two in zip(sample.instances, other.instances, strict=True):
        assert one.annotation_id == two.annotation_id
        assert one.rle == two.rle
        assert one.area_px == two.area_px
        assert one.box.tolist() == two.box.tolist()
    difference = np.abs(sample.image.astype(int) - other.image)
    assert difference.mean() < 12 if pixels == "close" else difference.max() == 0


@pytest.mark.parametrize(("image_format", "pixels"), [("png", "same"), ("jpg", "close")])
def test_coco_reads_back(tmp_path, image_format, pixels):
    written = write_coco(SCENES, tmp_path, image_format)
    back = CocoDataset(tmp_path / "images", *written.paths)
    assert written.n_images == back.n_images == 4
    assert written.n_instances == back.n_instances
    assert back.left_out == {"crowd": 0, "empty": 0, "malformed": 0}
    for sample, other in zip(SCENES.samples(), back.samples(), strict=True):
        same(sample, other, pixels)
        assert [i.category for i in sample.instances] == [i.category for i in other.instances]


def test_coco_is_not_written_over_another(tmp_path):
    write_coco(SCENES, tmp_path)
    with pytest.raises(DataError, match=r"instances\.json exists"):
        write_coco(SCENES, tmp_path)


@pytest.mark.parametrize("tar", [False, True])
def test_sa1b_reads_back(tmp_path, tar):
    written = write_sa1b(SCENES, tmp_path, tar=tar, images_per_tar=3)
    assert [p.name for p in written.paths] == (
        ["sa_000000.tar", "sa_000001.tar"] if tar else [f"sa_{i}.json" for i in range(4)]
    )
    back = Sa1bDataset(tmp_path)
    assert written.n_images == back.n_images == 4
    for sample, other in zip(SCENES.samples(), back.samples(), strict=True):
        same(sample, other, "close")
        for item in other.instances:
            ((x, y),) = item.points.tolist()
            assert item.mask()[int(y), int(x)]
    assert back.left_out == {}


def test_a_full_tar_is_not_followed_by_an_empty_one(tmp_path):
    assert len(write_sa1b(SCENES, tmp_path, tar=True, images_per_tar=2).paths) == 2
    assert len(list(tmp_path.iterdir())) == 2
    with pytest.raises(UsageError, match="images_per_tar"):
        write_sa1b(SCENES, tmp_path, tar=True, images_per_tar=0)


def interrupted(error=None):
    """Its first image is unreadable; raises the error after the last one, such as Ctrl-C."""

    def samples():
        yield UnreadableImage(9, "nine.png", "broken", 3)
        yield from SCENES.samples()
        if error is not None:
            raise error

    return ListedDataset(samples)


@pytest.mark.parametrize("tar", [False, True])
def test_an_interrupted_run_leaves_no_half_files(tmp_path, tar):
    with pytest.raises(KeyboardInterrupt):
        write_sa1b(interrupted(KeyboardInterrupt()), tmp_path / "sa1b", tar=tar)
    with pytest.raises(KeyboardInterrupt):
        write_coco(interrupted(KeyboardInterrupt()), tmp_path / "coco")
    assert not (tmp_path / "coco" / "instances.json").exists()
    left = sorted(p.name for p in (tmp_path / "sa1b").iterdir())
    assert not [name for name in left if name.startswith(".")]
    assert len(left) == (0 if tar else 8)


def test_unreadable_images_are_reported(tmp_path):
    for written in (write_coco(interrupted(), tmp_path), write_sa1b(interrupted(), tmp_path / "b")):
        assert written.n_images == 4
        assert [bad.image_id for bad in written.skipped] == [9]


def test_a_stored_point_is_kept_only_inside_the_mask(tmp_path):
    mask = np.zeros((60, 60), bool)
    mask[10:21, 10:21] = True
    rle = encode_mask(mask)

    items = [
        Instance(n, "", 121, rle_box(rle), rle, np.array([point], np.float32))
        for n, point in ((1, [12.75, 13.5]), (2, [50, 50]), (3, [-1, 900]))
    ]
    sample = Sample(3, "", np.zeros((60, 60, 3), np.uint8), tuple(items))
    write_sa1b(ListedDataset(lambda: [sample]), tmp_path)
    rows = json.loads((tmp_path / "sa_3.json").read_text())["annotations"]
    assert [row["point_coords"] for row in rows] == [[[12.75, 13.5]], [[15, 15]], [[15, 15]]]


def test_boxes_are_written_with_inclusive_maxima(tmp_path):
    write_sa1b(SCENES, tmp_path)
    for path in tmp_path.glob("*.json"):
        for row in json.loads(path.read_text())["annotations"]:
            x0, y0, x1, y1 = rle_box(row["segmentation"]).tolist()
            assert row["bbox"] == [x0, y0, x1 - x0 - 1, y1 - y0 - 1]
