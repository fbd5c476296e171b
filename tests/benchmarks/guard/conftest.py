"""Small records and a small repository for the tests of the guard."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from git_repo import git

ROOT = Path(__file__).resolve().parents[3]


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
