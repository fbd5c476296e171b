"""Masks as runs of pixels, column by column, as COCO has them: small whatever the image's size."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Int64Array = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class MaskRuns:
    """One mask.

    Attributes:
        size_hw: Height and width of the image, in pixels.
        edges: (2 R,) int64, ascending: where each of R runs starts and where it has ended, counted
            down the columns.
    """

    size_hw: tuple[int, int]
    edges: Int64Array

    @property
    def area_px(self) -> int:
        """Pixels of the mask."""
        return int((self.edges[1::2] - self.edges[::2]).sum())

    def counts(self) -> list[int]:
        """Lengths of the runs outside and inside in turn, outside first (COCO's `counts`)."""
        height, width = self.size_hw
        bounds = np.concatenate(([0], self.edges, [height * width]))
        counts: list[int] = np.diff(bounds).tolist()
        if len(counts) > 1 and counts[-1] == 0:
            counts.pop()
        return counts

    def uncompressed(self) -> dict[str, Any]:
        """COCO's uncompressed notation: `size` and `counts` as numbers."""
        return {"size": list(self.size_hw), "counts": self.counts()}

    def compressed(self) -> dict[str, Any]:
        """COCO's compressed notation, with `counts` as text so that it goes into JSON."""
        from pycocotools import mask as coco_mask

        found = coco_mask.frPyObjects(self.uncompressed(), *self.size_hw)
        return {"size": found["size"], "counts": found["counts"].decode()}

    def to_mask(self) -> BoolArray:
        """(H, W) bool, new, in column order."""
        height, width = self.size_hw
        counts = self.counts()
        values = np.arange(len(counts)) % 2 == 1
        return np.repeat(values, counts).reshape(width, height).T


def strip_edges(strip: BoolArray, left: int, top: int, height: int) -> Int64Array:
    """Where the runs of some columns begin and end.

    Args:
        strip: (columns, rows), transposed; pixels of these columns in other rows are outside.
        left: Column of the image at which the strip begins.
        top: Row of the image at which it begins.
        height: Rows of the image.

    Returns:
        (2 R,) int64, ascending; a run that goes on in the next column is in two parts.
    """
    columns, rows = strip.shape
    padded = np.zeros((columns, rows + 2), np.bool_)
    padded[:, 1:-1] = strip
    changes = np.flatnonzero(padded[:, 1:] != padded[:, :-1])
    column, row = np.divmod(changes, rows + 1)
    edges: Int64Array = (column + left) * height + row + top
    return edges


def join_edges(parts: Iterable[Int64Array]) -> Int64Array:
    """Puts the edges of neighbouring strips together, and runs that touch into one."""
    edges = np.concatenate([np.empty(0, np.int64), *parts])
    same = np.flatnonzero(edges[1:-1:2] == edges[2::2]) * 2 + 1
    return np.delete(edges, np.concatenate((same, same + 1)))


def runs_of_mask(mask: BoolArray) -> MaskRuns:
    """The runs of an (H, W) mask."""
    height, width = (int(side) for side in mask.shape)
    return MaskRuns((height, width), join_edges([strip_edges(mask.T, 0, 0, height)]))
