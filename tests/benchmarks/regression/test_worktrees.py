"""Versions in worktrees of git."""

from __future__ import annotations

from pathlib import Path

import pytest
from git_repo import git

from benchmarks.regression.worktrees import checked_out, commit_of, two_versions, working_tree
from mobilesam.errors import UsageError


def test_a_worktree_holds_the_commit_and_is_removed(repo: Path) -> None:
    file = Path("baselines") / "dummy.py"
    committed = (repo / file).read_text()
    (repo / file).write_text("changed")
    with two_versions("HEAD", None) as (base, head):
        assert (base.path / file).read_text() == committed
        assert (head.path / file).read_text() == "changed"
        assert (base.info.dirty, head.info.dirty) == (False, True)
        assert base.info.commit == head.info.commit == commit_of(repo, "HEAD")
    assert not base.path.exists()
    assert git(repo, "worktree", "list").count("\n") == 0


def test_a_worktree_is_removed_after_an_error(repo: Path) -> None:
    def fail() -> None:
        with checked_out(repo, "HEAD"):
            raise KeyError("inside")

    with pytest.raises(KeyError):
        fail()
    assert git(repo, "worktree", "list").count("\n") == 0
    assert not working_tree(repo).info.dirty


def test_an_unknown_commit_is_an_error(repo: Path) -> None:
    with pytest.raises(UsageError, match="'nowhere' is no commit"):
        commit_of(repo, "nowhere")
