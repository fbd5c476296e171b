"""Finds out which format a folder or file has, and opens it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from benchmarks.datasets import MAX_PIXELS
from benchmarks.datasets.coco import CocoDataset
from benchmarks.datasets.dataset import Dataset
from benchmarks.datasets.formats.folder import IMAGE_SUFFIXES, find_files
from benchmarks.datasets.formats.interactive import LAYOUTS, InteractiveDataset
from benchmarks.datasets.formats.labelme import LabelMeDataset
from benchmarks.datasets.formats.mask_files import MasksDataset, find_pairs
from benchmarks.datasets.formats.voc import OBJECTS, VocDataset
from benchmarks.datasets.formats.yolo import LABEL_FOLDERS, YoloSegDataset, find_names
from benchmarks.datasets.parsing import read_file
from benchmarks.datasets.sa1b import Sa1bDataset
from mobilesam.errors import DataError

FORMATS = ("coco", "lvis", "sa1b", "masks", "yolo-seg", "voc", "labelme")
"""Formats of datasets that have a root."""

_FILE_NAME = re.compile(rb'"(?:file_name|coco_url)"\s*:\s*("(?:[^"\\]|\\.)*")')
_N_PROBED = 20
_ROBOFLOW = "_annotations.coco.json"


@dataclass(frozen=True, slots=True)
class Source:
    """A format, and the folder or file that has it.

    Attributes:
        path: Folder, tar or YAML file; the annotation file of COCO and LVIS.
        images: Folder of the images of COCO and LVIS.
        tool: Program that wrote a COCO file, if it can be told.
    """

    format: str
    path: Path
    images: Path | None = None
    tool: str = ""


def detect(path: Path, images: Path | None = None) -> Source:
    """Finds the format of a folder or file; `images` is the folder of images of a COCO file.

    Raises:
        DataError: It does not exist, has no known format, or contains several datasets.
    """
    if not path.exists():
        raise DataError(f"{path} does not exist; wanted the folder or file of a dataset")
    found = _of_file(path) if path.is_file() else _of_folder(path)
    if found is None:
        raise DataError(
            f"{path} has none of the formats {', '.join(FORMATS)}; name the format with --dataset "
            "to see what is missing"
        )
    return _coco_source(found, path, images) if found in ("coco", "lvis") else Source(found, path)


def coco_source(path: Path, images: Path | None = None) -> Source:
    """Locates annotation file and images of a dataset in COCO's format, which `path` holds."""
    return _coco_source("coco", path, images)


def open_source(
    source: Source,
    limit: int | None = None,
    max_pixels: int = MAX_PIXELS,
    *,
    ignore: int | None = None,
    ids_16_bit: bool = False,
    streaming: bool = False,
) -> Dataset:
    """Opens a dataset; see the classes for the arguments and errors."""
    path = source.path
    if source.format in LAYOUTS:
        return InteractiveDataset(source.format, path, limit, max_pixels)
    match source.format:
        case "coco" | "lvis":
            folder = path.parent if source.images is None else source.images
            # Roboflow names the file of each split alike.
            is_roboflow = path.name == _ROBOFLOW
            name = f"coco:{path.absolute().parent.name}" if is_roboflow else None
            return CocoDataset(folder, path, limit, max_pixels, name)
        case "sa1b":
            return Sa1bDataset(path, limit, max_pixels, streaming=streaming)
        case "yolo-seg":
            return YoloSegDataset(path, limit, max_pixels)
        case "voc":
            return VocDataset(path, limit, max_pixels, ignore)
        case "labelme":
            return LabelMeDataset(path, limit, max_pixels)
        case _:
            if source.images is not None:
                return MasksDataset(
                    source.images,
                    limit,
                    max_pixels,
                    masks=path,
                    ignore=ignore,
                    ids_16_bit=ids_16_bit,
                )
            return MasksDataset(path, limit, max_pixels, ignore=ignore, ids_16_bit=ids_16_bit)


def _of_file(path: Path) -> str | None:
    match path.suffix.lower():
        case ".tar":
            return "sa1b"
        case ".yaml" | ".yml":
            return "yolo-seg"
        case ".xml":
            return "voc"
        case ".txt" if path.parent.parent.name == "ImageSets":
            return "voc"
        case ".json":
            return _of_json(path)
    return None


