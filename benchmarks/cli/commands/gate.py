"""The command `gate`: compares facts that do not depend on time with their baseline."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from baselines.registry import select
from benchmarks.cli.commands.printing import print_json, print_table
from benchmarks.config.requests import listed
from benchmarks.records.environment import cpu_name, default_threads, library_versions, use_threads
from benchmarks.records.progress import Reporter
from benchmarks.regression.gate import find_facts, runs_in_gate
from benchmarks.regression.snapshot import (
    Baseline,
    Comparison,
    change_table,
    compare_facts,
    load_baseline,
    merged,
    save_baseline,
    subject_table,
)
from mobilesam.fast.allocator import keep_buffers

BASELINE = Path("results/baselines/gate.json")


def default_baseline() -> Path:
    """The baseline that is committed with this code."""
    return Path(__file__).resolve().parents[3] / BASELINE


def gate(models: str, path: Path | None, *, update: bool, as_json: bool, quiet: bool) -> int:
    """Compares the present facts with a baseline, or makes them the baseline.

    Args:
        models: Names or wildcards; a wildcard does not select exported and third-party models.
        path: File of the baseline; None for the committed one.
        update: Write the baseline anew, and print the changes.
        as_json: Print one JSON document instead of tables.
        quiet: Print failures only.

    Returns:
        0, or 1 if a fact changed or is missing, or a model failed; new facts pass.
    """
    path = path or default_baseline()
    named = listed(models)
    entries = [entry for entry in select(named) if entry.name in named or runs_in_gate(entry)]
    old = load_baseline(path) if path.is_file() or not update else None
    use_threads(default_threads())
    keep_buffers()  # nothing is timed
    reporter = Reporter(quiet=quiet)
    found = find_facts(entries, reporter)
    subjects = {fact.subject for fact in found.facts} | {entry.name for entry in entries}
    before = () if old is None else old.facts
    judged = tuple(fact for fact in before if models == "*" or fact.subject in subjects)
    comparisons = compare_facts(judged, found.facts)
    for line in dict.fromkeys(f"{failure.culprit}: {failure.why}" for failure in found.failures):
        reporter.warn(line)
    passed = not found.failures and all(each.verdict in ("same", "new") for each in comparisons)
    written = update and not found.failures
    if written:
        facts = merged(before, found.facts, {fact.subject for fact in judged} | subjects)
        here = Baseline(cpu=cpu_name(), libraries=library_versions(), facts=facts)
        save_baseline(here, path)
    if as_json:
        document = {
            "passed": passed,
            "updated": written,
            "baseline": str(path),
            "facts": [_fact_document(each) for each in comparisons],
            "failures": [failure.model_dump(mode="json") for failure in found.failures],
        }
        print_json(document)
        return 0 if passed or written else 1
    print_table(subject_table(comparisons))
    changes = change_table(comparisons)
    if changes.rows:
        print_table(changes)
    if written:
        lines = [f"baseline written: {path}, {len(changes.rows)} changes"]
    else:
        lines = [] if passed or old is None else [f"note: {line}" for line in _differences(old)]
        verdict = "passed" if passed else "FAILED; if it was meant: mobilesam-bench gate --update"
        lines.append(f"gate {verdict} ({len(comparisons)} facts, baseline {path})")
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    return 0 if passed or written else 1


def _fact_document(each: Comparison) -> dict[str, Any]:
    return {
        "subject": each.fact.subject,
        "what": each.fact.what,
        "verdict": each.verdict,
        "before": None if each.before is None else each.before.value,
        "now": None if each.now is None else each.now.value,
        "tolerance": (each.before or each.fact).tolerance,
    }


def _differences(old: Baseline) -> list[str]:
    """Differences from the machine of the baseline, which may be the cause of a change."""
    here = {"processor": cpu_name(), **library_versions()}
    there = {"processor": old.cpu, **old.libraries}
    return [
        f"{name} is {here.get(name, 'absent')} here; the baseline was made with "
        f"{there.get(name, 'none')}"
        for name in {**there, **here}
        if here.get(name) != there.get(name)
    ]
