"""Runs one model in a measurement: its errors become rows, its errors on images become failures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from pydantic import Field

from baselines.interface import Segmenter
from baselines.registry import build
from benchmarks.config.model_resolution import ResolvedModel
from benchmarks.datasets.dataset import Sample, UnreadableImage
from benchmarks.datasets.parsing import MALFORMED
from benchmarks.debugging import format_error
from benchmarks.records.record import Failure, Status
from benchmarks.records.result_cache import ResultCache
from mobilesam.errors import BenchError, WeightsError
from mobilesam.frozen_model import FrozenModel

PROMPT_BATCH = 32
"""Number of prompts whose masks are held at the image's size at once."""
FIRST_IMAGES = 5
"""A model that fails on each of the first so many images is considered broken itself."""
TIMED_ELSEWHERE = (
    "time left out: it was taken on another machine, or with another allocator or number of threads"
)
"""Reason why a result that was taken from an interrupted run has no time."""


def unreadable_image_failure(image: UnreadableImage) -> Failure:
    """Failure record for an unreadable image, with the number of instances it held."""
    why = f"{image.reason} ({image.n_instances} instances left out)"
    return Failure(stage="data", culprit=image.name, why=why)


def left_out_text(unusable: int = 0, given_up: int = 0, failed: int = 0) -> str | None:
    """Text about the images that a row with figures leaves out; None if none is left out."""
    counts = {
        "unusable": unusable,
        "in chunks that could not be made": given_up,
        "in chunks that the model failed on": failed,
    }
    parts = [f"{count:,} {what}" for what, count in counts.items() if count]
    return f"images left out: {'; '.join(parts)} (see the failures)" if parts else None


def malformed_annotation_failures(
    dataset: str, left_out: Mapping[str, int], problems: Sequence[str]
) -> list[Failure]:
    """Failures for malformed annotations: one for each known problem, and one for the rest."""
    n_more = left_out.get(MALFORMED, 0) - len(problems)
    more = [f"{n_more} more malformed annotations were left out"] if n_more > 0 else []
    return [Failure(stage="data", culprit=dataset, why=why) for why in (*problems, *more)]


class Attempts(FrozenModel):
    """Counts of the images of a dataset, or of consecutive parts of it, for one model.

    Images that it failed on before the first that it answered are counted in `n_failed_first`; the
    errors on the first `FIRST_IMAGES` of these are `reasons`.
    """

    n_answered: int = 0
    n_failed: int = 0
    n_failed_first: int = 0
    reasons: tuple[str, ...] = ()
    failures: tuple[Failure, ...] = ()

    @property
    def has_failed_first_images(self) -> bool:
        """Whether it has failed on each of the first `FIRST_IMAGES` images, and answered none."""
        return self.n_answered == 0 and self.n_failed_first >= FIRST_IMAGES

    @property
    def broken(self) -> str | None:
        """Reason why the model is considered broken; None if it is not.

        It is broken if it failed on each of the first `FIRST_IMAGES` images, or if there are fewer
        images and it failed on all of them.
        """
        n = min(self.n_failed_first, FIRST_IMAGES)
        if n == 0 or (self.n_answered and n < FIRST_IMAGES):
            return None
        where = "its only image" if n == 1 else f"each of the first {n} images"
        return f"fails at {where}: {'; '.join(dict.fromkeys(self.reasons))}"

    def plus(self, later: Attempts, most_failures: int | None = None) -> Attempts:
        """Sum with the counts of later images, with at most `most_failures` failures in all."""
        first = self.n_answered == 0
        reasons = self.reasons + (later.reasons if first else ())
        return Attempts(
            n_answered=self.n_answered + later.n_answered,
            n_failed=self.n_failed + later.n_failed,
            n_failed_first=self.n_failed_first + (later.n_failed_first if first else 0),
            reasons=reasons[:FIRST_IMAGES],
            failures=(self.failures + later.failures)[:most_failures],
        )

    def listed(self, model: str) -> list[Failure]:
        """Failures of the images, or a single failure if the model is considered broken."""
        why = self.broken
        if why is None:
            return list(self.failures)
        return [Failure(stage=self.failures[0].stage, culprit=model, why=why)]


ANSWERED = Attempts(n_answered=1)
"""One image that a model has answered."""


def failed_attempt(model: str, stage: str, sample: Sample, error: BenchError) -> Attempts:
    """One image that a model has failed on."""
    reason = format_error(error)
    why = f"{model} fails at it: {reason} ({len(sample.instances)} instances left out for it)"
    failure = Failure(stage=stage, culprit=sample.name, why=why)
    return Attempts(n_failed=1, n_failed_first=1, reasons=(reason,), failures=(failure,))


class ModelResult(FrozenModel):
    """Result of one model on the images of a shard; `left_out` counts unused annotations."""

    status: Status = "ok"
    why: str | None = None
    failures: tuple[Failure, ...] = ()
    attempts: Attempts = Attempts()
    left_out: dict[str, int] = Field(default_factory=dict)
    problems: tuple[str, ...] = ()
    timed_with: tuple[str, ...] = ()

    def failures_of(self, model: ResolvedModel, stage: str) -> list[Failure]:
        """Unreadable images, and the model itself unless its weights were reported before."""
        if self.status != "error" or model.error is not None or self.why is None:
            return list(self.failures)
        return [Failure(stage=stage, culprit=model.entry.name, why=self.why), *self.failures]


ResultT = TypeVar("ResultT", bound=ModelResult)


def run_model(
    model: ResolvedModel,
    kind: type[ResultT],
    measure: Callable[[Segmenter], ResultT],
    build: Callable[[ResolvedModel], Segmenter],
    cache: ResultCache | None = None,
    key: Mapping[str, Any] | None = None,
    is_intact: Callable[[ResultT], bool] = lambda _: True,
) -> tuple[ResultT, bool]:
    """Takes the result of a model from a cache, or builds the model and measures it.

    Results with failures are not cached, so that repaired images and models are measured again.
    Exceptions other than `BenchError` are errors of this project, and are not caught. `is_intact`
    tells whether the files that belong to a cached result are still there.

    Returns the result, without figures if the model cannot be measured, and whether it was cached.
    """
    known = None if cache is None or key is None else cache.get(key, kind)
    if known is not None and is_intact(known):
        return known, True
    if model.error is not None:
        return kind(status="error", why=model.error), False
    if not model.trained:
        reason = model.weights.why or "it was given none"
        return kind(status="skipped", why=f"no accuracy from random weights: {reason}"), False
    try:
        found = measure(build(model))
    except BenchError as error:
        return kind(status="error", why=format_error(error)), False
    is_clean = found.status == "ok" and not found.failures and not found.attempts.n_failed
    if cache is not None and key is not None and is_clean:
        cache.put(key, found)
    return found, False


def build_trained(model: ResolvedModel) -> Segmenter:
    """Builds a model; raises a `WeightsError` if that has random weights, without accuracy."""
    built = build(model.entry, model.options)
    if built.info.weights.kind == "random":
        raise WeightsError("it was built with random weights, which have no accuracy")
    return built
