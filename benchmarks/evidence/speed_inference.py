"""Is the fast inference path quicker than the plain modules, with the same answers?

The reference is what the authors' code computes: the eager TinyViT, and segment-anything's prompt
encoder and mask decoder. Each side runs in a process of its own, with the system's allocator as it
is; the processes take turns call by call, so that whatever else the machine does hits all alike,
and a ratio is that of calls of the same turn. Processor time is printed beside wall time: with
`--threads 1` it holds on a busy machine, too (with more threads it counts their waiting).

`python -m benchmarks.evidence.speed_inference --weights FILE`
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.child_processes import run_program, start_python
from benchmarks.evidence.backends import REFERENCE, default_names, names
from benchmarks.records.statistics import median_spread, spread_fields

WORKER = "benchmarks.evidence.speed_worker"


@dataclass
class Turns:
    """What one side did in one task, call by call, by process."""

    ms: list[list[float]] = field(default_factory=list)
    cpu_ms: list[list[float]] = field(default_factory=list)
    faults: list[int] = field(default_factory=list)
    first_ms: list[float] = field(default_factory=list)
    answer: np.ndarray[Any, np.dtype[np.float32]] | None = None


class WorkerError(RuntimeError):
    """A side cannot be measured."""


class Worker:
    """A process that makes one call each time it is asked to.

    Args:
        side: One of `sides.names`.
        weights: Checkpoint, or None for random weights of seed 0.
        threads: Of torch.
        folder: Where it leaves its answers.
    """

    def __init__(self, side: str, weights: Path | None, threads: int, folder: Path) -> None:
        self.side, self._folder = side, folder
        request = {"side": side, "weights": weights and str(weights), "threads": threads}
        command = ["-m", WORKER, json.dumps(request), str(folder)]
        self._process = start_python(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def ask(self, task: str) -> dict[str, float]:
        """Makes the call and returns its `ms`, `cpu_ms` and `faults`.

        Raises:
            WorkerError: The process died; its message stands on standard error.
        """
        assert self._process.stdin is not None and self._process.stdout is not None  # noqa: S101, PT018
        try:
            self._process.stdin.write(task + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise WorkerError(f"the process of {self.side} ended during {task}; see above")
        answer: dict[str, float] = json.loads(line)
        return answer

    def answer(self) -> np.ndarray[Any, np.dtype[np.float32]]:
        """Output of the last call."""
        self.ask("save")
        found: np.ndarray[Any, np.dtype[np.float32]] = np.load(self._folder / "answer.npy")
        return found

    def close(self) -> None:
        """Ends the process."""
        self._process.communicate()


@contextmanager
def workers(
    sides: Sequence[str], weights: Path | None, threads: int, folder: Path
) -> Iterator[list[Worker]]:
    """One fresh process a side."""
    with ExitStack() as stack:
        started = []
        for side in sides:
            home = folder / side
            home.mkdir()
            started.append(Worker(side, weights, threads, home))
            stack.callback(started[-1].close)
        yield started


def measure(
    sides: Sequence[str],
    tasks: Sequence[str],
    weights: Path | None,
    *,
    threads: int,
    processes: int,
    turns: int,
) -> dict[str, dict[str, Turns]]:
    """Times all sides in turns.

    Args:
        sides: Of `sides.names`, the reference among them.
        tasks: `encoder` or `decoder-N`.
        weights: Checkpoint, or None for random ones.
        threads: Of torch.
        processes: Fresh sets of processes, one after the other.
        turns: Timed calls of each task in each process, after two that are not.

    Returns:
        By task, then by side.
    """
    found = {task: {side: Turns() for side in sides} for task in tasks}
    rng = np.random.default_rng(0)
    for _ in range(processes):
        with (
            tempfile.TemporaryDirectory() as folder,
            workers(sides, weights, threads, Path(folder)) as running,
        ):
            for task in tasks:
                for worker in running:
                    # Apart: what is done once, such as compiling, is in it.
                    found[task][worker.side].first_ms.append(worker.ask(task)["ms"])
                    worker.ask(task)
                    found[task][worker.side].ms.append([])
                    found[task][worker.side].cpu_ms.append([])
                for _ in range(turns):
                    for index in rng.permutation(len(running)):
                        _take_turn(running[index], task, found[task][running[index].side])
                for worker in running:
                    found[task][worker.side].answer = worker.answer()
    return found


def _take_turn(worker: Worker, task: str, into: Turns) -> None:
    took = worker.ask(task)
    into.ms[-1].append(took["ms"])
    into.cpu_ms[-1].append(took["cpu_ms"])
    into.faults.append(int(took["faults"]))


def summarise(found: dict[str, dict[str, Turns]]) -> list[dict[str, Any]]:
    """One row a task and side: median time, first call, ratio, page faults, parity.

    A ratio has an interval (`ci95`) if there are five or more processes, otherwise a `range`.
    """
    rows = []
    for task, sides in found.items():
        plain = sides[REFERENCE]
        for side, turns in sides.items():
            ratios = _ratios(plain.ms, turns.ms)
            assert plain.answer is not None and turns.answer is not None  # noqa: S101, PT018
            difference = np.abs(turns.answer - plain.answer)
            rows.append(
                {
                    "task": task,
                    "side": side,
                    "ms": statistics.median(np.concatenate(turns.ms)),
                    "first_ms": statistics.median(turns.first_ms) if turns.first_ms else None,
                    "ratio": float(np.median(np.concatenate(ratios))),
                    **spread_fields(median_spread(ratios)),
                    "cpu_ratio": float(
                        np.median(np.concatenate(_ratios(plain.cpu_ms, turns.cpu_ms)))
                    ),
                    "page_faults": statistics.median(turns.faults),
                    "max_difference": float(difference.max()),
                    "mean_difference": float(difference.mean()),
                    "mean_magnitude": float(np.abs(plain.answer).mean()),
                }
            )
    return rows


def _ratios(
    above: list[list[float]], below: list[list[float]]
) -> list[np.ndarray[Any, np.dtype[np.float64]]]:
    """By process, of calls of the same turn."""
    return [np.divide(a, b) for a, b in zip(above, below, strict=True)]


def published_weights() -> Path | None:
    """The published MobileSAM, if it is on this machine; nothing is fetched."""
    from mobilesam.errors import WeightsError
    from mobilesam.weights.checkpoints import resolve

    try:
        return resolve("mobilesam", overrides={}, offline=True, trust=False).path
    except WeightsError:
        return None


def print_rows(rows: Sequence[dict[str, Any]]) -> None:
    """A table on standard output; intervals are in brackets, ranges in parentheses."""
    head = f"{'task':12} {'side':14} {'ms':>8} {'first ms':>9} {'times faster':>20}"
    print(f"{head} {'by CPU time':>12} {'page faults':>12} {'max |diff|':>11} {'mean |diff|':>12}")  # noqa: T201
    for row in rows:
        bounds = ""
        if row["ci95"] is not None:
            bounds = " [{:.2f}, {:.2f}]".format(*row["ci95"])
        elif row["range"] is not None:
            bounds = " ({:.2f} to {:.2f})".format(*row["range"])
        first = "" if row["first_ms"] is None else f"{row['first_ms']:.1f}"
        ratio = f"{row['ratio']:.2f}{bounds}"
        print(  # noqa: T201
            f"{row['task']:12} {row['side']:14} {row['ms']:8.1f} {first:>9} {ratio:>20} "
            f"{row['cpu_ratio']:12.2f} {row['page_faults']:12.0f} "
            f"{row['max_difference']:11.1e} {row['mean_difference']:12.1e}"
        )


def _parser() -> argparse.ArgumentParser:
    from benchmarks.records.environment import default_threads

    parser = argparse.ArgumentParser(description="Ratios of the fast path to the plain modules.")
    parser.add_argument(
        "--weights", type=Path, help="checkpoint; else the published one if it is here, else random"
    )
    parser.add_argument("--sides", help=f"by commas; of {', '.join(names())}")
    parser.add_argument("--tasks", default="encoder,decoder-1,decoder-64")
    parser.add_argument("--threads", type=int, default=default_threads())
    parser.add_argument("--processes", type=int, default=3)
    parser.add_argument("--turns", type=int, default=3, help="timed calls a process")
    parser.add_argument("--out", type=Path, default=None, help="write one document to a file")
    return parser


def _checked(parser: argparse.ArgumentParser, chosen: argparse.Namespace) -> tuple[str, ...]:
    """The sides that are asked for; whatever cannot be meant ends the program with a line."""
    given = default_names() if chosen.sides is None else chosen.sides.split(",")
    unknown = sorted(set(given) - set(names()))
    if unknown:
        parser.error(f"unknown side {unknown[0]!r}; choose from {', '.join(names())}")
    for task in chosen.tasks.split(","):
        if re.fullmatch(r"encoder|decoder-[1-9][0-9]*", task) is None:
            parser.error(f"unknown task {task!r}; give encoder, or decoder-N for N prompts")
    for name in ("threads", "processes", "turns"):
        if getattr(chosen, name) < 1:
            parser.error(f"--{name} must be at least 1; got {getattr(chosen, name)}")
    if chosen.weights is not None and not chosen.weights.is_file():
        parser.error(f"{chosen.weights} is no file; give a checkpoint of MobileSAM")
    if chosen.out is not None and not chosen.out.resolve().parent.is_dir():
        parser.error(f"{chosen.out.parent} is no folder; make it, or choose another --out")
    return tuple(dict.fromkeys((REFERENCE, *given)))


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and prints; returns the exit code."""
    from benchmarks.evidence.document import keep, wait_if_published
    from benchmarks.latency.idle import BusyMachineError
    from benchmarks.records.environment import collect
    from mobilesam.weights.cache import digest_file

    parser = _parser()
    chosen = parser.parse_args(arguments)
    sides = _checked(parser, chosen)
    weights = chosen.weights or published_weights()
    settings = {name: getattr(chosen, name) for name in ("threads", "processes", "turns")}
    try:
        other_load = wait_if_published(chosen.out)
        rows = summarise(measure(sides, chosen.tasks.split(","), weights, **settings))
    except (WorkerError, BusyMachineError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    print_rows(rows)
    if chosen.out is not None:
        document = {
            **settings,
            "weights": None if weights is None else digest_file(weights).sha256,
            "rows": rows,
            "environment": collect(chosen.threads, other_load).model_dump(mode="json"),
        }
        keep(document, chosen.out)
    return 0


if __name__ == "__main__":
    raise SystemExit(run_program(main))
