"""Datasets with annotation files for each image: located first, read with the image."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path, PurePosixPath

from baselines.interface import UInt8Array
from benchmarks.datasets import MAX_PIXELS, parsing
from benchmarks.datasets.dataset import (
    IndexedDataset,
    Instance,
    LoadedImage,
    Sample,
    UnreadableImage,
)
from benchmarks.datasets.images import files_state, load_image
from benchmarks.datasets.masks import Rle, rle_area_px, rle_box, segmentation_to_rle
from mobilesam.errors import DataError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".gif")

_IDS_PER_IMAGE = 1_000_000
_MARGIN_PX = 1.0


@dataclass(frozen=True, slots=True)
class Entry:
    """An image with its annotation files, located but not read.

    Attributes:
        name: Path of the image below the root, or of the annotation file without an image.
        image: The image file; None if there is none, or if the annotation file names it.
        files: Annotation files.
        problem: Why the entry cannot be used; empty if it can.
    """

    name: str
    image: Path | None
    files: tuple[Path, ...] = ()
    problem: str = ""


@dataclass(frozen=True, slots=True)
class FoundObject:
    """An object of an annotation file; `where` begins the message about a defect.

    Attributes:
        segmentation: Polygons in pixels, or an RLE; see `segmentation_to_rle`.
        problem: Why the object cannot be used; empty if it can.
    """

    where: str
    category: str = ""
    segmentation: object = ()
    ignored: Rle | None = None
    problem: str = ""

    def instance(self, annotation_id: int, size_hw: tuple[int, int]) -> Instance | None:
        """Rasterises the object; None for a mask without a pixel."""
        if self.problem:
            raise DataError(self.problem)
        if isinstance(self.segmentation, list):
            _check_inside(self.segmentation, size_hw)
        rle = segmentation_to_rle(self.segmentation, size_hw)
        area_px = float(rle_area_px(rle))
        if area_px == 0:
            return None
        return Instance(
            annotation_id, self.category, area_px, rle_box(rle), rle, ignored=self.ignored
        )


ImageLoader = Callable[[Path | bytes | None, tuple[int, int] | None], UInt8Array]
"""Reads an image, which must be of a stated size (H, W) if one is given."""
AnnotationParser = Callable[[Entry, ImageLoader], tuple[UInt8Array, Iterable[FoundObject]]]
"""Reads image and objects of an entry; a defect of the whole entry is a `DataError`."""


class FolderDataset(IndexedDataset):
    """Images with annotation files, in the order of their paths.

    If all images are named by distinct numbers, these are their ids and their order, as in COCO;
    otherwise they are numbered from 0. Boxes are the tight boxes of the masks, areas their pixel
    counts. An image without usable object is an `UnreadableImage`, and so is one without annotation
    file and vice versa; single malformed objects are left out and listed.

    Raises:
        DataError: The folder is missing, or contains nothing of the format.
        UsageError: The limit is below 1.
    """

    format_name: str

    def __init__(self, root: Path, limit: int | None = None, max_pixels: int = MAX_PIXELS) -> None:
        parsing.check_limit(limit)
        if not root.exists():
            raise DataError(f"{root} does not exist; --root wants a folder of {self.format_name}")
        self.root = root.absolute()  # a worker may run in another folder
        self.max_pixels = max_pixels
        self._limit = limit
        entries = sorted(self.locate(), key=lambda each: each.name)
        if all(each.problem for each in entries):
            first = f"; {entries[0].name}: {entries[0].problem}" if entries else ""
            raise DataError(f"{root} has no image with annotations of {self.format_name}{first}")
        stems = [PurePosixPath(each.name).stem for each in entries]
        numbers = [int(stem) if stem.isascii() and stem.isdigit() else -1 for stem in stems]
        ids: Sequence[int] = range(len(entries))
        if len(set(numbers)) == len(numbers) and -1 not in numbers and max(numbers) < 2**63:
            order = sorted(ids, key=numbers.__getitem__)
            entries, ids = [entries[i] for i in order], sorted(numbers)
        self._entries = entries[:limit]
        parse = self.parser()
        images = [
            (image_id, entry.name, partial(_load, entry, image_id, number, parse, max_pixels))
            for number, (image_id, entry) in enumerate(zip(ids, self._entries, strict=False))
        ]
        super().__init__(f"{self.format_name}:{root.resolve().name}", "", images)

    @abstractmethod
    def locate(self) -> Iterable[Entry]:
        """Finds all images and annotation files."""

    @abstractmethod
    def parser(self) -> AnnotationParser:
        """Returns the function that reads an entry; picklable for other processes."""

    @property
    def settings(self) -> str:
        """Whatever determines the masks besides the annotation files."""
        return ""

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of settings, image names and the bytes of all annotation files."""

        def parts() -> Iterator[bytes]:
            yield self.settings.encode()
            for entry in self._entries:
                yield f"{entry.name} {entry.problem}".encode()
                for path in entry.files:
                    try:
                        yield path.read_bytes()
                    except OSError:  # reported when the image is read
                        yield b""

        return parsing.fingerprint(self.format_name, self._limit, parts())

    def _state_of(self, part: slice) -> str:
        paths = (path for e in self._entries[part] for path in (e.image, *e.files) if path)
        return files_state((path.parent, path.name) for path in paths)

    def relative(self, path: Path) -> str:
        """Path below the root, for messages."""
        return printable(os.path.relpath(path, self.root if self.root.is_dir() else path.parent))


