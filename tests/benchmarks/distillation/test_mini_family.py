"""The mini family from end to end, at the smallest size, and in several processes."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_models import HEADS, STUDENT, TEACHER

from baselines.interface import Checkpoint, ModelOptions
from baselines.registry import build, select_one
from benchmarks.distillation import mini_family
from benchmarks.distillation.mini_family import STAGES, make_family, resize_positions
from benchmarks.distillation.scenes import ScenesSpec
from benchmarks.records.environment import default_threads
from benchmarks.records.progress import Reporter
from mobilesam.distillation.training_loop import ProcessGroup
from mobilesam.weights.cache import digest_file

SCENES = ScenesSpec(n_scenes=4, seed=5, side_px=64, shard_scenes=2)
ROOT = Path(__file__).resolve().parents[3]

_MINI = """
    import sys
    from pathlib import Path
    from benchmarks.cli.app import main
    from benchmarks.distillation import mini_family

    out = Path(sys.argv[1])

    def made(folder, *others, workers, only_teacher):
        (processes,) = [each for each in others if type(each).__name__ == "ProcessGroup"]
        processes.wait()
        (out / f"{processes.rank} of {processes.size}").touch()
        path = out / "sam-mini.safetensors"
        path.touch()
        return (path,)

    mini_family.make_family = made
    raise SystemExit(main(["distill", "mini", "--out", str(out), "--quiet"]))
"""


def test_family_is_trained_and_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def small(config: object, steps: int) -> object:
        changes = {"steps": steps, "batch_size": 2, "micro_batch": 2, "warmup_steps": 1}
        return config.model_copy(update=changes)  # type: ignore[attr-defined]

    stages = tuple(
        replace(stage, side_px=side, config=small(stage.config, 2))
        for stage, side in zip(STAGES, (32, 32, 32, 64, 64, 64, 64), strict=True)
    )
    monkeypatch.setattr(mini_family, "STAGES", stages)
    monkeypatch.setattr(mini_family, "SamMiniConfig", lambda: TEACHER)
    monkeypatch.setattr(mini_family, "TRAINING_SCENES", SCENES)
    rounds = {name: small(config, 2) for name, config in mini_family.ROUNDS.items()}
    monkeypatch.setattr(mini_family, "ROUNDS", rounds)
    monkeypatch.setattr(mini_family, "mobile_sam_mini_shape", lambda: (STUDENT, HEADS))

    def made() -> tuple[Path, ...]:
        out = tmp_path / "out"
        return make_family(out, tmp_path, Reporter(quiet=True), ProcessGroup(), workers=1)

    family = made()
    files = [path.read_bytes() for path in family]
    for name, path in zip(("sam-mini", "mobilesam-mini"), family, strict=True):
        found = digest_file(path)
        checkpoint = Checkpoint(path, found.sha256, False, found.n_bytes, True)
        model = build(select_one(name), ModelOptions(name, checkpoint=checkpoint))
        assert model.info.input_size_px == 64
        assert not model.info.weights.official
    assert files == [path.read_bytes() for path in made()]


def test_resize_positions() -> None:
    rows = torch.linspace(0, 1, 4)[:, None, None].expand(4, 4, 3)
    state = {"image_encoder.pos_embed": rows.reshape(1, 16, 3), "other": torch.ones(1)}
    found = resize_positions(state, 8)
    grid = found["image_encoder.pos_embed"].reshape(8, 8, 3)
    assert torch.allclose(grid[:, 0], grid[:, 5], atol=1e-6)
    assert (grid[1:, 0, 0] > grid[:-1, 0, 0]).all()
    assert found["other"] is state["other"]


def test_mini_command_joins_processes(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    # What torchrun sets.
    shared = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1",
              "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1",
              "PYTHONPATH": str(ROOT)}  # fmt: skip
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(_MINI), str(out)],
            cwd=ROOT,
            env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    outputs = [process.communicate(timeout=280) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert {path.name for path in out.glob("* of 2")} == {"0 of 2", "1 of 2"}
    # Printed by the first process only.
    assert ["sam-mini.safetensors" in printed for printed, _ in outputs] == [True, False]


def test_processes_of_one_machine_share_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = default_threads()
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert default_threads() == max(1, alone // 2)
