"""Queries over a record, shared by tables, plots and the HTML report."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeVar

import numpy as np

from baselines.registry import split_size
from benchmarks.evaluation.comparison import LEVEL
from benchmarks.prompts.protocols import (
    DEFAULT_PROTOCOLS,
    GROUND_TRUTH,
    click_sequence,
    listed_protocols,
    reference_model,
)
from benchmarks.records.record import (
    ComparisonRow,
    EverythingRow,
    LatencyRow,
    MemoryRow,
    MiouRow,
    ModelRow,
    Noc,
    ParamsRow,
    RobustnessRow,
    RunRecord,
    WeightsRow,
)
from benchmarks.records.statistics import MIN_SAMPLES_FOR_INTERVAL, Spread, median_spread
from benchmarks.tables.formatting import milliseconds, number

K = TypeVar("K")
T = TypeVar("T")
R = TypeVar("R", ModelRow, ParamsRow, LatencyRow, MiouRow)
Bounds = tuple[float, float]
Relation = Literal["equal", "tied", "different", "untested"]
MARGIN = 0.01
"""Two accuracies are equal if the interval of their difference is within this, one point."""
MIN_IMAGES = 10
"""Intervals over fewer images are in tables, and not drawn: they are hardly more than a guess."""

WHOLE_MODEL = frozenset({"all", "total", "whole"})
"""Names of a component that is the whole model; without one, the components add up to it."""
PHASES = (
    "load", "first_call", "preprocess", "encode", "decode", "postprocess", "end_to_end",
    "everything",
)  # fmt: skip
SHA_DIGITS = 8
TEST_FAMILIES = frozenset({"dummy", "oracle"})
"""Families of models for tests; they have no place in advice and on a Pareto front."""
PERFECT = 1 - 1e-6
"""A mean IoU from here on is that of the reference's own masks."""
PROMPT_STEPS = (
    ("preprocess", "preprocess", None),
    ("encode", "encode", None),
    # A detector searches for masks once per image, before any prompt.
    ("search", "postprocess", None),
    ("decode", "decode", 1),
    ("postprocess", "postprocess", 1),
)
"""Label, phase and number of prompts of the steps of one prompt, in the order of execution."""
LEAST_CONTRADICTION = 0.05
"""End to end is doubtful if it is measurably shorter than a step, and by this share or more."""
MOST_END_TO_END = 2
"""End to end is doubtful if it takes more than this many times the sum of its steps."""
END_TO_END = "end_to_end"
SINGLE_CALL = 1.5
"""A time of a single call, which has no spread, is taken as uncertain by this factor."""
MOST_VARIATION = 1.3
"""Largest ratio of the 90th to the 10th percentile of the calls of one process on an idle machine.
In the committed runs it is at most 1.21; while other processes ran it was 1.4 to 2.3."""
MOST_HEADLINES = 3
"""Up to this number, all protocols of one dataset and reference are headlines."""


@dataclass(frozen=True, slots=True, order=True)
class Setup:
    """Conditions of a time; only times with equal conditions share an axis."""

    device: str
    precision: str
    threads: int

    @property
    def label(self) -> str:
        """As printed: `cpu, fp32, 2 threads`."""
        return f"{self.device}, {self.precision}, {self.threads} thread{'s' * (self.threads != 1)}"


@dataclass(frozen=True, slots=True, order=True)
class Protocol:
    """Conditions of an accuracy; only accuracies with equal conditions share an axis."""

    dataset: str
    reference: str
    protocol: str

    @property
    def label(self) -> str:
        """As printed: `box vs ground-truth, coco:val2017`."""
        return f"{self.protocol} vs {self.reference}, {self.dataset}"

    @property
    def short(self) -> str:
        """As selected among those of a dataset: `box`, or `box vs teacher:sam-vit-h`."""
        against = "" if self.reference == GROUND_TRUTH else f" vs {self.reference}"
        return f"{self.protocol}{against}"


def unique(values: Iterable[T]) -> tuple[T, ...]:
    """Distinct values in order of first appearance."""
    return tuple(dict.fromkeys(values))


