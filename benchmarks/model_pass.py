"""One model's turn at a measurement: whatever happens gives a row, and the next has its turn."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from baselines.interface import Segmenter
from baselines.registry import build
from benchmarks.data.dataset import BadSample
from benchmarks.data.parsing import MALFORMED
from benchmarks.planning import PlannedModel
from benchmarks.records import Failure, Status
from mobilesam.errors import FOREIGN_ERRORS, BenchError, WeightsError

RowT = TypeVar("RowT")

ADAPTER_ERRORS = (BenchError, *FOREIGN_ERRORS)
"""What a model may raise without ending the run of the others."""
PROMPT_BATCH = 32
"""Masks of so many prompts are held at the image's size at once."""


def explain(error: BaseException) -> str:
    """One line; an error that is not ours is given with its type, as it does not know its place."""
    return str(error) if isinstance(error, BenchError) else f"{type(error).__name__}: {error}"


def lost(sample: BadSample) -> Failure:
    """The failure that an unreadable image is, with what is lost with it."""
    why = f"{sample.why} ({sample.n_instances} instances left out)"
    return Failure(stage="data", culprit=sample.name, why=why)


def left_out_text(unusable: int = 0, given_up: int = 0, failed: int = 0) -> str | None:
    """What a row says that has figures, but not of all images; None if nothing is left out.

    Args:
        unusable: Images that could not be read, or that a model failed at.
        given_up: Images of chunks that could not be made.
        failed: Images of chunks that the model itself failed on.
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


def take_turn(
    model: PlannedModel,
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
        The row, blank if the model cannot be measured or fails, and what failed. Weights that are
        unusable are no further failure: planning has reported them.
    """
    unable = why_unable(model)
    if unable is not None:
        return blank(*unable), []
    try:
        return measure(build_trained(model))
    except ADAPTER_ERRORS as error:
        why = explain(error)
    return blank("error", why), [Failure(stage=stage, culprit=model.entry.name, why=why)]


def why_unable(model: PlannedModel) -> tuple[Status, str] | None:
    """Why a model need not even be built; None if it may be."""
    if model.error is not None:
        return "error", model.error
    if not model.trained:
        why = model.weights.why or "it was given none"
        return "skipped", f"no accuracy from random weights: {why}"
    return None


def build_trained(model: PlannedModel) -> Segmenter:
    """Builds a model whose answers mean something.

    Raises:
        WeightsError: It was built with random weights.
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
