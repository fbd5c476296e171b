"""One model's turn: every way in which it can go wrong gives a row."""

from __future__ import annotations

import sys
import types
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest

from baselines.boundary import AdapterError
from baselines.dummy import DummySegmenter
from baselines.interface import WeightsInfo
from baselines.options import ModelOptions
from baselines.registry import ModelEntry
from benchmarks.config.model_resolution import ResolvedModel
from benchmarks.datasets.dataset import Sample
from benchmarks.debugging import debugging
from benchmarks.evaluation.run_model import Trials, malformed, take_turn
from benchmarks.records.record import Failure, Status, WeightsRow
from mobilesam.errors import DataError

Row = tuple[Status, str | None]


class _OwnError(Exception):
    """A plugin's own."""


MODEL = ResolvedModel(
    ModelEntry("told", "turn_doubles:build", "a double"),
    ModelOptions("told"),
    WeightsRow(kind="none"),
)


@pytest.fixture
def doubles(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    module = types.ModuleType("turn_doubles")
    module.build = lambda options: DummySegmenter(options.name, {})  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module


def turn(model: ResolvedModel, error: Exception | None = None) -> tuple[Row, list[Failure]]:
    def blank(status: Status, why: str) -> Row:
        return status, why

    def measure(segmenter: Any) -> tuple[Row, list[Failure]]:
        if error is not None:
            raise error
        return ("ok", segmenter.info.name), []

    return take_turn(model, "stage", blank, measure)


def failed(why: str) -> tuple[Row, list[Failure]]:
    return ("error", why), [Failure(stage="stage", culprit="told", why=why)]


@pytest.mark.usefixtures("doubles")
def test_a_good_model_has_the_row_that_was_measured() -> None:
    assert turn(MODEL) == (("ok", "told"), [])


@pytest.mark.usefixtures("doubles")
def test_unusable_weights_are_an_error_that_planning_has_reported() -> None:
    assert turn(replace(MODEL, error="truncated")) == (("error", "truncated"), [])


@pytest.mark.usefixtures("doubles")
@pytest.mark.parametrize(
    ("why", "said"), [("no network", "no network"), (None, "it was given none")]
)
def test_random_weights_have_no_accuracy(why: str | None, said: str) -> None:
    model = replace(MODEL, weights=WeightsRow(kind="random", why=why))
    assert turn(model) == (("skipped", f"no accuracy from random weights: {said}"), [])


def test_a_model_that_turns_out_to_be_random_is_an_error(doubles: types.ModuleType) -> None:
    def build(options: ModelOptions) -> DummySegmenter:
        model = DummySegmenter(options.name, {})
        model.info = replace(model.info, weights=WeightsInfo("random"))
        return model

    doubles.build = build  # type: ignore[attr-defined]
    assert turn(MODEL) == failed("it was built with random weights, which have no accuracy")


@pytest.mark.usefixtures("doubles")
@pytest.mark.parametrize(
    ("error", "why"),
    [
        (AdapterError("RuntimeError: out of colours"), "RuntimeError: out of colours"),
        (DataError("mend it"), "mend it"),
    ],
)
def test_a_model_that_fails_is_an_error_with_its_text(error: Exception, why: str) -> None:
    assert turn(MODEL, error) == failed(why)


def test_a_model_that_cannot_be_built_is_an_error(doubles: types.ModuleType) -> None:
    del doubles.build
    (status, why), failures = turn(MODEL)
    assert status == "error"
    assert "turn_doubles:build" in (why or "")
    assert len(failures) == 1


@pytest.mark.parametrize("error", [EOFError(), cv2.error("x"), KeyError("y"), _OwnError("z")])
def test_whatever_building_raises_is_an_error_of_the_model(
    doubles: types.ModuleType, error: Exception
) -> None:
    def build(options: ModelOptions) -> DummySegmenter:
        raise error

    doubles.build = build  # type: ignore[attr-defined]
    (status, why), (failure,) = turn(MODEL)
    assert status == "error"
    assert (why or "").startswith(f"{type(error).__name__}: ")
    assert (why or "").endswith("(in build)")
    assert failure.why == why


def test_what_is_no_model_is_refused(doubles: types.ModuleType) -> None:
    doubles.build = lambda _: {"not": "a model"}  # type: ignore[attr-defined]
    (status, why), _ = turn(MODEL)
    assert (status, why) == (
        "error",
        "turn_doubles:build gave a dict for told; wanted a Segmenter with a ModelInfo as `info`",
    )


@pytest.mark.usefixtures("doubles")
def test_an_error_of_the_suite_itself_is_not_caught() -> None:
    with pytest.raises(AttributeError, match="no such thing"):
        turn(MODEL, AttributeError("no such thing"))


@pytest.mark.usefixtures("doubles")
def test_the_traceback_of_a_failure_is_shown_where_that_is_wanted(
    capsys: pytest.CaptureFixture[str],
) -> None:
    turn(MODEL, AdapterError("RuntimeError: out of colours"))
    assert capsys.readouterr().err == ""
    with debugging(wanted=True):
        turn(MODEL, AdapterError("RuntimeError: out of colours"))
    told = capsys.readouterr().err
    assert told.startswith("Traceback (most recent call last)")
    assert "raise error" in told
    with debugging(wanted=False):
        turn(MODEL, AdapterError("RuntimeError: out of colours"))
    assert capsys.readouterr().err == ""


def trials_of(outcomes: str, stop: bool = False) -> Trials:
    """Of a model that answers (`+`) or fails at (a letter, which it says) one image a character."""
    trials = Trials("told", "stage", stop=stop)
    for number, outcome in enumerate(outcomes):
        if outcome == "+":
            trials.answered()
        else:
            sample = Sample(number, f"{number}.png", np.zeros((1, 1, 3), np.uint8), ())
            trials.failed(sample, DataError(outcome))
    return trials


@pytest.mark.parametrize(
    ("outcomes", "why"),
    [
        ("", None),
        ("+", None),
        ("+aaaaaaaaa", None),
        ("aaaa+", None),
        ("aaaaa+", "fails at each of the first 5 images: a"),
        ("a", "fails at its only image: a"),
        ("aba", "fails at each of the first 3 images: a; b"),
        ("abcdefgh", "fails at each of the first 5 images: a; b; c; d; e"),
    ],
)
def test_only_what_fails_at_each_of_the_first_images_fails_the_model(
    outcomes: str, why: str | None
) -> None:
    found = trials_of(outcomes).attempts
    assert found.broken == why
    n_failed = len(outcomes.replace("+", ""))
    assert len(found.listed("told")) == (n_failed if why is None else 1)
    for cut in range(len(outcomes) + 1):  # the same, wherever a dataset is cut
        first, second = outcomes[:cut], outcomes[cut:]
        both = trials_of(first).attempts.plus(trials_of(second).attempts, 100)
        assert both.broken == why
        assert (both.n_answered, both.n_failed) == (found.n_answered, found.n_failed)


def test_a_broken_model_is_given_up_after_the_first_images() -> None:
    for outcomes in ("", "aaaa", "aaaa+bbbbbb", "+aaaaaa"):
        assert not trials_of(outcomes, stop=True).given_up
    assert trials_of("aabab", stop=True).given_up
    assert not trials_of("aabab", stop=False).given_up  # in a part of a dataset


@pytest.mark.usefixtures("doubles")
def test_ctrl_c_is_no_failure_of_the_model() -> None:
    with pytest.raises(KeyboardInterrupt):
        turn(MODEL, KeyboardInterrupt())  # type: ignore[arg-type]


def test_malformed_annotations_are_failures_told_or_counted() -> None:
    failures = malformed("coco:x", {"crowd": 4, "malformed": 5}, ("a", "b"))
    assert [each.why for each in failures] == [
        "a",
        "b",
        "3 more malformed annotations were left out",
    ]
    assert malformed("coco:x", {"crowd": 4, "malformed": 0}, ()) == []
