"""The A/B gate: measure, judge, and measure more of what looks worse."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from benchmarks.records.progress import Reporter
from benchmarks.regression.ab_judge import Judgement, judge
from benchmarks.regression.ab_measure import measure
from benchmarks.regression.ab_records import Session, Settings, Stage, save_session, session_files
from benchmarks.regression.ab_turns import Key
from benchmarks.regression.worktrees import Tree
from mobilesam.errors import UsageError

MOST_EXTENSIONS = 2
"""So many times, in each stage, further processes are added to what is unclear."""


def measure_into(
    folder: Path, base: Tree, head: Tree, settings: Settings, reporter: Reporter
) -> Session:
    """Measures all benchmarks once and writes the record.

    Raises:
        UsageError: The folder holds sessions already.
    """
    if session_files(folder):
        raise UsageError(f"{folder} holds a measurement already; choose another --out")
    session = measure(base, head, settings, reporter)
    save_session(session, folder)
    return session


def run(
    folder: Path,
    base: Tree,
    head: Tree,
    settings: Settings,
    threshold: float,
    reporter: Reporter,
) -> tuple[Judgement, tuple[Session, ...]]:
    """Measures and judges; what is unclear is measured longer, and what is suspect once more.

    Args:
        folder: For the records, which are there whatever the verdict is.
        base: What the head is compared with.
        head: The version in question.
        settings: How much of what.
        threshold: Ratio from which on a change is a regression.
        reporter: Told about progress.
    """
    sessions: tuple[Session, ...] = (measure_into(folder, base, head, settings, reporter),)
    while True:
        judgement = judge(sessions, threshold)
        more = _next(judgement, sessions)
        if more is None:
            return judgement, sessions
        stage, keys, why = more
        reporter.say(f"{len(keys)} {why}")
        again = measure(base, head, settings, reporter, keys, stage=stage, number=len(sessions))
        save_session(again, folder)
        sessions = (*sessions, again)


def _next(
    judgement: Judgement, sessions: Sequence[Session]
) -> tuple[Stage, tuple[Key, ...], str] | None:
    """What is to be measured now, for which stage and why; None if all is said."""
    made = Counter(session.stage for session in sessions)
    for stage in get_args(Stage):
        unclear = judgement.unclear(stage)
        if unclear and made[stage] <= MOST_EXTENSIONS:
            return stage, unclear, "unclear: measuring more"
        if judgement.suspects and not made["repetition"]:
            return "repetition", judgement.suspects, "suspect: measuring again"
    return None
