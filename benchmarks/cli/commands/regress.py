"""The commands of `regress`: compares two versions measured in turns."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from baselines.registry import select
from benchmarks.child_processes import interrupted_by_term
from benchmarks.cli.commands.printing import print_json, print_table
from benchmarks.config.options import RegressArguments
from benchmarks.config.requests import listed, new_folder
from benchmarks.records.progress import Reporter
from benchmarks.records.run_folder import held
from benchmarks.regression import ab
from benchmarks.regression.compare import check_threshold
from benchmarks.regression.judge import (
    THRESHOLD,
    Judgement,
    judge,
    judgement_table,
    notes,
    verdict_text,
    write_judgement,
)
from benchmarks.regression.sessions import Session, Settings, load_sessions
from benchmarks.regression.worktrees import Tree, checked_out, repository, working_tree
from mobilesam.errors import UsageError


def run(arguments: RegressArguments, threshold: float | None, *, as_json: bool) -> int:
    """Measures both versions, judges, repeats suspect benchmarks, and prints the verdict.

    Returns:
        0, or 1 if a benchmark is worse or failed, and a repetition confirmed it.
    """
    limit = _limit(threshold)
    settings = settings_of(arguments)
    with interrupted_by_term(), _trees(arguments) as (base, head), _held(arguments) as out:
        judgement, sessions = ab.run(
            out, base, head, settings, limit, Reporter(quiet=arguments.quiet)
        )
        return _print(judgement, sessions, out, as_json=as_json)


def measure(arguments: RegressArguments) -> int:
    """Measures both versions once and saves the session, without a judgement."""
    settings = settings_of(arguments)
    with interrupted_by_term(), _trees(arguments) as (base, head), _held(arguments) as out:
        ab.measure_into(out, base, head, settings, Reporter(quiet=arguments.quiet))
    sys.stdout.write(f"{out}\n")
    return 0


def judge_again(folder: Path, threshold: float | None, *, as_json: bool) -> int:
    """Judges the sessions of a folder."""
    limit = _limit(threshold)
    load_sessions(folder)  # a folder without sessions is refused before it is locked
    with held(folder):
        sessions = load_sessions(folder)
        return _print(judge(sessions, limit), sessions, folder, as_json=as_json)


def _limit(threshold: float | None) -> float:
    limit = THRESHOLD if threshold is None else threshold
    check_threshold(limit, THRESHOLD)
    return limit


def settings_of(arguments: RegressArguments) -> Settings:
    """Settings of the measurement from the command line.

    Raises:
        UsageError: An option has no valid value.
    """
    given = arguments.accuracy_models
    names = ab.default_accuracy_models() if given is None else _names(given) if given else ()
    try:
        prompts = tuple(int(text) for text in listed(arguments.n_prompts))
    except ValueError as error:
        raise UsageError(f"--n-prompts takes numbers; got {arguments.n_prompts!r}") from error
    counts = {name: getattr(arguments, name) for name in ("pairs", "turns", "scenes", "threads")}
    for name, value in {**counts, "n-prompts": min(prompts, default=0)}.items():
        if value < 1:
            raise UsageError(f"--{name} must be at least 1; got {value}")
    return Settings(
        models=_names(arguments.models), accuracy_models=names, n_prompts=prompts, **counts
    )


def _names(text: str) -> tuple[str, ...]:
    return tuple(entry.name for entry in select(listed(text)))


@contextmanager
def _held(arguments: RegressArguments) -> Iterator[Path]:
    """Creates and locks the folder of the measurement, after the request has been checked."""
    out = arguments.out or new_folder("regress")
    with held(out):
        yield out


@contextmanager
def _trees(arguments: RegressArguments) -> Iterator[tuple[Tree, Tree]]:
    root = repository(Path.cwd())
    with ExitStack() as stack:
        base = stack.enter_context(checked_out(root, arguments.base))
        if arguments.head is None:
            yield base, working_tree(root)
        else:
            yield base, stack.enter_context(checked_out(root, arguments.head))


def _print(
    judgement: Judgement, sessions: tuple[Session, ...], folder: Path, *, as_json: bool
) -> int:
    write_judgement(judgement, sessions, folder)
    remarks = notes(sessions, judgement)
    if as_json:
        document = judgement.model_dump(mode="json")
        print_json({"passed": judgement.passed, **document, "notes": remarks, "out": str(folder)})
    else:
        print_table(judgement_table(judgement))
        lines = (*remarks, f"records {folder}", verdict_text(judgement))
        sys.stdout.write("".join(f"{line}\n" for line in lines))
    return 0 if judgement.passed else 1
