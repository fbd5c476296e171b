"""SA-1B: folders and tars, damaged ones included, and their shards."""

import io
import json
import os
import pickle
import re
import tarfile
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.datasets import sa1b
from benchmarks.datasets.dataset import Sample, ShardDataset, UnreadableImage
from benchmarks.datasets.masks import encode_mask, rle_box
from benchmarks.datasets.sa1b import Sa1bDataset
from benchmarks.datasets.synthetic import SyntheticDataset
from benchmarks.datasets.writers import write_sa1b
from mobilesam.errors import DataError

SHARED = Path(__file__).resolve().parents[4] / "shared" / "data" / "sa1b"

SCENES = SyntheticDataset(n_images=7, seed=3, size_hw=(48, 64), n_objects=(2, 3))


@pytest.mark.shared
def test_boxes_of_a_real_file_are_tight():
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


def described(samples):
    """Values of samples that can be compared."""
    return [
        sample
        if isinstance(sample, UnreadableImage)
        else (
            sample.image_id,
            sample.name,
            sample.image.tobytes(),
            [(each.annotation_id, each.rle, each.box.tolist()) for each in sample.instances],
        )
        for sample in samples
    ]


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
    assert described(folder.samples()) == described(archive.samples())


def test_names_in_a_tar_cannot_leave_it(tmp_path):
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


def test_a_truncated_tar_gives_its_complete_pairs(tmp_path):
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
        assert all("next to it" in why or "a.tar" in why for why in whys), whys
        padded = -(-ends[-1] // 512) * 512
        if cut < padded + 512:
            assert samples[-1].name == "a.tar", cut
            assert "cut off" in samples[-1].reason
        seen.add(len(good))
    assert seen == {0, 1, 2, 3}


def test_other_files_are_not_read_as_tars(tmp_path):
    path = tmp_path / "a.tar"
    for data in (b"", b"x" * 2000, b"\x1f\x8b" + b"0" * 900):
        path.write_bytes(data)
        (bad,) = Sa1bDataset(path).samples()
        assert "not a plain tar" in bad.reason


def test_incomplete_and_repeated_pairs_are_unreadable(tmp_path):
    tar = make_tar(tmp_path / "a.tar", [*pair(1), pair(2)[0], pair(3)[1], pair(1)[0]])
    good, no_json, no_jpg, double = Sa1bDataset(tar).samples()
    assert isinstance(good, Sample)
    assert no_json.reason == "sa_2.jpg has no sa_2.json next to it"
    assert no_jpg.reason == "sa_3.json has no sa_3.jpg next to it"
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
def test_a_malformed_json_is_one_unreadable_image(tmp_path, content, words):
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
        ({"bbox": [0, 0, float("nan"), 1]}, "annotation 1: bbox.2: .*; got nan"),
        ({"point_coords": [[1]]}, "annotation 1: point_coords.0: .*at least 2"),
        ({"point_coords": [[1, float("inf")]]}, "annotation 1: point_coords.0.1: "),
        ({"area": float("nan")}, "annotation 1: area: "),
    ],
)
def test_a_malformed_annotation_is_left_out_and_reported(tmp_path, fields, words):
    content = toy(1, **fields)
    content["annotations"] += toy(1, id=9)["annotations"]
    put(tmp_path, 1, content)
    dataset = Sa1bDataset(tmp_path)
    (sample,) = dataset.samples()
    assert [instance.annotation_id for instance in sample.instances] == [9]
    assert dataset.left_out["malformed"] == 1
    assert re.match(f"sa_1.json: {words}", dataset.problems[0]), dataset.problems


def test_links_to_themselves_are_unreadable(tmp_path):
    for image_id in (1, 2):
        put(tmp_path / "d", image_id, toy(image_id))
    (tmp_path / "d" / "sa_2.json").unlink()
    (tmp_path / "d" / "sa_2.json").symlink_to("sa_2.json")
    (tmp_path / "d" / "b.tar").symlink_to("b.tar")
    good, *bad = Sa1bDataset(tmp_path / "d").samples()
    assert isinstance(good, Sample)
    assert [sample.name for sample in bad] == ["sa_2.jpg", "b.tar"]
    assert all("Too many levels of symbolic links" in sample.reason for sample in bad)
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(DataError, match="loop: Too many levels"):
        Sa1bDataset(tmp_path / "loop")


