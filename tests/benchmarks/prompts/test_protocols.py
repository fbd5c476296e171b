"""Protocols by name, references, and which candidate is scored."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.prompts.protocols import (
    Query,
    check_references,
    click_sequence,
    disturbance,
    find_protocols,
    listed_protocols,
    reference_model,
    select_candidate,
)
from mobilesam.errors import UsageError


def test_clicks_include_all_smaller_numbers_of_clicks() -> None:
    found = find_protocols(["clicks-3", "box"])
    assert [each.name for each in found] == ["clicks-1", "clicks-2", "clicks-3", "box"]
    assert [each.query.clicks for each in found] == [1, 2, 3, 1]


def test_clicks_until_a_ceiling() -> None:
    found = find_protocols(["noc", "noc-multi"], ceiling=3)
    assert [each.name for each in found] == [
        *(f"clicks-{n}" for n in (1, 2, 3)), *(f"clicks-multi-{n}" for n in (1, 2, 3)),
    ]  # fmt: skip
    assert found[:3] == find_protocols(["clicks-3"])
    assert [(each.query, each.selection) for each in found[3:]] == [
        (Query("center", n, multimask=True), "score") for n in (1, 2, 3)
    ]
    assert [each.n_clicks for each in found] == [1, 2, 3] * 2
    assert len(find_protocols(["noc"])) == 20


def test_steps_of_long_sequences_are_not_listed() -> None:
    names = [each.name for each in find_protocols(["box", "clicks-5", "noc-multi"], ceiling=12)]
    assert listed_protocols(names) == (
        "box", *(f"clicks-{n}" for n in range(1, 6)),
        *(f"clicks-multi-{n}" for n in (1, 3, 5, 10, 12)),
    )  # fmt: skip
    assert click_sequence("clicks-multi-12") == ("clicks-multi", 12)
    assert click_sequence("random-3") is None


def test_the_first_click_is_the_centre() -> None:
    (center,), (clicks,) = find_protocols(["center"]), find_protocols(["clicks-1"])
    assert center.query == clicks.query == Query("center")


def test_one_random_point_is_ambiguous_and_several_are_not() -> None:
    one, three = find_protocols(["random-1", "random-3"])
    assert (one.query.multimask, one.selection) == (True, "score")
    assert (three.query.multimask, three.selection) == (False, "only")


@pytest.mark.parametrize(
    "name", ["boxx", "random-0", "random-", "clicks-x", "clicks-101", "two-point-0", "two-point--5"]
)
def test_an_invalid_name_is_rejected(name: str) -> None:
    with pytest.raises(UsageError):
        find_protocols([name])


def test_the_clean_prompt_comes_before_a_disturbed_one() -> None:
    found = find_protocols(["box-jitter-5", "box-jitter-2.5", "point-offset-100", "mask-dilated"])
    assert [(each.name, each.clean) for each in found] == [
        ("box", None),
        ("box-jitter-5", "box"),
        ("box-jitter-2.5", "box"),
        ("center", None),
        ("point-offset-100", "center"),
        ("mask", None),
        ("mask-dilated", "mask"),
    ]
    assert disturbance("box-jitter-2.5") == ("box-jitter", 2.5)
    assert disturbance("box") is None


@pytest.mark.parametrize("name", ["box-jitter-0", "box-jitter-101", "point-offset-x"])
def test_a_percentage_out_of_range_is_named(name: str) -> None:
    with pytest.raises(UsageError, match=f"'{name}'; its percentage is a number from 1 to 100"):
        find_protocols([name])


def test_a_misspelt_name_gives_a_suggestion() -> None:
    with pytest.raises(UsageError, match="did you mean center-oracle"):
        find_protocols(["center-oracel"])


def test_a_reference_model_never_selects_by_iou_with_itself() -> None:
    (oracle,) = find_protocols(["center-oracle"])
    assert oracle.for_reference.selection == "score"
    (box,) = find_protocols(["box"])
    assert box.for_reference == box


def test_references() -> None:
    assert check_references(["ground-truth", "teacher:a", "ground-truth"]) == (
        "ground-truth",
        "teacher:a",
    )
    assert reference_model("teacher:a") == "a"
    assert reference_model("ground-truth") is None
    for wrong in ("truth", "teacher:", "teacher"):
        with pytest.raises(UsageError):
            check_references([wrong])


def test_the_candidate_that_is_scored() -> None:
    scores = np.array([0.1, 0.9, 0.5], np.float32)
    ious = [0.2, 0.3, 0.8]
    assert select_candidate("only", scores, ious) == 0
    assert select_candidate("score", scores, ious) == 1
    assert select_candidate("oracle", scores, ious) == 2
