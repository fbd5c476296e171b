"""Image embeddings kept on disk, so that a further evaluation runs no encoder."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from pathlib import Path

import numpy as np

from baselines import boundary
from baselines.boundary import adapter_call
from baselines.interface import Embedding, Segmenter, StorableEmbedding, UInt8Array
from benchmarks.records.environment import code_version, library_versions
from benchmarks.records.record import write_atomic
from mobilesam.errors import BenchError, DataError


class EmbeddingCache:
    """A folder of embeddings under a key of image, model and weights.

    A key without the weights' hash would serve one model's embeddings as another's.

    Args:
        folder: Made when the first is kept; None keeps nothing.
        precision: What the models compute in.
        device: What they compute on; the last digits of an embedding depend on it.
    """

    def __init__(self, folder: Path | None, precision: str = "fp32", device: str = "cpu") -> None:
        self._folder = folder
        self._setup = {"precision": precision, "device": device}
        self._code = {} if folder is None else _code()

    def get(self, model: Segmenter, image: UInt8Array) -> Embedding | None:
        """The embedding that this model made of this image; None if it is not here or damaged."""
        path = self._path(model, image)
        if path is None or not path.is_file() or not isinstance(model, StorableEmbedding):
            return None
        try:
            with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            with adapter_call("embedding_from"):
                return model.embedding_from(arrays, (image.shape[0], image.shape[1]))
        except (OSError, ValueError, EOFError, zipfile.BadZipFile, BenchError):
            return None  # it is made again, and replaces the damaged one

    def put(self, model: Segmenter, image: UInt8Array, embedding: Embedding) -> None:
        """Keeps an embedding, if its model's can be kept and the folder takes it."""
        path = self._path(model, image)
        if path is None or not isinstance(model, StorableEmbedding):
            return
        buffer = io.BytesIO()
        arrays = boundary.embedding_arrays(model, model.info.name, embedding)
        np.savez(buffer, allow_pickle=False, **arrays)
        try:
            write_atomic(path, buffer.getvalue())
        except DataError:
            # The run has no need of it. One failure (a full disk) is not tried again and again.
            self._folder = None

    def _path(self, model: Segmenter, image: UInt8Array) -> Path | None:
        weights = model.info.weights
        if self._folder is None or weights.sha256 is None:
            return None
        parts = {
            "model": model.info.name,
            "weights": weights.sha256,
            "input_size_px": model.info.input_size_px,
            "image": hashlib.sha256(np.ascontiguousarray(image).data).hexdigest(),
            "shape": image.shape,
            **self._setup,
            **self._code,
        }
        key = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
        return self._folder / key[:2] / f"{key}.npz"


def _code() -> dict[str, object]:
    return {"code": code_version(("mobilesam", "baselines")), "libraries": library_versions()}
