"""Messages and progress of a run."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from benchmarks.records import progress
from benchmarks.records.progress import Reporter


def test_quiet_leaves_warnings(capsys: pytest.CaptureFixture[str]) -> None:
    reporter = Reporter(quiet=True)
    reporter.say("news")
    reporter.warn("[bold] trouble")
    captured = capsys.readouterr()
    assert captured.err == "warning: [bold] trouble\n"
    assert captured.out == ""


def test_a_short_loop_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with Reporter().bar("latency", 2) as bar:
        bar.note("box")
        bar.step("box")
    assert capsys.readouterr().err == ""


def test_a_long_loop_prints_how_far_it_is(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = iter((0.0, 100.0, 100.0, 120.0, 400.0, 400.0))
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: next(now)))
    with Reporter().bar("latency", 4) as bar:
        bar.step()
        bar.step()
        bar.step(done=4)
    assert capsys.readouterr().err.splitlines() == [
        "latency: 1 of 4, about 5 min left",
        "latency: 4 of 4, about 0 min left",
    ]
