"""Wrong input of each format: one line each, and the rest is used."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from written_scenes import SIZE_HW, WRITERS, object_map, save_palette

from benchmarks.datasets.dataset import Sample, UnreadableImage
from benchmarks.datasets.formats.detection import Source, open_source
from benchmarks.datasets.formats.inspection import inspect
from benchmarks.datasets.formats.mask_files import MasksDataset
from benchmarks.datasets.formats.voc import VocDataset
from benchmarks.datasets.formats.yolo import _to_pixels
from benchmarks.datasets.masks import decode_mask
from mobilesam.errors import DataError, UsageError

Damage = Callable[[Path], object]


def save(name: str, pixels: np.ndarray) -> Damage:
    return lambda root: Image.fromarray(pixels).save(root / name)


def replaced(name: str, old: str, new: str) -> Damage:
    def damage(root: Path) -> None:
        text = (root / name).read_text()
        assert old in text
        (root / name).write_text(text.replace(old, new, 1))

    return damage


def shape(number: int, **fields: object) -> Damage:
    def damage(root: Path) -> None:
        document = json.loads((root / "a.json").read_text())
        document["shapes"][number] |= fields
        (root / "a.json").write_text(json.dumps(document))

    return damage


def orphan(name: str, copied: str) -> Damage:
    return lambda root: (root / name).write_bytes((root / copied).read_bytes())


def adaptive_palette(root: Path) -> None:
    image = Image.new("P", SIZE_HW[::-1], 1)
    image.putpalette([255, 255, 255, 9, 9, 9])
    image.save(root / "masks/a.png")


ids = np.arange(SIZE_HW[0] * SIZE_HW[1]).reshape(SIZE_HW)
gradient = (ids % 256).astype(np.uint8)
many = np.stack([ids % 256, ids // 256, ids * 0], axis=-1).astype(np.uint8)
wrong_size = np.ones((30, 40), np.uint8)
label = "labels/val/a.txt"

CASES: dict[str, tuple[str, Damage, str]] = {
    "missing mask": ("id-masks", lambda p: (p / "masks/a.png").unlink(), "its mask is missing"),
    "mask without image": ("id-masks", lambda p: (p / "images/a.png").unlink(), "has no image"),
    "two sizes": ("id-masks", save("masks/a.png", wrong_size), "are for 40x30 px"),
    "16-bit mask": (
        "id-masks",
        save("masks/a.png", ids.astype(np.uint16)),
        "a.png has 16 bits a pixel; save it with 8, or give --ids-16-bit",
    ),
    "palette without black": ("id-masks", adaptive_palette, "palette image whose colour 0 is not"),
    "ids above 255": ("id-masks", save("masks/a.png", many), "4,799 different values"),
    "soft edges": ("id-masks", save("masks/a.png", gradient), "soft edges, or undecided pixels"),
    "empty mask": (
        "id-masks",
        save("masks/a.png", gradient * 0),
        "1 of 1 in a.png have a mask without a pixel",
    ),
    "cut-off mask": ("id-masks", lambda p: (p / "masks/a.png").write_bytes(b"\x89PNG"), "a.png is"),
    "one object of two sizes": (
        "object-files",
        save("a/masks/object-1.png", wrong_size),
        "object-1.png: the mask is 40x30 px, and its image 80x60 px",
    ),
    "empty label file": ("yolo", lambda p: (p / label).write_text("\n"), "a.txt has no object"),
    "missing label file": ("yolo", lambda p: (p / label).unlink(), "a.txt is missing"),
    "label without image": (
        "yolo",
        orphan("labels/val/x.txt", label),
        "the label file has no image",
    ),
    "class without name": ("yolo", replaced(label, "\n1 ", "\n7 "), "line 2: class 7 has no name"),
    "polygon outside": (
        "yolo",
        replaced(label, "\n1 0.", "\n1 1."),
        "line 2: polygon 0 lies outside",
    ),
    "pixels in a label": (
        "yolo",
        replaced(label, "\n1 0.", "\n1 320."),
        "coordinates above 1, in pix",
    ),
    "box in a label": ("yolo", replaced(label, "\n1 ", "\n1 .5 .5 .1 .1\n1 "), "line 2: a box"),
    "odd coordinates": ("yolo", replaced(label, "\n1 ", "\n1 .5 "), "line 2: 9 coordinates"),
    "words in a label": ("yolo", replaced(label, "\n1 ", "\ncat "), "line 2: not all of it are"),
    "unlabelled shape": ("labelme", shape(0, label=""), "shape 0: has no label"),
    "point": ("labelme", shape(0, shape_type="point", points=[[1, 1]]), "point has no area"),
    "shape outside": ("labelme", shape(0, points=[[1, 1], [9, 9], [99, 1]]), "x 99, but the image"),
    "missing JSON": ("labelme", lambda p: (p / "a.json").unlink(), "a.json is missing"),
    "missing image": ("labelme", lambda p: (p / "a.png").unlink(), "a.json has no image"),
    "two sizes in LabelMe": (
        "labelme",
        replaced("a.json", '"imageWidth": 80', '"imageWidth": 90'),
        "are for 90x60 px",
    ),
    "other JSON": ("labelme", lambda p: (p / "a.json").write_text("{}"), "is this a file of Lab"),
    "missing VOC mask": (
        "voc",
        lambda p: (p / "SegmentationObject/a.png").unlink(),
        "its mask in SegmentationObject is missing",
    ),
    "class without a name": (
        "voc",
        lambda p: save_palette(
            p / "SegmentationClass/a.png", (object_map([]) + 99).astype(np.uint8)
        ),
        "its class 99 has no name",
    ),
    "VOC mask of two sizes": (
        "voc",
        lambda p: save_palette(p / "SegmentationObject/a.png", wrong_size),
        "are for 40x30 px",
    ),
    "COCO polygon outside": (
        "coco",
        replaced(
            "annotations/instances_default.json",
            "[[4.1, 5.3, 30.5, 6.7, 27.9, 28.33, 8.1, 25.5]]",
            "[[104.1, 5.3, 130.5, 6.7, 127.9, 28.33, 108.1, 25.5]]",
        ),
        "all polygons lie outside of the image of 80x60 px",
    ),
}


@pytest.mark.parametrize(("layout", "damage", "message"), CASES.values(), ids=CASES)
def test_wrong_input_is_one_line_and_the_rest_is_used(
    layout: str, damage: Damage, message: str, tmp_path: Path
) -> None:
    kind, write = WRITERS[layout]
    write(tmp_path / "data")
    images = tmp_path / "data" / "images" if kind == "coco" else None
    path = tmp_path / "data"
    if kind == "coco":
        path = path / "annotations/instances_default.json"
    damage(tmp_path / "data")
    dataset = open_source(Source(kind, path, images))
    found = inspect(dataset)
    (line,) = found.problems
    assert message in line
    assert "\n" not in line
    good = [sample for sample in dataset.samples() if isinstance(sample, Sample)]
    assert {Path(sample.name).name[0] for sample in good} >= {"b", "c"}
    assert found.n_objects >= 3


def test_a_box_only_voc_file_and_one_without_a_name(tmp_path: Path) -> None:
    for stem, inner in {
        "a": "<name>cat</name><bndbox><xmin>1</xmin></bndbox>",
        "b": "<polygon><x1>3</x1><y1>3</y1><x2>9</x2><y2>3</y2><x3>9</x3><y3>9</y3></polygon>",
        "c": "<name>cat</name><polygon><x1>3</x1><y1>?</y1></polygon>",
        "d": "<name>cat</name>"
        "<polygon><x1>3</x1><y1>3</y1><x2>9</x2><y2>3</y2><x3>9</x3><y3>9</y3></polygon>",
    }.items():
        Image.new("RGB", (20, 10)).save(tmp_path / f"{stem}.jpg")
        text = f"<annotation><object>{inner}</object></annotation>"
        (tmp_path / f"{stem}.xml").write_text(text)
    Image.new("RGB", (20, 10)).save(tmp_path / "e.jpg")
    (tmp_path / "e.xml").write_text("<annotation>")
    found = inspect(open_source(Source("voc", tmp_path)))
    assert (found.n_images, found.n_unusable, found.n_objects) == (5, 4, 1)
    for line, message in zip(
        found.problems,
        (
            "has a box but no polygon",
            "has no name, its class",
            "no number y1: '?'",
            "not valid XML",
        ),
        strict=True,
    ):
        assert message in line


def test_ignored_pixels_are_kept_with_the_instance(tmp_path: Path) -> None:
    """As GrabCut: 255 is the object, 128 the undecided band."""
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    Image.new("RGB", (20, 10)).save(tmp_path / "images" / "a.jpg")
    pixels = np.zeros((10, 20), np.uint8)
    pixels[2:6, 3:9], pixels[6, 3:9] = 255, 128
    Image.fromarray(pixels).save(tmp_path / "masks" / "a.bmp")
    (refused,) = MasksDataset(tmp_path).samples()
    assert isinstance(refused, UnreadableImage)
    assert "--ignore" in refused.reason
    (sample,) = MasksDataset(tmp_path, ignore=128).samples()
    assert isinstance(sample, Sample)
    (instance,) = sample.instances
    assert instance.area_px == 24
    assert instance.ignored is not None
    assert instance.box.tolist() == [3, 2, 9, 6]
    pair = MasksDataset(tmp_path / "images", masks=tmp_path / "masks", ignore=128)
    assert pair.n_images == 1
    with pytest.raises(UsageError, match="1 to 255; got 300"):
        MasksDataset(tmp_path, ignore=300)


def test_ids_of_16_bits_are_read_if_asked_for(tmp_path: Path) -> None:
    WRITERS["id-masks"][1](tmp_path)
    labels = np.zeros(SIZE_HW, np.uint16)
    labels[:10], labels[20:30] = 300, 65535
    Image.fromarray(labels).save(tmp_path / "masks" / "a.png")
    sample = next(iter(MasksDataset(tmp_path, ids_16_bit=True).samples()))
    assert isinstance(sample, Sample)
    assert [each.area_px for each in sample.instances] == [800, 800]


def test_two_files_of_one_name_are_one_error(tmp_path: Path) -> None:
    for kind, layout, folder in (
        ("masks", "id-masks", "images"),
        ("masks", "id-masks", "masks"),
        ("labelme", "labelme", "."),
        ("voc", "voc", "JPEGImages"),
    ):
        root = tmp_path / f"{layout}-{folder}"
        WRITERS[layout][1](root)
        orphan(f"{folder}/a.bmp", f"{folder}/a.png")(root)
        with pytest.raises(DataError, match=r"a.bmp and .*a.png have the same name"):
            open_source(Source(kind, root))


def test_masks_beside_their_images(tmp_path: Path) -> None:
    for stem in ("a", "a_1"):
        Image.new("RGB", (20, 10)).save(tmp_path / f"{stem}.jpg")
        Image.new("1", (20, 10), 1).save(tmp_path / f"{stem}_mask.png")
    dataset = MasksDataset(tmp_path)
    assert [sample.name for sample in dataset.samples()] == ["a.jpg", "a_1.jpg"]
    assert all(len(sample.instances) == 1 for sample in dataset.samples())


def test_numbers_as_names_are_the_ids_and_the_order(tmp_path: Path) -> None:
    (tmp_path / "labels").mkdir()
    for number in (9, 10, 101):
        (tmp_path / "images").mkdir(exist_ok=True)
        Image.new("RGB", (20, 10)).save(tmp_path / "images" / f"{number}.jpg")
        (tmp_path / "labels" / f"{number}.txt").write_text("0 .1 .1 .9 .1 .9 .9\n")
    dataset = open_source(Source("yolo-seg", tmp_path))
    assert [sample.image_id for sample in dataset.samples()] == [9, 10, 101]
    assert "called by their number" in dataset.notes[0]


@pytest.mark.parametrize("kind", ["rectangle", "circle", "mask", "embedded"])
def test_other_shapes_of_labelme(kind: str, tmp_path: Path) -> None:
    """Rectangle and circle as labelme2coco converts them; a mask is a cropped PNG in base64."""

    def png(pixels: np.ndarray) -> str:
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        return base64.b64encode(buffer.getvalue()).decode()

    expected = np.zeros(SIZE_HW, bool)
    expected[10:20, 5:25] = True
    found = {"label": "cat", "shape_type": "rectangle", "points": [[25, 10], [5, 20]]}
    data = None
    if kind == "circle":
        found |= {"shape_type": kind, "points": [[40, 30], [40, 50]]}
        ys, xs = np.mgrid[: SIZE_HW[0], : SIZE_HW[1]]
        expected = (xs - 39.5) ** 2 + (ys - 29.5) ** 2 < 20**2
    elif kind == "mask":
        found |= {"shape_type": kind, "points": [[5, 10], [24, 19]]}
        found["mask"] = png(np.ones((10, 20), bool))
    elif kind == "embedded":
        data = png(np.zeros((*SIZE_HW, 3), np.uint8))
    if data is None:
        Image.new("RGB", SIZE_HW[::-1]).save(tmp_path / "a.png")
    document = {"shapes": [found], "imagePath": "..\\a.png", "imageData": data}
    (tmp_path / "a.json").write_text(json.dumps(document))
    (sample,) = open_source(Source("labelme", tmp_path)).samples()
    assert isinstance(sample, Sample), sample
    mask = sample.instances[0].mask()
    if kind == "circle":
        assert (mask & expected).sum() / (mask | expected).sum() > 0.95
    else:
        assert np.array_equal(mask, expected)


@pytest.mark.parametrize("written", ["{:.7f}", "{:.7g}", "{!r}"])
def test_digits_of_a_label_give_back_the_polygon(written: str) -> None:
    """Corners on halves and tenths of a pixel lie where pycocotools rounds up or down."""
    generator = np.random.default_rng(0)
    for steps in (1, 2, 10, 100):
        for _ in range(20):
            width, height = generator.integers(100, 2000, 2).tolist()
            corners = generator.integers(0, 100 * steps, (8, 2)) / steps
            shares = (corners / [width, height]).ravel()
            values = [Decimal(written.format(value)) for value in shares.tolist()]
            assert _to_pixels(values, height, width) == corners.ravel().tolist()


def test_void_pixels_and_lists_of_voc(tmp_path: Path) -> None:
    WRITERS["voc"][1](tmp_path)
    names = tmp_path / "ImageSets" / "Segmentation" / "one.txt"
    names.write_text("b\n")
    dataset = VocDataset(names, ignore=255)
    (sample,) = dataset.samples()
    assert isinstance(sample, Sample)
    ignored = sample.instances[0].ignored
    assert ignored is not None
    assert decode_mask(ignored)[0].all()
    assert decode_mask(ignored).sum() == SIZE_HW[1]
    assert "--ignore 255" in VocDataset(tmp_path).notes[0]


def test_classes_of_a_coco_file_without_a_name_are_a_problem(tmp_path: Path) -> None:
    WRITERS["coco"][1](tmp_path)
    path = tmp_path / "annotations/instances_default.json"
    document = json.loads(path.read_text())
    document["annotations"][0]["category_id"] = 9
    path.write_text(json.dumps(document))
    (problem,) = inspect(open_source(Source("coco", path, tmp_path / "images"))).problems
    assert "1 of 6 annotations are of no category that the file names" in problem
