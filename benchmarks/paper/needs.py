"""What has to be measured for a ledger to be judged."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from benchmarks.paper.claims import Claim
from benchmarks.paper.counts import COUNTS
from benchmarks.paper.measures import (
    ApMeasure,
    ArMeasure,
    LatencyMeasure,
    LatencyRatioMeasure,
    MiouMeasure,
    ParamsMeasure,
    ParamsRatioMeasure,
    parse_term,
)
from benchmarks.prompts.protocols import GROUND_TRUTH
from benchmarks.tables.record_queries import unique


def models_needed(claims: Sequence[Claim]) -> tuple[str, ...]:
    """Every model that a claim is measured on, in order of first appearance."""
    return unique(name for claim in claims for name in _models(claim))


def _models(claim: Claim) -> Iterator[str]:
    measure = claim.measure
    if isinstance(measure, ParamsMeasure | LatencyMeasure | MiouMeasure | ArMeasure | ApMeasure):
        yield measure.model
    elif isinstance(measure, LatencyRatioMeasure):
        yield measure.numerator.model
        yield measure.denominator.model
    elif isinstance(measure, ParamsRatioMeasure):
        owners = [parse_term(term)[1] for term in (*measure.numerator, *measure.denominator)]
        yield from (owner for owner in owners if owner not in COUNTS)


def protocols_needed(claims: Sequence[Claim], dataset: str) -> tuple[str, ...]:
    """Protocols of mean IoU that claims on such a dataset need, and all that need a teacher.

    No paper states the images for comparisons with a teacher, so any images serve for orientation.
    No claim was made on the packaged photos and synthetic scenes; for these, all protocols that
    they support are returned.

    Args:
        claims: The ledger.
        dataset: `photos`, `synthetic`, `coco` or `sa1b`.
    """
    found = []
    for claim in claims:
        measure = claim.measure
        if not isinstance(measure, MiouMeasure):
            continue
        own = measure.data.pattern.startswith(f"{dataset}:")
        any_data = measure.reference != GROUND_TRUTH or dataset in ("photos", "synthetic")
        if own or (any_data and measure.protocol != "annotation-point"):
            found.append(measure.protocol)
    return unique(found)
