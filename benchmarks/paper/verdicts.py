"""What a run allows to be said about one claim."""

from __future__ import annotations

from typing import Literal

from benchmarks.paper.claims import Claim
from benchmarks.paper.measures import Spec

Verdict = Literal[
    "reproduced",
    "not reproduced",
    "explained",
    "different hardware",
    "needs weights",
    "needs data",
    "needs GPU",
]
VERDICTS: tuple[Verdict, ...] = (
    "reproduced",
    "explained",
    "not reproduced",
    "different hardware",
    "needs weights",
    "needs data",
    "needs GPU",
)
Bound = Literal["at least", "at most"]


class Orientation(Spec):
    """A figure of the same protocol from other weights, data or reference: no evidence.

    Attributes:
        value: In the claim's unit.
        reference: `ground-truth` or `teacher:NAME`; None where the measure has none.
        made_with: Dataset and weights, as printed.
    """

    value: float
    reference: str | None = None
    made_with: str


class ClaimVerdict(Spec):
    """A claim, and what the run says about it.

    Attributes:
        id: The claim's.
        source: Who published it, and where.
        what: What the figure is said to be.
        claimed: The published figure, in `unit`.
        printed: The same with the digits it was printed with.
        measured: What was measured or counted here, in `unit`; None where nothing was.
        bound: The measurement lacks a part, so that the whole is at least or at most so much.
        ratio: Measured over claimed, for times and ratios of times.
        verdict: One of seven.
        why: What was compared with what, or what is missing.
        settle: The command that would settle it, where something is missing.
        measured_from: The rows and the run behind `measured`.
        orientation: A figure that is no evidence, where there is no other.
    """

    id: str
    source: str
    what: str
    claimed: float
    printed: str
    unit: str
    measured: float | None = None
    bound: Bound | None = None
    ratio: float | None = None
    verdict: Verdict
    why: str
    settle: str | None = None
    measured_from: str | None = None
    orientation: Orientation | None = None


def verdict_of(
    claim: Claim,
    verdict: Verdict,
    why: str,
    *,
    measured: float | None = None,
    bound: Bound | None = None,
    ratio: float | None = None,
    settle: str | None = None,
    measured_from: str | None = None,
    orientation: Orientation | None = None,
) -> ClaimVerdict:
    """A verdict on a claim; the claim's note, and its data's caution, join the reason."""
    data = getattr(claim.measure, "data", None)
    extra = [text for text in (claim.note, data.caution if data else None) if text]
    return ClaimVerdict(
        id=claim.id,
        source=claim.source_label,
        what=claim.what,
        claimed=claim.value,
        printed=claim.printed,
        unit=claim.unit,
        measured=measured,
        bound=bound,
        ratio=ratio,
        verdict=verdict,
        why="; ".join([why, *extra]),
        settle=settle,
        measured_from=measured_from,
        orientation=orientation,
    )
