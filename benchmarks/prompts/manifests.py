"""Prompt manifests: the prompts of a dataset, made once and the same for all models."""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from baselines.interface import BoolArray, Float32Array, Int64Array
from benchmarks.datasets.dataset import Instance, Sample
from benchmarks.prompts.samplers import PromptSampler, prompt_sampler
from mobilesam.errors import DataError, UsageError
from mobilesam.files import write_atomic

PromptsById = dict[tuple[int, int], Float32Array | None]
"""Prompts by image and annotation id; None where there is no such prompt."""
MANIFEST_VERSION = 1
_METADATA_KEY = b"mobilesam-bench.prompts"


@dataclass(frozen=True, slots=True, eq=False)
class PromptManifest:
    """All prompts of a dataset, given by its fingerprint, by one sampler and seed.

    `ids` are (N, 2) int64 image and annotation ids, ascending; `values` are (N, D) float32, columns
    as named by the sampler, NaN for an annotation that is left out because it has no such prompt.
    """

    fingerprint: str
    sampler: PromptSampler
    seed: int
    ids: Int64Array
    values: Float32Array

    @classmethod
    def from_prompts(
        cls, fingerprint: str, sampler: PromptSampler, seed: int, prompts: PromptsById
    ) -> PromptManifest:
        """Makes a manifest of prompts in any order."""
        ids = sorted(prompts)
        values = np.full((len(ids), len(sampler.columns)), np.nan, np.float32)
        for row, key in enumerate(ids):
            prompt = prompts[key]
            if prompt is not None:
                values[row] = prompt
        return cls(fingerprint, sampler, seed, np.array(ids, np.int64).reshape(-1, 2), values)

    @property
    def left_out(self) -> int:
        """Number of annotations that have no such prompt."""
        return int(self._is_left_out.sum())

    @property
    def sha256(self) -> str:
        """SHA-256 (hex) of the canonical bytes, the same on every platform."""
        made = ~self._is_left_out
        digest = hashlib.sha256(json.dumps(self._header(), sort_keys=True).encode())
        digest.update(self.ids[made, 0].astype("<i8").tobytes())
        digest.update(self.ids[made, 1].astype("<i8").tobytes())
        # Adding zero turns -0.0 into 0.0, which is the same prompt but has other bytes.
        digest.update((self.values[made] + np.float32(0)).astype("<f4").tobytes())
        digest.update(self.ids[~made].astype("<i8").tobytes())
        return digest.hexdigest()

    def get(self, image_id: int, annotation_id: int) -> Float32Array | None:
        """The (D,) prompt of an annotation; None if left out, a `DataError` if not here."""
        start, end = np.searchsorted(self.ids[:, 0], [image_id, image_id + 1])
        row = int(start + np.searchsorted(self.ids[start:end, 1], annotation_id))
        if row >= end or self.ids[row, 1] != annotation_id:
            raise DataError(
                f"no {self.sampler.name} prompt for annotation {annotation_id} of image "
                f"{image_id}; the manifest belongs to other data: delete it and run again"
            )
        prompt: Float32Array = self.values[row]
        return None if np.isnan(prompt[0]) else prompt

    def save(self, path: Path) -> None:
        """Writes the manifest atomically as Parquet; left-out annotations are rows of nulls."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        columns = {"image_id": self.ids[:, 0], "annotation_id": self.ids[:, 1]} | {
            name: pa.array(column, from_pandas=True)  # NaN becomes null
            for name, column in zip(self.sampler.columns, self.values.T, strict=True)
        }
        header = json.dumps(self._header() | {"sha256": self.sha256}, sort_keys=True)
        table = pa.table(columns).replace_schema_metadata({_METADATA_KEY: header.encode()})
        buffer = io.BytesIO()
        pq.write_table(table, buffer)
        write_atomic(path, buffer.getvalue())

    @classmethod
    def load(cls, path: Path) -> PromptManifest:
        """Reads a manifest and verifies its version and hash."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            table = pq.read_table(io.BytesIO(path.read_bytes()))
            header = json.loads((table.schema.metadata or {})[_METADATA_KEY])
            if header["version"] != MANIFEST_VERSION:
                raise DataError(f"{path} has version {header['version']}; delete it, run again")
            sampler = prompt_sampler(header["kind"])
            ids, values = (
                np.stack([table[name].to_numpy() for name in names], axis=1)
                for names in (("image_id", "annotation_id"), sampler.columns)
            )
            manifest = cls(header["fingerprint"], sampler, header["seed"], ids, values)
            is_intact = manifest.sha256 == header["sha256"]
        except OSError as error:
            raise DataError(f"cannot read {path}: {error.strerror or error}") from error
        except (pa.ArrowException, KeyError, TypeError, UsageError, ValueError) as error:
            raise DataError(f"{path} is not a prompt manifest; delete it and run again") from error
        if not is_intact:
            raise DataError(f"{path} was changed since it was written; delete it and run again")
        return manifest

    @property
    def _is_left_out(self) -> BoolArray:
        return np.asarray(np.isnan(self.values).any(axis=1))

    def _header(self) -> dict[str, Any]:
        header = {
            "version": MANIFEST_VERSION,
            "fingerprint": self.fingerprint,
            "kind": self.sampler.name,
            "seed": self.seed,
            "columns": list(self.sampler.columns),
        }
        # Absent if nothing is left out, as in manifests from before the key was introduced.
        return header | {"left_out": self.left_out} if self.left_out else header


