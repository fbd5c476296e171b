"""A COCO annotation file as a whole: its references checked, its masks not yet looked at."""

from __future__ import annotations

from typing import Any

from benchmarks.data.images import check_pixels
from benchmarks.data.parsing import FileName, Id, LengthPx, Row, Shape, Tally, read_row
from mobilesam.errors import DataError


class CocoImage(Row):
    """An entry of `images`."""

    id: Id
    file_name: FileName
    height: LengthPx
    width: LengthPx

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.height, self.width


class CocoAnnotation(Shape):
    """An entry of `annotations`."""

    image_id: Id
    category_id: Id
    iscrowd: bool | int | None = None


class _Category(Row):
    id: Id
    name: str


class _Document(Row):
    images: list[Any]
    annotations: list[Any]
    categories: list[Any]


class _Identified(Row):
    id: Id


class CocoFile:
    """The entries of an instances file that can be meant.

    Single malformed annotations are left out and counted. An image that is malformed, too large,
    or whose id is given twice, so that nobody knows whose its annotations are, is bad, with all of
    them. Of two annotations with one id the first in the file is taken.

    Args:
        file: Its name, for messages.
        document: The parsed JSON.
        max_pixels: Images beyond it are bad.
        tally: Told what is malformed.

    Attributes:
        images: Usable images by id.
        bad_images: Why an image cannot be used, by id.
        categories: Name by category id.
        annotations: Usable as far as can be told without their masks, in the order of the file;
            their images are among `images` or `bad_images`.

    Raises:
        DataError: It is no instances file, or its categories are malformed.
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
            self._add_image(f"{file}: image number {index}", value)
        self.categories = self._read_categories(top.categories)
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
            self._tally.malformed(str(error))
            return
        if image_id in self.images or image_id in self.bad_images:
            self.images.pop(image_id, None)
            why = f"{self.file}: image id {image_id} is given twice; ids must be unique"
            self.bad_images[image_id] = why
            return
        try:
            image = read_row(CocoImage, value, where)
            check_pixels(image.file_name, image.size_hw, self._max_pixels)
        except DataError as error:
            self.bad_images[image_id] = str(error)
        else:
            self.images[image_id] = image

    def _read_categories(self, rows: list[Any]) -> dict[int, str]:
        found: dict[int, str] = {}
        for index, value in enumerate(rows):
            category = read_row(_Category, value, f"{self.file}: category number {index}")
            if category.id in found:
                raise DataError(
                    f"{self.file}: category id {category.id} is given twice; ids must be unique"
                )
            found[category.id] = category.name
        return found

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
        if row.category_id not in self.categories:
            raise DataError(
                f"{where} has category_id {row.category_id}, which the file does not define"
            )
        seen.add(row_id)
        return row