def grouped(pairs: Iterable[tuple[K, T]]) -> dict[K, list[T]]:
    """Values by key, both in order of appearance."""
    groups: dict[K, list[T]] = {}
    for key, value in pairs:
        groups.setdefault(key, []).append(value)
    return groups


def accuracy_name(reference: str, *, title: bool = False) -> str:
    """What a mean IoU is called: `mIoU`, or `agreement` if a model's masks are the reference."""
    if reference_model(reference) is None:
        return "mIoU"
    return "Agreement" if title else "agreement"


def setup_of(row: LatencyRow) -> Setup:
    """Setup of a time."""
    return Setup(row.device, row.precision, row.threads)


def protocol_of(row: MiouRow | ComparisonRow | RobustnessRow) -> Protocol:
    """Protocol of an accuracy, of a comparison of two, or of a loss."""
    return Protocol(row.dataset, row.reference, row.protocol)


def setups(record: RunRecord) -> tuple[Setup, ...]:
    """All setups of a record, in order of appearance."""
    return unique(setup_of(row) for row in record.latency)


def protocols(record: RunRecord) -> tuple[Protocol, ...]:
    """All protocols of a record, grouped by dataset and reference, else in order of appearance."""
    found = unique(protocol_of(row) for row in record.miou)
    return tuple(protocol for group in by_reference(found).values() for protocol in group)


def by_reference(found: Iterable[Protocol]) -> dict[tuple[str, str], list[Protocol]]:
    """Protocols by dataset and reference."""
    return grouped(((each.dataset, each.reference), each) for each in found)


def listed(found: Iterable[Protocol]) -> list[Protocol]:
    """Protocols without most steps of long click sequences, which have a table of their own."""
    protocols = list(found)
    names = listed_protocols(each.protocol for each in protocols)
    return [each for each in protocols if each.protocol in names]


def headline(record: RunRecord) -> tuple[Protocol, ...]:
    """Protocols for a summary, which has no room for all, in the order of `protocols`.

    Of each dataset and reference all, or the default ones if there are more than `MOST_HEADLINES`;
    for a teacher, whose masks are no ground truth, only the first.
    """
    shown: list[Protocol] = []
    for (_, reference), group in by_reference(listed(protocols(record))).items():
        few = group
        if len(group) > MOST_HEADLINES:
            usual = [p for p in group if p.protocol in DEFAULT_PROTOCOLS]
            few = usual or group[:MOST_HEADLINES]
        shown += few if reference_model(reference) is None else few[:1]
    return tuple(shown)


def model_names(record: RunRecord) -> tuple[str, ...]:
    """Every model in the record, those of `models` first, and input sizes of one model together.

    Among these, the model's own size comes first, then the largest one.
    """
    parts = (record.models, record.params, record.latency, record.batches)
    rows = (row for part in (*parts, record.memory, record.miou) for row in part)
    found = unique(row.model for row in rows)
    by_base = grouped((split_size(name)[0], name) for name in found)
    return tuple(name for names in by_base.values() for name in sorted(names, key=_size_order))


def _size_order(name: str) -> tuple[bool, int]:
    size = split_size(name)[1]
    return size is not None, -(size or 0)


def by_model(record: RunRecord, rows: Iterable[R]) -> list[R]:
    """Rows in the order of `model_names`."""
    order = {name: index for index, name in enumerate(model_names(record))}
    return sorted(rows, key=lambda row: order[row.model])


def notes_on_models(record: RunRecord, models: Iterable[str]) -> list[str]:
    """One line for each note on how models compute their results, with their names."""
    rows = filter(None, (model_row(record, model) for model in models))
    notes = grouped((row.note, row.model) for row in rows if row.note)
    return [f"{', '.join(unique(names))}: {note}." for note, names in notes.items()]


def model_row(record: RunRecord, model: str) -> ModelRow | None:
    """Row of a model, or None if only its measurements are recorded."""
    return next((row for row in record.models if row.model == model), None)


