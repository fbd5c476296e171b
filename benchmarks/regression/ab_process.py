"""The controller's end of an A/B worker: a fresh process of one version, asked line by line."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from benchmarks.child_processes import start_python
from benchmarks.debugging import show_text
from benchmarks.regression.worktrees import Tree
from mobilesam.errors import BenchError

WORKER = Path(__file__).with_name("ab_worker.py")
_STDERR_LINES = 2


class WorkerError(BenchError):
    """A process of one version ended before its time."""


class Worker:
    """A process with one model of one version.

    Args:
        tree: The version.
        model: Name of the model.
        image: File of the image that it is timed on.
        threads: Threads the model is given.
        seed: Of random weights.
    """

    def __init__(self, tree: Tree, model: str, image: Path, threads: int, seed: int) -> None:
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        # No `-m`, and no folder of this file in the path: imports come from the tree alone.
        self._process = start_python(
            [str(WORKER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            text=True,
            env=_environment(tree, threads),
            cwd=tree.path,
        )
        setup = {
            "tree": str(tree.path),
            "model": model,
            "image": str(image),
            "threads": threads,
            "seed": seed,
        }
        self._send(setup)

    def ready(self) -> None:
        """Waits until the model is built.

        Raises:
            WorkerError: It cannot be; says why.
        """
        self._read()

    def ask(self, do: str, **request: Any) -> dict[str, Any]:
        """Asks for one thing and waits for the answer.

        Raises:
            WorkerError: The process ended; says why.
        """
        self.post(do, **request)
        return self.answer()

    def post(self, do: str, **request: Any) -> None:
        """Asks for one thing; `answer` waits for it, after `ready` where that was not called."""
        self._send({"do": do, **request})

    def answer(self) -> dict[str, Any]:
        """Waits for the answer to what was asked.

        Raises:
            WorkerError: The process ended; says why.
        """
        return self._read()

    def close(self) -> None:
        """Ends the process."""
        if self._process.stdin is not None and not self._process.stdin.closed:
            with suppress(BrokenPipeError):  # it ended by itself
                self._process.stdin.close()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._process.wait()
        self._stderr.close()

    def _send(self, document: dict[str, Any]) -> None:
        assert self._process.stdin is not None  # noqa: S101 - it is a pipe
        with suppress(BrokenPipeError):  # it ended; reading its answer says why
            self._process.stdin.write(json.dumps(document) + "\n")
            self._process.stdin.flush()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None  # noqa: S101 - it is a pipe
        line = self._process.stdout.readline()
        if not line.endswith("\n"):
            raise WorkerError(self._cause())
        found: dict[str, Any] = json.loads(line)
        if "error" in found:
            self._process.wait()
            show_text(self._printed())
            raise WorkerError(found["error"])
        return found

    def _printed(self) -> str:
        """Standard error of the process, which has ended."""
        self._stderr.seek(0)
        return self._stderr.read().decode(errors="replace")

    def _cause(self) -> str:
        code = self._process.wait()
        text = self._printed()
        show_text(text)
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        if not lines:
            return f"the process ended with code {code}"
        return " | ".join(lines[-1:] if "Error" in lines[-1] else lines[-_STDERR_LINES:])


def _environment(tree: Tree, threads: int) -> dict[str, str]:
    """The same for both versions, but for the place of the modules."""
    count = str(threads)
    return {
        **os.environ,
        "PYTHONPATH": str(tree.path),
        "PYTHONHASHSEED": "0",
        "OMP_NUM_THREADS": count,
        "MKL_NUM_THREADS": count,
        "OPENBLAS_NUM_THREADS": count,
        # A version whose turn it is not must not keep a core busy with waiting.
        "OMP_WAIT_POLICY": "PASSIVE",
    }
