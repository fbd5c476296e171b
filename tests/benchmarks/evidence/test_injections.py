"""Changes for the worse in a worktree."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from guard_settings import CALM
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.evidence import injections
from mobilesam.errors import DataError


@settings(CALM)
@given(st.floats(0.05, 3))
def test_a_change_has_a_loss_in_the_range(slope: float) -> None:
    applied = [0.0]
    lost = injections.worsen_until(applied.append, lambda: slope * applied[-1])
    assert injections.MIN_LOSS <= lost <= injections.MAX_LOSS
    assert lost == slope * applied[-1]


def test_a_change_without_a_loss_is_an_error() -> None:
    with pytest.raises(DataError, match="no strength"):
        injections.worsen_until(lambda _: None, lambda: 0.0)


@pytest.mark.slow
def test_a_phase_is_slower(repo: Path) -> None:
    injections.slow_down(repo, "encode", 1.5)
    code = """
import time
from baselines.sam import SamSegmenter
inner = SamSegmenter.encode.__wrapped__
cell = [c for c in SamSegmenter.encode.__closure__ if c.cell_contents is inner][0]
cell.cell_contents = lambda: time.sleep(0.05)
start = time.perf_counter()
SamSegmenter.encode()
print(time.perf_counter() - start)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=repo, capture_output=True, text=True, check=True,
        env={"PYTHONPATH": str(repo), "PATH": ""},
    )  # fmt: skip
    assert float(done.stdout) >= 0.075
