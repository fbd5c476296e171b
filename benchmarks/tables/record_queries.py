"""Questions that tables and plots ask of a record; several records are merged into one first."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from benchmarks.prompts.protocols import DEFAULT_PROTOCOLS, reference_model
from benchmarks.records.record import (
    EverythingRow,
    LatencyRow,
    MemoryRow,
    MiouRow,
    ModelRow,
    ParamsRow,
    RunRecord,
    WeightsRow,
)
from benchmarks.records.statistics import Spread, median_spread

if TYPE_CHECKING:
    import pandas as pd

T = TypeVar("T")
Bounds = tuple[float, float]

WHOLE_MODEL = frozenset({"all", "total", "whole"})
"""Names of the component that is the whole model; without one, the components add up to it."""

PHASES = (
    "load",
    "first_call",
    "preprocess",
    "encode",
    "decode",
    "postprocess",
    "end_to_end",
    "everything",
)
SHA_DIGITS = 8
MOST_HEADLINES = 3
"""So many protocols of one dataset and reference are all shown where room is short."""


@dataclass(frozen=True, slots=True, order=True)
class Setup:
    """What must be equal for two times to stand on one axis."""

    device: str
    precision: str
    threads: int

    @property
    def label(self) -> str:
        """As printed: `cpu, fp32, 2 threads`."""
        return f"{self.device}, {self.precision}, {self.threads} thread{'s' * (self.threads != 1)}"


@dataclass(frozen=True, slots=True, order=True)
class Protocol:
    """What must be equal for two accuracies to stand on one axis."""

    dataset: str
    reference: str
    protocol: str

    @property
    def label(self) -> str:
        """As printed: `box vs ground-truth, coco:val2017`."""
        return f"{self.protocol} vs {self.reference}, {self.dataset}"


def unique(values: Iterable[T]) -> tuple[T, ...]:
    """Distinct values in order of first appearance."""
    return tuple(dict.fromkeys(values))


def setup_of(row: LatencyRow) -> Setup:
    """The setup that a time was measured in."""
    return Setup(row.device, row.precision, row.threads)


def protocol_of(row: MiouRow) -> Protocol:
    """The protocol of an accuracy, with its dataset and reference."""
    return Protocol(row.dataset, row.reference, row.protocol)


def setups(record: RunRecord) -> tuple[Setup, ...]:
    """All setups of a record, in order of first appearance."""
    return unique(setup_of(row) for row in record.latency)


def protocols(record: RunRecord) -> tuple[Protocol, ...]:
    """All protocols of a record: datasets and references apart, otherwise in their own order."""
    found = unique(protocol_of(row) for row in record.miou)
    parts = unique((p.dataset, p.reference) for p in found)
    return tuple(sorted(found, key=lambda p: parts.index((p.dataset, p.reference))))


def headline(record: RunRecord) -> tuple[Protocol, ...]:
    """The protocols that are shown where room is short: columns of a row a model, files a protocol.

    Of each dataset and reference all, or the default ones where there are more than
    `MOST_HEADLINES` (the first of them where no default is among them); of a teacher, whose masks
    are no truth, the first of those. In the order of `protocols`.
    """
    found = protocols(record)
    shown: list[Protocol] = []
    for dataset, reference in unique((p.dataset, p.reference) for p in found):
        group = [p for p in found if (p.dataset, p.reference) == (dataset, reference)]
        if len(group) > MOST_HEADLINES:
            usual = [p for p in group if p.protocol in DEFAULT_PROTOCOLS]
            group = usual or group[:MOST_HEADLINES]
        shown += group if reference_model(reference) is None else group[:1]
    return tuple(shown)


def model_names(record: RunRecord) -> tuple[str, ...]:
    """Every model that any part of the record names, those of `models` first."""
    parts: tuple[Sequence[ModelRow | ParamsRow | LatencyRow | MemoryRow | MiouRow], ...] = (
        record.models,
        record.params,
        record.latency,
        record.memory,
        record.miou,
    )
    return unique(row.model for part in parts for row in part)


def model_row(record: RunRecord, model: str) -> ModelRow | None:
    """The row of a model, or None where only its measurements are recorded."""
    return next((row for row in record.models if row.model == model), None)


def phase_order(row: LatencyRow) -> tuple[int, str, int]:
    """Sort key: phases in the order in which they happen, then by number of prompts."""
    known = PHASES.index(row.phase) if row.phase in PHASES else len(PHASES)
    return known, row.phase, row.n_prompts or 0


def find_latency(
    record: RunRecord, setup: Setup, model: str, phase: str, n_prompts: int | None = None
) -> LatencyRow | None:
    """The row of one phase; without `n_prompts`, the one with the fewest prompts."""
    rows = [
        row
        for row in record.latency
        if row.model == model
        and row.phase == phase
        and setup_of(row) == setup
        and n_prompts in (None, row.n_prompts)
    ]
    return min(rows, key=phase_order, default=None)


def spread_of(row: LatencyRow | EverythingRow) -> Spread | None:
    """Interval of the median time of a row, or a range if there were too few processes.

    It is computed from the samples, since the intervals in older records are too narrow. Whole
    images are timed in one process, which gives a range.
    """
    if isinstance(row, LatencyRow) and any(row.samples_ms):
        return median_spread(row.samples_ms)
    return None if row.range_ms is None else Spread(row.range_ms, is_range=True)


def timed(row: LatencyRow | None) -> tuple[float, Spread | None] | None:
    """Median and its spread in ms if a log axis can show the row, otherwise None."""
    if row is None or row.status != "ok" or row.median_ms is None or row.median_ms <= 0:
        return None
    return row.median_ms, spread_of(row)


def find_miou(record: RunRecord, protocol: Protocol, model: str) -> MiouRow | None:
    """The row of one model under one protocol."""
    rows = (r for r in record.miou if r.model == model and protocol_of(r) == protocol)
    return next(rows, None)


def has_accuracy(row: MiouRow | None) -> bool:
    """Whether a row holds an accuracy figure; one from random weights is none, whatever it says."""
    return (
        row is not None
        and row.status == "ok"
        and row.miou is not None
        and row.weights.kind != "random"
    )


def miou_percent(row: MiouRow | None) -> tuple[float, Bounds | None] | None:
    """Mean IoU and its interval in percent of a row that holds an accuracy, otherwise None."""
    if row is None or row.miou is None or not has_accuracy(row):
        return None
    bounds = None if row.ci95 is None else (100 * row.ci95[0], 100 * row.ci95[1])
    return 100 * row.miou, bounds


def find_memory(record: RunRecord, device: str, model: str) -> MemoryRow | None:
    """The memory of one model on one device."""
    rows = (row for row in record.memory if row.model == model and row.device == device)
    return next(rows, None)


def used_parameters(record: RunRecord, model: str) -> int | None:
    """Parameters that take part in a model's forward pass; None unless all of it was counted.

    A model that stands in the record without weights (`kind: none`) has zero.
    """
    rows = [row for row in record.params if row.model == model]
    whole = [row for row in rows if row.component in WHOLE_MODEL]
    counts = [row.used if row.status == "ok" else None for row in whole or rows]
    if not counts:
        info = model_row(record, model)
        return 0 if info is not None and info.weights.kind == "none" else None
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None


def has_random_weights(record: RunRecord, model: str) -> bool:
    """Whether a model ran with seeded random weights: its times count, its masks do not."""
    info = model_row(record, model)
    if info is not None:
        return info.weights.kind == "random"
    return any(row.model == model and row.weights == "random" for row in record.latency)


def weights_label(weights: WeightsRow) -> str:
    """As printed: `official 6dbb9052`, `custom 1a2b3c4d`, `shipped`, `random` or `none needed`."""
    if weights.kind == "random":
        return "random"
    if weights.kind == "none":
        return "none needed"
    if weights.shipped is not None:
        return "shipped"
    kind = "official" if weights.official else "custom"
    return f"{kind} {weights.sha256[:SHA_DIGITS]}" if weights.sha256 else f"{kind} (hash unknown)"


def shipped_models_notes(record: RunRecord, models: Iterable[str]) -> list[str]:
    """Names the models of a plot that use shipped weights, one line for each weights file."""
    groups: dict[str, list[str]] = {}
    for model in models:
        info = model_row(record, model)
        if info is not None and info.weights.shipped is not None:
            groups.setdefault(info.weights.shipped, []).append(model)
    return [
        f"Shipped weights ({label}), not official: {', '.join(names)}."
        for label, names in groups.items()
    ]


def shipped_notes(weights: Iterable[WeightsRow]) -> tuple[str, ...]:
    """Explains the label `shipped`, one line for each shipped file among the weights."""
    found = unique(row for row in weights if row.shipped is not None)
    return unique(
        f"shipped: {row.shipped}, not official (sha256 {(row.sha256 or '')[:SHA_DIGITS]})."
        for row in found
    )


def model_frame(record: RunRecord) -> pd.DataFrame:
    """Models of a record, one row each, in the order of `model_names`.

    Columns: model, weights (label), random (bool), decode_kind, used_parameters (NaN if unknown).
    """
    rows = []
    for model in model_names(record):
        info = model_row(record, model)
        weights = None if info is None else weights_label(info.weights)
        kind = None if info is None else info.decode_kind
        used = used_parameters(record, model)
        rows.append((model, weights, has_random_weights(record, model), kind, used))
    text = ("model", "weights", "random", "decode_kind")
    return _frame(rows, text, ("used_parameters",))


def latency_frame(record: RunRecord) -> pd.DataFrame:
    """Times of a record, one row a model, setup, phase and number of prompts, ordered by phase.

    Columns: model, setup (label), phase, decode_kind, weights (kind), status, why, is_range, and
    as numbers n_prompts, n, processes, median_ms, low_ms, high_ms, mean_ms, min_ms, p95_ms, p99_ms.
    From low_ms to high_ms is the 95 % interval of the median, or a range if `is_range`.
    """
    text = ("model", "phase", "decode_kind", "weights", "status", "why")
    numbers = (
        "n_prompts", "n", "processes", "median_ms", "mean_ms", "min_ms", "p95_ms", "p99_ms",
    )  # fmt: skip
    order = {model: index for index, model in enumerate(model_names(record))}
    rows = []
    for row in sorted(record.latency, key=lambda row: (order[row.model], phase_order(row))):
        spread = spread_of(row)
        own = [getattr(row, name) for name in (*text, *numbers)]
        bounds = (None, None) if spread is None else spread.bounds
        rows.append((setup_of(row).label, spread is not None and spread.is_range, *own, *bounds))
    return _frame(rows, ("setup", "is_range", *text), (*numbers, "low_ms", "high_ms"))


def accuracy_frame(record: RunRecord) -> pd.DataFrame:
    """Mean IoU of a record, one row a model, dataset, reference and protocol.

    Columns: model, dataset, reference, protocol, label (of the protocol), weights (label), status,
    why, and as numbers n_images, n_instances, n_small, n_medium, n_large, and in percent miou, low,
    high (95 % interval), boundary_miou, small, medium, large (mean IoU by COCO size class). The
    percentages are NaN in rows without an accuracy: skipped, failed, or random weights.
    """
    rows = []
    for row in record.miou:
        sizes = row.by_size
        figures = (
            row.miou, *(row.ci95 or (None, None)), row.boundary_miou,
            sizes.small, sizes.medium, sizes.large,
        )  # fmt: skip
        known = has_accuracy(row)
        rows.append(
            (
                *(row.model, row.dataset, row.reference, row.protocol),
                *(protocol_of(row).label, weights_label(row.weights), row.status, row.why),
                *(row.n_images, row.n_instances),
                *(row.n_by_size.small, row.n_by_size.medium, row.n_by_size.large),
                *(100 * x if known and x is not None else None for x in figures),
            )
        )
    return _frame(
        rows,
        ("model", "dataset", "reference", "protocol", "label", "weights", "status", "why"),
        (
            *("n_images", "n_instances", "n_small", "n_medium", "n_large"),
            *("miou", "low", "high", "boundary_miou", "small", "medium", "large"),
        ),
    )


def _frame(
    rows: Sequence[tuple[object, ...]], text: Sequence[str], numbers: Sequence[str]
) -> pd.DataFrame:
    """A data frame whose columns `numbers` are float64, NaN for None."""
    import pandas as pd

    frame = pd.DataFrame(rows, columns=[*text, *numbers])
    return frame.astype(dict.fromkeys(numbers, "float64"))
