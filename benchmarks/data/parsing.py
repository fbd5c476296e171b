"""Reads annotation files that may hold anything: each check names the place and the value."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from baselines.interface import Float32Array
from benchmarks.data.masks import Rle, rle_area_px, rle_box, segmentation_to_rle
from mobilesam.errors import DataError, UsageError


class Tally:
    """Counts the annotations of a dataset that are not used, and says why of the malformed ones.

    Args:
        reasons: All that can occur, so that each has a count from the start.

    Attributes:
        left_out: Annotations by reason.
        problems: One line for each malformed annotation.
    """

    def __init__(self, *reasons: str) -> None:
        self.left_out = Counter(dict.fromkeys(reasons, 0))
        self.problems: list[str] = []

    def usable_mask(
        self, file: str, row: Mapping[str, Any], size_hw: tuple[int, int]
    ) -> tuple[Rle, int] | None:
        """Reads the mask of an annotation.

        Args:
            file: The annotation file's name, for messages.
            row: The annotation.
            size_hw: Size of its image, in pixels.

        Returns:
            The mask and its area in pixels; None, counted as `malformed` or `empty`, without one.
        """
        try:
            rle = segmentation_to_rle(row["segmentation"], size_hw)
        except DataError as error:
            self.left_out["malformed"] += 1
            self.problems.append(f"{file}: annotation {row['id']}: {error}")
            return None
        area_px = rle_area_px(rle)
        if area_px == 0:
            self.left_out["empty"] += 1
            return None
        return rle, area_px


def box_of(bbox: object, rle: Rle, extra_px: int) -> Float32Array:
    """Turns an annotation's xywh into (4,) float32 xyxy with half-open edges.

    Args:
        bbox: Checked by `check_numbers`; None if the annotation has none.
        rle: Its mask, whose tight box is used where `bbox` is missing or has no extent, be it
            that float32 leaves none of it.
        extra_px: Added to width and height: 1 where maxima are inclusive (SA-1B), else 0.
    """
    if isinstance(bbox, list):
        x, y, width, height = (float(value) for value in bbox)
        box = np.array([x, y, x + width + extra_px, y + height + extra_px], dtype=np.float32)
        if (box[2:] > box[:2]).all():
            return box
    return rle_box(rle)


def check_numbers(row: Mapping[str, Any], where: str) -> None:
    """Refuses an annotation whose `bbox` or `area`, where given, is not made of finite numbers.

    Raises:
        DataError: With `where`, the key and the value.
    """
    bbox = row.get("bbox")
    if bbox is not None and not (isinstance(bbox, list) and len(bbox) == 4 and is_finite(bbox)):
        raise DataError(f"{where}: bbox {bbox!r} is not four finite numbers; mend or remove it")
    if "area" in row and not is_finite([row["area"]]):
        raise DataError(f"{where}: area {row['area']!r} is not a finite number; mend or remove it")


def is_finite(values: list[Any]) -> bool:
    """Tells whether all values are finite numbers of a size that pixels can have."""
    # Beyond 1e9 px a float32 could overflow, and nothing is that large.
    return all(
        isinstance(value, (int, float)) and not isinstance(value, bool)
        and abs(value) < 1e9 and not math.isnan(value)
        for value in values
    )  # fmt: skip


def whole_number(value: object, where: str, low: int = -(2**63)) -> int:
    """Returns a value that must be a whole number of at least `low` and fit into int64."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value < 2**63:
        raise DataError(f"{where} is {value!r}; wanted a whole number")
    return value


def require_keys(row: object, where: str, *keys: str) -> dict[str, Any]:
    """Returns a JSON object that must have these keys; a DataError names the first missing one."""
    if not isinstance(row, dict):
        raise DataError(f"{where} is not a JSON object")
    for key in keys:
        if key not in row:
            raise DataError(f"{where} has no {key!r}; is this an instances file?")
    return row


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
