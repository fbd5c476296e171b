"""Runs the commands of docs/own-model-own-data.md; as a program, stores their output in it."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

PAGE = Path(__file__).resolve().parents[2] / "docs" / "own-model-own-data.md"
COLUMNS = "100"
_BLOCK = re.compile(r"^```(python|bash|text)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_FILE_NAME = re.compile(r"# (\w+\.py)\n")


def execute(page: str, call: Callable[[list[str]], str]) -> Iterator[tuple[str, str]]:
    """Writes the files of a page into the current folder and runs its commands in order.

    Yields the printed output of each block of commands, as it is in the page and as it is now.
    """
    printed = ""
    for kind, text in _BLOCK.findall(page):
        if kind == "python":
            name = _FILE_NAME.match(text)
            assert name is not None, f"the first line of the block is no file name: {text[:40]}"
            Path(name[1]).write_text(text[name.end() :])
        elif kind == "bash":
            lines = text.replace("\\\n", "").splitlines()
            printed = "".join(call(shlex.split(line)) for line in lines)
        else:
            yield text, "".join(line.rstrip() + "\n" for line in printed.strip("\n").splitlines())


def _run(command: list[str]) -> str:
    """What a command prints, in a process of its own."""
    program = [] if command[0] == "python" else ["-m", "benchmarks"]
    paths = [str(PAGE.parents[1]), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "COLUMNS": COLUMNS, "PYTHONPATH": os.pathsep.join(paths)}
    done = subprocess.run(
        [sys.executable, *program, *command[1:]],
        env=environment, stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    return done.stdout


def main() -> None:
    """Replaces the output in the page."""
    page = PAGE.read_text()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        printed = iter([now for _, now in execute(page, _run)])
    PAGE.write_text(
        _BLOCK.sub(lambda m: f"```text\n{next(printed)}```" if m[1] == "text" else m[0], page)
    )


if __name__ == "__main__":
    main()
