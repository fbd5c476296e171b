"""What this project set out to reach in speed, and what a run has reached of it."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.tables.table import Cell, Column, Table

_HIERARCHICAL, _RECALL_LOST, _RECALL_IMAGES = 2.0, 0.01, 30
_COARSE = "objects upon larger ones are asked for last"
_UNBOUND = ""
_ARITHMETIC = (
    "arithmetic: an image is 80 GFLOP, and products, which run at what the processor can do, are "
    "most of the time; exported files are no quicker in other runtimes"
)
_NO_BF16 = "only where a processor multiplies in it, and what is no product gains nothing"
_SHARED_CACHE = "four fifths of what is left is matrix products"


@dataclass(frozen=True, slots=True)
class Aim:
    """One aim.

    Attributes:
        what: What is to be quick.
        factor: Times as fast as the plain modules, or as the loop.
        task: Task of the inference benchmark; None for the others.
        sides: Implementations of which the best counts.
        bound: What bounds it where it is missed.
    """

    what: str
    factor: float
    task: str | None
    sides: tuple[str, ...]
    bound: str


AIMS = (
    Aim("encoder, float32, any backend", 4, "encoder", ("fast", "onnx", "openvino"), _ARITHMETIC),
    Aim("encoder, float32, torch", 2.5, "encoder", ("fast",), _ARITHMETIC),
    Aim("encoder, bfloat16", 6, "encoder", ("bf16", "openvino-bf16"), _NO_BF16),
    Aim("decoder, 64 prompts", 6, "decoder-64", ("fast",), _SHARED_CACHE),
    Aim("decoder, 1 prompt", 1.5, "decoder-1", ("fast",), _UNBOUND),
    Aim("segment everything, 32 x 32 grid", 6, None, ("grid",), _UNBOUND),
    Aim("evaluation against the loop", 4, None, ("mobilesam-fast",), _UNBOUND),
)


def aims_table(
    inference: Mapping[str, Any],
    everything: Sequence[Mapping[str, Any]],
    evaluation: Mapping[str, Any] | None,
) -> Table:
    """Each aim beside what was measured; missed ones with what bounds them.

    Args:
        inference: Result of `benchmarks.evidence.speed_inference`.
        everything: Results of `benchmarks.evidence.speed_everything`, the one as it comes first.
        evaluation: Result of `benchmarks.evidence.speed_evaluation`.
    """
    columns = (
        Column("What", ("what",)),
        Column("Aim", ("aim",), "x", "right"),
        Column("Measured", ("measured",), "x", "right"),
        Column("By", ("side",)),
        Column("Outcome", ("outcome",)),
    )
    rows: list[tuple[Cell, ...]] = []
    for aim in AIMS:
        side, found = _best(aim, inference, everything, evaluation)
        if found is None:
            outcome = f"not measured: {aim.bound}" if aim.bound else "not measured"
        elif found >= aim.factor:
            outcome = "reached"
        else:
            outcome = f"missed; {aim.bound}" if aim.bound else "missed"
        text = "" if found is None else f"{found:.2f}"
        rows.append(
            (
                Cell(aim.what, (aim.what,)),
                Cell(f"{aim.factor:g}", (aim.factor,)),
                Cell(text, (found,)),
                Cell(side, (side,)),
                Cell(outcome, (outcome,)),
            )
        )
    for each in everything:
        if {"grid", "hierarchical"} <= each["sides"].keys():
            rows.append(_hierarchical(each))
            rows += _recall_kept(each["sides"]["hierarchical"], each["images"], everything)
    return Table("aims", "Aims", columns, tuple(rows))


def _hierarchical(found: Mapping[str, Any]) -> tuple[Cell, ...]:
    """The hierarchical grid against our own."""
    sides = found["sides"]
    # One side may have the first images alone.
    pairs = zip(sides["grid"]["seconds"], sides["hierarchical"]["seconds"], strict=False)
    ratio = statistics.median(grid / coarse for grid, coarse in pairs)
    outcome = "reached" if ratio >= _HIERARCHICAL else "missed"
    return (
        Cell("hierarchical, against our own grid", ("hierarchical",)),
        Cell(f"{_HIERARCHICAL:g}", (_HIERARCHICAL,)),
        Cell(f"{ratio:.2f}", (ratio,)),
        Cell("hierarchical", ("hierarchical",)),
        Cell(outcome, (outcome,)),
    )


def _recall_kept(
    ours: Mapping[str, Any], images: Sequence[str], everything: Sequence[Mapping[str, Any]]
) -> list[tuple[Cell, ...]]:
    """AR@1000 that the hierarchical grid loses against our own, on the same images.

    The whole grid may have seen them all in another run: what it finds does not depend on time.
    """
    grids = [
        each["sides"]["grid"]
        for each in everything
        if each["images"] == images and each["sides"]["grid"]["images"] == len(images)
    ]
    if len(images) < _RECALL_IMAGES or ours["images"] != len(images) or not grids:
        return []
    lost = grids[0]["average_recall"]["1000"] - ours["average_recall"]["1000"]
    outcome = "reached" if lost <= _RECALL_LOST else f"missed; {_COARSE}"
    cells = (
        Cell("hierarchical, AR@1000 lost", ("recall",)),
        Cell(f"at most {_RECALL_LOST:g}", (_RECALL_LOST,)),
        Cell(f"{lost:.3f}", (lost,)),
        Cell("hierarchical", ("hierarchical",)),
        Cell(outcome, (outcome,)),
    )
    return [cells]


def _best(
    aim: Aim,
    inference: Mapping[str, Any],
    everything: Sequence[Mapping[str, Any]],
    evaluation: Mapping[str, Any] | None,
) -> tuple[str, float | None]:
    found: dict[str, float] = {}
    if aim.task is not None:
        rows = [row for row in inference["rows"] if row["task"] == aim.task]
        found = {row["side"]: row["ratio"] for row in rows}
    elif "grid" in aim.sides and everything:
        found = {name: row["times_quicker"] for name, row in everything[0]["sides"].items()}
    elif evaluation is not None and "grid" not in aim.sides:
        suites = evaluation["suites"].items()
        found = {name: next(iter(row["times_as_fast"].values())) for name, row in suites}
    able = {side: found[side] for side in aim.sides if side in found}
    if not able:
        return "", None
    best = max(able, key=able.__getitem__)
    return best, able[best]
