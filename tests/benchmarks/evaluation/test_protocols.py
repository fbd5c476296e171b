"""Protocols by name, references, and which candidate is scored."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.prompts.protocols import Question, check_references, find, pick, teacher_of
from mobilesam.errors import UsageError


def test_clicks_bring_all_smaller_budgets() -> None:
    found = find(["clicks-3", "box"])
    assert [each.name for each in found] == ["clicks-1", "clicks-2", "clicks-3", "box"]
    assert [each.question.clicks for each in found] == [1, 2, 3, 1]


def test_the_first_click_is_the_centre() -> None:
    (center,), (clicks,) = find(["center"]), find(["clicks-1"])
    assert center.question == clicks.question == Question("center")


def test_one_random_point_is_ambiguous_and_several_are_not() -> None:
    one, three = find(["random-1", "random-3"])
    assert (one.question.multimask, one.pick) == (True, "score")
    assert (three.question.multimask, three.pick) == (False, "only")


@pytest.mark.parametrize(
    "name", ["boxx", "random-0", "random-", "clicks-x", "clicks-21", "two-point-0", "two-point--5"]
)
def test_a_name_that_cannot_be_meant_is_refused(name: str) -> None:
    with pytest.raises(UsageError):
        find([name])


def test_a_misspelt_name_brings_a_suggestion() -> None:
    with pytest.raises(UsageError, match="did you mean center-oracle"):
        find(["center-oracel"])


def test_a_teacher_cannot_choose_by_a_reference_that_it_is_itself() -> None:
    (oracle,) = find(["center-oracle"])
    assert oracle.as_teacher.pick == "score"
    (box,) = find(["box"])
    assert box.as_teacher == box


def test_references() -> None:
    assert check_references(["ground-truth", "teacher:a", "ground-truth"]) == (
        "ground-truth",
        "teacher:a",
    )
    assert teacher_of("teacher:a") == "a"
    assert teacher_of("ground-truth") is None
    for wrong in ("truth", "teacher:", "teacher"):
        with pytest.raises(UsageError):
            check_references([wrong])


def test_the_candidate_that_is_scored() -> None:
    scores = np.array([0.1, 0.9, 0.5], np.float32)
    ious = [0.2, 0.3, 0.8]
    assert pick("only", scores, ious) == 0
    assert pick("score", scores, ious) == 1
    assert pick("oracle", scores, ious) == 2
