"""One run a folder: default folders are distinct, and a named one is held while it is written."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks import api
from benchmarks import run as run_module
from benchmarks.cli.app import main
from benchmarks.datasets import writers
from benchmarks.datasets.synthetic import SyntheticDataset
from benchmarks.datasets.writers import write_coco
from benchmarks.distillation import training
from benchmarks.evidence import scale
from benchmarks.evidence.publish import publish
from benchmarks.paper import paper_output
from benchmarks.records import environment
from benchmarks.records.record import load_record
from benchmarks.records.run_folder import HOLDER_NAME, LOCK_NAME, create_folder, held
from benchmarks.regression import ab, judge, worktrees
from benchmarks.regression import compare as compare_module
from benchmarks.regression.sessions import Session, Settings, save_session
from benchmarks.regression.worktrees import Tree, TreeInfo
from benchmarks.report import page, paper_figures
from mobilesam.distillation.embedding_store import StoreWriter
from mobilesam.errors import DataError
from mobilesam.export import writer as export

ROOT = Path(__file__).resolve().parents[3]
ROUNDS = int(os.environ.get("MOBILESAM_RACE_ROUNDS", "1"))
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


WRITERS = {
    "run": "run --models=box {scenes} --protocol=box --profile=quick --out=o",
    "params": "params --models=box --out=o",
    "latency": "latency --models=box --profile=quick --out=o",
    "miou": "miou --models=box {scenes} --protocol=box --out=o",
    "miou in chunks": "miou --models=box {scenes} --protocol=box --chunk=2 --out=o",
    "rescore": "miou --rescore={run} --out=o",
    "everything": "everything --models=dummy {scenes} --out=o",
    "paper": "paper --models=mobilesam --weights=mobilesam=shipped {scenes} --out=o",
    "paper of runs": "paper --run={run} --out=o",
    "figures": "figures --models=box --image={image} --kinds=box --out=o",
    "compare": "compare {run} {run} --out=o",
    "export": "export o --to=onnx --offline",
    "data make": "data make o --n=1",
    "data make sa1b": "data make o --n=1 --format=sa1b",
    "distill embed": "distill embed --models=sam-mini --images={images} --out=o",
    "distill train": "distill train --models=sam-mini --out=o",
    "distill mini": "distill mini --out=o",
    "distill compare": "distill compare --out=o",
    "regress run": "regress run --base=HEAD --models=dummy --out=o",
    "regress measure": "regress measure --base=HEAD --models=dummy --out=o",
    "regress judge": "regress judge {sessions}",
}


@pytest.fixture(scope="module")
def stored_run(tmp_path_factory: pytest.TempPathFactory, scenes_source: Path) -> Path:
    """A run with its predictions."""
    out = tmp_path_factory.mktemp("stored") / "run"
    data = ("--dataset=coco", f"--images={scenes_source / 'images'}")
    annotations = f"--annotations={scenes_source / 'instances.json'}"
    arguments = ("--models=box", *data, annotations, "--protocol=box", "--save-masks", "--quiet")
    assert main(["miou", *arguments, f"--out={out}"]) == 0
    return out


@pytest.fixture
def sessions(tmp_path: Path) -> Path:
    """A folder with a measurement of `regress`, in which nothing was measured."""
    folder = tmp_path / "o"
    info = TreeInfo(ref="HEAD", commit="0" * 40, dirty=False)
    session = Session(
        stage="first", created_utc="2026-01-01T00:00:00+00:00", base=info, head=info,
        settings=Settings(
            models=("dummy",), accuracy_models=(), n_prompts=(1,), pairs=1, turns=1, scenes=1,
            threads=1,
        ),
        environment=environment.collect(1), duration_s=1.0,
    )  # fmt: skip
    save_session(session, folder)
    return folder


@pytest.mark.parametrize("name", WRITERS)
def test_a_command_that_writes_several_files_is_refused_a_held_folder(
    name: str,
    run: Any,
    scenes: Any,
    stored_run: Path,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    text = WRITERS[name]
    given = request.getfixturevalue("sessions") if "{sessions}" in text else Path("o")
    if name.startswith("regress") and name != "regress judge":
        request.getfixturevalue("versions")
    if name == "distill train":  # its scenes take a minute to render
        prepared = (SimpleNamespace(to=lambda _: None), None)
        monkeypatch.setattr(training, "scheme_and_data", lambda *_: prepared)
    image = min(scenes.images.iterdir())
    arguments = text.format(
        scenes=" ".join(scenes.arguments), run=stored_run, image=image, images=scenes.images,
        sessions=given,
    ).split()  # fmt: skip
    before = files_in(given)
    with held(given, "the first"):
        done = run(*arguments)
    assert done.code == 1, done.err
    assert f"is being written by process {os.getpid()} " in done.err
    assert "(the first)" in done.err
    assert files_in(given) == before


@pytest.fixture
def versions(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`regress` without git: both versions are the folder of the test."""
    tree = Tree(tmp_path, TreeInfo(ref="HEAD", commit="0" * 40, dirty=False))
    monkeypatch.setattr(worktrees, "repository", lambda _: tmp_path)
    monkeypatch.setattr(worktrees, "checked_out", lambda *_: nullcontext(tree))
    monkeypatch.setattr(worktrees, "working_tree", lambda _: tree)


def files_in(folder: Path) -> set[str]:
    """Files below a folder other than the lock and what says who holds it."""
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    return found - {LOCK_NAME, HOLDER_NAME}