def _of_json(path: Path) -> str | None:
    data = read_file(path)
    if b'"shapes"' in data and (b'"imagePath"' in data or b'"imageData"' in data):
        return "labelme"
    if b'"images"' not in data or b'"annotations"' not in data:
        return None
    return "lvis" if b'"neg_category_ids"' in data else "coco"


def _of_folder(path: Path) -> str | None:
    files = [each for each in path.iterdir() if each.is_file()]
    if any(re.fullmatch(r"sa_\d+\.json", file.name) or file.suffix == ".tar" for file in files):
        return "sa1b"
    kinds = {_of_json(file) for file in _annotation_files(path)[:_N_PROBED]} - {"labelme", None}
    if kinds:
        return "lvis" if kinds == {"lvis"} else "coco"
    if "labelme" in {_of_json(file) for file in find_files(path, (".json",))[:_N_PROBED]}:
        return "labelme"
    if any(path.glob(f"**/{OBJECTS}")):
        return "voc"
    xml = find_files(path, (".xml",))[:_N_PROBED]
    if any(b"<annotation" in read_file(file) for file in xml):
        return "voc"
    texts = find_files(path, (".txt",))
    is_label = (
        bool({*LABEL_FOLDERS} & {*file.parts})
        or any(file.with_suffix(suffix).is_file() for suffix in IMAGE_SUFFIXES)
        for file in texts
    )
    if any(is_label) or (find_names(path.absolute())[0] or path).parent == path.absolute():
        return "yolo-seg"
    images, masks = find_pairs(path)
    return "masks" if images and masks else None


def _annotation_files(folder: Path) -> list[Path]:
    """Files that may be COCO's: in the folder, in `annotations`, or one in each split."""
    patterns = ("*.json", "annotations/*.json", f"*/{_ROBOFLOW}")
    return [path for pattern in patterns for path in sorted(folder.glob(pattern))]


def _coco_source(kind: str, path: Path, images: Path | None) -> Source:
    if path.is_dir():
        found = [file for file in _annotation_files(path) if _of_json(file) in ("coco", "lvis")]
        if not found:
            raise DataError(f"{path} contains no annotation file in COCO's format")
        if len(found) > 1:
            shown = ", ".join(str(file.relative_to(path)) for file in found[:6])
            raise DataError(f"{path} contains several annotation files ({shown}); name one of them")
        (path,) = found
    data = read_file(path)
    names = [json.loads(text) for text in _first(_FILE_NAME.findall(data))]
    if images is None:
        images = _image_folder(path, names)
    return Source(kind, path, images, _tool(path, data))


def _first(values: Iterable[bytes]) -> list[bytes]:
    return [value for _, value in zip(range(_N_PROBED), values, strict=False)]


def _image_folder(path: Path, names: list[str]) -> Path:
    """The folder in which most of the first images are."""
    subset = path.stem.removeprefix("instances_").removeprefix("lvis_v1_")
    above = (path.parent, path.parent.parent)
    folders = [
        folder / below
        for folder in above
        for below in ("", "images", f"images/{subset}", subset, "JPEGImages", f"{subset}2017")
    ]

    def tails(name: str) -> list[str]:  # of an address, one or two parts of its path count
        parts = PurePosixPath(name).parts
        return ["/".join(parts[-n:]) for n in (1, 2)] if "://" in name else [name]

    def n_found(folder: Path) -> int:
        return sum(any((folder / tail).is_file() for tail in tails(name)) for name in names)

    best = max(folders, key=n_found)
    if n_found(best) == 0:
        first = names[0] if names else "any image"
        raise DataError(
            f"the images of {path} are not next to it ({first!r} is missing in {path.parent} and "
            "its folder images); give their folder with --images"
        )
    return best


def _tool(path: Path, data: bytes) -> str:
    """The program that exported a COCO file, by its marks; empty if unknown."""
    if path.name == _ROBOFLOW or b"roboflow" in data[:4096].lower():
        return "Roboflow"
    if b'"Label Studio"' in data:
        return "Label Studio"
    return "CVAT" if re.search(rb'"attributes"\s*:\s*\{[^}]*"occluded"', data) else ""
