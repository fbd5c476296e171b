"""One run a folder: default folders are distinct, and a named one is held while it is written."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from benchmarks.datasets.synthetic import SyntheticDataset
from benchmarks.datasets.writers import write_coco
from benchmarks.records.record import load_record
from benchmarks.records.run_folder import HOLDER_NAME, create_folder, held
from mobilesam.errors import DataError

ROOT = Path(__file__).resolve().parents[3]
ROUNDS = int(os.environ.get("MOBILESAM_RACE_ROUNDS", "2"))
PROTOCOLS = ("box", "center")


def test_folders_that_are_created_at_once_are_distinct(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: create_folder(tmp_path / "runs", "miou"), range(24)))
    assert len(set(found)) == 24
    assert all(folder.is_dir() for folder in found)


def test_runs_of_the_same_second_have_a_folder_each(run: Any, tmp_path: Path) -> None:
    assert [run("params", "--models=box").code for _ in range(3)] == [0, 0, 0]
    folders = list((tmp_path / "bench-runs").iterdir())
    assert len(folders) == 3
    assert all(load_record(folder).complete for folder in folders)


def test_a_refused_request_leaves_no_folder(run: Any, tmp_path: Path) -> None:
    assert run("params", "--models=box", "--precision=fp1").code == 2
    assert not (tmp_path / "bench-runs").exists()


def test_a_parent_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot create a folder"):
        create_folder(tmp_path / "file", "miou")


def test_a_held_folder_is_refused_and_its_holder_named(tmp_path: Path) -> None:
    with held(tmp_path, "miou --models box"):
        with pytest.raises(DataError) as caught, held(tmp_path, "miou --models dummy"):
            pytest.fail("two hold it")
        text = str(caught.value)
        assert f"process {os.getpid()} " in text
        assert "since 20" in text
        assert "(miou --models box)" in text
        assert "--out" in text
    with held(tmp_path, "another"):
        assert (tmp_path / HOLDER_NAME).is_file()
    assert not (tmp_path / HOLDER_NAME).exists()


def test_a_holder_that_has_just_begun_has_no_name(tmp_path: Path) -> None:
    with held(tmp_path, "miou"):
        (tmp_path / HOLDER_NAME).unlink()
        with pytest.raises(DataError, match="another process"), held(tmp_path, "miou"):
            pytest.fail("two hold it")


def test_a_run_into_a_held_folder_is_exit_1(run: Any, tmp_path: Path) -> None:
    with held(tmp_path / "o", "the first"):
        done = run("params", "--models=box", "--out=o")
    assert done.code == 1
    assert "the first" in done.err
    assert not (tmp_path / "o" / "record.json").exists()
    assert run("params", "--models=box", "--out=o").code == 0


@pytest.mark.slow
@pytest.mark.timeout(60 + 60 * ROUNDS)
def test_two_processes_in_one_folder_give_the_right_mean_and_lose_no_record(
    tmp_path: Path,
) -> None:
    scenes = tmp_path / "scenes"
    write_coco(SyntheticDataset(n_images=12, seed=5, size_hw=(48, 64)), scenes)
    alone = {each: start(scenes, tmp_path / each, each) for each in PROTOCOLS}
    for each, process in alone.items():
        assert process.wait() == 0, log_of(tmp_path / each, each).read_text()
    means = {each: mean_of(tmp_path / each) for each in PROTOCOLS}
    draw = random.Random(ROUNDS)  # noqa: S311 - no secret
    for number in range(ROUNDS):
        out = tmp_path / f"both-{number}"
        running = {}
        for each in draw.sample(PROTOCOLS, 2):
            running[each] = start(scenes, out, each)
            time.sleep(draw.uniform(0, 1.5))
        codes = {each: process.wait() for each, process in running.items()}
        logs = {each: log_of(out, each).read_text() for each in PROTOCOLS}
        assert sorted(codes.values()) == [0, 1], logs
        first = min(codes, key=lambda each: codes[each])
        second = max(codes, key=lambda each: codes[each])
        assert mean_of(out) == means[first]
        named = f"process {running[first].pid} " in logs[second]
        assert named or "holds a run of other inputs" in logs[second], logs[second]


def start(scenes: Path, out: Path, protocol: str) -> subprocess.Popen[bytes]:
    command = [
        *(sys.executable, "-m", "benchmarks", "miou", "--models=dummy", "--dataset=coco"),
        *(f"--images={scenes / 'images'}", f"--annotations={scenes / 'instances.json'}"),
        *("--chunk=1", "--threads=1", "--quiet", f"--protocol={protocol}", f"--out={out}"),
    ]
    with log_of(out, protocol).open("wb") as log:
        return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=log)


def log_of(out: Path, protocol: str) -> Path:
    return out.with_name(f"{out.name}-{protocol}.log")


def mean_of(out: Path) -> tuple[str, int, float | None]:
    (row,) = load_record(out).miou
    assert row.n_images == 12
    return row.protocol, row.n_instances, row.miou
