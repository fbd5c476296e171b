"""Runs one model in a measurement: errors become rows, errors on single images become failures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from baselines.interface import Segmenter
from baselines.registry import build
from benchmarks.config.model_resolution import ResolvedModel
from benchmarks.datasets.dataset import Sample, UnreadableImage
from benchmarks.datasets.parsing import MALFORMED
from benchmarks.debugging import format_error
from benchmarks.records.record import Failure, Status
from mobilesam.errors import BenchError, WeightsError
from mobilesam.frozen_model import FrozenModel

RowT = TypeVar("RowT")

PROMPT_BATCH = 32
"""Masks of so many prompts are held at the image's size at once."""
FIRST_IMAGES = 5
"""A model that fails on each of the first so many images is considered broken itself."""
TIMED_ELSEWHERE = (
    "time left out: it was taken on another machine, or with another allocator or number of threads"
)
"""Why a result that was taken from an interrupted run has no time."""


def lost(sample: UnreadableImage) -> Failure:
    """The failure that an unreadable image is, with what is lost with it."""
    why = f"{sample.reason} ({sample.n_instances} instances left out)"
    return Failure(stage="data", culprit=sample.name, why=why)


def left_out_text(unusable: int = 0, given_up: int = 0, failed: int = 0) -> str | None:
    """Text about the images that a row with figures leaves out; None if none is left out.

    Args:
        unusable: Number of images that could not be read, or that a model failed on.
        given_up: Number of images of chunks that could not be made.
        failed: Number of images of chunks that the model itself failed on.
    """
    parts = [
        f"{count:,} {what}"
        for count, what in (
            (unusable, "unusable"),
            (given_up, "in chunks that could not be made"),
            (failed, "in chunks that the model failed on"),
        )
        if count
    ]
    return f"images left out: {'; '.join(parts)} (see the failures)" if parts else None


def malformed(dataset: str, left_out: Mapping[str, int], problems: Sequence[str]) -> list[Failure]:
    """The failures that malformed annotations are: one for each that is told, one for the rest."""
    untold = left_out.get(MALFORMED, 0) - len(problems)
    more = [f"{untold} more malformed annotations were left out"] if untold > 0 else []
    return [Failure(stage="data", culprit=dataset, why=why) for why in (*problems, *more)]


def nothing_read(n_unread: int) -> str:
    """Reason why no model has a figure if no image could be read.

    Args:
        n_unread: Number of images that were tried, each of which is reported as a failure.
    """
    if n_unread:
        return f"none of the {n_unread} images can be read: nothing was measured"
    return "there is no image with an instance: nothing was measured"


def none_shared(model: str, reference: str) -> str:
    """Reason why a model is not compared with a teacher although both have answered images."""
    return f"no image was answered both by {model} and by {reference}"


class Attempts(FrozenModel):
    """Counts of the images of a dataset, or of consecutive parts of it, for one model.

    Attributes:
        n_answered: Number of images that it answered.
        n_failed: Number of images that it failed on.
        n_failed_first: Number of images that it failed on before the first that it answered.
        reasons: Its errors on the first `FIRST_IMAGES` of these.
        failures: One for each image that it failed on.
    """

    n_answered: int = 0
    n_failed: int = 0
    n_failed_first: int = 0
    reasons: tuple[str, ...] = ()
    failures: tuple[Failure, ...] = ()

    @property
    def broken(self) -> str | None:
        """Reason why the model is considered broken; None if it is not.

        It is broken if it failed on each of the first `FIRST_IMAGES` images, or if there are fewer
        images and it failed on all of them.
        """
        if self.n_failed_first == 0:
            return None
        if self.n_answered and self.n_failed_first < FIRST_IMAGES:
            return None
        n = min(self.n_failed_first, FIRST_IMAGES)
        where = "its only image" if n == 1 else f"each of the first {n} images"
        return f"fails at {where}: {'; '.join(dict.fromkeys(self.reasons))}"

    def plus(self, later: Attempts, most_failures: int) -> Attempts:
        """Sum with the counts of later images, with at most `most_failures` failures in all."""
        first = self.n_answered == 0
        room = max(0, most_failures - len(self.failures))
        reasons = self.reasons + (later.reasons if first else ())
        return Attempts(
            n_answered=self.n_answered + later.n_answered,
            n_failed=self.n_failed + later.n_failed,
            n_failed_first=self.n_failed_first + (later.n_failed_first if first else 0),
            reasons=reasons[:FIRST_IMAGES],
            failures=self.failures + later.failures[:room],
        )

    def listed(self, model: str) -> list[Failure]:
        """Failures of the images, or a single failure if the model is considered broken."""
        why = self.broken
        if why is None:
            return list(self.failures)
        return [Failure(stage=self.failures[0].stage, culprit=model, why=why)]


