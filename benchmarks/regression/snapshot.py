"""Facts that do not depend on time, their committed baseline, and the comparison with it.

A fact is exact, or a group of floats with a tolerance, since processors round differently. The
networks' numbers moved by less than a hundredth of it when computed with SSE4 instead of AVX2.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from benchmarks.records.record import write_atomic
from benchmarks.tables.columns import build_table, count_column, text_column, value_column
from benchmarks.tables.formatting import number
from benchmarks.tables.table import Table
from mobilesam.errors import UsageError
from mobilesam.frozen_model import FrozenModel

FactValue = int | str | tuple[float, ...]
Verdict = Literal["same", "changed", "missing", "new"]
_SHOWN_FLOATS = 3
_SHOWN_TEXT = 16


class Fact(FrozenModel):
    """One property of a model or of a dataset, such as `mask_decoder: parameters`.

    Integers and texts are exact; each float may move by `tolerance`.
    """

    subject: str
    what: str
    value: FactValue
    tolerance: float = 0.0

    @property
    def key(self) -> tuple[str, str]:
        """Identifies the fact."""
        return self.subject, self.what


class Baseline(FrozenModel):
    """Agreed facts, and where they were determined.

    `cpu` and `libraries` only help to explain a difference; they are not compared.
    """

    schema_version: Literal[1] = 1
    cpu: str
    libraries: dict[str, str]
    facts: tuple[Fact, ...]


@dataclass(frozen=True, slots=True)
class Comparison:
    """A fact before and now; at least one of the two is there."""

    before: Fact | None
    now: Fact | None

    @property
    def fact(self) -> Fact:
        """The present fact, or the earlier one if it is missing."""
        found = self.now or self.before
        assert found is not None  # noqa: S101 - one of the two is always given
        return found

    @property
    def deviation(self) -> float | None:
        """Furthest move of a float, in units of its tolerance; None if there are no floats."""
        before, now = self.before, self.now
        if before is None or now is None:
            return None
        if not isinstance(before.value, tuple) or not isinstance(now.value, tuple):
            return None
        if len(before.value) != len(now.value):
            return float("inf")
        moves = [abs(a - b) for a, b in zip(before.value, now.value, strict=True)]
        furthest = max(moves, default=0.0)
        # By the agreed tolerance: the present one grows with the value.
        if before.tolerance > 0:
            return furthest / before.tolerance
        return float("inf") if furthest > 0 else 0.0

    @property
    def verdict(self) -> Verdict:
        """Whether the fact is the same, changed, missing now, or new."""
        if self.before is None:
            return "new"
        if self.now is None:
            return "missing"
        deviation = self.deviation
        same = self.before.value == self.now.value if deviation is None else deviation <= 1
        return "same" if same else "changed"


def compare_facts(before: Iterable[Fact], now: Iterable[Fact]) -> tuple[Comparison, ...]:
    """Pairs facts by subject and name: present facts in their order, then missing ones."""
    old, new = ({fact.key: fact for fact in facts} for facts in (before, now))
    found = [Comparison(old.get(key), fact) for key, fact in new.items()]
    found += [Comparison(fact, None) for key, fact in old.items() if key not in new]
    return tuple(found)


def merged(before: Sequence[Fact], now: Sequence[Fact], judged: Iterable[str]) -> tuple[Fact, ...]:
    """The new baseline: present facts, and earlier facts of subjects that were not judged.

    Earlier facts keep their place, so that a diff shows changes only.
    """
    judged = set(judged)
    new = {fact.key: fact for fact in now}
    kept = [new.pop(old.key, old) for old in before if old.key in new or old.subject not in judged]
    return (*kept, *new.values())


def load_baseline(path: Path) -> Baseline:
    """Reads a baseline; a `UsageError` if the file is missing, a `DataError` if it is none."""
    if not path.exists():
        raise UsageError(
            f"no baseline {path}; write one with --update, or name another with --baseline"
        )
    return Baseline.from_file(path, "baseline", "; replace it with --update")


def save_baseline(baseline: Baseline, path: Path) -> None:
    """Writes a baseline with one fact a line, for readable diffs."""
    head = baseline.model_dump_json(exclude={"facts"}, indent=1).removesuffix("\n}")
    lines = ",\n".join(f"  {fact.model_dump_json()}" for fact in baseline.facts)
    text = f'{head},\n "facts": [\n{lines}\n ]\n}}\n'
    write_atomic(path, text.encode(), "name another with --baseline")


def subject_table(comparisons: Sequence[Comparison]) -> Table:
    """Table with one row for each model or dataset: number of facts, and largest deviation."""
    rows = []
    for subject in dict.fromkeys(each.fact.subject for each in comparisons):
        own = [each for each in comparisons if each.fact.subject == subject]
        moves = [move for each in own if (move := each.deviation) is not None]
        n_changed = sum(each.verdict != "same" for each in own)
        furthest = max(moves, default=None)
        rows.append((subject, len(own) - len(moves), len(moves), n_changed, furthest))
    columns = (
        text_column("Subject", "subject", get=("0",)),
        count_column("Exact facts", "exact", get=("1",)),
        count_column("With tolerance", "with_tolerance", get=("2",)),
        count_column("Not the same", "not_same", get=("3",)),
        value_column(
            "Furthest move", "furthest_move", unit="% of tolerance", get=("4",),
            show=lambda move: f"{100 * move:.3g}",
        ),
    )  # fmt: skip
    return build_table("gate", "Gate: facts that do not depend on time", columns, rows)


def change_table(comparisons: Sequence[Comparison]) -> Table:
    """Table with one row for each fact that differs from the baseline."""
    columns = (
        text_column("Subject", "subject", get=("fact.subject",)),
        text_column("Fact", "fact", get=("fact.what",)),
        text_column("Verdict", "verdict"),
        text_column("Baseline", "baseline", get=(lambda each: _text(each.before, each.now),)),
        text_column("Now", "now", get=(lambda each: _text(each.now, each.before),)),
        text_column("Change", "change", get=(_move,)),
    )
    rows = [each for each in comparisons if each.verdict != "same"]
    return build_table("gate-changes", "Differences from the baseline", columns, rows)


def _text(fact: Fact | None, other: Fact | None) -> str:
    """Value of a fact, shortened; of many floats only those that moved most."""
    if fact is None:
        return "none"
    value: FactValue = fact.value
    if isinstance(value, tuple):
        shown = list(value)
        if other is not None and isinstance(other.value, tuple) and len(other.value) == len(value):
            moves = [abs(a - b) for a, b in zip(value, other.value, strict=True)]
            shown = [value[i] for i in sorted(range(len(value)), key=lambda i: -moves[i])]
        text = " ".join(f"{each:.6g}" for each in shown[:_SHOWN_FLOATS])
        return text if len(value) <= _SHOWN_FLOATS else f"{text} ..."
    if isinstance(value, int):
        return f"{value:,}"
    return value if len(value) <= _SHOWN_TEXT else f"{value[:_SHOWN_TEXT]}..."


def _move(comparison: Comparison) -> str:
    before, now = comparison.before, comparison.now
    if before is None or now is None:
        return ""
    if isinstance(before.value, int) and isinstance(now.value, int):
        change = now.value - before.value
        share = f" ({100 * change / before.value:+.2f} %)" if before.value else ""
        return f"{change:+,}{share}"
    deviation = comparison.deviation
    if deviation is None:
        return "other"
    return f"{number(deviation)} x the tolerance of {before.tolerance:.3g}"
