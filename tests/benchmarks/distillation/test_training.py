"""Evaluation of a student during its training."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from small_models import STUDENT, TEACHER

from benchmarks.distillation import scenes, training
from benchmarks.distillation.scenes import ScenesSpec
from mobilesam.distillation.students import shape_of
from mobilesam.model.mini import build_sam_mini
from mobilesam.model.model_files import save_model


@pytest.fixture
def train(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """`distill train` of a tiny student, four steps with a checkpoint after two."""
    monkeypatch.setattr(scenes, "ScenesSpec", partial(ScenesSpec, shard_scenes=2))
    torch.manual_seed(0)
    model = build_sam_mini(TEACHER)
    teacher = tmp_path / "teacher.safetensors"
    save_model(teacher, shape_of(model, {}), model.state_dict())
    student = tmp_path / "student.json"
    student.write_text(json.dumps(asdict(STUDENT)))

    def call(*more: str) -> Any:
        return run(
            "distill", "train", "--models=sam-mini", f"--weights=sam-mini={teacher}",
            f"--student={student}", "--scenes=2", "--steps=4", "--batch-size=2",
            "--learning-rate=0.001", "--checkpoint-every=2", "--out=out", *more,
        )  # fmt: skip

    return call


def lines(folder: Path) -> list[dict[str, Any]]:
    text = (folder / "out" / training.EVALUATIONS_NAME).read_text()
    return [json.loads(line) for line in text.splitlines()]


def test_evaluation_at_start_and_checkpoints(train: Callable[..., Any], tmp_path: Path) -> None:
    done = train("--evaluate=1", "--evaluate-protocol=center")
    assert done.code == 0, done.err
    found = lines(tmp_path)
    assert [line["step"] for line in found] == [0, 0, 2, 2, 4, 4]
    assert {line["reference"] for line in found} == {"ground-truth", "teacher:sam-mini"}
    assert all(0 <= line["miou"] <= 1 for line in found)
    assert done.err.count("accuracy of sam-mini") <= 1, "the teacher is evaluated once"
    assert "after 4 steps, mIoU: center vs teacher:sam-mini" in done.err


def test_resumed_training_keeps_evaluations(
    train: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ("--evaluate=1", "--evaluate-protocol=center")
    assert train(*options).code == 0
    path = tmp_path / "out" / training.EVALUATIONS_NAME
    whole = path.read_text()
    # Killed between the last checkpoint and its evaluation.
    path.write_text("".join(whole.splitlines(keepends=True)[:4]))
    evaluated: list[Path] = []
    real = training.evaluate_student

    def counted(student: Path, *rest: Any) -> Any:
        evaluated.append(student)
        return real(student, *rest)

    monkeypatch.setattr(training, "evaluate_student", counted)
    assert train(*options).code == 0
    assert len(evaluated) == 1
    assert path.read_text() == whole


def test_evaluation_does_not_change_the_training(train: Callable[..., Any], tmp_path: Path) -> None:
    assert train("--evaluate=1").code == 0
    first = (tmp_path / "out" / "student.safetensors").read_bytes()
    (tmp_path / "out").rename(tmp_path / "evaluated")
    assert train().code == 0
    second = (tmp_path / "out" / "student.safetensors").read_bytes()
    # The header tells the seconds that it took; the weights are what follows.
    assert tensors(first) == tensors(second)


def tensors(file: bytes) -> bytes:
    return file[8 + int.from_bytes(file[:8], "little") :]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--evaluate=0",), "--evaluate must be at least 1"),
        (("--evaluate-images=x", "--evaluate-annotations=y"), "needs --evaluate N"),
        (("--evaluate=1", "--evaluate-images=x"), "belong together"),
    ],
)
def test_invalid_evaluation_options(
    train: Callable[..., Any], tmp_path: Path, options: tuple[str, ...], told: str
) -> None:
    done = train(*options)
    assert done.code == 2
    assert told in done.err
    assert not (tmp_path / "out" / "metrics.jsonl").exists()


def test_missing_evaluation_images(train: Callable[..., Any], tmp_path: Path) -> None:
    done = train("--evaluate=1", "--evaluate-images=nowhere", "--evaluate-annotations=no.json")
    assert done.code in {1, 2}
    assert "nowhere is not a folder" in done.err
    assert not (tmp_path / "out" / "metrics.jsonl").exists()