def _load(
    entry: Entry, image_id: int, number: int, parse: AnnotationParser, max_pixels: int
) -> LoadedImage:
    """Reads one image with its objects."""
    if entry.problem:
        return LoadedImage(UnreadableImage(image_id, entry.name, entry.problem))
    log = parsing.AnnotationLog(entry.name, "empty", parsing.MALFORMED)
    instances: list[Instance] = []

    def load(source: Path | bytes | None, size_hw: tuple[int, int] | None) -> UInt8Array:
        if source is None:
            raise DataError(f"{entry.name} has no image next to it")
        return load_image(source, entry.name, size_hw, max_pixels)

    try:
        image, objects = parse(entry, load)
        size_hw = image.shape[0], image.shape[1]
        for index, found in enumerate(objects):
            try:
                instance = found.instance(number * _IDS_PER_IMAGE + index + 1, size_hw)
            except DataError as error:
                log.malformed(f"{found.where}: {error}")
                continue
            if instance is None:
                log.left_out["empty"] += 1
            else:
                instances.append(instance)
        if not instances:
            raise DataError(_why_unusable(entry, log))
    except DataError as error:
        unreadable = UnreadableImage(image_id, entry.name, str(error), len(instances))
        return LoadedImage(unreadable)
    sample = Sample(image_id, entry.name, image, tuple(instances))
    return LoadedImage(sample, dict(log.left_out), tuple(log.problems))


def _why_unusable(entry: Entry, log: parsing.AnnotationLog) -> str:
    names = ", ".join(printable(path.name) for path in entry.files[:3])
    n_malformed, n_empty = log.left_out[parsing.MALFORMED], log.left_out["empty"]
    if n_malformed:
        more = f" (and {n_malformed - 1} more malformed objects)" if n_malformed > 1 else ""
        return f"no usable object: {log.problems[0]}{more}"
    if n_empty:
        return f"no usable object: {n_empty} of {n_empty} in {names} have a mask without a pixel"
    return f"{names} has no object; remove the image, or annotate it"


def _check_inside(polygons: Sequence[object], size_hw: tuple[int, int]) -> None:
    """Refuses polygons that reach beyond the picture by more than a pixel."""
    for index, polygon in enumerate(polygons):
        if not isinstance(polygon, list):
            continue
        for axis, length in ((0, size_hw[1]), (1, size_hw[0])):
            for value in polygon[axis::2]:
                if isinstance(value, float | int) and not (
                    -_MARGIN_PX <= value <= length + _MARGIN_PX
                ):
                    raise DataError(
                        f"polygon {index} lies outside of the picture: {'xy'[axis]} "
                        f"{value:g}, but the image is {size_hw[1]}x{size_hw[0]} px"
                    )


def find_files(root: Path, suffixes: Sequence[str]) -> list[Path]:
    """All files below a folder with one of the suffixes, hidden ones left out, by path."""

    def refuse(error: OSError) -> None:
        raise DataError(f"cannot read the folder {error.filename}: {error.strerror}") from error

    found = []
    for folder, folders, names in os.walk(root, onerror=refuse, followlinks=False):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [
            Path(folder, name)
            for name in names
            if not name.startswith(".") and name.lower().endswith(tuple(suffixes))
        ]
    return sorted(found)


def by_key(keyed: Iterable[tuple[str, Path]]) -> dict[str, Path]:
    """Files by key; two files of one key are a `DataError`, since either could be meant."""
    found: dict[str, Path] = {}
    for key, path in keyed:
        if key in found:
            raise DataError(
                f"{found[key]} and {path} have the same name, so their annotations cannot be told "
                "apart; remove one, or name one folder"
            )
        found[key] = path
    return found


def stem_below(path: Path, root: Path) -> str:
    """Path of a file below a folder without its suffix."""
    return path.relative_to(root).with_suffix("").as_posix()


def printable(name: str) -> str:
    """The name itself, or its representation if it has control characters."""
    return name if name.isprintable() else repr(name)
