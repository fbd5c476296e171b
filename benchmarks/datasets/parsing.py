"""Parses and validates annotation files; errors name file, place and problem."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import numpy as np
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from baselines.interface import Float32Array
from benchmarks.datasets import MAX_PROBLEMS
from benchmarks.datasets.dataset import Instance
from benchmarks.datasets.masks import Rle, rle_area_px, rle_box, segmentation_to_rle
from mobilesam.errors import DataError, UsageError, first_problem

MALFORMED = "malformed"
"""Reason for leaving out an annotation that is not valid."""

_NORMALISED = "normalised? give pixels, x times the width and y times the height"
# Share of boxes beyond their image above which `bbox` is likely to be xyxy; real files have a few.
_BEYOND_SHARE = 0.2
# First bytes of compressed files, with the format and the tool that unpacks it.
_COMPRESSED = {
    b"\x1f\x8b": ("gzip", "gunzip"),
    b"PK\x03\x04": ("zip", "unzip"),
    b"BZh": ("bzip2", "bunzip2"),
    b"\xfd7zXZ\x00": ("xz", "unxz"),
    b"\x28\xb5\x2f\xfd": ("Zstandard", "unzstd"),
}


def whole(value: object) -> object:
    """Converts a float without a fraction to an int; returns other values unchanged."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Id = Annotated[int, BeforeValidator(whole), Field(ge=-(2**63), lt=2**63)]
LengthPx = Annotated[int, BeforeValidator(whole), Field(ge=1, lt=2**31)]
# Beyond 1e9 px a float32 could overflow, and no image is that large.
CoordinatePx = Annotated[float, Field(gt=-1e9, lt=1e9)]
XywhBox = Annotated[list[CoordinatePx], Field(min_length=4, max_length=4)]


