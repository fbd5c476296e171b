"""What an A/B measurement leaves behind: raw samples, which are judged afterwards."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from benchmarks.records.record import Environment, document_of, write_atomic
from mobilesam.errors import DataError, UsageError
from mobilesam.frozen_model import FrozenModel
from mobilesam.validation import first_problem

SessionVersion = Literal[2]
SESSION_VERSION: SessionVersion = 2
Side = Literal["base", "again", "head"]
Stage = Literal["first", "repetition"]
"""Of one stage there may be several sessions, whose samples are judged as one."""
SIDES: tuple[Side, ...] = ("base", "again", "head")
"""`again` is a second process of the base: what differs between the two is noise."""

Turns = tuple[tuple[float, ...], ...]
"""The calls of one process, a tuple a turn."""


class Settings(FrozenModel):
    """How two versions are measured.

    Attributes:
        models: Whose times and memory are measured.
        accuracy_models: Whose accuracy is.
        n_prompts: Numbers of prompts that are decoded.
        pairs: Sets of fresh processes, one of each side, for each model.
        turns: Turns of each phase in each of them.
        scenes: Drawn scenes that accuracy is measured on.
        threads: Threads a model is given; that several wait for each other is noise.
        turn_ms: Calls are repeated until a turn takes about so long.
        seed: Of scenes and random weights.
        order_seed: Of the order of processes and turns.
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


class TreeInfo(FrozenModel):
    """A version: as it was named, its commit, and whether files differ from that."""

    ref: str
    commit: str
    dirty: bool


class Samples(FrozenModel):
    """Times (ms) or peaks of memory (bytes) of one benchmark, by side.

    Attributes:
        model: Which model.
        phase: Which phase, or `memory`.
        n_prompts: Of decoding.
        sides: By side: a tuple a process, in it one a turn. A process that failed has none.
        errors: By side: why a process gave no samples.
    """

    model: str
    phase: str
    n_prompts: int | None = None
    sides: dict[Side, tuple[Turns, ...]]
    errors: dict[Side, str] = Field(default_factory=dict)

    @property
    def key(self) -> tuple[str, str, int | None]:
        """What makes it the same benchmark in another session."""
        return self.model, self.phase, self.n_prompts

    def plus(self, other: Samples) -> Samples:
        """With the processes of another session of the same stage."""
        sides = {
            side: self.sides.get(side, ()) + other.sides.get(side, ())
            for side in SIDES
            if side in self.sides or side in other.sides
        }
        return self.model_copy(update={"sides": sides, "errors": {**self.errors, **other.errors}})


class Answers(FrozenModel):
    """IoU of every answer of one model under one protocol; base and head in the same order."""

    model: str
    protocol: str
    images: tuple[int, ...] = ()
    base: tuple[float, ...] = ()
    head: tuple[float, ...] = ()
    errors: dict[Side, str] = Field(default_factory=dict)


class Session(FrozenModel):
    """One measurement of two versions."""

    schema_version: SessionVersion = SESSION_VERSION
    stage: Stage
    created_utc: str
    base: TreeInfo
    head: TreeInfo
    settings: Settings
    environment: Environment
    warnings: tuple[str, ...] = ()
    samples: tuple[Samples, ...] = ()
    answers: tuple[Answers, ...] = ()
    duration_s: float


def save_session(session: Session, folder: Path) -> Path:
    """Writes `session-N.json` with the next free N.

    Raises:
        DataError: It cannot be written.
    """
    number = len(session_files(folder)) + 1
    path = folder / f"session-{number}.json"
    write_atomic(path, document_of(session, path))
    return path


def session_files(folder: Path) -> list[Path]:
    """The records of a folder, in order."""
    return sorted(folder.glob("session-*.json"))


def load_sessions(folder: Path) -> tuple[Session, ...]:
    """Reads all sessions of a folder.

    Raises:
        UsageError: It holds none.
        DataError: One cannot be read, or they are of different versions.
    """
    files = session_files(folder)
    if not files:
        raise UsageError(f"{folder} holds no session-N.json; make one with regress measure")
    sessions = []
    for file in files:
        try:
            sessions.append(Session.model_validate_json(file.read_bytes()))
        except OSError as error:
            raise DataError(f"cannot read {file}: {error.strerror}") from error
        except ValidationError as error:
            raise DataError(f"{file} is not a session: {first_problem(error)}") from error
    for side in ("base", "head"):
        commits = {getattr(session, side).commit for session in sessions}
        if len(commits) > 1:
            raise DataError(f"the sessions in {folder} are of different commits ({side})")
    return tuple(sessions)
