"""What a run is asked to do, as a value."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from baselines.registry import ModelEntry
from benchmarks.config.model_resolution import PlannedModel, WeightsPolicy
from benchmarks.config.profiles import Profile
from benchmarks.config.scale_options import ScaleRequest
from benchmarks.datasets.dataset import Dataset
from benchmarks.datasets.parsing import read_file
from benchmarks.prompts.protocols import GROUND_TRUTH, AccuracyProtocol

if TYPE_CHECKING:
    from benchmarks.evaluation.detector_boxes import DetectorInput, MaskChoice


@dataclass(frozen=True, slots=True)
class RunRequest:
    """What a run is asked to do.

    Attributes:
        command: As the user typed it, for the record.
        note: What the user wants remembered, for the record.
        models: Which models, in the order of the tables.
        policy: Where weights may come from.
        out: Folder for everything the run leaves.
        threads: Threads each model is given.
        device: Torch device.
        precision: `fp32`, `fp16` or `bf16`.
        seed: Of everything that is drawn.
        profile: How thorough latency is measured; None leaves it out.
        count: Count parameters and FLOPs.
        dataset: Images for accuracy; None leaves it out.
        protocols: Of accuracy.
        references: Of accuracy: `ground-truth` and `teacher:NAME`.
        teachers: The models that `references` names.
        save_masks: Keep every answer, to be scored again.
        embeddings: Folder of image embeddings that outlive the run; None keeps none.
        detector: Boxes of a detector to be used as prompts, judged by COCO AP.
        detector_masks: Which masks are judged: `single`, or of three the best-scored (`multi`).
        everything: Measure segmenting everything on the dataset.
        boundary: Score boundary IoU as well.
        scale: Work in chunks that are kept one by one; None holds all rows in memory.
        default_models: The user did not name the models.
        publishable: Wait until the machine is idle, and refuse to measure if it stays busy.
    """

    command: str
    note: str | None
    models: tuple[ModelEntry, ...]
    policy: WeightsPolicy
    out: Path
    threads: int
    device: str = "cpu"
    precision: str = "fp32"
    seed: int = 0
    profile: Profile | None = None
    count: bool = False
    dataset: Dataset | None = None
    protocols: tuple[AccuracyProtocol, ...] = ()
    references: tuple[str, ...] = (GROUND_TRUTH,)
    teachers: tuple[ModelEntry, ...] = ()
    save_masks: bool = False
    embeddings: Path | None = None
    detector: DetectorInput | None = None
    detector_masks: tuple[MaskChoice, ...] = ()
    everything: bool = False
    boundary: bool = True
    scale: ScaleRequest | None = None
    default_models: bool = False
    publishable: bool = False

    def deferral(self, model: PlannedModel) -> str | None:
        """Why only a model's parameters are counted; None if everything is measured.

        If a profile is not complete, models without trained weights and models that must be
        exported first are not measured unless the user named them.
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

    @property
    def needs_weights(self) -> bool:
        """Counting alone looks at shapes only."""
        return self.profile is not None or self.dataset is not None

    def config(
        self, models: Sequence[PlannedModel], teachers: Sequence[PlannedModel]
    ) -> dict[str, Any]:
        """All that decides what is measured, for the record and its resume key."""
        chunks = {} if self.scale is None else {"chunk_images": self.scale.chunk_images}
        scored = {} if self.boundary else {"boundary": False}
        deferred = [model.entry.name for model in models if model.deferred is not None]
        return {
            "models": {model.entry.name: model.weights.sha256 for model in models},
            "threads": self.threads,
            "device": self.device,
            "precision": self.precision,
            "seed": self.seed,
            "profile": None if self.profile is None else asdict(self.profile),
            "params": self.count,
            "dataset": None if self.dataset is None else self.dataset.name,
            "dataset_sha256": None if self.dataset is None else self.dataset.fingerprint,
            "protocols": [protocol.name for protocol in self.protocols],
            "references": list(self.references),
            "teachers": {model.entry.name: model.weights.sha256 for model in teachers},
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
