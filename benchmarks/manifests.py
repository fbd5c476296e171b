"""The prompts of a run: made once while the first model sees the data, the same for all others."""

from __future__ import annotations

from pathlib import Path

from baselines.interface import BoolArray, Float32Array
from benchmarks.data.dataset import Instance, Sample
from benchmarks.data.prompt_rules import PromptRule
from benchmarks.data.prompts import ManifestBuilder, PromptManifest
from mobilesam.errors import DataError


class Manifests:
    """Prompt manifests of one dataset, by prompt rule.

    Args:
        fingerprint: Of the dataset.
        seed: Of the prompts' draw.
        folder: Where they are stored and found again by a resumed run.
    """

    def __init__(self, fingerprint: str, seed: int, folder: Path) -> None:
        self._fingerprint = fingerprint
        self._seed = seed
        self._folder = folder
        self._done: dict[str, PromptManifest] = {}
        self._growing: dict[str, ManifestBuilder] = {}

    def prompt(
        self, rule: PromptRule, sample: Sample, instance: Instance, mask: BoolArray
    ) -> Float32Array | None:
        """The prompt of an instance, made if no model has needed it before.

        Several threads may ask for those of different images.

        Args:
            rule: Which prompt.
            sample: The image.
            instance: One of its objects.
            mask: (H, W) bool, the object's reference mask.

        Returns:
            (D,) float32; None if the instance has no such prompt.
        """
        manifest = self._find(rule.name)
        if manifest is not None:
            return manifest.get(sample.image_id, instance.annotation_id)
        builder = self._growing.get(rule.name)
        if builder is None:  # of several threads, all use the one that came first
            new = ManifestBuilder(self._fingerprint, rule, self._seed)
            builder = self._growing.setdefault(rule.name, new)
        return builder.add(sample.image_id, instance, mask)

    def finish(self, *, whole: bool) -> None:
        """Freezes what the pass that just ended has made.

        Args:
            whole: It saw every image, so that its manifests are stored as well.
        """
        for name, builder in self._growing.items():
            manifest = builder.finish()
            self._done[name] = manifest
            if whole:
                manifest.save(self._path(name))
        self._growing.clear()

    def abandon(self) -> None:
        """Forgets what a pass that failed has made: the next one makes it whole."""
        self._growing.clear()

    def sha256(self, rule: str) -> str | None:
        """Hash of the finished manifest of a prompt rule; None if there is none."""
        manifest = self._find(rule)
        return None if manifest is None else manifest.sha256

    def left_out(self, rule: str) -> int:
        """Instances without such a prompt, as far as known."""
        manifest = self._find(rule)
        return 0 if manifest is None else manifest.left_out

    def _find(self, rule: str) -> PromptManifest | None:
        if rule in self._growing:
            return None
        if rule not in self._done:
            path = self._path(rule)
            if not path.is_file():
                return None
            manifest = PromptManifest.load(path)
            if (manifest.fingerprint, manifest.seed) != (self._fingerprint, self._seed):
                raise DataError(f"{path} belongs to other data; choose another --out")
            self._done[rule] = manifest
        return self._done[rule]

    def _path(self, rule: str) -> Path:
        return self._folder / f"prompts-{rule}.parquet"
