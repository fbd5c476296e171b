"""Compares two runs: better, worse, or the same within noise; as rows, tables and plots."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args

from benchmarks.evaluation.comparison import LEVEL, NEEDED, compare_models, holm
from benchmarks.records.instances import read_instances
from benchmarks.records.record import (
    ComparisonRow,
    LatencyRow,
    MemoryRow,
    MiouRow,
    RunRecord,
    load_record,
    write_atomic,
)
from benchmarks.records.statistics import Ratio, ratio_of_runs
from benchmarks.tables.columns import RowColumn, build_table, text_column
from benchmarks.tables.formatting import MIB, escape_markdown, interval, milliseconds, number
from benchmarks.tables.record_queries import setup_of, weights_label
from benchmarks.tables.table import Cell, Column, Table
from mobilesam.errors import UsageError
from mobilesam.frozen_model import FrozenModel

if TYPE_CHECKING:
    import pandas as pd

THRESHOLD = 1.05
"""Ratios nearer to 1 are the same, since the machine may change between two runs."""
ONE_PROCESS = "one process: it does not show how much processes differ"
"""Reason why a time or a peak of memory is unclear."""
NO_PEAKS = "an older record without peaks of single processes, which show how much processes differ"
FEW_IMAGES = "fewer than three images: no test"
MAX_PANELS = 9

Kind = Literal["time", "memory", "accuracy", "size"]
Verdict = Literal["worse", "better", "changed", "missing", "new", "same", "unclear"]
Bounds = tuple[float, float] | None
RowT = TypeVar("RowT")
KeyT = TypeVar("KeyT")
_TITLES: dict[Kind, str] = {
    "time": "Times",
    "memory": "Memory",
    "accuracy": "Accuracy",
    "size": "Sizes that changed",
}


class CompareRow(FrozenModel):
    """One quantity in both runs.

    Attributes:
        kind: Kind of quantity.
        model: Name of the model.
        what: Phase, protocol or component.
        unit: Unit of `a` and `b`.
        a: Value in the first run; None if it is missing.
        b: Value in the second run.
        change: Ratio B / A; for accuracy the difference B - A.
        ci95: Interval of the change; None if the noise is unknown.
        verdict: `changed` is for sizes, which are neither better nor worse; `unclear` if the noise
            is unknown; `missing` in the second run; `new` in the second run.
        why: Reason for a missing value or for the verdict.
    """

    kind: Kind
    model: str
    what: str
    unit: str
    a: float | None = None
    b: float | None = None
    change: float | None = None
    ci95: Bounds = None
    verdict: Verdict = "same"
    why: str | None = None


@dataclass(frozen=True, slots=True)
class Run:
    """A record, and the table of its instances if it has one."""

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


def check_threshold(threshold: float, default: float) -> None:
    """Checks a threshold that a user gave.

    Raises:
        UsageError: It is not above 1.
    """
    if not threshold > 1:
        raise UsageError(f"--threshold is a ratio above 1, such as {default}; got {threshold}")


def compare_runs(a: Run, b: Run, threshold: float = THRESHOLD) -> tuple[CompareRow, ...]:
    """Compares all quantities that either run has measured.

    Times and peaks of memory: ratio of medians with an interval over processes; better or worse if
    the whole interval is beyond the threshold, unclear if either run has one process. Accuracy:
    difference on the same prompts with the test of `comparison.compare_models`, corrected over all
    comparisons of a reference; unclear if there are too few images. Sizes are compared exactly.

    Args:
        a: The first run.
        b: The second run, which is compared with the first.
        threshold: Ratio from which on times and memory count as different; above 1.
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


def ratio_verdict(ci95: Bounds, threshold: float) -> Literal["better", "worse", "same", "unclear"]:
    """Better or worse if the whole interval is beyond the threshold; more is worse."""
    if ci95 is None:
        return "unclear"
    if ci95[0] > threshold:
        return "worse"
    return "better" if ci95[1] < 1 / threshold else "same"


def _row(
    kind: Kind, model: str, what: str, unit: str, rows: tuple[object, object], name: str
) -> CompareRow:
    """A row with an attribute of two rows of records, of which one may be missing."""
    a, b = (getattr(row, name, None) for row in rows)
    return CompareRow(kind=kind, model=model, what=what, unit=unit, a=a, b=b)


