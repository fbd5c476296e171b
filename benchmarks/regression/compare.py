"""Compares two runs: better, worse, or no clear change; as rows, tables and plots."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args

from benchmarks.evaluation.comparison import LEVEL, NEEDED, compare_models, holm
from benchmarks.records.environment import NOISY
from benchmarks.records.instances import read_instances
from benchmarks.records.record import (
    ComparisonRow,
    LatencyRow,
    MemoryRow,
    MiouRow,
    ParamsRow,
    RunRecord,
    load_record,
    write_atomic,
)
from benchmarks.records.statistics import Samples, ratio_of_runs
from benchmarks.tables.columns import (
    RowColumn,
    build_table,
    interval_column,
    text_column,
    value_column,
)
from benchmarks.tables.formatting import MIB, escape_markdown, interval, milliseconds, number
from benchmarks.tables.merging import conditions
from benchmarks.tables.record_queries import protocol_of, setup_of, unique, weights_label
from benchmarks.tables.table import Table
from mobilesam.errors import UsageError
from mobilesam.frozen_model import FrozenModel

if TYPE_CHECKING:
    import pandas as pd

THRESHOLD = 1.05
"""Ratios nearer to 1 are the same, since the machine may change between two runs."""
ONE_PROCESS = "one process in {}, which does not show how much processes differ"
"""Reason why a time or a peak of memory is unclear; with the runs that have one process."""
NO_PEAKS = "an older record without peaks of single processes, which show how much processes differ"
FEW_IMAGES = "fewer than three images: no test"

Kind = Literal["time", "memory", "accuracy", "size"]
Verdict = Literal["worse", "better", "changed", "missing", "new", "same", "unclear"]
Bounds = tuple[float, float] | None
RowT = TypeVar("RowT")
_Pair = tuple[str, str, RowT | None, RowT | None]
"""Model, what was measured, and its row in each run."""
_TITLES: dict[Kind, str] = {
    "time": "Times",
    "memory": "Memory",
    "accuracy": "Accuracy",
    "size": "Sizes",
}
_NOUNS: dict[Kind, str] = {
    "time": "times",
    "memory": "peaks of memory",
    "accuracy": "accuracies",
    "size": "sizes",
}
_CHANGES: dict[tuple[Kind, Verdict], str] = {
    ("accuracy", "worse"): "less accurate",
    ("accuracy", "better"): "more accurate",
    ("time", "worse"): "slower",
    ("time", "better"): "faster",
    ("memory", "worse"): "larger in memory",
    ("memory", "better"): "smaller in memory",
    ("size", "changed"): "different",
}
"""What B is compared with A."""


_CONFIGURED = ("device", "precision", "seed", "dataset_sha256")


class CompareRow(FrozenModel):
    """One quantity in both runs.

    `change` is the ratio B / A, for accuracy the difference B - A. The verdict is `changed` for
    sizes, which are neither better nor worse, and `unclear` if the noise is unknown.
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
    """Reads a run from its folder or from its `record.json`."""
    record = load_record(path)
    folder = path if path.is_dir() else path.parent
    if record.instances is None or not (folder / record.instances).is_file():
        return Run(record)
    return Run(record, read_instances(folder / record.instances, NEEDED))


def check_threshold(threshold: float, default: float) -> None:
    """Checks a threshold that a user gave; a `UsageError` unless it is above 1."""
    if not threshold > 1:
        raise UsageError(f"--threshold is a ratio above 1, such as {default}; got {threshold}")


