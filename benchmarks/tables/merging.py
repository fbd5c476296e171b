"""Several runs of one machine joined into one record, for a single report."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable, Sequence
from typing import Any

from baselines.registry import split_size
from benchmarks.evaluation.comparison import corrected
from benchmarks.prompts.protocols import TEACHER_PREFIX, reference_model
from benchmarks.records.environment import NOISY
from benchmarks.records.record import RunRecord
from benchmarks.tables.record_queries import (
    TEST_FAMILIES,
    grouped,
    model_names,
    protocol_of,
    setup_of,
    unique,
    weights_label,
)
from mobilesam.errors import UsageError

_KEYS: dict[str, Callable[[Any], Hashable]] = {
    "models": lambda row: row.model,
    "params": lambda row: (row.model, row.component),
    "latency": lambda row: (row.model, setup_of(row), row.phase, row.n_prompts),
    "batches": lambda row: (row.model, setup_of(row), row.n_images),
    "memory": lambda row: (row.model, row.device),
    "miou": lambda row: (row.model, protocol_of(row)),
    "comparisons": lambda row: (protocol_of(row), row.model_a, row.model_b),
    "robustness": lambda row: (row.model, protocol_of(row)),
    "accuracy_times": lambda row: (row.model, row.dataset),
    "detector": lambda row: (row.model, row.dataset, row.detections_sha256, row.mask),
    "everything": lambda row: (row.model, row.dataset),
}
"""Lists of rows of a record, and the key that rows of the same measurement share."""
_TIMES = ("latency", "batches")
"""Lists of rows that name their run."""
_CONDITIONS = ("cpu", "cpu_features", "gpu", "threads", "allocator")
"""Parts of an environment that determine times."""
_NAMES = ("model", "model_a", "model_b", "reference", "culprit")
"""Fields of rows that name a model or the model of a reference."""


def merge_records(records: Sequence[RunRecord], preferred: Collection[str] = ()) -> RunRecord:
    """Joins runs of one machine, in any order, so that a single report can be made of them.

    If two runs measured the same, the row of the newer one is used, those of the ids in `preferred`
    before all others, with a warning in the merged record. Models in different precisions are kept
    apart by name (`by_precision`). Accuracies on different devices may share a column, also with a
    warning, since they hardly depend on it. Times depend on it, and are kept apart or refused.
    Times of accuracy from another machine than that of the merged record are left out, with a
    warning. The p-values of comparisons are corrected within each run.

    Raises:
        UsageError: No record; times that are not comparable; or one model, teacher or protocol with
            different weights or prompts.
    """
    if not records:
        raise UsageError("no record given; name at least one record.json")
    runs = [
        run.model_copy(update={"comparisons": corrected(run.comparisons)})
        for run in by_precision(records)
    ]
    runs.sort(key=lambda run: (run.id in preferred, run.created_utc, run.id))
    if len(runs) == 1:
        return runs[0]
    # Runs without times (a rescoring, for example) may come from any machine.
    timed = [run for run in runs if run.latency or run.batches or run.everything or run.memory]
    _check_same(runs, timed)
    newest, newest_timed = runs[-1], (timed or runs)[-1]
    same_machine = conditions(newest) == conditions(newest_timed)
    home = newest if same_machine else newest_timed
    same_commit = len({(r.environment.git_commit, r.environment.git_dirty) for r in runs}) == 1
    commit = {} if same_commit else {"git_commit": None, "git_dirty": None}
    config = dict(newest.config)
    if any(run.names for run in runs):
        config.pop("precision", None)
    scored = [run for run in runs if run.miou or run.detector]
    devices = grouped((str(run.config.get("device", "cpu")), run.id) for run in scored)
    where = "; ".join(f"{device}: {', '.join(ids)}" for device, ids in devices.items())
    warnings = [f"accuracies on different devices ({where})"] if len(devices) > 1 else []
    kept = [run if conditions(run) == conditions(home) else _without_times(run) for run in runs]
    warnings += [
        f"run {run.id}: times of accuracy left out: they are of another machine, allocator or "
        "number of threads"
        for run, without in zip(runs, kept, strict=True)
        if run != without
    ]
    rows = {name: _newest_rows(kept, name, warnings) for name in _KEYS}
    times = grouped((row.run, row.model) for name in _TIMES for row in rows[name])
    own = [_of_run(text, run, times.get(run.id, ())) for run in runs for text in run.warnings]
    return newest.model_copy(
        update={
            **rows,
            "id": "+".join(run.id for run in runs),
            "command": "; ".join(unique(run.command for run in runs)),
            "other_latency": tuple(
                row.model_copy(update={"run": row.run or run.id})
                for run in runs
                for row in run.latency
            ),
            "environment": home.environment.model_copy(update=commit),
            "failures": tuple(failure for run in runs for failure in run.failures),
            "warnings": unique((*own, *warnings)),
            "instances": None,
            "config": config,
            "duration_s": sum(run.duration_s for run in runs),
        }
    )


def by_precision(runs: Sequence[RunRecord]) -> list[RunRecord]:
    """Runs with the precision in the names of models where it differs: `mobilesam (bf16)`.

    Models in fp32 and those without networks keep their names; `RunRecord.names` has the others.
    """
    found = {str(run.config.get("precision", "fp32")) for run in runs}
    return [_with_precision(run) if len(found) > 1 else run for run in runs]


def _with_precision(run: RunRecord) -> RunRecord:
    """A run with its precision in the names of models, unless it is fp32 or there already."""
    precision = run.config.get("precision", "fp32")
    if precision == "fp32" or run.names:
        return run
    plain = {row.model for row in run.models if row.weights.kind == "none"}
    teachers = filter(None, (reference_model(row.reference) for row in run.miou))
    names: dict[str, str] = {}
    for model in {*model_names(run), *teachers} - plain:
        base, size = split_size(model)
        name = f"{base} ({precision}){'' if size is None else f'@{size}'}"
        names |= {model: name, f"{TEACHER_PREFIX}{model}": f"{TEACHER_PREFIX}{name}"}

    def renamed(row: Any) -> Any:
        old = {field: getattr(row, field, None) for field in _NAMES}
        return row.model_copy(update={f: names[name] for f, name in old.items() if name in names})

    rows = {name: tuple(map(renamed, getattr(run, name))) for name in (*_KEYS, "failures")}
    return run.model_copy(update={**rows, "names": names})


def with_same_weights(run: RunRecord, others: Iterable[RunRecord]) -> tuple[RunRecord, str]:
    """A run without the rows of models that have other weights in other runs, and the reason.

    The reason is empty if there are none. If there are any, the rows that have one as the reference
    and those of models for tests go, too.
    """
    known = {row.model: row.weights for other in others for row in other.models}
    apart = {
        row.model: f"weights {weights_label(row.weights)}, here {weights_label(weights)}"
        for row in run.models
        if (weights := known.get(row.model)) is not None
        and (weights.kind, weights.sha256) != (row.weights.kind, row.weights.sha256)
    }
    if apart:
        tests = (row.model for row in run.models if row.family in TEST_FAMILIES)
        apart |= dict.fromkeys(tests, "a model for tests")
    names = {*apart, *(f"{TEACHER_PREFIX}{model}" for model in apart)}
    rows = {
        name: tuple(
            row
            for row in getattr(run, name)
            if names.isdisjoint(getattr(row, field, None) for field in _NAMES)
        )
        for name in (*_KEYS, "failures")
    }
    reasons = grouped((why, model) for model, why in apart.items())
    texts = [f"rows of {', '.join(models)}: {why}" for why, models in reasons.items()]
    lost = (row.reference for row in run.miou if row.model not in apart)
    if references := unique(each for each in lost if each in names):
        texts.append(f"rows with the reference {', '.join(references)}")
    text = "; ".join(texts)
    return run.model_copy(update=rows), text


def _of_run(warning: str, run: RunRecord, models: Iterable[str]) -> str:
    """A warning of a run; that of a busy machine, which matters for times only, names them."""
    if not warning.startswith(NOISY):
        return warning
    if names := ", ".join(unique(models)):
        return f"{NOISY}run {run.id} (times of {names}): {warning.removeprefix(NOISY)}"
    return f"run {run.id}, no latency of which is in the tables: {warning}"


def conditions(run: RunRecord) -> dict[str, str]:
    """What determines times, as printed, by name; runs that are merged must agree in it."""
    values = {name: getattr(run.environment, name) for name in _CONDITIONS}
    return {
        name.replace("_", " "): " ".join(value) or "none"
        if isinstance(value, tuple)
        else str(value)
        for name, value in values.items()
    }


def _check_same(runs: Sequence[RunRecord], timed: Sequence[RunRecord]) -> None:
    """Checks that runs agree in what their rows must share."""
    seen: dict[str, tuple[str, str]] = {}

    def check(run: RunRecord, name: str, value: str, why: str) -> None:
        """Compares a value with that of the first run that has one."""
        other, run_id = seen.setdefault(name, (value, run.id))
        if other != value:
            raise UsageError(
                f"{name}: {other} in run {run_id}, {value} in run {run.id}; {why}: report "
                "these runs apart"
            )

    incomparable = "their times are not comparable"
    for run in timed:
        for name, text in conditions(run).items():
            check(run, name, text, incomparable)
    for run in runs:
        for row in run.models:
            text = f"{weights_label(row.weights)} ({row.weights.sha256 or 'no hash'})"
            check(run, f"weights of {row.model}", text, "these are different models")
        if run.everything and "device" in run.config:
            device = str(run.config["device"])
            check(run, "device of times of whole images", device, incomparable)
        for accuracy in run.miou:
            if accuracy.manifest_sha256 is not None:
                name = f"prompt manifest of {protocol_of(accuracy).label}"
                why = "they had different prompts (another --seed?)"
                check(run, name, accuracy.manifest_sha256, why)
            weights = accuracy.reference_weights
            if weights is not None and accuracy.miou is not None:
                # The short label may be the same for two files.
                text = f"{weights.kind} {weights.sha256 or '(hash unknown)'}"
                check(
                    run, f"weights of {accuracy.reference}", text, "they are different references"
                )


def accuracy_only(run: RunRecord) -> RunRecord:
    """A run without its times and memory, which compares with runs of any machine."""
    empty: dict[str, Any] = dict.fromkeys(("latency", "batches", "memory", "everything"), ())
    return _without_times(run.model_copy(update=empty))


def _without_times(run: RunRecord) -> RunRecord:
    """A run without the times of its accuracy rows."""
    update: dict[str, Any] = {
        name: tuple(row.model_copy(update={"seconds": None}) for row in getattr(run, name))
        for name in ("miou", "detector")
    }
    return run.model_copy(update={**update, "accuracy_times": ()})


def _newest_rows(runs: Sequence[RunRecord], name: str, warnings: list[str]) -> tuple[Any, ...]:
    """The newest row for each key; a replaced row adds a warning, except in `models`."""
    found: dict[Hashable, dict[str, Any]] = {}
    for run in runs:
        for row in getattr(run, name):
            if name in _TIMES:
                row = row.model_copy(update={"run": row.run or run.id})
            found.setdefault(_KEYS[name](row), {})[run.id] = row
    for by_run in found.values():
        *old, last = by_run
        row = by_run[last]
        pair = name == "comparisons"
        who = f"{row.model_a} against {row.model_b}" if pair else getattr(row, "model", "")
        if name != "models":
            warnings += [f"{who}: some rows of run {each} replaced by run {last}" for each in old]
    return tuple(next(reversed(by_run.values())) for by_run in found.values())
