"""The A/B gate: measure, judge, and measure again what looks worse."""

from __future__ import annotations

from pathlib import Path

from benchmarks.guard.ab_judge import Judgement, judge
from benchmarks.guard.ab_measure import measure
from benchmarks.guard.ab_records import Session, Settings, save_session, session_files
from benchmarks.guard.trees import Tree
from benchmarks.progress import Reporter
from mobilesam.errors import UsageError


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
    """Measures and judges; what is suspect is measured once more, in fresh processes.

    Args:
        folder: For the records, which are there whatever the verdict is.
        base: What the head is compared with.
        head: The version in question.
        settings: How much of what.
        threshold: Ratio from which on a change is a regression.
        reporter: Told about progress.
    """
    sessions: tuple[Session, ...] = (measure_into(folder, base, head, settings, reporter),)
    judgement = judge(sessions, threshold)
    if judgement.suspects:
        reporter.say(f"{len(judgement.suspects)} suspect: measuring again")
        again = measure(base, head, settings, reporter, judgement.suspects, repetition=1)
        save_session(again, folder)
        sessions = (*sessions, again)
        judgement = judge(sessions, threshold)
    return judgement, sessions