def phase_order(row: LatencyRow) -> tuple[int, str, int]:
    """Sort key: phases in the order of execution, then the number of prompts."""
    known = PHASES.index(row.phase) if row.phase in PHASES else len(PHASES)
    return known, row.phase, row.n_prompts or 0


def find_latency(
    record: RunRecord,
    setup: Setup,
    model: str,
    phase: str,
    n_prompts: int | None = None,
    run: str | None = None,
) -> LatencyRow | None:
    """Row of one phase; without `n_prompts`, the one with the fewest prompts.

    In a merged record, `run` names the run whose row is wanted, also if another one replaced it.
    """
    rows = (
        row
        for row in (record.latency if run is None else (*record.latency, *record.other_latency))
        if (row.model, row.phase, setup_of(row)) == (model, phase, setup)
        and n_prompts in (None, row.n_prompts)
        and run in (None, row.run or "")
    )
    return min(rows, key=phase_order, default=None)


def spread_of(row: LatencyRow | EverythingRow) -> Spread | None:
    """Interval of the median time of a row, or a range if there were too few processes.

    It is computed from the samples, since the intervals in older records are too narrow.
    """
    if isinstance(row, LatencyRow) and any(row.samples_ms):
        return median_spread(row.samples_ms)
    return None if row.range_ms is None else Spread(row.range_ms, is_range=True)


def timed(row: LatencyRow | None) -> tuple[float, Spread | None] | None:
    """Median and spread in ms, or None if the row has no positive median."""
    if row is None or row.status != "ok" or row.median_ms is None or row.median_ms <= 0:
        return None
    return row.median_ms, spread_of(row)


class Steps(NamedTuple):
    """What a time consists of: a label, and phases with their number of prompts and of calls."""

    label: str
    parts: tuple[tuple[str, int | None, int], ...]
    optional: tuple[tuple[str, int | None, int], ...] = ()
    """Parts that not every model has, such as postprocessing apart from decoding."""

    def rows(
        self, record: RunRecord, setup: Setup, model: str, run: str | None = None
    ) -> list[tuple[LatencyRow, int]]:
        """Rows of a model, of one run of a merged record if given, with their number of calls.

        Empty if one that is needed was not timed.
        """
        found: list[tuple[LatencyRow, int]] = []
        for parts, needed in ((self.parts, True), (self.optional, False)):
            for phase, n_prompts, calls in parts:
                row = find_latency(record, setup, model, phase, n_prompts, run)
                if row is not None and timed(row) is not None:
                    found.append((row, calls))
                elif needed or (row is not None and row.status != "ok"):
                    return []
        return found

    def time(
        self, record: RunRecord, setup: Setup, model: str, run: str | None = None
    ) -> Time | None:
        """The sum of the medians; the sum of the ends of their intervals is conservative."""
        rows = self.rows(record, setup, model, run)
        if not rows:
            return None
        times = [(calls, found) for row, calls in rows if (found := timed(row)) is not None]
        spreads = [(calls, each) for calls, (_, each) in times if each is not None]
        spread = None
        if len(spreads) == len(times):
            low, high = (sum(n * each.bounds[end] for n, each in spreads) for end in (0, 1))
            spread = Spread((low, high), any(each.is_range for _, each in spreads))
        return Time(
            sum(calls * found[0] for calls, found in times),
            spread,
            "+".join(unique(row.run or "" for row, _ in rows)),
            min(row.n for row, _ in rows),
        )


class Time(NamedTuple):
    """A time in ms, its interval or range, its run in merged records, and the fewest calls."""

    ms: float
    spread: Spread | None
    run: str
    calls: int


WHOLE = Steps("end to end", ((END_TO_END, None, 1),))
SUM = Steps("encode + decode of one prompt", (("encode", None, 1), ("decode", 1, 1)))


def click_steps(protocol: str) -> Steps | None:
    """The time of a protocol of clicks, which decodes once a click; None for others."""
    clicks = click_sequence(protocol)
    if clicks is None:
        return None
    n = clicks[1]
    return Steps(
        f"encode + {n} click{'s' * (n != 1)}",
        (("encode", None, 1), ("decode", 1, n)),
        (("preprocess", None, 1), ("postprocess", 1, n)),
    )


