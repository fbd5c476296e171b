"""COCO instances, also of LVIS and of tools that export them; a parser that names every problem."""

from __future__ import annotations

import os
from functools import partial
from operator import attrgetter
from pathlib import Path, PurePosixPath
from typing import Annotated, Any
from urllib.parse import unquote, urlsplit

from pydantic import BeforeValidator, StringConstraints, ValidationError

from benchmarks.datasets import MAX_PIXELS, parsing
from benchmarks.datasets.dataset import (
    ImageReader,
    IndexedDataset,
    Instance,
    LoadedImage,
    Sample,
    UnreadableImage,
)
from benchmarks.datasets.images import check_pixels, files_state, load_image
from benchmarks.datasets.parsing import AnnotationLog, IdentifiedRow, LengthPx, read_row
from mobilesam.errors import DataError


class CocoImage(IdentifiedRow):
    """An entry of `images`; LVIS has no `file_name`, but a `coco_url` with folder and file name."""

    # Control characters would break messages and records.
    file_name: Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f\x7f]+$")] | None = None
    coco_url: Any = None
    height: LengthPx
    width: LengthPx

    @property
    def names(self) -> tuple[str, ...]:
        """Candidate paths below the folder of images, most likely first; may be empty."""
        if self.file_name is not None:
            # Label Studio writes the path on its server if the images were not downloaded.
            is_served = self.file_name.startswith("/data/")
            return (PurePosixPath(self.file_name).name if is_served else self.file_name,)
        path = unquote(urlsplit(self.coco_url).path) if isinstance(self.coco_url, str) else ""
        parts = [part for part in PurePosixPath(path).parts[-2:] if part != "/"]
        if not parts or not path.isprintable():
            return ()
        return tuple(dict.fromkeys(("/".join(parts), parts[-1])))

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.height, self.width


class CocoAnnotation(parsing.AnnotationRow):
    """An entry of `annotations`."""

    image_id: parsing.Id
    category_id: Any = None
    iscrowd: Annotated[bool | int | None, BeforeValidator(parsing.whole)] = None
    attributes: Any = None

    @property
    def is_brush_mask(self) -> bool:
        """Whether it is a single object that CVAT exports with `iscrowd` 1, as all brush masks."""
        given = self.attributes if isinstance(self.attributes, dict) else {}
        return bool(self.iscrowd) and "occluded" in given and not given.get("is_crowd")

    @property
    def category(self) -> int | None:
        """Id of the category; None if it is missing or not a whole number."""
        found = parsing.whole(self.category_id)
        return found if isinstance(found, int) and not isinstance(found, bool) else None


class _Category(IdentifiedRow):
    name: str


class _Document(parsing.Row):
    images: list[Any]
    annotations: list[Any]
    categories: Any = None


class CocoFile:
    """The usable entries of an instances file by id; masks are not checked yet.

    Malformed annotations, and those with an id that was used before, are left out and counted by
    the log. An image is unreadable, with all its annotations, if its entry is malformed, if it is
    too large, or if its id is given twice, since its annotations are then ambiguous; `unreadable`
    has the reason. Category names are needed only for figures by category: a category is ignored if
    its entry is malformed or if its id has two names.
    """

    def __init__(self, name: str, data: bytes, max_pixels: int, log: AnnotationLog) -> None:
        self.name = name
        content = parsing.parse_json(data, name)
        try:
            document = read_row(_Document, content, name)
        except DataError as error:
            raise DataError(f"{error}; is this a COCO instances file?") from error
        self.images: dict[int, CocoImage] = {}
        self.unreadable: dict[int, str] = {}
        for index, value in enumerate(document.images):
            where = f"image number {index}"
            try:
                image_id = read_row(IdentifiedRow, value, where).id
            except DataError as error:
                log.malformed(f"{name}: {error}")
                continue
            try:
                if image_id in self.images or image_id in self.unreadable:
                    raise DataError(f"image id {image_id} is given twice; ids must be unique")
                image = read_row(CocoImage, value, where)
                if not image.names:
                    raise DataError(f"{where}: file_name: Field required; correct or remove it")
                check_pixels(image.names[0], image.size_hw, max_pixels)
                self.images[image_id] = image
            except DataError as error:
                self.images.pop(image_id, None)
                self.unreadable[image_id] = str(error)
        # LVIS lists the categories whose objects are known to be absent, for each image.
        self.is_federated = any(
            isinstance(value, dict) and "neg_category_ids" in value for value in document.images
        )
        names: dict[int, set[str]] = {}
        for value in document.categories if isinstance(document.categories, list) else ():
            try:
                category = _Category.model_validate(value)
            except ValidationError:
                continue  # its annotations are reported as annotations without a category
            names.setdefault(category.id, set()).add(category.name)
        self.categories = {key: found.pop() for key, found in names.items() if len(found) == 1}

        def problem_of(row: CocoAnnotation) -> str | None:
            if row.image_id in self.images or row.image_id in self.unreadable:
                return None
            return f"has image_id {row.image_id}, which the file does not define"

        self.annotations = log.read_rows(CocoAnnotation, document.annotations, problem_of)


