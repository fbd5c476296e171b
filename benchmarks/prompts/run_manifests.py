"""The prompts of a run: made once while the first model sees the data, the same for all others."""

from __future__ import annotations

from pathlib import Path

from baselines.interface import BoolArray, Float32Array
from benchmarks.datasets.dataset import Instance, Sample
from benchmarks.prompts.manifest import ManifestBuilder, PromptManifest
from benchmarks.prompts.rules import PromptRule
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

    def begin(self) -> PassPrompts:
        """Starts collecting the prompts of a pass; a pass that fails adds nothing to these."""
        return PassPrompts(self, self._fingerprint, self._seed)

    def take(self, rule: str, manifest: PromptManifest, *, store: bool) -> None:
        """Adds a manifest made by a pass.

        Args:
            rule: Name of the prompt rule.
            manifest: Its prompts.
            store: Also write it to the folder.
        """
        self._done[rule] = manifest
        if store:
            manifest.save(self._path(rule))

    def sha256(self, rule: str) -> str | None:
        """Hash of the finished manifest of a prompt rule; None if there is none."""
        manifest = self.find(rule)
        return None if manifest is None else manifest.sha256

    def left_out(self, rule: str) -> int:
        """Number of instances without a prompt of this rule, as far as known."""
        manifest = self.find(rule)
        return 0 if manifest is None else manifest.left_out

    def find(self, rule: str) -> PromptManifest | None:
        """The finished manifest of a prompt rule; None if no pass has made it.

        Raises:
            DataError: The manifest in the folder belongs to other data.
        """
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


class PassPrompts:
    """Prompts of one pass: those of finished manifests, and those made first in this pass.

    New prompts are kept here until `finish`, so that a read that continues after a failed pass
    does not affect the next pass.

    Args:
        manifests: Finished manifests.
        fingerprint: Fingerprint of the dataset.
        seed: Seed for drawing the prompts.
    """

    def __init__(self, manifests: Manifests, fingerprint: str, seed: int) -> None:
        self._manifests = manifests
        self._fingerprint = fingerprint
        self._seed = seed
        self._growing: dict[str, ManifestBuilder] = {}

    def prompt(
        self, rule: PromptRule, sample: Sample, instance: Instance, mask: BoolArray
    ) -> Float32Array | None:
        """Returns the prompt of an instance; makes it unless an earlier pass has made it.

        Several threads may ask for those of different images.

        Args:
            rule: Which prompt.
            sample: The image.
            instance: One of its objects.
            mask: (H, W) bool, the object's reference mask.

        Returns:
            (D,) float32; None if the instance has no such prompt.
        """
        builder = self._growing.get(rule.name)
        if builder is None:
            manifest = self._manifests.find(rule.name)
            if manifest is not None:
                return manifest.get(sample.image_id, instance.annotation_id)
            # If several threads reach this point, all use the builder that was stored first.
            new = ManifestBuilder(self._fingerprint, rule, self._seed)
            builder = self._growing.setdefault(rule.name, new)
        return builder.add(sample.image_id, instance, mask)

    def finish(self, *, whole: bool) -> None:
        """Hands over the prompts made in this pass; must be called after all its reads have ended.

        Args:
            whole: It saw every image, so that its manifests are stored as well.
        """
        for name, builder in self._growing.items():
            self._manifests.take(name, builder.finish(), store=whole)
        self._growing = {}
