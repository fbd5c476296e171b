"""Pascal VOC: XML files with polygons, or masks in `SegmentationObject`; also exports of CVAT."""

from __future__ import annotations

# Expat 2.4 and later limits the expansion of entities itself.
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from baselines.interface import BoolArray, UInt8Array
from benchmarks.datasets import MAX_PIXELS
from benchmarks.datasets.formats.folder import (
    IMAGE_SUFFIXES,
    AnnotationParser,
    Entry,
    FolderDataset,
    FoundObject,
    ImageLoader,
    by_key,
    find_files,
)
from benchmarks.datasets.formats.label_maps import colour_numbers, read_label_map
from benchmarks.datasets.masks import Rle, encode_mask
from benchmarks.datasets.parsing import read_file
from mobilesam.errors import DataError

OBJECTS, CLASSES = "SegmentationObject", "SegmentationClass"
_MASK_SUFFIXES = (".png", ".bmp", ".tif", ".tiff")
_VOID = 255
_CLASSES = dict(
    enumerate(
        "aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike "
        "person pottedplant sheep sofa train tvmonitor".split(),
        1,
    )
)


@dataclass(frozen=True, slots=True)
class _Masks:
    """Mask files of one image, and the names of the classes by number."""

    max_pixels: int
    classes: Mapping[int, str]
    ignore: int | None


class VocDataset(FolderDataset):
    """A folder with `SegmentationObject` masks, or with an XML file an image.

    With masks, each number other than 0 and 255 (void) is an object; its class is the most frequent
    number at its pixels in `SegmentationClass`, named by `labelmap.txt` if there is one (CVAT),
    else by VOC's 20 classes; without `SegmentationClass`, the objects are those of the XML file in
    their order. Void pixels are background, and undecided with `ignore` 255. Without masks, the
    `polygon` elements of the XML are used, whose coordinates begin at 1, as VOC's boxes do. The
    root may also be a list in `ImageSets/Segmentation`, whose images are then used.
    """

    format_name = "voc"

    def __init__(
        self,
        root: Path,
        limit: int | None = None,
        max_pixels: int = MAX_PIXELS,
        ignore: int | None = None,
    ) -> None:
        self._list = root.absolute() if root.is_file() and root.suffix == ".txt" else None
        if self._list is not None:
            if len(self._list.parents) < 3 or self._list.parents[1].name != "ImageSets":
                raise DataError(f"{root} is not in ImageSets/Segmentation of a VOC folder")
            root = self._list.parents[2]
        elif root.is_file():
            root = root.absolute().parent
        inner = sorted({path.parent for path in root.glob("**/" + OBJECTS)})
        if len(inner) > 1:
            names = ", ".join(str(path) for path in inner[:4])
            raise DataError(f"{root} contains several VOC folders; name one: {names}")
        self._has_masks = len(inner) == 1
        self._ignore = ignore
        super().__init__(inner[0] if inner else root, limit, max_pixels)
        if self._has_masks and ignore is None:
            self.notes += ("void pixels (255) count as background; --ignore 255 leaves them out",)

    @property
    def settings(self) -> str:
        """Classes and ignored value."""
        return f"{sorted(self._classes().items())} {self._ignore}"

    def _classes(self) -> Mapping[int, str]:
        path = self.root / "labelmap.txt"
        return _label_map_classes(path) if path.is_file() else _CLASSES

    def parser(self) -> AnnotationParser:
        """Returns the function that reads masks or an XML file."""
        if self._has_masks:
            return partial(_parse_masks, _Masks(self.max_pixels, self._classes(), self._ignore))
        return _parse_xml

    def locate(self) -> Iterable[Entry]:
        """Finds images, masks and XML files by their names."""
        folder = self.root / "JPEGImages"
        images = by_key(
            (path.stem, path)
            for path in find_files(folder if folder.is_dir() else self.root, IMAGE_SUFFIXES)
            if path.parent.name not in (OBJECTS, CLASSES)
        )
        xml = by_key((path.stem, path) for path in find_files(self.root, (".xml",)))
        files, what = xml, "its XML file"
        stems = images.keys() | xml.keys()
        if self._has_masks:
            masks = find_files(self.root / OBJECTS, _MASK_SUFFIXES)
            files, what = by_key((path.stem, path) for path in masks), f"its mask in {OBJECTS}"
            stems = self._listed() or images.keys() | files.keys()
        elif self._list is not None:
            stems = self._listed()
        for stem in stems:
            image, found = images.get(stem), files.get(stem)
            name = self.relative(image or found or self.root / stem)
            if image is None:
                yield Entry(name, None, (), "there is no image of the same name")
            elif found is None:
                yield Entry(name, image, (), f"{what} is missing")
            else:
                classes = self.root / CLASSES / found.name
                maps = [each for each in (classes, xml.get(stem)) if each and each.is_file()]
                yield Entry(name, image, (found, *maps) if self._has_masks else (found,))

    def _listed(self) -> set[str]:
        """Names in the given list, else in all lists of segmented images; empty without lists."""
        lists = [self._list] if self._list else (self.root / "ImageSets/Segmentation").glob("*.txt")
        lines = (line for path in lists for line in read_file(path).decode().splitlines())
        return {Path(line.split()[0]).stem if "/" in line else line.split()[0]
                for line in lines if line.strip()}  # fmt: skip