def compare_runs(a: Run, b: Run, threshold: float = THRESHOLD) -> tuple[CompareRow, ...]:
    """Compares all quantities that either run has measured.

    Times and peaks of memory: ratio of medians with an interval over processes; better or worse if
    the whole interval is beyond the threshold (a ratio above 1), unclear if either run has one
    process. Accuracy: difference on the same prompts with the test of `comparison.compare_models`,
    corrected over all comparisons of a reference; unclear if there are too few images. Sizes are
    compared exactly.
    """
    old, new = a.record, b.record
    tests = _paired_tests(a, b)

    def ratio(before: Samples, after: Samples, *processes: int) -> dict[str, Any]:
        """Ratio of the medians of two samples, and its verdict; `processes` of A and B."""
        found = ratio_of_runs(before, after)
        result = {"change": found.value, "ci95": found.ci95, "why": None}
        if found.ci95 is not None or found.value == 1:
            return result | {"verdict": ratio_verdict(found.ci95 or (1, 1), threshold)}
        single = [side for side, n in zip("AB", processes, strict=True) if n == 1]
        why = ONE_PROCESS.format(" and ".join(single)) if single else NO_PEAKS
        return result | {"verdict": "unclear", "why": why}

    def of_time(a: LatencyRow, b: LatencyRow) -> dict[str, Any]:
        """Comparison of two times."""
        found = ratio(a.samples_ms, b.samples_ms, len(a.samples_ms), len(b.samples_ms))
        setups = " -> ".join(unique(setup_of(row).label for row in (a, b)))
        notes = (setups if " -> " in setups else None, found["why"])
        return {**found, "why": "; ".join(filter(None, notes)) or None}

    def of_memory(a: MemoryRow, b: MemoryRow) -> dict[str, Any]:
        """Comparison of the peaks of all processes, or of the one figure of older records."""
        before, after = (
            [[float(peak)] for peak in row.peaks_rss_bytes or (row.peak_rss_bytes,)]
            for row in (a, b)
        )
        return ratio(before, after, a.processes, b.processes)

    def of_accuracy(a: MiouRow, b: MiouRow) -> dict[str, Any]:
        """Comparison of two accuracies, paired if the prompts are the same."""
        same_prompts = a.manifest_sha256 == b.manifest_sha256
        test = tests.get((a.model, a.reference, a.protocol)) if same_prompts else None
        if _reference(a) != _reference(b):
            why = f"another reference: {_reference(a)} -> {_reference(b)}"
            return {"verdict": "unclear", "why": why}
        if test is None:
            change = (b.miou or 0) - (a.miou or 0)
            why = "not on the same prompts, or without instances: no test"
            return {"change": change, "verdict": "unclear" if change else "same", "why": why}
        if test.ci95 is None and test.difference:
            return {"change": test.difference, "verdict": "unclear", "why": FEW_IMAGES}
        verdict = "same"
        if test.p_adjusted <= LEVEL:
            verdict = "better" if test.difference > 0 else "worse"
        return {"change": test.difference, "ci95": test.ci95, "verdict": verdict}

    def of_size(a: ParamsRow, b: ParamsRow, name: str) -> dict[str, Any]:
        before, after = getattr(a, name), getattr(b, name)
        change = after / before if before else None
        return {"change": change, "verdict": "same" if before == after else "changed"}

    memory = _paired(old.memory, new.memory, lambda row: (row.model, "peak RSS"))
    accuracy = _paired(old.miou, new.miou, lambda row: (row.model, protocol_of(row).label))
    sizes = _paired(old.params, new.params, lambda row: (row.model, row.component))
    units = {"total": "parameters", "flops": "FLOP", "weight_bytes": "bytes"}
    return (
        *_compared("time", "ms", "median_ms", _same_phases(old, new), of_time),
        *_compared("memory", "bytes", "peak_rss_bytes", memory, of_memory),
        *_compared("accuracy", "fraction", "miou", accuracy, of_accuracy),
        *(
            row
            for pair in sizes
            for name, unit in units.items()
            for row in _compared("size", unit, name, [pair], partial(of_size, name=name))
        ),
    )


def _compared(
    kind: Kind,
    unit: str,
    name: str,
    pairs: Iterable[_Pair[RowT]],
    change: Callable[[RowT, RowT], dict[str, Any]],
) -> Iterator[CompareRow]:
    """Yields the comparison of an attribute in each pair of rows that has it at least once."""
    for model, what, old, new in pairs:
        a, b = getattr(old, name, None), getattr(new, name, None)
        row = CompareRow(kind=kind, model=model, what=what, unit=unit, a=a, b=b)
        if old is not None and new is not None and a is not None and b is not None:
            yield row.model_copy(update=change(old, new))
        elif b is not None:
            yield row.model_copy(update={"verdict": "new", "why": _reason("A", old)})
        elif a is not None:
            yield row.model_copy(update={"verdict": "missing", "why": _reason("B", new)})


