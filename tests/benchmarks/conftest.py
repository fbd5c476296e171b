"""Small datasets, records and repositories that several folders of tests use."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from example_records import MODELS, build_record, many_rows
from git_repo import git

from benchmarks import api
from benchmarks.api import write_tables_and_plots
from benchmarks.cli.app import main
from benchmarks.config import run_config
from benchmarks.datasets.synthetic import SyntheticDataset
from benchmarks.datasets.writers import write_coco
from benchmarks.latency.timer import StopRule
from benchmarks.records.record import RobustnessRow, RunRecord, write_atomic
from benchmarks.report.screenshot import ARGUMENTS, find_browser
from benchmarks.report.style import SUFFIXES

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def scenes_source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three small scenes in COCO's format, rendered once."""
    folder = tmp_path_factory.mktemp("scenes")
    write_coco(SyntheticDataset(n_images=3, seed=5, size_hw=(96, 128)), folder)
    return folder


class Scenes:
    """A copy of the scenes that a test may damage."""

    def __init__(self, folder: Path) -> None:
        self.images = folder / "images"
        self.annotations = folder / "instances.json"
        self.arguments = [
            "--dataset=coco",
            f"--images={self.images}",
            f"--annotations={self.annotations}",
        ]

    def read(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(self.annotations.read_text())
        return document

    def write(self, document: dict[str, Any]) -> None:
        self.annotations.write_text(json.dumps(document))


@pytest.fixture
def scenes(scenes_source: Path, tmp_path: Path) -> Scenes:
    folder = tmp_path / "scenes"
    shutil.copytree(scenes_source, folder)
    return Scenes(folder)


class Outcome:
    """Exit code and output of one command."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code = code
        self.out = out
        self.err = err

    @property
    def json(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(self.out)
        return document


def _save_empty_files(
    figure: Any, folder: Path, stem: str, suffixes: Sequence[str] = SUFFIXES, dpi: int = 0
) -> list[Path]:
    assert type(figure).__name__ == "Figure"
    paths = [folder / f"{stem}.{suffix}" for suffix in suffixes]
    for path in paths:
        write_atomic(path, b"")
    return paths


def _draw_plots(record: RunRecord, folder: Path, *, plots: bool = True) -> list[Path]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("benchmarks.report.style.save_figure", _save_empty_files)
        return write_tables_and_plots(record, folder, plots=plots)


@pytest.fixture(scope="session", autouse=True)
def _quick_plots() -> Iterator[None]:
    """Commands draw plots, but write empty files: rendering takes most of their time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(api, "write_tables_and_plots", _draw_plots)
        yield


@pytest.fixture
def rendered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands write plots with content."""
    monkeypatch.setattr(api, "write_tables_and_plots", write_tables_and_plots)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs one command line in this process, in an empty folder, with an empty weights cache."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MOBILESAM_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("MOBILESAM_WEIGHTS", raising=False)

    def call(*arguments: str | Path) -> Outcome:
        capsys.readouterr()
        code = main([str(each) for each in arguments])
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return call


@pytest.fixture
def short_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Profile quick times two calls of each phase, and decoding of 1 and 10 prompts alone."""
    quick = run_config.PROFILES["quick"]
    short = replace(quick, rule=StopRule(2, 0.0, 1.0, 0.0), n_prompts=(1, 10))
    monkeypatch.setitem(run_config.PROFILES, "quick", short)


@pytest.fixture
def repo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with this project's models, committed; it is the current folder."""
    folder = tmp_path / "repo"
    for package in ("mobilesam", "baselines"):
        ignored = shutil.ignore_patterns("__pycache__", "*.safetensors")
        shutil.copytree(ROOT / package, folder / package, ignore=ignored)
    git(folder, "init", "--quiet")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "-m", "base")
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture(scope="session")
def make_record() -> Callable[..., RunRecord]:
    """Builds a record of the first n of twelve models, with any field replaced."""

    def make(n_models: int = 9, **changes: Any) -> RunRecord:
        return build_record(list(MODELS)[:n_models], **changes)

    return make


@pytest.fixture
def record(make_record: Callable[..., RunRecord]) -> RunRecord:
    """Nine models, some rows skipped or failed."""
    return make_record()


@pytest.fixture
def disturbed_record(record: RunRecord) -> RunRecord:
    """The record with two strengths of moved boxes."""
    boxes = [row for row in record.miou if row.protocol == "box"]
    miou, losses = list(record.miou), []
    for protocol, value in (("box-jitter-5", 0.7), ("box-jitter-20", 0.6)):
        for row in boxes:
            done = {} if row.miou is None else {"miou": value, "ci95": (value - 0.1, value + 0.1)}
            miou.append(row.model_copy(update={"protocol": protocol, **done}))
            same = row.model_dump(include={"model", "dataset", "reference", "status", "why"})
            losses.append(RobustnessRow(**same, protocol=protocol, clean="box"))
    return record.model_copy(update={"miou": tuple(miou), "robustness": tuple(losses)})


@pytest.fixture
def empty_record(make_record: Callable[..., RunRecord]) -> RunRecord:
    """A run in which nothing was measured."""
    return make_record(0, failures=(), warnings=())


@pytest.fixture
def make_many(make_record: Callable[..., RunRecord]) -> Callable[[int], RunRecord]:
    """Builds a record of the first n models with all of `MANY_PROTOCOLS` and two references."""

    def make(n_models: int) -> RunRecord:
        names = list(MODELS)[:n_models]
        return make_record(n_models, miou=tuple(row for name in names for row in many_rows(name)))

    return make


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """A headless browser; without one, the tests that need it are skipped."""
    path = find_browser()
    if path is None:
        pytest.skip("no chromium on this machine: apt-get install chromium")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=list(ARGUMENTS))
        yield browser
        browser.close()
