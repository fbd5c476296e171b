"""Versions of this repository: the working tree, and commits in temporary worktrees of git."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from mobilesam.errors import UsageError
from mobilesam.frozen_model import FrozenModel


class TreeInfo(FrozenModel):
    """A version: its name as given, its commit, and whether files differ from the commit."""

    ref: str
    commit: str
    dirty: bool


@dataclass(frozen=True, slots=True)
class Tree:
    """The files of a version."""

    path: Path
    info: TreeInfo


def git(folder: Path, *arguments: str) -> str:
    """Output of git, run in a folder without hooks; a `UsageError` if it fails or is missing."""
    command = ["git", "-C", str(folder), "-c", "core.hooksPath=/dev/null", *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise UsageError("git is not installed; comparing versions needs it") from error
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or ["no message"]
        raise UsageError(f"git {arguments[0]}: {lines[-1]}")
    return done.stdout.strip()


def repository(start: Path) -> Path:
    """Root of the checkout that contains a folder; a `UsageError` if no checkout contains it."""
    return Path(git(start, "rev-parse", "--show-toplevel"))


def commit_of(root: Path, ref: str) -> str:
    """Hash of the commit with a name; a `UsageError` if there is no such commit."""
    try:
        return git(root, "rev-parse", "--verify", "--quiet", f"{ref}^{{commit}}")
    except UsageError as error:
        raise UsageError(
            f"{ref!r} is no commit of {root}; in a shallow clone, git fetch it first"
        ) from error


def working_tree(root: Path) -> Tree:
    """The checkout with its uncommitted changes."""
    changed = git(root, "status", "--porcelain", "--untracked-files=no")
    info = TreeInfo(ref="working tree", commit=commit_of(root, "HEAD"), dirty=bool(changed))
    return Tree(root, info)


@contextmanager
def checked_out(root: Path, ref: str) -> Iterator[Tree]:
    """Checks a commit out in a temporary worktree, which is removed at the end."""
    commit = commit_of(root, ref)
    with tempfile.TemporaryDirectory(prefix="mobilesam-bench-") as name:
        path = Path(name).resolve() / "tree"
        git(root, "worktree", "add", "--detach", "--quiet", str(path), commit)
        try:
            yield Tree(path, TreeInfo(ref=ref, commit=commit, dirty=False))
        finally:
            git(root, "worktree", "remove", "--force", str(path))


@contextmanager
def two_versions(base: str, head: str | None) -> Iterator[tuple[Tree, Tree]]:
    """Checks out two commits of the current checkout; `head` None is its working tree."""
    root = repository(Path.cwd())
    later = nullcontext(working_tree(root)) if head is None else checked_out(root, head)
    with checked_out(root, base) as first, later as second:
        yield first, second