def steps_of(record: RunRecord, setup: Setup, protocol: str, models: Sequence[str]) -> Steps:
    """The time that compares models under a protocol: the same for all of them.

    It is end to end, or encode and one decode if more models have these; with a time end to end
    that contradicts its phases, if as many have them.
    """
    if (clicks := click_steps(protocol)) is not None:
        return clicks
    n_whole, n_sums = (
        sum(steps.time(record, setup, model) is not None for model in models)
        for steps in (WHOLE, SUM)
    )
    disturbed = bool(disturbed_end_to_end(record, setup, models))
    return SUM if n_sums + disturbed > n_whole else WHOLE


def disturbed_end_to_end(record: RunRecord, setup: Setup, models: Sequence[str]) -> list[str]:
    """Models whose time end to end contradicts the times of its steps."""
    rows = ((model, find_latency(record, setup, model, END_TO_END)) for model in models)
    return [m for m, row in rows if row is not None and doubtful_end_to_end(record, row)]


def bounds_of(ms: float, spread: Spread | None) -> Spread:
    """The spread of a time, or an assumed one for a single call."""
    return spread or Spread((ms / SINGLE_CALL, ms * SINGLE_CALL), is_range=True)


def find_miou(record: RunRecord, protocol: Protocol, model: str) -> MiouRow | None:
    """Row of one model under one protocol."""
    rows = (row for row in record.miou if row.model == model and protocol_of(row) == protocol)
    return next(rows, None)


def click_curves(record: RunRecord) -> dict[tuple[str, Protocol], dict[int, MiouRow]]:
    """Rows with an accuracy after each number of clicks, by model and the longest protocol."""
    curves: dict[tuple[str, str, str, str], dict[int, MiouRow]] = {}
    for row in record.miou:
        step = click_sequence(row.protocol)
        if step is not None and is_ranked(row):
            key = row.model, row.dataset, row.reference, step[0]
            curves.setdefault(key, {})[step[1]] = row
    return {
        (model, Protocol(dataset, reference, f"{kind}-{max(steps)}")): steps
        for (model, dataset, reference, kind), steps in curves.items()
        if len(steps) > 1
    }


def numbers_of_clicks(row: MiouRow) -> dict[float, Noc]:
    """Numbers of clicks of a row by IoU; older records have two, without intervals."""
    clicks = row.clicks
    if clicks is None:
        return {}
    found = {each.iou: each for each in clicks.thresholds}
    older = ((0.85, clicks.noc85, clicks.failed85), (0.9, clicks.noc90, clicks.failed90))
    for iou, noc, failed in older:
        if iou not in found and noc is not None and failed is not None:
            found[iou] = Noc(iou=iou, noc=noc, n_failed=round(failed * row.n_instances))
    return found


def has_accuracy(row: MiouRow | None) -> bool:
    """Whether a row holds an accuracy; values from random weights do not count."""
    trained = row is not None and row.weights.kind != "random"
    return row is not None and trained and row.status == "ok" and row.miou is not None


def miou_percent(row: MiouRow | None) -> tuple[float, Bounds | None] | None:
    """Mean IoU and its interval in percent, or None if the row holds no accuracy.

    Without an interval if it is over fewer than `MIN_IMAGES` images.
    """
    if row is None or row.miou is None or not has_accuracy(row):
        return None
    few = row.ci95 is None or 0 < row.n_images < MIN_IMAGES
    return 100 * row.miou, None if few or row.ci95 is None else scaled(row.ci95)


def scaled(bounds: Bounds) -> Bounds:
    """Ends of an interval of fractions in percent."""
    return 100 * bounds[0], 100 * bounds[1]


