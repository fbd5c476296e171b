"""Arguments of `distill train`, `mini` and `compare`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.cli.app import main
from benchmarks.config.options import TrainArguments
from benchmarks.distillation.training import student_config, train_config
from mobilesam.errors import UsageError


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train"], "needs --out"),
        (["train", "--out=x", "--scheme=magic"], "unknown scheme 'magic'"),
        (["mini"], "needs --out"),
        (["compare", "--profile=huge"], "unknown profile 'huge'"),
    ],
)
def test_invalid_arguments(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["distill", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_settings_of_a_file(tmp_path: Path) -> None:
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
