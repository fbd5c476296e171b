"""Kill -9 at any moment, start again: the files and the record are those of a run left alone."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from run_outputs import lasting, tables

from benchmarks.cli.app import main
from benchmarks.records.record import load_record

ROOT = Path(__file__).resolve().parents[3]


def arguments(shards: Path, out: Path) -> list[str]:
    """A quiet `miou` in one thread, without models, protocols and chunks."""
    data = ("--dataset=sa1b", f"--root={shards}")
    return ["miou", *data, f"--out={out}", "--threads=1", "--quiet"]


def miou(shards: Path, out: Path, *more: str) -> list[str]:
    """A run of the dummy in chunks of one image."""
    usual = ("--models=dummy", "--chunk=1", "--protocol=box,center")
    return [*arguments(shards, out), *usual, *more]


def start(shards: Path, out: Path, *more: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "benchmarks", *miou(shards, out, *more)]
    with log_of(out).open("ab") as log:
        return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=log)


def log_of(out: Path) -> Path:
    return out.with_suffix(".log")


def finished(out: Path) -> int:
    folder = out / "instances.parquet"
    return len(list(folder.glob("[!.]*.parquet"))) if folder.is_dir() else 0


@pytest.mark.slow
@pytest.mark.timeout(900)  # processes that start on a machine that is shared
def test_a_run_that_is_killed_again_and_again_ends_as_if_it_had_not(
    shards: Path, tmp_path: Path
) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert main(miou(shards, whole)) == 0
    rng = random.Random(0)  # noqa: S311 - no secret
    for at_least in (2, 6):
        process = start(shards, killed)
        while finished(killed) < at_least and process.poll() is None:
            time.sleep(0.002)
        time.sleep(0.03 * rng.random())  # somewhere within the chunk that follows
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not load_record(killed / "record.json").complete
    assert 6 <= finished(killed) < 11
    assert main(miou(shards, killed)) == 0
    assert tables(killed) == tables(whole)
    assert lasting(killed) == lasting(whole)
