"""Files of the sessions of an A/B measurement."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.records.environment import collect
from benchmarks.regression.sessions import (
    Samples,
    Session,
    Settings,
    load_sessions,
    save_session,
)
from benchmarks.regression.worktrees import TreeInfo
from mobilesam.errors import DataError, UsageError

SETTINGS = Settings(
    models=("m",), accuracy_models=(), n_prompts=(1,), pairs=1, turns=1, scenes=1, threads=1
)


def session(commit: str = "0" * 40) -> Session:
    tree = TreeInfo(ref="HEAD", commit=commit, dirty=False)
    samples = Samples(model="m", phase="encode", sides={"base": (((1.0, 2.0),),)})
    return Session(
        stage="first",
        created_utc="2026-01-01T00:00:00+00:00",
        base=tree,
        head=tree,
        settings=SETTINGS,
        environment=collect(1),
        samples=(samples,),
        duration_s=1.0,
    )


def test_saved_sessions_are_loaded_in_order(tmp_path: Path) -> None:
    first = session()
    second = first.model_copy(update={"stage": "repetition"})
    paths = [save_session(each, tmp_path) for each in (first, second)]
    assert [path.name for path in paths] == ["session-1.json", "session-2.json"]
    assert load_sessions(tmp_path) == (first, second)


def test_samples_of_two_sessions_are_added() -> None:
    one = Samples(model="m", phase="encode", sides={"base": (((1.0,),),)}, errors={"head": "a"})
    other = one.model_copy(update={"sides": {"head": (((2.0,),),)}, "errors": {"base": "b"}})
    both = one.plus(other)
    assert both.sides == {"base": (((1.0,),),), "head": (((2.0,),),)}
    assert both.errors == {"head": "a", "base": "b"}


def test_missing_invalid_and_mixed_sessions_are_errors(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"holds no session-N\.json"):
        load_sessions(tmp_path)
    save_session(session(), tmp_path)
    save_session(session("1" * 40), tmp_path)
    with pytest.raises(DataError, match="of different commits"):
        load_sessions(tmp_path)
    (tmp_path / "session-1.json").write_text("{}")
    with pytest.raises(DataError, match=r"session-1\.json is not a session"):
        load_sessions(tmp_path)
