"""Prompts made from reference masks, and the manifest that keeps them the same for all models."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import numpy as np

from baselines.interface import BoolArray, Float32Array, Int64Array
from benchmarks.data.dataset import Instance
from benchmarks.records import write_atomic
from mobilesam.errors import DataError

PromptRule = Literal["box", "center"]

MANIFEST_VERSION = 1
_METADATA_KEY = b"mobilesam-bench.prompts"


def center_point(mask: BoolArray) -> tuple[int, int]:
    """Finds the pixel of a mask that lies deepest inside it.

    That is the maximum of the exact Euclidean distance to the nearest pixel outside, where beyond
    the image's border all is outside. Of equals the lowest row, then the lowest column.

    Args:
        mask: (H, W) bool.

    Returns:
        x and y of the pixel.

    Raises:
        DataError: The mask is empty.
    """
    from scipy import ndimage

    rows = np.flatnonzero(mask.any(axis=1))
    if len(rows) == 0:
        raise DataError("an empty mask has no centre; leave such annotations out")
    top, bottom = int(rows[0]), int(rows[-1]) + 1
    columns = np.flatnonzero(mask[top:bottom].any(axis=0))
    left, right = int(columns[0]), int(columns[-1]) + 1
    # Cropping loses nothing: for any pixel outside the tight box there is one in the ring around
    # the box, straight up, down or across, that is at least as near.
    padded = np.pad(mask[top:bottom, left:right], 1)
    distance = ndimage.distance_transform_edt(padded)
    # argmax takes the first in row-major order, which is the rule for ties.
    y, x = np.unravel_index(int(np.argmax(distance)), padded.shape)
    return left + int(x) - 1, top + int(y) - 1


def _box(instance: Instance) -> Float32Array:
    return instance.box


def _center(instance: Instance) -> Float32Array:
    return np.array(center_point(instance.mask()), dtype=np.float32)


@dataclass(frozen=True, slots=True)
class _Kind:
    columns: tuple[str, ...]
    make: Callable[[Instance], Float32Array]


_KINDS: Mapping[PromptRule, _Kind] = MappingProxyType(
    {
        "box": _Kind(("x0", "y0", "x1", "y1"), _box),
        "center": _Kind(("x", "y"), _center),
    }
)


def prompt_for(instance: Instance, kind: PromptRule) -> Float32Array:
    """Makes the prompt of one instance, in pixels of the original image.

    Returns:
        (4,) float32 xyxy for `box`, (2,) float32 xy for `center`.
    """
    return _KINDS[kind].make(instance)


@dataclass(frozen=True, slots=True, eq=False)
class PromptManifest:
    """All prompts of a dataset for one kind and seed.

    Attributes:
        fingerprint: Of the dataset.
        kind: How the prompts were made.
        seed: Of the draw; kinds that draw nothing carry it all the same.
        image_ids: (N,) int64, ascending.
        annotation_ids: (N,) int64, ascending within an image.
        values: (N, D) float32: xyxy for `box`, xy for `center`.
    """

    fingerprint: str
    kind: PromptRule
    seed: int
    image_ids: Int64Array
    annotation_ids: Int64Array
    values: Float32Array

    def __len__(self) -> int:
        return len(self.image_ids)

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the D values of a prompt."""
        return _KINDS[self.kind].columns

    @property
    def sha256(self) -> str:
        """SHA-256 (hex) of its canonical bytes, the same on every platform."""
        digest = hashlib.sha256(json.dumps(self._header(), sort_keys=True).encode())
        digest.update(self.image_ids.astype("<i8").tobytes())
        digest.update(self.annotation_ids.astype("<i8").tobytes())
        # Adding zero turns -0.0 into 0.0, which is the same prompt but not the same bytes.
        digest.update((self.values + np.float32(0)).astype("<f4").tobytes())
        return digest.hexdigest()

    def get(self, image_id: int, annotation_id: int) -> Float32Array:
        """Returns the (D,) prompt of an annotation.

        Raises:
            DataError: The manifest has none for it.
        """
        low, high = np.searchsorted(self.image_ids, [image_id, image_id + 1])
        row = low + np.searchsorted(self.annotation_ids[low:high], annotation_id)
        if row == high or self.annotation_ids[row] != annotation_id:
            raise DataError(
                f"no {self.kind} prompt for annotation {annotation_id} of image {image_id}; "
                "the manifest belongs to other data, make it anew"
            )
        found: Float32Array = self.values[row]
        return found

    def save(self, path: Path) -> None:
        """Writes the manifest as Parquet, whole or not at all.

        Raises:
            DataError: The file cannot be written.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        columns: dict[str, Any] = {"image_id": self.image_ids, "annotation_id": self.annotation_ids}
        columns |= {name: self.values[:, i] for i, name in enumerate(self.columns)}
        header = json.dumps(self._header() | {"sha256": self.sha256}, sort_keys=True)
        table = pa.table(columns).replace_schema_metadata({_METADATA_KEY: header.encode()})
        buffer = io.BytesIO()
        pq.write_table(table, buffer)
        write_atomic(path, buffer.getvalue())

    @classmethod
    def load(cls, path: Path) -> PromptManifest:
        """Reads a manifest and checks that it is the one that was written.

        Raises:
            DataError: Missing, not a manifest, of another version, or changed since.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            table = pq.read_table(io.BytesIO(path.read_bytes()))
            header = json.loads((table.schema.metadata or {})[_METADATA_KEY])
            if header["version"] != MANIFEST_VERSION:
                raise DataError(f"{path} is of version {header['version']}; make it anew")
            result = cls(
                fingerprint=header["fingerprint"],
                kind=header["kind"],
                seed=header["seed"],
                image_ids=table["image_id"].to_numpy(),
                annotation_ids=table["annotation_id"].to_numpy(),
                values=np.stack([table[name].to_numpy() for name in header["columns"]], axis=1),
            )
            intact = result.sha256 == header["sha256"]
        except OSError as error:
            raise DataError(f"cannot read {path}: {error.strerror or error}") from error
        except (pa.ArrowException, KeyError, TypeError, ValueError) as error:
            raise DataError(f"{path} is not a prompt manifest; make it anew") from error
        if not intact:
            raise DataError(f"{path} was changed since it was written; make it anew")
        return result

    def _header(self) -> dict[str, Any]:
        return {
            "version": MANIFEST_VERSION,
            "fingerprint": self.fingerprint,
            "kind": self.kind,
            "seed": self.seed,
            "columns": list(self.columns),
        }