def _paired(
    a: Iterable[RowT], b: Iterable[RowT], key: Callable[[RowT], KeyT]
) -> Iterator[tuple[KeyT, RowT | None, RowT | None]]:
    """Pairs rows of two runs by key; None stands for a missing row."""
    before, after = ({key(row): row for row in rows} for rows in (a, b))
    for each in {**before, **after}:
        yield each, before.get(each), after.get(each)


def _ratio_fields(ratio: Ratio, threshold: float) -> dict[str, Any]:
    verdict = ratio_verdict(ratio.ci95, threshold)
    return {"change": ratio.value, "ci95": ratio.ci95, "verdict": verdict}


def _in_one_run(row: CompareRow, why_a: str | None, why_b: str | None) -> Iterator[CompareRow]:
    """Yields a row that has a value in one run only; nothing if it has none in either."""
    if row.a is None and row.b is not None:
        yield row.model_copy(update={"verdict": "new", "why": why_a})
    elif row.b is None and row.a is not None:
        yield row.model_copy(update={"verdict": "missing", "why": why_b})


def _reason(row: LatencyRow | MiouRow | None) -> str | None:
    return None if row is None or row.status == "ok" else f"{row.status}: {row.why}"


def _times(a: RunRecord, b: RunRecord, threshold: float) -> Iterator[CompareRow]:
    for model, what, old, new in _same_phases(a, b):
        row = _row("time", model, what, "ms", (old, new), "median_ms")
        if old is None or new is None or row.a is None or row.b is None:
            yield from _in_one_run(row, _reason(old), _reason(new))
            continue
        ratio = ratio_of_runs(old.samples_ms, new.samples_ms)
        labels = [setup_of(each).label for each in (old, new)]
        notes = [" -> ".join(labels)] if labels[0] != labels[1] else []
        notes += [ONE_PROCESS] if ratio.ci95 is None else []
        update = {**_ratio_fields(ratio, threshold), "why": "; ".join(notes) or None}
        yield row.model_copy(update=update)


