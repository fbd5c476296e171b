"""The ledger: every published figure as data, and how it is measured here.

Each file of the folder `ledger`, in the order of their names, holds `[sources.KEY]` tables and
`[[group]]` tables, whose fields are shared by the `claims` of the group. `shared.toml` holds what
all files share: `[tolerances.KEY]`, `[hardware.KEY]`, `[data.KEY]` and `[commands]`, referred to by
their keys.
"""

from __future__ import annotations

import functools
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    ValidationError,
    ValidationInfo,
    model_validator,
)

from baselines.registry import entries
from benchmarks.paper.counts import COUNTS, derived_count
from benchmarks.prompts.protocols import GROUND_TRUTH, find_protocols
from benchmarks.tables.record_queries import PHASES, unique
from mobilesam.errors import DataError, UsageError, first_problem
from mobilesam.frozen_model import FrozenModel

SHARED = "shared.toml"
Unit = Literal[
    "M parameters", "parameters", "ms", "ratio", "mIoU", "mIoU %", "AP %", "AR %", "GPUs", "images",
    "iterations", "epochs", "days", "%", "clicks",
]  # fmt: skip
_PHASE = re.compile(r"(?P<name>[a-z_]+)((?P<kind>[@*])(?P<n_prompts>[1-9]\d*))?")
_TERM = re.compile(r"(?P<sign>-?)(?P<owner>[a-z0-9.+-]+)/(?P<part>[\w-]+)/(?P<column>[\w-]+)")


def _named(section: str) -> BeforeValidator:
    """Replaces a key by the table `[SECTION.KEY]` of the ledger, the context of the validation."""

    def look_up(key: object, info: ValidationInfo) -> object:
        """The entry of a table that a key names; other values unchanged."""
        if info.context is None or not isinstance(key, str):
            return key
        tables = info.context.get(section, {})
        if key not in tables:
            raise ValueError(f"{key!r} is not in {section}; known: {', '.join(tables) or 'none'}")
        return tables[key]

    return BeforeValidator(look_up)


@functools.cache
def _model_names() -> tuple[str, ...]:
    """Registered names, cached since reading entry points takes milliseconds."""
    return tuple(entries())


def _known_model(name: str) -> str:
    if name not in _model_names():
        raise ValueError(f"unknown model {name!r}; known: {', '.join(_model_names())}")
    return name


def _known_protocol(name: str) -> str:
    try:
        find_protocols([name])
    except UsageError as error:
        raise ValueError(str(error)) from error
    return name


def _known_reference(text: str) -> str:
    if text != GROUND_TRUTH:
        kind, _, teacher = text.partition(":")
        if kind != "teacher":
            raise ValueError(f"reference {text!r} is neither ground-truth nor teacher:NAME")
        _known_model(teacher)
    return text


class Source(FrozenModel):
    """Publication of a claim; `version` is that of the paper, or the state of a web page.

    `published` is false for this project's own counts of published architectures.
    """

    name: str
    published: bool = True
    arxiv: str | None = None
    version: str | None = None


class Tolerance(FrozenModel):
    """Largest deviation of a measurement that agrees with the claim, in its unit, and the reason.

    One of: `digits` (equal when rounded to those printed), `plus_minus`, `relative`, `low` and
    `high`.
    """

    reason: str = Field(min_length=1)
    digits: bool = False
    plus_minus: float | None = Field(default=None, gt=0)
    relative: float | None = Field(default=None, gt=0)
    low: float | None = None
    high: float | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> Tolerance:
        bounds = (self.low is not None) + (self.high is not None)
        kinds = self.digits + (self.plus_minus is not None) + (self.relative is not None)
        if kinds + (bounds == 2) != 1 or bounds == 1:
            raise ValueError("a tolerance is one of digits, plus_minus, relative, or low and high")
        return self

    @property
    def label(self) -> str:
        """As printed: `+- 0.5`, `+- 10 %`, `46.1 to 46.6`, `to the digits printed`."""
        if self.plus_minus is not None:
            return f"+- {self.plus_minus:g}"
        if self.relative is not None:
            return f"+- {100 * self.relative:g} %"
        return "to the digits printed" if self.digits else f"{self.low:g} to {self.high:g}"

    def bounds(self, printed: str) -> tuple[Fraction, Fraction]:
        """Least and greatest value that agrees with a printed figure."""
        if self.low is not None and self.high is not None:
            return Fraction(str(self.low)), Fraction(str(self.high))
        exact, margin = Fraction(printed), rounding_margin(printed)
        if self.plus_minus is not None:
            margin = Fraction(str(self.plus_minus))
        elif self.relative is not None:
            margin = Fraction(str(self.relative)) * exact
        return exact - margin, exact + margin


