"""The comparison of schemes from end to end, at the smallest size."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from small_models import STUDENT, TEACHER

from baselines.interface import Checkpoint, ModelOptions
from baselines.registry import select_one
from benchmarks.config.model_resolution import ResolvedModel
from benchmarks.datasets.synthetic import SyntheticDataset
from benchmarks.distillation import experiment_runner
from benchmarks.distillation.experiment import DistillationRecord, find_profile
from benchmarks.distillation.experiment_runner import run_experiment
from benchmarks.distillation.scenes import ScenesSpec, render_scenes
from benchmarks.records.progress import Reporter
from benchmarks.records.record import WeightsRow
from mobilesam.distillation import students
from mobilesam.distillation.students import shape_of
from mobilesam.model.mini import build_sam_mini
from mobilesam.model.model_files import save_model
from mobilesam.weights.cache import digest_file

SCENES = ScenesSpec(n_scenes=4, seed=5, side_px=64, shard_scenes=2)


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(students, "STUDENTS", {"tiny": STUDENT})


def planned_teacher(folder: Path) -> ResolvedModel:
    torch.manual_seed(0)
    model = build_sam_mini(TEACHER)
    path = folder / "teacher.safetensors"
    save_model(path, shape_of(model, {}), model.state_dict())
    found = digest_file(path)
    checkpoint = Checkpoint(path, found.sha256, False, found.n_bytes, True)
    return ResolvedModel(
        select_one("sam-mini"),
        ModelOptions("sam-mini", checkpoint=checkpoint),
        WeightsRow(kind="file", sha256=found.sha256, file_bytes=found.n_bytes),
    )


def test_experiment_runs_and_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_scenes = partial(SyntheticDataset, size_hw=(96, 128))
    monkeypatch.setattr(experiment_runner, "SyntheticDataset", small_scenes)
    usual = find_profile("mini")
    small = {"steps": 4, "batch_size": 2, "micro_batch": 2, "warmup_steps": 1}
    profile = replace(
        usual,
        student="tiny",
        scenes=SCENES,
        config=usual.config.model_copy(update=small),
        seeds=(1,),
        n_images=1,
    )
    teacher = planned_teacher(tmp_path)

    def conducted(workers: int) -> DistillationRecord:
        reporter = Reporter(quiet=True)
        return run_experiment(profile, teacher, tmp_path / "out", tmp_path, reporter, workers)

    assert list(render_scenes(tmp_path, SCENES))  # here, without processes that start for it
    first = conducted(workers=2)
    assert len(first.students) == 6
    assert first.teacher_sha256 == teacher.weights.sha256
    assert all(0 <= row.agreement <= 1 for row in first.students)
    assert first.untrained_agreement is not None
    assert len({row.weights_sha256 for row in first.students}) == 6
    assert not [text for text in first.warnings if "several conditions" in text]
    again = conducted(workers=1)
    (warning,) = (text for text in again.warnings if "several conditions" in text)
    assert "workers: 2; " in warning
    assert warning.endswith("workers: 1")
    assert again.students == first.students
    assert again.embed_seconds >= first.embed_seconds > 0
