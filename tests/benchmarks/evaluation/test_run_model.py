"""Running one model: errors become results with a reason, reading and scoring overlap with it."""

from __future__ import annotations

import sys
import threading
import time
import types
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from baselines.boundary import AdapterError
from baselines.dummy import DummySegmenter
from baselines.interface import ModelOptions, WeightsInfo
from baselines.registry import ModelEntry
from benchmarks.config.model_resolution import ResolvedModel
from benchmarks.datasets.dataset import Sample
from benchmarks.debugging import debugging
from benchmarks.evaluation.run_model import (
    ANSWERED,
    Attempts,
    ModelResult,
    Prefetcher,
    Stopwatch,
    build_trained,
    failed_attempt,
    malformed_annotation_failures,
    run_model,
)
from benchmarks.records.record import Failure, Status, WeightsRow
from benchmarks.records.result_cache import ResultCache
from mobilesam.errors import DataError

Row = tuple[Status, str | None]


class _OwnError(Exception):
    """An error class of a plugin."""


MODEL = ResolvedModel(
    ModelEntry("double", "run_doubles:build", "a double"),
    ModelOptions("double"),
    WeightsRow(kind="none"),
)


@pytest.fixture
def doubles(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    module = types.ModuleType("run_doubles")
    module.build = lambda options: DummySegmenter(options.name, {})  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module


def run(model: ResolvedModel, error: Exception | None = None) -> tuple[Row, list[Failure]]:
    def measure(segmenter: Any) -> ModelResult:
        if error is not None:
            raise error
        return ModelResult(why=segmenter.info.name)

    found, _ = run_model(model, ModelResult, measure, build_trained)
    return (found.status, found.why), found.failures_of(model, "stage")


def failed(why: str) -> tuple[Row, list[Failure]]:
    return ("error", why), [Failure(stage="stage", culprit="double", why=why)]


@pytest.mark.usefixtures("doubles")
def test_a_good_model_has_the_measured_result() -> None:
    assert run(MODEL) == (("ok", "double"), [])


@pytest.mark.usefixtures("doubles")
def test_unusable_weights_are_an_error_that_was_reported_before() -> None:
    assert run(replace(MODEL, error="truncated")) == (("error", "truncated"), [])


@pytest.mark.usefixtures("doubles")
@pytest.mark.parametrize(
    ("why", "said"), [("no network", "no network"), (None, "it was given none")]
)
def test_random_weights_have_no_accuracy(why: str | None, said: str) -> None:
    model = replace(MODEL, weights=WeightsRow(kind="random", why=why))
    assert run(model) == (("skipped", f"no accuracy from random weights: {said}"), [])


def test_a_model_built_with_random_weights_is_an_error(doubles: types.ModuleType) -> None:
    def build(options: ModelOptions) -> DummySegmenter:
        model = DummySegmenter(options.name, {})
        model.info = replace(model.info, weights=WeightsInfo("random"))
        return model

    doubles.build = build  # type: ignore[attr-defined]
    assert run(MODEL) == failed("it was built with random weights, which have no accuracy")


@pytest.mark.usefixtures("doubles")
@pytest.mark.parametrize(
    ("error", "why"),
    [
        (AdapterError("RuntimeError: out of colours"), "RuntimeError: out of colours"),
        (DataError("repair it"), "repair it"),
    ],
)
def test_a_model_that_fails_is_an_error_with_its_text(error: Exception, why: str) -> None:
    assert run(MODEL, error) == failed(why)


def test_a_model_that_cannot_be_built_is_an_error(doubles: types.ModuleType) -> None:
    del doubles.build
    (status, why), failures = run(MODEL)
    assert status == "error"
    assert "run_doubles:build" in (why or "")
    assert len(failures) == 1


@pytest.mark.parametrize("error", [EOFError(), cv2.error("x"), KeyError("y"), _OwnError("z")])
def test_errors_of_building_are_errors_of_the_model(
    doubles: types.ModuleType, error: Exception
) -> None:
    def build(options: ModelOptions) -> DummySegmenter:
        raise error

    doubles.build = build  # type: ignore[attr-defined]
    (status, why), (failure,) = run(MODEL)
    assert status == "error"
    assert (why or "").startswith(f"{type(error).__name__}: ")
    assert (why or "").endswith("(in build)")
    assert failure.why == why


def test_objects_that_are_not_models_are_refused(doubles: types.ModuleType) -> None:
    doubles.build = lambda _: {"not": "a model"}  # type: ignore[attr-defined]
    (status, why), _ = run(MODEL)
    assert (status, why) == (
        "error",
        "run_doubles:build gave a dict for double; wanted a Segmenter with a ModelInfo as `info`",
    )


@pytest.mark.usefixtures("doubles")
def test_an_error_of_the_suite_itself_is_not_caught() -> None:
    with pytest.raises(AttributeError, match="no such thing"):
        run(MODEL, AttributeError("no such thing"))


@pytest.mark.usefixtures("doubles")
def test_tracebacks_of_failures_are_shown_with_debug(
    capsys: pytest.CaptureFixture[str],
) -> None:
    run(MODEL, AdapterError("RuntimeError: out of colours"))
    assert capsys.readouterr().err == ""
    with debugging(wanted=True):
        run(MODEL, AdapterError("RuntimeError: out of colours"))
    shown = capsys.readouterr().err
    assert shown.startswith("Traceback (most recent call last)")
    assert "raise error" in shown
    with debugging(wanted=False):
        run(MODEL, AdapterError("RuntimeError: out of colours"))
    assert capsys.readouterr().err == ""


def attempts_of(outcomes: str) -> Attempts:
    """Attempts of a model that answers (`+`) or fails on (a letter, its error) each image."""
    attempts = Attempts()
    for number, outcome in enumerate(outcomes):
        sample = Sample(number, f"{number}.png", np.zeros((1, 1, 3), np.uint8), ())
        failed = failed_attempt("double", "stage", sample, DataError(outcome))
        attempts = attempts.plus(ANSWERED if outcome == "+" else failed)
    return attempts


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
def test_a_model_is_broken_if_it_fails_on_each_of_the_first_images(
    outcomes: str, why: str | None
) -> None:
    found = attempts_of(outcomes)
    assert found.broken == why
    n_failed = len(outcomes.replace("+", ""))
    assert len(found.listed("double")) == (n_failed if why is None else 1)
    for cut in range(len(outcomes) + 1):  # the same for all shard sizes
        first, second = outcomes[:cut], outcomes[cut:]
        both = attempts_of(first).plus(attempts_of(second), 100)
        assert both.broken == why
        assert (both.n_answered, both.n_failed) == (found.n_answered, found.n_failed)


def test_a_model_can_be_stopped_after_the_first_images() -> None:
    for outcomes in ("", "aaaa", "aaaa+bbbbbb", "+aaaaaa"):
        assert not attempts_of(outcomes).has_failed_first_images
    assert attempts_of("aabab").has_failed_first_images


@pytest.mark.usefixtures("doubles")
def test_only_results_without_failures_are_cached(tmp_path: Path) -> None:
    cache = ResultCache(tmp_path)

    def resume(found: ModelResult, *, is_intact: bool = True) -> tuple[ModelResult, bool]:
        return run_model(
            MODEL,
            ModelResult,
            lambda _: found,
            build_trained,
            cache,
            {"a": 1},
            is_intact=lambda _: is_intact,
        )

    for bad in (
        ModelResult(status="skipped", why="no boxes"),
        ModelResult(failures=(Failure(stage="data", culprit="1.png", why="cut off"),)),
        ModelResult(attempts=attempts_of("+a")),
    ):
        assert resume(bad) == (bad, False)
    good, other = ModelResult(attempts=attempts_of("+")), ModelResult()
    assert resume(good) == (good, False)
    assert resume(other) == (good, True)
    assert resume(other, is_intact=False) == (other, False)


@pytest.mark.usefixtures("doubles")
def test_ctrl_c_is_not_a_failure_of_the_model() -> None:
    with pytest.raises(KeyboardInterrupt):
        run(MODEL, KeyboardInterrupt())  # type: ignore[arg-type]


def test_malformed_annotations_are_failures_listed_or_counted() -> None:
    failures = malformed_annotation_failures("coco:x", {"crowd": 4, "malformed": 5}, ("a", "b"))
    assert [each.why for each in failures] == [
        "a",
        "b",
        "3 more malformed annotations were left out",
    ]
    assert malformed_annotation_failures("coco:x", {"crowd": 4, "malformed": 0}, ()) == []


def no_bytes(_: object) -> int:
    return 0


@pytest.fixture(params=[0, 1, 3])
def prefetcher(request: pytest.FixtureRequest) -> Iterator[Prefetcher]:
    found = Prefetcher(request.param)
    yield found
    found.close()


def test_results_are_in_the_order_of_the_items(prefetcher: Prefetcher) -> None:
    def slow(item: int) -> int:
        time.sleep(0.003 * (item % 3))
        return item * item

    assert list(prefetcher.map(slow, range(20), no_bytes)) == [each**2 for each in range(20)]


def test_an_error_is_raised_at_the_place_of_its_result(prefetcher: Prefetcher) -> None:
    def odd(item: int) -> int:
        if item == 5:
            raise RuntimeError("five")
        return item

    results = prefetcher.map(odd, range(9), no_bytes)
    assert [next(results) for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(RuntimeError, match="five"):
        next(results)


def test_items_are_taken_when_there_is_room() -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for each in range(100):
            taken.append(each)
            yield each

    prefetcher = Prefetcher(2)
    results = prefetcher.map(lambda item: item, items(), no_bytes)
    assert next(results) == 0
    assert len(taken) <= 4
    results.close()
    prefetcher.close()


def test_waiting_results_stay_below_the_budget() -> None:
    prefetcher = Prefetcher(2, budget_bytes=2500)
    alive = peak = 0
    lock = threading.Lock()

    def make(item: int) -> np.ndarray:
        nonlocal alive, peak
        with lock:
            alive += 1
            peak = max(peak, alive)
        return np.zeros(1000, np.uint8)

    def size(item: object) -> int:
        return item.nbytes if isinstance(item, np.ndarray) else 0

    for _ in prefetcher.map(make, range(30), size):
        time.sleep(0.005)  # a slow consumer
        with lock:
            alive -= 1
    prefetcher.close()
    # Two that fill the budget, one that exceeds it, and one for each thread.
    assert peak <= 5


def test_work_overlaps() -> None:
    prefetcher = Prefetcher(2)
    meet = threading.Barrier(2, timeout=20)
    # Each of two items waits for the other: one after the other, they would wait for ever.
    assert list(prefetcher.map(lambda item: item + 0 * meet.wait(), [1, 2], no_bytes)) == [1, 2]
    prefetcher.close()


def test_closing_waits_for_running_calls_and_drops_the_others() -> None:
    begun, may_end = threading.Event(), threading.Event()
    ended: list[int] = []

    def slow(item: int) -> int:
        if item:
            begun.set()
            may_end.wait(10)
        ended.append(item)
        return item

    prefetcher = Prefetcher(1)
    results = prefetcher.map(slow, range(3), no_bytes)
    assert next(results) == 0
    assert begun.wait(10)
    threading.Timer(0.05, may_end.set).start()
    results.close()
    assert ended == [0, 1]
    time.sleep(0.02)
    assert ended == [0, 1]
    prefetcher.close()


def test_the_stopwatch_charges_what_is_nested_to_the_inner_stage(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 0.0
    monkeypatch.setattr(time, "perf_counter", lambda: now)
    clock = Stopwatch()
    now += 1
    with clock("data"):
        now += 2
        with clock("model"):
            now += 10
        now += 3
    with clock("scoring"):
        now += 4
    found = clock.row("m", "d")
    assert (found.data_s, found.model_s, found.scoring_s, found.wall_s) == (5, 10, 4, 20)
    assert found.overhead == pytest.approx(0.5)


def test_a_failure_inside_a_stage_leaves_the_stopwatch_in_order() -> None:
    clock = Stopwatch()
    with pytest.raises(ValueError, match="x"), clock("model"):
        raise ValueError("x")
    with clock("data"):
        pass
    assert clock.row("m", "d").writing_s == 0


def test_the_stopwatch_ignores_other_threads() -> None:
    clock = Stopwatch()

    def wait() -> None:
        with clock("data"):
            time.sleep(0.01)

    thread = threading.Thread(target=wait)
    thread.start()
    thread.join()
    assert clock.row("m", "d").data_s == 0
