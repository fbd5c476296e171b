"""Starts timing processes and interleaves their calls, for latency, A/B and the speed benchmarks.

Processes are always fresh, and their order and the order of their turns are drawn from a seed, so
that changes of the machine in the meantime affect all alike. This process sleeps while it waits for
an answer: polling would take time from what is measured.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from threading import Timer
from typing import Any, TypeVar

import numpy as np

from baselines.interface import ModelOptions
from benchmarks.child_processes import Variables, start_python
from benchmarks.debugging import show_text
from mobilesam.errors import BenchError

ROOT = Path(__file__).resolve().parents[2]
WORKER = Path(__file__).with_name("worker.py")
ANSWER_LIMIT_S = 1800.0
"""Time limit of an answer; the largest model loads faster on a slow disk and one core."""
_STDERR_LINES = 3
NameT = TypeVar("NameT")
Answer = dict[str, Any]


class WorkerError(BenchError):
    """A timing process reported an error, ended, or did not answer."""


@dataclass(frozen=True, slots=True)
class Setup:
    """What a timing process runs: arguments of `worker.Model` or `worker.Task`, with `kind`.

    Modules are imported from the tree, and the `imports` first: their memory and import time do not
    count as loading.
    """

    subject: Mapping[str, Any]
    threads: int
    tree: Path = ROOT
    variables: Variables = field(default_factory=dict)
    imports: tuple[str, ...] = ()


def model_setup(
    options: ModelOptions,
    image: Path,
    threads: int,
    *,
    tree: Path = ROOT,
    shipped: bool = False,
    variables: Variables | None = None,
    imports: tuple[str, ...] = (),
    file: tuple[str, str] | None = None,
) -> Setup:
    """Set-up of a model on an image, an .npy file of (H, W, 3) uint8 RGB.

    With `shipped` it has the weights that the tree ships for it, if it does. `file` is the target
    of a model of a file, and the SHA-256 of the file. All else is as in `Setup`.
    """
    subject = {
        "kind": "model",
        "tree": str(tree),
        "options": json.loads(json.dumps(asdict(options), default=str)),
        "image": str(image),
        "shipped": shipped,
        "file": file,
    }
    return Setup(subject, threads, tree, variables or {}, imports)


def task_setup(
    path: str, threads: int, variables: Variables | None = None, **arguments: Any
) -> Setup:
    """Set-up of a task: `path` is `module:function`, which returns the calls by phase."""
    subject = {"kind": "task", "path": path, "arguments": arguments}
    return Setup(subject, threads, variables=variables or {})


class Worker:
    """A timing process, to be used in a `with` statement, with a time limit of an answer."""

    def __init__(self, setup: Setup, limit_s: float | None = ANSWER_LIMIT_S) -> None:
        self._limit_s = limit_s
        self._stopped = False
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        # Another version must not find modules of this one; adapters of the user may be in the
        # path.
        known = os.environ.get("PYTHONPATH", "") if setup.tree == ROOT else ""
        variables = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
        # By its path: a module's name would be looked up in the tree.
        self._process = start_python(
            [str(WORKER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            text=True,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(filter(None, (str(setup.tree), known))),
                **dict.fromkeys(variables, str(setup.threads)),
                **setup.variables,
            },
            cwd=setup.tree,
        )
        self._send({**setup.subject, "threads": setup.threads, "imports": setup.imports})

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        process = self._process
        if kind is not None:
            process.kill()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with suppress(BrokenPipeError):  # it has ended
                    pipe.close()
        process.wait()
        self._stderr.close()

    def ask(self, do: str, **request: Any) -> Answer:
        """Sends a request and waits for the answer; a WorkerError if the process failed."""
        self.post(do, **request)
        return self.answer()

    def post(self, do: str, **request: Any) -> None:
        """Sends a request whose answer `answer` returns later."""
        self._send({"do": do, **request})

    def _send(self, document: Answer) -> None:
        assert self._process.stdin is not None  # noqa: S101 - it is a pipe
        with suppress(BrokenPipeError):  # it has ended; `answer` gives the reason
            self._process.stdin.write(json.dumps(document) + "\n")
            self._process.stdin.flush()

    def answer(self) -> Answer:
        """Waits for the next answer; the first one is to the set-up."""
        assert self._process.stdout is not None  # noqa: S101 - it is a pipe
        with ExitStack() as stack:
            if self._limit_s is not None:
                watchdog = Timer(self._limit_s, self._stop)
                watchdog.daemon = True
                watchdog.start()
                stack.callback(watchdog.cancel)
            line = self._process.stdout.readline()
        if not line.endswith("\n"):
            raise WorkerError(self._cause())
        found: Answer = json.loads(line)
        if "error" in found:
            self._process.wait()
            show_text(self._printed())
            raise WorkerError(found["error"])
        return found

    def _stop(self) -> None:
        self._stopped = True
        self._process.kill()

    def _printed(self) -> str:
        """Standard error of the process, which has ended."""
        self._stderr.seek(0)
        return self._stderr.read().decode(errors="replace")

    def _cause(self) -> str:
        """Why the process ended without an answer."""
        code, text = self._process.wait(), self._printed()
        show_text(text)
        who = "the timing process"
        if self._stopped:
            return f"{who} had not answered after {self._limit_s:.0f} s and was stopped"
        if code == -signal.SIGKILL:
            return f"{who} was killed (out of memory?); try a smaller model or fewer prompts"
        if code < 0:
            return f"{who} died of {signal.Signals(-code).name}"
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        if not lines:
            return f"{who} ended with code {code}"
        return f"{who} failed: {' | '.join(lines[-_STDERR_LINES:])}"


@contextmanager
def fresh_processes(
    setups: Mapping[NameT, Setup], rng: np.random.Generator, limit_s: float | None = ANSWER_LIMIT_S
) -> Iterator[dict[NameT, Worker]]:
    """Starts a process for each set-up, in random order, without waiting for them."""
    with ExitStack() as stack:
        yield {
            name: stack.enter_context(Worker(setups[name], limit_s))
            for name in shuffled(tuple(setups), rng)
        }


def shuffled(names: Sequence[NameT], rng: np.random.Generator) -> list[NameT]:
    """The names in random order."""
    return [names[index] for index in rng.permutation(len(names))]


def turns(
    names: Callable[[], Sequence[NameT]], n_turns: int, rng: np.random.Generator
) -> Iterator[NameT]:
    """Yields the names that still take part `n_turns` times, each time in a new random order."""
    for _ in range(n_turns):
        yield from shuffled(names(), rng)


def run_task(path: str, threads: int, **arguments: Any) -> Answer:
    """Runs phase `run` of a task (see `task_setup`) once, in a fresh process, without a time limit.

    Returns `value`, which the call returned; its `ms`, `cpu_ms` and `faults`; `loaded_bytes` before
    the call and `peak_rss_bytes` after it.
    """
    with Worker(task_setup(path, threads, **arguments), limit_s=None) as worker:
        worker.answer()
        loaded_bytes = worker.ask("memory")["rss_bytes"]
        took = worker.ask("call", phase="run")
        peak_bytes = worker.ask("memory")["peak_rss_bytes"]
        value = worker.ask("output")["value"]
    return {**took, "value": value, "loaded_bytes": loaded_bytes, "peak_rss_bytes": peak_bytes}
