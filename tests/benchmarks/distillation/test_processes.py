"""Commands that train join the processes that torchrun has started."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from benchmarks.records.environment import default_threads

ROOT = Path(__file__).resolve().parents[3]

_MINI = """
    import sys
    from pathlib import Path
    from benchmarks import cli
    from benchmarks.distillation import mini_family

    out = Path(sys.argv[1])

    def made(folder, *others, workers, only_teacher):
        (world,) = [each for each in others if type(each).__name__ == "World"]
        world.wait()
        (out / f"{world.rank} of {world.size}").touch()
        path = out / "sam-mini.safetensors"
        path.touch()
        return mini_family.MiniFamily(path, None)

    mini_family.make_family = made
    raise SystemExit(cli.main(["distill", "mini", "--out", str(out), "--quiet"]))
"""


def test_mini_shares_its_work_among_processes(tmp_path: Path) -> None:
    script = tmp_path / "mini.py"
    script.write_text(textwrap.dedent(_MINI))
    out = tmp_path / "out"
    out.mkdir()
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone",
               "--nproc-per-node", "2", str(script), str(out)]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    assert {path.name for path in out.glob("* of 2")} == {"0 of 2", "1 of 2"}
    assert done.stdout.count("sam-mini.safetensors") == 1  # only the first one says it


def test_processes_of_one_machine_share_its_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = default_threads()
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert default_threads() == max(1, alone // 2)
