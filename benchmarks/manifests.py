"""The prompts of a run: made once while the first model sees the data, the same for all others."""

from __future__ import annotations

from pathlib import Path

from baselines.interface import Float32Array
from benchmarks.data.dataset import Instance, Sample
from benchmarks.data.prompts import ManifestBuilder, PromptManifest, PromptRule
from mobilesam.errors import DataError


class Manifests:
    """Prompt manifests of one dataset, by kind.

    Args:
        fingerprint: Of the dataset.
        seed: Of the prompts' draw.
        folder: Where they are stored and found again by a resumed run.
    """

    def __init__(self, fingerprint: str, seed: int, folder: Path) -> None:
        self._fingerprint = fingerprint
        self._seed = seed
        self._folder = folder
        self._done: dict[PromptRule, PromptManifest] = {}
        self._growing: dict[PromptRule, ManifestBuilder] = {}

    def prompt(self, kind: PromptRule, sample: Sample, instance: Instance) -> Float32Array:
        """The prompt of an instance, (D,) float32; made if no model has needed it before."""
        manifest = self._find(kind)
        if manifest is not None:
            return manifest.get(sample.image_id, instance.annotation_id)
        if kind not in self._growing:
            self._growing[kind] = ManifestBuilder(self._fingerprint, kind, self._seed)
        return self._growing[kind].add(sample.image_id, instance)

    def finish(self, *, whole: bool) -> None:
        """Freezes what the pass that just ended has made.

        Args:
            whole: It saw every image, so that its manifests are stored as well.
        """
        for kind, builder in self._growing.items():
            manifest = builder.finish()
            self._done[kind] = manifest
            if whole:
                manifest.save(self._path(kind))
        self._growing.clear()

    def abandon(self) -> None:
        """Forgets what a pass that failed has made: the next one makes it whole."""
        self._growing.clear()

    def sha256(self, kind: PromptRule) -> str | None:
        """Hash of the finished manifest of a kind; None if there is none."""
        manifest = self._find(kind)
        return None if manifest is None else manifest.sha256

    def _find(self, kind: PromptRule) -> PromptManifest | None:
        if kind in self._growing:
            return None
        if kind not in self._done:
            path = self._path(kind)
            if not path.is_file():
                return None
            manifest = PromptManifest.load(path)
            if (manifest.fingerprint, manifest.seed) != (self._fingerprint, self._seed):
                raise DataError(f"{path} belongs to other data; choose another --out")
            self._done[kind] = manifest
        return self._done[kind]

    def _path(self, kind: PromptRule) -> Path:
        return self._folder / f"prompts-{kind}.parquet"