class ManifestStore:
    """Prompt manifests of one dataset and seed in a folder, by the name of their sampler."""

    def __init__(self, fingerprint: str, seed: int, folder: Path) -> None:
        self.fingerprint = fingerprint
        self.seed = seed
        self._folder = folder
        self._finished: dict[str, PromptManifest] = {}

    def add(self, manifest: PromptManifest, *, save: bool) -> None:
        """Adds a manifest; `save` also writes its file, where a resumed run finds it."""
        self._finished[manifest.sampler.name] = manifest
        if save:
            manifest.save(self._path(manifest.sampler.name))

    def sha256(self, name: str) -> str | None:
        """Hash of the manifest of a sampler; None if there is none."""
        manifest = self.find(name)
        return None if manifest is None else manifest.sha256

    def left_out(self, name: str) -> int:
        """Number of instances without a prompt of this sampler; 0 if there is no manifest."""
        manifest = self.find(name)
        return 0 if manifest is None else manifest.left_out

    def find(self, name: str) -> PromptManifest | None:
        """Returns the manifest of a sampler; None if it has not been made."""
        path = self._path(name)
        if name not in self._finished and path.is_file():
            manifest = PromptManifest.load(path)
            if (manifest.fingerprint, manifest.seed) != (self.fingerprint, self.seed):
                raise DataError(f"{path} belongs to other data; choose another --out")
            self._finished[name] = manifest
        return self._finished.get(name)

    def _path(self, name: str) -> Path:
        return self._folder / f"prompts-{name}.parquet"


class PassPrompts:
    """Prompts of one pass over the data: those of existing manifests, or new ones.

    New prompts are kept here until `finish`, so that reads that outlast a failed pass do not affect
    the next pass.
    """

    def __init__(self, store: ManifestStore) -> None:
        self._store = store
        self._new: dict[PromptSampler, PromptsById] = {}

    def prompt(
        self, sampler: PromptSampler, sample: Sample, instance: Instance, mask: BoolArray
    ) -> Float32Array | None:
        """Returns the (D,) prompt of an instance, None if it has none; makes it if necessary.

        Several threads may call it for different images. A `DataError` is raised if the annotation
        occurs twice, or is not in the existing manifest.
        """
        if sampler not in self._new:
            manifest = self._store.find(sampler.name)
            if manifest is not None:
                return manifest.get(sample.image_id, instance.annotation_id)
        # If several threads reach this point, all use the dictionary that was stored first.
        prompts = self._new.setdefault(sampler, {})
        key = sample.image_id, instance.annotation_id
        if key in prompts:
            raise DataError(f"annotation {key[1]} of image {key[0]} comes twice in the dataset")
        prompts[key] = sampler.sample(instance, mask, self._store.seed)
        return prompts[key]

    def finish(self, *, whole: bool) -> None:
        """Hands the new prompts over to the store; call it after all reads of the pass have ended.

        If the pass covered the whole dataset, manifests are also written to the folder.
        """
        store = self._store
        for sampler, prompts in self._new.items():
            manifest = PromptManifest.from_prompts(store.fingerprint, sampler, store.seed, prompts)
            store.add(manifest, save=whole)
        self._new = {}
