"""COCO instances (also LVIS), with a parser of our own that names every problem."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path, PurePosixPath
from typing import Annotated, Any
from urllib.parse import unquote, urlsplit

from pydantic import BeforeValidator, ValidationError

from benchmarks.datasets.dataset import (
    Dataset,
    ImageReader,
    Instance,
    LoadedImage,
    Sample,
    Shard,
    UnreadableImage,
    consecutive_shards,
)
from benchmarks.datasets.images import check_pixels, files_state, load_from_folder
from benchmarks.datasets.limits import MAX_PIXELS
from benchmarks.datasets.parsing import (
    MALFORMED,
    AnnotationLog,
    AnnotationRow,
    FileName,
    Id,
    IdentifiedRow,
    LengthPx,
    Row,
    check_limit,
    fingerprint,
    parse_json,
    read_file,
    read_row,
    whole,
)
from mobilesam.errors import DataError


class CocoImage(IdentifiedRow):
    """An entry of `images`.

    LVIS has no `file_name`: file name and folder are taken from `coco_url`; the file may also be
    outside of that folder.
    """

    file_name: FileName | None = None
    coco_url: Any = None
    height: LengthPx
    width: LengthPx

    @property
    def names(self) -> tuple[str, ...]:
        """Candidate paths below the folder of images, most likely first; may be empty."""
        if self.file_name is not None:
            return (self.file_name,)
        path = unquote(urlsplit(self.coco_url).path) if isinstance(self.coco_url, str) else ""
        parts = [part for part in PurePosixPath(path).parts[-2:] if part != "/"]
        if not parts or not path.isprintable():
            return ()
        return tuple(dict.fromkeys(("/".join(parts), parts[-1])))

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.height, self.width


class CocoAnnotation(AnnotationRow):
    """An entry of `annotations`."""

    image_id: Id
    category_id: Any = None
    iscrowd: Annotated[bool | int | None, BeforeValidator(whole)] = None

    @property
    def category(self) -> int | None:
        """Id of the category; None if it is missing or not a whole number."""
        found = whole(self.category_id)
        return found if isinstance(found, int) and not isinstance(found, bool) else None


class _Category(IdentifiedRow):
    name: str


class _Document(Row):
    images: list[Any]
    annotations: list[Any]
    categories: Any = None


class CocoFile:
    """The usable entries of an instances file; masks are not checked yet.

    Malformed annotations are left out and counted. An image is unreadable, with all its
    annotations, if its entry is malformed, if it is too large, or if its id is given twice, since
    its annotations are then ambiguous. Of two annotations with one id, the first in the file is
    used. Category names are needed only for figures by category: a category is ignored if its entry
    is malformed or if its id has two names.

    Args:
        name: Name of the file, for messages.
        data: Content of the file.
        max_pixels: Larger images are unreadable.
        log: Counts malformed annotations.

    Attributes:
        images: Usable images by id.
        unreadable: Reason why an image is unusable, by image id.
        categories: Name by category id.
        annotations: In the order of the file; their images are among `images` or `unreadable`.

    Raises:
        DataError: The file is not an instances file.
    """

    def __init__(self, name: str, data: bytes, max_pixels: int, log: AnnotationLog) -> None:
        self.name = name
        content = parse_json(data, name)
        try:
            document = read_row(_Document, content, name)
        except DataError as error:
            raise DataError(f"{error}; is this a COCO instances file?") from error
        self.images: dict[int, CocoImage] = {}
        self.unreadable: dict[int, str] = {}
        for index, value in enumerate(document.images):
            try:
                self._add_image(f"image number {index}", value, max_pixels)
            except DataError as error:
                log.malformed(f"{name}: {error}")
        self.categories = _read_categories(document.categories)
        self.annotations = log.read_rows(CocoAnnotation, document.annotations, self._problem_of)

    def _problem_of(self, row: CocoAnnotation) -> str | None:
        if row.image_id in self.images or row.image_id in self.unreadable:
            return None
        return f"has image_id {row.image_id}, which the file does not define"

    def _add_image(self, where: str, value: object, max_pixels: int) -> None:
        image_id = read_row(IdentifiedRow, value, where).id
        if image_id in self.images or image_id in self.unreadable:
            self.images.pop(image_id, None)
            reason = f"image id {image_id} is given twice; ids must be unique"
            self.unreadable[image_id] = reason
            return
        try:
            image = read_row(CocoImage, value, where)
            if not image.names:
                raise DataError(f"{where}: file_name: Field required; correct or remove it")
            check_pixels(image.names[0], image.size_hw, max_pixels)
        except DataError as error:
            self.unreadable[image_id] = str(error)
        else:
            self.images[image_id] = image


def _read_categories(rows: object) -> dict[int, str]:
    """Category names by id, without malformed and ambiguous ones."""
    found: dict[int, str] = {}
    ambiguous: set[int] = set()
    for value in rows if isinstance(rows, list) else ():
        try:
            category = _Category.model_validate(value)
        except ValidationError:
            continue  # its annotations are reported as annotations without a category
        if found.setdefault(category.id, category.name) != category.name:
            ambiguous.add(category.id)
    return {key: name for key, name in found.items() if key not in ambiguous}


@dataclass(frozen=True, slots=True)
class _ImageReader:
    """Reads one image, which has at least one usable instance."""

    folder: Path
    image: CocoImage
    instances: tuple[Instance, ...]
    max_pixels: int

    def __call__(self) -> LoadedImage:
        image_id, name = self.image.id, self.image.names[0]
        try:
            pixels = load_from_folder(
                self.folder, self.image.names, self.image.size_hw, self.max_pixels
            )
        except DataError as error:
            unreadable = UnreadableImage(image_id, name, str(error), len(self.instances))
            return LoadedImage(unreadable)
        return LoadedImage(Sample(image_id, name, pixels, self.instances))


class CocoDataset(Dataset):
    """Images and instances of a COCO annotation file, by ascending image id.

    Crowd annotations (`iscrowd` 1), annotations whose mask has no pixel, and malformed annotations
    (for example a box that is not made of numbers, or an id that was used before) are left out and
    counted. An annotation of an unknown category is kept with an empty `Instance.category`. An
    image without usable annotations is not part of the dataset. An image whose entry is unusable is
    an `UnreadableImage`. With a limit, only masks of images up to the last one taken are read and
    counted.

    Args:
        images: Folder of the image files.
        annotations: The instances JSON.
        limit: Take only the first images that have a usable instance or are unreadable, at most
            this many.
        max_pixels: Larger images are unreadable.
        name: Name of the dataset; by default `coco:` and the name of the annotation file without
            `instances_`.

    Raises:
        DataError: The folder or the file is missing or unreadable, or the file as a whole is
            unusable: it is not JSON, not in COCO's format, or has no usable annotation.
        UsageError: The limit is below 1.
    """

    def __init__(
        self,
        images: Path,
        annotations: Path,
        limit: int | None = None,
        max_pixels: int = MAX_PIXELS,
        name: str | None = None,
    ) -> None:
        check_limit(limit)
        if not images.is_dir():
            raise DataError(f"{images} is not a folder; --images wants the folder of image files")
        data = read_file(annotations)
        self.max_pixels = max_pixels
        self._folder = images
        self._fingerprint = coco_fingerprint(data, limit)
        log = AnnotationLog(annotations.name, "crowd", "empty", MALFORMED)
        file = CocoFile(annotations.name, data, max_pixels, log)
        self._images = self._read_images(file, limit, log)
        if not self._images:
            raise DataError(f"{annotations.name} has no usable annotation: {log.why_unusable}")
        notes = [*log.hints]
        n_none = sum(not instance.category for instance in self._instances)
        if n_none:
            notes.append(
                f"{n_none} of {self.n_instances} annotations are of no category that the file "
                "names: they count, but in no category"
            )
        name = name or f"coco:{annotations.stem.removeprefix('instances_')}"
        super().__init__(name, log.left_out, log.problems, notes)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the bytes of the annotation file and the limit."""
        return self._fingerprint

    @cached_property
    def images_state(self) -> str:
        """State of all image files."""
        return self._state_of(slice(None))

    @property
    def n_images(self) -> int:
        """Number of images with a usable instance, and of unreadable ones, after the limit."""
        return len(self._images)

    @property
    def image_ids(self) -> tuple[int, ...]:
        """Ids of all images, ascending."""
        return tuple(image_id for image_id, _, _ in self._images)

    @property
    def n_instances(self) -> int:
        """Number of usable instances of all images."""
        return len(self._instances)

    def shards(self, images_per_shard: int | None = None) -> Iterator[Shard]:
        """Yields shards of consecutive images; annotations were counted when the file was read."""
        return consecutive_shards(
            self,
            [reader for _, _, reader in self._images],
            [(image_id, name) for image_id, name, _ in self._images],
            images_per_shard,
            self._state_of,
        )

    @property
    def _instances(self) -> list[Instance]:
        readers = (reader for _, _, reader in self._images if isinstance(reader, _ImageReader))
        return [instance for reader in readers for instance in reader.instances]

    def _state_of(self, part: slice) -> str:
        return files_state(
            (self._folder, path)
            for _, _, reader in self._images[part]
            if isinstance(reader, _ImageReader)
            for path in reader.image.names
        )

    def _read_images(
        self, file: CocoFile, limit: int | None, log: AnnotationLog
    ) -> tuple[tuple[int, str, ImageReader], ...]:
        """Returns id, file name and reader of each image."""
        rows: dict[int, list[CocoAnnotation]] = {}
        for row in sorted(file.annotations, key=lambda row: row.id):
            rows.setdefault(row.image_id, []).append(row)
        found: list[tuple[int, str, ImageReader]] = []
        for image_id in sorted(file.images.keys() | file.unreadable.keys()):
            if len(found) == limit:
                break
            if image_id in file.unreadable:
                reason, n_rows = file.unreadable[image_id], len(rows.get(image_id, ()))
                unreadable = UnreadableImage(image_id, file.name, reason, n_rows)
                found.append((image_id, file.name, partial(LoadedImage, unreadable)))
                continue
            image = file.images[image_id]
            instances = [_instance(file, row, image, log) for row in rows.get(image_id, ())]
            usable = tuple(instance for instance in instances if instance is not None)
            if usable:
                reader = _ImageReader(self._folder, image, usable, self.max_pixels)
                found.append((image_id, image.names[0], reader))
        return tuple(found)


def _instance(
    file: CocoFile, row: CocoAnnotation, image: CocoImage, log: AnnotationLog
) -> Instance | None:
    if row.iscrowd:
        log.left_out["crowd"] += 1
        return None
    category = "" if row.category is None else file.categories.get(row.category, "")
    return log.instance(row, image.size_hw, category=category)


def coco_fingerprint(data: bytes, limit: int | None) -> str:
    """SHA-256 (hex) of the bytes of an annotation file and the limit on images."""
    return fingerprint("coco", limit, [data])
