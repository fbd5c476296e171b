"""One model's turn: every way in which it can go wrong gives a row."""

from __future__ import annotations

import sys
import types
from dataclasses import replace
from typing import Any

import pytest

from baselines.dummy import DummySegmenter
from baselines.interface import WeightsInfo
from baselines.options import ModelOptions
from baselines.registry import ModelEntry
from benchmarks.model_pass import malformed, take_turn
from benchmarks.planning import PlannedModel
from benchmarks.records import Failure, Status, WeightsRow
from mobilesam.errors import DataError

Row = tuple[Status, str | None]
MODEL = PlannedModel(
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


def turn(model: PlannedModel, error: Exception | None = None) -> tuple[Row, list[Failure]]:
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
        (RuntimeError("out of colours"), "RuntimeError: out of colours"),
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
