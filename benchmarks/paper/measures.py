"""How a claim is measured: one pydantic model for each kind of measurement."""

from __future__ import annotations

import functools
import re
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    ValidationInfo,
    model_validator,
)

from baselines.registry import entries
from benchmarks.paper.counts import COUNTS, derived_count
from benchmarks.prompts import protocols
from benchmarks.tables.record_queries import PHASES
from mobilesam.errors import UsageError
from mobilesam.frozen_model import FrozenModel

_PHASE = re.compile(r"(?P<name>[a-z_]+)((?P<kind>[@*])(?P<n_prompts>[1-9]\d*))?")
_TERM = re.compile(r"(?P<sign>-?)(?P<owner>[a-z0-9-]+)/(?P<part>[\w-]+)/(?P<column>[\w-]+)")


def named(section: str) -> BeforeValidator:
    """Replaces a key by the table `[SECTION.KEY]` of the ledger, the context of the validation."""

    def look_up(key: object, info: ValidationInfo) -> object:
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
        protocols.find_protocols([name])
    except UsageError as error:
        raise ValueError(str(error)) from error
    return name


def _known_reference(text: str) -> str:
    if text != protocols.GROUND_TRUTH:
        kind, _, teacher = text.partition(":")
        if kind != "teacher":
            raise ValueError(f"reference {text!r} is neither ground-truth nor teacher:NAME")
        _known_model(teacher)
    return text


Model = Annotated[str, AfterValidator(_known_model)]
Protocol = Annotated[str, AfterValidator(_known_protocol)]
Reference = Annotated[str, AfterValidator(_known_reference)]


class Phase(FrozenModel):
    """A phase in a sum of times.

    Written as `encode`, as `decode@10` (timed at ten prompts), or as `decode*1024` (scaled up from
    the largest number of prompts that was timed).
    """

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
    """A term in a sum of parameter counts.

    Written as `model/component/column`, or as one of `COUNTS` with its variant and column; a minus
    in front subtracts it.
    """

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


NamedData = Annotated[DataSet, named("data")]
NamedHardware = Annotated[Hardware, named("hardware")]


class Timed(FrozenModel):
    """A time: the phase `whole` if it was timed, else the sum of `phases` of one model."""

    model: Model
    phases: tuple[Phase, ...] = Field(min_length=1)
    whole: Phase | None = None


class ParamsMeasure(FrozenModel):
    """Number of parameters; `readings` are tried after the plain count."""

    kind: Literal["params"]
    model: Model
    component: str
    column: Literal["total", "used"] = "total"
    readings: tuple[Reading, ...] = ()


class ParamsRatioMeasure(FrozenModel):
    """Ratio of two sums of parameter counts."""

    kind: Literal["params-ratio"]
    numerator: tuple[Term, ...] = Field(min_length=1)
    denominator: tuple[Term, ...] = Field(min_length=1)


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
    protocol: Protocol
    reference: Reference = protocols.GROUND_TRUTH
    data: NamedData
    column: Literal["miou", "miou_per_image", "small", "medium", "large"] = "miou"


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


AccuracyMeasure = MiouMeasure | ArMeasure | ApMeasure


class TrainingMeasure(FrozenModel):
    """A result or a condition of training, which only training can reproduce."""

    kind: Literal["training"]
    command: Annotated[str, named("commands")]


class DerivedMeasure(FrozenModel):
    """Arithmetic of other claims: the sum of `plus`, or the product of `times`, over `over`."""

    kind: Literal["derived"]
    plus: tuple[str, ...] = ()
    times: tuple[str, ...] = ()
    over: tuple[str, ...] = ()
    factor: float = 1.0


Measure = Annotated[
    ParamsMeasure
    | ParamsRatioMeasure
    | LatencyMeasure
    | LatencyRatioMeasure
    | AccuracyMeasure
    | TrainingMeasure
    | DerivedMeasure,
    Field(discriminator="kind"),
]


def models_of(measure: Measure) -> tuple[str, ...]:
    """Models that a measurement runs."""
    if isinstance(measure, LatencyRatioMeasure):
        return measure.numerator.model, measure.denominator.model
    if isinstance(measure, ParamsRatioMeasure):
        terms = (*measure.numerator, *measure.denominator)
        return tuple(term.owner for term in terms if term.owner not in COUNTS)
    if isinstance(measure, TrainingMeasure | DerivedMeasure):
        return ()
    return (measure.model,)