def _reason(side: str, row: object) -> str | None:
    """Why a row of a run has no value."""
    if isinstance(row, LatencyRow | MiouRow) and row.status != "ok":
        return f"{side} {row.status}: {row.why}"
    return None


def _paired(
    a: Iterable[RowT], b: Iterable[RowT], key: Callable[[RowT], tuple[str, str]]
) -> Iterator[_Pair[RowT]]:
    """Pairs rows of two runs by model and what was measured."""
    before, after = ({key(row): row for row in rows} for rows in (a, b))
    for each in {**before, **after}:
        yield *each, before.get(each), after.get(each)


def _same_phases(a: RunRecord, b: RunRecord) -> Iterator[_Pair[LatencyRow]]:
    """Pairs the rows of each phase.

    Setups may differ if each run has one row of the phase.
    """
    grouped: dict[tuple[str, str], tuple[list[LatencyRow], list[LatencyRow]]] = {}
    for side, run in enumerate((a, b)):
        for row in run.latency:
            key = (row.model, phase_label(row.phase, row.n_prompts))
            grouped.setdefault(key, ([], []))[side].append(row)
        for row in run.batches:
            images = f"batch of {row.n_images} image{'s' * (row.n_images != 1)}"
            grouped.setdefault((row.model, images), ([], []))[side].append(row)
    for (model, what), (olds, news) in grouped.items():
        if len(olds) <= 1 and len(news) <= 1:
            yield model, what, next(iter(olds), None), next(iter(news), None)
        else:
            for setup in unique(setup_of(row) for row in (*olds, *news)):
                same = ([row for row in rows if setup_of(row) == setup] for rows in (olds, news))
                old, new = (rows[-1] if rows else None for rows in same)
                yield model, f"{what}, {setup.label}", old, new


def phase_label(phase: str, n_prompts: int | None) -> str:
    """A phase as printed, such as `decode, 10 prompts`."""
    if n_prompts is None or phase not in ("decode", "postprocess"):
        return phase.replace("_", " ")
    return f"{phase}, {n_prompts} prompt{'s' * (n_prompts != 1)}"


def ratio_verdict(ci95: Bounds, threshold: float) -> Literal["better", "worse", "same", "unclear"]:
    """Better or worse if the whole interval is beyond the threshold; more is worse."""
    if ci95 is None:
        return "unclear"
    if ci95[0] > threshold:
        return "worse"
    return "better" if ci95[1] < 1 / threshold else "same"


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
    for reference in unique(row.reference for _, row in found):
        family = [(model, row) for model, row in found if row.reference == reference]
        for (model, row), p in zip(family, holm([row.p_value for _, row in family]), strict=True):
            key = (model, reference, row.protocol)
            corrected[key] = row.model_copy(update={"p_adjusted": p})
    return corrected


def comparison_notes(a: RunRecord, b: RunRecord, threshold: float) -> tuple[str, ...]:
    """Differences in how two runs were made, their noise, the threshold and the limits."""
    if a == b:
        return ("A and B are the same run",)

    def facts(run: RunRecord) -> dict[str, Any]:
        """How a run was made, by name."""
        names = ("wait_policy", "os", "python", "git_commit")
        return {
            **conditions(run),
            **{name.replace("_", " "): getattr(run.environment, name) for name in names},
            "profile": run.profile,
            # Merged and rescored records may lack a requested device.
            **{name: run.config[name] for name in _CONFIGURED if name in run.config},
            **{f"weights of {row.model}": weights_label(row.weights) for row in run.models},
        }

    one, other = facts(a), facts(b)
    pairs = [(name, one[name], other[name]) for name in one if name in other]
    here, there = a.environment.libraries, b.environment.libraries
    pairs += [(name, here.get(name), there.get(name)) for name in {**here, **there}]
    named = [(name, *("none" if x is None else x for x in sides)) for name, *sides in pairs]
    return (
        *(f"{name}: {old} -> {new}" for name, old, new in named if old != new),
        *(
            f"{side}: {text}"
            for side, run in (("A", a), ("B", b))
            for text in run.warnings
            if text.startswith(NOISY)
        ),
        f"times and memory are worse or better where all of the interval is above {threshold:g} "
        f"or below 1/{threshold:g}, accuracies where p is at most {LEVEL}; else they are the same, "
        "or unclear without a test",
        "the runs were made at different times, and the intervals do not cover changes of the "
        "machine in between; regress measures two versions in turns",
    )