def _same_phases(
    a: RunRecord, b: RunRecord
) -> Iterator[tuple[str, str, LatencyRow | None, LatencyRow | None]]:
    """Model, phase as printed, and its rows in both runs.

    If each run has one row of a phase, these are compared even if their setups differ; otherwise
    rows of the same setup are compared.
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


def _memory(a: RunRecord, b: RunRecord, threshold: float) -> Iterator[CompareRow]:
    for model, old, new in _paired(a.memory, b.memory, lambda row: row.model):
        row = _row("memory", model, "peak RSS", "bytes", (old, new), "peak_rss_bytes")
        if old is None or new is None:
            yield from _in_one_run(row, None, None)
            continue
        ratio = ratio_of_runs(_peaks(old), _peaks(new))
        why = None
        if ratio.ci95 is None:
            why = ONE_PROCESS if 1 in (old.processes, new.processes) else NO_PEAKS
        yield row.model_copy(update={**_ratio_fields(ratio, threshold), "why": why})


def _peaks(row: MemoryRow) -> list[list[float]]:
    """Peak of each process, or the one figure of an older record."""
    return [[float(peak)] for peak in row.peaks_rss_bytes or (row.peak_rss_bytes,)]


def _accuracy(a: Run, b: Run) -> Iterator[CompareRow]:
    def key(row: MiouRow) -> tuple[str, str, str, str]:
        return row.model, row.dataset, row.protocol, row.reference

    tests = _paired_tests(a, b)
    for (model, dataset, protocol, reference), old, new in _paired(
        a.record.miou, b.record.miou, key
    ):
        what = f"{protocol} vs {reference}, {dataset}"
        row = _row("accuracy", model, what, "fraction", (old, new), "miou")
        if old is None or new is None or row.a is None or row.b is None:
            yield from _in_one_run(row, _reason(old), _reason(new))
            continue
        same_prompts = old.manifest_sha256 == new.manifest_sha256
        test = tests.get((model, reference, protocol)) if same_prompts else None
        update: dict[str, Any]
        if _reference(old) != _reference(new):
            why = f"another reference: {_reference(old)} -> {_reference(new)}"
            update = {"verdict": "unclear", "why": why}
        elif test is None:
            change = row.b - row.a
            why = "not on the same prompts, or without instances: no test"
            verdict = "unclear" if change else "same"
            update = {"change": change, "verdict": verdict, "why": why}
        elif test.ci95 is None and test.difference:
            update = {"change": test.difference, "verdict": "unclear", "why": FEW_IMAGES}
        else:
            verdict = "same"
            if test.p_adjusted <= LEVEL:
                verdict = "better" if test.difference > 0 else "worse"
            update = {"change": test.difference, "ci95": test.ci95, "verdict": verdict}
        yield row.model_copy(update=update)


def _reference(row: MiouRow) -> str:
    """Reference model that masks are compared with, and its weights; empty for ground truth."""
    weights = row.reference_weights
    return "" if weights is None else f"{row.reference} with weights {weights.sha256}"


def _paired_tests(a: Run, b: Run) -> dict[tuple[str, str, str], ComparisonRow]:
    """Tests of every model of B against itself in A, corrected over all tests of a reference."""
    import pandas as pd

    if a.instances is None or b.instances is None:
        return {}
    found: list[tuple[str, ComparisonRow]] = []
    for model in a.instances["model"].unique():
        # B first: the difference is that of the model that appears first, less the other's.
        sides = [
            instances[instances["model"] == model].assign(model=side)
            for side, instances in (("b", b.instances), ("a", a.instances))
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
    pairs = _paired(a.params, b.params, lambda row: (row.model, row.component))
    for ((model, component), old, new), name in product(pairs, units):
        row = _row("size", model, component, units[name], (old, new), name)
        if row.a is None or row.b is None:
            yield from _in_one_run(row, None, None)
        else:
            change = row.b / row.a if row.a else None
            verdict = "same" if row.a == row.b else "changed"
            yield row.model_copy(update={"change": change, "verdict": verdict})


def differences(a: RunRecord, b: RunRecord) -> tuple[str, ...]:
    """Differences in how two runs were made, one line each, which may explain changed results."""
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
    """Number of rows with each verdict that occurs."""
    counts = Counter(row.verdict for row in rows)
    return {verdict: counts[verdict] for verdict in get_args(Verdict) if counts[verdict]}


def tally_text(rows: Sequence[CompareRow]) -> str:
    """`1 worse, 3 better, 40 same within noise`."""
    names = {"same": "same within noise"}
    return ", ".join(f"{n} {names.get(verdict, verdict)}" for verdict, n in tally(rows).items())


def amount_text(value: float | None, unit: str) -> str:
    """A value for a table: in `ms`, `bytes`, as a `fraction`, or as a count."""
    if value is None:
        return ""
    if unit == "ms":
        return milliseconds(value)
    if unit == "bytes":
        return f"{number(value / MIB)} MiB"
    return f"{100 * value:.2f} %" if unit == "fraction" else f"{value:,.0f}"


def change_text(value: float, ci95: Bounds, *, is_difference: bool) -> str:
    """A ratio, or a difference of fractions in percentage points, with its interval."""
    if not is_difference:
        return interval(value, ci95, digits=3)
    return interval(100 * value, ci95 and (100 * ci95[0], 100 * ci95[1]), digits=2)


def amount_column(header: str, name: str) -> RowColumn:
    """Column of an attribute whose unit is that of the row; sizes are shown as counts."""

    def cell(row: Any) -> Cell:
        unit = "count" if getattr(row, "kind", None) == "size" else row.unit
        value = getattr(row, name)
        return Cell(amount_text(value, unit), (value,))

    return RowColumn(Column(header, (name,), align="right"), cell)


def change_column(
    header: str,
    raw: tuple[str, str, str],
    attributes: tuple[str, str],
    show: Callable[[Any, float, Bounds], str],
) -> RowColumn:
    """Column of a change with its interval.

    Args:
        header: Displayed header.
        raw: CSV columns of the change and of the ends of its interval.
        attributes: Attributes of the row for the change and its interval.
        show: Formats them.
    """

    def cell(row: Any) -> Cell:
        value, ci95 = (getattr(row, name) for name in attributes)
        text = "" if value is None else show(row, value, ci95)
        return Cell(text, (value, *(ci95 or (None, None))))

    return RowColumn(Column(header, raw, align="right"), cell)


def compare_tables(rows: Sequence[CompareRow]) -> tuple[Table, ...]:
    """One table for each kind of quantity; of sizes only those that changed."""
    tables = []
    for kind, title in _TITLES.items():
        own = [row for row in rows if row.kind == kind]
        if kind == "size":
            own = [row for row in own if row.verdict != "same"]
        if own:
            name = f"compare-{kind}"
            tables.append(build_table(name, title, _columns(kind), _summarised(own)))
    return tuple(tables)


def _columns(kind: Kind) -> tuple[RowColumn, ...]:
    is_accuracy = kind == "accuracy"

    def what(row: CompareRow) -> Cell:
        text = f"{row.what}: {row.unit}" if row.kind == "size" and row.unit else row.what
        return Cell(text, (row.what, row.unit))

    def change(_row: CompareRow, value: float, ci95: Bounds) -> str:
        return change_text(value, ci95, is_difference=is_accuracy)

    header = "B - A (points)" if is_accuracy else "B / A"
    return (
        text_column("Model", "model"),
        RowColumn(Column("What", ("what", "unit")), what),
        amount_column("A", "a"),
        amount_column("B", "b"),
        change_column(header, ("change", "low", "high"), ("change", "ci95"), change),
        text_column("Verdict", "verdict"),
        text_column("Note", "note", get=("why",)),
    )


def _summarised(rows: Sequence[CompareRow]) -> list[CompareRow]:
    """Replaces the rows of a model that only one of the runs has by one row."""
    found: list[CompareRow] = []
    for model in dict.fromkeys(row.model for row in rows):
        own = [row for row in rows if row.model == model]
        if len(own) > 1 and {row.verdict for row in own} in ({"missing"}, {"new"}):
            update = {"what": f"all of {len(own)}", "unit": "", "a": None, "b": None}
            own = [own[0].model_copy(update=update)]
        found += own
    return found


def compare_figures(rows: Sequence[CompareRow]) -> dict[str, Any]:
    """Figures by the stem of their file: ratios of times, and differences of accuracy."""
    found = {}
    for kind, label, neutral, scale in (
        ("time", "B / A", 1.0, 1.0),
        ("accuracy", "B - A (percentage points)", 0.0, 100.0),
    ):
        own = [row for row in rows if row.kind == kind and row.change is not None]
        if own:
            found[f"compare-{kind}"] = _figure(own, label, neutral, scale)
    return found


def _figure(rows: Sequence[CompareRow], label: str, neutral: float, scale: float) -> Any:
    from benchmarks.report.plots import Dot, Panel, panel_figure
    from benchmarks.report.style import INK, plot_style

    whats = list(dict.fromkeys(row.what for row in rows))[:MAX_PANELS]
    rows = [row for row in rows if row.what in whats]
    models = list(dict.fromkeys(row.model for row in rows))
    panels, ends = [], [neutral]
    for what in whats:
        dots: dict[str, Dot | str] = {}
        for row in rows:
            if row.what != what or row.change is None:
                continue
            bounds = None if row.ci95 is None else (scale * row.ci95[0], scale * row.ci95[1])
            value = scale * row.change
            dots[row.model] = Dot(value, f"{value:.2f} {row.verdict}", bounds)
            ends += [value, *(bounds or ())]
        panels.append(Panel(what, dots))
    margin = 0.08 * (max(ends) - min(ends)) or 0.1
    with plot_style():
        figure = panel_figure(
            f"Two runs: {label}",
            panels,
            models,
            label,
            notes=("Bars: 95 % intervals, often inside of the dot. The line: no change.",),
            linear=(min(ends) - margin, max(ends) + margin),
            columns=2,
        )
        for ax in figure.axes[: len(panels)]:
            ax.axvline(neutral, color=INK, linewidth=0.8, zorder=0.5)
    return figure


def comparison_notes(a: RunRecord, b: RunRecord, threshold: float) -> tuple[str, ...]:
    """Differences in how two runs were made, the threshold and the limits of the comparison."""
    return (
        *differences(a, b),
        f"times and memory count as different where all of the interval is beyond {threshold}",
        "the runs were made at different times, and the intervals do not cover changes of the "
        "machine in between; regress measures two versions in turns",
    )


def write_comparison(
    rows: Sequence[CompareRow], notes: Sequence[str], title: str, folder: Path
) -> list[Path]:
    """Writes `summary.md`, the tables as CSV, and the plots.

    Raises:
        DataError: The folder cannot be written.
    """
    from benchmarks.report.style import plot_style, save_figure

    tables = compare_tables(rows)
    parts = [f"# {escape_markdown(title)}\n", f"{tally_text(rows)}\n"]
    parts += [table.to_markdown() for table in tables]
    if notes:
        parts.append("".join(f"- {escape_markdown(note)}\n" for note in notes))
    texts = {folder / "summary.md": "\n".join(parts)}
    texts |= {folder / "tables" / f"{table.name}.csv": table.to_csv() for table in tables}
    for path, text in texts.items():
        write_atomic(path, text.encode())
    written = list(texts)
    with plot_style():
        for stem, figure in compare_figures(rows).items():
            written += save_figure(figure, folder / "plots", stem)
    return written
