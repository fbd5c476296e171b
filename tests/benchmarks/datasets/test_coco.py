"""COCO annotation files: what is read, left out, reported and rejected."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.datasets.coco import CocoDataset
from benchmarks.datasets.dataset import Sample, UnreadableImage
from mobilesam.errors import DataError, UsageError

SHARED = Path(__file__).resolve().parents[4] / "shared" / "data" / "coco"


def annotation(number, image_id=1, **fields):
    return {
        "id": number,
        "image_id": image_id,
        "category_id": 7,
        "iscrowd": 0,
        "area": 16.5,
        "bbox": [2.25, 3.0, 4.5, 4.0],
        "segmentation": [[2, 3, 6, 3, 6, 7, 2, 7]],
    } | fields


def document(*annotations):
    return {
        "images": [
            {"id": 2, "file_name": "two.png", "height": 10, "width": 12},
            {"id": 1, "file_name": "one.png", "height": 10, "width": 12},
        ],
        "annotations": list(annotations) or [annotation(5), annotation(4), annotation(6, 2)],
        "categories": [{"id": 7, "name": "cat"}],
    }


@pytest.fixture
def opened(tmp_path):
    for name in ("one.png", "two.png"):
        Image.new("RGB", (12, 10), "red").save(tmp_path / name)

    def open_dataset(content, limit=None):
        path = tmp_path / "instances_toy.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return CocoDataset(tmp_path, path, limit)

    return open_dataset


def test_images_and_annotations_come_by_ascending_id(opened):
    dataset = opened(document())
    samples = list(dataset.samples())
    assert dataset.name == "coco:toy"
    assert [sample.image_id for sample in samples] == [1, 2]
    assert [item.annotation_id for item in samples[0].instances] == [4, 5]
    assert dataset.n_images == 2
    assert dataset.n_instances == 3
    item = samples[0].instances[0]
    assert item.category == "cat"
    assert item.area_px == 16.5
    assert item.box.dtype == np.float32
    assert item.box.tolist() == [2.25, 3.0, 6.75, 7.0]
    expected = np.zeros((10, 12), bool)
    expected[3:7, 2:6] = True
    assert np.array_equal(item.mask(), expected)


@pytest.mark.parametrize("bbox", [None, [2, 3, 0, 4], [2, 3, 4, -1], [5e8, 3, 0.5, 4]])
def test_a_box_without_extent_is_taken_from_the_mask(opened, bbox):
    (sample,) = opened(document(annotation(1, bbox=bbox))).samples()
    assert sample.instances[0].box.tolist() == [2, 3, 6, 7]


def test_boxes_are_not_clipped(opened):
    (sample,) = opened(document(annotation(1, bbox=[-3, -2, 40, 50]))).samples()
    assert sample.instances[0].box.tolist() == [-3, -2, 37, 48]


def test_left_out_annotations_are_counted(opened):
    dataset = opened(
        document(
            annotation(1),
            annotation(2, iscrowd=1, segmentation={"size": [10, 12], "counts": [120]}),
            annotation(3, segmentation=[]),
            annotation(4, segmentation=[[1, 1, 5, 5]]),
            annotation(5, segmentation={"size": [10, 11], "counts": [110]}),
            annotation(6, image_id=2, iscrowd=1),
        )
    )
    assert dataset.left_out == {"crowd": 2, "empty": 1, "malformed": 2}
    assert dataset.n_images == 1
    assert len(dataset.problems) == 2
    assert "instances_toy.json: annotation 4: polygon 0 has 2 points" in dataset.problems[0]
    assert "annotation 5" in dataset.problems[1]


def test_a_limit_takes_the_first_usable_images(opened):
    rows = [annotation(1, iscrowd=1), annotation(2, image_id=2)]
    assert [s.image_id for s in opened(document(*rows), limit=1).samples()] == [2]
    assert opened(document(), limit=1).left_out["crowd"] == 0
    with pytest.raises(UsageError, match="limit of 0"):
        opened(document(), limit=0)


def test_the_fingerprint_covers_annotations_and_limit(opened):
    prints = {
        opened(document()).fingerprint,
        opened(document(), limit=1).fingerprint,
        opened(document(annotation(1))).fingerprint,
    }
    assert len(prints) == 3
    assert opened(document()).fingerprint in prints


def test_unreadable_images_keep_their_place(opened, tmp_path):
    dataset = opened(document())
    (tmp_path / "one.png").write_bytes(b"")
    first, second = dataset.samples()
    assert isinstance(first, UnreadableImage)
    assert (first.image_id, first.name, first.n_instances) == (1, "one.png", 2)
    assert "empty" in first.reason
    assert isinstance(second, Sample)
    Image.new("RGB", (12, 11)).save(tmp_path / "two.png")
    (tmp_path / "one.png").unlink()
    reasons = [sample.reason for sample in dataset.samples()]
    assert "No such file" in reasons[0]
    assert "12x11" in reasons[1]
    assert "12x10" in reasons[1]


@pytest.mark.parametrize("name", ["/etc/one.png", "../one.png"])
def test_file_names_cannot_leave_the_folder(opened, name):
    content = document()
    content["images"][1]["file_name"] = name
    assert "leads out" in next(opened(content).samples()).reason


def changed(path, value):
    """A document with one value replaced, or removed if the value is None."""
    content = document()
    *parents, last = path
    at = content
    for key in parents:
        at = at[key]
    if value is None:
        del at[last]
    else:
        at[last] = value
    return content


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "instances_toy.json is not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ("[]", "top level: Input should be an object with named fields.*instances file"),
        (changed(["annotations"], {}), "annotations: Input should be a valid list"),
        (
            document(annotation(1, id="x"), annotation(2, bbox=[])),
            r"no usable annotation: 2 of 2 are malformed \(first: annotation number 0: id: ",
        ),
        (changed(["annotations"], []), "no usable annotation: there is none"),
        (
            document(*(annotation(n, segmentation=[]) for n in (1, 2))),
            r"no usable annotation: 2 of 2 have no mask: boxes only\?$",
        ),
        (
            document(*(annotation(n, iscrowd=1) for n in (1, 2, 3))),
            "no usable annotation: 3 of 3 are crowd regions$",
        ),
        (
            document(annotation(1, segmentation=[[0.1, 0.1, 0.9, 0.1, 0.9, 1, 0.1, 1]])),
            "1 of 1 have polygons between 0 and 1: normalised",
        ),
        (
            document(annotation(1, segmentation=[[3, 3, 3, 3, 3, 3]]), annotation(2, iscrowd=1)),
            "1 of 2 have a mask without a pixel, 1 of 2 are crowd regions$",
        ),
    ],
)
def test_an_unusable_file_is_rejected(opened, content, words):
    with pytest.raises(DataError, match=words) as caught:
        opened(content)
    assert "instances_toy.json" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("id", 4, "annotation number 0: annotation id 4 is given twice"),
        ("id", None, "annotation number 0: id: Field required"),
        ("id", True, "annotation number 0: id: .*; got True"),
        ("id", 2**63, "annotation number 0: id: "),
        ("segmentation", None, "annotation 5: segmentation: Field required"),
        ("segmentation", {"size": 3, "counts": "0"}, "annotation 5: the RLE has size 3"),
        (
            "segmentation",
            {"size": [10, 12], "counts": "\ud800"},
            "invalid character",
        ),
        ("segmentation", [[1, 1, 5, 5, 6, 10**400]], "annotation 5: .* far outside"),
        ("image_id", 9, "annotation 5 has image_id 9, which"),
        ("bbox", [0, float("nan"), 1, 1], "annotation 5: bbox.1: .* finite number; got nan"),
        ("bbox", [0, 10**400, 1, 1], "annotation 5: bbox.1: "),
        ("bbox", [0, 1, 1], r"annotation 5: bbox: .*; got \[0, 1, 1\]"),
        ("bbox", [12, 3, 4, 4], r"annotation 5: bbox \[12.0, .* outside of the image of 12x10 px"),
        ("bbox", [-9, 3, 9, 4], "annotation 5: bbox .* outside of the image"),
        ("area", float("inf"), "annotation 5: area: .*; got inf"),
        ("area", "1", "annotation 5: area: "),
        ("iscrowd", "no", "annotation 5: iscrowd"),
    ],
)
def test_a_malformed_annotation_of_coco_is_left_out_and_reported(opened, key, value, words):
    rows = [annotation(5), annotation(4), annotation(6, 2)]
    if value is None:
        del rows[0][key]
    else:
        rows[0][key] = value
    if (key, value) == ("id", 4):  # the first of the two stays
        rows[0], rows[1] = rows[1], rows[0]
        words = words.replace("number 0", "number 1")
    dataset = opened(document(*rows))
    assert dataset.left_out["malformed"] == 1
    (problem,) = dataset.problems
    assert re.search(words, problem), problem
    assert problem.startswith("instances_toy.json: annotation")
    assert "\n" not in problem
    samples = list(dataset.samples())
    assert [[i.annotation_id for i in sample.instances] for sample in samples] == [[4], [6]]


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("width", None, "image number 0: width: Field required"),
        ("width", 0, "image number 0: width: .*; got 0"),
        ("height", 2.5, "image number 0: height: .*; got 2.5"),
        ("file_name", 3, "image number 0: file_name"),
        ("file_name", "a\nb", r"file_name: .*; got 'a\\nb'"),
        ("file_name", "\ud800", "file_name: "),
        ("file_name", "", "file_name: "),
        ("height", 10**8, "has 12x100000000 px, more than 100,000,000"),
    ],
)
def test_a_malformed_image_is_unreadable_with_its_annotations(opened, key, value, words):
    dataset = opened(changed(["images", 0, key], value))
    good, bad = dataset.samples()
    assert isinstance(good, Sample)
    assert isinstance(bad, UnreadableImage)
    assert (bad.image_id, bad.n_instances) == (2, 1)
    assert re.search(words, bad.reason), bad.reason
    assert "\n" not in bad.reason
    assert dataset.n_images == 2
    assert dataset.left_out["malformed"] == 0


def test_images_that_share_an_id_are_one_unreadable_image(opened):
    """Their annotations are ambiguous."""
    content = document()
    content["images"].append(content["images"][1] | {"file_name": "three.png"})
    bad, good = opened(content).samples()
    assert (bad.image_id, bad.n_instances) == (1, 2)
    assert "image id 1 is given twice" in bad.reason
    assert good.image_id == 2


def test_all_malformed_annotations_are_counted_and_some_listed(opened):
    rows = [annotation(1), *(annotation(n, image_id=8) for n in range(2, 300))]
    dataset = opened(document(*rows))
    assert dataset.left_out["malformed"] == 298
    assert len(dataset.problems) == 100


@pytest.mark.parametrize(
    ("content", "n_none"),
    [
        (document(), 0),
        (document(annotation(5, category_id=7.0), annotation(6, 2)), 0),
        (document(annotation(5, category_id="7"), annotation(6, 2)), 1),
        (document(annotation(5, category_id=None), annotation(6, 2)), 1),
        (document(annotation(5, category_id=9), annotation(6, 2)), 1),
        (document(annotation(5, category_id=True), annotation(6, 2)), 1),
        (changed(["categories"], None), 3),
        (document() | {"categories": None}, 3),
        (changed(["categories", 0], 3), 3),
        (changed(["categories", 0, "name"], None), 3),
        (document() | {"categories": document()["categories"] * 2}, 0),
        (document() | {"categories": [{"id": 7, "name": "cat"}, {"id": 7, "name": "dog"}]}, 3),
    ],
)
def test_annotations_without_a_category_are_used(opened, content, n_none):
    dataset = opened(content)
    assert dataset.n_instances == len(content["annotations"])
    assert dataset.left_out == {"crowd": 0, "empty": 0, "malformed": 0}
    instances = [each for sample in dataset.samples() for each in sample.instances]
    assert sum(not each.category for each in instances) == n_none
    assert {each.category for each in instances} <= {"", "cat"}
    if n_none == 0:
        assert dataset.notes == ()
    else:
        (note,) = dataset.notes
        assert note.startswith(f"{n_none} of {len(instances)} annotations are of no category")


def test_whole_numbers_may_be_floats(opened):
    content = document(annotation(5.0, 1.0, iscrowd=0.0, category_id=7.0), annotation(6, 2))
    content["images"][1] |= {"id": 1.0, "width": 12.0, "height": 10.0}
    content["annotations"][1]["segmentation"] = {"size": [10, 12], "counts": [12.0, 108.0]}
    dataset = opened(content)
    samples = list(dataset.samples())
    assert [sample.image_id for sample in samples] == [1, 2]
    assert [sample.instances[0].annotation_id for sample in samples] == [5, 6]
    assert all(type(sample.image_id) is int for sample in samples)
    assert samples[1].instances[0].mask().sum() == 108
    assert dataset.notes == ()


@pytest.mark.parametrize("value", [1.5, float("nan"), float("inf"), "1", True])
def test_ids_must_be_whole_numbers(opened, value):
    dataset = opened(document(annotation(5), annotation(value)))
    assert dataset.left_out["malformed"] == 1
    assert dataset.n_instances == 1


@pytest.mark.parametrize("folder", ["", "val2017"])
def test_images_of_lvis_are_found_by_url(opened, tmp_path, folder):
    """LVIS v1 has `coco_url` and no `file_name`; the folder of the URL may be there or not."""
    content = document()
    for image, name in zip(content["images"], ("two", "one"), strict=True):
        del image["file_name"]
        image["coco_url"] = f"http://images.cocodataset.org/val2017/{name}.png"
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / f"{name}.png").rename(tmp_path / folder / f"{name}.png") if folder else None
    dataset = opened(content)
    (path,) = tmp_path.rglob("one.png") if not folder else (tmp_path / folder).glob("one.png")
    samples = list(dataset.samples())
    assert path.is_file()
    assert [type(sample) for sample in samples] == [Sample, Sample]
    assert [sample.name for sample in samples] == ["val2017/one.png", "val2017/two.png"]


@pytest.mark.parametrize(
    "url", [None, 3, "", "http://images.org", "http://images.org/", "http://x.org/a%0ab"]
)
def test_an_image_without_a_name_is_unreadable(opened, url):
    content = document()
    del content["images"][1]["file_name"]
    content["images"][1]["coco_url"] = url
    bad, good = opened(content).samples()
    assert bad.reason == "image number 1: file_name: Field required; correct or remove it"
    assert isinstance(good, Sample)


def test_urls_cannot_leave_the_folder(opened):
    content = document()
    del content["images"][1]["file_name"]
    content["images"][1]["coco_url"] = "http://x.org/%2e%2e/one.png"
    bad, _ = opened(content).samples()
    assert "leads out of the image folder" in bad.reason


def test_boxes_that_look_like_corners_give_a_hint(opened):
    corners = [annotation(n, bbox=[6, 5, 11, 9]) for n in (1, 2)]
    (note,) = opened(document(*corners, annotation(3), annotation(4, 2))).notes
    assert note.startswith("2 of 4 boxes end beyond their image")
    assert "[x0, y0, x1, y1]?" in note
    assert opened(document(corners[0], *(annotation(n) for n in range(2, 8)))).notes == ()


def test_normalised_polygons_give_a_hint(opened):
    dataset = opened(document(annotation(1, segmentation=[[0, 0, 1, 0, 1, 1]]), annotation(2)))
    assert dataset.left_out["empty"] == 1
    (note,) = dataset.notes
    assert note.startswith("1 annotations have polygons between 0 and 1: normalised?")


def test_messages_name_no_class_and_the_file_once(opened):
    content = document()
    content["images"][0]["width"] = "x"
    content["images"].append(3)
    content["annotations"].append(4)
    dataset = opened(content)
    lines = [
        *dataset.problems,
        *(s.reason for s in dataset.samples() if isinstance(s, UnreadableImage)),
    ]
    assert len(lines) == 3
    for line in lines:
        assert not re.search(r"\b_[A-Z]|instance of", line)
        assert line.count("instances_toy.json") <= 1
    assert lines[-1].startswith("image number 0: width: ")  # the sample itself names the file


def test_backslashes_in_a_name_are_reported(opened):
    content = document()
    content["images"][1]["file_name"] = "val\\one.png"
    bad, _ = opened(content).samples()
    assert "the name has backslashes" in bad.reason


def test_missing_folder_and_file(tmp_path):
    with pytest.raises(DataError, match="is not a folder"):
        CocoDataset(tmp_path / "none", tmp_path / "a.json")
    with pytest.raises(DataError, match=r"cannot read .*a\.json: No such file"):
        CocoDataset(tmp_path, tmp_path / "a.json")


@pytest.mark.shared
@pytest.mark.parametrize(
    ("split", "n_images", "n_instances", "n_crowd"),
    [("val2017_dev", 100, 929, 12), ("train2017_dev", 150, 1257, 8)],
)
def test_real_coco(split, n_images, n_instances, n_crowd):
    if not SHARED.is_dir():
        pytest.skip(f"{SHARED} is not here")
    dataset = CocoDataset(SHARED / "images" / split, SHARED / f"instances_{split}.json")
    assert (dataset.n_images, dataset.n_instances) == (n_images, n_instances)
    assert dataset.left_out == {"crowd": n_crowd, "empty": 0, "malformed": 0}
    for _, sample in zip(range(5), dataset.samples(), strict=False):
        assert isinstance(sample, Sample)
        for item in sample.instances:
            assert item.mask().shape == sample.image.shape[:2]
            assert item.mask().any()
