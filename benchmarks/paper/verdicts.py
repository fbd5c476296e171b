"""Verdicts on published claims, from one record.

A function for each kind of measure finds the measured value in the unit of the claim, and the
obstacle if the value is missing or does not compare; `_conclude` derives the verdict from these.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from fractions import Fraction
from typing import Any, Literal, NamedTuple, get_args

from pydantic import Field

from baselines.registry import entries
from benchmarks.paper.claims import (
    AccuracyMeasure,
    ArMeasure,
    Claim,
    DataSet,
    DerivedMeasure,
    LatencyMeasure,
    LatencyRatioMeasure,
    MiouMeasure,
    NocMeasure,
    ParamsMeasure,
    ParamsRatioMeasure,
    Phase,
    Term,
    Timed,
    TimeMeasure,
    TrainingMeasure,
    agrees,
)
from benchmarks.paper.counts import COUNTS, derived_count
from benchmarks.prompts.protocols import (
    DETECTOR_BOX,
    DETECTOR_BOX_MULTI,
    GROUND_TRUTH,
    TEACHER_PREFIX,
    reference_model,
)
from benchmarks.records.record import DetectorRow, EverythingRow, LatencyRow, MiouRow, RunRecord
from benchmarks.tables import record_queries as queries
from benchmarks.tables.formatting import milliseconds, number
from benchmarks.tables.record_queries import grouped, unique
from mobilesam.errors import DataError
from mobilesam.frozen_model import FrozenModel

Verdict = Literal[
    "reproduced", "explained", "not reproduced", "needs GPU", "needs weights", "needs data",
    "not measured",
]  # fmt: skip
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
TESTED: tuple[Verdict, ...] = ("reproduced", "explained", "not reproduced")
_OBSTACLES: dict[Verdict, str] = {
    "needs GPU": "need a GPU (for a time, that of the publication)",
    "needs weights": "need official weights",
    "needs data": "need the published data",
    "not measured": "were not measured in these runs",
}
"""What the claims lack that were not tested, as the end of a sentence."""
Basis = Literal["measurement", "training", "count", "arithmetic"]
_BASIS_OF: dict[str, Basis] = {
    "training": "training",
    "params": "count",
    "params-ratio": "count",
    "derived": "arithmetic",
}
"""Bases of the kinds of measures that are no measurement."""
Bound = Literal["at least", "at most"]
_SCALES = {"M parameters": {"10⁶": 10**6, "2²⁰": 2**20}, "parameters": {"1": 1}}


class Orientation(FrozenModel):
    """A figure of the same protocol from other weights, data or reference, which is no evidence."""

    value: float
    reference: str | None = None
    made_with: str


class ClaimVerdict(FrozenModel):
    """A claim and its verdict.

    The `basis` is a measurement (a time or an accuracy), training (a result or a condition of it),
    a count of parameters, or arithmetic of other published figures. Figures are in `unit`,
    `printed` with the digits of the source. `bound` is set if a part was not measured, `ratio`
    (measured over claimed) for times and ratios of times. `settle` is the command that would give a
    verdict, `measured_from` names the run and the rows. Not stored are `paper`, the source without
    the place, and `published`, false for counts that this project made.
    """

    id: str
    source: str
    what: str
    basis: Basis = "measurement"
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
    paper: str = Field("", exclude=True)
    published: bool = Field(default=True, exclude=True)


def judge(record: RunRecord, claims: Sequence[Claim]) -> list[ClaimVerdict]:
    """Judges every claim by a record; `claims` contains the terms of its derived claims."""
    by_id = {claim.id: claim for claim in claims}
    return [_judge(record, claim, by_id) for claim in claims]


def tally(verdicts: Sequence[ClaimVerdict]) -> dict[Verdict, int]:
    """Number of claims with each verdict, in the order of `VERDICTS`, without zeros."""
    counts = {name: sum(each.verdict == name for each in verdicts) for name in VERDICTS}
    return {name: count for name, count in counts.items() if count}


def tally_by_basis(verdicts: Sequence[ClaimVerdict]) -> dict[Basis, dict[Verdict, int]]:
    """The tally for each basis that occurs."""
    by_basis = {basis: [v for v in verdicts if v.basis == basis] for basis in get_args(Basis)}
    return {basis: tally(own) for basis, own in by_basis.items() if own}


def tally_text(verdicts: Sequence[ClaimVerdict]) -> str:
    """In a few sentences: how many claims were tested, with what result, and what others lack.

    Such as `5 of 70 published figures were tested: 4 reproduced, 1 explained. Of 31 times and
    accuracies, 2 were tested. The others: 65 need official weights`. Claims that follow from other
    claims, and counts that this project made, are apart.
    """
    published = [each for each in verdicts if each.published and each.basis != "arithmetic"]
    tested = {name: count for name, count in tally(published).items() if name in TESTED}
    text = f"{sum(tested.values())} of {len(published)} published figures were tested"
    text += f": {_counts_text(tested)}" if tested else ""
    measured = [v for v in published if v.basis == "measurement" or v.unit.startswith("mIoU")]
    if measured:
        n = sum(each.verdict in TESTED for each in measured)
        text += f". Of {len(measured)} times and accuracies, {n or 'none'} "
        text += f"{'was' if n < 2 else 'were'} tested"
    lacking = [
        f"{count} {_OBSTACLES[name]}"
        for name, count in tally(published).items()
        if name in _OBSTACLES
    ]
    if lacking:
        text += f". The others: {'; '.join(lacking)}"
    for label, own in (
        ("figures that follow from others", [v for v in verdicts if v.basis == "arithmetic"]),
        ("parameter counts made by this project", [v for v in verdicts if not v.published]),
    ):
        if own:
            agreeing = sum(each.verdict == "reproduced" for each in own)
            text += f". Of {len(own)} {label}, {agreeing} agree"
    return text


def _counts_text(counts: Mapping[Verdict, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items())


def _judge(record: RunRecord, claim: Claim, claims: Mapping[str, Claim]) -> ClaimVerdict:
    match claim.measure:
        case ParamsMeasure() | ParamsRatioMeasure() as measure:
            try:
                if isinstance(measure, ParamsMeasure):
                    return _judge_count(record, claim, measure)
                return _judge_count_ratio(record, claim, measure)
            except _NotCountedError as error:
                return _conclude(claim, error.why, obstacle="not measured", settle=error.settle)
        case LatencyMeasure() | LatencyRatioMeasure() as measure:
            return _judge_times(record, claim, measure)
        case TrainingMeasure(command=command):
            why = f"only training can reproduce it; {claim.conditions}"
            return _conclude(claim, why, obstacle="needs GPU", settle=command)
        case DerivedMeasure() as measure:
            return _judge_derived(claim, measure, claims)
        case measure:
            return _judge_accuracy(record, claim, measure)


def _conclude(
    claim: Claim,
    why: str,
    value: Fraction | float | None = None,
    *,
    obstacle: Verdict | None = None,
    **details: Any,
) -> ClaimVerdict:
    """The verdict on a claim from a value in its unit.

    `obstacle` is the verdict if the value is missing or does not compare.
    The note of the claim and the caution of its data are added to `why`; `details` are more fields.
    """
    data: DataSet | None = getattr(claim.measure, "data", None)
    reasons = (why, claim.note, data.caution if data else None)
    agreed = value is not None and agrees(claim, value)
    return ClaimVerdict(
        id=claim.id,
        source=claim.source_label,
        paper=claim.paper_label,
        published=claim.source.published,
        what=claim.what,
        basis=_BASIS_OF.get(claim.measure.kind, "measurement"),
        claimed=float(claim.printed),
        printed=claim.printed,
        unit=claim.unit,
        measured=None if value is None else float(value),
        verdict=obstacle or ("reproduced" if agreed else "not reproduced"),
        why="; ".join(reason for reason in reasons if reason),
        **details,
    )


def _within(claim: Claim, value: Fraction | float) -> str:
    return "within" if agrees(claim, value) else "outside"


def _judge_derived(
    claim: Claim, measure: DerivedMeasure, claims: Mapping[str, Claim]
) -> ClaimVerdict:
    """Compares a figure with the figures that it follows from."""
    names = (*measure.plus, *measure.times, *measure.over)
    if lost := [name for name in names if name not in claims]:
        raise DataError(f"claim {claim.id} is made of {', '.join(lost)}: not given")
    printed = {name: claims[name].printed for name in names}
    exact = {name: Fraction(text) for name, text in printed.items()}
    divisor = math.prod(exact[name] for name in measure.over)
    if divisor == 0:
        raise DataError(f"claim {claim.id} divides by zero: {', '.join(measure.over)}")
    if measure.plus:
        upper = sum((exact[name] for name in measure.plus), Fraction(0))
    else:
        upper = math.prod((exact[name] for name in measure.times), start=Fraction(1))
    value = Fraction(str(measure.factor)) * upper / divisor
    terms = [printed[name] for name in (*measure.plus, *measure.times)]
    text = (" + " if measure.plus else " x ").join(terms)
    text += "".join(f" / {printed[name]}" for name in measure.over)
    text += f" x {measure.factor:g}" if measure.factor != 1 else ""
    why = (
        f"arithmetic of other claims: {text} = {number(float(value))}, "
        f"{_within(claim, value)}: {claim.tolerance.label}"
    )
    return _conclude(claim, why, value, measured_from=f"claims {', '.join(names)}")


class _NotCountedError(Exception):
    """A record lacks a count of parameters of a model."""

    def __init__(self, why: str, model: str) -> None:
        super().__init__(why)
        entry = entries().get(model)
        install = f"{entry.install} && " if entry is not None and entry.extra else ""
        self.why, self.settle = why, f"{install}mobilesam-bench params --models {model}"


def _count(record: RunRecord, term: Term) -> int:
    """Signed count of a term; raises `_NotCountedError` if the record lacks it."""
    if term.owner in COUNTS:
        return term.sign * derived_count(term.owner, term.part, term.column)
    for row in record.params:
        if row.model != term.owner:
            continue
        if row.status != "ok":
            why = f"{row.model} could not be counted: {row.why or row.status}"
            raise _NotCountedError(why, row.model)
        count: int | None = getattr(row, term.column)
        if row.component == term.part and count is not None:
            return term.sign * count
    raise _NotCountedError(f"not counted in this run: {term.owner}, {term.part}", term.owner)


class _Reading(NamedTuple):
    """A count under one meaning of a claim, in one unit."""

    name: str
    parameters: int
    scale: str
    divisor: int

    @property
    def value(self) -> Fraction:
        return Fraction(self.parameters, self.divisor)

    @property
    def text(self) -> str:
        text = f"{self.name} ({self.parameters:,})"
        return text if self.divisor == 1 else f"{text} / {self.scale} = {float(self.value):.4g}"


def _judge_count(record: RunRecord, claim: Claim, measure: ParamsMeasure) -> ClaimVerdict:
    """Compares a published count with its plain count, then with every other reading.

    The measured value is the plain count: the others are of architectures or units that fit.
    """
    columns = [measure.column] if claim.unit == "parameters" else ["total", "used"]
    part, term = f"{measure.model} {measure.component}", f"{measure.model}/{measure.component}"
    counts = {column: _count(record, Term.model_validate(f"{term}/{column}")) for column in columns}
    own = [(f"{part}, {column}", count) for column, count in counts.items()]
    if len(set(counts.values())) == 1:
        own = [(part, own[0][1])]
    if measure.terms:
        own = [(claim.what, sum(_count(record, term) for term in measure.terms))]
    sums = [(r.name, sum(_count(record, term) for term in r.terms)) for r in measure.readings]
    # The plain count, then the declared sums, which explain more than other columns and units.
    scales = list(_SCALES[claim.unit].items())
    plain = _Reading(*own[0], *scales[0])
    others = (_Reading(*each, *scale) for each in (*sums, *own) for scale in scales)
    readings = unique((plain, *others))
    fitting = [each for each in readings if agrees(claim, each.value)]
    if not fitting:
        why = f"no reading fits: {'; '.join(each.text for each in readings)}"
    elif plain in fitting:
        why = f"exact count: {plain.text}"
    else:
        why = f"explained by {fitting[0].text}"
        if fitting[1:]:
            why += f"; also: {'; '.join(each.text for each in fitting[1:])}"
        if claim.unit != "parameters":
            why += f"; the plain count is {plain.text}"
    origin = f"run {record.id}: {plain.name}, {plain.parameters:,} parameters"
    other: Verdict | None = "explained" if fitting and plain not in fitting else None
    return _conclude(claim, why, plain.value, obstacle=other, measured_from=origin)


def _judge_count_ratio(
    record: RunRecord, claim: Claim, measure: ParamsRatioMeasure
) -> ClaimVerdict:
    """Compares a published ratio of counts with the exact ratio."""
    upper = sum(_count(record, term) for term in measure.numerator)
    lower = sum(_count(record, term) for term in measure.denominator)
    if lower <= 0:
        raise DataError(f"claim {claim.id}: the denominator of its ratio is {lower}")
    ratio = Fraction(upper, lower)
    text = f"{upper:,} / {lower:,} = {float(ratio):.4g}"
    origin = f"run {record.id}: {text}"
    return _conclude(claim, f"exact counts: {text}", ratio, measured_from=origin)


@dataclass(frozen=True, slots=True)
class _PhaseTime:
    """Time of a phase in ms, or None with the reason; `scaled_from` is a number of prompts."""

    phase: str
    ms: float | None = None
    scaled_from: int | None = None
    why: str = ""
    untrained: bool = False


@dataclass(frozen=True, slots=True)
class _Sum:
    """Times of the phases of a model; those that were not timed are missing in the sum."""

    model: str
    phases: tuple[_PhaseTime, ...]

    @property
    def ms(self) -> float:
        return sum(each.ms or 0.0 for each in self.phases)

    @property
    def timed(self) -> list[_PhaseTime]:
        return [each for each in self.phases if each.ms is not None]

    @property
    def missing(self) -> list[_PhaseTime]:
        return [each for each in self.phases if each.ms is None]

    @property
    def text(self) -> str:
        parts = " + ".join(each.phase for each in self.timed)
        without = " and ".join(each.phase for each in self.missing)
        text = f"{self.model} {milliseconds(self.ms)} ({parts})"
        return f"{text} without {without}" if without else text


def _judge_times(record: RunRecord, claim: Claim, measure: TimeMeasure) -> ClaimVerdict:
    """Compares a time on the published device, or a ratio of times on its class of device."""
    is_ratio, claimed = isinstance(measure, LatencyRatioMeasure), float(claim.printed)
    hardware, environment = measure.hardware, record.environment
    # The first setup of the published class of device, else the first setup.
    setups = queries.setups(record)
    same_class = [setup for setup in setups if setup.device.startswith(hardware.device)]
    setup = next(iter((*same_class, *setups)), None)
    if isinstance(measure, LatencyRatioMeasure):
        times = [_add_up(record, setup, each) for each in (measure.numerator, measure.denominator)]
    else:
        times = [_add_up(record, setup, measure)]
    missing = [each for time in times for each in time.missing]
    comparable = bool(same_class)
    if not is_ratio:
        # The published type is the end of the names of all GPUs: an RTX 3090 Ti is no RTX 3090.
        # A source that does not state its type compares with none.
        gpu = None if hardware.gpu is None else hardware.gpu.lower()
        same_type = gpu and all(name.lower().endswith(gpu) for name in environment.gpu)
        comparable = comparable and bool(same_type)
    untimed = setup is None or not all(time.timed for time in times)
    if is_ratio:
        # Two numbers of prompts scaled up from one row have the ratio of the numbers, whatever the
        # row; and two lower bounds give no bound of their ratio.
        scaled = all(each.scaled_from for time in times for each in time.timed)
        hollow = scaled and times[0].model == times[1].model
        untimed = untimed or hollow or all(time.missing for time in times)
    obstacle: Verdict | None = None
    incomplete = unique(time.model for time in times if time.missing)
    untrained = bool(missing) and all(each.untrained for each in missing)
    settle = None
    if not comparable:  # whatever else this run lacks: all runs on this machine have one verdict
        obstacle = "needs GPU"
    elif untrained:
        obstacle = "needs weights"
    elif missing or untimed:
        obstacle = "not measured"
    if obstacle is not None:
        names = ",".join(unique(time.model for time in times))
        settle = f"mobilesam-bench latency --device {hardware.device} --models {names}"
        if untrained:
            settle = f"mobilesam-bench weights fetch {' '.join(incomplete)} && {settle}"
    # Phases that were scaled up, and the reasons for missing phases, each once.
    scaled_up = grouped((p.scaled_from, p.phase) for t in times for p in t.timed if p.scaled_from)
    remarks = [f"{', '.join(unique(p))} scaled up from {n} prompts" for n, p in scaled_up.items()]
    reasons = grouped((each.why, each.phase) for each in missing)
    remarks += [f"{' and '.join(unique(phases))}: {why}" for why, phases in reasons.items()]
    if setup is None or untimed:
        why = f"not timed: {' and '.join(incomplete)}, {'; '.join(remarks)}"
        return _conclude(claim, why, obstacle=obstacle, settle=settle)
    bound: Bound | None = None
    if missing:
        bound = "at least" if times[0].missing else "at most"

    def shown(figure: float) -> str:
        return f"{bound} {number(figure, bound=bound)}" if bound else number(figure)

    value = times[0].ms / times[1].ms if is_ratio else times[0].ms
    ratio = value / claimed
    gpus = "" if setup.device == "cpu" else ", ".join(environment.gpu)
    machine = f"{gpus or environment.cpu} ({setup.label})"
    if is_ratio:
        # Whether the same side is slower, as far as a bound shows it.
        if (bound == "at least" and value <= 1) or (bound == "at most" and value >= 1):
            direction = "whether the direction holds is open"
        else:
            same = (value > 1) == (claimed > 1)
            direction = "the direction holds" if same else "the direction is the opposite"
        why = f"{shown(value)} on {machine}: {times[0].text} over {times[1].text}; {direction}"
    else:
        where = "the published device" if comparable else f"not {hardware.what}"
        why = f"{times[0].text} on {machine}, {where}: {shown(ratio)} times the claim"
    return _conclude(
        claim,
        "; ".join((why, *remarks)),
        value,
        obstacle=obstacle,
        bound=bound,
        ratio=ratio,
        settle=settle,
        measured_from=f"run {record.id}: {setup.label}: {'; '.join(time.text for time in times)}",
    )


def _add_up(record: RunRecord, setup: queries.Setup | None, wanted: Timed) -> _Sum:
    """Times of the wanted phases under a setup, or of the whole if it was timed."""
    same = (row for row in record.latency if queries.setup_of(row) == setup)
    rows = [row for row in same if row.model == wanted.model]
    if wanted.whole is not None:
        whole = _find_phase(rows, wanted.whole)
        if whole.ms is not None and whole.scaled_from is None:
            return _Sum(wanted.model, (whole,))
    return _Sum(wanted.model, tuple(_find_phase(rows, phase) for phase in wanted.phases))


def _find_phase(rows: Sequence[LatencyRow], phase: Phase) -> _PhaseTime:
    same = [row for row in rows if row.phase == phase.name]
    exact = [row for row in same if phase.n_prompts in (None, row.n_prompts)]
    for row in exact:
        if value := queries.timed(row):
            return _PhaseTime(phase.text, value[0])
    if phase.scaled and phase.n_prompts is not None:
        known = [(n, v[0]) for row in same if (n := row.n_prompts) and (v := queries.timed(row))]
        if known:
            most, ms = max(known)
            return _PhaseTime(phase.text, ms * phase.n_prompts / most, scaled_from=most)
    skipped = exact or same
    reasons = [row.why for row in skipped if row.why]
    slow = [why for why in reasons if why.startswith("about ")]
    untrained = any(row.status == "skipped" and row.weights == "random" for row in skipped)
    why = next(iter((*slow, *reasons)), "not timed in this run")
    return _PhaseTime(phase.text, why=why, untrained=untrained and not slow)


@dataclass(frozen=True, slots=True)
class _Accuracy:
    """A row with an accuracy (a fraction) of the model and protocol of a claim.

    `n_instances` is None for a detector's boxes, which replace annotations.
    """

    row: MiouRow | EverythingRow | DetectorRow
    value: float | None
    n_instances: int | None
    same_setting: bool = True

    @property
    def reference(self) -> str | None:
        return self.row.reference if isinstance(self.row, MiouRow) else None

    def covers(self, data: DataSet) -> bool:
        enough = self.n_instances is None or self.n_instances >= data.min_instances
        right = fnmatchcase(self.row.dataset, data.pattern)
        return right and self.row.n_images >= data.min_images and enough

    def closeness(self, data: DataSet, reference: str | None) -> tuple[bool, bool, bool, bool, int]:
        row, right_data = self.row, fnmatchcase(self.row.dataset, data.pattern)
        same_reference = self.reference == reference
        return self.same_setting, same_reference, right_data, row.weights.official, row.n_images

    @property
    def made_with(self) -> str:
        row = self.row
        mask = f", {row.mask} mask" if isinstance(row, DetectorRow) else ""
        size = f"{row.n_images} image{'s' * (row.n_images != 1)}{mask}"
        return f"{queries.weights_label(row.weights)} weights on {row.dataset} ({size})"


def _judge_accuracy(record: RunRecord, claim: Claim, measure: AccuracyMeasure) -> ClaimVerdict:
    """Compares an accuracy with that of official weights on the same images, if there is one."""
    rows, label, command = _accuracies(record, measure)
    wanted = measure.reference if isinstance(measure, MiouMeasure) else None
    wanted = GROUND_TRUTH if isinstance(measure, NocMeasure) else wanted
    here = [each for each in rows if each.reference == wanted and each.same_setting]
    known = [(measure.model, [each.row.weights.official for each in here])]
    teacher = None if wanted is None else reference_model(wanted)
    if teacher is not None:
        # The weights of a teacher that is not among the models are in the rows alone.
        weights = [each.row.reference_weights for each in here if isinstance(each.row, MiouRow)]
        known.append((teacher, [row.official for row in weights if row is not None]))
    lacking = []
    for model, official in known:
        info = queries.model_row(record, model)
        if not (any(official) if official else info is not None and info.weights.official):
            lacking.append(model)
    scale = 100 if claim.unit.endswith("%") else 1
    for each in here:
        usable = each.row.weights.official and each.covers(measure.data)
        if not lacking and usable and each.value is not None:
            value, tolerance = scale * each.value, claim.tolerance
            why = (
                f"{number(value)} {claim.unit} with {each.made_with}, {_within(claim, value)} "
                f"{tolerance.label} ({tolerance.reason})"
            )
            origin = f"run {record.id}: {measure.model}, {label}, {each.made_with}"
            return _conclude(claim, why, value, measured_from=origin)
    covered = [each for each in here if each.covers(measure.data)]
    # Weights come first: without them the right images would show nothing.
    if lacking:
        missing = [f"official weights of {' and '.join(lacking)}"]
        missing += [] if covered else [measure.data.what]
    else:
        failed = next((each.row.why for each in covered if each.row.why), None)
        missing = [failed or f"{measure.data.what}, {label}"]
        if isinstance(measure, (ArMeasure, NocMeasure)) and measure.mode is not None:
            missing.append("which this suite does not measure yet")
    why = f"missing: {'; '.join(missing)}"
    # The nearest figure of trained weights; agreement with a teacher is not used as accuracy.
    kind = (wanted or "").partition(":")[0]
    figures = [
        (each.value, each)
        for each in rows
        if each.value is not None
        and each.row.weights.kind != "random"
        and (each.reference or "").partition(":")[0] == kind
    ]
    orientation = None
    if figures:
        value, best = max(figures, key=lambda found: found[1].closeness(measure.data, wanted))
        setting = "" if best.same_setting else ", under another setting than the claim's"
        made_with, value = best.made_with + setting, scale * value
        orientation = Orientation(value=value, reference=best.reference, made_with=made_with)
        versus = f" against {best.reference}" if best.reference else ""
        figure = f"{number(value)} {claim.unit}{versus}"
        why += f"; no evidence, for orientation: {figure} with {made_with}"
        if best.reference == f"{TEACHER_PREFIX}{measure.model}":
            why += ", which agrees with itself by definition"
    fetch = f"mobilesam-bench weights fetch {' '.join(lacking)} && " if lacking else ""
    return _conclude(
        claim,
        why,
        obstacle="needs weights" if lacking else "needs data",
        settle=f"{fetch}mobilesam-bench {command}",
        orientation=orientation,
    )


def _accuracies(record: RunRecord, measure: AccuracyMeasure) -> tuple[list[_Accuracy], str, str]:
    """Rows of the model and protocol of a claim, the protocol as printed, and the command."""
    arguments = f"--models {measure.model} {measure.data.arguments}"
    if isinstance(measure, MiouMeasure):
        by_size = measure.column in ("small", "medium", "large")
        rows = []
        for row in record.miou:
            if (row.model, row.protocol) == (measure.model, measure.protocol):
                value = getattr(row.by_size if by_size else row, measure.column)
                rows.append(_Accuracy(row, value if row.status == "ok" else None, row.n_instances))
        label = f"{measure.protocol} against {measure.reference}"
        return rows, label, f"paper {measure.data.arguments}"
    if isinstance(measure, NocMeasure):
        rows = []
        for row in record.miou:
            if (row.model, row.protocol) == (measure.model, measure.protocol):
                noc = queries.numbers_of_clicks(row).get(measure.iou)
                value = None if noc is None else noc.noc
                rows.append(_Accuracy(row, value, row.n_instances, measure.mode is None))
        label = f"{measure.protocol} until IoU {measure.iou:g}"
        options = f"--protocol {measure.protocol} --noc {measure.iou:g}"
        return (
            rows,
            f"{label}, {measure.mode or 'clicks at the centre'}",
            f"miou {options} {arguments}",
        )
    if isinstance(measure, ArMeasure):
        rows = [
            _Accuracy(row, getattr(row, measure.column), row.n_objects, measure.mode is None)
            for row in record.everything
            if row.model == measure.model
        ]
        label = f"everything, {measure.mode or 'the default grid'}"
        return rows, label, f"everything {arguments}"
    rows = []
    # The single mask first: it is judged where a paper does not state which mask it used.
    for found in sorted(record.detector, key=lambda row: row.mask != "single"):
        if found.model == measure.model:
            same_boxes = fnmatchcase(found.detections.lower(), measure.detections)
            same_setting = same_boxes and measure.mask in (None, found.mask)
            rows.append(_Accuracy(found, found.ap, None, same_setting))
    protocol = DETECTOR_BOX_MULTI if measure.mask == "multi" else DETECTOR_BOX
    command = f"miou --protocol {protocol} --detections VITDET_BOXES.json {arguments}"
    return rows, f"{DETECTOR_BOX}, detections {measure.detections}", command
