"""The experiment and the mini family from end to end, at the smallest size."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from small_models import HEADS, STUDENT, TEACHER

from baselines.options import Checkpoint, ModelOptions
from baselines.registry import build, select_one
from benchmarks.cli.app import main
from benchmarks.config.model_resolution import ResolvedModel
from benchmarks.distillation import conduct, mini_family, mini_student, mini_teacher
from benchmarks.distillation.conduct import Conductor
from benchmarks.distillation.experiment import find_profile
from benchmarks.distillation.mini_family import make_family
from benchmarks.distillation.mini_teacher import STAGES, resized_positions
from benchmarks.distillation.scenes import ScenesSpec
from benchmarks.distillation.side_by_side import Training, train_all
from benchmarks.distillation.training import shape_of
from benchmarks.records.progress import Reporter
from benchmarks.records.record import WeightsRow
from mobilesam.distillation.process_group import World
from mobilesam.errors import TrainingError, UsageError
from mobilesam.model.mini import build_sam_mini
from mobilesam.model.model_files import save_model
from mobilesam.weights.cache import digest_file

SCENES = ScenesSpec(n_scenes=4, seed=5, side_px=64, shard_scenes=2)


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conduct, "STUDENTS", {"tiny": STUDENT})


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


def test_the_experiment_runs_once_and_is_taken_up(tmp_path: Path) -> None:
    usual = find_profile("mini")
    small = {"steps": 4, "batch_size": 4, "micro_batch": 4, "warmup_steps": 1}
    profile = replace(
        usual,
        student="tiny",
        scenes=SCENES,
        config=usual.config.model_copy(update=small),
        seeds=(1, 2),
        n_images=2,
    )
    teacher = planned_teacher(tmp_path)

    def conducted(workers: int) -> conduct.DistillationRecord:
        reporter = Reporter(quiet=True)
        return Conductor(profile, teacher, tmp_path / "out", tmp_path, reporter, workers).run()

    first = conducted(workers=2)
    assert len(first.students) == 12
    assert first.teacher_sha256 == teacher.weights.sha256
    assert all(0 <= row.agreement <= 1 for row in first.students)
    assert first.untrained_agreement is not None
    assert len({row.weights_sha256 for row in first.students}) == 12
    assert not [text for text in first.warnings if "several conditions" in text]
    again = conducted(workers=1)
    (warning,) = (text for text in again.warnings if "several conditions" in text)
    assert "workers: 2; " in warning
    assert warning.endswith("workers: 1")
    assert again.students == first.students
    assert again.embed_seconds >= first.embed_seconds > 0


class _Deadly:
    """Ends the process that receives it."""

    def __reduce__(self) -> tuple[object, tuple[int]]:
        return os._exit, (9,)


def test_a_training_that_is_killed_says_so(tmp_path: Path) -> None:
    task = Training(
        run=cast("Any", _Deadly()),
        student=STUDENT,
        teacher=planned_teacher(tmp_path),
        embeddings=tmp_path,
        folder=tmp_path,
        scenes_root=tmp_path,
        scenes=SCENES,
    )
    with pytest.raises(TrainingError, match="a training was killed"):
        train_all([task, task], 2, Reporter(quiet=True))


def test_the_family_is_made_taken_up_and_can_be_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def small(config: object, steps: int) -> object:
        changes = {"steps": steps, "batch_size": 2, "micro_batch": 2, "warmup_steps": 1}
        return config.model_copy(update=changes)  # type: ignore[attr-defined]

    stages = tuple(
        replace(stage, side_px=side, config=small(stage.config, 2))
        for stage, side in zip(STAGES, (32, 32, 32, 64, 64, 64, 64), strict=True)
    )
    monkeypatch.setattr(mini_teacher, "STAGES", stages)
    monkeypatch.setattr(mini_teacher, "SamMiniConfig", lambda: TEACHER)
    monkeypatch.setattr(mini_family, "TRAINING_SCENES", SCENES)
    rounds = {name: small(config, 2) for name, config in mini_student.ROUNDS.items()}
    monkeypatch.setattr(mini_student, "ROUNDS", rounds)
    monkeypatch.setattr(mini_student, "mobile_sam_mini_shape", lambda: (STUDENT, HEADS))

    def made() -> mini_family.MiniFamily:
        out = tmp_path / "out"
        return make_family(out, tmp_path, Reporter(quiet=True), World(), workers=1)

    family = made()
    assert family.student is not None
    files = [family.teacher.read_bytes(), family.student.read_bytes()]
    for name, path in (("sam-mini", family.teacher), ("mobilesam-mini", family.student)):
        found = digest_file(path)
        checkpoint = Checkpoint(path, found.sha256, False, found.n_bytes, True)
        model = build(select_one(name), ModelOptions(name, checkpoint=checkpoint))
        assert model.info.input_size_px == 64
        assert not model.info.weights.official
    again = made()
    assert again.student is not None
    assert files == [again.teacher.read_bytes(), again.student.read_bytes()]


def test_positions_keep_their_values_at_another_size() -> None:
    rows = torch.linspace(0, 1, 4)[:, None, None].expand(4, 4, 3)
    state = {"image_encoder.pos_embed": rows.reshape(1, 16, 3), "other": torch.ones(1)}
    found = resized_positions(state, 8)
    grid = found["image_encoder.pos_embed"].reshape(8, 8, 3)
    assert torch.allclose(grid[:, 0], grid[:, 5], atol=1e-6)
    assert (grid[1:, 0, 0] > grid[:-1, 0, 0]).all()
    assert found["other"] is state["other"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["train"], "needs --out"),
        (["train", "--out=x", "--scheme=magic"], "unknown scheme 'magic'"),
        (["mini"], "needs --out"),
        (["compare", "--profile=huge"], "unknown profile 'huge'"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["distill", *arguments]) == 2
    assert said in capsys.readouterr().err


def test_settings_come_from_a_file_and_are_checked(tmp_path: Path) -> None:
    from benchmarks.cli.commands.training import student_config, train_config
    from benchmarks.config.options import TrainArguments

    path = tmp_path / "config.json"
    path.write_text(json.dumps({"steps": 5, "batch_size": 4, "learning_rate": 0.1}))
    config = train_config(TrainArguments(config=path, steps=9), seed=3)
    assert (config.steps, config.batch_size, config.micro_batch, config.seed) == (9, 4, 4, 3)
    path.write_text(json.dumps({"steps": 0, "batch_size": 4, "learning_rate": 0.1}))
    with pytest.raises(UsageError, match="steps"):
        train_config(TrainArguments(config=path), seed=0)
    path.write_text(json.dumps({"image_size_px": 256}))
    assert student_config(str(path)).image_size_px == 256
    with pytest.raises(UsageError, match="unknown student 'huge'"):
        student_config("huge")
