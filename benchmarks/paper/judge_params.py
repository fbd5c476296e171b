"""Verdicts on counts: every declared reading is tried, and the first that fits explains."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

from benchmarks.paper.claims import Claim, agrees
from benchmarks.paper.counts import COUNTS, derived_count
from benchmarks.paper.measures import ParamsMeasure, ParamsRatioMeasure, parse_term
from benchmarks.paper.verdicts import ClaimVerdict, Verdict, verdict_of
from benchmarks.records.record import RunRecord
from mobilesam.errors import DataError

_SCALES = {"M parameters": {"10^6": 10**6, "2^20": 2**20}, "parameters": {"1": 1}}


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A count, in the unit that one reading of the claim's gives it."""

    name: str
    count: int
    scale: str
    divisor: int
    plain: bool

    @property
    def value(self) -> Fraction:
        return Fraction(self.count, self.divisor)

    @property
    def text(self) -> str:
        if self.divisor == 1:
            return f"{self.name} ({self.count:,})"
        return f"{self.name} ({self.count:,}) / {self.scale} = {float(self.value):.4g}"


def count_of(record: RunRecord, term: str) -> int:
    """The signed count of one term, from the record or by derivation.

    Raises:
        DataError: The record does not hold it.
    """
    sign, owner, part, column = parse_term(term)
    if owner in COUNTS:
        return sign * derived_count(owner, part, column)
    for row in record.params:
        if (row.model, row.component) == (owner, part) and row.status == "ok":
            count = row.total if column == "total" else row.used
            if count is not None:
                return sign * count
        elif row.model == owner and row.status != "ok":
            raise DataError(f"{owner} could not be counted: {row.why or row.status}")
    raise DataError(f"run {record.id} has no count of {owner}/{part}")


def judge_params(record: RunRecord, claim: Claim, measure: ParamsMeasure) -> ClaimVerdict:
    """Compares a published count with every reading of it."""
    try:
        candidates = list(_candidates(record, measure, claim.unit))
    except DataError as error:
        return _not_counted(claim, error)
    fitting = [each for each in candidates if agrees(claim, each.value)]
    best = (fitting or candidates)[0]
    verdict, why = _explain(claim, candidates, fitting)
    return verdict_of(
        claim,
        verdict,
        why,
        measured=float(best.value),
        measured_from=f"run {record.id}: {best.name}, {best.count:,} parameters",
    )


def _explain(
    claim: Claim, candidates: list[_Candidate], fitting: list[_Candidate]
) -> tuple[Verdict, str]:
    if not fitting:
        return "not reproduced", "no reading fits: " + "; ".join(c.text for c in candidates)
    best, *others = fitting
    if best.plain:
        return "reproduced", f"exact count: {best.text}"
    also = "; also: " + "; ".join(each.text for each in others) if others else ""
    if claim.unit == "parameters":
        return "explained", f"{best.text}{also}"
    return "explained", f"{best.text}{also}; the plain count is {candidates[0].text}"


def _candidates(record: RunRecord, measure: ParamsMeasure, unit: str) -> Iterator[_Candidate]:
    """The plain reading first, then the declared sums, then other columns and units."""
    columns = [measure.column] if unit == "parameters" else ["total", "used"]
    part = f"{measure.model} {measure.component}"
    counts = {
        column: count_of(record, f"{measure.model}/{measure.component}/{column}")
        for column in columns
    }
    own = [(f"{part}, {column}", count) for column, count in counts.items()]
    if len(set(counts.values())) == 1:
        own = [(part, own[0][1])]
    sums = [(r.name, sum(count_of(record, term) for term in r.terms)) for r in measure.readings]
    scales = list(_SCALES[unit].items())
    yield _Candidate(*own[0], *scales[0], plain=True)
    # A reading that is declared says more than another unit of the same count.
    for name, count in (*sums, *own):
        for scale, divisor in scales:
            if (name, scale) != (own[0][0], scales[0][0]):
                yield _Candidate(name, count, scale, divisor, plain=False)


def judge_params_ratio(
    record: RunRecord, claim: Claim, measure: ParamsRatioMeasure
) -> ClaimVerdict:
    """Compares a published ratio of counts with the exact one."""
    try:
        upper = sum(count_of(record, term) for term in measure.numerator)
        lower = sum(count_of(record, term) for term in measure.denominator)
    except DataError as error:
        return _not_counted(claim, error)
    if lower <= 0:
        raise DataError(f"claim {claim.id}: {' + '.join(measure.denominator)} is {lower}")
    ratio = Fraction(upper, lower)
    text = f"{upper:,} / {lower:,} = {float(ratio):.4g}"
    return verdict_of(
        claim,
        "reproduced" if agrees(claim, ratio) else "not reproduced",
        f"exact counts: {text}",
        measured=float(ratio),
        measured_from=f"run {record.id}: {text}",
    )


def _not_counted(claim: Claim, error: DataError) -> ClaimVerdict:
    return verdict_of(claim, "needs data", str(error), settle="mobilesam-bench params")
