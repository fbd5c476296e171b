"""SA-1B's reader, and both writers read back."""

import io
import json
import os
import re
import tarfile
from pathlib import Path

import numpy as np
import pytest
from listed_dataset import ListedDataset
from PIL import Image

from benchmarks.datasets.coco import CocoDataset
from benchmarks.datasets.dataset import Instance, Sample, UnreadableImage
from benchmarks.datasets.make import write_coco, write_sa1b
from benchmarks.datasets.masks import encode_mask, rle_box
from benchmarks.datasets.sa1b import Sa1bDataset
from benchmarks.datasets.synthetic import SyntheticDataset
from mobilesam.errors import DataError, UsageError

SHARED = Path(__file__).resolve().parents[4] / "shared" / "data" / "sa1b"

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


def test_a_tar_that_is_just_full_is_the_last(tmp_path):
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


def test_what_could_not_be_read_is_reported(tmp_path):
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


def test_boxes_of_sa1b_have_inclusive_maxima(tmp_path):
    """A mask of one pixel has a box of width 0 there, and of width 1 here."""
    write_sa1b(SCENES, tmp_path)
    for path in tmp_path.glob("*.json"):
        for row in json.loads(path.read_text())["annotations"]:
            x0, y0, x1, y1 = rle_box(row["segmentation"]).tolist()
            assert row["bbox"] == [x0, y0, x1 - x0 - 1, y1 - y0 - 1]
    content = toy(7)
    content["annotations"][0]["bbox"] = [3, 2, 0, 0]
    put(tmp_path, 7, content)
    sample = list(Sa1bDataset(tmp_path).samples())[-1]
    assert sample.instances[0].box.tolist() == [3, 2, 4, 3]


@pytest.mark.shared
def test_boxes_of_a_real_file_are_the_masks_own():
    if not SHARED.is_dir():
        pytest.skip(f"{SHARED} is not here")
    rows = json.loads((SHARED / "sa_226381_excerpt.json").read_text())["annotations"]
    assert len(rows) == 3
    for row in rows:
        x, y, width, height = row["bbox"]
        assert [x, y, x + width + 1, y + height + 1] == rle_box(row["segmentation"]).tolist()


@pytest.mark.shared
def test_a_real_file_is_read(tmp_path):
    if not SHARED.is_dir():
        pytest.skip(f"{SHARED} is not here")
    content = (SHARED / "sa_226381_excerpt.json").read_text()
    (tmp_path / "sa_226381.json").write_text(content)
    Image.new("RGB", (2000, 1500)).save(tmp_path / "sa_226381.jpg")
    (sample,) = Sa1bDataset(tmp_path).samples()
    assert [i.annotation_id for i in sample.instances] == [333521564, 333521565, 333521570]
    assert [i.area_px for i in sample.instances] == [914, 2006, 130]
    assert sample.instances[0].points.tolist() == [[1520.75, 248.0625]]
    assert all(i.mask().sum() == i.area_px for i in sample.instances)


def toy(image_id, **fields):
    mask = np.zeros((8, 10), bool)
    mask[2:5, 3:7] = True
    row = {"id": 1, "bbox": [3, 2, 3, 2], "area": 12, "segmentation": encode_mask(mask)}
    return {
        "image": {"image_id": image_id, "width": 10, "height": 8, "file_name": "x"},
        "annotations": [row | fields],
    }


def jpeg():
    buffer = io.BytesIO()
    Image.new("RGB", (10, 8), "green").save(buffer, "JPEG")
    return buffer.getvalue()


def put(folder, image_id, content):
    folder.mkdir(exist_ok=True)
    (folder / f"sa_{image_id}.jpg").write_bytes(jpeg())
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    (folder / f"sa_{image_id}.json").write_bytes(data)


def make_tar(path, members):
    """Writes a tar of (name, bytes or link target) in the given order."""
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            member = tarfile.TarInfo(name)
            if isinstance(data, str):
                member.type = tarfile.SYMTYPE
                member.linkname = data
                tar.addfile(member)
            else:
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return path


def pair(image_id, prefix="./"):
    name = f"{prefix}sa_{image_id}"
    return [(f"{name}.jpg", jpeg()), (f"{name}.json", json.dumps(toy(image_id)).encode())]


def test_files_of_a_tar_may_come_in_any_order(tmp_path):
    members = [*pair(11), *pair(2, prefix=""), *pair(30, prefix="deep/")]
    shuffled = [members[i] for i in (5, 0, 3, 4, 2, 1)]
    shuffled.insert(2, ("LICENSE", b"text"))
    back = Sa1bDataset(make_tar(tmp_path / "a.tar", shuffled))
    assert back.name == "sa1b:a"
    assert [sample.image_id for sample in back.samples()] == [2, 11, 30]
    assert all(isinstance(sample, Sample) for sample in back.samples())


