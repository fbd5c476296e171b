"""What measures a claim here: one frozen value for each kind of measurement."""

from __future__ import annotations

import functools
import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from baselines.registry import entries
from benchmarks.paper.counts import COUNTS, derived_count
from benchmarks.prompts.protocols import find_protocols
from benchmarks.tables.record_queries import PHASES
from mobilesam.errors import UsageError

_PHASE = re.compile(r"([a-z_]+)(?:([@*])([1-9]\d*))?")
_TERM = re.compile(r"(-?)([a-z0-9-]+)/([a-z0-9_-]+)/([a-z0-9_-]+)")
COLUMNS = ("total", "used")


class Spec(BaseModel):
    """Base of all parts of a ledger: frozen, nothing unknown, no NaN."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


@functools.cache
def _model_names() -> tuple[str, ...]:
    """Registered names; asking for entry points takes milliseconds, and a ledger asks often."""
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
    if text != "ground-truth":
        kind, _, teacher = text.partition(":")
        if kind != "teacher":
            raise ValueError(f"reference {text!r} is neither ground-truth nor teacher:NAME")
        _known_model(teacher)
    return text


def _known_phase(text: str) -> str:
    parse_phase(text)
    return text


def _known_term(text: str) -> str:
    parse_term(text)
    return text


Model = Annotated[str, AfterValidator(_known_model)]
Protocol = Annotated[str, AfterValidator(_known_protocol)]
Reference = Annotated[str, AfterValidator(_known_reference)]
Phase = Annotated[str, AfterValidator(_known_phase)]
Term = Annotated[str, AfterValidator(_known_term)]


def parse_phase(text: str) -> tuple[str, int | None, bool]:
    """Reads a phase of a sum of times.

    Args:
        text: `encode`; `decode@10`, as timed at ten prompts; `decode*1024`, scaled up from the
            largest number of prompts that was timed.

    Returns:
        The phase, the number of prompts, and whether it may be scaled.

    Raises:
        ValueError: Not of that form, or no phase of that name.
    """
    match = _PHASE.fullmatch(text)
    if match is None or match[1] not in PHASES:
        raise ValueError(f"unknown phase {text!r}; known: {', '.join(PHASES)}, each @N or *N")
    return match[1], int(match[3]) if match[3] else None, match[2] == "*"


def parse_term(text: str) -> tuple[int, str, str, str]:
    """Reads a term of a sum of counts: `model/component/column`, or one of `COUNTS`.

    Returns:
        Sign (1 or -1), model or source of a derived count, component or variant, and column.

    Raises:
        ValueError: Not of that form, or unknown.
    """
    match = _TERM.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not model/component/column")
    sign, owner, part, column = -1 if match[1] else 1, match[2], match[3], match[4]
    if owner in COUNTS:
        derived_count(owner, part, column)
    else:
        _known_model(owner)
        if column not in COLUMNS:
            raise ValueError(f"unknown column {column!r} in {text!r}; choose total or used")
    return sign, owner, part, column


class Reading(Spec):
    """What a published count may be besides its plain meaning: a named sum of exact counts."""

    name: str = Field(min_length=1)
    terms: tuple[Term, ...] = Field(min_length=1)


class DataSet(Spec):
    """The images that a claim is about.

    `pattern` is a wildcard for the dataset's name in a record; a subset has fewer images or
    instances than `min_images` and `min_instances`, and settles nothing.
    """

    pattern: str
    what: str
    min_images: int = 1
    min_instances: int = 1
    arguments: str = Field(description="options of the command line that name it")
    caution: str | None = None


class Hardware(Spec):
    """What a time was published for; `gpu` is part of the device's name, or None: not stated."""

    device: Literal["cpu", "cuda"]
    gpu: str | None = None
    what: str


class Timed(Spec):
    """A time: the sum of phases of one model, or, where it was timed, the phase `whole`."""

    model: Model
    phases: tuple[Phase, ...] = Field(min_length=1)
    whole: Phase | None = None


class ParamsMeasure(Spec):
    """A count of parameters; `readings` are tried after the plain one."""

    kind: Literal["params"]
    model: Model
    component: str
    column: Literal["total", "used"] = "total"
    readings: tuple[Reading, ...] = ()


class ParamsRatioMeasure(Spec):
    """How many times larger one sum of counts is than another."""

    kind: Literal["params-ratio"]
    numerator: tuple[Term, ...] = Field(min_length=1)
    denominator: tuple[Term, ...] = Field(min_length=1)


class LatencyMeasure(Timed):
    """A time in milliseconds."""

    kind: Literal["latency"]
    hardware: Hardware


class LatencyRatioMeasure(Spec):
    """How many times longer one time is than another, of one run on one machine."""

    kind: Literal["latency-ratio"]
    numerator: Timed
    denominator: Timed
    hardware: Hardware


class MiouMeasure(Spec):
    """A mean IoU."""

    kind: Literal["miou"]
    model: Model
    protocol: Protocol
    reference: Reference = "ground-truth"
    data: DataSet
    column: Literal["miou", "miou_per_image", "small", "medium", "large"] = "miou"


class ArMeasure(Spec):
    """An average recall of segment everything; `mode` says how its prompts and regions differ."""

    kind: Literal["ar"]
    model: Model
    data: DataSet
    column: Literal["ar10", "ar100", "ar1000"]
    mode: str | None = Field(default=None, description="None: the model's own default, masks")


class ApMeasure(Spec):
    """COCO AP of the masks for a detector's boxes."""

    kind: Literal["ap"]
    model: Model
    data: DataSet
    detections: str = Field(description="wildcard for the name of the results file")
    mask: Literal["single", "multi"] | None = Field(default=None, description="None: not stated")


class TrainingMeasure(Spec):
    """A result or a condition of training, which only training can settle."""

    kind: Literal["training"]
    command: str


class DerivedMeasure(Spec):
    """Arithmetic of other claims: the sum of `plus`, or the product of `times` over `over`."""

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
    | MiouMeasure
    | ArMeasure
    | ApMeasure
    | TrainingMeasure
    | DerivedMeasure,
    Field(discriminator="kind"),
]
