"""Verdicts on a ledger of claims, from one record."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction

from benchmarks.paper.claims import Claim, agrees
from benchmarks.paper.judge_accuracy import judge_accuracy
from benchmarks.paper.judge_latency import judge_latency, judge_ratio
from benchmarks.paper.judge_params import judge_params, judge_params_ratio
from benchmarks.paper.measures import (
    DerivedMeasure,
    LatencyMeasure,
    LatencyRatioMeasure,
    ParamsMeasure,
    ParamsRatioMeasure,
    TrainingMeasure,
)
from benchmarks.paper.verdicts import VERDICTS, ClaimVerdict, verdict_of
from benchmarks.records.record import RunRecord
from benchmarks.tables.formatting import number
from mobilesam.errors import DataError


def judge(record: RunRecord, claims: Sequence[Claim]) -> list[ClaimVerdict]:
    """Judges every claim by what the record holds, in the order of the claims.

    Args:
        record: One run, or several that were merged.
        claims: The ledger, or a part of it that holds what its derived claims are made of.

    Raises:
        DataError: A derived claim is made of one that is not given, or divides by zero.
    """
    by_id = {claim.id: claim for claim in claims}
    return [_judge(record, claim, by_id) for claim in claims]


def _judge(record: RunRecord, claim: Claim, by_id: Mapping[str, Claim]) -> ClaimVerdict:
    measure = claim.measure
    if isinstance(measure, ParamsMeasure):
        return judge_params(record, claim, measure)
    if isinstance(measure, ParamsRatioMeasure):
        return judge_params_ratio(record, claim, measure)
    if isinstance(measure, LatencyMeasure):
        return judge_latency(record, claim, measure)
    if isinstance(measure, LatencyRatioMeasure):
        return judge_ratio(record, claim, measure)
    if isinstance(measure, TrainingMeasure):
        why = f"only training tells; {claim.conditions}"
        return verdict_of(claim, "needs GPU", why, settle=measure.command)
    if isinstance(measure, DerivedMeasure):
        return _judge_derived(claim, measure, by_id)
    return judge_accuracy(record, claim, measure)


def _judge_derived(
    claim: Claim, measure: DerivedMeasure, by_id: Mapping[str, Claim]
) -> ClaimVerdict:
    """Checks a figure against the figures it follows from."""

    def values(names: Sequence[str]) -> list[Fraction]:
        try:
            return [Fraction(by_id[name].printed) for name in names]
        except KeyError as error:
            raise DataError(f"claim {claim.id} is made of {error}, which is not given") from error

    divisor = math.prod(values(measure.over), start=Fraction(1))
    if divisor == 0:
        raise DataError(f"claim {claim.id} divides by zero: {', '.join(measure.over)}")
    upper = sum(values(measure.plus), Fraction(0)) + (
        math.prod(values(measure.times), start=Fraction(1)) if measure.times else 0
    )
    value = Fraction(str(measure.factor)) * upper / divisor
    agreed = agrees(claim, value)
    text = " + ".join(by_id[name].printed for name in measure.plus) or " x ".join(
        by_id[name].printed for name in measure.times
    )
    below = "".join(f" / {by_id[name].printed}" for name in measure.over)
    scale = f" x {measure.factor:g}" if measure.factor != 1 else ""
    return verdict_of(
        claim,
        "reproduced" if agreed else "not reproduced",
        f"arithmetic of other claims: {text}{below}{scale} = {number(float(value))}, "
        f"{'within' if agreed else 'outside'}: {claim.tolerance.label}",
        measured=float(value),
        measured_from=f"claims {', '.join((*measure.plus, *measure.times, *measure.over))}",
    )


def tally(verdicts: Sequence[ClaimVerdict]) -> dict[str, int]:
    """How many claims have which verdict, in the order of `VERDICTS`; absent ones left out."""
    counts = {name: sum(each.verdict == name for each in verdicts) for name in VERDICTS}
    return {name: count for name, count in counts.items() if count}


def tally_text(verdicts: Sequence[ClaimVerdict]) -> str:
    """One line, such as `181 claims: 22 reproduced, 9 explained, ...`."""
    parts = ", ".join(f"{count} {name}" for name, count in tally(verdicts).items())
    return f"{len(verdicts)} claims: {parts}"
