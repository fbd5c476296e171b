"""Facts, their comparison with a baseline, and its file."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from guard_settings import CALM
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.regression.gate import FLOAT_TOLERANCE, array_facts, fingerprint
from benchmarks.regression.snapshot import (
    Baseline,
    Comparison,
    Fact,
    compare_facts,
    load_baseline,
    merged,
    save_baseline,
)
from mobilesam.errors import DataError, UsageError

FLOATS = st.floats(-1e6, 1e6)
VALUES = st.one_of(st.integers(), st.text(max_size=5), st.tuples(FLOATS, FLOATS))
FACTS = st.lists(
    st.builds(
        Fact,
        subject=st.sampled_from(["m", "n"]),
        what=st.sampled_from(["x", "y"]),
        value=VALUES,
        tolerance=st.floats(0, 1),
    ),
    unique_by=lambda fact: (fact.subject, fact.what),
)


def fact(value: int | str | tuple[float, ...], tolerance: float = 0.0, what: str = "w") -> Fact:
    return Fact(subject="m", what=what, value=value, tolerance=tolerance)


@settings(CALM, max_examples=30)
@given(FACTS)
def test_facts_are_the_same_as_themselves(facts: list[Fact]) -> None:
    assert {each.verdict for each in compare_facts(facts, facts)} <= {"same"}


@settings(CALM, max_examples=30)
@given(FACTS, FACTS)
def test_every_fact_has_one_verdict(before: list[Fact], now: list[Fact]) -> None:
    found = compare_facts(before, now)
    keys = [(each.fact.subject, each.fact.what) for each in found]
    assert len(set(keys)) == len(keys)
    assert set(keys) == {(fact.subject, fact.what) for fact in (*before, *now)}
    assert sum(each.verdict == "new" for each in found) == len(found) - len(before)
    assert sum(each.verdict == "missing" for each in found) == len(found) - len(now)


@settings(CALM, max_examples=20)
@given(FACTS)
def test_a_saved_baseline_is_loaded_unchanged(facts: list[Fact]) -> None:
    baseline = Baseline(cpu="c", libraries={"torch": "1"}, facts=tuple(facts))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "gate.json"
        save_baseline(baseline, path)
        assert load_baseline(path) == baseline
        n_lines = len(path.read_text().split("\n")) - 1
    assert n_lines == 9 + max(1, len(facts))  # a fact a line


@pytest.mark.parametrize(
    ("before", "now", "verdict"),
    [
        (fact(3), fact(3), "same"),
        (fact(3), fact(4), "changed"),
        (fact("a"), fact("b"), "changed"),
        (fact((1.0, 2.0), 0.1), fact((1.09, 1.91), 0.1), "same"),
        (fact((1.0, 2.0), 0.1), fact((1.0, 2.11), 0.1), "changed"),
        # The tolerance of the baseline counts.
        (fact((1.0,), 0.1), fact((9.0,), 10.0), "changed"),
        (fact((1.0,)), fact((1.0,)), "same"),
        (fact((1.0,)), fact((1.0 + 1e-9,)), "changed"),
        (fact((1.0,), 1.0), fact((1.0, 1.0), 1.0), "changed"),
        (fact((1.0,), 1.0), fact(1), "changed"),
        (None, fact(3), "new"),
        (fact(3), None, "missing"),
    ],
)
def test_verdicts(before: Fact | None, now: Fact | None, verdict: str) -> None:
    assert Comparison(before, now).verdict == verdict


def test_a_baseline_keeps_facts_of_other_subjects() -> None:
    before = (fact(1), Fact(subject="n", what="w", value=2))
    assert merged(before, (fact(5),), {"m"}) == (fact(5), before[1])


def test_a_missing_or_invalid_baseline_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--update"):
        load_baseline(tmp_path / "none.json")
    (tmp_path / "bad.json").write_text('{"facts": 3}')
    with pytest.raises(DataError, match=r"bad\.json is not a baseline"):
        load_baseline(tmp_path / "bad.json")


def test_a_fingerprint_changes_with_one_value_and_not_with_rounding() -> None:
    rng = np.random.default_rng(0)
    array = rng.normal(3, 2, (1, 20, 50)).astype(np.float32)

    def same(other: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> bool:
        pairs = zip(array_facts("m", "a", array), array_facts("m", "a", other), strict=True)
        return all(Comparison(a, b).verdict == "same" for a, b in pairs)

    rounded = array * (1 + rng.uniform(-1e-5, 1e-5, array.shape)).astype(np.float32)
    assert same(rounded)
    for change in (1.0, -1.0):
        one = array.copy()
        one[0, 7, 31] += change
        assert not same(one)
    assert not same(array[:, ::-1].copy())
    assert not same(array.reshape(1, 50, 20))
    assert fingerprint(array)[:2] == pytest.approx((array.mean(), np.sqrt((array**2).mean())))
    assert FLOAT_TOLERANCE < 0.01
