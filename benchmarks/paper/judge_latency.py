"""Verdicts on times: milliseconds on the published device only, ratios on its kind."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from benchmarks.paper.claims import Claim, agrees
from benchmarks.paper.measures import (
    Hardware,
    LatencyMeasure,
    LatencyRatioMeasure,
    Timed,
    parse_phase,
)
from benchmarks.paper.verdicts import Bound, ClaimVerdict, Verdict, verdict_of
from benchmarks.records.record import LatencyRow, RunRecord
from benchmarks.tables.formatting import milliseconds, number
from benchmarks.tables.record_queries import Setup, setup_of, setups, timed, unique

_NO_TIME = "the run has no time of it"


@dataclass(frozen=True, slots=True)
class _Missing:
    """A phase without a time."""

    phase: str
    untrained: bool
    why: str


@dataclass(frozen=True, slots=True)
class _Time:
    """A sum of phases of one model; `missing` ones are not in it, `scaled` ones are estimates.

    `scaled` holds phases with the number of prompts that they were scaled up from.
    """

    model: str
    ms: float
    parts: tuple[str, ...]
    missing: tuple[_Missing, ...]
    scaled: tuple[tuple[str, int], ...]

    @property
    def only_scaled(self) -> bool:
        """Whether every part was scaled up, none timed as it is."""
        return bool(self.parts) and len(self.scaled) == len(self.parts)

    @property
    def text(self) -> str:
        """As printed: the sum, what is in it, and what is not."""
        text = f"{self.model} {milliseconds(self.ms)} ({' + '.join(self.parts)})"
        without = " and ".join(each.phase for each in self.missing)
        return f"{text} without {without}" if without else text


def find_setup(record: RunRecord, hardware: Hardware) -> Setup | None:
    """The setup to judge by: one of the published class of device if there is any."""
    known = setups(record)
    right = [setup for setup in known if setup.device.startswith(hardware.device)]
    return next(iter((*right, *known)), None)


def same_class(setup: Setup | None, hardware: Hardware) -> bool:
    """Whether times were made on the published class of device, so that ratios compare."""
    return setup is not None and setup.device.startswith(hardware.device)


def same_machine(record: RunRecord, setup: Setup | None, hardware: Hardware) -> bool:
    """Whether times were made on the published device; never where that is not stated."""
    if hardware.gpu is None or not same_class(setup, hardware):
        return False
    # The end of the name: an RTX 3090 Ti is no RTX 3090.
    published = hardware.gpu.lower()
    return all(name.lower().endswith(published) for name in record.environment.gpu)


def judge_latency(record: RunRecord, claim: Claim, measure: LatencyMeasure) -> ClaimVerdict:
    """Compares a published time with the one measured here."""
    setup = find_setup(record, measure.hardware)
    found = _add_up(record, setup, measure)
    if setup is None or not found.parts:
        return _untimed(claim, (found,))
    bound: Bound | None = "at least" if found.missing else None
    comparable = same_machine(record, setup, measure.hardware)
    verdict = _verdict(claim, found.ms, (found,), comparable=comparable)
    ratio = found.ms / claim.value
    where = "the published device" if comparable else f"not {measure.hardware.what}"
    why = (
        f"{found.text} on {_machine(record, setup)}, {where}: "
        f"{_prefix(bound)}{number(ratio)} times the claim"
    )
    return verdict_of(
        claim,
        verdict,
        "; ".join([why, *_remarks((found,))]),
        measured=found.ms,
        bound=bound,
        ratio=ratio,
        settle=_settle(verdict, (found,)),
        measured_from=f"run {record.id}: {setup.label}: {found.text}",
    )


def judge_ratio(record: RunRecord, claim: Claim, measure: LatencyRatioMeasure) -> ClaimVerdict:
    """Compares a published ratio of times with the one measured here, in one run."""
    setup = find_setup(record, measure.hardware)
    upper = _add_up(record, setup, measure.numerator)
    lower = _add_up(record, setup, measure.denominator)
    both = (upper, lower)
    # Two numbers of prompts scaled up from one row have the ratio of the numbers, whatever the row.
    hollow = upper.model == lower.model and upper.only_scaled and lower.only_scaled
    if hollow or setup is None or not upper.parts or not lower.parts:
        return _untimed(claim, both)
    if upper.missing and lower.missing:
        return _untimed(claim, both)
    ratio = upper.ms / lower.ms
    bound: Bound | None = "at least" if upper.missing else "at most" if lower.missing else None
    verdict = _verdict(claim, ratio, both, comparable=same_class(setup, measure.hardware))
    why = (
        f"{_prefix(bound)}{number(ratio)} on {_machine(record, setup)}: "
        f"{upper.text} over {lower.text}; {_direction(claim.value, ratio, bound)}"
    )
    return verdict_of(
        claim,
        verdict,
        "; ".join([why, *_remarks(both)]),
        measured=ratio,
        bound=bound,
        ratio=ratio / claim.value,
        settle=_settle(verdict, both),
        measured_from=f"run {record.id}: {setup.label}: {upper.text}; {lower.text}",
    )


def _verdict(claim: Claim, value: float, times: tuple[_Time, ...], *, comparable: bool) -> Verdict:
    """What is missing comes before the hardware: without it there is no figure to compare."""
    missing = [each for time in times for each in time.missing]
    if missing:
        return "needs weights" if all(each.untrained for each in missing) else "needs GPU"
    if not comparable:
        return "different hardware"
    return "reproduced" if agrees(claim, Fraction(value)) else "not reproduced"


def _direction(claimed: float, measured: float, bound: Bound | None) -> str:
    """Whether the same side is the slower one, as far as a bound tells."""
    slower = claimed > 1
    if (bound == "at least" and measured <= 1) or (bound == "at most" and measured >= 1):
        return "whether the direction holds is open"
    return "the direction holds" if (measured > 1) == slower else "the direction is the opposite"


def _add_up(record: RunRecord, setup: Setup | None, wanted: Timed) -> _Time:
    """Sums the phases that were timed; those that were not are named."""
    if setup is None:
        nothing = tuple(_Missing(phase, untrained=False, why=_NO_TIME) for phase in wanted.phases)
        return _Time(wanted.model, 0.0, (), nothing, ())
    rows = [row for row in record.latency if row.model == wanted.model and setup_of(row) == setup]
    if wanted.whole is not None:
        whole = _find(rows, wanted.whole)
        if isinstance(whole, tuple) and not whole[1]:
            return _Time(wanted.model, whole[0], (wanted.whole,), (), ())
    total = 0.0
    parts: list[str] = []
    missing: list[_Missing] = []
    scaled: list[tuple[str, int]] = []
    for phase in wanted.phases:
        result = _find(rows, phase)
        if isinstance(result, _Missing):
            missing.append(result)
            continue
        total += result[0]
        parts.append(phase)
        if result[1]:
            scaled.append((phase, result[1]))
    return _Time(wanted.model, total, tuple(parts), tuple(missing), tuple(scaled))


def _find(rows: list[LatencyRow], text: str) -> tuple[float, int | None] | _Missing:
    """Milliseconds of a phase, and the number of prompts that they were scaled up from."""
    phase, n_prompts, scale = parse_phase(text)
    same = [row for row in rows if row.phase == phase]
    exact = [row for row in same if n_prompts is None or row.n_prompts == n_prompts]
    for row in exact:
        value = timed(row)
        if value is not None:
            return value[0], None
    if scale and n_prompts is not None:
        known = [(row.n_prompts, v[0]) for row in same if row.n_prompts and (v := timed(row))]
        if known:
            most, ms = max(known)
            return ms * n_prompts / most, most
    skipped = exact or same
    untrained = any(row.status == "skipped" and row.weights == "random" for row in skipped)
    reasons = [row.why for row in skipped if row.why]
    slow = [why for why in reasons if why.startswith("about ")]
    why = next(iter((*slow, *reasons)), _NO_TIME)
    return _Missing(text, untrained=untrained and not slow, why=why)


def _untimed(claim: Claim, times: tuple[_Time, ...]) -> ClaimVerdict:
    missing = [each for time in times for each in time.missing]
    untrained = bool(missing) and all(each.untrained for each in missing)
    verdict: Verdict = "needs weights" if untrained else "needs GPU"
    why = f"not timed: {' and '.join(unique(time.model for time in times if time.missing))}, "
    why += "; ".join(_remarks(times))
    return verdict_of(claim, verdict, why, settle=_settle(verdict, times))


def _settle(verdict: Verdict, times: tuple[_Time, ...]) -> str | None:
    models = unique(time.model for time in times)
    if verdict == "needs weights":
        names = " ".join(unique(time.model for time in times if time.missing))
        return f"mobilesam-bench weights fetch {names} && mobilesam-bench paper --device cuda"
    if verdict == "needs GPU":
        return f"mobilesam-bench latency --device cuda --models {','.join(models)}"
    return None


def _remarks(times: tuple[_Time, ...]) -> list[str]:
    """What was scaled up, and each reason for what is missing once."""
    scaled: dict[int, list[str]] = {}
    reasons: dict[str, list[str]] = {}
    for time in times:
        for phase, n_prompts in time.scaled:
            scaled.setdefault(n_prompts, []).append(phase)
        for each in time.missing:
            reasons.setdefault(each.why, []).append(each.phase)
    return [
        *(f"{', '.join(unique(p))} scaled up from {n} prompts" for n, p in scaled.items()),
        *(f"{' and '.join(unique(p))}: {why}" for why, p in reasons.items()),
    ]


def _machine(record: RunRecord, setup: Setup) -> str:
    here = record.environment
    name = ", ".join(here.gpu) if setup.device != "cpu" and here.gpu else here.cpu
    return f"{name} ({setup.label})"


def _prefix(bound: Bound | None) -> str:
    return f"{bound} " if bound else ""