def relation(record: RunRecord, one: MiouRow, other: MiouRow) -> Relation:
    """How two accuracies of a protocol compare, by the paired comparison of both models.

    They are equal if the difference is certainly within `MARGIN`, tied if it is not measurable.
    """
    if one.miou == other.miou:
        return "equal"
    for row in record.comparisons:
        same = protocol_of(row) == protocol_of(one)
        if same and {row.model_a, row.model_b} == {one.model, other.model}:
            if row.p_adjusted <= LEVEL:
                return "different"
            small = row.ci95 is not None and max(map(abs, row.ci95)) <= MARGIN
            return "equal" if small else "tied"
    return "untested"


def beats(record: RunRecord, one: tuple[MiouRow, Spread], other: tuple[MiouRow, Spread]) -> bool:
    """Whether a model, given by accuracy and time, is measurably faster and no less accurate."""
    if not one[1].below(other[1]):
        return False
    no_less = (one[0].miou or 0) >= (other[0].miou or 0)
    return no_less or relation(record, one[0], other[0]) == "equal"


def incomparable(record: RunRecord, row: MiouRow) -> str | None:
    """Why an accuracy says nothing in comparison with those of other models; None if it does."""
    if is_own_reference(row):
        return "its own masks are the reference"
    if row.weights.kind == "random" or has_random_weights(record, row.model):
        return "random weights, so no accuracy"
    if is_for_tests(record, row.model):
        return "a model for tests"
    if row.miou is not None and row.miou >= PERFECT:
        return "its masks are those of the reference"
    return None


def is_ranked(row: MiouRow | None) -> bool:
    """Whether a row holds an accuracy, or an agreement with the masks of another model."""
    return row is not None and has_accuracy(row) and not is_own_reference(row)


def is_own_reference(row: MiouRow) -> bool:
    """Whether a model is compared with its own masks."""
    return reference_model(row.reference) == row.model


def is_for_tests(record: RunRecord, model: str) -> bool:
    """Whether a model serves for tests of this suite, such as `dummy`."""
    info = model_row(record, model)
    return model in TEST_FAMILIES if info is None else info.family in TEST_FAMILIES


def is_floor(record: RunRecord, model: str) -> bool:
    """Whether a model is a baseline without a network, such as `box` or `grabcut`."""
    row = model_row(record, model)
    return row is not None and row.decode_kind == "classical"


def doubtful_end_to_end(record: RunRecord, row: LatencyRow) -> str | None:
    """Why a time end to end contradicts the times of its steps; None if it does not."""
    times = {
        (each.phase, each.n_prompts): timed(each)
        for each in record.latency
        if each.model == row.model and setup_of(each) == setup_of(row)
    }
    whole = timed(row) if row.phase == "end_to_end" and row.n_prompts in (None, 1) else None
    steps = {name: time for name, phase, n in PROMPT_STEPS if (time := times.get((phase, n)))}
    if whole is None or not steps:
        return None
    longest = max(steps, key=lambda name: steps[name][0])
    apart = whole[0] < (1 - LEAST_CONTRADICTION) * steps[longest][0]
    if apart and bounds_of(*whole).below(bounds_of(*steps[longest])):
        return (
            f"end to end {milliseconds(whole[0])} is shorter than {longest} alone, "
            f"{milliseconds(steps[longest][0])}"
        )
    total = sum(time for time, _ in steps.values())
    if whole[0] > MOST_END_TO_END * total and {"encode", "decode"} <= steps.keys():
        return (
            f"end to end {milliseconds(whole[0])} is {number(whole[0] / total)} times the sum of "
            f"its phases, {milliseconds(total)}"
        )
    return None


def disturbances(record: RunRecord, setup: Setup | None = None) -> dict[str, str]:
    """Models whose times show that something else ran meanwhile, and how; by default of any setup.

    Either the calls of one process differ by more than `MOST_VARIATION`, or the time end to end
    does not fit those of its steps.
    """
    found: dict[str, list[str]] = {}
    for row in record.latency:
        if setup not in (None, setup_of(row)) or row.phase not in ("encode", "decode", END_TO_END):
            continue
        own = found.setdefault(row.model, [])
        ratio = max(map(_variation, row.samples_ms), default=1.0)
        if ratio > MOST_VARIATION and row.n_prompts in (None, 1):
            phase = row.phase.replace("_", " ")
            own.append(
                f"{phase} of the same process varies: the 90th percentile of its calls is "
                f"{number(ratio)} times the 10th"
            )
        if doubt := doubtful_end_to_end(record, row):
            own.append(doubt)
    return {model: f"{model}: {', '.join(own)}" for model, own in found.items() if own}


