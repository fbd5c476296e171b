"""One model of two versions, timed in turns: sets of fresh processes, and their samples."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from benchmarks.regression.ab_process import Worker, WorkerError
from benchmarks.regression.ab_records import SIDES, Samples, Settings, Side, Turns
from benchmarks.regression.worktrees import Tree

Phase = tuple[str, int | None]
Key = tuple[str, str, int | None]
"""Model, phase or protocol, and number of prompts."""
LOAD, MEMORY = "load", "memory"
# More calls than one, so that one of them is not interrupted, unless they take too long.
_MIN_CALLS, _MAX_CALLS = 2, 50
_LONG_TURN = 8  # turns
_DECIMALS = 5  # of milliseconds: a clock is no finer


@dataclass(slots=True)
class _Growing:
    """Samples of one benchmark while they are taken, one entry a pair for each side."""

    sides: dict[Side, list[Turns]] = field(default_factory=lambda: {side: [] for side in SIDES})
    errors: dict[Side, str] = field(default_factory=dict)


class TimedModel:
    """The measurement of one model, pair by pair.

    A process that fails leaves its error, and no samples of that phase and of later ones.

    Args:
        name: The model.
        trees: The version of each side that takes part.
        settings: How much of what.
        image: File of the image that it is timed on.
        only: Benchmarks to measure; None for all.
        number: Of the session: each has an order of its own.
    """

    def __init__(
        self,
        name: str,
        trees: Mapping[Side, Tree],
        settings: Settings,
        image: Path,
        only: Collection[Key] | None = None,
        number: int = 0,
    ) -> None:
        self._name = name
        self._trees = trees
        self._settings = settings
        self._image = image
        self._only = only
        self._number = number
        self._found: dict[Phase, _Growing] = {}

    def pair(self, index: int) -> None:
        """Starts a process of each side, lets them take turns, and reads their memory."""
        rng = np.random.default_rng([self._settings.order_seed, self._number, index])
        with self._started(rng) as workers:
            phases = self._phases(workers)
            for phase in dict.fromkeys(name for names in phases.values() for name in names):
                if self._wanted(phase):
                    own = [side for side in workers if phase in phases[side]]
                    self._turns(phase, own, workers, rng)
            if self._wanted((MEMORY, None)):
                self._memory(workers)

    def samples(self) -> list[Samples]:
        """What all pairs gave."""
        return [
            Samples(
                model=self._name,
                phase=phase,
                n_prompts=n_prompts,
                sides={side: tuple(pairs) for side, pairs in growing.sides.items()},
                errors=growing.errors,
            )
            for (phase, n_prompts), growing in self._found.items()
        ]

    @contextmanager
    def _started(self, rng: np.random.Generator) -> Iterator[dict[Side, Worker]]:
        """Fresh processes, started at once in random order; those that fail leave the dict."""
        settings = self._settings
        with ExitStack() as stack:
            workers: dict[Side, Worker] = {}
            sides = tuple(self._trees)
            for number in rng.permutation(len(sides)):
                side = sides[number]
                workers[side] = Worker(
                    self._trees[side], self._name, self._image, settings.threads, settings.seed
                )
                stack.callback(workers[side].close)
            yield workers

    def _phases(self, workers: dict[Side, Worker]) -> dict[Side, list[Phase]]:
        """The phases that each side has."""
        found: dict[Side, list[Phase]] = {}
        for side in tuple(workers):
            with self._surviving((LOAD, None), side, workers):
                workers[side].ready()
        for side in tuple(workers):
            with self._surviving((LOAD, None), side, workers):
                given = workers[side].ask("phases", n_prompts=list(self._settings.n_prompts))
                found[side] = [(phase, n) for phase, n in given["phases"]]
        return found

    def _turns(
        self,
        phase: Phase,
        sides: list[Side],
        workers: dict[Side, Worker],
        rng: np.random.Generator,
    ) -> None:
        asked = {"phase": phase[0], "n_prompts": phase[1]}
        first: dict[Side, float] = {}
        for side in sides:
            with self._surviving(phase, side, workers):
                # Twice: what is made on first use is in the first.
                first[side] = workers[side].ask("time", calls=2, **asked)["ms"][-1]
        if not first:
            return
        # The same number for all, or a slower side would be measured in another way.
        calls = calls_in_turn(min(first.values()), self._settings.turn_ms)
        taken: dict[Side, list[tuple[float, ...]]] = {side: [] for side in first}
        for _ in range(self._settings.turns):
            running = [side for side in taken if side in workers]
            for number in rng.permutation(len(running)):
                side = running[number]
                with self._surviving(phase, side, workers):
                    times = workers[side].ask("time", calls=calls, **asked)["ms"]
                    taken[side].append(tuple(round(ms, _DECIMALS) for ms in times))
        for side, turns in taken.items():
            if side in workers:
                self._at(phase).sides[side].append(tuple(turns))

    def _memory(self, workers: dict[Side, Worker]) -> None:
        for side in tuple(workers):
            with self._surviving((MEMORY, None), side, workers):
                peak = float(workers[side].ask("memory")["peak_rss_bytes"])
                self._at((MEMORY, None)).sides[side].append(((peak,),))

    @contextmanager
    def _surviving(self, phase: Phase, side: Side, workers: dict[Side, Worker]) -> Iterator[None]:
        """Notes the error of a process that dies meanwhile, and goes on without it."""
        try:
            yield
        except WorkerError as error:
            self._at(phase).errors[side] = str(error)
            del workers[side]

    def _wanted(self, phase: Phase) -> bool:
        return self._only is None or (self._name, *phase) in self._only

    def _at(self, phase: Phase) -> _Growing:
        return self._found.setdefault(phase, _Growing())


def calls_in_turn(call_ms: float, turn_ms: float) -> int:
    """How many calls of a length make a turn of about another."""
    least = _MIN_CALLS if _MIN_CALLS * call_ms <= _LONG_TURN * turn_ms else 1
    return int(np.clip(round(turn_ms / call_ms), least, _MAX_CALLS))
