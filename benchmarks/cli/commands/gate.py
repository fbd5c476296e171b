"""The command `gate`: is everything that needs no clock as it was agreed?"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from baselines.registry import ModelEntry, select
from benchmarks.cli.commands.printing import print_json, print_table
from benchmarks.config.requests import listed
from benchmarks.records.environment import cpu_name, default_threads, library_versions, use_threads
from benchmarks.records.progress import Reporter
from benchmarks.regression.gate import GateFacts, find_facts, runs_in_gate
from benchmarks.regression.snapshot import (
    Baseline,
    Comparison,
    compare_facts,
    load_baseline,
    merged,
    save_baseline,
)
from mobilesam.fast.allocator import keep_buffers

BASELINE = Path("results/baselines/gate.json")


def default_baseline() -> Path:
    """The baseline that is committed with this code."""
    return Path(__file__).resolve().parents[3] / BASELINE


def gate(models: str, path: Path | None, *, update: bool, as_json: bool, quiet: bool) -> int:
    """Compares today's facts with a baseline, or makes them the baseline.

    Args:
        models: Names or wildcards; a wildcard leaves out exported and third-party models.
        path: The baseline; None for the committed one.
        update: Write it anew, and say what changed.
        as_json: Print one JSON document instead of tables.
        quiet: Say only what is wrong.

    Returns:
        0, or 1 if a fact changed or vanished, or a model failed; what appeared is news.
    """
    path = path or default_baseline()
    entries = _chosen(models)
    old = load_baseline(path) if path.is_file() or not update else None
    use_threads(default_threads())
    keep_buffers()  # nothing is timed
    reporter = Reporter(quiet=quiet)
    found = find_facts(entries, reporter)
    whole = models == "*"
    subjects = {fact.subject for fact in found.facts} | {entry.name for entry in entries}
    before = () if old is None else old.facts
    judged = tuple(fact for fact in before if whole or fact.subject in subjects)
    comparisons = compare_facts(judged, found.facts)
    for line in dict.fromkeys(f"{failure.culprit}: {failure.why}" for failure in found.failures):
        reporter.warn(line)
    passed = not found.failures and all(
        each.verdict in ("same", "appeared") for each in comparisons
    )
    written = update and not found.failures
    if written:
        facts = merged(before, found.facts, {fact.subject for fact in judged} | subjects)
        here = Baseline(cpu=cpu_name(), libraries=library_versions(), facts=facts)
        save_baseline(here, path)
    if as_json:
        print_json(_document(path, comparisons, found, passed=passed, updated=written))
    else:
        _print(path, old, comparisons, passed=passed, updated=written)
    return 0 if passed or written else 1


def _chosen(models: str) -> list[ModelEntry]:
    named = listed(models)
    return [entry for entry in select(named) if entry.name in named or runs_in_gate(entry)]


def _document(
    path: Path,
    comparisons: Sequence[Comparison],
    found: GateFacts,
    *,
    passed: bool,
    updated: bool,
) -> dict[str, Any]:
    return {
        "passed": passed,
        "updated": updated,
        "baseline": str(path),
        "facts": [
            {
                "subject": each.fact.subject,
                "what": each.fact.what,
                "verdict": each.verdict,
                "before": None if each.before is None else each.before.value,
                "now": None if each.now is None else each.now.value,
                "tolerance": (each.before or each.fact).tolerance,
            }
            for each in comparisons
        ],
        "failures": [failure.model_dump(mode="json") for failure in found.failures],
    }


def _print(
    path: Path,
    old: Baseline | None,
    comparisons: Sequence[Comparison],
    *,
    passed: bool,
    updated: bool,
) -> None:
    from benchmarks.regression.gate_tables import change_table, subject_table

    print_table(subject_table(comparisons))
    changes = change_table(comparisons)
    if changes.rows:
        print_table(changes)
    if updated:
        sys.stdout.write(f"baseline written: {path}, {len(changes.rows)} changes\n")
        return
    if not passed and old is not None:
        for line in _elsewhere(old):
            sys.stdout.write(f"note: {line}\n")
    verdict = "passed" if passed else "FAILED; if it was meant: mobilesam-bench gate --update"
    sys.stdout.write(f"gate {verdict} ({len(comparisons)} facts, baseline {path})\n")


def _elsewhere(old: Baseline) -> list[str]:
    """What else differs from where the baseline was made, and may be the cause."""
    here = {"processor": cpu_name(), **library_versions()}
    there = {"processor": old.cpu, **old.libraries}
    return [
        f"{name} is {here.get(name, 'absent')} here; the baseline was made with "
        f"{there.get(name, 'none')}"
        for name in {**there, **here}
        if here.get(name) != there.get(name)
    ]