def read_sample(
    folder: Path, image: CocoImage, max_pixels: int, instances: tuple[Instance, ...] = ()
) -> LoadedImage:
    """Reads an image from the first existing of its paths, which are not trusted."""
    first = image.names[0]
    try:
        for name in image.names:
            path = PurePosixPath(name)
            if path.is_absolute() or ".." in path.parts:
                raise DataError(f"the file name {name!r} leads out of the image folder")
        found = next((name for name in image.names if os.path.lexists(folder / name)), None)
        if found is None and "\\" in first:
            raise DataError(
                f"cannot read the image {first}: No such file or directory; the name has "
                "backslashes: write / into the annotations instead"
            )
        pixels = load_image(folder / (found or first), first, image.size_hw, max_pixels)
    except DataError as error:
        return LoadedImage(UnreadableImage(image.id, first, str(error), len(instances)))
    return LoadedImage(Sample(image.id, first, pixels, instances))


class CocoDataset(IndexedDataset):
    """Images and instances of a COCO annotation file, by ascending image id.

    Crowd annotations (`iscrowd` 1), annotations whose mask has no pixel, and malformed annotations
    (for example a box that is not made of numbers, or an id that was used before) are left out and
    counted. An annotation of an unknown category is kept with an empty `Instance.category`. An
    image without usable annotations is not part of the dataset. An image whose entry is unusable,
    or that has more than `max_pixels`, is an `UnreadableImage`. A limit takes only the first images
    that have a usable instance or are unreadable; masks are then read and counted up to the last
    one taken. The default name is `coco:` and the name of the annotation file without `instances_`.

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
        parsing.check_limit(limit)
        if not images.is_dir():
            raise DataError(f"{images} is not a folder; --images wants the folder of image files")
        data = parsing.read_file(annotations)
        self.max_pixels = max_pixels
        self._folder = images
        log = AnnotationLog(annotations.name, "crowd", "empty", parsing.MALFORMED)
        file = CocoFile(annotations.name, data, max_pixels, log)
        rows: dict[int, list[CocoAnnotation]] = {}
        for row in sorted(file.annotations, key=attrgetter("id")):
            rows.setdefault(row.image_id, []).append(row)
        found: list[tuple[int, str, ImageReader]] = []
        self._file_names: list[tuple[str, ...]] = []  # candidates of each image
        self.n_instances = n_uncategorised = n_brush_masks = 0
        for image_id in sorted(file.images.keys() | file.unreadable.keys()):
            if len(found) == limit:
                break
            of_image = rows.get(image_id, [])
            if image_id in file.unreadable:
                reason = file.unreadable[image_id]
                unreadable = UnreadableImage(image_id, file.name, reason, len(of_image))
                found.append((image_id, file.name, partial(LoadedImage, unreadable)))
                self._file_names.append(())
                continue
            image = file.images[image_id]
            instances: list[Instance] = []
            for row in of_image:
                n_brush_masks += row.is_brush_mask
                if row.iscrowd and not row.is_brush_mask:
                    log.left_out["crowd"] += 1
                    continue
                category = "" if row.category is None else file.categories.get(row.category, "")
                instance = log.instance(
                    row, image.size_hw, category=category, category_id=row.category
                )
                if instance is not None:
                    instances.append(instance)
                    n_uncategorised += not category
            if instances:
                reader = partial(read_sample, images, image, max_pixels, tuple(instances))
                found.append((image_id, image.names[0], reader))
                self._file_names.append(image.names)
                self.n_instances += len(instances)
        if not found:
            raise DataError(f"{annotations.name} has no usable annotation: {log.why_unusable}")
        self.image_ids = tuple(image_id for image_id, _, _ in found)
        name = name or f"coco:{annotations.stem.removeprefix('instances_')}"
        super().__init__(name, coco_fingerprint(data, limit), found)
        self._found[-1] = log.left_out, log.problems
        self.doubts = log.hints
        if n_uncategorised:
            self.doubts += (
                f"{n_uncategorised} of {self.n_instances} annotations are of no category that the "
                "file names: they count, but in no category",
            )
        self.notes = self.doubts
        if n_brush_masks:
            self.notes += (
                f"{n_brush_masks} brush masks of CVAT, exported with iscrowd 1, count as objects",
            )
        if file.is_federated:
            self.notes += (
                "LVIS is federated: an image is annotated for some of the "
                f"{len(file.categories)} categories only, so objects without annotation are no "
                "errors of segment everything",
            )

    def _state_of(self, part: slice) -> str:
        names = self._file_names[part]
        return files_state((self._folder, name) for candidates in names for name in candidates)


def coco_fingerprint(data: bytes, limit: int | None) -> str:
    """SHA-256 (hex) of the bytes of an annotation file and the limit on images."""
    return parsing.fingerprint("coco", limit, [data])