class Row(BaseModel):
    """Base of models of foreign JSON: strict types, no NaN, unknown keys ignored."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore", allow_inf_nan=False)


class IdentifiedRow(Row):
    """An entry with an id."""

    id: Id


class AnnotationRow(IdentifiedRow):
    """Fields common to annotations of COCO and SA-1B; the mask is checked when it is read."""

    segmentation: Any
    bbox: XywhBox | None = None
    area: float | None = None


RowT = TypeVar("RowT", bound=Row)
AnnotationT = TypeVar("AnnotationT", bound=AnnotationRow)


def read_row(kind: type[RowT], value: object, where: str) -> RowT:
    """Validates a part of a JSON document; raises `DataError`, which begins with `where`."""
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        raise DataError(f"{where}: {first_problem(error)}; correct or remove it") from error


class AnnotationLog:
    """Converts annotations to instances; counts the unused ones and lists the malformed ones.

    Attributes:
        left_out: Number of unused annotations by reason; given reasons are counted from the start.
        problems: One line for each of the first malformed annotations.
    """

    def __init__(self, file: str, *reasons: str) -> None:
        self._file = file
        self.left_out = Counter(dict.fromkeys(reasons, 0))
        self.problems: list[str] = []
        # `used`, `boxes` and `boxes beyond` of used annotations; `no mask` and `normalised` of
        # empty ones.
        self._counts: Counter[str] = Counter()

    def malformed(self, problem: str) -> None:
        """Records a malformed annotation."""
        self.left_out[MALFORMED] += 1
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(problem)

    def read_rows(
        self,
        kind: type[AnnotationT],
        values: Sequence[object],
        problem_of: Callable[[AnnotationT], str | None] = lambda _: None,
    ) -> list[AnnotationT]:
        """Validates annotations; malformed ones and those with a used id are left out.

        `problem_of` returns a further problem of an annotation, such as `has no image`.
        """
        rows: dict[int, AnnotationT] = {}
        for index, value in enumerate(values):
            number = f"{self._file}: annotation number {index}"
            try:
                row_id = read_row(IdentifiedRow, value, number).id
                where = f"{self._file}: annotation {row_id}"
                row = read_row(kind, value, where)
            except DataError as error:
                self.malformed(str(error))
                continue
            if row_id in rows:
                given_twice = f"annotation id {row_id} is given twice; ids must be unique"
                self.malformed(f"{number}: {given_twice}")
            elif (problem := problem_of(row)) is not None:
                self.malformed(f"{where} {problem}")
            else:
                rows[row_id] = row
        return list(rows.values())

    def instance(
        self,
        row: AnnotationRow,
        size_hw: tuple[int, int],
        *,
        category: str = "",
        category_id: int | None = None,
        points: Float32Array | None = None,
        inclusive_maxima: bool = False,
    ) -> Instance | None:
        """Converts an annotation; None, counted as `malformed` or `empty`, if it cannot be used.

        With `inclusive_maxima` the box includes its maxima, as in SA-1B: 1 is added to its width
        and height.
        """
        polygons = row.segmentation if isinstance(row.segmentation, list) else []
        try:
            rle = segmentation_to_rle(row.segmentation, size_hw)
            area_px = rle_area_px(rle)
            is_normalised = (
                len(polygons) > 0
                and min(size_hw) > 1
                and all(0 <= value <= 1 for polygon in polygons for value in polygon)
            )
            if area_px == 0 and polygons and not is_normalised:
                _check_not_outside(polygons, size_hw)
            if area_px == 0 or is_normalised:
                self.left_out["empty"] += 1
                self._counts["normalised"] += is_normalised
                self._counts["no mask"] += row.segmentation == []
                return None
            box = _box_of(row.bbox, rle, size_hw, int(inclusive_maxima))
        except DataError as error:
            self.malformed(f"{self._file}: annotation {row.id}: {error}")
            return None
        self._counts["used"] += 1
        if row.bbox is not None:
            x, y, width, height = row.bbox
            is_beyond = x + width > size_hw[1] + 1 or y + height > size_hw[0] + 1
            self._counts["boxes"] += 1
            self._counts["boxes beyond"] += is_beyond
        area = float(area_px if row.area is None else row.area)
        return Instance(row.id, category, area, box, rle, points, category_id)

    @property
    def why_unusable(self) -> str:
        """Why no annotation is usable: counts by reason, and the first malformed annotation."""
        total = self._counts["used"] + self.left_out.total()
        if total == 0:
            return "there is none"
        n_no_mask, n_normalised = self._counts["no mask"], self._counts["normalised"]
        # The caller's message names the file, so it is removed from the start of the problem.
        first = f" (first: {self.problems[0].partition(': ')[2]})" if self.problems else ""
        parts = {
            "have no mask: boxes only?": n_no_mask,
            f"have polygons between 0 and 1: {_NORMALISED}": n_normalised,
            "have a mask without a pixel": self.left_out["empty"] - n_no_mask - n_normalised,
            "are crowd regions": self.left_out["crowd"],
            f"are malformed{first}": self.left_out[MALFORMED],
        }
        return ", ".join(f"{n} of {total} {what}" for what, n in parts.items() if n > 0)

    @property
    def hints(self) -> tuple[str, ...]:
        """Hints about likely mistakes in the annotations, one line each."""
        found = []
        n_normalised, n_boxes = self._counts["normalised"], self._counts["boxes"]
        if n_normalised:
            found.append(f"{n_normalised} annotations have polygons between 0 and 1: {_NORMALISED}")
        if self._counts["boxes beyond"] > _BEYOND_SHARE * n_boxes:
            found.append(
                f"{self._counts['boxes beyond']} of {n_boxes} boxes end beyond their image: COCO's "
                "bbox is [x, y, width, height]; are these [x0, y0, x1, y1]?"
            )
        return tuple(found)


def _check_not_outside(polygons: Sequence[Sequence[float]], size_hw: tuple[int, int]) -> None:
    """Refuses polygons of which no part can be in the image."""
    corners = np.concatenate([np.reshape(polygon, (-1, 2)) for polygon in polygons])
    if (corners.max(axis=0) < 0).any() or (corners.min(axis=0) > size_hw[::-1]).any():
        raise DataError(f"all polygons lie outside of the image of {size_hw[1]}x{size_hw[0]} px")


def _box_of(
    bbox: Sequence[float] | None, rle: Rle, size_hw: tuple[int, int], extra_px: int
) -> Float32Array:
    """Converts xywh to (4,) float32 xyxy with half-open edges, not clipped to the image.

    The tight box of the mask replaces a missing `bbox`, and one without extent in float32.
    """
    if bbox is None:
        return rle_box(rle)
    x, y, width, height = bbox
    box = np.array([x, y, x + width + extra_px, y + height + extra_px], dtype=np.float32)
    if not (box[2:] > box[:2]).all():
        return rle_box(rle)
    if (box[2:] <= 0).any() or (box[:2] >= size_hw[::-1]).any():
        raise DataError(
            f"bbox {list(bbox)} lies outside of the image of {size_hw[1]}x{size_hw[0]} px"
        )
    return box


def read_file(path: Path) -> bytes:
    """Reads a whole file; raises `DataError` if it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error


def parse_json(data: bytes, name: str) -> object:
    """Parses JSON; raises `DataError` if it is compressed or not valid."""
    for magic, (kind, program) in _COMPRESSED.items():
        if data.startswith(magic):
            raise DataError(f"{name} is compressed ({kind}); unpack it first, with {program}")
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{name} is not valid JSON: {error}; fetch or write it again") from error


def fingerprint(kind: str, limit: int | None, parts: Iterable[bytes]) -> str:
    """SHA-256 (hex) over the kind of a dataset, its limit and its annotation bytes."""
    digest = hashlib.sha256(f"{kind} limit={limit}".encode())
    for part in parts:
        digest.update(f" {len(part)}:".encode())
        digest.update(part)
    return digest.hexdigest()


def check_limit(limit: int | None) -> None:
    """Raises `UsageError` for a limit below 1."""
    if limit is not None and limit < 1:
        raise UsageError(f"a limit of {limit} images leaves nothing; give 1 or more")
