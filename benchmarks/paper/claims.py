"""The ledger: every published figure as data, read from TOML files and validated.

Each file of the folder `ledger`, in the order of their names, holds `[sources.KEY]` tables and
`[[group]]` tables, whose fields are shared by the `claims` of the group. `shared.toml` holds what
all files share: `[tolerances.KEY]`, `[hardware.KEY]`, `[data.KEY]` and `[commands]`, referred to by
their keys.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from benchmarks.paper.measures import DerivedMeasure, Measure, MiouMeasure, models_of, named
from benchmarks.prompts.protocols import GROUND_TRUTH
from benchmarks.tables.record_queries import unique
from mobilesam.errors import DataError, first_problem
from mobilesam.frozen_model import FrozenModel

SHARED = "shared.toml"
Unit = Literal[
    "M parameters", "parameters", "ms", "ratio", "mIoU", "mIoU %", "AP %", "AR %", "GPUs", "images",
    "iterations", "epochs", "days", "%",
]  # fmt: skip


class Source(FrozenModel):
    """Publication of a claim; `version` is that of the paper, or the state of a web page."""

    name: str
    arxiv: str | None = None
    version: str | None = None

    @property
    def label(self) -> str:
        """Name and version, such as `MobileSAM (arXiv 2306.14289 v2)`."""
        paper = f"arXiv {self.arxiv}" if self.arxiv else ""
        details = " ".join(part for part in (paper, self.version) if part)
        return f"{self.name} ({details})" if details else self.name


class Tolerance(FrozenModel):
    """Largest deviation of a measurement that agrees with the claim, in its unit, and the reason.

    Exactly one of: `digits` (equal when rounded to the digits printed), `plus_minus`, `relative`,
    or the bounds `low` and `high`.
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


class Claim(FrozenModel):
    """One published figure.

    Attributes:
        id: Unique; source, place and figure, such as `mobilesam.table3.encoder-latency`.
        source: Publication.
        where: Table, figure or section of the source.
        what: Meaning of the figure according to the source, in our own words.
        printed: The figure with the digits it was printed with.
        unit: Unit of `printed`.
        protocol: How the source measured it, as far as known.
        conditions: Hardware, data, and what the source does not state.
        tolerance: Deviations that agree with it.
        measure: How it is measured here.
        quotient_of: Two claims whose quotient it is, if the source does not print it.
        note: Remark for readers of the verdict.
    """

    id: str = Field(pattern=r"^[a-z0-9-]+(\.[a-z0-9-]+)+$")
    source: Annotated[Source, named("sources")]
    where: str
    what: str
    printed: str = Field(pattern=r"^\d+(\.\d+)?$")
    unit: Unit
    protocol: str
    conditions: str
    tolerance: Annotated[Tolerance, named("tolerances")]
    measure: Measure
    quotient_of: tuple[str, str] | None = None
    note: str | None = None

    @property
    def source_label(self) -> str:
        """Source and place, such as `MobileSAM (arXiv 2306.14289 v2), Table 3`."""
        return f"{self.source.label}, {self.where}"


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


def models_needed(claims: Sequence[Claim]) -> tuple[str, ...]:
    """Models that claims are measured on, in order of first appearance."""
    return unique(name for claim in claims for name in models_of(claim.measure))


def protocols_needed(claims: Sequence[Claim], dataset: str) -> tuple[str, ...]:
    """Protocols of mean IoU for claims on a dataset, and for all claims that need a teacher.

    No paper states the images for comparisons with a teacher, so any images serve for orientation.
    No claim was made on the packaged photos and synthetic scenes; for these, all protocols that
    they support are returned.

    Args:
        claims: The ledger.
        dataset: `photos`, `synthetic`, `coco` or `sa1b`.
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
    """Reads the ledger.

    Args:
        folder: Folder with `shared.toml` and one or more files of claims; by default the shipped
            ledger.

    Returns:
        All claims, by file name, in the order of the files.

    Raises:
        DataError: A file is malformed, an id appears twice, or a name is unknown; the message names
            the file and the claim.
    """
    documents = {name: _parse(name, text) for name, text in _read(folder).items()}
    if SHARED not in documents:
        raise DataError(f"the ledger has no {SHARED}; it holds tolerances, hardware and data")
    shared = documents.pop(SHARED)
    claims: dict[str, Claim] = {}
    for name, document in documents.items():
        for raw in _flatten(name, document):
            claim = _claim(name, raw, {**shared, "sources": document.get("sources", {})})
            if claim.id in claims:
                raise DataError(f"{name}: claim {claim.id} appears twice; give it another id")
            claims[claim.id] = claim
    if not claims:
        raise DataError("the ledger holds no claim; add a file with [[group]] tables")
    for claim in claims.values():
        _check_references(claim, claims)
    return tuple(claims.values())


def _read(folder: Path | None) -> dict[str, str]:
    where = resources.files("benchmarks.paper").joinpath("ledger") if folder is None else folder
    try:
        files = sorted((f for f in where.iterdir() if f.name.endswith(".toml")), key=str)
        return {file.name: file.read_text(encoding="utf-8") for file in files}
    except OSError as error:
        raise DataError(f"cannot read the ledger in {where}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"a file of the ledger in {where} is not UTF-8: {error}") from error


def _parse(name: str, text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise DataError(f"{name} is not TOML: {error}") from error


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


def _claim(name: str, raw: Mapping[str, Any], tables: Mapping[str, Any]) -> Claim:
    label = f"{name}: claim {raw.get('id', 'without id')}"
    try:
        return Claim.model_validate(raw, context=tables)
    except ValidationError as error:
        raise DataError(f"{label}: {first_problem(error)}") from error


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
