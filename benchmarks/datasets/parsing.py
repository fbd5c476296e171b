"""Reads annotation files that may hold anything: what is refused is named with its place."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import numpy as np
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
)

from baselines.interface import Float32Array
from benchmarks.datasets.limits import MAX_PROBLEMS
from benchmarks.datasets.masks import Rle, rle_area_px, rle_box, segmentation_to_rle
from mobilesam.errors import DataError, UsageError
from mobilesam.validation import first_problem

MALFORMED = "malformed"
"""Reason for which something is left out that should not have been there."""


def whole(value: object) -> object:
    """Converts a float without a fraction to an int; returns other values unchanged."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Id = Annotated[int, BeforeValidator(whole), Field(ge=-(2**63), lt=2**63)]
LengthPx = Annotated[int, BeforeValidator(whole), Field(ge=1, lt=2**31)]
# Beyond 1e9 px a float32 could overflow, and nothing is that large.
CoordinatePx = Annotated[float, Field(gt=-1e9, lt=1e9)]
XywhBox = Annotated[list[CoordinatePx], Field(min_length=4, max_length=4)]
# A name that breaks a line, or that no file can have, would break messages and records.
FileName = Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f\x7f]+$")]


class Row(BaseModel):
    """Base of what somebody else's JSON holds: no type is guessed, no NaN; more keys may follow."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore", allow_inf_nan=False)


class Shape(Row):
    """What COCO's and SA-1B's annotations have in common; the mask is checked where it is read."""

    id: Id
    segmentation: Any
    bbox: XywhBox | None = None
    area: float | None = None


Usable = tuple[Rle, Float32Array, float] | None
"""Mask, (4,) float32 xyxy box with half-open edges, and area in pixels as it is stated."""

RowT = TypeVar("RowT", bound=Row)

_NORMALISED = "normalised? give pixels, x times the width and y times the height"
# In real files, some boxes reach out of their image.
_BEYOND_SHARE = 0.2
_COMPRESSED = {
    b"\x1f\x8b": ("gzip", "gunzip"),
    b"PK\x03\x04": ("zip", "unzip"),
    b"BZh": ("bzip2", "bunzip2"),
    b"\xfd7zXZ\x00": ("xz", "unxz"),
    b"\x28\xb5\x2f\xfd": ("Zstandard", "unzstd"),
}
"""First bytes of unsupported compressed files, with the format and the tool that unpacks it."""


def read_row(kind: type[RowT], value: object, where: str) -> RowT:
    """Checks a part of a JSON document.

    Args:
        kind: What it should be.
        value: The part.
        where: File and place, for the message.

    Raises:
        DataError: It is something else; says what and where.
    """
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        raise DataError(f"{where}: {first_problem(error)}; mend or remove it") from error


class Tally:
    """Counts the annotations of a dataset that are not used, and says why of the malformed ones.

    Args:
        reasons: All that can occur, so that each has a count from the start.

    Attributes:
        left_out: Annotations by reason.
        problems: One line for each of the first malformed annotations.
        n_used: Annotations that are used.
        n_no_mask: Empty annotations whose `segmentation` is an empty list.
        n_normalised: Annotations whose polygons lie between 0 and 1 in a larger image.
        n_boxes: Used annotations that have a box.
        n_beyond: Those of `n_boxes` whose box ends beyond the right or lower edge of the image.
    """

    def __init__(self, *reasons: str) -> None:
        self.left_out = Counter(dict.fromkeys(reasons, 0))
        self.problems: list[str] = []
        self.n_used = 0
        self.n_no_mask = 0
        self.n_normalised = 0
        self.n_boxes = 0
        self.n_beyond = 0

    def add(self, other: Tally) -> None:
        """Adds the counts of another tally."""
        self.left_out.update(other.left_out)
        self.problems.extend(other.problems[: MAX_PROBLEMS - len(self.problems)])
        self.n_used += other.n_used
        self.n_no_mask += other.n_no_mask
        self.n_normalised += other.n_normalised
        self.n_boxes += other.n_boxes
        self.n_beyond += other.n_beyond

    @property
    def why_nothing(self) -> str:
        """Why no annotation can be used: counts by reason, and the first malformed annotation."""
        total = self.n_used + self.left_out.total()
        if total == 0:
            return "there is none"
        n_no_pixel = self.left_out["empty"] - self.n_no_mask - self.n_normalised
        # The caller's message names the file, so it is removed from the start of the problem.
        first = f" (first: {self.problems[0].partition(': ')[2]})" if self.problems else ""
        parts = {
            "have no mask: boxes only?": self.n_no_mask,
            f"have polygons between 0 and 1: {_NORMALISED}": self.n_normalised,
            "have a mask without a pixel": n_no_pixel,
            "are crowd regions": self.left_out["crowd"],
            f"are malformed{first}": self.left_out[MALFORMED],
        }
        return ", ".join(f"{n} of {total} {what}" for what, n in parts.items() if n > 0)

    @property
    def hints(self) -> tuple[str, ...]:
        """Hints about likely mistakes in the annotations, one line each."""
        found = []
        if self.n_normalised:
            found.append(f"{self.n_normalised} annotations have polygons between 0 and 1: "
                         f"{_NORMALISED}")  # fmt: skip
        if self.n_beyond > _BEYOND_SHARE * self.n_boxes:
            found.append(
                f"{self.n_beyond} of {self.n_boxes} boxes end beyond their image: COCO's bbox is "
                "[x, y, width, height]; are these [x0, y0, x1, y1]?"
            )
        return tuple(found)

    def malformed(self, why: str) -> None:
        """Counts one that should not have been there."""
        self.left_out[MALFORMED] += 1
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(why)

    def usable(self, where: str, row: Shape, size_hw: tuple[int, int], extra_px: int) -> Usable:
        """Reads mask and box of an annotation.

        Args:
            where: File and annotation, for messages.
            row: The annotation.
            size_hw: Size of its image, in pixels.
            extra_px: Added to width and height of the box: 1 where maxima are inclusive (SA-1B),
                else 0.

        Returns:
            What can be used; None, counted as `malformed` or `empty`, if nothing can.
        """
        try:
            rle = segmentation_to_rle(row.segmentation, size_hw)
            area_px = rle_area_px(rle)
            is_normalised = _is_normalised(row.segmentation, size_hw)
            self.n_normalised += is_normalised
            if area_px == 0 or is_normalised:
                self.left_out["empty"] += 1
                self.n_no_mask += row.segmentation == []
                return None
            box = _box_of(row.bbox, rle, size_hw, extra_px)
        except DataError as error:
            self.malformed(f"{where}: {error}")
            return None
        self.n_used += 1
        if row.bbox is not None:
            self.n_boxes += 1
            self.n_beyond += _ends_beyond(row.bbox, size_hw)
        return rle, box, float(area_px if row.area is None else row.area)


def _is_normalised(segmentation: object, size_hw: tuple[int, int]) -> bool:
    """Whether all polygon corners lie between 0 and 1 although the image is larger."""
    if not isinstance(segmentation, list) or not segmentation or min(size_hw) == 1:
        return False
    return all(0 <= value <= 1 for polygon in segmentation for value in polygon)


def _ends_beyond(bbox: Sequence[float], size_hw: tuple[int, int]) -> bool:
    """Whether a box ends more than a pixel beyond the right or lower edge of its image."""
    x, y, width, height = bbox
    return x + width > size_hw[1] + 1 or y + height > size_hw[0] + 1


def _box_of(
    bbox: Sequence[float] | None, rle: Rle, size_hw: tuple[int, int], extra_px: int
) -> Float32Array:
    """An annotation's xywh as (4,) float32 xyxy with half-open edges, not cut to the image.

    The tight box of its mask is used where `bbox` is missing or has no extent, be it that float32
    leaves none of it.
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
    """Reads a whole file, or says why it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error


def parse_json(data: bytes, name: str) -> object:
    """Parses JSON, or says where it goes wrong."""
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
    """Refuses a limit below one."""
    if limit is not None and limit < 1:
        raise UsageError(f"a limit of {limit} images leaves nothing; give 1 or more")
