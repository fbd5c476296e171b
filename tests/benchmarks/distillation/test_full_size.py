"""Evaluation of a full-size training: all commands in a row, at a small size."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.distillation import full_size
from benchmarks.distillation.training import STUDENT_NAME
from mobilesam.errors import DataError
from mobilesam.model.state_dicts import load_state_dict_file


@pytest.fixture
def teacher(tmp_path: Path) -> Path:
    """A file of `sam-mini` with random weights: untrained."""
    from mobilesam.distillation.students import shape_of
    from mobilesam.model.mini import build_sam_mini
    from mobilesam.model.model_files import save_model

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = build_sam_mini()
    path = tmp_path / "teacher.safetensors"
    save_model(path, shape_of(model, {}), model.state_dict())
    return path


@pytest.fixture
def trained(run: Any, scenes: Any, teacher: Path, tmp_path: Path) -> Path:
    """The folder of a training of two steps."""
    models = ("--models=sam-mini", f"--weights=sam-mini={teacher}")
    pictures = f"--images={scenes.images}"
    assert run("distill", "embed", *models, pictures, "--out=store").code == 0
    done = run(
        "distill", "train", *models, pictures, "--store=store", "--student=mini", "--steps=2",
        "--batch-size=1", "--learning-rate=0.001", "--seed=4", "--out=trained",
    )  # fmt: skip
    assert done.code == 0, done.err
    return tmp_path / "trained"


@pytest.mark.slow
def test_embed_train_and_measure(
    trained: Path, teacher: Path, scenes: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "found.json"
    code = full_size.main(
        [
            f"--run={trained}", f"--store={tmp_path / 'store'}", "--teacher=sam-mini",
            f"--weights={teacher}", f"--images={scenes.images}",
            f"--annotations={scenes.annotations}", "--protocol=box", "--limit=1", "--note=small",
            f"--out={out}",
        ]
    )  # fmt: skip
    assert code == 0
    found = json.loads(out.read_text())
    assert found == json.loads(capsys.readouterr().out)
    assert found["store"]["n_embeddings"] == 3
    assert found["training"]["scheme"] == "decoupled"
    assert found["training"]["loss"]["n_steps"] == 2
    assert all(value > 0 for value in found["training"]["loss"]["mean_of_parts"])
    for name in ("untrained", "trained"):
        rows = {row["reference"]: row for row in found["students"][name]}
        assert set(rows) == {"ground-truth", "teacher:sam-mini"}
        assert all(row["status"] == "ok" and 0 <= row["miou"] <= 1 for row in rows.values())
    hashes = {found["students"][name][0]["weights_sha256"] for name in found["students"]}
    assert len(hashes) == 2


@pytest.mark.slow
def test_untrained_student(trained: Path, teacher: Path, tmp_path: Path) -> None:
    notes = full_size.untrained(trained / STUDENT_NAME, tmp_path / "before.safetensors")
    assert notes["config"]["seed"] == 4
    before = load_state_dict_file(tmp_path / "before.safetensors")
    after = load_state_dict_file(trained / STUDENT_NAME)
    heads = load_state_dict_file(teacher)
    assert before.keys() == after.keys()
    for name, value in before.items():
        if not name.startswith("image_encoder."):
            assert torch.equal(value, heads[name])
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    assert changed
    assert all(name.startswith("image_encoder.") for name in changed)
    with pytest.raises(DataError, match="does not say how it was trained"):
        full_size.untrained(teacher.rename(tmp_path / "x.pt"), tmp_path / "y.safetensors")


def test_loss_summary() -> None:
    found = full_size.loss_summary([float(i) for i in range(20)])
    assert found["n_steps"] == 20
    assert found["mean_of_parts"] == [0.5 + 2 * i for i in range(10)]
    assert full_size.loss_summary([1.0, 3.0])["mean_of_parts"] == [1.0, 3.0]


def test_missing_metrics(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        full_size.losses(tmp_path)