def test_pipes_do_not_block(tmp_path):
    put(tmp_path, 1, toy(1))
    (tmp_path / "sa_1.jpg").unlink()
    os.mkfifo(tmp_path / "sa_1.jpg")
    os.mkfifo(tmp_path / "b.tar")
    samples = list(Sa1bDataset(tmp_path).samples())
    assert all("pipe or device" in sample.reason for sample in samples)
    assert len(samples) == 2


def test_negative_sizes_in_a_tar_do_not_loop(tmp_path):
    """tarfile accepts them and would repeat the same members without end."""
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


def test_unprintable_names_are_escaped(tmp_path):
    tar = make_tar(tmp_path / "a.tar", [*pair(1), ("../\udcff\n", b"")])
    _, bad = Sa1bDataset(tar).samples()
    assert bad.name == r"'../\udcff\n'"
    assert "\n" not in bad.reason


def test_an_unreadable_image_counts_its_instances(tmp_path):
    put(tmp_path, 1, toy(1))
    (tmp_path / "sa_1.jpg").write_bytes(jpeg()[:-100])
    (bad,) = Sa1bDataset(tmp_path).samples()
    assert (bad.image_id, bad.name, bad.n_instances) == (1, "sa_1.jpg", 1)


def test_malformed_and_empty_masks_are_left_out(tmp_path):
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
    with pytest.raises(DataError, match="contains neither"):
        Sa1bDataset(tmp_path)
    with pytest.raises(DataError, match="no SA-1B folder"):
        Sa1bDataset([])


def test_boxes_are_read_with_inclusive_maxima(tmp_path):
    """The box of a single pixel has width 0 in SA-1B, and width 1 here."""
    content = toy(7)
    content["annotations"][0]["bbox"] = [3, 2, 0, 0]
    put(tmp_path, 7, content)
    (sample,) = Sa1bDataset(tmp_path).samples()
    assert sample.instances[0].box.tolist() == [3, 2, 4, 3]


