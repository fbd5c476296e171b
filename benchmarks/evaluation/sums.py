"""Adds up instance tables that fit in no memory: of each image a few sums are kept, no rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from baselines.interface import Int64Array
from benchmarks.evaluation.summaries import SIZES
from benchmarks.records.statistics import Float64Array
from mobilesam.errors import DataError

BATCH_ROWS = 2**18
"""Rows in memory at once."""

Group = tuple[str, str, str]
"""Model, protocol and reference."""
_TEXTS = ("model", "protocol", "reference", "category")
_COLUMNS = (*_TEXTS, "image_id", "iou", "boundary_iou", "area")
_IntArray = npt.NDArray[np.integer[Any]]


class PerImage:
    """Count and sums of each image, some columns of values at once.

    Args:
        n_columns: Of values.
    """

    def __init__(self, n_columns: int) -> None:
        self._ids: list[Int64Array] = []
        self._counts: list[npt.NDArray[np.int32]] = []
        self._sums: list[list[Float64Array]] = [[] for _ in range(n_columns)]
        self._limits = np.array([[np.inf, -np.inf]] * n_columns)

    def add(self, images: Int64Array, *columns: Float64Array) -> None:
        """Adds instances: of each its image, and its value in each column."""
        ids, index = np.unique(images, return_inverse=True)
        self._ids.append(ids)
        self._counts.append(np.bincount(index).astype(np.int32))
        for place, values in enumerate(columns):
            self._sums[place].append(np.bincount(index, weights=values).astype(np.float64))
            low, high = self._limits[place]
            self._limits[place] = min(low, values.min()), max(high, values.max())

    def finish(self) -> tuple[Float64Array, list[Float64Array]]:
        """Counts, and the sums of each column, of all images by ascending id.

        An image whose instances came in several calls is one image.
        """
        ids, index = np.unique(np.concatenate(self._ids), return_inverse=True)
        counts = np.bincount(index, np.concatenate(self._counts), len(ids)).astype(np.float64)
        sums = [np.bincount(index, np.concatenate(each), len(ids)) for each in self._sums]
        return counts, [each.astype(np.float64) for each in sums]

    def limits(self, column: int) -> tuple[float, float]:
        """The least and the greatest value of a column."""
        low, high = self._limits[column]
        return float(low), float(high)


def _sizes() -> dict[str, list[float]]:
    return {name: [0.0, 0.0] for name in SIZES}


@dataclass(slots=True)
class GroupSums:
    """What is kept of the instances of one model, protocol and reference.

    Attributes:
        images: Sums of IoU (column 0) and boundary IoU (column 1).
        by_size: Instances and sum of IoU by size class.
        by_category: Instances and sum of IoU by category.
    """

    images: PerImage = field(default_factory=lambda: PerImage(2))
    by_size: dict[str, list[float]] = field(default_factory=_sizes)
    by_category: dict[str, list[float]] = field(default_factory=dict)

    def add(self, rows: _Columns, inside: npt.NDArray[np.bool_]) -> None:
        """Adds the rows of a batch that belong to this group."""
        ious, areas = rows.iou[inside], rows.area[inside]
        self.images.add(rows.image_id[inside], ious, rows.boundary_iou[inside])
        for name, (low, high) in SIZES.items():
            of_size = (areas >= low) & (areas < high)
            self.by_size[name][0] += float(of_size.sum())
            self.by_size[name][1] += float(ious[of_size].sum())
        codes, names = rows.codes["category"][inside], rows.names["category"]
        counts = np.bincount(codes, minlength=len(names))
        sums = np.bincount(codes, weights=ious, minlength=len(names))
        for name, n, total in zip(names, counts, sums, strict=True):
            if name and n:
                found = self.by_category.setdefault(name, [0.0, 0.0])
                found[0] += float(n)
                found[1] += float(total)


@dataclass(frozen=True, slots=True, eq=False)
class _Columns:
    """A batch of rows; texts as codes into lists of names."""

    image_id: Int64Array
    iou: Float64Array
    boundary_iou: Float64Array
    area: Float64Array
    codes: dict[str, _IntArray]
    names: dict[str, list[str]]

    def groups(self) -> Iterator[tuple[Group, npt.NDArray[np.bool_]]]:
        """Each group of the batch, with which rows are its own."""
        n_protocols, n_references = len(self.names["protocol"]), len(self.names["reference"])
        joined = self.codes["model"].astype(np.int64) * n_protocols + self.codes["protocol"]
        joined = joined * n_references + self.codes["reference"]
        for code in np.unique(joined):
            rest, reference = divmod(int(code), n_references)
            model, protocol = divmod(rest, n_protocols)
            group = (
                self.names["model"][model],
                self.names["protocol"][protocol],
                self.names["reference"][reference],
            )
            yield group, joined == code


def sum_up(files: Iterable[Path]) -> dict[Group, GroupSums]:
    """Adds up the rows of many instance tables, a batch of rows in memory at once.

    Args:
        files: Parquet files as `write_instances` makes them. One image's rows may lie anywhere.

    Raises:
        DataError: One cannot be read, is not such a table, or holds an IoU that is no number.
    """
    found: dict[Group, GroupSums] = {}
    for file in files:
        for rows in _batches(file):
            for group, inside in rows.groups():
                found.setdefault(group, GroupSums()).add(rows, inside)
    return found


def _batches(file: Path) -> Iterator[_Columns]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(file, read_dictionary=list(_TEXTS)) as parquet:
            for batch in parquet.iter_batches(BATCH_ROWS, columns=list(_COLUMNS)):
                if batch.num_rows:
                    yield _to_columns(batch, file)
    except (OSError, pa.ArrowException, KeyError) as error:
        raise DataError(f"cannot read instances from {file}: {error}; make it anew") from error


def _to_columns(batch: Any, file: Path) -> _Columns:
    codes: dict[str, _IntArray] = {}
    names: dict[str, list[str]] = {}
    for name in _TEXTS:
        column = batch.column(name)
        codes[name] = column.indices.to_numpy()
        names[name] = column.dictionary.to_pylist()
    iou = batch.column("iou").to_numpy(zero_copy_only=False)
    # Where boundaries were not scored there are nulls, which come as NaN and stay so.
    boundary_iou = batch.column("boundary_iou").to_numpy(zero_copy_only=False)
    if not np.isfinite(iou).all():
        raise DataError(f"{file} holds an IoU that is no number; make it anew")
    return _Columns(
        batch.column("image_id").to_numpy(),
        iou,
        boundary_iou,
        batch.column("area").to_numpy(),
        codes,
        names,
    )
