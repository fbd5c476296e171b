"""The gate's findings as tables for people: one line a subject, and one for each change."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.regression.snapshot import Comparison, Fact, FactValue
from benchmarks.tables.formatting import number
from benchmarks.tables.table import Cell, Column, Table

SHOWN_FLOATS = 3
SHOWN_TEXT = 16


def subject_table(comparisons: Sequence[Comparison]) -> Table:
    """One line for each model or dataset: how many facts, and how near to their tolerance."""
    subjects = dict.fromkeys(each.fact.subject for each in comparisons)
    rows = []
    for subject in subjects:
        own = [each for each in comparisons if each.fact.subject == subject]
        moves = [move for each in own if (move := each.deviation) is not None]
        wrong = sum(each.verdict != "same" for each in own)
        counts = (len(own) - len(moves), len(moves), wrong)
        rows.append(
            (
                Cell(subject, (subject,)),
                *(Cell(str(count), (count,)) for count in counts),
                Cell(f"{100 * max(moves):.3g}" if moves else "", (max(moves, default=None),)),
            )
        )
    columns = (
        Column("Subject", ("subject",)),
        Column("Exact facts", ("exact",), align="right"),
        Column("With tolerance", ("with_tolerance",), align="right"),
        Column("Not the same", ("not_same",), align="right"),
        Column("Furthest move", ("furthest_move",), "% of tolerance", align="right"),
    )
    return Table("gate", "Gate: what needs no clock", columns, tuple(rows))


def change_table(comparisons: Sequence[Comparison]) -> Table:
    """Every fact that is not as it was."""
    rows = []
    for each in comparisons:
        if each.verdict == "same":
            continue
        before, now = _text(each.before, each.now), _text(each.now, each.before)
        texts = (each.fact.subject, each.fact.what, each.verdict, before, now, _move(each))
        rows.append(tuple(Cell(text, (text,)) for text in texts))
    names = ("Subject", "Fact", "Verdict", "Baseline", "Now", "Change")
    columns = tuple(Column(name, (name.lower(),)) for name in names)
    return Table("gate-changes", "What differs from the baseline", columns, tuple(rows))


def describe(comparison: Comparison) -> str:
    """A change in one line."""
    fact = comparison.fact
    before, now = _text(comparison.before, comparison.now), _text(comparison.now, comparison.before)
    return f"{comparison.verdict}: {fact.subject}, {fact.what}: {before} -> {now}"


def _text(fact: Fact | None, other: Fact | None) -> str:
    if fact is None:
        return "none"
    value: FactValue = fact.value
    if isinstance(value, tuple):
        # Only the floats that moved most, where there are many.
        if other is not None and isinstance(other.value, tuple) and len(other.value) == len(value):
            moves = [abs(a - b) for a, b in zip(value, other.value, strict=True)]
            order = sorted(range(len(value)), key=lambda i: -moves[i])[:SHOWN_FLOATS]
            value = tuple(value[i] for i in order)
        shown = " ".join(f"{each:.6g}" for each in value[:SHOWN_FLOATS])
        return shown if len(fact.value) <= SHOWN_FLOATS else f"{shown} ..."  # type: ignore[arg-type]
    if isinstance(value, int):
        return f"{value:,}"
    return value if len(value) <= SHOWN_TEXT else f"{value[:SHOWN_TEXT]}..."


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
