"""Verdicts on sessions of known changes, and when sessions are extended or repeated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from guard_settings import CALM
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.records.environment import collect
from benchmarks.records.progress import Reporter
from benchmarks.regression import ab
from benchmarks.regression.judge import (
    FEW_SETS,
    MAX_LOSS,
    MIN_LOSS,
    Judgement,
    judge,
    judgement_table,
    notes,
    verdict_text,
)
from benchmarks.regression.sessions import (
    AccuracySamples,
    Samples,
    Session,
    Settings,
    Side,
    Stage,
    load_sessions,
)
from benchmarks.regression.worktrees import TreeInfo
from mobilesam.errors import UsageError

SETTINGS = Settings(
    models=("m",), accuracy_models=("m",), n_prompts=(1,), pairs=4, turns=6, scenes=9, threads=1
)
TREE = TreeInfo(ref="HEAD", commit="0" * 40, dirty=False)


def session(
    samples: tuple[Samples, ...] = (),
    answers: tuple[AccuracySamples, ...] = (),
    stage: Stage = "first",
) -> Session:
    return Session(
        stage=stage,
        created_utc="2026-01-01T00:00:00+00:00",
        base=TREE,
        head=TREE,
        settings=SETTINGS,
        environment=collect(1),
        samples=samples,
        answers=answers,
        duration_s=1.0,
    )


def timed(factor: float, seed: int = 0, noise: float = 0.02, **more: Any) -> Samples:
    """Four pairs of processes; the head takes `factor` times as long; drift affects all."""
    rng = np.random.default_rng(seed)
    drift = rng.lognormal(0, 0.2, (4, 6))
    sides: dict[Side, Any] = {}
    for side, times in (("base", 1.0), ("again", 1.0), ("head", factor)):
        values = times * drift * rng.lognormal(0, noise, (4, 6))
        # Two more calls in each turn, which were interrupted.
        sides[side] = tuple(tuple((v, 3 * v, 40 * v) for v in turns) for turns in values.tolist())  # type: ignore[index]
    return Samples(**({"model": "m", "phase": "encode", "sides": sides} | more))


def answers(gains: Any, **more: Any) -> AccuracySamples:
    base = np.full(len(gains), 0.7)
    images = tuple(range(len(gains)))
    known = {"model": "m", "protocol": "box", "images": images, "base": tuple(base)}
    return AccuracySamples(**({**known, "head": tuple(base + gains)} | more))


def again(one: Session) -> Session:
    """The same samples, as a repetition."""
    return one.model_copy(update={"stage": "repetition"})


def verdict(*sessions: Session) -> str:
    (found,) = judge(sessions).benchmarks
    return found.verdict


def test_a_slowdown_fails_only_if_the_repetition_confirms_it() -> None:
    slow, fine = session((timed(1.3),)), session((timed(1.0, seed=1),))
    assert verdict(slow) == "suspect"
    assert verdict(slow, again(slow)) == "worse"
    assert verdict(slow, again(fine)) == "not confirmed"
    assert verdict(fine) == "same"
    assert verdict(session((timed(0.7),))) == "better"
    assert judge((slow,)).passed
    assert judge((slow,)).suspects == (("m", "encode", None),)
    failed = judge((slow, again(slow)))
    assert not failed.passed
    assert verdict_text(failed) == "FAILED: m encode (worse)"
    (row,) = failed.benchmarks
    assert row.change == pytest.approx(1.3, abs=0.05)
    assert row.floor == pytest.approx(1.0, abs=0.05)


def test_more_processes_of_the_same_stage_settle_an_unclear_verdict() -> None:
    wide = session((timed(1.3, seed=3, noise=0.3),))
    (found,) = judge((wide,)).benchmarks
    assert found.verdict == "unclear"
    assert found.change > 1.1 > found.ci95[0]  # type: ignore[index, operator]
    assert judge((wide,)).passed
    assert judge((wide,)).unclear("first") == (("m", "encode", None),)
    assert verdict_text(judge((wide,))) == "passed; unclear: m encode"
    more = session((timed(1.3, seed=4),))
    assert verdict(wide, more, more) == "suspect"
    slow = session((timed(1.3),))
    twice = judge((slow, again(wide)))
    assert twice.unclear("repetition") == (("m", "encode", None),)
    assert not twice.unclear("first")
    assert twice.passed
    assert verdict(slow, again(wide), again(more), again(more)) == "worse"


@pytest.mark.parametrize("factor", [0.5, 1.0, 1.3])
def test_two_sets_of_processes_are_unclear(factor: float) -> None:
    whole = timed(factor)
    two = session((timed(1, sides={side: runs[:2] for side, runs in whole.sides.items()}),))
    judgement = judge((two,))
    (row,) = judgement.benchmarks
    assert (row.verdict, row.ci95, row.why) == ("unclear", None, FEW_SETS)
    assert judgement.passed
    assert judgement.unclear("first") == (("m", "encode", None),)
    assert verdict(two, two) == {0.5: "better", 1.0: "same", 1.3: "suspect"}[factor]


def fake_measure(monkeypatch: pytest.MonkeyPatch, *factors: tuple[float, float]) -> list[Any]:
    """Returns sessions of given slowdown and noise in turn; the list collects the requests."""
    asked: list[Any] = []

    def measure(*arguments: Any, stage: Stage = "first", number: int = 0) -> Session:
        factor, noise = factors[number]
        asked.append((stage, arguments[4] if len(arguments) > 4 else None))
        return session((timed(factor, seed=3, noise=noise),), stage=stage)

    monkeypatch.setattr(ab, "measure", measure)
    return asked


@pytest.mark.parametrize(
    ("factors", "stages", "passed"),
    [
        ([(1.0, 0.02)], ["first"], True),
        ([(1.3, 0.02)] * 2, ["first", "repetition"], False),
        ([(1.3, 0.3), (1.3, 0.02), (1.3, 0.02), (1.3, 0.02)],
         ["first", "first", "first", "repetition"], False),
        ([(1.3, 0.9)] * 3, ["first"] * 3, True),  # still unclear, and named
        ([(1.3, 0.02), (1.3, 0.3), (1.3, 0.02), (1.3, 0.02)],
         ["first", "repetition", "repetition", "repetition"], False),
        ([(1.3, 0.02), (1.0, 0.02)], ["first", "repetition"], True),
    ],
)  # fmt: skip
def test_unclear_benchmarks_are_extended_and_suspect_ones_repeated(
    factors: Any, stages: list[str], passed: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked = fake_measure(monkeypatch, *factors)
    tree: Any = None
    judgement, sessions = ab.run(tmp_path, tree, tree, SETTINGS, 1.1, Reporter(quiet=True))
    assert [stage for stage, _ in asked] == stages
    assert all(keys == (("m", "encode", None),) for _, keys in asked[1:])
    assert judgement.passed == passed
    assert load_sessions(tmp_path) == sessions


@settings(CALM, max_examples=15)
@given(st.floats(0.75, 1.07), st.integers(0, 99))
def test_changes_within_the_threshold_never_fail(factor: float, seed: int) -> None:
    one = session((timed(factor, seed),))
    assert judge((one, again(one))).passed


@settings(CALM, max_examples=15)
@given(st.floats(1.2, 3), st.integers(0, 99))
def test_changes_far_beyond_the_threshold_always_fail(factor: float, seed: int) -> None:
    one = session((timed(factor, seed),))
    assert not judge((one, again(one))).passed
    assert judge((one, again(one)), threshold=4.0).passed


def test_a_threshold_must_be_above_one() -> None:
    with pytest.raises(UsageError, match="above 1"):
        judge((session(),), 1.0)


def test_an_error_of_the_head_is_a_failure_unless_the_base_has_it_too() -> None:
    gone: dict[str, Any] = {"sides": {}, "errors": {"head": "no such kernel"}}
    assert verdict(session((timed(1, **gone),))) == "failed"
    assert not judge((session((timed(1, **gone),)),)).passed
    gone["errors"]["base"] = "neither"
    assert verdict(session((timed(1, **gone),))) == "missing"
    only = timed(1.0).sides
    assert verdict(session((timed(1, sides={"head": only["head"]}),))) == "new"
    assert verdict(session((timed(1, sides={"base": only["base"]}),))) == "missing"


CRASH = {"head": "the process ended with code -9"}


def test_one_crash_of_the_head_is_repeated_before_it_counts() -> None:
    """Three of four processes of the head succeed."""
    whole = timed(1.0)
    sides = {**whole.sides, "head": whole.sides["head"][:3]}
    crashed = session((timed(1, sides=sides, errors=CRASH),))
    judgement = judge((crashed,))
    assert verdict(crashed) == "suspect"
    assert judgement.benchmarks[0].why == CRASH["head"]
    assert judgement.suspects == (("m", "encode", None),)
    assert verdict(crashed, again(session((whole,)))) == "not confirmed"
    assert judge((crashed, again(session((whole,))))).passed
    assert verdict(crashed, again(crashed)) == "failed"
    assert not judge((crashed, again(crashed))).passed
    slower = again(session((timed(1.5),)))
    assert verdict(crashed, slower) == "worse"


def test_a_crash_of_the_base_does_not_hide_a_failed_head() -> None:
    whole = timed(1.0)
    base = {"base": whole.sides["base"][:3], "again": whole.sides["again"]}
    errors = {**CRASH, "base": "the process ended with code -9"}
    assert verdict(session((timed(1, sides=base, errors=errors),))) == "failed"


def test_one_failure_to_load_a_model_is_repeated() -> None:
    load = Samples(model="m", phase="load", sides={}, errors=CRASH)
    whole = timed(1.0)
    sides = {**whole.sides, "head": whole.sides["head"][:3]}
    once = session((load, timed(1, sides=sides)))
    found = {each.phase: each.verdict for each in judge((once,)).benchmarks}
    assert found == {"load": "suspect", "encode": "same"}
    calm = again(session((whole,)))
    found = {each.phase: each.verdict for each in judge((once, calm)).benchmarks}
    assert found == {"load": "not confirmed", "encode": "same"}
    found = {each.phase: each.verdict for each in judge((once, again(once))).benchmarks}
    assert found == {"load": "failed", "encode": "same"}
    # It cannot be loaded at all.
    never = session((load,))
    assert verdict(never) == "failed"


def test_a_head_that_fails_before_the_repeated_benchmark_has_failed() -> None:
    slower = session((timed(1.5),))
    load = Samples(model="m", phase="load", sides={}, errors=CRASH)
    assert verdict(slower, again(session((load,)))) == "failed"


def test_one_crash_of_a_single_pair_is_repeated() -> None:
    gone: dict[str, Any] = {"sides": {}, "errors": CRASH}
    one = session((timed(1, **gone),))
    single = one.model_copy(update={"settings": SETTINGS.model_copy(update={"pairs": 1})})
    assert verdict(single) == "suspect"
    assert verdict(single, again(single)) == "failed"


def test_memory_is_judged_like_time() -> None:
    def peaks(head: float) -> Samples:
        sides: dict[Side, Any] = {
            side: tuple(((value * (1 + i / 1000),),) for i in range(4))
            for side, value in (("base", 4e8), ("again", 4e8), ("head", head))
        }
        return Samples(model="m", phase="memory", sides=sides)

    assert verdict(session((peaks(4.1e8),))) == "same"
    assert verdict(session((peaks(5e8),))) == "suspect"


def test_a_loss_of_accuracy_is_found() -> None:
    rng = np.random.default_rng(0)
    spread = rng.normal(0, 0.05, 60)
    spread -= spread.mean()
    for gains, wanted in (
        (spread - 0.01, "suspect"),  # large, whatever the interval says
        (np.full(60, -0.002), "suspect"),  # small, and of every answer
        (spread - 0.002, "same"),  # small, and of these scenes perhaps
        (np.full(60, -MIN_LOSS / 2), "same"),
        (np.zeros(60), "same"),
        (np.full(60, 0.01), "better"),
    ):
        assert verdict(session(answers=(answers(gains),))) == wanted
    assert MAX_LOSS < 0.01
    one = session(answers=(answers(spread - 0.01),))
    assert verdict(one, again(one)) == "worse"
    boom = session(answers=(answers(spread, head=(), errors={"head": "boom"}),))
    assert verdict(boom) == "suspect"  # a single process may have been killed by other work
    assert verdict(boom, again(boom)) == "failed"
    assert verdict(boom, again(session(answers=(answers(np.zeros(60)),)))) == "not confirmed"
    assert verdict(boom, again(one)) == "worse"


def test_the_table_and_the_notes_give_the_results() -> None:
    first = session((timed(1.3),), (answers(np.full(9, -0.01)),))
    judgement: Judgement = judge((first, again(first)))
    text = judgement_table(judgement).to_markdown()
    assert "m encode (worse)" in text
    assert "−1.00" in text
    said = "\n".join(notes((first, again(first)), judgement))
    assert "Noise floor" in said
    assert "with fewer than 5 sets it may cover less" in said
    enough = SETTINGS.model_copy(update={"pairs": 5})
    longer = first.model_copy(update={"settings": enough})
    assert "may cover less" not in "\n".join(notes((longer,), judgement))


@settings(CALM)
@given(st.floats(1e-3, 1e5))
def test_a_turn_has_a_bounded_number_of_calls(call_ms: float) -> None:
    calls = ab.calls_in_turn(call_ms, 20.0)
    assert 1 <= calls <= 50
    assert calls == 1 or calls * call_ms <= 8 * 20 + call_ms / 2