def test_folder_and_tar_give_the_same(tmp_path):
    for image_id in (11, 2):
        put(tmp_path / "folder", image_id, toy(image_id))
    tar = make_tar(tmp_path / "a.tar", [*pair(11), *pair(2)])
    folder, archive = Sa1bDataset(tmp_path / "folder"), Sa1bDataset(tar)
    assert folder.fingerprint == archive.fingerprint
    for one, two in zip(folder.samples(), archive.samples(), strict=True):
        same(one, two, "same")


def test_names_in_a_tar_are_never_trusted(tmp_path):
    members = [
        ("../sa_5.jpg", jpeg()), ("/etc/sa_6.json", b"{}"), ("sa_7.jpg", "/etc/passwd"), *pair(8),
    ]  # fmt: skip
    tar = make_tar(tmp_path / "a.tar", members)
    good, *bad = Sa1bDataset(tar).samples()
    assert good.image_id == 8
    assert [sample.name for sample in bad] == ["../sa_5.jpg", "/etc/sa_6.json", "sa_7.jpg"]
    assert "points outside" in bad[0].reason
    assert "link" in bad[2].reason
    assert [p.name for p in tmp_path.iterdir()] == ["a.tar"]


def test_a_tar_cut_off_anywhere_gives_what_is_whole(tmp_path):
    tar = make_tar(tmp_path / "a.tar", [*pair(1), *pair(2), *pair(3)])
    data = tar.read_bytes()
    with tarfile.open(tar) as archive:
        ends = [m.offset_data + m.size for m in archive]
    seen = set()
    for cut in range(513, ends[-1] + 600, 171):
        tar.write_bytes(data[:cut])
        samples = list(Sa1bDataset(tar).samples())
        good = [s.image_id for s in samples if isinstance(s, Sample)]
        whole = [n + 1 for n in range(3) if ends[2 * n + 1] <= cut]
        assert good == whole, cut
        whys = [s.reason for s in samples if isinstance(s, UnreadableImage)]
        assert all("beside" in why or "a.tar" in why for why in whys), whys
        padded = -(-ends[-1] // 512) * 512
        if cut < padded + 512:
            assert samples[-1].name == "a.tar", cut
            assert "cut off" in samples[-1].reason
        seen.add(len(good))
    assert seen == {0, 1, 2, 3}


def test_what_is_no_tar(tmp_path):
    path = tmp_path / "a.tar"
    for data in (b"", b"x" * 2000, b"\x1f\x8b" + b"0" * 900):
        path.write_bytes(data)
        (bad,) = Sa1bDataset(path).samples()
        assert "not a plain tar" in bad.reason


def test_lone_halves_and_doubles_are_bad(tmp_path):
    tar = make_tar(tmp_path / "a.tar", [*pair(1), pair(2)[0], pair(3)[1], pair(1)[0]])
    good, no_json, no_jpg, double = Sa1bDataset(tar).samples()
    assert isinstance(good, Sample)
    assert no_json.reason == "sa_2.jpg has no sa_2.json beside it"
    assert no_jpg.reason == "sa_3.json has no sa_3.jpg beside it"
    assert "twice" in double.reason
    other = make_tar(tmp_path / "b.tar", pair(1))
    samples = list(Sa1bDataset([tar, other]).samples())
    assert "earlier folder or tar" in samples[-1].reason


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"{", "not valid JSON"),
        (b"\xff\xfe", "not valid JSON"),
        ([], "top level: "),
        ({"image": toy(1)["image"]}, "annotations: Field required"),
        ({"image": {"image_id": 1}, "annotations": []}, "image.height: Field required"),
        (toy(2), "image_id 2"),
        (toy(1) | {"annotations": {}}, "annotations: .* valid list"),
        (toy(1) | {"annotations": []}, "no usable annotation"),
        (toy(1) | {"image": toy(1)["image"] | {"width": 10**8}}, "more than 100,000,000"),
    ],
)
def test_a_broken_json_is_one_bad_image(tmp_path, content, words):
    put(tmp_path, 1, content)
    put(tmp_path, 2, toy(2))
    bad, good = Sa1bDataset(tmp_path).samples()
    assert isinstance(bad, UnreadableImage)
    assert re.search(words, bad.reason), bad.reason
    assert "sa_1.j" in bad.reason
    assert isinstance(good, Sample)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"id": "x"}, "annotation number 0: id: .*; got 'x'"),
        ({"id": 9}, "annotation number 1: annotation id 9 is given twice"),
        ({"bbox": [0, 0, float("nan"), 1]}, "annotation number 0: bbox.2: .*; got nan"),
        ({"point_coords": [[1]]}, "annotation number 0: point_coords.0: .*at least 2"),
        ({"point_coords": [[1, float("inf")]]}, "annotation number 0: point_coords.0.1: "),
        ({"area": float("nan")}, "annotation number 0: area: "),
    ],
)
def test_a_malformed_annotation_is_left_out_and_told(tmp_path, fields, words):
    content = toy(1, **fields)
    content["annotations"] += toy(1, id=9)["annotations"]
    put(tmp_path, 1, content)
    dataset = Sa1bDataset(tmp_path)
    (sample,) = dataset.samples()
    assert [instance.annotation_id for instance in sample.instances] == [9]
    assert dataset.left_out["malformed"] == 1
    assert re.match(f"sa_1.json: {words}", dataset.problems[0]), dataset.problems


