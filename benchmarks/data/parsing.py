"""Reads annotation files that may hold anything: what is refused is named with its place."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from baselines.interface import Float32Array
from benchmarks.data.limits import MAX_PROBLEMS
from benchmarks.data.masks import Rle, rle_area_px, rle_box, segmentation_to_rle
from mobilesam.errors import DataError, UsageError
from mobilesam.validation import first_problem

MALFORMED = "malformed"
"""Reason for which something is left out that should not have been there."""

Id = Annotated[int, Field(ge=-(2**63), lt=2**63)]
LengthPx = Annotated[int, Field(ge=1, lt=2**31)]
# Beyond 1e9 px a float32 could overflow, and nothing is that large.
CoordinatePx = Annotated[float, Field(gt=-1e9, lt=1e9)]
XywhBox = Annotated[list[CoordinatePx], Field(min_length=4, max_length=4)]
# A name that breaks a line, or that no file can have, would break messages and records.
FileName = Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f\x7f]+$")]


class Row(BaseModel):
    """Base of what somebody else's JSON holds: no type is guessed, no NaN; more keys may follow."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore", allow_inf_nan=False)


RowT = TypeVar("RowT", bound=Row)


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
    """

    def __init__(self, *reasons: str) -> None:
        self.left_out = Counter(dict.fromkeys(reasons, 0))
        self.problems: list[str] = []

    def malformed(self, why: str) -> None:
        """Counts one that should not have been there."""
        self.left_out[MALFORMED] += 1
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(why)

    def usable_mask(
        self, where: str, segmentation: object, size_hw: tuple[int, int]
    ) -> tuple[Rle, int] | None:
        """Reads the mask of an annotation.

        Args:
            where: File and annotation, for messages.
            segmentation: In any of COCO's notations.
            size_hw: Size of its image, in pixels.

        Returns:
            The mask and its area in pixels; None, counted as `malformed` or `empty`, without one.
        """
        try:
            rle = segmentation_to_rle(segmentation, size_hw)
        except DataError as error:
            self.malformed(f"{where}: {error}")
            return None
        area_px = rle_area_px(rle)
        if area_px == 0:
            self.left_out["empty"] += 1
            return None
        return rle, area_px


def box_of(bbox: Sequence[float] | None, rle: Rle, extra_px: int) -> Float32Array:
    """Turns an annotation's xywh into (4,) float32 xyxy with half-open edges.

    Args:
        bbox: An `XywhBox`; None if the annotation has none.
        rle: Its mask, whose tight box is used where `bbox` is missing or has no extent, be it
            that float32 leaves none of it.
        extra_px: Added to width and height: 1 where maxima are inclusive (SA-1B), else 0.
    """
    if bbox is not None:
        x, y, width, height = bbox
        box = np.array([x, y, x + width + extra_px, y + height + extra_px], dtype=np.float32)
        if (box[2:] > box[:2]).all():
            return box
    return rle_box(rle)


def read_file(path: Path) -> bytes:
    """Reads a whole file, or says why it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error


def parse_json(data: bytes, name: str) -> object:
    """Parses JSON, or says where it goes wrong."""
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