def tally(rows: Sequence[CompareRow]) -> dict[str, int]:
    """Number of rows with each verdict that occurs."""
    counts = Counter(row.verdict for row in rows)
    return {verdict: counts[verdict] for verdict in get_args(Verdict) if counts[verdict]}


def tally_text(rows: Sequence[CompareRow]) -> str:
    """`1 worse, 3 better, 40 same`."""
    return ", ".join(f"{n} {verdict}" for verdict, n in tally(rows).items())


def verdict_sentence(rows: Sequence[CompareRow]) -> str:
    """The result of a comparison in one sentence, such as `B is slower in 2 of 12 times; ...`."""
    both = [row for row in rows if row.verdict not in ("missing", "new")]
    if not both:
        return "Nothing can be compared: no quantity was measured in both A and B."
    counts = Counter((row.kind, row.verdict) for row in both)
    kinds = Counter(row.kind for row in both)
    verdicts = Counter(row.verdict for row in both)
    changes = [
        f"{words} in {counts[kind, verdict]} of {kinds[kind]} {_NOUNS[kind]}"
        for (kind, verdict), words in _CHANGES.items()
        if counts[kind, verdict]
    ]
    text = "No difference between A and B"
    if changes:
        *first, last = changes
        text = f"B is {', '.join(first)} and {last}" if first else f"B is {last}"
    elif verdicts["unclear"]:
        text = "It is unclear whether A and B differ"
    elif any(row.a != row.b for row in both):
        text = "A and B show no clear difference"
    rest = {
        "same": verdicts["same"],
        "unclear (no test)": verdicts["unclear"],
        "in one of them only": len(rows) - len(both),
    }
    return f"{text}; {', '.join(f'{n} {name}' for name, n in rest.items() if n)}".rstrip("; ") + "."


def amount_column(header: str, name: str, rank: int = 0) -> RowColumn:
    """Column of an attribute in the unit of its row: `ms`, `bytes`, `fraction`, or a count."""

    def text(row: Any) -> str:
        """The value with its unit."""
        value = getattr(row, name)
        if value is None:
            return ""
        unit = None if getattr(row, "kind", None) == "size" else row.unit
        if unit == "ms":
            return milliseconds(value)
        if unit == "bytes":
            return f"{number(value / MIB)} MiB"
        return f"{100 * value:.2f} %" if unit == "fraction" else f"{value:,.0f}"

    return value_column(header, name, text=text, rank=rank)


def change_text(value: float, ci95: Bounds, *, is_difference: bool) -> str:
    """A ratio, or a difference of fractions in percentage points, with its interval."""
    if not is_difference:
        return interval(value, ci95, digits=3)
    return interval(100 * value, ci95 and (100 * ci95[0], 100 * ci95[1]), digits=2)