class DataSet(FrozenModel):
    """The images of a claim.

    A record matches if the name of its dataset matches the wildcard `pattern` and it has at least
    `min_images` images and `min_instances` instances.
    """

    pattern: str
    what: str
    min_images: int = 1
    min_instances: int = 1
    arguments: str = Field(description="options of the command line that name it")
    caution: str | None = None


class Hardware(FrozenModel):
    """Device of a published time; `gpu` is the end of its name, None if it is not stated."""

    device: Literal["cpu", "cuda"]
    gpu: str | None = None
    what: str


class Phase(FrozenModel):
    """A phase in a sum of times: `encode`, `decode@10` (ten prompts) or `decode*1024` (scaled)."""

    text: str
    name: str
    n_prompts: int | None
    scaled: bool

    @model_validator(mode="before")
    @classmethod
    def _parse(cls, text: object) -> object:
        if not isinstance(text, str):
            return text
        match = _PHASE.fullmatch(text)
        if match is None or match["name"] not in PHASES:
            raise ValueError(f"unknown phase {text!r}; known: {', '.join(PHASES)}, each @N or *N")
        n_prompts, scaled = match["n_prompts"], match["kind"] == "*"
        return {"text": text, "name": match["name"], "n_prompts": n_prompts, "scaled": scaled}


class Term(FrozenModel):
    """A signed `model/component/column`, or one of `COUNTS` with its variant and column."""

    sign: Literal[-1, 1]
    owner: str
    part: str
    column: str

    @model_validator(mode="before")
    @classmethod
    def _parse(cls, text: object) -> object:
        if not isinstance(text, str):
            return text
        match = _TERM.fullmatch(text)
        if match is None:
            raise ValueError(f"{text!r} is not model/component/column")
        if match["owner"] in COUNTS:
            derived_count(match["owner"], match["part"], match["column"])
        else:
            _known_model(match["owner"])
            if match["column"] not in ("total", "used"):
                raise ValueError(f"unknown column in {text!r}; choose total or used")
        return {**match.groupdict(), "sign": -1 if match["sign"] else 1}


class Reading(FrozenModel):
    """Another meaning that a published count may have: a named sum of exact counts."""

    name: str = Field(min_length=1)
    terms: tuple[Term, ...] = Field(min_length=1)


Model = Annotated[str, AfterValidator(_known_model)]
NamedData = Annotated[DataSet, _named("data")]
NamedHardware = Annotated[Hardware, _named("hardware")]
Terms = Annotated[tuple[Term, ...], Field(min_length=1)]


class Timed(FrozenModel):
    """A time: the phase `whole` if it was timed, else the sum of `phases` of one model."""

    model: Model
    phases: tuple[Phase, ...] = Field(min_length=1)
    whole: Phase | None = None


class ParamsMeasure(FrozenModel):
    """Number of parameters of a component, or of the sum of `terms` if it is none of its own.

    `readings` are tried after this plain count.
    """

    kind: Literal["params"]
    model: Model
    component: str
    column: Literal["total", "used"] = "total"
    terms: tuple[Term, ...] = ()
    readings: tuple[Reading, ...] = ()


class ParamsRatioMeasure(FrozenModel):
    """Ratio of two sums of parameter counts."""

    kind: Literal["params-ratio"]
    numerator: Terms
    denominator: Terms


class LatencyMeasure(Timed):
    """A time in milliseconds."""

    kind: Literal["latency"]
    hardware: NamedHardware


class LatencyRatioMeasure(FrozenModel):
    """Ratio of two times of one run on one machine."""

    kind: Literal["latency-ratio"]
    numerator: Timed
    denominator: Timed
    hardware: NamedHardware


class MiouMeasure(FrozenModel):
    """Mean IoU."""

    kind: Literal["miou"]
    model: Model
    protocol: Annotated[str, AfterValidator(_known_protocol)]
    reference: Annotated[str, AfterValidator(_known_reference)] = GROUND_TRUTH
    data: NamedData
    column: Literal["miou", "miou_per_image", "small", "medium", "large"] = "miou"


