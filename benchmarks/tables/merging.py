"""Several runs of one machine joined into one record, so that a single report can be made."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.records.record import Environment, RunRecord, Value, WeightsRow
from benchmarks.tables.record_queries import (
    configured_setup,
    protocol_of,
    reference_label,
    setup_of,
    unique,
    weights_label,
)
from mobilesam.errors import UsageError


@dataclass(frozen=True, slots=True)
class _Part:
    """One list of rows of a record.

    Attributes:
        name: Of the field.
        key: What two rows of different runs must share to be of the same thing.
    """

    name: str
    key: Callable[[Any], Hashable]

    def rows(self, run: RunRecord) -> tuple[Value, ...]:
        rows: tuple[Value, ...] = getattr(run, self.name)
        return rows

    def who(self, row: Any) -> str:
        """The model or models of a row, for a message."""
        if hasattr(row, "model"):
            return str(row.model)
        return f"{row.model_a} against {row.model_b}"


_PARTS = {
    part.name: part
    for part in (
        _Part("models", lambda r: r.model),
        _Part("params", lambda r: (r.model, r.component)),
        _Part("latency", lambda r: (r.model, setup_of(r), r.phase, r.n_prompts)),
        _Part("memory", lambda r: (r.model, r.device)),
        _Part("miou", lambda r: (r.model, protocol_of(r))),
        _Part("comparisons", lambda r: (r.dataset, r.protocol, r.reference, r.model_a, r.model_b)),
        _Part("accuracy_times", lambda r: (r.model, r.dataset)),
        _Part("detector", lambda r: (r.model, r.dataset, r.detections_sha256, r.mask)),
        _Part("everything", lambda r: (r.model, r.dataset)),
    )
}


def merge_records(records: Sequence[RunRecord]) -> RunRecord:
    """Joins runs of one machine into one record, so that a single report can be made of them.

    Where two runs measured the same thing the newer row stands, and a warning of the merged
    record says so.

    Args:
        records: At least one; their order does not matter.

    Times of accuracy are kept only of runs under the conditions of the merged record; a warning
    says what is left out.

    Rows of different devices or precisions may share a column, with a warning in the merged record,
    since accuracy hardly depends on them. Times depend on them, and are kept apart or refused.

    Raises:
        UsageError: No record; runs of different machines or thread counts, or whole images timed on
            different devices or in different precisions, whose times are not comparable; or one
            model, or one teacher, with different weights.
    """
    if not records:
        raise UsageError("no record given; name at least one record.json")
    runs = sorted(records, key=lambda run: (run.created_utc, run.id))
    if len(runs) == 1:
        return runs[0]
    # What holds no times (a rescoring, for example) may come from anywhere.
    timed = [run for run in runs if run.latency or run.everything or run.memory]
    _check_same_machine(timed)
    _check_same_weights(runs)
    _check_same_prompts(runs)
    _check_same_references(runs)
    _check_same_setup([run for run in runs if run.everything])
    newest = runs[-1]
    home = (timed or runs)[-1].environment
    if _conditions(newest.environment) == _conditions(home):
        home = newest.environment
    same_commit = len({(r.environment.git_commit, r.environment.git_dirty) for r in runs}) == 1
    commit = {} if same_commit else {"git_commit": None, "git_dirty": None}
    warnings = [warning for run in runs for warning in run.warnings]
    warnings += _mixed_setups(runs)
    merged = _merged_parts(_with_times_of(home, runs, warnings), warnings)
    return newest.model_copy(
        update={
            **merged,
            "id": "+".join(run.id for run in runs),
            "command": "; ".join(unique(run.command for run in runs)),
            "environment": home.model_copy(update=commit),
            "failures": tuple(failure for run in runs for failure in run.failures),
            "warnings": unique(warnings),
            "instances": None,
            "duration_s": sum(run.duration_s for run in runs),
        }
    )


def _merged_parts(runs: Sequence[RunRecord], warnings: list[str]) -> dict[str, tuple[Value, ...]]:
    """The newest rows of every part; what was replaced is added to `warnings`."""
    return {
        name: _newest(runs, part, warnings, quiet=name == "models") for name, part in _PARTS.items()
    }


def _newest(
    runs: Sequence[RunRecord], part: _Part, warnings: list[str], *, quiet: bool
) -> tuple[Value, ...]:
    """The newest row for each key; a replaced row leaves a warning unless `quiet`."""
    kept: dict[Hashable, tuple[Value, str]] = {}
    for run in runs:
        for row in part.rows(run):
            key = part.key(row)
            if (old := kept.get(key)) is not None and old[1] != run.id and not quiet:
                warnings.append(f"{part.who(row)}: rows of run {old[1]} replaced by run {run.id}")
            kept[key] = (row, run.id)
    return tuple(row for row, _ in kept.values())


def _check_same_prompts(runs: Sequence[RunRecord]) -> None:
    """Rows of one protocol stand in one column: they must have answered the same prompts."""
    seen: dict[Hashable, str] = {}
    for run in runs:
        for row in run.miou:
            if row.manifest_sha256 is not None:
                known = seen.setdefault(protocol_of(row), row.manifest_sha256)
                if known != row.manifest_sha256:
                    raise UsageError(
                        f"runs {runs[0].id} to {runs[-1].id} answered different prompts of "
                        f"{protocol_of(row).label} (another --seed?): report them apart"
                    )


def _check_same_references(runs: Sequence[RunRecord]) -> None:
    """Checks that the rows of one teacher, which share a column, have the same teacher weights."""
    seen: dict[str, tuple[str, str]] = {}
    for run in runs:
        for row in run.miou:
            if row.reference_weights is None or row.miou is None:
                continue
            label = reference_label(row.reference_weights)
            other, run_id = seen.setdefault(row.reference, (label, run.id))
            if other != label:
                raise UsageError(
                    f"{row.reference} has weights {other} in run {run_id} and {label} in run "
                    f"{run.id}: they are different references, report them apart"
                )


def _check_same_setup(runs: Sequence[RunRecord]) -> None:
    setups = unique(filter(None, map(configured_setup, runs)))
    if len(setups) > 1:
        raise UsageError(
            f"runs {runs[0].id} to {runs[-1].id} timed whole images on different devices or in "
            f"different precisions ({' / '.join(setups)}): report them apart"
        )


def _mixed_setups(runs: Sequence[RunRecord]) -> Iterator[str]:
    """Yields a warning for each column of accuracy or memory that holds rows of several setups."""
    found: dict[str, dict[str, None]] = {}
    for run in runs:
        setup = configured_setup(run)
        if setup is not None:
            columns = [protocol_of(row).label for row in run.miou if row.miou is not None]
            columns += [f"AP of {row.detections}" for row in run.detector if row.ap is not None]
            columns += [f"memory on {row.device}" for row in run.memory]
            for column in columns:
                found.setdefault(column, {})[setup] = None
    for column, setups in found.items():
        if len(setups) > 1:
            yield f"{column}: rows of different devices or precisions ({' / '.join(setups)})"


_CONDITIONS = ("cpu", "gpu", "threads", "allocator")


def _conditions(environment: Environment) -> tuple[object, ...]:
    """Parts of an environment that determine times."""
    return tuple(getattr(environment, name) for name in _CONDITIONS)


def _with_times_of(
    home: Environment, runs: Sequence[RunRecord], warnings: list[str]
) -> list[RunRecord]:
    """The runs, of which those of other conditions lose their times; `warnings` tells of it."""
    found = []
    for run in runs:
        known = run
        if _conditions(run.environment) != _conditions(home):
            known = _without_times(run)
        if known != run:
            warnings.append(
                f"run {run.id}: times of accuracy left out: they are of another machine, allocator "
                "or number of threads"
            )
        found.append(known)
    return found


def _without_times(run: RunRecord) -> RunRecord:
    """A run without the times of its accuracy rows."""
    no_time = {"seconds": None}
    return run.model_copy(
        update={
            "miou": tuple(row.model_copy(update=no_time) for row in run.miou),
            "detector": tuple(row.model_copy(update=no_time) for row in run.detector),
            "accuracy_times": (),
        }
    )


def _check_same_machine(runs: Sequence[RunRecord]) -> None:
    for name in _CONDITIONS:
        values = unique(getattr(run.environment, name) for run in runs)
        if len(values) > 1:
            raise UsageError(
                f"runs {runs[0].id} to {runs[-1].id} differ in {name} "
                f"({' / '.join(map(str, values))}), so their times are not comparable: "
                "report them apart"
            )


def _check_same_weights(runs: Sequence[RunRecord]) -> None:
    seen: dict[str, tuple[WeightsRow, str]] = {}
    for run in runs:
        for row in run.models:
            known, run_id = seen.setdefault(row.model, (row.weights, run.id))
            label, other = weights_label(row.weights), weights_label(known)
            if other != label or known.sha256 != row.weights.sha256:
                raise UsageError(
                    f"{row.model} ran with weights {other} in run {run_id} and with {label} in "
                    f"run {run.id}: report them apart"
                )
