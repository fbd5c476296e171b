"""A COCO annotation file as a whole: its references checked, its masks not yet looked at."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Annotated, Any
from urllib.parse import unquote, urlsplit

from pydantic import BeforeValidator, ValidationError

from benchmarks.datasets.images import check_pixels
from benchmarks.datasets.parsing import FileName, Id, LengthPx, Row, Shape, Tally, read_row, whole
from mobilesam.errors import DataError


class CocoImage(Row):
    """An entry of `images`.

    LVIS has no `file_name`: the file name and the folder are taken from `coco_url`; the file may
    also lie outside of that folder.
    """

    id: Id
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
        parts = PurePosixPath(path).parts[-2:]
        if not path.isprintable() or not parts or parts[-1] == "/":
            return ()
        whole = [part for part in parts if part != "/"]
        return tuple(dict.fromkeys(("/".join(whole), whole[-1])))

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.height, self.width


class CocoAnnotation(Shape):
    """An entry of `annotations`."""

    image_id: Id
    category_id: Any = None
    iscrowd: Annotated[bool | int | None, BeforeValidator(whole)] = None

    @property
    def category(self) -> int | None:
        """Id of the annotation's category; None if it is missing or not a whole number."""
        found = whole(self.category_id)
        return found if isinstance(found, int) and not isinstance(found, bool) else None


class _Category(Row):
    id: Id
    name: str


class _Document(Row):
    images: list[Any]
    annotations: list[Any]
    categories: Any = None


class _Identified(Row):
    id: Id


class CocoFile:
    """The usable entries of an instances file.

    Single malformed annotations are left out and counted. An image is bad, with all its
    annotations, if its entry is malformed, if it is too large, or if its id is given twice, since
    its annotations are then ambiguous. Of two annotations with one id, the first in the file is
    used. Category names are needed only for figures by category: a category is ignored if its entry
    is malformed or if its id has two names.

    Args:
        file: Its name, for messages.
        document: The parsed JSON.
        max_pixels: Images beyond it are bad.
        tally: Counts malformed annotations.

    Attributes:
        images: Usable images by id.
        bad_images: Reason why an image is unusable, by image id, without the name of the file.
        categories: Name by category id.
        annotations: Usable as far as can be told without their masks, in the order of the file;
            their images are among `images` or `bad_images`.

    Raises:
        DataError: The file is not an instances file.
    """

    def __init__(self, file: str, document: object, max_pixels: int, tally: Tally) -> None:
        self.file = file
        self._max_pixels = max_pixels
        self._tally = tally
        try:
            top = read_row(_Document, document, file)
        except DataError as error:
            raise DataError(f"{error}; is this a COCO instances file?") from error
        self.images: dict[int, CocoImage] = {}
        self.bad_images: dict[int, str] = {}
        for index, value in enumerate(top.images):
            self._add_image(f"image number {index}", value)
        self.categories = _read_categories(top.categories)
        self.annotations: list[CocoAnnotation] = []
        seen: set[int] = set()
        for index, value in enumerate(top.annotations):
            try:
                self.annotations.append(self._annotation(index, value, seen))
            except DataError as error:
                tally.malformed(str(error))

    def by_image(self) -> dict[int, list[CocoAnnotation]]:
        """Annotations of each image in ascending order of their ids."""
        found: dict[int, list[CocoAnnotation]] = {}
        for row in sorted(self.annotations, key=lambda row: row.id):
            found.setdefault(row.image_id, []).append(row)
        return found

    def _add_image(self, where: str, value: object) -> None:
        try:
            image_id = read_row(_Identified, value, where).id
        except DataError as error:
            self._tally.malformed(f"{self.file}: {error}")
            return
        if image_id in self.images or image_id in self.bad_images:
            self.images.pop(image_id, None)
            why = f"image id {image_id} is given twice; ids must be unique"
            self.bad_images[image_id] = why
            return
        try:
            image = read_row(CocoImage, value, where)
            if not image.names:
                raise DataError(f"{where}: file_name: Field required; mend or remove it")
            check_pixels(image.names[0], image.size_hw, self._max_pixels)
        except DataError as error:
            self.bad_images[image_id] = str(error)
        else:
            self.images[image_id] = image

    def _annotation(self, index: int, value: object, seen: set[int]) -> CocoAnnotation:
        """Checks an annotation and what it refers to; remembers its id in `seen`."""
        number = f"{self.file}: annotation number {index}"
        row_id = read_row(_Identified, value, number).id
        where = f"{self.file}: annotation {row_id}"
        row = read_row(CocoAnnotation, value, where)
        if row_id in seen:
            raise DataError(f"{number}: annotation id {row_id} is given twice; ids must be unique")
        if row.image_id not in self.images and row.image_id not in self.bad_images:
            raise DataError(f"{where} has image_id {row.image_id}, which the file does not define")
        seen.add(row_id)
        return row


def _read_categories(rows: object) -> dict[int, str]:
    """Category names by id; categories that are malformed or ambiguous are left out."""
    found: dict[int, str] = {}
    twice: set[int] = set()
    for value in rows if isinstance(rows, list) else ():
        try:
            category = _Category.model_validate(value)
        except ValidationError:
            continue  # its annotations are reported as annotations without a category
        if found.setdefault(category.id, category.name) != category.name:
            twice.add(category.id)
    return {key: name for key, name in found.items() if key not in twice}