def test_links_to_themselves_are_bad_images(tmp_path):
    for image_id in (1, 2):
        put(tmp_path / "d", image_id, toy(image_id))
    (tmp_path / "d" / "sa_2.json").unlink()
    (tmp_path / "d" / "sa_2.json").symlink_to("sa_2.json")
    (tmp_path / "d" / "b.tar").symlink_to("b.tar")
    for dataset in (Sa1bDataset(tmp_path / "d"), Sa1bDataset(tmp_path / "d", streaming=True)):
        good, *bad = dataset.samples()
        assert isinstance(good, Sample)
        assert [sample.name for sample in bad] == ["sa_2.jpg", "b.tar"]
        assert all("Too many levels of symbolic links" in sample.reason for sample in bad)
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(DataError, match="loop: Too many levels"):
        Sa1bDataset(tmp_path / "loop")


def test_pipes_are_not_waited_for(tmp_path):
    put(tmp_path, 1, toy(1))
    (tmp_path / "sa_1.jpg").unlink()
    os.mkfifo(tmp_path / "sa_1.jpg")
    os.mkfifo(tmp_path / "b.tar")
    samples = list(Sa1bDataset(tmp_path).samples())
    assert all("pipe or device" in sample.reason for sample in samples)
    assert len(samples) == 2


def test_sizes_below_zero_in_a_tar_do_not_lead_back(tmp_path):
    """tarfile takes them, and would give the same members for ever."""
    tar = make_tar(tmp_path / "a.tar", [*pair(1), *pair(2)])
    data = bytearray(tar.read_bytes())
    with tarfile.open(tar) as archive:
        start = archive.getmembers()[2].offset
    data[start + 124 : start + 136] = b"\xff" * 10 + b"\xfc\x00"  # base 256: -1024
    checksum = sum(data[start : start + 148]) + sum(data[start + 156 : start + 512]) + 8 * 32
    data[start + 148 : start + 156] = f"{checksum:06o}\0 ".encode()
    tar.write_bytes(data)
    samples = list(Sa1bDataset(tar).samples())
    assert [sample.image_id for sample in samples if isinstance(sample, Sample)] == [1]
    assert "damaged" in samples[-1].reason


def test_names_that_are_no_text_are_told_in_letters(tmp_path):
    tar = make_tar(tmp_path / "a.tar", [*pair(1), ("../\udcff\n", b"")])
    _, bad = Sa1bDataset(tar).samples()
    assert bad.name == r"'../\udcff\n'"
    assert "\n" not in bad.reason


def test_a_broken_image_keeps_count_of_its_instances(tmp_path):
    put(tmp_path, 1, toy(1))
    (tmp_path / "sa_1.jpg").write_bytes(jpeg()[:-100])
    (bad,) = Sa1bDataset(tmp_path).samples()
    assert (bad.image_id, bad.name, bad.n_instances) == (1, "sa_1.jpg", 1)


def test_single_bad_masks_are_left_out(tmp_path):
    content = toy(1)
    rows = content["annotations"]
    rows.append(rows[0] | {"id": 3, "segmentation": {"size": [8, 11], "counts": [88]}})
    rows.append(rows[0] | {"id": 2, "segmentation": encode_mask(np.zeros((8, 10), bool))})
    put(tmp_path, 1, content)
    dataset = Sa1bDataset(tmp_path)
    for _ in range(2):
        (sample,) = dataset.samples()
        assert len(sample.instances) == 1
        assert dataset.left_out == {"empty": 1, "malformed": 1}
        assert len(dataset.problems) == 1
        assert "sa_1.json: annotation 3: the RLE has size [8, 11]" in dataset.problems[0]


def test_a_limit_counts_pairs(tmp_path):
    tar = make_tar(tmp_path / "a.tar", [*pair(1), pair(2)[0], *pair(3), *pair(4)])
    limited = Sa1bDataset(tar, limit=2)
    assert [s.image_id for s in limited.samples()] == [1, 2, 3]
    assert limited.n_images == 3
    assert limited.fingerprint != Sa1bDataset(tar).fingerprint


def test_missing_or_foreign_folders(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        Sa1bDataset(tmp_path / "none")
    with pytest.raises(DataError, match="holds neither"):
        Sa1bDataset(tmp_path)
    with pytest.raises(DataError, match="no SA-1B folder"):
        Sa1bDataset([])
