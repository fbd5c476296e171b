"""Two runs side by side: what got better, what worse, and what is the same within noise."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from benchmarks.evaluation.comparison import LEVEL, NEEDED, compare_models, holm
from benchmarks.records.instances import read_instances
from benchmarks.records.ratios import ratio_of_runs
from benchmarks.records.record import (
    ComparisonRow,
    LatencyRow,
    MemoryRow,
    MiouRow,
    RunRecord,
    load_record,
)
from benchmarks.tables.record_queries import setup_of, weights_label
from mobilesam.frozen_model import FrozenModel

if TYPE_CHECKING:
    import pandas as pd

THRESHOLD = 1.05
"""Ratios nearer to 1 than this are the same: two runs apart differ by drift of the machine."""

ONE_PROCESS = "one process: nothing tells how processes differ"
"""Reason why a time or a peak of memory is unclear."""
NO_PEAKS = (
    "an older record: it holds no peaks of single processes, so nothing tells how they differ"
)
FEW_IMAGES = "fewer than three images: no test"

Kind = Literal["time", "memory", "accuracy", "size"]
Verdict = Literal["better", "worse", "same", "unclear", "changed", "vanished", "appeared"]
_ORDER = ("worse", "better", "changed", "vanished", "appeared", "same", "unclear")
_A, _B = "a", "b"


class CompareRow(FrozenModel):
    """One quantity in both runs.

    Attributes:
        kind: What is compared.
        model: Whose.
        what: Phase, protocol or component.
        unit: Of `a` and `b`.
        a: In the first run; None if it is not there.
        b: In the second run.
        change: The ratio B / A; for accuracy the difference B - A.
        ci95: Of the change; None where nothing tells the noise.
        verdict: `changed` is for sizes, which are neither good nor bad; `unclear` where nothing
            tells the noise.
        why: Why a value is missing, or how the verdict came about.
    """

    kind: Kind
    model: str
    what: str
    unit: str
    a: float | None = None
    b: float | None = None
    change: float | None = None
    ci95: tuple[float, float] | None = None
    verdict: Verdict = "same"
    why: str | None = None


@dataclass(frozen=True, slots=True)
class Run:
    """A record, and the table of its instances where it has one."""

    record: RunRecord
    instances: pd.DataFrame | None = None


def load_run(path: Path) -> Run:
    """Reads a run from its folder or from its `record.json`.

    Raises:
        DataError: It cannot be read.
    """
    record = load_record(path)
    folder = path if path.is_dir() else path.parent
    if record.instances is None or not (folder / record.instances).is_file():
        return Run(record)
    return Run(record, read_instances(folder / record.instances, NEEDED))


def compare_runs(a: Run, b: Run, threshold: float = THRESHOLD) -> tuple[CompareRow, ...]:
    """Compares whatever either run measured.

    Times and peaks of memory: the ratio of medians with an interval over processes; better or worse
    where the whole interval is beyond the threshold, unclear where either run has one process.
    Accuracy: the difference on the same prompts with the test of `comparison.compare_models`,
    corrected over all of a reference; unclear where there are too few images for it. Sizes are
    exact.

    Args:
        a: The first run, what B is compared with.
        b: The second run.
        threshold: Ratio from which on times and memory may count as different; above 1.
    """
    return (
        *_times(a.record, b.record, threshold),
        *_memory(a.record, b.record, threshold),
        *_accuracy(a, b),
        *_sizes(a.record, b.record),
    )


def phase_label(phase: str, n_prompts: int | None) -> str:
    """A phase as printed, such as `decode, 10 prompts`."""
    if n_prompts is None or phase not in ("decode", "postprocess"):
        return phase
    return f"{phase}, {n_prompts} prompt{'s' * (n_prompts != 1)}"


def _times(a: RunRecord, b: RunRecord, threshold: float) -> Iterator[CompareRow]:
    for model, what, old, new in _same_phases(a, b):
        known = CompareRow(kind="time", model=model, what=what, unit="ms")
        values = {
            "a": None if old is None else old.median_ms,
            "b": None if new is None else new.median_ms,
        }
        if old is None or new is None or old.median_ms is None or new.median_ms is None:
            yield from _alone(known.model_copy(update=values), _why(old), _why(new))
            continue
        ratio = ratio_of_runs(old.samples_ms, new.samples_ms)
        setups = [setup_of(row).label for row in (old, new)]
        notes = [f"{setups[0]} -> {setups[1]}"] if setups[0] != setups[1] else []
        notes += [ONE_PROCESS] if ratio.ci95 is None else []
        yield known.model_copy(
            update={
                **values,
                "change": ratio.value,
                "ci95": ratio.ci95,
                "verdict": ratio_verdict(ratio.ci95, threshold),
                "why": "; ".join(notes) or None,
            }
        )


def _same_phases(
    a: RunRecord, b: RunRecord
) -> Iterator[tuple[str, str, LatencyRow | None, LatencyRow | None]]:
    """Model, phase as printed, and its rows in both runs.

    Where each run has one row of a phase, these are compared even if their setups differ;
    otherwise rows of the same setup are compared.
    """
    grouped: dict[tuple[str, str, int | None], tuple[list[LatencyRow], list[LatencyRow]]] = {}
    for side, run in enumerate((a, b)):
        for row in run.latency:
            key = (row.model, row.phase, row.n_prompts)
            grouped.setdefault(key, ([], []))[side].append(row)
    for (model, phase, n_prompts), (olds, news) in grouped.items():
        what = phase_label(phase, n_prompts)
        if len(olds) <= 1 and len(news) <= 1:
            yield model, what, next(iter(olds), None), next(iter(news), None)
            continue
        before, after = ({setup_of(row): row for row in rows} for rows in (olds, news))
        for setup in {**before, **after}:
            yield model, f"{what}, {setup.label}", before.get(setup), after.get(setup)


def _why(row: LatencyRow | MiouRow | None) -> str | None:
    if row is None or row.status == "ok":
        return None
    return f"{row.status}: {row.why}"


def _alone(row: CompareRow, why_a: str | None, why_b: str | None) -> Iterator[CompareRow]:
    """A row that one run alone has; nothing if neither has a value."""
    if row.a is None and row.b is not None:
        yield row.model_copy(update={"verdict": "appeared", "why": why_a})
    elif row.b is None and row.a is not None:
        yield row.model_copy(update={"verdict": "vanished", "why": why_b})


def ratio_verdict(ci95: tuple[float, float] | None, threshold: float) -> Verdict:
    """Better or worse where the whole interval is beyond the threshold; more is worse."""
    if ci95 is None:
        return "unclear"
    if ci95[0] > threshold:
        return "worse"
    return "better" if ci95[1] < 1 / threshold else "same"


def _memory(a: RunRecord, b: RunRecord, threshold: float) -> Iterator[CompareRow]:
    before, after = ({row.model: row for row in run.memory} for run in (a, b))
    for model in {**before, **after}:
        old, new = before.get(model), after.get(model)
        row = CompareRow(
            kind="memory",
            model=model,
            what="peak RSS",
            unit="bytes",
            a=None if old is None else old.peak_rss_bytes,
            b=None if new is None else new.peak_rss_bytes,
        )
        if old is None or new is None:
            yield from _alone(row, None, None)
            continue
        ratio = ratio_of_runs(_peaks(old), _peaks(new))
        why = None
        if ratio.ci95 is None:
            why = ONE_PROCESS if 1 in (old.processes, new.processes) else NO_PEAKS
        yield row.model_copy(
            update={
                "change": ratio.value,
                "ci95": ratio.ci95,
                "verdict": ratio_verdict(ratio.ci95, threshold),
                "why": why,
            }
        )


def _peaks(row: MemoryRow) -> list[list[float]]:
    """Peak of each process, or the one figure of an older record."""
    return [[float(peak)] for peak in row.peaks_rss_bytes or (row.peak_rss_bytes,)]


def _accuracy(a: Run, b: Run) -> Iterator[CompareRow]:
    before, after = (
        {(row.model, row.dataset, row.protocol, row.reference): row for row in run.record.miou}
        for run in (a, b)
    )
    tested = _tested(a, b)
    for key in {**before, **after}:
        old, new = before.get(key), after.get(key)
        model, dataset, protocol, reference = key
        row = CompareRow(
            kind="accuracy",
            model=model,
            what=f"{protocol} vs {reference}, {dataset}",
            unit="fraction",
            a=None if old is None else old.miou,
            b=None if new is None else new.miou,
        )
        if old is None or new is None or row.a is None or row.b is None:
            yield from _alone(row, _why(old), _why(new))
            continue
        if _reference(old) != _reference(new):
            why = f"another reference: {_reference(old)} -> {_reference(new)}"
            yield row.model_copy(update={"verdict": "unclear", "why": why})
            continue
        test = tested.get((model, reference, protocol))
        if test is None or old.manifest_sha256 != new.manifest_sha256:
            why = "not on the same prompts, or without instances: no test"
            change = row.b - row.a
            verdict = "unclear" if change else "same"
            yield row.model_copy(update={"change": change, "verdict": verdict, "why": why})
            continue
        if test.ci95 is None and test.difference:
            update = {"change": test.difference, "verdict": "unclear", "why": FEW_IMAGES}
            yield row.model_copy(update=update)
            continue
        verdict = "same"
        if test.p_adjusted <= LEVEL:
            verdict = "better" if test.difference > 0 else "worse"
        yield row.model_copy(
            update={"change": test.difference, "ci95": test.ci95, "verdict": verdict}
        )


def _reference(row: MiouRow) -> str:
    """Teacher that masks are compared with, and its weights; empty if there is no teacher."""
    weights = row.reference_weights
    return "" if weights is None else f"{row.reference} with weights {weights.sha256}"


def _tested(a: Run, b: Run) -> dict[tuple[str, str, str], ComparisonRow]:
    """The paired test of every model with itself, corrected over all of a reference."""
    import pandas as pd

    if a.instances is None or b.instances is None:
        return {}
    found: list[tuple[str, ComparisonRow]] = []
    for model in a.instances["model"].unique():
        # B first: the difference is that of the model that appears first, less the other's.
        sides = [
            run.instances[run.instances["model"] == model].assign(model=side)
            for run, side in ((b, _B), (a, _A))
            if run.instances is not None
        ]
        found += [(model, row) for row in compare_models(pd.concat(sides), dataset="")]
    corrected = {}
    for reference in dict.fromkeys(row.reference for _, row in found):
        family = [(model, row) for model, row in found if row.reference == reference]
        for (model, row), p in zip(family, holm([row.p_value for _, row in family]), strict=True):
            key = (model, reference, row.protocol)
            corrected[key] = row.model_copy(update={"p_adjusted": p})
    return corrected


def _sizes(a: RunRecord, b: RunRecord) -> Iterator[CompareRow]:
    units = {"total": "parameters", "flops": "FLOP", "weight_bytes": "bytes"}
    before, after = (
        {
            (row.model, row.component, name): value
            for row in run.params
            for name in units
            if (value := getattr(row, name)) is not None
        }
        for run in (a, b)
    )
    for key in {**before, **after}:
        old, new = before.get(key), after.get(key)
        model, component, name = key
        row = CompareRow(kind="size", model=model, what=component, unit=units[name], a=old, b=new)
        if old is None or new is None:
            yield from _alone(row, None, None)
        else:
            change = new / old if old else None
            yield row.model_copy(
                update={"change": change, "verdict": "same" if old == new else "changed"}
            )


def differences(a: RunRecord, b: RunRecord) -> tuple[str, ...]:
    """Differences in how two runs were made, one line each; they may explain changed results."""
    here, there = a.environment, b.environment
    names = ("cpu", "gpu", "threads", "allocator", "os", "python", "git_commit")
    pairs = [(name, getattr(here, name), getattr(there, name)) for name in names]
    libraries = {**here.libraries, **there.libraries}
    pairs += [(name, here.libraries.get(name), there.libraries.get(name)) for name in libraries]
    # Merged and rescored records may lack a requested device.
    conditions = ("device", "precision", "seed", "dataset_sha256")
    pairs += [
        (name, a.config[name], b.config[name])
        for name in conditions
        if name in a.config and name in b.config
    ]
    weights, others = (
        {f"weights of {row.model}": weights_label(row.weights) for row in run.models}
        for run in (a, b)
    )
    pairs += [(name, weights[name], others[name]) for name in weights if name in others]
    return tuple(f"{name}: {old} -> {new}" for name, old, new in pairs if old != new)


def tally(rows: Sequence[CompareRow]) -> dict[str, int]:
    """How many rows have each verdict, those that occur."""
    found: dict[str, int] = dict.fromkeys(_ORDER, 0)
    for row in rows:
        found[row.verdict] += 1
    return {verdict: count for verdict, count in found.items() if count}
