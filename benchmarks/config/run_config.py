"""Configuration of a run: one frozen value that is passed to everything that takes part in it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from baselines.registry import ModelEntry
from benchmarks.config.model_resolution import ResolvedModel, WeightsPolicy, resolve_models
from benchmarks.datasets.dataset import Dataset
from benchmarks.datasets.parsing import read_file
from benchmarks.latency.timer import StopRule
from benchmarks.prompts.protocols import GROUND_TRUTH, AccuracyProtocol
from mobilesam.errors import UsageError

if TYPE_CHECKING:
    from benchmarks.datasets.coco import CocoDataset


MaskChoice = Literal["single", "multi"]
DEFAULT_IMAGES_PER_SHARD = 500
DEFAULT_PREFETCH_THREADS = 2


@dataclass(frozen=True, slots=True)
class Profile:
    """A named amount of work.

    Attributes:
        name: Value of `--profile`.
        processes: Number of fresh processes in which each model is timed.
        rule: When the measurement of a phase ends, within one process.
        n_prompts: Numbers of prompts for which decoding is timed.
        n_images: Number of scenes of `--dataset synthetic` without `--limit`.
        fetch_limit_bytes: Maximum size of weights that are downloaded automatically; None: no
            limit.
        complete: Whether the default selection includes models with random weights and models that
            must be exported first; otherwise only their parameters are counted.
    """

    name: str
    processes: int
    rule: StopRule
    n_prompts: tuple[int, ...] = (1, 10, 100)
    n_images: int = 20
    fetch_limit_bytes: int | None = None
    complete: bool = True


PROFILES = {
    profile.name: profile
    for profile in (
        Profile(
            "quick",
            1,
            StopRule(5, 0.5, 6.0, 1.5),
            n_images=10,
            fetch_limit_bytes=100_000_000,
            complete=False,
        ),
        Profile("standard", 3, StopRule(10, 1.0, 20.0, 5.0), n_images=50),
        Profile("full", 5, StopRule(30, 3.0, 120.0, 20.0), n_images=200),
    )
}


def find_profile(name: str) -> Profile:
    """Returns the profile of a name.

    Raises:
        UsageError: Unknown name.
    """
    if name not in PROFILES:
        raise UsageError(f"unknown profile {name!r}; choose from {', '.join(PROFILES)}")
    return PROFILES[name]


@dataclass(frozen=True, slots=True)
class ShardingConfig:
    """How a dataset is divided into shards, and where these are evaluated.

    Attributes:
        images_per_shard: Maximum number of images of a shard.
        prefetch_threads: Threads of each worker that load images and score masks while the model
            runs; 0 disables the overlap.
        cluster: Address of a Ray cluster, or `local` for one on this machine; None uses this
            process.
        workers: Number of workers on the cluster; None uses as many as fit.
        worker_cpus: CPU cores of each worker.
        worker_gpus: GPUs of each worker; a fraction lets several workers share one.
        attempts: How often a shard is started before it is recorded as failed.
    """

    images_per_shard: int = DEFAULT_IMAGES_PER_SHARD
    prefetch_threads: int = DEFAULT_PREFETCH_THREADS
    cluster: str | None = None
    workers: int | None = None
    worker_cpus: float = 1.0
    worker_gpus: float = 0.0
    attempts: int = 3


@dataclass(frozen=True, slots=True)
class DetectorInput:
    """Boxes of a detector on a COCO dataset, to be used as prompts.

    Attributes:
        dataset: Dataset made from the two paths below, with its limit.
        images: Folder of the image files. It also gives the images without any instance, which are
            not in the dataset but count in COCO's AP.
        annotations: COCO instances file.
        detections: COCO results file with the boxes.
    """

    dataset: CocoDataset
    images: Path
    annotations: Path
    detections: Path


@dataclass(frozen=True, slots=True)
class RunConfig:
    """Everything that determines a run.

    Attributes:
        command: Command line, for the record.
        note: Free text of the user, for the record.
        models: Models to measure, in the order of the tables.
        weights_policy: Allowed sources of weights.
        out: Folder for the record and all other files.
        threads: CPU threads of each model.
        device: Torch device.
        precision: `fp32`, `fp16` or `bf16`.
        seed: Seed of scenes, prompt sampling and random weights.
        profile: Thoroughness of the latency measurement; None measures no latency.
        count_parameters: Count parameters and FLOPs.
        dataset: Images with reference masks; None measures no accuracy.
        protocols: Accuracy protocols.
        references: `ground-truth` and `teacher:NAME`.
        reference_models: The models named by `references`.
        save_masks: Keep all predicted masks for `miou --rescore`.
        embeddings: Folder of image embeddings shared between runs; None keeps none.
        detector: Boxes of a detector to be used as prompts, evaluated by COCO AP.
        detector_masks: Masks to evaluate for these boxes: `single`, or the best-scored of three
            (`multi`).
        everything: Measure automatic mask generation on the dataset.
        boundary: Compute boundary IoU in addition to IoU.
        sharding: Shards, threads and cluster; None evaluates the dataset as a whole.
        default_models: Whether `models` is the default selection.
        publishable: Wait until the machine is idle, and refuse to measure if it stays busy.
    """

    command: str
    note: str | None
    models: tuple[ModelEntry, ...]
    weights_policy: WeightsPolicy
    out: Path
    threads: int
    device: str = "cpu"
    precision: str = "fp32"
    seed: int = 0
    profile: Profile | None = None
    count_parameters: bool = False
    dataset: Dataset | None = None
    protocols: tuple[AccuracyProtocol, ...] = ()
    references: tuple[str, ...] = (GROUND_TRUTH,)
    reference_models: tuple[ModelEntry, ...] = ()
    save_masks: bool = False
    embeddings: Path | None = None
    detector: DetectorInput | None = None
    detector_masks: tuple[MaskChoice, ...] = ()
    everything: bool = False
    boundary: bool = True
    sharding: ShardingConfig | None = None
    default_models: bool = False
    publishable: bool = False

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

        Args:
            models: The resolved `models`.
            reference_models: The resolved `reference_models`.
        """
        chunks = {} if self.sharding is None else {"chunk_images": self.sharding.images_per_shard}
        scored = {} if self.boundary else {"boundary": False}
        deferred = [model.entry.name for model in models if model.deferred is not None]
        return {
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
            if self.detector is None
            else _sha256(self.detector.detections),
            "detector_masks": list(self.detector_masks),
            "everything": self.everything,
            **chunks,
            **scored,
            **({"deferred": deferred} if deferred else {}),
        }


def _sha256(path: Path) -> str:
    return hashlib.sha256(read_file(path)).hexdigest()
