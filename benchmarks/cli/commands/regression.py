"""The commands `gate`, `compare` and `regress`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from benchmarks.cli.commands.printing import print_json, print_lines, print_table
from benchmarks.config.options import PrintJson, Quiet, RegressArguments
from benchmarks.records.progress import Reporter

if TYPE_CHECKING:
    from benchmarks.regression.judge import Judgement
    from benchmarks.regression.sessions import Session
    from benchmarks.regression.snapshot import Baseline
    from benchmarks.regression.worktrees import Tree

BASELINE = Path("results/baselines/gate.json")
_Threshold = Annotated[
    float | None, Parameter(help="Ratio from which a change is a regression; 1.1.")
]


def default_baseline() -> Path:
    """Returns the baseline that is committed with this code."""
    return Path(__file__).resolve().parents[3] / BASELINE


def gate(
    *,
    models: Annotated[str, Parameter(help="Names or wildcards, separated by commas.")] = "*",
    baseline: Annotated[
        Path | None, Parameter(help="Baseline file; results/baselines/gate.json by default.")
    ] = None,
    update: Annotated[bool, Parameter(help="Write the baseline anew; print changes.")] = False,
    json: PrintJson = False,
    quiet: Quiet = False,
) -> int:
    """Compare everything but times with the committed baseline: sizes, outputs, accuracy.

    Exit code 1: a fact changed or is missing, or a model failed; new facts do not fail the gate. It
    takes a minute or two, without a network and with the shipped weights only. A wildcard leaves
    out exported and third-party models.
    """
    from baselines.registry import select
    from benchmarks.config.from_options import listed
    from benchmarks.records import environment
    from benchmarks.regression import snapshot
    from benchmarks.regression.gate import find_facts, runs_in_gate
    from mobilesam.fast.allocator import keep_buffers

    path = baseline or default_baseline()
    named = listed(models)
    entries = [entry for entry in select(named) if entry.name in named or runs_in_gate(entry)]
    old = snapshot.load_baseline(path) if path.is_file() or not update else None
    environment.use_threads(environment.default_threads())
    keep_buffers()  # nothing is timed
    reporter = Reporter(quiet=quiet)
    found = find_facts(entries, reporter)
    subjects = {fact.subject for fact in found.facts} | {entry.name for entry in entries}
    before = () if old is None else old.facts
    judged = tuple(fact for fact in before if models == "*" or fact.subject in subjects)
    comparisons = snapshot.compare_facts(judged, found.facts)
    for line in dict.fromkeys(f"{failure.culprit}: {failure.why}" for failure in found.failures):
        reporter.warn(line)
    passed = not found.failures and all(each.verdict in ("same", "new") for each in comparisons)
    updated = update and not found.failures
    if updated:
        subjects |= {fact.subject for fact in judged}
        facts = snapshot.merged(before, found.facts, subjects)
        cpu, libraries = environment.cpu_name(), environment.library_versions()
        snapshot.save_baseline(snapshot.Baseline(cpu=cpu, libraries=libraries, facts=facts), path)
    if json:
        documents = [
            {
                "subject": each.fact.subject,
                "what": each.fact.what,
                "verdict": each.verdict,
                "before": None if each.before is None else each.before.value,
                "now": None if each.now is None else each.now.value,
                "tolerance": (each.before or each.fact).tolerance,
            }
            for each in comparisons
        ]
        failures = [failure.model_dump(mode="json") for failure in found.failures]
        summary = {"passed": passed, "updated": updated, "baseline": str(path)}
        print_json({**summary, "facts": documents, "failures": failures})
        return 0 if passed or updated else 1
    print_table(snapshot.subject_table(comparisons))
    changes = snapshot.change_table(comparisons)
    if changes.rows:
        print_table(changes)
    if updated:
        print_lines(f"baseline written: {path}, {len(changes.rows)} changes")
    else:
        if not passed and old is not None:
            print_lines(*(f"note: {line}" for line in _differences(old)))
        verdict = "passed" if passed else "FAILED; if it was meant: mobilesam-bench gate --update"
        print_lines(f"gate {verdict} ({len(comparisons)} facts, baseline {path})")
    return 0 if passed or updated else 1


def _differences(old: Baseline) -> list[str]:
    """Differences of processor and libraries to those of the baseline, as possible causes."""
    from benchmarks.records.environment import cpu_name, library_versions

    here = {"processor": cpu_name(), **library_versions()}
    there = {"processor": old.cpu, **old.libraries}
    return [
        f"{name} is {here.get(name, 'absent')} here; the baseline was made with "
        f"{there.get(name, 'none')}"
        for name in {**there, **here}
        if here.get(name) != there.get(name)
    ]


def compare(
    a: Path,
    b: Path,
    /,
    *,
    threshold: Annotated[
        float | None, Parameter(help="Ratio from which times count as different; 1.05.")
    ] = None,
    out: Annotated[
        Path | None,
        Parameter(help="Folder for summary, tables and plots; by default bench-runs/..."),
    ] = None,
    json: PrintJson = False,
    quiet: Annotated[bool, Parameter(help="Print no notes.")] = False,
) -> int:
    """Show two runs side by side: what is better, worse, or without a clear change.

    A and B are folders of runs, or their records: two versions, two machines, two days. With
    --json, tables and plots are written only if --out is given.
    """
    from benchmarks import api
    from benchmarks.config.from_options import new_folder
    from benchmarks.records.run_folder import held
    from benchmarks.regression import compare as comparing

    limit = comparing.THRESHOLD if threshold is None else threshold
    first, second = api.load_record(a), api.load_record(b)
    found = api.compare(first, second, threshold=limit)
    title = f"{a} (A) against {b} (B)"
    if out is None and not json:
        out = new_folder("compare")
    files = []
    if out is not None:
        with held(out):
            files = comparing.write_comparison(found.rows, found.notes, title, out)
    if json:
        print_json(
            {
                "a": first.record.id,
                "b": second.record.id,
                "threshold": limit,
                "verdict": comparing.verdict_sentence(found.rows),
                "tally": comparing.tally(found.rows),
                "rows": [row.model_dump(mode="json") for row in found.rows],
                "notes": list(found.notes),
            }
        )
        return 0
    print_lines(comparing.verdict_sentence(found.rows), f"A: {a}", f"B: {b}", "")
    for table in comparing.compare_tables(found.rows):
        print_table(table)
    if not quiet:
        print_lines(*(f"note: {note}" for note in found.notes), f"files   {out} ({len(files)})")
    print_lines(f"{title}: {comparing.tally_text(found.rows) or 'nothing in common'}")
    return 0


def regress_run(
    *, versions: RegressArguments, threshold: _Threshold = None, json: PrintJson = False
) -> int:
    """Measure --base and this working tree in turns, judge, and repeat what looks worse.

    Exit code 1: something is slower, larger or less accurate, and the repetition confirms it.
    """
    from benchmarks.regression import ab

    limit, settings = _limit(threshold), ab.settings_of(versions)
    with _measurement(versions) as (base, head, out):
        judgement, sessions = ab.run(
            out, base, head, settings, limit, Reporter(quiet=versions.quiet)
        )
        return _print_judgement(judgement, sessions, out, as_json=json)


def regress_measure(*, versions: RegressArguments) -> int:
    """Measure both versions once and keep the record, without a judgement."""
    from benchmarks.regression import ab

    settings = ab.settings_of(versions)
    with _measurement(versions) as (base, head, out):
        ab.measure_into(out, base, head, settings, Reporter(quiet=versions.quiet))
    print_lines(str(out))
    return 0


def regress_judge(folder: Path, /, *, threshold: _Threshold = None, json: PrintJson = False) -> int:
    """Judge what regress run or measure has left in a folder, perhaps by another threshold."""
    from benchmarks.records.run_folder import held
    from benchmarks.regression.judge import judge
    from benchmarks.regression.sessions import load_sessions

    limit = _limit(threshold)
    load_sessions(folder)  # a folder without sessions is refused before it is locked
    with held(folder):
        sessions = load_sessions(folder)
        return _print_judgement(judge(sessions, limit), sessions, folder, as_json=json)


def _limit(threshold: float | None) -> float:
    from benchmarks.regression.compare import check_threshold
    from benchmarks.regression.judge import THRESHOLD

    limit = THRESHOLD if threshold is None else threshold
    check_threshold(limit, THRESHOLD)
    return limit


@contextmanager
def _measurement(versions: RegressArguments) -> Iterator[tuple[Tree, Tree, Path]]:
    """Checks out both versions, and creates and locks the folder of a measurement."""
    from benchmarks.child_processes import interrupted_by_term
    from benchmarks.config.from_options import new_folder
    from benchmarks.records.run_folder import held
    from benchmarks.regression.worktrees import two_versions

    with interrupted_by_term(), two_versions(versions.base, versions.head) as (base, head):
        out = versions.out or new_folder("regress")
        with held(out):
            yield base, head, out


def _print_judgement(
    judgement: Judgement, sessions: tuple[Session, ...], folder: Path, *, as_json: bool
) -> int:
    from benchmarks.regression import judge

    judge.write_judgement(judgement, sessions, folder)
    notes = judge.notes(sessions, judgement)
    if as_json:
        document = judgement.model_dump(mode="json")
        print_json({"passed": judgement.passed, **document, "notes": notes, "out": str(folder)})
    else:
        print_table(judge.judgement_table(judgement))
        print_lines(*notes, f"records {folder}", judge.verdict_text(judgement))
    return 0 if judgement.passed else 1
