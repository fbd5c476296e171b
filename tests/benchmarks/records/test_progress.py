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
    now = iter((0.0, 100.0, 120.0, 400.0))
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: next(now)))
    with Reporter().bar("latency", 4) as bar:
        bar.step()
        bar.step()
        bar.step(done=4)
    assert capsys.readouterr().err.splitlines() == [
        "latency: 1 of 4, about 5 min left",
        "latency: 4 of 4",
    ]


def test_caches_and_shards_are_reported_on_request(capsys: pytest.CaptureFixture[str]) -> None:
    Reporter().detail("4 chunks from before")
    with progress.verbose_messages(wanted=True):
        Reporter().detail("5 chunks from before")
        Reporter(quiet=True).detail("6 chunks from before")
    assert capsys.readouterr().err == "5 chunks from before\n"


def test_the_time_left_follows_from_what_steps_took() -> None:
    outlook = progress.Outlook()
    assert (outlook.left_s, outlook.text()) == (0, "")
    outlook.plan("parameters", 2, 2.0)
    outlook.plan("latency", 10, 300.0)
    outlook.plan("miou", 40, 600.0)
    outlook.plan("nothing", 0, 600.0)
    assert outlook.left_s == pytest.approx(902)
    outlook.advance("parameters", 1, 5.0)
    assert outlook.left_s == pytest.approx(905)
    outlook.advance("latency", 2, 20.0)  # parameters are over
    assert outlook.left_s == pytest.approx(8 * 10 + 600)
    outlook.advance("latency", 8)  # not run: of an interrupted run
    outlook.advance("miou", 20, 40.0)
    assert outlook.left_s == pytest.approx(40)
    assert outlook.text() == "about 1 min left in all"
    outlook.advance("miou", 20, 40.0)
    assert (outlook.left_s, outlook.text()) == (0, "")
    outlook.advance("unplanned", 3, 1.0)


def test_bars_and_results_say_when_the_run_will_end(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = iter((0.0, 100.0, 200.0))
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: next(now)))
    reporter = Reporter()
    reporter.outlook.plan("latency", 4, 1.0)
    reporter.outlook.plan("miou", 10, 600.0)
    with reporter.bar("latency", 4, "latency") as bar:
        bar.step()
        bar.step()
    reporter.result("mobilesam: encode 1 s")
    assert capsys.readouterr().err.splitlines() == [
        "latency: 1 of 4, about 5 min left here, about 15 min left in all",
        "latency: 2 of 4, about 3 min left here, about 13 min left in all",
        "mobilesam: encode 1 s; about 10 min left in all",
    ]


def test_a_run_takes_no_less_than_its_present_stage() -> None:
    outlook = progress.Outlook()
    outlook.plan("miou", 36, 60.0)
    outlook.advance("miou", 18, 36.0)  # a faster model
    outlook.advance("miou", 1, 60.0)
    assert outlook.text(1320.0) == "about 22 min left in all"
