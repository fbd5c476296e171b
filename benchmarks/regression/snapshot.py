"""Facts that do not depend on the clock, what may move them, and their comparison with a baseline.

A fact is exact, or a group of floats with a tolerance that is stated beside them, since processors
round differently. The networks' numbers, without the vector instructions that they were made with
(SSE4 in the place of AVX2), moved by less than a hundredth of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from benchmarks.records.record import write_atomic
from mobilesam.errors import DataError, UsageError
from mobilesam.frozen_model import FrozenModel
from mobilesam.validation import first_problem

BaselineVersion = Literal[1]
BASELINE_VERSION: BaselineVersion = 1

FactValue = int | str | tuple[float, ...]
Verdict = Literal["same", "changed", "vanished", "appeared"]


class Fact(FrozenModel):
    """One thing that is known of a model or of the data.

    Attributes:
        subject: The model, or the name of the data.
        what: Such as `mask_decoder: parameters`.
        value: An integer or a text, both exact, or floats.
        tolerance: How far each float may move, in its own unit.
    """

    subject: str
    what: str
    value: FactValue
    tolerance: float = 0.0


class Baseline(FrozenModel):
    """Facts as they were agreed upon, and where they were found.

    `cpu` and `libraries` only help to explain a difference: nothing is compared with them.
    """

    schema_version: BaselineVersion = BASELINE_VERSION
    cpu: str
    libraries: dict[str, str]
    facts: tuple[Fact, ...]


@dataclass(frozen=True, slots=True)
class Comparison:
    """A fact before and now; None where there is none."""

    before: Fact | None
    now: Fact | None

    @property
    def fact(self) -> Fact:
        """Whichever there is, the present one first."""
        found = self.now or self.before
        assert found is not None  # noqa: S101 - one of the two is always given
        return found

    @property
    def deviation(self) -> float | None:
        """Furthest move of a float, in units of its tolerance; None if nothing is a float."""
        before, now = self.before, self.now
        if before is None or now is None:
            return None
        if not isinstance(before.value, tuple) or not isinstance(now.value, tuple):
            return None
        if len(before.value) != len(now.value):
            return float("inf")
        moves = [abs(a - b) for a, b in zip(before.value, now.value, strict=True)]
        furthest = max(moves, default=0.0)
        # The agreed tolerance: a value that has grown must not bring a wider one along.
        if before.tolerance > 0:
            return furthest / before.tolerance
        return float("inf") if furthest > 0 else 0.0

    @property
    def verdict(self) -> Verdict:
        """What has become of the fact."""
        if self.before is None:
            return "appeared"
        if self.now is None:
            return "vanished"
        deviation = self.deviation
        if deviation is not None:
            return "same" if deviation <= 1 else "changed"
        return "same" if self.before.value == self.now.value else "changed"


def compare_facts(before: Iterable[Fact], now: Iterable[Fact]) -> tuple[Comparison, ...]:
    """Pairs facts by subject and name: today's in their order, then those that vanished."""
    old = {(fact.subject, fact.what): fact for fact in before}
    new = {(fact.subject, fact.what): fact for fact in now}
    found = [Comparison(old.get(key), fact) for key, fact in new.items()]
    found += [Comparison(fact, None) for key, fact in old.items() if key not in new]
    return tuple(found)


def merged(before: Sequence[Fact], now: Sequence[Fact], judged: Iterable[str]) -> tuple[Fact, ...]:
    """The new baseline: today's facts, and the old ones of subjects that were not looked at.

    What was there keeps its place, so that a diff shows nothing but changes.
    """
    looked_at = set(judged)
    new = {(fact.subject, fact.what): fact for fact in now}
    kept = []
    for old in before:
        fact = new.pop((old.subject, old.what), None)
        if fact is not None:
            kept.append(fact)
        elif old.subject not in looked_at:
            kept.append(old)
    return (*kept, *new.values())


def load_baseline(path: Path) -> Baseline:
    """Reads a baseline.

    Raises:
        UsageError: There is none.
        DataError: It is not one.
    """
    try:
        return Baseline.model_validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise UsageError(
            f"no baseline {path}; write one with --update, or name another with --baseline"
        ) from error
    except OSError as error:
        raise DataError(f"cannot read the baseline {path}: {error.strerror}") from error
    except ValidationError as error:
        raise DataError(
            f"{path} is not a baseline of this version: {first_problem(error)}; "
            "write it anew with --update"
        ) from error


def save_baseline(baseline: Baseline, path: Path) -> None:
    """Writes a baseline, a fact a line, so that a diff reads well.

    Raises:
        DataError: It cannot be written.
    """
    head = baseline.model_dump_json(exclude={"facts"}, indent=1).removesuffix("\n}")
    lines = ",\n".join(f"  {fact.model_dump_json()}" for fact in baseline.facts)
    text = f'{head},\n "facts": [\n{lines}\n ]\n}}\n'
    write_atomic(path, text.encode(), "name another with --baseline")
