"""Configuration of a run: one frozen value that is passed to everything that takes part in it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from baselines.registry import ModelEntry
from benchmarks.config.model_resolution import ResolvedModel, WeightsPolicy, resolve_models
from benchmarks.datasets.coco import CocoDataset
from benchmarks.datasets.dataset import Dataset
from benchmarks.datasets.parsing import read_file
from benchmarks.latency.timer import StopRule
from benchmarks.prompts.protocols import GROUND_TRUTH, NOC_IOUS, AccuracyProtocol
from mobilesam.errors import UsageError

MaskChoice = Literal["single", "multi"]
DEFAULT_IMAGES_PER_SHARD = 500
DEFAULT_PREFETCH_THREADS = 2


@dataclass(frozen=True, slots=True)
class Profile:
    """A named amount of work."""

    name: str
    processes: int  # fresh ones, in which each model is timed
    rule: StopRule  # of a phase, within one process
    n_prompts: tuple[int, ...] = (1, 10, 100)  # for which decoding is timed
    n_images: int = 20  # scenes of `--dataset synthetic` without `--limit`
    fetch_limit_bytes: int | None = None
    """Maximum size of weights that are downloaded automatically; None: no limit."""
    complete: bool = True
    """Whether the default selection includes models with random weights and models that must be
    exported first; otherwise only their parameters are counted."""


_QUICK = StopRule(min_calls=5, min_seconds=0.5, cap_seconds=6.0, warmup_seconds=1.5)
PROFILES = {
    profile.name: profile
    for profile in (
        Profile("quick", 1, _QUICK, n_images=10, fetch_limit_bytes=100_000_000, complete=False),
        Profile("standard", 3, StopRule(10, 1.0, 20.0, 5.0), n_images=50),
        Profile("full", 5, StopRule(30, 3.0, 120.0, 20.0), n_images=200),
    )
}


def find_profile(name: str) -> Profile:
    """Returns the profile of a name."""
    if name not in PROFILES:
        raise UsageError(f"unknown profile {name!r}; choose from {', '.join(PROFILES)}")
    return PROFILES[name]


@dataclass(frozen=True, slots=True)
class ShardingConfig:
    """How a dataset is divided into shards, and where these are evaluated."""

    images_per_shard: int = DEFAULT_IMAGES_PER_SHARD
    prefetch_threads: int = DEFAULT_PREFETCH_THREADS
    """Threads of a worker that load images and score masks while the model runs; 0: no overlap."""
    cluster: str | None = None
    """Address of a Ray cluster, or `local` for one on this machine; None uses this process."""
    workers: int | None = None  # None: as many as fit
    worker_cpus: float = 1.0
    worker_gpus: float = 0.0  # a fraction lets several workers share one
    attempts: int = 3  # starts of a shard before it is recorded as failed


@dataclass(frozen=True, slots=True)
class DetectorInput:
    """Boxes of a detector on a COCO dataset, to be used as prompts."""

    dataset: CocoDataset  # made from the two paths below, with its limit
    images: Path
    """Folder of the image files. It also gives the images without any instance, which are not in
    the dataset but count in COCO's AP."""
    annotations: Path
    detections: Path