class ManifestBuilder:
    """Collects prompts while a dataset streams by.

    Args:
        fingerprint: Of the dataset.
        kind: How to make the prompts.
        seed: Recorded, and given to kinds that draw.
    """

    def __init__(self, fingerprint: str, kind: PromptRule, seed: int) -> None:
        self._fingerprint = fingerprint
        self._kind: PromptRule = kind
        self._seed = seed
        self._rows: dict[tuple[int, int], Float32Array] = {}

    def add(self, image_id: int, instance: Instance) -> Float32Array:
        """Makes the prompt of an instance, keeps it and returns it: (D,) float32.

        Raises:
            DataError: The annotation was added before.
        """
        key = (image_id, instance.annotation_id)
        if key in self._rows:
            raise DataError(f"annotation {key[1]} of image {key[0]} comes twice in the dataset")
        prompt = prompt_for(instance, self._kind)
        self._rows[key] = prompt
        return prompt

    def finish(self) -> PromptManifest:
        """Returns the manifest, in one order whatever the order of adding."""
        keys = sorted(self._rows)
        ids = np.array(keys, dtype=np.int64).reshape(-1, 2)
        width = len(_KINDS[self._kind].columns)
        values = np.array([self._rows[key] for key in keys], dtype=np.float32).reshape(-1, width)
        return PromptManifest(
            self._fingerprint, self._kind, self._seed, ids[:, 0].copy(), ids[:, 1].copy(), values
        )
