from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.evaluation.comparison import (
    LEVEL,
    compare_models,
    corrected,
    holm,
    tie_groups,
    unshared_prompts,
)
from benchmarks.records.record import ComparisonRow
from mobilesam.errors import DataError


def table(
    rng: np.random.Generator,
    better: dict[str, float],
    n_images: int = 40,
    protocol: str = "box",
    reference: str = "ground-truth",
) -> pd.DataFrame:
    """Instances of several models; `better` is added to each one's IoU."""
    counts = rng.integers(1, 16, n_images)
    images = np.repeat(np.arange(n_images), counts)
    shared = 0.6 + rng.normal(0, 0.15, n_images)[images] + rng.normal(0, 0.1, len(images))
    parts = [
        pd.DataFrame(
            {
                "image_id": images,
                "annotation_id": np.arange(len(images)),
                "model": model,
                "protocol": protocol,
                "reference": reference,
                "iou": shared
                + bonus
                + rng.normal(0, 0.04, n_images)[images]
                + rng.normal(0, 0.05, len(images)),
                "score": 0.5,
            }
        )
        for model, bonus in better.items()
    ]
    return pd.concat(parts, ignore_index=True)


def made(a: str, b: str, p_adjusted: float) -> ComparisonRow:
    return ComparisonRow(
        dataset="d",
        protocol="box",
        reference="ground-truth",
        model_a=a,
        model_b=b,
        n_images=9,
        n_instances=99,
        difference=0.1,
        ci95=None,
        p_value=p_adjusted,
        p_adjusted=p_adjusted,
    )


def test_one_row_for_each_pair_protocol_and_reference() -> None:
    rng = np.random.default_rng(0)
    models = {"b": 0.0, "a": 0.1, "c": 0.0}
    rows = pd.concat(
        [
            table(rng, models),
            table(rng, models, protocol="center"),
            table(rng, models, reference="teacher:b"),
        ]
    )
    found = compare_models(rows, "coco:x")
    assert [(r.reference, r.protocol, r.model_a, r.model_b) for r in found] == [
        (reference, protocol, *pair)
        for reference, protocol in (
            ("ground-truth", "box"),
            ("ground-truth", "center"),
            ("teacher:b", "box"),
        )
        for pair in (("b", "a"), ("b", "c"), ("a", "c"))
        if reference != f"teacher:{pair[0]}"
    ]
    assert {row.dataset for row in found} == {"coco:x"}
    first = found[0]
    part = rows[(rows.protocol == "box") & (rows.reference == "ground-truth")]
    means = part.groupby("model")["iou"].mean()
    assert first.difference == pytest.approx(means["b"] - means["a"])
    assert first.n_images == 40
    assert first.n_instances == len(part) / 3
    assert first.ci95 is not None
    assert first.ci95[0] < first.difference < first.ci95[1] < 0
    assert first.p_adjusted < 1e-6


def test_the_family_of_the_correction_is_a_reference() -> None:
    rng = np.random.default_rng(1)
    models = {"a": 0.0, "b": 0.005, "c": 0.01}
    truth = pd.concat([table(rng, models), table(rng, models, protocol="center")])
    teacher = table(rng, models, reference="teacher:a")
    found = compare_models(pd.concat([truth, teacher]), "d")
    assert found == compare_models(truth, "d") + compare_models(teacher, "d")
    ours = [row for row in found if row.reference == "ground-truth"]
    assert tuple(row.p_adjusted for row in ours) == holm([row.p_value for row in ours])
    assert len(ours) == 6
    assert any(row.p_adjusted > row.p_value for row in ours)


def test_the_order_of_rows_and_of_models_changes_nothing_but_signs() -> None:
    rows = table(np.random.default_rng(2), {"a": 0.0, "b": 0.02})
    (one,) = compare_models(rows, "d")
    (two,) = compare_models(rows.sample(frac=1, random_state=0).sort_values("model"), "d")
    (other,) = compare_models(rows.iloc[::-1], "d")
    assert two == one
    assert (other.model_a, other.model_b) == ("b", "a")
    assert other.difference == pytest.approx(-one.difference)
    assert other.p_value == pytest.approx(one.p_value)


def test_a_model_and_its_copy_do_not_differ() -> None:
    rows = table(np.random.default_rng(3), {"a": 0.0})
    (row,) = compare_models(pd.concat([rows, rows.assign(model="copy")]), "d")
    assert (row.difference, row.ci95, row.p_value, row.p_adjusted) == (0, (0, 0), 1, 1)