def _variation(calls_ms: Sequence[float]) -> float:
    """90th over 10th percentile of the calls of one process; 1 for few or very short calls."""
    if len(calls_ms) < MIN_SAMPLES_FOR_INTERVAL or min(calls_ms) < 1:
        return 1.0
    low, high = np.percentile(calls_ms, [10, 90])
    return float(high / low)


def find_memory(record: RunRecord, device: str, model: str) -> MemoryRow | None:
    """Memory of one model on one device."""
    rows = (row for row in record.memory if row.model == model and row.device == device)
    return next(rows, None)


def used_parameters(record: RunRecord, model: str) -> int | None:
    """Parameters in the forward pass; None unless all components were counted."""
    rows = [row for row in record.params if row.model == model]
    rows = [row for row in rows if row.component in WHOLE_MODEL] or rows
    if not rows:
        info = model_row(record, model)
        return 0 if info is not None and info.weights.kind == "none" else None
    known = [row.used for row in rows if row.status == "ok" and row.used is not None]
    return sum(known) if len(known) == len(rows) else None


def has_random_weights(record: RunRecord, model: str) -> bool:
    """Whether a model ran with random weights, with which only its times are meaningful."""
    info = model_row(record, model)
    if info is not None:
        return info.weights.kind == "random"
    return any(row.model == model and row.weights == "random" for row in record.latency)


def was_skipped(record: RunRecord, model: str) -> bool:
    """Whether a model took no part in any measurement of its run, but for a count."""
    info = model_row(record, model)
    return info is not None and info.status == "skipped"


OWN_REFERENCE = "Left out, its own masks are the reference"


def without_value(record: RunRecord, models: Iterable[str]) -> dict[str, list[str]]:
    """Models without a value under a protocol, by the reason."""
    reasons: dict[str, list[str]] = {}
    scored = {row.model for row in record.miou if has_accuracy(row)}
    for model in models:
        if was_skipped(record, model):
            why = "Not measured"
        elif has_random_weights(record, model):
            why = "Random weights, so no accuracy"
        elif model in scored:
            why = "No value in the tables under this protocol"
        else:
            why = "No accuracy in the tables"
        reasons.setdefault(why, []).append(model)
    return reasons


def group_notes(groups: Mapping[str, Sequence[str]]) -> list[str]:
    """A note for each group of models: the text and their names."""
    return [f"{text}: {', '.join(names)}." for text, names in groups.items() if names]


def weights_label(weights: WeightsRow) -> str:
    """Label: `official 6dbb9052`, `custom 1a2b3c4d`, `shipped`, `random` or `none needed`."""
    if weights.kind != "file":
        return {"random": "random", "none": "none needed"}[weights.kind]
    if weights.shipped is not None:
        return "shipped"
    kind = "official" if weights.official else "custom"
    return f"{kind} {weights.sha256[:SHA_DIGITS]}" if weights.sha256 else f"{kind} (hash unknown)"


def shipped_models_notes(record: RunRecord, models: Iterable[str]) -> list[str]:
    """One line for each file of shipped weights, with the models that use it."""
    rows = filter(None, (model_row(record, model) for model in models))
    by_label = grouped((row.weights.shipped, row.model) for row in rows if row.weights.shipped)
    return [
        f"Shipped weights ({label}), not official: {', '.join(names)}."
        for label, names in by_label.items()
    ]


def shipped_notes(weights: Iterable[WeightsRow]) -> tuple[str, ...]:
    """One line for each file of shipped weights, which explains the label `shipped`."""
    return unique(
        f"shipped: {row.shipped}, not official (sha256 {(row.sha256 or '')[:SHA_DIGITS]})."
        for row in weights
        if row.shipped is not None
    )
