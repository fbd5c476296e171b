"""Versions of this repository on disk: the working tree, and others in worktrees of git."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.regression.ab_records import TreeInfo
from mobilesam.errors import UsageError


@dataclass(frozen=True, slots=True)
class Tree:
    """A version's files."""

    path: Path
    info: TreeInfo


def git(folder: Path, *arguments: str) -> str:
    """Runs git in a folder and returns what it prints.

    Raises:
        UsageError: It fails, or there is no git.
    """
    # Hooks are for people's own checkouts.
    command = ["git", "-C", str(folder), "-c", "core.hooksPath=/dev/null", *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise UsageError("git is not installed; versions are compared by it") from error
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or ["no message"]
        raise UsageError(f"git {arguments[0]}: {lines[-1]}")
    return done.stdout.strip()


def repository(start: Path) -> Path:
    """The root of the checkout that a folder lies in.

    Raises:
        UsageError: It lies in none.
    """
    return Path(git(start, "rev-parse", "--show-toplevel"))


def commit_of(root: Path, ref: str) -> str:
    """The commit that a name stands for.

    Raises:
        UsageError: It stands for none.
    """
    try:
        return git(root, "rev-parse", "--verify", "--quiet", f"{ref}^{{commit}}")
    except UsageError as error:
        raise UsageError(
            f"{ref!r} is no commit of {root}; in a shallow clone, git fetch it first"
        ) from error


def working_tree(root: Path) -> Tree:
    """The checkout as it is, with what is not committed yet."""
    changed = git(root, "status", "--porcelain", "--untracked-files=no")
    info = TreeInfo(ref="working tree", commit=commit_of(root, "HEAD"), dirty=bool(changed))
    return Tree(root, info)


@contextmanager
def checked_out(root: Path, ref: str) -> Iterator[Tree]:
    """A temporary worktree of a commit, removed in the end."""
    commit = commit_of(root, ref)
    with tempfile.TemporaryDirectory(prefix="mobilesam-bench-") as name:
        path = Path(name).resolve() / "tree"
        git(root, "worktree", "add", "--detach", "--quiet", str(path), commit)
        try:
            yield Tree(path, TreeInfo(ref=ref, commit=commit, dirty=False))
        finally:
            git(root, "worktree", "remove", "--force", str(path))