@pytest.fixture(scope="module")
def tars(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tars")
    write_sa1b(SCENES, folder, tar=True, images_per_tar=3)
    return folder


def read_shards(dataset, images_per_shard):
    """Reads all shards after pickling, as in another process."""
    shards = list(dataset.shards(images_per_shard))
    assert images_per_shard is None or all(len(s.readers) <= images_per_shard for s in shards)
    assert [shard.name for shard in shards] == sorted({shard.name for shard in shards})
    assert sum(shard.share for shard in shards) <= 1.000001
    copies = pickle.loads(pickle.dumps(shards))
    return described(sample for shard in copies for sample in ShardDataset(shard).samples())


@pytest.mark.parametrize("images_per_shard", [None, 1, 2, 50])
def test_shards_contain_all_images_in_order(tars, images_per_shard):
    found = read_shards(Sa1bDataset(tars), images_per_shard)
    assert [image_id for image_id, *_ in found] == list(range(7))
    assert found == described(Sa1bDataset(tars, streaming=True).samples())


def test_without_a_size_each_tar_is_a_shard(tars):
    assert [len(shard.readers) for shard in Sa1bDataset(tars).shards()] == [3, 3, 1]


@pytest.mark.parametrize("limit", [1, 3, 4, 7])
def test_a_limit_applies_across_tars(tars, limit):
    found = read_shards(Sa1bDataset(tars, limit), 2)
    assert [image_id for image_id, *_ in found] == list(range(limit))


def test_a_tar_is_opened_when_its_shard_is_due(tars, tmp_path):
    import shutil

    shutil.copytree(tars, tmp_path / "copy")
    dataset = Sa1bDataset(tmp_path / "copy", streaming=True)
    assert dataset.n_images is None
    (tmp_path / "copy" / "sa_000001.tar").unlink()
    shards = dataset.shards(3)
    first, second = next(shards), next(shards)
    assert [image_id for image_id, _ in first.images] == [0, 1, 2]
    assert second.images == ((-1, "sa_000001.tar"),)


def test_a_damaged_folder(tmp_path):
    write_sa1b(SCENES, tmp_path)
    (tmp_path / "sa_2.json").unlink()
    (tmp_path / "sa_4.jpg").unlink()
    (tmp_path / "sa_5.jpg").write_bytes(b"")
    (tmp_path / "sa_06.json").write_bytes(b"")
    (tmp_path / "notes.txt").write_text("ignored")
    dataset = Sa1bDataset(tmp_path)
    samples = list(dataset.samples())
    assert dataset.n_images == len(samples) == 8
    assert {s.name: s.reason for s in samples if isinstance(s, UnreadableImage)} == {
        "sa_2.jpg": "sa_2.jpg has no sa_2.json next to it",
        "sa_4.jpg": "sa_4.json has no sa_4.jpg next to it",
        "sa_5.jpg": "the image sa_5.jpg is empty (0 bytes); fetch it again",
        "sa_06.json": "sa_06.json has zeros before its number; rename it to sa_6.json",
    }
    assert read_shards(dataset, 3) == described(samples)


def test_truncated_and_repeated_tars(tars, tmp_path):
    cut = tmp_path / "cut.tar"
    cut.write_bytes((tars / "sa_000001.tar").read_bytes()[:-6000])
    found = read_shards(Sa1bDataset([tars, tars / "sa_000000.tar", cut]), 2)
    repeated = [each for each in found if "earlier folder or tar" in str(each)]
    assert [each.image_id for each in repeated] == [0, 1, 2, 3, 4, 5]
    assert found[-1].name == "cut.tar"
    assert len(found) == 7 + 6 + 1


def test_left_out_annotations_are_counted_by_shard(tmp_path):
    write_sa1b(SCENES, tmp_path)
    path = tmp_path / "sa_1.json"
    path.write_text(path.read_text().replace('"counts": "', '"counts": "~', 1))
    whole = Sa1bDataset(tmp_path)
    first, second = (ShardDataset(shard) for shard in whole.shards(4))
    for dataset in (whole, first, second):
        assert dataset.left_out == {}
        described(dataset.samples())
    assert whole.left_out == first.left_out == {"malformed": 1}
    assert whole.problems == first.problems
    assert (second.left_out, second.problems) == ({}, ())


def test_a_changed_tar_changes_only_its_shards(tars, tmp_path):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(tars, copy)
    before = Sa1bDataset(copy, streaming=True)
    shards = list(before.shards(3))
    assert Sa1bDataset(copy, streaming=True).fingerprint == before.fingerprint
    os.utime(copy / "sa_000001.tar", ns=(1, 1))
    after = Sa1bDataset(copy, streaming=True)
    assert after.fingerprint != before.fingerprint
    assert after.images_state != before.images_state
    pairs = zip(shards, after.shards(3), strict=True)
    assert [a.fingerprint != b.fingerprint for a, b in pairs] == [False, True, False]


def test_fingerprints_cover_every_file_and_the_limit(tmp_path):
    write_sa1b(SCENES, tmp_path)
    content, state = (Sa1bDataset(tmp_path, streaming=each).fingerprint for each in (False, True))
    assert Sa1bDataset(tmp_path, limit=2).fingerprint != content
    assert Sa1bDataset(tmp_path, limit=2, streaming=True).fingerprint != state
    os.utime(tmp_path / "sa_3.json", ns=(1, 1))
    assert Sa1bDataset(tmp_path).fingerprint == content
    assert Sa1bDataset(tmp_path, streaming=True).fingerprint != state
    (tmp_path / "sa_3.json").write_text("{}")
    assert Sa1bDataset(tmp_path).fingerprint != content


def test_a_folder_is_indexed_in_a_few_bytes_an_image(tmp_path, monkeypatch):
    """The list of files of a folder of all of SA-1B would not fit into memory."""
    n_images = 20_000
    put(tmp_path, 0, toy(0))
    dataset = Sa1bDataset(tmp_path, streaming=True)
    names = (f"sa_{n}.{suffix}" for n in range(n_images) for suffix in ("jpg", "json"))
    monkeypatch.setattr(sa1b, "_scan", lambda _: ((name, None) for name in names))
    tracemalloc.start()
    try:
        assert len(next(dataset.shards(2)).readers) == 2
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 150 * n_images
