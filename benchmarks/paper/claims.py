"""The ledger: every published figure as data, read from TOML and validated.

Each file of the folder `ledger`, in the order of their names, holds `[sources.KEY]` tables and
`[[group]]` tables, whose fields are what the `claims` of a group have in common. `shared.toml`
holds what files have in common: `[tolerances.KEY]`, `[hardware.KEY]`, `[data.KEY]` and
`[commands]`, referred to by their keys.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from benchmarks.paper.measures import DerivedMeasure, Measure, Spec
from mobilesam.errors import DataError

SHARED = "shared.toml"
Unit = Literal[
    "M parameters",
    "parameters",
    "ms",
    "ratio",
    "mIoU",
    "mIoU %",
    "AP %",
    "AR %",
    "GPUs",
    "images",
    "iterations",
    "epochs",
    "days",
    "%",
]
_NAMED = {"tolerance": "tolerances", "hardware": "hardware", "data": "data", "command": "commands"}


class Source(Spec):
    """Where a claim was published; `version` is the paper's, or the state of a web page."""

    name: str
    arxiv: str | None = None
    version: str | None = None

    @property
    def label(self) -> str:
        """As printed: `MobileSAM (arXiv 2306.14289 v2)`."""
        paper = f"arXiv {self.arxiv}" if self.arxiv else ""
        details = " ".join(part for part in (paper, self.version) if part)
        return f"{self.name} ({details})" if details else self.name


class Tolerance(Spec):
    """How far a measurement may lie from the claim, in the claim's unit, and why so far.

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


class Claim(Spec):
    """One published figure.

    Attributes:
        id: Unique; source, place and figure, such as `mobilesam.table3.encoder-latency`.
        source: Who published it.
        where: Table, figure or section of the source.
        what: What the figure is said to be, in our own words.
        printed: The figure with the digits it was printed with.
        unit: Of `printed`.
        protocol: How it was measured, as far as known.
        conditions: Hardware, data, and what is not stated.
        tolerance: When a measurement agrees with it.
        measure: What measures it here.
        quotient_of: Two claims whose quotient it is, where the figure itself is not printed.
        note: What a reader of the verdict should know.
    """

    id: str = Field(pattern=r"^[a-z0-9-]+(\.[a-z0-9-]+)+$")
    source: Source
    where: str
    what: str
    printed: str = Field(pattern=r"^\d+(\.\d+)?$")
    unit: Unit
    protocol: str
    conditions: str
    tolerance: Tolerance
    measure: Measure
    quotient_of: tuple[str, str] | None = None
    note: str | None = None

    @property
    def value(self) -> float:
        """The figure, in its unit."""
        return float(self.printed)

    @property
    def source_label(self) -> str:
        """Source and place, such as `MobileSAM (arXiv 2306.14289 v2), Table 3`."""
        return f"{self.source.label}, {self.where}"


def same_digits(printed: str, value: Fraction | float) -> bool:
    """Whether a value, rounded to the digits of a printed figure, is that figure.

    A value that lies half way between two figures may have been rounded to either.
    """
    decimals = len(printed.partition(".")[2])
    return abs(Fraction(value) - Fraction(printed)) <= Fraction(1, 2 * 10**decimals)


def agrees(claim: Claim, value: Fraction | float) -> bool:
    """Whether a measurement, in the claim's unit, lies within the claim's tolerance."""
    tolerance, exact = claim.tolerance, Fraction(claim.printed)
    if tolerance.low is not None and tolerance.high is not None:
        return Fraction(str(tolerance.low)) <= value <= Fraction(str(tolerance.high))
    value = Fraction(value)
    if tolerance.plus_minus is not None:
        return abs(value - exact) <= Fraction(str(tolerance.plus_minus))
    if tolerance.relative is not None:
        return abs(value - exact) <= Fraction(str(tolerance.relative)) * exact
    return same_digits(claim.printed, value)


def load_claims(folder: Path | None = None) -> tuple[Claim, ...]:
    """Reads the ledger.

    Args:
        folder: With `shared.toml` and one file or more of claims; the shipped one unless told.

    Returns:
        All claims, by file name, in the order of the files.

    Raises:
        DataError: Not TOML, malformed, an id twice, or a name that stands for nothing; the message
            says in which file and claim.
    """
    texts = _read(folder)
    if SHARED not in texts:
        raise DataError(f"the ledger has no {SHARED}; it holds tolerances, hardware and data")
    shared = _parse(SHARED, texts.pop(SHARED))
    found: dict[str, Claim] = {}
    for name, text in texts.items():
        document = _parse(name, text)
        for raw in _flatten(name, document):
            claim = _claim(name, raw, {**shared, "sources": document.get("sources", {})})
            if claim.id in found:
                raise DataError(f"{name}: claim {claim.id} appears twice; give it another id")
            found[claim.id] = claim
    if not found:
        raise DataError("the ledger holds no claim; add a file with [[group]] tables")
    _check_references(found)
    return tuple(found.values())


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


def _flatten(name: str, document: Mapping[str, Any]) -> Iterable[dict[str, Any]]:
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


def _claim(name: str, raw: dict[str, Any], named: Mapping[str, Any]) -> Claim:
    label = f"{name}: claim {raw.get('id', 'without id')}"
    raw = _resolve(raw, {"source": "sources", **_NAMED}, named, label)
    raw["measure"] = _resolve(raw["measure"], _NAMED, named, label)
    try:
        return Claim.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the claim"
        raise DataError(f"{label}: {where}: {first['msg']}") from error


def _resolve(
    raw: Mapping[str, Any], fields: Mapping[str, str], named: Mapping[str, Any], label: str
) -> dict[str, Any]:
    """Puts what a key stands for in the key's place; a table written in place stays."""
    result = dict(raw)
    for field, section in fields.items():
        key = raw.get(field)
        if not isinstance(key, str):
            continue
        table = named.get(section, {})
        if key not in table:
            known = ", ".join(table) or "none"
            raise DataError(f"{label}: unknown {field} {key!r}; known: {known}")
        result[field] = table[key]
    return result


def _check_references(found: Mapping[str, Claim]) -> None:
    """Every claim that another one is made of exists, and quotients are what they say."""
    for claim in found.values():
        measure = claim.measure
        others: Sequence[str] = claim.quotient_of or ()
        if isinstance(measure, DerivedMeasure):
            others = (*others, *measure.plus, *measure.times, *measure.over)
            if bool(measure.plus) == bool(measure.times):
                raise DataError(f"claim {claim.id}: give either plus or times")
        for other in others:
            if other not in found:
                raise DataError(f"claim {claim.id} refers to {other!r}, which is not in the ledger")
        if claim.quotient_of is not None:
            upper, lower = (Fraction(found[other].printed) for other in claim.quotient_of)
            if not lower or not same_digits(claim.printed, upper / lower):
                raise DataError(
                    f"claim {claim.id}: {claim.printed} is not the quotient of "
                    f"{' and '.join(claim.quotient_of)}"
                )
