"""Sessions of an A/B measurement: raw samples of two versions, as files."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

from pydantic import Field

from benchmarks.records.record import Environment, document_of, write_atomic
from benchmarks.regression.worktrees import TreeInfo
from mobilesam.errors import DataError, UsageError
from mobilesam.frozen_model import FrozenModel

Side = Literal["base", "again", "head"]
SIDES: tuple[Side, ...] = get_args(Side)
"""`again` is a second process of the base: the difference between the two is noise."""
Stage = Literal["first", "repetition"]
"""A stage may have several sessions, whose samples are judged together."""
Turns = tuple[tuple[float, ...], ...]
"""Calls of one process, a tuple for each turn."""
Phase = tuple[str, int | None]
Key = tuple[str, str, int | None]
"""Model, phase or protocol, and number of prompts."""
LOAD, MEMORY = "load", "memory"


class Settings(FrozenModel):
    """How two versions are measured.

    `pairs` are sets of fresh processes for each model, in each of which every phase has `turns` of
    about `turn_ms`. Several `threads` wait for each other, which is noise. `seed` is that of scenes
    and random weights, `order_seed` that of the order of processes and turns.
    """

    models: tuple[str, ...]
    accuracy_models: tuple[str, ...]
    n_prompts: tuple[int, ...]
    pairs: int
    turns: int
    scenes: int
    threads: int
    turn_ms: float = 20.0
    seed: int = 0
    order_seed: int = 0


class Samples(FrozenModel):
    """Times (ms) or peaks of memory (bytes) of one benchmark.

    `sides` has for each side a tuple of processes, each with its turns; a failed process has none,
    and its error is in `errors`.
    """

    model: str
    phase: str
    n_prompts: int | None = None
    sides: dict[Side, tuple[Turns, ...]]
    errors: dict[Side, str] = Field(default_factory=dict)

    @property
    def key(self) -> Key:
        """Identifies the benchmark in other sessions."""
        return self.model, self.phase, self.n_prompts

    def plus(self, other: Samples) -> Samples:
        """Adds the processes of another session of the same stage."""
        sides = {
            side: self.sides.get(side, ()) + other.sides.get(side, ())
            for side in SIDES
            if side in self.sides or side in other.sides
        }
        return self.model_copy(update={"sides": sides, "errors": {**self.errors, **other.errors}})


class AccuracySamples(FrozenModel):
    """IoU of every mask of one model under one protocol; base and head in the same order."""

    model: str
    protocol: str
    images: tuple[int, ...] = ()
    base: tuple[float, ...] = ()
    head: tuple[float, ...] = ()
    errors: dict[Side, str] = Field(default_factory=dict)


class Session(FrozenModel):
    """One measurement of two versions."""

    schema_version: Literal[2] = 2
    stage: Stage
    created_utc: str
    base: TreeInfo
    head: TreeInfo
    settings: Settings
    environment: Environment
    warnings: tuple[str, ...] = ()
    samples: tuple[Samples, ...] = ()
    answers: tuple[AccuracySamples, ...] = ()
    duration_s: float


def save_session(session: Session, folder: Path) -> Path:
    """Writes `session-N.json` with the next free N."""
    path = folder / f"session-{len(session_files(folder)) + 1}.json"
    write_atomic(path, document_of(session, path))
    return path


def session_files(folder: Path) -> list[Path]:
    """Files of the sessions in a folder, in order."""
    return sorted(folder.glob("session-*.json"))


def load_sessions(folder: Path) -> tuple[Session, ...]:
    """Reads all sessions of a folder, which has at least one, all of the same two versions."""
    files = session_files(folder)
    if not files:
        raise UsageError(f"{folder} holds no session-N.json; make one with regress measure")
    sessions = tuple(Session.from_file(file, "session") for file in files)
    for side in ("base", "head"):
        if len({getattr(session, side).commit for session in sessions}) > 1:
            raise DataError(f"the sessions in {folder} are of different commits ({side})")
    return sessions
