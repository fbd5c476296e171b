"""The manifest of prompts: made once from reference masks, and the same for all models."""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from baselines.interface import BoolArray, Float32Array, Int64Array
from benchmarks.datasets.dataset import Instance
from benchmarks.prompts.centers import center_point
from benchmarks.prompts.rules import PromptRule, prompt_rule, to_prompts
from benchmarks.records.record import write_atomic
from mobilesam.errors import DataError, UsageError

__all__ = [
    "MANIFEST_VERSION",
    "ManifestBuilder",
    "PromptManifest",
    "PromptRule",
    "center_point",
    "prompt_rule",
    "to_prompts",
]

MANIFEST_VERSION = 1
_METADATA_KEY = b"mobilesam-bench.prompts"


def _no_ids() -> Int64Array:
    return np.zeros((0, 2), np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class PromptManifest:
    """All prompts of a dataset for one rule and seed.

    Attributes:
        fingerprint: Of the dataset.
        rule: How the prompts were made.
        seed: Of the draw; rules that draw nothing carry it all the same.
        image_ids: (N,) int64, ascending.
        annotation_ids: (N,) int64, ascending within an image.
        values: (N, D) float32, the columns as the rule names them.
        left_out_ids: (M, 2) int64, image and annotation id of those for which there is no prompt,
            ascending.
    """

    fingerprint: str
    rule: PromptRule
    seed: int
    image_ids: Int64Array
    annotation_ids: Int64Array
    values: Float32Array
    left_out_ids: Int64Array = field(default_factory=_no_ids)

    def __len__(self) -> int:
        return len(self.image_ids)

    @property
    def left_out(self) -> int:
        """Annotations for which there is no prompt."""
        return len(self.left_out_ids)

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the D values of a prompt."""
        return self.rule.columns

    @property
    def sha256(self) -> str:
        """SHA-256 (hex) of its canonical bytes, the same on every platform."""
        digest = hashlib.sha256(json.dumps(self._header(), sort_keys=True).encode())
        digest.update(self.image_ids.astype("<i8").tobytes())
        digest.update(self.annotation_ids.astype("<i8").tobytes())
        # Adding zero turns -0.0 into 0.0, which is the same prompt but not the same bytes.
        digest.update((self.values + np.float32(0)).astype("<f4").tobytes())
        digest.update(self.left_out_ids.astype("<i8").tobytes())
        return digest.hexdigest()

    def get(self, image_id: int, annotation_id: int) -> Float32Array | None:
        """Returns the (D,) prompt of an annotation; None if there was none to be made.

        Raises:
            DataError: The annotation was not there when the manifest was made.
        """
        row = _find(self.image_ids, self.annotation_ids, image_id, annotation_id)
        if row is not None:
            found: Float32Array = self.values[row]
            return found
        images, annotations = self.left_out_ids.T
        if _find(images, annotations, image_id, annotation_id) is None:
            raise DataError(
                f"no {self.rule.name} prompt for annotation {annotation_id} of image {image_id}; "
                "the manifest belongs to other data, make it anew"
            )
        return None

    def save(self, path: Path) -> None:
        """Writes the manifest as Parquet, whole or not at all.

        An annotation that was left out is a row of nulls.

        Raises:
            DataError: The file cannot be written.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        missing = np.zeros(len(self) + self.left_out, np.bool_)
        missing[len(self) :] = True
        ids = np.stack([self.image_ids, self.annotation_ids], axis=1)
        ids = np.concatenate([ids, self.left_out_ids])
        values = np.zeros((len(ids), len(self.columns)), np.float32)
        values[: len(self)] = self.values
        order = np.lexsort((ids[:, 1], ids[:, 0]))
        ids, values, missing = ids[order], values[order], missing[order]
        columns: dict[str, Any] = {"image_id": ids[:, 0], "annotation_id": ids[:, 1]}
        columns |= {
            name: pa.array(values[:, index], mask=missing)
            for index, name in enumerate(self.columns)
        }
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
            result = cls._from_table(table, header)
            intact = result.sha256 == header["sha256"]
        except OSError as error:
            raise DataError(f"cannot read {path}: {error.strerror or error}") from error
        except (pa.ArrowException, KeyError, TypeError, UsageError, ValueError) as error:
            raise DataError(f"{path} is not a prompt manifest; make it anew") from error
        if not intact:
            raise DataError(f"{path} was changed since it was written; make it anew")
        return result

    @classmethod
    def _from_table(cls, table: Any, header: dict[str, Any]) -> PromptManifest:
        rule = prompt_rule(header["kind"])
        ids = np.stack([table[name].to_numpy() for name in ("image_id", "annotation_id")], axis=1)
        values = np.stack([table[name].to_numpy() for name in rule.columns], axis=1)
        missing = np.isnan(values).any(axis=1)
        made = ids[~missing]
        return cls(
            fingerprint=header["fingerprint"],
            rule=rule,
            seed=header["seed"],
            image_ids=made[:, 0].copy(),
            annotation_ids=made[:, 1].copy(),
            values=values[~missing],
            left_out_ids=ids[missing],
        )

    def _header(self) -> dict[str, Any]:
        header = {
            "version": MANIFEST_VERSION,
            "fingerprint": self.fingerprint,
            "kind": self.rule.name,
            "seed": self.seed,
            "columns": list(self.columns),
        }
        # Without the key where nothing is left out: hashes from before there was one stay valid.
        return header | {"left_out": self.left_out} if self.left_out else header


def _find(
    image_ids: Int64Array, annotation_ids: Int64Array, image_id: int, annotation_id: int
) -> int | None:
    """Row of an annotation in ascending ids, None if it is not there."""
    low, high = np.searchsorted(image_ids, [image_id, image_id + 1])
    row = int(low + np.searchsorted(annotation_ids[low:high], annotation_id))
    return row if row < high and annotation_ids[row] == annotation_id else None


class ManifestBuilder:
    """Collects prompts while a dataset streams by.

    Args:
        fingerprint: Of the dataset.
        rule: How to make the prompts.
        seed: Recorded, and given to rules that draw.
    """

    def __init__(self, fingerprint: str, rule: PromptRule, seed: int) -> None:
        self._fingerprint = fingerprint
        self._rule = rule
        self._seed = seed
        self._rows: dict[tuple[int, int], Float32Array | None] = {}

    @property
    def left_out(self) -> int:
        """Annotations so far for which there is no prompt."""
        return sum(prompt is None for prompt in self._rows.values())

    def add(self, image_id: int, instance: Instance, mask: BoolArray) -> Float32Array | None:
        """Makes the prompt of an instance, keeps it and returns it.

        Args:
            image_id: Of its image.
            instance: Not added before.
            mask: (H, W) bool, its reference mask, decoded.

        Returns:
            (D,) float32; None if the rule has no prompt for it, which is counted.

        Raises:
            DataError: The annotation was added before.
        """
        key = (image_id, instance.annotation_id)
        if key in self._rows:
            raise DataError(f"annotation {key[1]} of image {key[0]} comes twice in the dataset")
        prompt = self._rule.make(instance, mask, self._seed)
        self._rows[key] = prompt
        return prompt

    def finish(self) -> PromptManifest:
        """Returns the manifest, in one order whatever the order of adding."""
        made = sorted(
            ((key, prompt) for key, prompt in self._rows.items() if prompt is not None),
            key=lambda row: row[0],
        )
        missing = sorted(key for key, prompt in self._rows.items() if prompt is None)
        ids = np.array([key for key, _ in made], dtype=np.int64).reshape(-1, 2)
        values = np.array([prompt for _, prompt in made], dtype=np.float32)
        return PromptManifest(
            self._fingerprint,
            self._rule,
            self._seed,
            ids[:, 0].copy(),
            ids[:, 1].copy(),
            values.reshape(-1, len(self._rule.columns)),
            np.array(missing, dtype=np.int64).reshape(-1, 2),
        )