class NocMeasure(FrozenModel):
    """Number of clicks until an IoU is reached."""

    kind: Literal["noc"]
    model: Model
    protocol: Annotated[str, AfterValidator(_known_protocol)]
    iou: float = Field(gt=0, le=1)
    data: NamedData
    mode: str | None = Field(default=None, description="where clicks are, if not at the centre")


class ArMeasure(FrozenModel):
    """Average recall of segment everything."""

    kind: Literal["ar"]
    model: Model
    data: NamedData
    column: Literal["ar10", "ar100", "ar1000"]
    mode: str | None = Field(
        default=None, description="prompts and regions, if not the model's own default and masks"
    )


class ApMeasure(FrozenModel):
    """COCO AP of the masks for a detector's boxes."""

    kind: Literal["ap"]
    model: Model
    data: NamedData
    detections: str = Field(description="wildcard for the name of the results file")
    mask: Literal["single", "multi"] | None = Field(default=None, description="None: not stated")


class TrainingMeasure(FrozenModel):
    """A result or a condition of training, which only training can reproduce."""

    kind: Literal["training"]
    command: Annotated[str, _named("commands")]


class DerivedMeasure(FrozenModel):
    """Arithmetic of other claims: the sum of `plus`, or the product of `times`, over `over`."""

    kind: Literal["derived"]
    plus: tuple[str, ...] = ()
    times: tuple[str, ...] = ()
    over: tuple[str, ...] = ()
    factor: float = 1.0


CountMeasure = ParamsMeasure | ParamsRatioMeasure
TimeMeasure = LatencyMeasure | LatencyRatioMeasure
AccuracyMeasure = MiouMeasure | NocMeasure | ArMeasure | ApMeasure
Measure = Annotated[
    CountMeasure | TimeMeasure | AccuracyMeasure | TrainingMeasure | DerivedMeasure,
    Field(discriminator="kind"),
]


class Claim(FrozenModel):
    """One published figure.

    `printed` has the digits and the `unit` of the source, whose way of measuring is stated by
    `protocol` and `conditions` as far as known. `quotient_of` are two claims whose quotient it is,
    if the source does not print it; `note` is a remark for readers of the verdict.
    """

    id: str = Field(pattern=r"^[a-z0-9-]+(\.[a-z0-9-]+)+$")
    source: Annotated[Source, _named("sources")]
    where: str
    what: str
    printed: str = Field(pattern=r"^\d+(\.\d+)?$")
    unit: Unit
    protocol: str
    conditions: str
    tolerance: Annotated[Tolerance, _named("tolerances")]
    measure: Measure
    quotient_of: tuple[str, str] | None = None
    note: str | None = None

    @property
    def source_label(self) -> str:
        """Source and place, such as `MobileSAM (arXiv 2306.14289 v2), Table 3`."""
        return f"{self.paper_label}, {self.where}"

    @property
    def paper_label(self) -> str:
        """Source, such as `MobileSAM (arXiv 2306.14289 v2)`."""
        source = self.source
        paper = f"arXiv {source.arxiv}" if source.arxiv else ""
        details = " ".join(part for part in (paper, source.version) if part)
        return f"{source.name} ({details})" if details else source.name


def rounding_margin(printed: str) -> Fraction:
    """Half of the last digit of a printed figure: a value half way may be rounded either way."""
    return Fraction(1, 2 * 10 ** len(printed.partition(".")[2]))


def same_digits(printed: str, value: Fraction | float) -> bool:
    """Whether a value, rounded to the digits of a printed figure, is that figure."""
    return abs(Fraction(value) - Fraction(printed)) <= rounding_margin(printed)


def agrees(claim: Claim, value: Fraction | float) -> bool:
    """Whether a measurement, in the unit of the claim, lies within its tolerance."""
    low, high = claim.tolerance.bounds(claim.printed)
    return low <= Fraction(value) <= high


def models_of(measure: Measure) -> tuple[str, ...]:
    """Models that a measurement runs."""
    match measure:
        case LatencyRatioMeasure():
            return measure.numerator.model, measure.denominator.model
        case ParamsRatioMeasure():
            terms = (*measure.numerator, *measure.denominator)
            return tuple(term.owner for term in terms if term.owner not in COUNTS)
        case TrainingMeasure() | DerivedMeasure():
            return ()
    return (measure.model,)


def models_needed(claims: Sequence[Claim]) -> tuple[str, ...]:
    """Models that claims are measured on, in order of first appearance."""
    return unique(name for claim in claims for name in models_of(claim.measure))