@dataclass(frozen=True, slots=True)
class RunConfig:
    """Everything that determines a run."""

    command: str
    note: str | None
    models: tuple[ModelEntry, ...]  # in the order of the tables
    weights_policy: WeightsPolicy
    out: Path  # for the record and all other files
    threads: int  # of each model
    threads_reason: str | None = None  # why so many, for the record
    device: str = "cpu"
    precision: str = "fp32"
    seed: int = 0  # of scenes, prompt sampling and random weights
    profile: Profile | None = None  # None: measure no latency
    batch_sizes: tuple[int, ...] = ()  # of images, for which encoding is timed with the rest
    count_parameters: bool = False  # and FLOPs
    dataset: Dataset | None = None  # None: measure no accuracy
    protocols: tuple[AccuracyProtocol, ...] = ()
    noc_ious: tuple[float, ...] = NOC_IOUS  # until which clicks are counted
    references: tuple[str, ...] = (GROUND_TRUTH,)  # and `teacher:NAME`
    reference_models: tuple[ModelEntry, ...] = ()  # those named by `references`
    save_masks: bool = False
    n_pictures: int = 0  # images whose masks and pictures are kept for the report
    embeddings: Path | None = None  # folder of image embeddings shared between runs
    detector: DetectorInput | None = None
    detector_masks: tuple[MaskChoice, ...] = ()
    """Masks to evaluate for these boxes: `single`, or the best-scored of three (`multi`)."""
    everything: bool = False  # measure automatic mask generation on the dataset
    boundary: bool = True  # compute boundary IoU in addition to IoU
    sharding: ShardingConfig | None = None  # None: evaluate the dataset as a whole
    default_models: bool = False  # whether `models` is the default selection
    publishable: bool = False
    """Wait until the machine is idle, and refuse to measure if it stays busy."""

    def deferral(self, model: ResolvedModel) -> str | None:
        """Reason why only the parameters of a model are counted; None if everything is measured.

        With an incomplete profile and the default selection, models without trained weights and
        models that must be exported first are not measured.
        """
        if not self.default_models or self.profile is None or self.profile.complete:
            return None
        if model.error is not None:
            return None
        if not model.trained:
            return model.weights.why or "no trained weights"
        if model.entry.derive is not None:
            return f"profile {self.profile.name} exports no models; name it with --models"
        return None

    def resolve(self) -> tuple[list[ResolvedModel], list[ResolvedModel]]:
        """Finds the weights of all models; returns `models` and `reference_models`, resolved."""
        entries = {entry.name: entry for entry in (*self.models, *self.reference_models)}
        resolved = resolve_models(
            entries.values(),
            self.weights_policy if self.needs_weights else None,
            device=self.device,
            precision=self.precision,
            seed=self.seed,
        )
        by_name = {model.entry.name: model for model in resolved}
        models = [by_name[entry.name] for entry in self.models]
        return (
            [replace(model, deferred=self.deferral(model)) for model in models],
            [by_name[entry.name] for entry in self.reference_models],
        )

    @property
    def needs_weights(self) -> bool:
        """Whether weights are loaded; counting parameters alone takes none."""
        return self.profile is not None or self.dataset is not None

    def to_dict(
        self, models: Sequence[ResolvedModel], reference_models: Sequence[ResolvedModel]
    ) -> dict[str, Any]:
        """Settings that determine the results, for the record and its resume key.

        The arguments are what `resolve` returns.
        """
        detections = None if self.detector is None else read_file(self.detector.detections)
        settings = {
            "models": {model.entry.name: model.identity for model in models},
            "threads": self.threads,
            "device": self.device,
            "precision": self.precision,
            "seed": self.seed,
            "profile": None if self.profile is None else asdict(self.profile),
            "params": self.count_parameters,
            "dataset": None if self.dataset is None else self.dataset.name,
            "dataset_sha256": None if self.dataset is None else self.dataset.fingerprint,
            "protocols": [protocol.name for protocol in self.protocols],
            "references": list(self.references),
            "teachers": {model.entry.name: model.identity for model in reference_models},
            "save_masks": self.save_masks,
            "detections_sha256": None
            if detections is None
            else hashlib.sha256(detections).hexdigest(),
            "detector_masks": list(self.detector_masks),
            "everything": self.everything,
        }
        if self.sharding is not None:
            settings["chunk_images"] = self.sharding.images_per_shard
        if not self.boundary:
            settings["boundary"] = False
        if self.noc_ious != NOC_IOUS:
            settings["noc"] = list(self.noc_ious)
        if self.n_pictures:
            settings["pictures"] = self.n_pictures
        if self.batch_sizes:
            settings["batch_sizes"] = list(self.batch_sizes)
        deferred = [model.entry.name for model in models if model.deferred is not None]
        return {**settings, "deferred": deferred} if deferred else settings