def compare_tables(rows: Sequence[CompareRow]) -> tuple[Table, ...]:
    """One table for each kind of quantity; of sizes without those that are the same."""

    def what(row: CompareRow) -> str:
        return f"{row.what}: {row.unit}" if row.kind == "size" and row.unit else row.what

    def change(row: CompareRow, value: float, ci95: Bounds) -> str:
        return change_text(value, ci95, is_difference=row.kind == "accuracy")

    tables = []
    for kind, title in _TITLES.items():
        every = [row for row in rows if row.kind == kind]
        own = [row for row in every if (kind, row.verdict) != ("size", "same")]
        n_left_out = len(every) - len(own)
        notes = [f"Left out: {n_left_out} sizes that are the same."] * bool(n_left_out)
        if not own:
            continue
        header = "B - A (points)" if kind == "accuracy" else "B / A"
        raw = ("change", "low", "high")
        columns = (
            text_column("Model", "model"),
            text_column("What", "what", "unit", text=what),
            amount_column("A", "a", rank=1),
            amount_column("B", "b", rank=1),
            interval_column(header, "change", "ci95", show=change, raw=raw, unit=""),
            text_column("Verdict", "verdict"),
            text_column("Note", "note", get=("why",), rank=2),
        )
        tables.append(build_table(f"compare-{kind}", title, columns, _summarised(own), notes))
    return tuple(tables)


def _summarised(rows: Sequence[CompareRow]) -> list[CompareRow]:
    """Replaces the rows of a model that only one of the runs has by one row."""
    found: list[CompareRow] = []
    for model in unique(row.model for row in rows):
        own = [row for row in rows if row.model == model]
        if len(own) > 1 and {row.verdict for row in own} in ({"missing"}, {"new"}):
            update = {"what": f"all of {len(own)}", "unit": "", "a": None, "b": None}
            own = [own[0].model_copy(update=update)]
        found += own
    return found


def _figure(rows: Sequence[CompareRow], label: str, neutral: float, scale: float) -> Any:
    """Dots with intervals, one panel for each quantity."""
    from benchmarks.report.captions import Caption
    from benchmarks.report.plots import Dot, Panel, panel_figure
    from benchmarks.report.style import INK

    whats = unique(row.what for row in rows)
    panels, ends = [], [neutral]
    for what in whats:
        dots: dict[str, Dot | str] = {}
        for row in rows:
            if row.what == what and row.change is not None:
                bounds = row.ci95 and (scale * row.ci95[0], scale * row.ci95[1])
                value = scale * row.change
                text = change_text(row.change, None, is_difference=row.kind == "accuracy")
                dots[row.model] = Dot(value, f"{text} {row.verdict}", bounds)
                ends += [value, *(bounds or ())]
        panels.append(Panel(what, dots))
    measured = any(row.ci95 for row in rows)
    bars = "Bars: 95 % intervals, often inside of the dot. " if measured else ""
    margin = 0.08 * (max(ends) - min(ends)) or 0.1
    figure = panel_figure(
        Caption(f"Two runs: {label}", verdict_sentence(rows)),
        panels,
        unique(row.model for row in rows),
        label,
        notes=(f"{bars}The line: no change.",),
        linear=(min(ends) - margin, max(ends) + margin),
        columns=2,
    )
    for ax in figure.axes[: len(panels)]:
        ax.axvline(neutral, color=INK, linewidth=0.8, zorder=0.5)
    return figure


def write_comparison(
    rows: Sequence[CompareRow], notes: Sequence[str], title: str, folder: Path
) -> list[Path]:
    """Writes `summary.md`, the tables as CSV, and plots of times and of accuracy."""
    from benchmarks.report.style import plot_style, save_figure

    tables = compare_tables(rows)
    verdict = escape_markdown(verdict_sentence(rows))
    parts = [f"# {escape_markdown(title)}\n", f"{verdict}\n", f"{tally_text(rows)}\n"]
    parts += [table.to_markdown() for table in tables]
    if notes:
        parts.append("".join(f"- {escape_markdown(note)}\n" for note in notes))
    texts = {folder / "summary.md": "\n".join(parts)}
    texts |= {folder / "tables" / f"{table.name}.csv": table.to_csv() for table in tables}
    for path, text in texts.items():
        write_atomic(path, text.encode())
    written = list(texts)
    with plot_style():
        for kind, label, neutral, scale in (
            ("time", "B / A", 1.0, 1.0),
            ("accuracy", "B - A (percentage points)", 0.0, 100.0),
        ):
            own = [row for row in rows if row.kind == kind and row.change is not None]
            if own:
                figure = _figure(own, label, neutral, scale)
                written += save_figure(figure, folder / "plots", f"compare-{kind}")
    return written
