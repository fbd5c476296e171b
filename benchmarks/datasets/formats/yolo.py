"""YOLO segmentation labels: a text file an image, a polygon a line, in shares of the image."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal, InvalidOperation
from functools import partial
from pathlib import Path

import numpy as np
import yaml

from baselines.interface import UInt8Array
from benchmarks.datasets import MAX_PIXELS
from benchmarks.datasets.formats.folder import (
    IMAGE_SUFFIXES,
    AnnotationParser,
    Entry,
    FolderDataset,
    FoundObject,
    ImageLoader,
    find_files,
)
from benchmarks.datasets.parsing import read_file
from mobilesam.errors import DataError

LABEL_FOLDERS = ("labels", "annotations")
_IMAGE_FOLDER = "images"
_SPLITS = {"train", "val", "valid", "test", "train2017", "val2017"}
# Grids on which polygons usually lie: whole pixels, halves, tenths, hundredths.
_STEPS_PER_PIXEL = (1, 2, 10, 100)


class YoloSegDataset(FolderDataset):
    """Images with `labels/NAME.txt`, and the names of the classes in `data.yaml` or `classes.txt`.

    The label file of an image has the same path with `labels` instead of `images`, or lies beside
    it. The root is a folder, or the YAML file in it; the file of names may be up to three folders
    above. A polygon is rasterised as in a COCO file: shares of the image are converted to the
    coarsest grid of 1, 1/2, 1/10 or 1/100 px on which all corners lie within the digits given,
    since pycocotools rounds corners to fifths of a pixel.
    """

    format_name = "yolo-seg"

    def __init__(self, root: Path, limit: int | None = None, max_pixels: int = MAX_PIXELS) -> None:
        folder = root.absolute() if root.is_dir() else root.absolute().parent
        self._names_file, self._names = find_names(root.absolute())
        super().__init__(folder, limit, max_pixels)
        if self._names_file is None:
            self.notes += ("no data.yaml or classes.txt: classes are called by their number",)
        splits = {part for e in self._entries for part in Path(e.name).parts[:-1]} & _SPLITS
        if len(splits) > 1:
            self.notes += (
                f"all of {', '.join(sorted(splits))} are used; name one of their folders with "
                "--root for one split",
            )

    @property
    def settings(self) -> str:
        """The names of the classes."""
        return repr(sorted(self._names.items()))

    def parser(self) -> AnnotationParser:
        """Returns the function that reads a label file."""
        return partial(_parse, self._names if self._names_file is not None else None)

    def locate(self) -> Iterable[Entry]:
        """Finds all images and label files."""
        labels = {
            path
            for path in find_files(self.root, (".txt",))
            if any(part in LABEL_FOLDERS for part in path.parts[len(self.root.parts) - 1 : -1])
        }
        for image in find_files(self.root, IMAGE_SUFFIXES):
            found = next((path for path in _label_paths(image) if path.is_file()), None)
            labels.discard(found or image)
            name = self.relative(image)
            if found is None:
                yield Entry(name, image, (), f"{image.stem}.txt is missing: no label file")
            else:
                yield Entry(name, image, (found,))
        for path in labels:
            name = self.relative(path)
            yield Entry(name, None, (), "the label file has no image of the same name")


def find_names(root: Path) -> tuple[Path | None, Mapping[int, str]]:
    """Names of the classes by number, and the file that has them; None and {} without one."""
    folders = [root, *root.parents[:3]] if root.is_dir() else []
    candidates = [root] if root.is_file() else []
    for folder in folders:
        candidates += [*sorted(folder.glob("*.yaml")), *sorted(folder.glob("*.yml"))]
        candidates += [folder / "classes.txt"]
    for path in candidates:
        if not path.is_file():
            continue
        text = read_file(path).decode(errors="replace")
        if path.suffix == ".txt":
            lines = text.splitlines()
            return path, {i: line.strip() for i, line in enumerate(lines) if line.strip()}
        try:
            content = yaml.safe_load(text)
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            reason = " ".join(str(error).split())
            raise DataError(f"{path.name} is not valid YAML: {reason}") from error
        names = content.get("names") if isinstance(content, dict) else None
        if isinstance(names, list):
            names = dict(enumerate(names))
        if isinstance(names, dict):
            known = {key: str(name) for key, name in names.items() if isinstance(key, int)}
            return path, {key: name for key, name in known.items() if name.strip()}
        if path == root:
            raise DataError(f"{path.name} has no `names`, the list of classes of a YOLO dataset")
    return None, {}


def _label_paths(image: Path) -> Iterator[Path]:
    parts = list(image.parent.parts)
    for index in reversed(range(len(parts))):
        if parts[index] == _IMAGE_FOLDER:
            for folder in LABEL_FOLDERS:
                other = Path(*parts[:index], folder, *parts[index + 1 :])
                yield other / f"{image.stem}.txt"
            break
    yield image.with_suffix(".txt")


def _parse(
    names: Mapping[int, str] | None, entry: Entry, load: ImageLoader
) -> tuple[UInt8Array, list[FoundObject]]:
    (path,) = entry.files
    image = load(entry.image, None)
    lines = read_file(path).decode(errors="replace").splitlines()
    objects = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{path.name}: line {number}"
        try:
            class_id, values = _numbers(line)
            if names is not None and class_id not in names:
                raise DataError(f"class {class_id} has no name among the {len(names)} classes")
            polygon = _to_pixels(values, image.shape[0], image.shape[1])
            category = str(class_id) if names is None else names[class_id]
            objects.append(FoundObject(where, category, [polygon]))
        except DataError as error:
            objects.append(FoundObject(where, problem=str(error)))
    return image, objects


def _numbers(line: str) -> tuple[int, list[Decimal]]:
    """Class and coordinates of a line, the latter with all their digits."""
    try:
        first, *values = map(Decimal, line.split())
    except InvalidOperation as error:
        raise DataError("not all of it are numbers") from error
    if not all(each.is_finite() for each in (first, *values)):
        raise DataError("not all numbers are finite")
    if first != first.to_integral_value() or first < 0 or first >= 2**31:
        raise DataError(f"{first} is not the number of a class")
    if len(values) == 4:
        raise DataError("a box (4 numbers), not a polygon; segmentation labels are needed")
    if len(values) < 6 or len(values) % 2:
        raise DataError(f"{len(values)} coordinates; a polygon has an even number, at least 6")
    if any(abs(each) > 10 for each in values):
        raise DataError("coordinates above 1, in pixels? give x / width and y / height")
    return int(first), values


def _to_pixels(values: list[Decimal], height: int, width: int) -> list[float]:
    """Coordinates in pixels, on the coarsest usual grid that the digits allow."""
    lengths = np.resize(np.array([width, height], np.float64), len(values))
    pixels = np.array([float(each) for each in values]) * lengths
    # Writers give equally many decimals, or equally many digits, without zeros at the end.
    decimals = max(-int(each.as_tuple().exponent) for each in values)
    digits = max(len(each.as_tuple().digits) for each in values)
    places = [min(decimals, digits - 1 - each.adjusted()) if each else decimals for each in values]
    tolerance = (0.5 * 10.0 ** -np.array(places, np.float64) + 1e-12) * lengths
    for steps in _STEPS_PER_PIXEL:
        rounded = np.round(pixels * steps) / steps
        if tolerance.max() < 0.25 / steps and (np.abs(rounded - pixels) <= tolerance).all():
            return list(map(float, rounded))
    return list(map(float, pixels))
