"""The paper's question at small scale: which scheme makes the better student?

Every run has the same student, teacher, pictures and number of steps; what differs is the scheme
and the seed. The seed changes the student's first weights, the order of the pictures and the
prompts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from baselines.options import Checkpoint
from benchmarks.distillation.scenes import ScenesSpec
from benchmarks.records.record import Environment
from mobilesam.distillation.config import PromptConfig, TrainConfig
from mobilesam.errors import UsageError
from mobilesam.frozen_model import FrozenModel

AGREEMENT = "center"
"""The paper's mIoU: the student's mask against the teacher's for the same single point."""
PROTOCOLS = ("box", "center", "center-multi")
DECOUPLED = "decoupled"
SCHEMES = (DECOUPLED, "semi-coupled", "coupled")


@dataclass(frozen=True, slots=True)
class CompareProfile:
    """How large the experiment is.

    Attributes:
        name: As given to `--profile`.
        teacher: Registry name.
        student: Name in `mobilesam.distillation.students.STUDENTS`.
        scenes: What is trained on.
        config: Of every run, but for the seed; its steps and batch are the full budget.
        longer: How many times the steps the decoupled scheme takes in the time of the others.
        seeds: One run each.
        n_images: Fresh scenes of the evaluation.
        evaluation_seed: Of those; never that of the training scenes.
    """

    name: str
    teacher: str
    student: str
    scenes: ScenesSpec
    config: TrainConfig
    longer: int
    seeds: tuple[int, ...]
    n_images: int
    evaluation_seed: int


_MINI = CompareProfile(
    name="mini",
    teacher="sam-mini",
    student="mini",
    scenes=ScenesSpec(n_scenes=1500, seed=7_306_142, side_px=256),
    config=TrainConfig(
        steps=150,
        batch_size=8,
        micro_batch=8,
        learning_rate=2e-3,
        warmup_steps=20,
        ema_decay=0.99,
        checkpoint_every=100,
        prompts=PromptConfig(objects_per_image=2, refine=0.0),
    ),
    longer=3,
    seeds=(1, 2, 3),
    n_images=60,
    evaluation_seed=11,
)

PROFILES = {_MINI.name: _MINI}


def find_profile(name: str) -> CompareProfile:
    """Looks a profile up.

    Raises:
        UsageError: There is none of that name.
    """
    if name not in PROFILES:
        raise UsageError(f"unknown profile {name!r}; choose from {', '.join(PROFILES)}")
    return PROFILES[name]


@dataclass(frozen=True, slots=True)
class PlannedRun:
    """One training of the experiment."""

    scheme: str
    config: TrainConfig

    @property
    def name(self) -> str:
        """Distinct in the experiment; a folder's name, too."""
        config = self.config
        return f"{self.scheme}-batch{config.batch_size}-steps{config.steps}-seed{config.seed}"


def planned_runs(profile: CompareProfile) -> Iterator[PlannedRun]:
    """All schemes at the full budget, then the decoupled one at smaller ones and at a longer one.

    The smaller budgets have the shape of the paper's Table 4: half the batch and half the steps,
    then half the steps. The longer one is for the other half of the question: what the scheme
    comes to in about the time that the others take for their steps.
    """
    full = profile.config
    half_steps = {"steps": full.steps // 2}
    half_batch = {"batch_size": full.batch_size // 2, "micro_batch": full.batch_size // 2}
    budgets: list[tuple[str, dict[str, Any]]] = [(scheme, {}) for scheme in SCHEMES]
    budgets += [(DECOUPLED, half_steps | half_batch), (DECOUPLED, half_steps)]
    budgets.append((DECOUPLED, {"steps": profile.longer * full.steps}))
    for scheme, changes in budgets:
        for seed in profile.seeds:
            yield PlannedRun(scheme, full.model_copy(update={**changes, "seed": seed}))


class LossPoint(FrozenModel):
    """The loss after so many steps; schemes measure it in units of their own."""

    step: int
    seconds: float
    loss: float


class StudentRow(FrozenModel):
    """One run and what became of it. IoUs are fractions."""

    name: str
    scheme: str
    seed: int
    batch_size: int
    steps: int
    train_seconds: float
    weights_sha256: str
    agreement: float
    ground_truth: dict[str, float]
    curve: tuple[LossPoint, ...]


class DistillationRecord(FrozenModel):
    """The whole experiment. Trainings ran on one thread each, as many at a time as there were."""

    schema_version: Literal[1] = 1
    created_utc: str
    profile: str
    config: dict[str, Any]
    teacher: str
    teacher_sha256: str | None
    teacher_ground_truth: dict[str, float]
    untrained_agreement: float | None
    n_training_scenes: int
    embed_seconds: float
    evaluation: str
    n_evaluation_instances: int
    students: tuple[StudentRow, ...]
    environment: Environment
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Finished:
    """A run whose student is there."""

    run: PlannedRun
    path: Path
    checkpoint: Checkpoint
    seconds: float
    curve: tuple[LossPoint, ...]