def test_copies_of_a_model_change_no_verdict() -> None:
    rng = np.random.default_rng(3)
    rows = table(rng, {"a": 0.0, "b": 0.005, "c": 0.01})
    alone = compare_models(rows, "d")
    copies = [rows[rows["model"] == "a"].assign(model=f"copy-{n}") for n in range(3)]
    found = {(r.model_a, r.model_b): r.p_adjusted for r in compare_models(
        pd.concat([rows, *copies]), "d")}  # fmt: skip
    for row in alone:
        assert found[row.model_a, row.model_b] == row.p_adjusted
    assert {p for pair, p in found.items() if {*pair} <= {"a", "copy-0", "copy-1", "copy-2"}} == {1}
    assert {p for pair, p in found.items() if pair[0] == "c" and pair[1] != "b"} == {
        found["a", "c"]
    }


def test_pairs_of_other_runs_change_no_verdict() -> None:
    rng = np.random.default_rng(3)
    known = compare_models(table(rng, {"a": 0.0, "b": 0.005, "c": 0.01}), "d")
    others = compare_models(table(rng, {"a": 0.0, "e": 0.0, "f": 0.002}), "d")
    found = corrected(others, known)
    assert found[: len(known)] == known
    assert found[len(known) :] == others


def test_only_prompts_that_both_answered_are_compared() -> None:
    rows = table(np.random.default_rng(4), {"a": 0.0, "b": 0.0, "c": 0.0})
    gone = (rows["model"] == "b") & (rows["image_id"] < 10)
    kept = rows[~gone]
    found = {(r.model_a, r.model_b): r for r in compare_models(kept, "d")}
    whole = {(r.model_a, r.model_b): r for r in compare_models(rows, "d")}
    both = rows[rows["image_id"] >= 10]
    assert found["a", "b"].n_images == 30
    assert found["a", "b"].n_instances == len(both) / 3
    means = both.groupby("model")["iou"].mean()
    assert found["a", "b"].difference == pytest.approx(means["a"] - means["b"])
    assert found["a", "c"].difference == whole["a", "c"].difference
    (line,) = unshared_prompts(kept)
    n = len(rows) // 3
    assert line.startswith(f"b answered {len(both) // 3} of {n} prompts of box vs ground-truth")
    assert unshared_prompts(rows) == ()


def test_models_without_a_common_prompt_have_no_row() -> None:
    rows = table(np.random.default_rng(5), {"a": 0.0, "b": 0.0})
    a, b = rows[rows["model"] == "a"], rows[rows["model"] == "b"]
    assert compare_models(pd.concat([a, b.assign(image_id=b["image_id"] + 1000)]), "d") == ()
    assert compare_models(a, "d") == ()
    assert compare_models(rows.iloc[:0], "d") == ()


def test_two_images_are_too_few_for_a_difference() -> None:
    (row,) = compare_models(table(np.random.default_rng(6), {"a": 0, "b": 0.3}, n_images=2), "d")
    assert row.ci95 is None
    assert row.p_value == 1


def test_what_cannot_be_compared_is_named() -> None:
    rows = table(np.random.default_rng(7), {"a": 0.0, "b": 0.0})
    with pytest.raises(DataError, match=r"no column reference, iou; make"):
        compare_models(rows.drop(columns=["iou", "reference"]), "d")
    with pytest.raises(DataError, match=rf"row {len(rows)} \(image 0, annotation 0, a, box vs"):
        compare_models(pd.concat([rows, rows.iloc[:1]]), "d")
    rows.loc[5, "iou"] = np.nan
    with pytest.raises(DataError, match=r"no IoU in row 5 \(image"):
        compare_models(rows, "d")


def test_holm_by_hand() -> None:
    assert holm([0.04, 0.01, 0.03, 0.005]) == pytest.approx((0.06, 0.03, 0.06, 0.02))
    assert holm([0.9, 0.6]) == (1, 1)
    assert holm([]) == ()


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
@settings(deadline=None, derandomize=True)
def test_holm_keeps_the_order_and_lies_between_none_and_bonferroni(p_values: list[float]) -> None:
    adjusted = holm(p_values)
    for p, q in zip(p_values, adjusted, strict=True):
        assert p <= q <= min(1, p * len(p_values)) or q == pytest.approx(p)
    for i, j in combinations(range(len(p_values)), 2):
        if p_values[i] < p_values[j]:
            assert adjusted[i] <= adjusted[j]


