"""Models shared by eight threads, one seed each; `nox -s fuzz` tests further seeds."""

from __future__ import annotations

import hashlib
import threading
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st

from mobilesam.predictor import ImageEmbedding, MobileSam

from . import rounds, threads
from .rounds import HangError, run_round
from .surface import Surface, public_surface, stale_exemptions, without_case
from .targets import Target
from .threads import CASES, N_THREADS, Case, shared_predictor, small_sam, wrong_answers

SUITE = [case for case in CASES if case.times]
# Names that each case has called in this process.
_CALLED: dict[str, set[str]] = {}


@pytest.mark.parametrize("case", SUITE, ids=lambda case: case.name)
def test_eight_threads_give_the_results_of_one_thread_bit_for_bit(case: Case) -> None:
    if lacking := case.lacking():
        pytest.skip(lacking)
    jobs = case.jobs(np.random.default_rng(0))
    called: set[str] = set()  # by the jobs only, not by their preparation
    watched = public_surface().watched(called)
    assert wrong_answers(jobs, times=case.times, watched=watched) == []
    _CALLED[case.name] = called


def test_all_public_methods_have_a_case() -> None:
    for case in SUITE:
        if case.name not in _CALLED and not case.lacking():
            jobs = case.jobs(np.random.default_rng(0))
            _CALLED[case.name] = set()
            with public_surface().watched(_CALLED[case.name]):
                for job in jobs:
                    job()
    called = frozenset[str]().union(*_CALLED.values())
    missing = without_case(public_surface(), called)
    assert missing == [], f"add a case to threads.py for {missing}"
    assert stale_exemptions(public_surface()) == []


def _module() -> ModuleType:
    module = ModuleType("mobilesam.added")
    source = """
class Base:
    def run(self): return 1
    @property
    def size(self): return 2
    @size.setter
    def size(self, value): pass
    def _hidden(self): pass

class Added(Base):
    @classmethod
    def make(cls): return cls()
    def __call__(self): return self.run()

def answer(): return 3
def _hidden(): pass
"""
    exec(compile(source, "added.py", "exec"), vars(module))  # noqa: S102 - the text above
    for name in ("Base", "Added", "answer"):
        getattr(module, name).__module__ = module.__name__
    return module


def test_new_classes_methods_and_functions_are_found() -> None:
    module: Any = _module()
    surface = Surface([module])
    inherited = {
        f"mobilesam.added.{owner}.{name}"
        for owner in ("Base", "Added")
        for name in ("run", "size", "size =")
    }
    own = {"mobilesam.added.Added.make", "mobilesam.added.Added.__call__", "mobilesam.added.answer"}
    assert surface.names == inherited | own
    assert set(without_case(surface, frozenset())) == surface.names
    called: set[str] = set()
    with surface.watched(called):
        module.Added.make()()
        module.answer()
    # `run` was called on an `Added`; the method of the other class has not been called.
    assert called == own | {"mobilesam.added.Added.run"}
    assert "mobilesam.added.Base.run" in without_case(surface, frozenset(called))


def test_a_shared_buffer_is_detected() -> None:
    shared = np.zeros(3)

    def job(value: int) -> Any:
        shared[:] = value
        time.sleep(1e-3)
        return shared

    jobs = [lambda value=value: job(value) for value in range(4)]
    assert wrong_answers(jobs)


class _Torn(MobileSam):
    """A predictor that sets the embedding of an image before its sizes, not both at once."""

    def _set(self, found: ImageEmbedding) -> None:
        self.features, self.is_image_set = found.features, True
        time.sleep(2e-3)
        self.original_size, self.input_size = found.size_hw, found.inner_hw


def test_an_image_that_is_set_in_parts_is_detected() -> None:
    rng = np.random.default_rng(0)
    # On a busy machine, the threads of one attempt may run one after another.
    assert any(wrong_answers(shared_predictor(lambda: _Torn(small_sam()), rng)) for _ in range(20))


def test_an_error_in_a_thread_is_raised() -> None:
    main = threading.get_ident()

    def job() -> int:
        if threading.get_ident() != main:
            raise ZeroDivisionError
        return 1

    with pytest.raises(ZeroDivisionError):
        wrong_answers([job])


def test_a_deadlock_is_a_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "STUCK_S", 0.2)
    main, never = threading.get_ident(), threading.Event()

    def job() -> int:
        if threading.get_ident() != main:
            never.wait()
        return 1

    with pytest.raises(HangError, match=r"left are \[0, 1, 2\]"):
        wrong_answers([job])
    never.set()


def _spend(cpu_s: float) -> None:
    """Uses processor time in this thread, and releases the interpreter lock regularly."""
    start, data = time.thread_time(), bytes(2**16)
    while time.thread_time() - start < cpu_s:
        hashlib.sha256(data).digest()


@pytest.fixture
def _short_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds, "HANG_CPU_S", 0.3)
    monkeypatch.setattr(rounds, "_CHECK_EVERY_S", 0.05)


@pytest.mark.usefixtures("_short_limit")
def test_the_limit_of_processor_time_is_per_thread() -> None:
    """Eight threads together exceed the limit, but no single thread does."""

    def read(_: int, __: Path) -> None:
        started = [threading.Thread(target=_spend, args=(0.06,)) for _ in range(N_THREADS)]
        for each in started:
            each.start()
        for each in started:
            each.join()

    assert run_round(Target("threads", lambda: st.just(0), read), n_inputs=1).read == 1


@pytest.mark.usefixtures("_short_limit")
@pytest.mark.parametrize("in_thread", [False, True])
def test_an_endless_thread_is_a_hang(in_thread: bool) -> None:
    def read(_: int, __: Path) -> None:
        if not in_thread:
            _spend(30)
        thread = threading.Thread(target=_spend, args=(1.0,), daemon=True)
        thread.start()
        thread.join()

    with pytest.raises(HangError, match="processor time"):
        run_round(Target("endless", lambda: st.just(0), read), n_inputs=1)
