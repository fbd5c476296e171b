"""Predicted masks on disk as run-length codes, to be scored again without a model.

All masks are kept, or those of a few images for the pictures of the report.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from pydantic import ValidationError

from baselines.interface import UInt8Array
from benchmarks.datasets.dataset import Instance, Sample
from benchmarks.datasets.images import load_image, small_jpeg
from benchmarks.datasets.masks import Rle, encode_mask
from benchmarks.evaluation.prompt_runner import QueryMasks
from benchmarks.prompts.protocols import Query
from benchmarks.records.instances import stored_metadata
from benchmarks.records.record import WeightsRow, write_atomic
from mobilesam.errors import DataError
from mobilesam.frozen_model import FrozenModel

PREDICTIONS_FOLDER = "predictions"
REFERENCES_NAME, PICTURES_NAME = "references.parquet", "pictures.parquet"
MOST_OBJECTS = 30
"""Most objects of an image whose masks are kept if not all are."""
MAX_STEM = 120
"""Longest name of a model, in characters, that its file has whole."""
_METADATA_KEY = b"mobilesam-bench.predictions"
_VERSION = 1
_PICTURE_PX, _PICTURE_QUALITY = 1024, 88
_Columns = dict[str, tuple[str, list[Any]]]


class PredictionsInfo(FrozenModel):
    """Metadata of a file of predictions; `manifests` and `left_out` are by prompt rule.

    Images in `lost_ids` could not be read, or the model failed on them. `key` is the SHA-256 of all
    that determines the predictions, None in older files; so is `n_prompts`, the number of all
    predictions, of which the file may hold some.
    """

    version: int = _VERSION
    model: str
    dataset: str
    fingerprint: str
    weights: WeightsRow
    protocols: tuple[str, ...]
    manifests: dict[str, str]
    left_out: dict[str, int]
    lost_ids: tuple[int, ...] = ()
    key: str | None = None
    n_prompts: int | None = None


@dataclass(frozen=True, slots=True)
class Prediction:
    """Candidate masks of one prompt as RLE, with the scores of the model."""

    query: Query
    image_id: int
    annotation_id: int
    scores: tuple[float, ...]
    rles: tuple[Rle, ...]


@dataclass(frozen=True, slots=True)
class StoredPicture:
    """An image as a JPEG file, made smaller, that shows its masks."""

    name: str
    jpeg: bytes

    @classmethod
    def of(cls, sample: Sample) -> StoredPicture:
        """The picture of a sample."""
        return cls(sample.name, small_jpeg(sample.image, _PICTURE_PX, _PICTURE_QUALITY)[0])

    def pixels(self) -> UInt8Array:
        """(H, W, 3) uint8 RGB."""
        return load_image(self.jpeg, self.name)


class ImageChoice:
    """Chooses `n` of the images that pass by, the same for every model and in any order.

    The hash of an image's id decides, so that they are spread over the dataset.
    """

    def __init__(self, n: int) -> None:
        self._n = n
        self._ranks: dict[int, bytes] = {}

    @staticmethod
    def _rank(image_id: int) -> bytes:
        return hashlib.sha256(str(image_id).encode()).digest()

    def wants(self, image_id: int) -> bool:
        """Whether an image would be chosen now; False is final. Several threads may call it."""
        ranks = tuple(self._ranks.values())
        return len(ranks) < self._n or (self._n > 0 and self._rank(image_id) <= max(ranks))

    def add(self, image_id: int) -> list[int]:
        """Adds an image, and returns those that are no longer chosen."""
        ranks = {**self._ranks, image_id: self._rank(image_id)}
        dropped = sorted(ranks, key=lambda each: ranks[each])[self._n :]
        self._ranks = {key: rank for key, rank in ranks.items() if key not in dropped}
        return dropped


@dataclass(frozen=True, slots=True)
class References:
    """Instances of a dataset by image and annotation id, and names of image files by image id."""

    fingerprint: str
    instances: dict[tuple[int, int], Instance]
    file_names: dict[int, str]


def to_prediction(predicted: QueryMasks, sample: Sample) -> Prediction:
    """Encodes the masks of one instance of a sample."""
    return Prediction(
        predicted.query,
        sample.image_id,
        sample.instances[predicted.index].annotation_id,
        tuple(float(score) for score in predicted.scores),
        tuple(encode_mask(mask) for mask in predicted.masks),
    )


def predictions_path(out: Path, model: str) -> Path:
    """File of the predictions of a model in the folder of a run."""
    return out / PREDICTIONS_FOLDER / f"{file_stem(model)}.parquet"


def file_stem(model: str) -> str:
    """Name of a model as part of a file name: `hf:ORG/NAME` becomes `hf%3AORG%2FNAME`.

    The end of a long one is kept, with a hash of all of it.
    """
    stem = quote(model, safe="@+ ")
    if len(stem) <= MAX_STEM:
        return stem
    return f"{stem[-MAX_STEM:]}-{hashlib.sha256(model.encode()).hexdigest()[:16]}"


def references_path(out: Path) -> Path:
    """File of the reference masks in the folder of a run."""
    return out / PREDICTIONS_FOLDER / REFERENCES_NAME


def pictures_path(out: Path) -> Path:
    """File of the pictures in the folder of a run."""
    return out / PREDICTIONS_FOLDER / PICTURES_NAME


def prediction_files(folder: Path) -> Iterable[Path]:
    """Files of predictions in their folder, sorted by name."""
    others = (REFERENCES_NAME, PICTURES_NAME)
    return sorted(path for path in folder.glob("*.parquet") if path.name not in others)


def save_predictions(path: Path, info: PredictionsInfo, rows: Sequence[Prediction]) -> None:
    """Writes one Parquet file, atomically."""
    columns: _Columns = {
        "image_id": ("int64", [row.image_id for row in rows]),
        "annotation_id": ("int64", [row.annotation_id for row in rows]),
        "prompt": ("string", [row.query.prompt for row in rows]),
        "clicks": ("int64", [row.query.clicks for row in rows]),
        "multimask": ("bool", [row.query.multimask for row in rows]),
        "height": ("int64", [row.rles[0]["size"][0] for row in rows]),
        "width": ("int64", [row.rles[0]["size"][1] for row in rows]),
        "scores": ("floats", [row.scores for row in rows]),
        "counts": ("strings", [[rle["counts"] for rle in row.rles] for row in rows]),
    }
    _write(path, columns, info.model_dump_json().encode())


def predictions_key(path: Path) -> str | None:
    """The key stored in a file of predictions; None if the file is missing or damaged."""
    info = stored_metadata(path, _METADATA_KEY, PredictionsInfo)
    return None if info is None else info.key


def load_predictions(path: Path) -> tuple[PredictionsInfo, list[Prediction]]:
    """Reads what `save_predictions` wrote."""
    table = _read(path, "predictions")
    try:
        info = PredictionsInfo.model_validate_json(table.schema.metadata[_METADATA_KEY])
        rows = [
            Prediction(
                Query(row["prompt"], row["clicks"], row["multimask"]),
                row["image_id"],
                row["annotation_id"],
                tuple(row["scores"]),
                tuple(
                    {"size": [row["height"], row["width"]], "counts": counts}
                    for counts in row["counts"]
                ),
            )
            for row in table.to_pylist()
        ]
    except (KeyError, TypeError, IndexError, ValidationError) as error:
        raise DataError(f"{path} holds no predictions of this suite; make it anew") from error
    if info.version != _VERSION:
        raise DataError(f"{path} is of version {info.version}; make it anew")
    return info, rows


def save_references(
    path: Path,
    fingerprint: str,
    rows: Sequence[tuple[int, Instance]],
    file_names: Mapping[int, str],
) -> None:
    """Stores the instances of a dataset with ids and file names of their images, by id."""
    if path.is_file():
        # Instances of images that this model could not read are kept from other models.
        known = load_references(path)
        if known.fingerprint == fingerprint:
            found = {(image_id, each.annotation_id): each for image_id, each in rows}
            rows = [(key[0], each) for key, each in (known.instances | found).items()]
            file_names = known.file_names | dict(file_names)
    columns: _Columns = {
        "image_id": ("int64", [image_id for image_id, _ in rows]),
        "file_name": ("string", [file_names.get(image_id) for image_id, _ in rows]),
        "annotation_id": ("int64", [each.annotation_id for _, each in rows]),
        "category": ("string", [each.category for _, each in rows]),
        "category_id": ("int64", [each.category_id for _, each in rows]),
        "area": ("float64", [float(each.area_px) for _, each in rows]),
        "box": ("floats", [each.box.tolist() for _, each in rows]),
        "height": ("int64", [each.rle["size"][0] for _, each in rows]),
        "width": ("int64", [each.rle["size"][1] for _, each in rows]),
        "counts": ("string", [each.rle["counts"] for _, each in rows]),
    }
    _write(path, columns, json.dumps({"fingerprint": fingerprint}).encode())


def load_references(path: Path) -> References:
    """Reads what `save_references` wrote."""
    table = _read(path, "reference masks")
    try:
        fingerprint = json.loads(table.schema.metadata[_METADATA_KEY])["fingerprint"]
        rows = table.to_pylist()
        instances = {
            (row["image_id"], row["annotation_id"]): Instance(
                row["annotation_id"],
                row["category"],
                row["area"],
                np.array(row["box"], np.float32),
                {"size": [row["height"], row["width"]], "counts": row["counts"]},
                category_id=row.get("category_id"),  # older files have none, nor file names
            )
            for row in rows
        }
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path} holds no reference masks of this suite; make it anew") from error
    named = {row["image_id"]: row["file_name"] for row in rows if row.get("file_name")}
    return References(fingerprint, instances, named)


def save_pictures(path: Path, fingerprint: str, pictures: Mapping[int, StoredPicture]) -> None:
    """Stores pictures of a dataset by id of the image."""
    columns: _Columns = {
        "image_id": ("int64", list(pictures)),
        "file_name": ("string", [each.name for each in pictures.values()]),
        "jpeg": ("binary", [each.jpeg for each in pictures.values()]),
    }
    _write(path, columns, json.dumps({"fingerprint": fingerprint}).encode())


def load_pictures(path: Path, fingerprint: str) -> dict[int, StoredPicture]:
    """The stored pictures of a dataset by id of the image; none if the file cannot be used."""
    try:
        table = _read(path, "pictures")
        if json.loads(table.schema.metadata[_METADATA_KEY])["fingerprint"] != fingerprint:
            return {}
        rows = table.to_pylist()
        return {row["image_id"]: StoredPicture(row["file_name"], row["jpeg"]) for row in rows}
    except (DataError, KeyError, TypeError, ValueError):
        return {}


def _write(path: Path, columns: _Columns, metadata: bytes) -> None:
    """Writes columns of types `floats` (lists of float32), `strings`, or one of pyarrow's names."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    lists = {"floats": pa.list_(pa.float32()), "strings": pa.list_(pa.string())}
    arrays = {
        name: pa.array(values, type=lists.get(kind, kind))
        for name, (kind, values) in columns.items()
    }
    buffer = io.BytesIO()
    table = pa.table(arrays).replace_schema_metadata({_METADATA_KEY: metadata})
    pq.write_table(table, buffer, compression="zstd")
    write_atomic(path, buffer.getvalue())


def _read(path: Path, what: str) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_table(io.BytesIO(path.read_bytes()))
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"cannot read {what} from {path}: {error}") from error