def test_holm_keeps_the_rate_of_any_false_positive() -> None:
    """Twenty tests, five of them of real effects: at most 5 % of tables have a false positive."""
    rng = np.random.default_rng(0)
    trials = 4000
    p = rng.random((trials, 20))
    p[:, :5] = 1e-9
    corrected = sum(min(holm(row.tolist())[5:]) <= LEVEL for row in p)
    uncorrected = int((p[:, 5:].min(axis=1) <= LEVEL).sum())
    assert 0.035 <= corrected / trials <= 0.06
    assert uncorrected / trials > 0.5


@pytest.mark.slow
def test_equal_models_make_a_table_without_differences() -> None:
    rng = np.random.default_rng(9)
    trials = 150
    corrected = uncorrected = 0
    for _ in range(trials):
        found = compare_models(table(rng, dict.fromkeys("abcd", 0.0), n_images=30), "d")
        corrected += any(row.p_adjusted <= LEVEL for row in found)
        uncorrected += any(row.p_value <= LEVEL for row in found)
    assert corrected / trials <= 0.08
    assert uncorrected / trials >= 0.12


def test_a_real_difference_survives_the_correction_of_a_large_table() -> None:
    """What a p-value counted from resamples cannot do: 1 / 2000 times 120 pairs is 0.06."""
    rng = np.random.default_rng(11)
    models = {f"m{i}": 0.0 for i in range(15)} | {"good": 0.06}
    found = compare_models(table(rng, models, n_images=60), "d")
    assert len(found) == 120
    good = [row for row in found if "good" in (row.model_a, row.model_b)]
    assert all(row.p_adjusted <= 0.01 for row in good)
    assert sum(row.p_adjusted <= LEVEL for row in found) <= len(good) + 1


SCORES = {"a": 0.9, "b": 0.8, "c": 0.7}


@pytest.mark.parametrize(
    ("different", "letters"),
    [
        ([], {"a": "a", "b": "a", "c": "a"}),
        (["ab", "ac", "bc"], {"a": "a", "b": "b", "c": "c"}),
        (["ac"], {"a": "a", "b": "ab", "c": "b"}),
        (["ab"], {"a": "a", "b": "b", "c": "ab"}),
        (["ab", "ac"], {"a": "a", "b": "b", "c": "b"}),
    ],
)
def test_letters_by_hand(different: list[str], letters: dict[str, str]) -> None:
    rows = [made(a, b, 0.01 if a + b in different else 0.2) for a, b in ("ab", "ac", "bc")]
    found = tie_groups(SCORES, rows)
    assert found == letters
    assert list(found) == ["a", "b", "c"]


def test_the_level_itself_counts_as_a_difference() -> None:
    assert tie_groups({"a": 1, "b": 0}, [made("b", "a", 0.05)]) == {"a": "a", "b": "b"}


@given(data=st.data(), n=st.integers(1, 7))
@settings(deadline=None, derandomize=True, max_examples=150)
def test_models_share_a_letter_exactly_where_they_tie(data: Any, n: int) -> None:
    names = [f"m{i}" for i in range(n)]
    scores = {name: data.draw(st.sampled_from([0.1, 0.2, 0.3, 0.4])) for name in names}
    differ = {pair: data.draw(st.booleans()) for pair in combinations(names, 2)}
    rows = [made(a, b, 0.001 if value else 0.5) for (a, b), value in differ.items()]
    letters = tie_groups(scores, rows)
    assert set(letters) == set(names)
    assert all(letters.values())
    assert letters[next(iter(letters))].startswith("a")
    for (a, b), value in differ.items():
        assert bool(set(letters[a]) & set(letters[b])) is not value
    used = {letter for text in letters.values() for letter in text}
    members = [frozenset(m for m in names if letter in letters[m]) for letter in sorted(used)]
    assert not any(x < y for x in members for y in members)
    assert sorted(used) == list("abcdefghijklmnopqrstuvwxyz"[: len(used)])


def test_a_pair_that_was_not_compared_is_no_tie() -> None:
    with pytest.raises(DataError, match="a and c were not compared"):
        tie_groups(SCORES, [made("a", "b", 0.5), made("b", "c", 0.5)])
    assert tie_groups({}, []) == {}
    assert tie_groups({"only": 0.4}, []) == {"only": "a"}
