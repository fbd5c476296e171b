"""Known changes, trials of the gate, and their record."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from guard_settings import CALM
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.evidence import power
from benchmarks.records.progress import Reporter
from benchmarks.regression.sessions import Settings
from benchmarks.regression.worktrees import checked_out, working_tree
from mobilesam.errors import DataError

SMALL = Settings(
    models=("dummy",), accuracy_models=("dummy",), n_prompts=(1,), pairs=3, turns=2, scenes=2,
    threads=1,
)  # fmt: skip


def test_comments_pass_and_a_loss_fails(repo: Path) -> None:
    with checked_out(repo, "HEAD") as base:
        for case, right in (("comments", ()), ("loss", ("dummy mIoU box",))):
            trial = power.try_once(repo, base, case, 0, SMALL, Reporter(quiet=True))  # type: ignore[arg-type]
            assert trial.right, trial
            assert set(right) <= set(trial.named)
    assert not working_tree(repo).info.dirty


def test_the_record_counts_and_is_continued(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[str, int]] = []

    def fake(root: object, base: object, case: power.Case, number: int, *_: object) -> power.Trial:
        made.append((case, number))
        right = not (case == "same" and number == 0)
        return power.Trial(
            case=case, number=number, detail="", right=right, named=(), suspects=0,
            noise_floor=None, duration_s=1.0,
        )  # fmt: skip

    monkeypatch.setattr(power, "try_once", fake)
    out = repo / "power.json"
    first = power.run(repo, 1, SMALL, out, Reporter(quiet=True))
    assert [case for case, _ in made] == list(power.CASES)
    assert first.met  # one wrong verdict is allowed
    again = power.run(repo, 5, SMALL, out, Reporter(quiet=True))
    assert len(made) == len(set(made)) == 5 + 5 + 3 + 3
    assert again.wrong("same") == 1
    assert "same: 4 of 5 right" in power.report(again)
    with pytest.raises(DataError, match="other settings"):
        power.run(repo, 1, SMALL.model_copy(update={"turns": 3}), out, Reporter(quiet=True))


@settings(CALM)
@given(st.floats(0.05, 3))
def test_a_change_has_a_loss_in_the_range(slope: float) -> None:
    applied = [0.0]
    lost = power.worsen_until(applied.append, lambda: slope * applied[-1])
    assert power.MIN_LOSS <= lost <= power.MAX_LOSS
    assert lost == slope * applied[-1]


def test_a_change_without_a_loss_is_an_error() -> None:
    with pytest.raises(DataError, match="no strength"):
        power.worsen_until(lambda _: None, lambda: 0.0)


@pytest.mark.slow
def test_a_phase_is_slower(repo: Path) -> None:
    power.slow_down(repo, "encode", 1.5)
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