@dataclass(slots=True)
class Trials:
    """Counts the images that a model answers and fails on during a pass.

    Attributes:
        model: Its name.
        stage: Name of the measurement, for failures.
        stop: Stop when the model has failed on each of the first `FIRST_IMAGES` images. This cannot
            be decided for a part of a dataset.
    """

    model: str
    stage: str
    stop: bool = True
    _n_answered: int = 0
    _failures: list[Failure] = field(default_factory=list)
    _reasons: list[str] = field(default_factory=list)
    _n_failed_first: int = 0

    def answered(self) -> None:
        """Counts an image that the model has answered."""
        self._n_answered += 1

    def failed(self, sample: Sample, error: BenchError) -> None:
        """Counts an image that the model has failed on."""
        reason = format_error(error)
        lost_too = f"{len(sample.instances)} instances left out for it"
        why = f"{self.model} fails at it: {reason} ({lost_too})"
        self._failures.append(Failure(stage=self.stage, culprit=sample.name, why=why))
        if self._n_answered == 0:
            self._n_failed_first += 1
            self._reasons = [*self._reasons, reason][:FIRST_IMAGES]

    @property
    def given_up(self) -> bool:
        """Whether it has failed on each of the first `FIRST_IMAGES` images, so that it can stop."""
        return self.stop and self._n_failed_first >= FIRST_IMAGES and self._n_answered == 0

    @property
    def attempts(self) -> Attempts:
        """The count so far."""
        return Attempts(
            n_answered=self._n_answered,
            n_failed=len(self._failures),
            n_failed_first=self._n_failed_first,
            reasons=tuple(self._reasons),
            failures=tuple(self._failures),
        )


def take_turn(
    model: ResolvedModel,
    stage: str,
    blank: Callable[[Status, str], RowT],
    measure: Callable[[Segmenter], tuple[RowT, list[Failure]]],
) -> tuple[RowT, list[Failure]]:
    """Builds a model with trained weights and measures it.

    Args:
        model: As planned; its weights may be unusable or missing.
        stage: What is measured, for failures.
        blank: Makes a row without figures from a status and its reason.
        measure: Makes the row of a model, and what failed without stopping it.

    Returns:
        The row, blank if the model cannot be measured or fails, and the failures. Unusable weights
        are not among them, since planning has reported them. Exceptions other than `BenchError` are
        errors of this project, and are not caught.
    """
    unable = why_unable(model)
    if unable is not None:
        return blank(*unable), []
    try:
        return measure(build_trained(model))
    except BenchError as error:
        why = format_error(error)
    return blank("error", why), [Failure(stage=stage, culprit=model.entry.name, why=why)]


def why_unable(model: ResolvedModel) -> tuple[Status, str] | None:
    """Why a model need not even be built; None if it may be."""
    if model.error is not None:
        return "error", model.error
    if not model.trained:
        why = model.weights.why or "it was given none"
        return "skipped", f"no accuracy from random weights: {why}"
    return None


def build_trained(model: ResolvedModel) -> Segmenter:
    """Builds a model whose answers mean something.

    Raises:
        WeightsError: It was built with random weights.
        BenchError: It cannot be built.
    """
    return require_trained(build(model.entry, model.options))


def require_trained(segmenter: Segmenter) -> Segmenter:
    """The same segmenter.

    Raises:
        WeightsError: It was built with random weights.
    """
    if segmenter.info.weights.kind == "random":
        raise WeightsError("it was built with random weights, which have no accuracy")
    return segmenter
