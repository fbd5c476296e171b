"""Generated tables of accuracies and times, shared by the tests of advice and of captions."""

from __future__ import annotations

from typing import NamedTuple

import example_records as examples
from hypothesis import strategies as st

from benchmarks.records.record import (
    ComparisonRow,
    LatencyRow,
    MiouRow,
    ModelRow,
    RunRecord,
    WeightsRow,
)
from benchmarks.tables.record_queries import MARGIN


class Made(NamedTuple):
    """A model of a generated table; `ms` are end to end, its lowest and its highest value."""

    kind: str = "plugin"
    miou: float | None = 0.7
    ms: tuple[float, float, float] | None = (100, 98, 102)


KINDS = {
    "file": ("SAM", "decoder", "file"),
    "plugin": ("mine", "decoder", "none"),
    "classical": ("classical", "classical", "none"),
    "dummy": ("dummy", "decoder", "none"),
    "oracle": ("oracle", "select", "none"),
    "random": ("SAM", "decoder", "random"),
}
"""Family, decode kind and weights."""
UNFIT = ("dummy", "oracle", "random")
Pairs = dict[tuple[str, str], tuple[float, float]]
"""Adjusted p and half width of the interval of the difference, by pair."""


def table(models: dict[str, Made], pairs: Pairs) -> RunRecord:
    """A record with one protocol, one setup and one time end to end for each model."""
    where = {"dataset": "photos", "protocol": "box", "reference": "ground-truth"}
    rows, accuracies, times = [], [], []
    for name, made in models.items():
        family, decode_kind, kind = KINDS[made.kind]
        weights = WeightsRow(kind=kind)
        common = {"model": name, "decode_kind": decode_kind}
        rows.append(
            ModelRow(**common, family=family, input_size_px=0, licence="MIT", weights=weights)
        )
        if made.miou is not None:
            accuracies.append(
                MiouRow(**where, model=name, weights=weights, miou=made.miou, n_images=9)
            )
        if made.ms is not None:
            median, low, high = made.ms
            times.append(
                LatencyRow(
                    **common, phase="end_to_end", n_prompts=1, device="cpu", precision="fp32",
                    threads=2, weights=kind, median_ms=median, range_ms=(low, high), processes=3,
                )
            )  # fmt: skip
    scored = {name: made.miou for name, made in models.items() if made.miou is not None}
    comparisons = [
        ComparisonRow(
            **where, model_a=a, model_b=b, n_images=9, n_instances=99, p_value=p, p_adjusted=p,
            difference=scored[a] - scored[b],
            ci95=(scored[a] - scored[b] - half, scored[a] - scored[b] + half),
        )
        for (a, b), (p, half) in pairs.items()
        if a in scored and b in scored
    ]  # fmt: skip
    changes = {"models": rows, "miou": accuracies, "latency": times, "comparisons": comparisons}
    empty = {"params": (), "memory": (), "failures": (), "warnings": ()}
    return examples.build_record([], **{k: tuple(v) for k, v in (changes | empty).items()})


@st.composite
def tables(draw: st.DrawFn) -> tuple[dict[str, Made], Pairs]:
    """Up to six models of all kinds on coarse grids, so that equal and close values are common."""
    models = {}
    for name in "abcdef"[: draw(st.integers(1, 6))]:
        miou = draw(st.none() | st.sampled_from([0.5, 0.6, 0.695, 0.6996, 0.7, 0.7001, 0.71, 0.8]))
        median = draw(st.sampled_from([10.0, 95.0, 100.0, 101.0, 150.0, 1000.0]))
        low, high = (draw(st.sampled_from([1.0, 1.01, 1.1, 2.0])) for _ in range(2))
        ms = draw(st.none() | st.just((median, median / low, median * high)))
        models[name] = Made(draw(st.sampled_from(sorted(KINDS))), miou, ms)
    some = [(a, b) for a in models for b in models if a < b and draw(st.integers(0, 9)) > 1]
    p, half = st.sampled_from([0.001, 0.05, 0.2, 1.0]), st.sampled_from([0.001, 0.01, 0.1])
    return models, {pair: (draw(p), draw(half)) for pair in some}


def relation_of(models: dict[str, Made], pairs: Pairs, one: str, other: str) -> str:
    """What the comparison of two models of a table shows."""
    gap = (models[one].miou or 0) - (models[other].miou or 0)
    if gap == 0:
        return "equal"
    p, half = pairs.get((min(one, other), max(one, other)), (None, 0.0))
    if p is None:
        return "untested"
    if p <= 0.05:
        return "different"
    return "equal" if abs(gap) + half <= MARGIN else "tied"
