"""The table of instances: one row for each prompt that was answered, kept in Parquet."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from benchmarks.records.record import write_atomic
from mobilesam.errors import DataError
from mobilesam.frozen_model import FrozenModel

COLUMNS = (
    "image_id",
    "annotation_id",
    "model",
    "protocol",
    "reference",
    "iou",
    "boundary_iou",
    "score",
    "area",
    "category",
)


class InstanceRow(FrozenModel):
    """IoU and boundary IoU of one answer.

    `boundary_iou` is None where it was not asked for;
    `score` is the model's own estimate of its mask; `area` the annotation's own, in pixels;
    `category` is empty where the dataset has none.
    """

    image_id: int
    annotation_id: int
    model: str
    protocol: str
    reference: str
    iou: float
    boundary_iou: float | None
    score: float
    area: float
    category: str


def write_instances(rows: Sequence[InstanceRow], path: Path) -> Path:
    """Writes all rows as one Parquet file, whole or not at all.

    Raises:
        DataError: The file cannot be written.
    """
    write_atomic(path, instances_file(rows))
    return path


def instances_file(
    rows: Sequence[InstanceRow], metadata: Mapping[bytes, bytes] | None = None
) -> bytes:
    """The rows as the bytes of a Parquet file, the same for the same rows and metadata."""
    return parquet_file(InstanceRow, rows, metadata)


def parquet_file(
    kind: type[FrozenModel],
    rows: Sequence[FrozenModel],
    metadata: Mapping[bytes, bytes] | None = None,
) -> bytes:
    """Rows of one kind as the bytes of a Parquet file; a column is integer, text or float64."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    types = {int: pa.int64(), str: pa.string()}
    columns = {
        name: pa.array(
            [getattr(row, name) for row in rows],
            type=types.get(field.annotation, pa.float64()),  # type: ignore[arg-type]
        )
        for name, field in kind.model_fields.items()
    }
    buffer = io.BytesIO()
    table = pa.table(columns).replace_schema_metadata(metadata)
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def read_instances(path: Path | IO[bytes], columns: Sequence[str] = COLUMNS) -> Any:
    """Reads the table, one file or a folder of them, or some columns, as a pandas DataFrame.

    Raises:
        DataError: Missing, or not such a table.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_table(path, columns=list(columns)).to_pandas()
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"cannot read instances from {path}: {error}") from error


def to_frame(rows: Sequence[InstanceRow]) -> Any:
    """The same rows as a pandas DataFrame."""
    import pandas as pd

    return pd.DataFrame({name: [getattr(row, name) for row in rows] for name in COLUMNS})
