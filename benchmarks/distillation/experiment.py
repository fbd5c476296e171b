"""The paper's comparison of distillation schemes at small scale: profiles, runs and their record.

All runs have the same student, teacher, images and number of steps, and differ in scheme and seed.
The seed changes the student's initial weights, the order of images and the prompts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from benchmarks.distillation.scenes import ScenesSpec
from benchmarks.records.record import RECORD_NAME, Environment, document_of, write_atomic
from mobilesam.distillation.train_config import PromptConfig, TrainConfig
from mobilesam.errors import UsageError
from mobilesam.frozen_model import FrozenModel

AGREEMENT = "center"
"""Protocol of the paper's mIoU between student and teacher for the same single point."""
PROTOCOLS = ("box", "center", "center-multi")
DECOUPLED = "decoupled"
SCHEMES = (DECOUPLED, "semi-coupled", "coupled")


@dataclass(frozen=True, slots=True)
class CompareProfile:
    """Size of the experiment."""

    name: str
    teacher: str  # registry name
    student: str  # name in `mobilesam.distillation.students.STUDENTS`
    scenes: ScenesSpec  # of the training
    config: TrainConfig  # of all runs, except the seed; its steps and batch are the full budget
    longer: int  # factor of the steps that the decoupled scheme takes in the time of the others
    seeds: tuple[int, ...]  # each scheme has a run with each
    n_images: int  # scenes of the evaluation
    evaluation_seed: int  # differs from the seed of the training scenes


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
    """Returns a profile by name; refuses an unknown one."""
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
        """Unique name, which is also the name of its folder."""
        config = self.config
        return f"{self.scheme}-batch{config.batch_size}-steps{config.steps}-seed{config.seed}"


def planned_runs(profile: CompareProfile) -> Iterator[PlannedRun]:
    """Yields all schemes at the full budget, then the decoupled scheme at other budgets.

    The smaller budgets are those of the paper's Table 4: half the batch and half the steps, then
    half the steps. The longer one takes about the time of the other schemes.
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
    """Mean loss of a stretch of steps; its unit depends on the scheme."""

    step: int
    seconds: float
    loss: float


class StudentRow(FrozenModel):
    """Result of one run. IoUs are fractions."""

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
    """Record of the experiment. Trainings ran at the same time, one thread each."""

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


def save_experiment(record: DistillationRecord, folder: Path) -> None:
    """Writes the record into a folder."""
    path = folder / RECORD_NAME
    write_atomic(path, document_of(record, path, indent=1))


def load_experiment(folder: Path) -> DistillationRecord:
    """Reads the record of a folder; `DataError` if it is missing or of another version."""
    return DistillationRecord.from_file(folder / RECORD_NAME, "record of distill compare")