def protocols_needed(claims: Sequence[Claim], dataset: str) -> tuple[str, ...]:
    """Protocols of mean IoU for claims on `photos`, `synthetic`, `coco` or `sa1b`.

    No paper states the images for comparisons with a teacher, so these are included everywhere; no
    claim is about the packaged photos and synthetic scenes, which get all protocols they support.
    """
    found = []
    for measure in (claim.measure for claim in claims):
        if isinstance(measure, MiouMeasure):
            own = measure.data.pattern.startswith(f"{dataset}:")
            any_data = measure.reference != GROUND_TRUTH or dataset in ("photos", "synthetic")
            if own or (any_data and measure.protocol != "annotation-point"):
                found.append(measure.protocol)
    return unique(found)


def load_claims(folder: Path | None = None) -> tuple[Claim, ...]:
    """Reads the ledger: all claims, by file name, in the order of the files.

    Raises:
        DataError: A file is malformed, an id appears twice, or a name is unknown; the message names
            the file and the claim.
    """
    documents = _read(folder)
    if SHARED not in documents:
        raise DataError(f"the ledger has no {SHARED}; it holds tolerances, hardware and data")
    shared = documents.pop(SHARED)
    claims: dict[str, Claim] = {}
    for name, document in documents.items():
        tables = {**shared, "sources": document.get("sources", {})}
        for raw in _flatten(name, document):
            try:
                claim = Claim.model_validate(raw, context=tables)
            except ValidationError as error:
                label = f"{name}: claim {raw.get('id', 'without id')}"
                raise DataError(f"{label}: {first_problem(error)}") from error
            if claim.id in claims:
                raise DataError(f"{name}: claim {claim.id} appears twice; give it another id")
            claims[claim.id] = claim
    if not claims:
        raise DataError("the ledger holds no claim; add a file with [[group]] tables")
    for claim in claims.values():
        _check_references(claim, claims)
    return tuple(claims.values())


def _read(folder: Path | None) -> dict[str, dict[str, Any]]:
    """Parsed files of the ledger by their names."""
    where = resources.files("benchmarks.paper").joinpath("ledger") if folder is None else folder
    found = {}
    try:
        for file in sorted((f for f in where.iterdir() if f.name.endswith(".toml")), key=str):
            try:
                found[file.name] = tomllib.loads(file.read_text(encoding="utf-8"))
            except tomllib.TOMLDecodeError as error:
                raise DataError(f"{file.name} is not TOML: {error}") from error
    except OSError as error:
        raise DataError(f"cannot read the ledger in {where}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"a file of the ledger in {where} is not UTF-8: {error}") from error
    return found


def _flatten(name: str, document: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The claims of a file, each with the fields of its group; a measure is merged by field."""
    unknown = document.keys() - {"sources", "group"}
    if unknown:
        raise DataError(f"{name}: unknown {', '.join(sorted(unknown))}; wanted sources and group")
    for number, group in enumerate(document.get("group", []), start=1):
        claims = group.get("claims") if isinstance(group, dict) else None
        if not isinstance(claims, list) or not all(isinstance(each, dict) for each in claims):
            raise DataError(f"{name}: group {number} needs `claims`, a list of tables")
        common = {key: value for key, value in group.items() if key != "claims"}
        for raw in claims:
            measure = {**common.get("measure", {}), **raw.get("measure", {})}
            yield {**common, **raw, "measure": measure}


def _check_references(claim: Claim, claims: Mapping[str, Claim]) -> None:
    """Checks that other claims that a claim refers to exist, and that quotients are correct."""
    measure = claim.measure
    others: Iterable[str] = claim.quotient_of or ()
    if isinstance(measure, DerivedMeasure):
        others = (*others, *measure.plus, *measure.times, *measure.over)
        if bool(measure.plus) == bool(measure.times):
            raise DataError(f"claim {claim.id}: give either plus or times")
    for other in others:
        if other not in claims:
            raise DataError(f"claim {claim.id} refers to {other!r}, which is not in the ledger")
    if claim.quotient_of is not None:
        upper, lower = (Fraction(claims[other].printed) for other in claim.quotient_of)
        if not lower or not same_digits(claim.printed, upper / lower):
            raise DataError(
                f"claim {claim.id}: {claim.printed} is not the quotient of "
                f"{' and '.join(claim.quotient_of)}"
            )
