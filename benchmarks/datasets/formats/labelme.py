"""LabelMe: a JSON file an image, with polygons, rectangles, circles and masks in pixels."""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Iterable
from pathlib import Path, PureWindowsPath
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from baselines.interface import UInt8Array
from benchmarks.datasets import PIXELS_CEILING, parsing
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
from benchmarks.datasets.formats.label_maps import read_label_map
from benchmarks.datasets.masks import encode_mask
from mobilesam.errors import DataError

_Point = Annotated[list[parsing.CoordinatePx], Field(min_length=2, max_length=2)]
_AREAS = ("polygon", "rectangle", "circle", "mask")


class _Shape(parsing.Row):
    label: Any = None
    points: list[_Point]
    shape_type: str | None = "polygon"
    group_id: Any = None
    mask: str | None = None


class _Document(parsing.Row):
    shapes: list[Any]
    imagePath: str | None = None  # noqa: N815 - LabelMe's names
    imageData: str | None = None  # noqa: N815
    imageHeight: parsing.LengthPx | None = None  # noqa: N815
    imageWidth: parsing.LengthPx | None = None  # noqa: N815


class LabelMeDataset(FolderDataset):
    """JSON files of LabelMe next to their images, or with the images in them (`imageData`).

    The image is the one of the same name, else that of `imagePath`, else `imageData`. Shapes of one
    label and `group_id` are one object, as in LabelMe's own conversion to COCO, which also gives
    the corners of circles. Points and lines have no area; they are left out and listed.
    """

    format_name = "labelme"

    def parser(self) -> AnnotationParser:
        """Returns the function that reads a JSON file."""
        return _parse

    def locate(self) -> Iterable[Entry]:
        """Finds all images and JSON files."""
        if self.root.is_file():
            yield Entry(self.relative(self.root), _beside(self.root), (self.root,))
            return
        files = find_files(self.root, IMAGE_SUFFIXES)
        images = by_key((str(path.with_suffix("")), path) for path in files)
        by_name: dict[str, list[str]] = {}
        for stem in images:
            by_name.setdefault(Path(stem).name, []).append(stem)
        documents = find_files(self.root, (".json",))
        if not any(b'"shapes"' in parsing.read_file(path) for path in documents):
            raise DataError(f"{self.root} contains no file of LabelMe, a JSON with shapes")
        for path in documents:
            same = by_name.get(path.stem, [])
            stem = str(path.with_suffix("")) if len(same) != 1 else same[0]
            image = images.pop(stem, None)
            yield Entry(self.relative(image or path), image, (path,))
        for image in images.values():
            yield Entry(self.relative(image), image, (), f"{image.stem}.json is missing")


def _beside(path: Path) -> Path | None:
    candidates = (path.with_suffix(suffix) for suffix in IMAGE_SUFFIXES)
    return next((each for each in candidates if each.is_file()), None)


def _parse(entry: Entry, load: ImageLoader) -> tuple[UInt8Array, list[FoundObject]]:
    (path,) = entry.files
    content = parsing.parse_json(parsing.read_file(path), path.name)
    try:
        where = "the file" if entry.name == path.name else path.name
        document = parsing.read_row(_Document, content, where)
    except DataError as error:
        raise DataError(f"{error}; is this a file of LabelMe?") from error
    size = document.imageHeight, document.imageWidth
    stated = (size[0], size[1]) if size[0] is not None and size[1] is not None else None
    image = load(_image_source(entry, path, document), stated)
    size_hw = image.shape[0], image.shape[1]
    objects: list[FoundObject] = []
    groups: dict[tuple[str, str], tuple[str, list[Any]]] = {}
    for number, value in enumerate(document.shapes):
        where = f"{path.name}: shape {number}"
        try:
            shape = parsing.read_row(_Shape, value, "the shape")
            if not isinstance(shape.label, str) or not shape.label.strip():
                raise DataError("has no label, the name of its class")
            segmentation = _segmentation(shape, size_hw)
            if shape.group_id is None or isinstance(segmentation, dict):
                objects.append(FoundObject(where, shape.label, segmentation))
                continue
            key = shape.label, repr(shape.group_id)
            if key not in groups:
                groups[key] = where, []
                objects.append(FoundObject(where, shape.label, groups[key][1]))
            groups[key][1].extend(segmentation)
        except DataError as error:
            objects.append(FoundObject(where, problem=str(error)))
    return image, objects


def _image_source(entry: Entry, path: Path, document: _Document) -> Path | bytes | None:
    if entry.image is not None:
        return entry.image
    if document.imagePath:
        # LabelMe on Windows writes backslashes. Only files below the folder are read.
        parts = [part for part in PureWindowsPath(document.imagePath).parts if part != ".."]
        for candidate in (path.parent.joinpath(*parts), path.parent / parts[-1]) if parts else ():
            if candidate.is_file() and path.parent in candidate.parents:
                return candidate
    if document.imageData:
        return _from_base64(document.imageData, "imageData")
    named = f"; imagePath is {document.imagePath!r}" if document.imagePath else ""
    raise DataError(f"{path.name} has no image: no file of the same name and no imageData{named}")


def _from_base64(text: str, what: str) -> bytes:
    try:
        return base64.b64decode(text, validate=False)
    except (binascii.Error, ValueError) as error:
        raise DataError(f"{what} is not base64: {error}") from error


def _segmentation(shape: _Shape, size_hw: tuple[int, int]) -> Any:
    """Polygons, or the RLE of a mask, of one shape."""
    kind, points = shape.shape_type or "polygon", shape.points
    if kind not in _AREAS:
        raise DataError(f"{kind} has no area; wanted {', '.join(_AREAS)}")
    if kind == "polygon":
        return [[value for point in points for value in point]]
    if len(points) != 2:
        raise DataError(f"{kind} has {len(points)} points; wanted 2")
    (x0, y0), (x1, y1) = points
    if kind == "rectangle":
        return [[x0, y0, x1, y0, x1, y1, x0, y1]]
    if kind == "circle":
        radius = math.hypot(x1 - x0, y1 - y0)
        # As many corners as keep the outline within a pixel of the circle, at least 12.
        n_corners = max(int(math.pi / math.acos(1 - 1 / radius)), 12) if radius > 1 else 12
        angles = 2 * np.pi / n_corners * np.arange(n_corners)
        corners = np.stack([x0 + radius * np.sin(angles), y0 + radius * np.cos(angles)], axis=1)
        return [[float(value) for value in corners.ravel()]]
    if shape.mask is None:
        raise DataError("mask has no pixels")
    pixels = read_label_map(_from_base64(shape.mask, "mask"), "its mask", PIXELS_CEILING) > 0
    left, top = round(min(x0, x1)), round(min(y0, y1))
    height, width = pixels.shape
    if left < 0 or top < 0 or left + width > size_hw[1] or top + height > size_hw[0]:
        raise DataError(
            f"its mask of {width}x{height} px at {left},{top} lies outside of the picture of "
            f"{size_hw[1]}x{size_hw[0]} px"
        )
    mask = np.zeros(size_hw, np.bool_)
    mask[top : top + height, left : left + width] = pixels
    return dict(encode_mask(mask))
