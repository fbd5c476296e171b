"""Waiting for an idle machine before times are measured that will be published."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from benchmarks.latency import idle
from benchmarks.latency.idle import BusyMachineError, Load, other_load, wait_until_idle

_BUSY = "while :; do :; done"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every look at the clock takes a minute."""
    minutes = iter(range(10_000))
    monkeypatch.setattr(time, "monotonic", lambda: 60.0 * next(minutes))


def test_it_waits_until_other_processes_are_idle(clock: None) -> None:
    loads = iter([1.2, 0.5, 0.1])
    said: list[str] = []
    assert wait_until_idle(said.append, measure=lambda: Load(next(loads))) == 0.1
    assert said == [
        "waiting until other processes use less than 0.3 of a core (20 s)",
        "the machine is idle: other processes use 0.10 of a core",
    ]


def test_a_busy_machine_is_an_error_with_the_busiest_processes(clock: None) -> None:
    busy = Load(1.4, (("cc1plus", 0.9), ("python3", 0.4)))
    with pytest.raises(
        BusyMachineError,
        match=r"use 1\.4 cores \(cc1plus \(0\.9\), python3 \(0\.4\)\) after 10 minutes.*--publish",
    ):
        wait_until_idle(lambda _: None, measure=lambda: busy)


@pytest.fixture
def shells(tmp_path: Path) -> tuple[str, str]:
    """The shell under two names, by which its processes can be told apart."""
    names = ("idle-child", "idle-stranger")
    for name in names:
        (tmp_path / name).symlink_to("/bin/sh")
    return str(tmp_path / names[0]), str(tmp_path / names[1])


def test_only_processes_other_than_children_count(shells: tuple[str, str]) -> None:
    """The same work, done by a child of this process and by a process that is none."""
    ours, theirs = shells
    child = subprocess.Popen([ours, "-c", _BUSY])
    # The process in between ends at once, so that its child has another parent.
    done = subprocess.run(
        ["/bin/sh", "-c", f"{theirs} -c '{_BUSY}' >/dev/null 2>&1 & echo $!"],
        capture_output=True,
        text=True,
        check=True,
    )
    stranger = psutil.Process(int(done.stdout))
    try:
        found = other_load(1.5)
    finally:
        child.kill()
        child.wait()
        stranger.kill()
    names = [name for name, _ in found.busiest]
    assert "idle-stranger" in names
    assert "idle-child" not in names
    assert found.cores > 0.1


def test_a_publishable_run_on_a_busy_machine_measures_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from benchmarks.cli.app import main

    def refuse(*_: object) -> float:
        raise BusyMachineError("the machine is not idle: stop them")

    monkeypatch.setattr(idle, "wait_until_idle", refuse)
    out = tmp_path / "out"
    command = ["latency", "--models", "box", "--profile", "quick", "--publishable"]
    assert main([*command, "--out", str(out)]) == 1
    assert capsys.readouterr().err.endswith("error: the machine is not idle: stop them\n")
    assert not (out / "record.json").exists()


def test_a_publishable_record_has_the_load_of_other_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from benchmarks.cli.app import main
    from benchmarks.records.record import load_record

    monkeypatch.setattr(idle, "wait_until_idle", lambda _: 0.04)
    monkeypatch.setattr(idle.LoadMeter, "cores", lambda _: 1000.0)
    command = ["latency", "--models", "box", "--profile", "quick", "--publishable", "--quiet"]
    assert main([*command, "--out", str(tmp_path)]) == 0
    record = load_record(tmp_path)
    assert record.environment.other_load == 0.04
    (noisy,) = (text for text in record.warnings if "while times were measured" in text)
    assert noisy.startswith("noisy: other processes used 1000.0 of ")
    assert f"\n{noisy}\n" in capsys.readouterr().out


def test_the_load_meter_counts_other_processes_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "monotonic", iter([0.0, 10.0]).__next__)
    monkeypatch.setattr(idle, "busy_seconds", iter([50.0, 65.0]).__next__)
    monkeypatch.setattr(os, "times", iter([(1, 1, 0, 0, 0), (2, 1, 8, 1, 0)]).__next__)
    assert idle.LoadMeter().cores() == 0.5


def test_only_results_of_the_checkout_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(idle, "wait_until_idle", lambda _: 0.1)
    monkeypatch.setattr(idle, "RESULTS", tmp_path / "results")
    assert idle.wait_if_published(None) is None
    assert idle.wait_if_published(tmp_path / "mine.json") is None
    assert idle.wait_if_published(tmp_path / "results" / "speedups" / "a.json") == 0.1