LAST_FILES = {
    "run": (page, "write_report"),
    "params": (api, "write_tables_and_plots"),
    "latency": (api, "write_tables_and_plots"),
    "miou": (api, "write_tables_and_plots"),
    "rescore": (api, "write_tables_and_plots"),
    "everything": (api, "write_tables_and_plots"),
    "paper": (paper_output, "write_claims"),
    "paper of runs": (paper_output, "write_claims"),
    "figures": (paper_figures, "write_figures"),
    "compare": (compare_module, "write_comparison"),
    "export": (export, "export_model"),
    "data make": (writers, "write_coco"),
    "data make sa1b": (writers, "write_sa1b"),
    "distill embed": (StoreWriter, "add"),
    "regress run": (judge, "write_judgement"),
    "regress judge": (judge, "write_judgement"),
}
"""Module and name of the function that writes what a command writes last."""


class LastFileError(Exception):
    """Ends a command once its last files would have been written."""


@pytest.mark.parametrize("name", LAST_FILES)
def test_the_last_file_is_written_in_a_held_folder(
    name: str,
    run: Any,
    scenes: Any,
    stored_run: Path,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    text = WRITERS[name]
    out = request.getfixturevalue("sessions") if "{sessions}" in text else Path("o")
    image = min(scenes.images.iterdir())
    arguments = text.format(
        scenes=" ".join(scenes.arguments), run=stored_run, image=image, images=scenes.images,
        sessions=out,
    ).split()  # fmt: skip

    def writes(*_: object, **__: object) -> None:
        with pytest.raises(DataError, match="is being written by"), held(out, "another"):
            pytest.fail("the folder is free before the last file is written")
        raise LastFileError

    monkeypatch.setattr(*LAST_FILES[name], writes)
    if name in ("run", "latency", "paper"):  # what they measure takes seconds
        monkeypatch.setattr(run_module._Run, "measure", lambda _: None)
    if name == "regress run":
        request.getfixturevalue("versions")
        monkeypatch.setattr(ab, "run", lambda *_: (None, ()))
    with pytest.raises(LastFileError):
        run(*arguments)
    with held(out, "another"):  # however the command ended
        pass


def test_tables_of_the_readme_are_published_by_one_process_at_a_time(
    stored_run: Path, tmp_path: Path
) -> None:
    with (
        held(tmp_path / "results", "the first"),
        pytest.raises(DataError, match=r"\(the first\)"),
    ):
        publish([stored_run], tmp_path)
    assert files_in(tmp_path / "results") == set()


def test_data_of_a_trial_are_written_by_one_process_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(scale, "write_shards", lambda *_: pytest.fail("two write shards"))
    with held(tmp_path, "the first"):
        assert scale.main(["stream", "--images=1", f"--data={tmp_path}"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert "(the first)" in error


def test_made_data_are_read_though_their_folder_was_locked(run: Any) -> None:
    assert run("data", "make", "o", "--n=1", "--format=sa1b").code == 0
    done = run("miou", "--models=box", "--protocol=box", "--dataset=sa1b", "--root=o", "--json")
    assert (done.code, done.json["rows"][0]["n_images"]) == (0, 1)


@pytest.mark.slow
@pytest.mark.timeout(60 + 60 * ROUNDS)
def test_two_processes_in_one_folder_keep_one_whole_run(tmp_path: Path) -> None:
    scenes = tmp_path / "scenes"
    write_coco(SyntheticDataset(n_images=12, seed=5, size_hw=(48, 64)), scenes)
    for each in PROTOCOLS:
        assert main(miou_arguments(scenes, tmp_path / each, each)) == 0
    means = {each: mean_of(tmp_path / each) for each in PROTOCOLS}
    begun = time.monotonic()
    assert start(scenes, tmp_path / "alone", "box").wait() == 0
    duration_s = time.monotonic() - begun
    assert mean_of(tmp_path / "alone") == means["box"]
    draw = random.Random(ROUNDS)  # noqa: S311 - no secret
    for number in range(ROUNDS):
        out = tmp_path / f"both-{number}"
        earlier, later = draw.sample(PROTOCOLS, 2)
        running = {earlier: start(scenes, out, earlier)}
        time.sleep(draw.uniform(0, duration_s))  # at any moment of the first run
        running[later] = start(scenes, out, later)
        codes = {each: process.wait() for each, process in running.items()}
        logs = {each: log_of(out, each).read_text() for each in PROTOCOLS}
        assert sorted(codes.values()) == [0, 1], logs
        first = min(codes, key=lambda each: codes[each])
        second = max(codes, key=lambda each: codes[each])
        assert mean_of(out) == means[first]
        named = f"process {running[first].pid} " in logs[second]
        assert named or "holds a run of other inputs" in logs[second], logs[second]


def miou_arguments(scenes: Path, out: Path, protocol: str) -> list[str]:
    return [
        *("miou", "--models=dummy", "--dataset=coco", f"--images={scenes / 'images'}"),
        *(f"--annotations={scenes / 'instances.json'}", "--chunk=1", "--threads=1", "--quiet"),
        *(f"--protocol={protocol}", f"--out={out}"),
    ]


def start(scenes: Path, out: Path, protocol: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "benchmarks", *miou_arguments(scenes, out, protocol)]
    with log_of(out, protocol).open("wb") as log:
        return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=log)


def log_of(out: Path, protocol: str) -> Path:
    return out.with_name(f"{out.name}-{protocol}.log")


def mean_of(out: Path) -> tuple[str, int, float | None]:
    (row,) = load_record(out).miou
    assert row.n_images == 12
    return row.protocol, row.n_instances, row.miou