def _label_map_classes(path: Path) -> Mapping[int, str]:
    """Classes by the number of their colour, from lines `name:r,g,b:parts:actions`."""
    classes = {}
    for line in read_file(path).decode(errors="replace").splitlines():
        name, _, rest = line.partition(":")
        colour = rest.partition(":")[0].split(",")
        if line.startswith("#") or len(colour) != 3 or not all(c.strip().isdigit() for c in colour):
            continue
        classes[int(colour_numbers(np.array(list(map(int, colour)))))] = name.strip()
    return classes


def _parse_masks(
    masks: _Masks, entry: Entry, load: ImageLoader
) -> tuple[UInt8Array, list[FoundObject]]:
    path, *others = entry.files
    labels = read_label_map(path, path.name, masks.max_pixels)
    image = load(entry.image, (labels.shape[0], labels.shape[1]))
    values = [int(value) for value in np.unique(labels) if value not in (0, _VOID)]
    ignored = None if masks.ignore is None else _where(labels == masks.ignore)
    classes = next((each for each in others if each.suffix != ".xml"), None)
    names: list[str] = []
    class_map = None
    if classes is not None:
        class_map = read_label_map(classes, f"{CLASSES}/{classes.name}", masks.max_pixels)
        if class_map.shape != labels.shape:
            raise DataError(f"{CLASSES}/{classes.name} and {OBJECTS}/{path.name} differ in size")
    elif others:
        names = [(each.findtext("name") or "").strip() for each in _read_xml(others[0])[1]]
    objects = []
    for value in values:
        if value == masks.ignore:
            continue
        mask = labels == value
        category, problem = "", ""
        if class_map is not None:
            found, counts = np.unique(class_map[mask], return_counts=True)
            number = int(found[np.argmax(counts)])
            category = masks.classes.get(number, "")
            problem = "" if category else f"its class {number} has no name"
        elif others:
            category = names[value - 1] if value <= len(names) else ""
            problem = "" if category else f"object {value} has no name in {others[0].name}"
        where = f"{OBJECTS}/{path.name}: object {value}"
        objects.append(FoundObject(where, category, encode_mask(mask), ignored, problem))
    return image, objects


def _where(mask: BoolArray) -> Rle | None:
    return encode_mask(mask) if mask.any() else None


def _read_xml(path: Path) -> tuple[ET.Element, list[ET.Element]]:
    try:
        root = ET.fromstring(read_file(path))  # noqa: S314 - see the import
    except (ET.ParseError, ValueError) as error:
        raise DataError(f"{path.name} is not valid XML: {error}") from error
    if root.tag != "annotation":
        raise DataError(f"{path.name} begins with <{root.tag}>; is this a file of Pascal VOC?")
    return root, root.findall("object")


def _parse_xml(entry: Entry, load: ImageLoader) -> tuple[UInt8Array, list[FoundObject]]:
    (path,) = entry.files
    root, elements = _read_xml(path)
    try:
        sides = [int(root.findtext(f"size/{side}") or 0) for side in ("height", "width")]
    except ValueError as error:
        raise DataError(f"{path.name}: its size is no whole number") from error
    image = load(entry.image, (sides[0], sides[1]) if min(sides) > 0 else None)
    objects = []
    for number, element in enumerate(elements, 1):
        where = f"{path.name}: object {number}"
        try:
            name = (element.findtext("name") or "").strip()
            if not name:
                raise DataError("has no name, its class")
            polygons = [_polygon(each) for each in element.findall("polygon")]
            if not polygons:
                raise DataError("has a box but no polygon; segmentation needs masks")
            objects.append(FoundObject(where, name, polygons))
        except DataError as error:
            objects.append(FoundObject(where, problem=str(error)))
    return image, objects


def _polygon(element: ET.Element) -> list[float]:
    """Coordinates x1, y1, x2, ... of a polygon, counted from 0."""
    values = {child.tag: child.text for child in element}
    found = []
    for number in range(1, len(values) // 2 + 1):
        for axis in "xy":
            text = values.get(f"{axis}{number}")
            try:
                found.append(float(text or "") - 1)
            except ValueError as error:
                raise DataError(f"its polygon has no number {axis}{number}: {text!r}") from error
    return found
