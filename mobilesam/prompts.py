"""Prompts for one image: points, boxes and masks, validated once, when created."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from mobilesam.errors import UsageError
from mobilesam.inputs import Array, Float32Array, Int64Array, as_array

if TYPE_CHECKING:
    from torch import Tensor

# Number of dimensions, size of the last one, and the shape that replaces an empty list.
_SHAPES: dict[str, tuple[int, int | None, tuple[int, ...]]] = {
    "points": (3, 2, (0, 1, 2)),
    "labels": (2, None, (0, 1)),
    "boxes": (2, 4, (0, 4)),
    "mask_inputs": (4, None, (0, 1, 0, 0)),
}


class NetworkPrompts(NamedTuple):
    """N prompts in pixels of the network's input, as tensors on its device."""

    points: Tensor | None = None  # (N, K, 2) float xy
    labels: Tensor | None = None  # (N, K), 1 foreground, 0 background, -1 padding
    boxes: Tensor | None = None  # (N, 4) float xyxy
    mask_inputs: Tensor | None = None  # (N, 1, S/4, S/4) float logits, or one for all prompts


@dataclass(frozen=True, slots=True, eq=False)
class Prompts:
    """N prompts for one image, in pixels of the original image; N may be 0.

    Fields can be given as arrays, lists, tensors or data frames; read-only copies are kept.

    Attributes:
        points: (N, K, 2) float32 xy; pixel centres have integer coordinates.
        labels: (N, K) int64, 1 foreground and 0 background; required with `points`.
        boxes: (N, 4) float32 xyxy with half-open edges, so that a box of one pixel has side 1.
        mask_inputs: (N, 1, h, w) float32 low-resolution logits of an earlier prediction.
        sam_rules: Accept all that `segment_anything.SamPredictor` accepts: label -1 for padding,
            boxes with swapped corners, no points or boxes at all, and one mask input for N
            prompts. Coordinates are then float64, since SamPredictor scales them in float64.

    Raises:
        UsageError: No prompt at all, a wrong shape, different numbers of prompts, a value that is
            not finite, a label other than 0 or 1, or a box with its corners in the wrong order.
    """

    points: Float32Array | None = None
    labels: Int64Array | None = None
    boxes: Float32Array | None = None
    mask_inputs: Float32Array | None = None
    sam_rules: bool = False

    def __post_init__(self) -> None:
        if not self.sam_rules and self.points is None and self.boxes is None:
            raise UsageError("a prompt needs points or a box; got neither")
        if (self.points is None) != (self.labels is None):
            raise UsageError("points and labels go together; got only one of them")
        float_type = np.float64 if self.sam_rules else np.float32
        dtypes = {"labels": np.int64, "mask_inputs": np.float32}
        for name, value in self._given().items():
            array = _checked(name, value, dtypes.get(name, float_type))
            object.__setattr__(self, name, array)
        lengths = {name: len(value) for name, value in self._given().items()}
        if self.sam_rules and lengths.get("mask_inputs") == 1 and len(lengths) > 1:
            del lengths["mask_inputs"]  # one mask for all prompts
        if len(set(lengths.values())) > 1:
            raise UsageError(f"prompts differ in number: {lengths}; give one row each")
        if self.points is not None and self.labels is not None:
            is_empty = not self.sam_rules and len(self) > 0 and self.points.shape[1] == 0
            if self.points.shape[:2] != self.labels.shape or is_empty:
                raise UsageError(
                    f"points {self.points.shape} and labels {self.labels.shape} do not match"
                )
        if self.sam_rules:
            return
        if self.labels is not None and not np.isin(self.labels, (0, 1)).all():
            raise UsageError("labels must be 1 (foreground) or 0 (background)")
        if self.boxes is not None:
            check_boxes(self.boxes)

    def __len__(self) -> int:
        """Number of prompts; 1 if nothing is given, as segment-anything counts."""
        return len(next(iter(self._given().values()), (None,)))

    def __getitem__(self, rows: slice) -> Prompts:
        count, given = len(self), self._given()
        changes = {name: value[rows] for name, value in given.items() if len(value) == count}
        return replace(self, **changes)

    def batches(self, size: int) -> Iterator[Prompts]:
        """Yields consecutive parts of at most `size` prompts; together they are this value."""
        for start in range(0, len(self), size):
            yield self[start : start + size]

    def _given(self) -> dict[str, Any]:
        named = {name: getattr(self, name) for name in _SHAPES}
        return {name: value for name, value in named.items() if value is not None}


def check_boxes(boxes: Array) -> None:
    """Raises a UsageError for a box of (N, 4) xyxy that is empty or has its corners swapped."""
    is_bad = ~(boxes[:, 2:] > boxes[:, :2]).all(axis=1)
    if is_bad.any():
        row = int(np.argmax(is_bad))
        raise UsageError(
            f"box {row} is empty or has its corners swapped: {boxes[row].tolist()} "
            "(wanted x0, y0, x1, y1 with x1 > x0 and y1 > y0)"
        )


def _checked(name: str, value: Any, dtype: type) -> Array:
    """Read-only copy of the right type and shape, with finite values."""
    given = as_array(value, name)
    ndim, last, empty_shape = _SHAPES[name]
    if given.shape == (0,):
        given = given.reshape(empty_shape)
    if given.ndim != ndim or (last is not None and given.shape[-1] != last):
        ending = "" if last is None else f", the last of size {last}"
        hint = "; give one row for each prompt" if given.ndim == ndim - 1 else ""
        raise UsageError(f"{name} must have {ndim} dimensions{ending}; got {given.shape}{hint}")
    with np.errstate(over="ignore", invalid="ignore"):
        array: Array = np.array(given, dtype=dtype)
    is_finite = np.isfinite(given) & np.isfinite(array)
    if not is_finite.all():
        row = int(np.argwhere(~is_finite)[0][0])
        raise UsageError(f"{name} of prompt {row} hold NaN or infinity")
    array.setflags(write=False)
    return array
