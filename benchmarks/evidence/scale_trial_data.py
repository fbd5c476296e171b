"""Data for trials of scale: shards and instance tables of any length, made quickly."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.datasets.synthetic import SyntheticDataset
from benchmarks.datasets.writers import encode_jpeg, sa1b_document
from benchmarks.records.instances import COLUMNS
from mobilesam.errors import UsageError

SIZE_HW = (480, 640)
N_OBJECTS = 10
N_SCENES = 40
"""Different scenes; to render each of 20,000 would take more than an hour."""
IMAGES_PER_TAR = 1000


def write_shards(folder: Path, n_images: int, seed: int = 0) -> list[Path]:
    """Writes tars of SA-1B's format with images of 640 x 480 px and 10 objects.

    `N_SCENES` scenes come again and again under new ids; a reader finds every file anew.

    Args:
        folder: Made if missing.
        n_images: In all.
        seed: Of the scenes.
    """
    if n_images < 1:
        raise UsageError(f"{n_images} images leave nothing; give 1 or more")
    scenes = SyntheticDataset(min(n_images, N_SCENES), seed, SIZE_HW, (N_OBJECTS, N_OBJECTS))
    known = [(encode_jpeg(sample.image), sa1b_document(sample)) for sample in scenes.samples()]
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for start in range(0, n_images, IMAGES_PER_TAR):
        path = folder / f"sa_{start // IMAGES_PER_TAR:06d}.tar"
        with tarfile.open(path, "w") as tar:
            for image_id in range(start, min(start + IMAGES_PER_TAR, n_images)):
                jpeg, document = known[image_id % len(known)]
                _add(tar, f"sa_{image_id}.jpg", jpeg)
                _add(tar, f"sa_{image_id}.json", _renumbered(document, image_id))
        paths.append(path)
    return paths


def _renumbered(document: dict[str, object], image_id: int) -> bytes:
    image, annotations = document["image"], document["annotations"]
    assert isinstance(image, dict)  # noqa: S101 - made above
    assert isinstance(annotations, list)  # noqa: S101 - made above
    rows = [each | {"id": image_id * N_OBJECTS + i + 1} for i, each in enumerate(annotations)]
    header = image | {"image_id": image_id, "file_name": f"sa_{image_id}.jpg"}
    return json.dumps({"image": header, "annotations": rows}).encode()


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def write_tables(folder: Path, n_rows: int, rows_per_file: int = 50_000, seed: int = 0) -> None:
    """Writes instance tables with random figures, ten instances an image.

    Args:
        folder: Made if missing.
        n_rows: In all.
        rows_per_file: A multiple of ten.
        seed: Of the figures.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    for number, rows in enumerate(_spans(n_rows, rows_per_file)):
        n = len(rows)
        same = {"model": "dummy", "protocol": "box", "reference": "ground-truth", "category": ""}
        columns = {
            "image_id": pa.array(np.asarray(rows) // N_OBJECTS),
            "annotation_id": pa.array(np.asarray(rows)),
            "iou": pa.array(rng.random(n)),
            "boundary_iou": pa.array(rng.random(n)),
            "score": pa.array(rng.random(n)),
            "area": pa.array(rng.integers(1, 30_000, n).astype(np.float64)),
        } | {name: pa.array([value] * n) for name, value in same.items()}
        table = pa.table({name: columns[name] for name in COLUMNS})
        pq.write_table(table, folder / f"{number:06d}.parquet", compression="zstd")


def _spans(n_rows: int, rows_per_file: int) -> Iterator[range]:
    for start in range(0, n_rows, rows_per_file):
        yield range(start, min(start + rows_per_file, n_rows))
