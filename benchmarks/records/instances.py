"""Table of instances, one row per prompt, kept in Parquet files."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, TypeVar

from pydantic import ValidationError

from mobilesam.errors import DataError
from mobilesam.files import write_atomic
from mobilesam.frozen_model import FrozenModel

ModelT = TypeVar("ModelT", bound=FrozenModel)


class InstanceRow(FrozenModel):
    """IoU of one predicted mask; the boundary IoU is None if it was not computed.

    `score` is the model's prediction of its quality, `area` that of the annotation in pixels, and
    `category` empty if the dataset has none. `boundary_complexity` is that of the annotated mask,
    see `masks.boundary_complexity`; None in older tables.
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
    boundary_complexity: float | None = None


COLUMNS = tuple(InstanceRow.model_fields)


def write_instances(rows: Sequence[InstanceRow], path: Path) -> Path:
    """Writes all rows as one Parquet file, atomically."""
    write_atomic(path, parquet_file(InstanceRow, rows))
    return path


def parquet_file(
    kind: type[FrozenModel],
    rows: Sequence[FrozenModel],
    metadata: Mapping[bytes, bytes] | None = None,
) -> bytes:
    """Returns rows of one kind as a Parquet file with columns of int64, string or float64.

    The bytes are the same for the same rows and metadata.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    types: dict[Any, Any] = {int: pa.int64(), str: pa.string()}
    columns = {}
    for name, field in kind.model_fields.items():
        values = [getattr(row, name) for row in rows]
        columns[name] = pa.array(values, types.get(field.annotation, pa.float64()))
    buffer = io.BytesIO()
    table = pa.table(columns).replace_schema_metadata(metadata)
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def stored_metadata(path: Path, key: bytes, kind: type[ModelT]) -> ModelT | None:
    """A model in the metadata of a Parquet file; None if it or the file is missing or damaged."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        metadata = pq.read_metadata(path).metadata or {}
        return kind.model_validate_json(metadata[key])
    except (OSError, pa.ArrowException, KeyError, ValidationError):
        return None


def read_instances(path: Path | IO[bytes], columns: Sequence[str] = COLUMNS) -> Any:
    """Reads a file, or a folder of files, as a pandas DataFrame with the given columns.

    Optional columns that an older table lacks are filled with NaN.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        dataset = pq.ParquetDataset(path)
        missing = {"boundary_complexity"} & set(columns) - set(dataset.schema.names)
        kept = [name for name in columns if name not in missing]
        frame = dataset.read(columns=kept).to_pandas()
        return frame if not missing else frame.reindex(columns=list(columns))
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"cannot read instances from {path}: {error}") from error


def to_frame(rows: Sequence[InstanceRow]) -> Any:
    """Converts rows to a pandas DataFrame."""
    import pandas as pd

    return pd.DataFrame({name: [getattr(row, name) for row in rows] for name in COLUMNS})
