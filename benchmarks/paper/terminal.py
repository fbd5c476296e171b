"""The ledger for a terminal: a line a claim, reasons below it, and each command once."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from benchmarks.paper.judge import tally_text
from benchmarks.paper.tables import claimed_text, measured_text, with_unit
from benchmarks.paper.verdicts import ClaimVerdict
from benchmarks.tables.formatting import clean
from benchmarks.tables.record_queries import unique

WIDTH = 100
_CLAIMED, _MEASURED, _VERDICT = 15, 17, 18


def ledger_text(verdicts: Sequence[ClaimVerdict], width: int = WIDTH) -> str:
    """The whole ledger as text.

    Claims that lack weights, data or a GPU have no reason of their own: what would settle them
    follows below, each command once with the number of claims that it settles.

    Args:
        verdicts: In any order; they are grouped by source.
        width: Characters in a line.
    """
    lines: list[str] = []
    for source in unique(verdict.source for verdict in verdicts):
        lines += ["", clean(source)]
        for verdict in verdicts:
            if verdict.source == source:
                lines += _entry(verdict, width)
    counts = _wrapped(tally_text(verdicts), width, "")
    return "\n".join([*lines, *_commands(verdicts, width), "", *counts, ""])


def _entry(verdict: ClaimVerdict, width: int) -> list[str]:
    name_width = width - 2 - _CLAIMED - _MEASURED - _VERDICT - 4
    claimed = with_unit(claimed_text(verdict), verdict.unit)
    measured = with_unit(measured_text(verdict), verdict.unit) or "-"
    figures = f"{claimed:>{_CLAIMED}} {measured:>{_MEASURED}}  {verdict.verdict:<{_VERDICT}}"
    name = clean(verdict.id)
    if len(name) <= name_width:
        lines = [f"  {name:<{name_width}} {figures}".rstrip()]
    else:
        lines = [f"  {name}", f"  {figures}".rstrip()]
    if verdict.measured is not None or verdict.orientation is not None:
        lines += _wrapped(clean(verdict.why), width, "      ")
    return lines


def _commands(verdicts: Sequence[ClaimVerdict], width: int) -> list[str]:
    open_ = [verdict for verdict in verdicts if verdict.settle is not None]
    if not open_:
        return []
    lines = ["", "What would settle the rest"]
    for settle, verdict in unique((each.settle, each.verdict) for each in open_):
        ids = [each.id for each in open_ if (each.settle, each.verdict) == (settle, verdict)]
        which = ids[0] if len(ids) == 1 else f"{ids[0]} and {len(ids) - 1} more"
        lines.append(f"  {verdict}: {which}")
        lines += _wrapped(clean(settle or ""), width, "      ")
    return lines


def _wrapped(text: str, width: int, indent: str) -> list[str]:
    return textwrap.wrap(
        text,
        width,
        initial_indent=indent,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
