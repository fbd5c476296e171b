"""The page on speed, from the committed results of the speed benchmarks.

`python -m benchmarks.evidence.speed_page` writes `docs/speed.md`; a test fails when it is stale.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.evidence.pages import ROOT, render, write_page
from benchmarks.evidence.publish import readme_block
from benchmarks.evidence.speed import ratios_of_images, spread_of_images
from benchmarks.records.documents import read_document
from benchmarks.records.record import RECORD_NAME, load_record
from benchmarks.records.statistics import MIN_PROCESSES, Spread

Document = Mapping[str, Any]
TargetRow = tuple[str, str, str, str, str]

RESULTS, PAGE = Path("results/speedups"), Path("docs/speed.md")
BACKENDS = Path("results/runs/cpu-2core-backends")
"""Committed run of all models that run MobileSAM's weights."""
INFERENCE, EVALUATION = "inference.json", "evaluation.json"
NARROW = "inference-avx2.json"
"""Inference on a processor without AVX-512."""
EVERYTHING = {
    "everything.json": ("reference", "grid"),
    "everything-kept.json": ("reference+keep", "grid"),
    "hierarchical.json": ("grid", "hierarchical"),
}
"""Sides to show of each file. The hierarchical sides of the first two were measured with an earlier
choice of points."""
_KIND = "speed benchmark"
_STEPS = {
    "encoder": ("plain", "folded", "fast"),
    "decoder-1": ("plain", "folded", "fast"),
    "decoder-64": ("plain", "batches", "folded", "fast"),
}

_ARITHMETIC = (
    "arithmetic: an image is 80 GFLOP, and products, which run at the speed of the processor, are "
    "most of the time; exported files are no faster in other runtimes"
)
_NO_BF16 = "only on processors with bfloat16 products, and other operations gain nothing"
_PRODUCTS = "four fifths of the remaining time are matrix products"
_COARSE = "objects on top of larger ones come last"
_HIERARCHICAL_FACTOR, _MAX_RECALL_LOSS, _MIN_RECALL_IMAGES = 2.0, 0.01, 30


class Target(NamedTuple):
    """A target of this project for speed."""

    what: str
    factor: float  # times as fast as the plain modules, or as the loop
    measured_in: str  # task of the inference benchmark, or another benchmark
    sides: tuple[str, ...]  # the best of these implementations counts
    bound: str = ""  # what limits the speed, if the target is missed


_ANY = ("fast", "onnx", "openvino")
TARGETS = (
    Target("encoder, float32, any backend", 4, "encoder", _ANY, _ARITHMETIC),
    Target("encoder, float32, torch", 2.5, "encoder", ("fast",), _ARITHMETIC),
    Target("encoder, bfloat16", 6, "encoder", ("bf16", "openvino-bf16"), _NO_BF16),
    Target("decoder, 64 prompts", 6, "decoder-64", ("fast",), _PRODUCTS),
    Target("decoder, 1 prompt", 1.5, "decoder-1", ("fast",)),
    Target("segment everything, 32 x 32 grid", 6, "everything", ("grid",)),
    Target("evaluation against the loop", 4, "evaluation", ("mobilesam-fast",)),
)


def page(results: Path, run: Path) -> str:
    """The Markdown of the page, without the benchmarks and the run whose files are missing."""
    inference, narrow, evaluation = (
        read_document(results / name, _KIND) for name in (INFERENCE, NARROW, EVALUATION)
    )
    everything = []
    for name, shown in EVERYTHING.items():
        found = read_document(results / name, _KIND)
        if found is not None:
            sides = {side: row for side, row in found["sides"].items() if side in shown}
            everything.append({**found, "sides": sides})
    record = None
    if (run / RECORD_NAME).is_file():
        path = (Path("..") / BACKENDS / RECORD_NAME).as_posix()
        record = readme_block(load_record(run), [path])
    return render(
        "speed.md",
        f"{results} holds what is no result of a {_KIND}",
        inference=inference,
        narrow=narrow,
        evaluation=evaluation,
        everything=everything,
        record=record,
        targets=_targets,
        bounds=_bounds,
        kind_of_bounds=_kind_of_bounds,
        steps=_steps,
        all_steps=_STEPS,
        spreads=_spreads,
        spread_text=_spread_text,
        least=MIN_PROCESSES,
    )


def _targets(
    inference: Document, everything: Sequence[Document], evaluation: Document | None
) -> list[TargetRow]:
    """Each target beside what was measured; missed ones with what limits them."""
    ratios: dict[str, dict[str, float]] = {}
    for row in inference["rows"]:
        ratios.setdefault(row["task"], {})[row["side"]] = row["ratio"]
    if everything:
        grids = everything[0]["sides"].items()
        ratios["everything"] = {name: row["times_quicker"] for name, row in grids}
    if evaluation is not None:
        suites = evaluation["suites"].items()
        ratios["evaluation"] = {
            name: next(iter(row["times_as_fast"].values())) for name, row in suites
        }
    rows: list[TargetRow] = []
    for target in TARGETS:
        found = ratios.get(target.measured_in, {})
        own = {side: found[side] for side in target.sides if side in found}
        side = max(own, key=lambda each: own[each], default="")
        if not own:
            outcome = "not measured" + (f": {target.bound}" if target.bound else "")
        elif own[side] >= target.factor:
            outcome = "reached"
        else:
            outcome = "missed" + (f"; {target.bound}" if target.bound else "")
        measured = f"{own[side]:.2f}" if own else ""
        rows.append((target.what, f"{target.factor:g}", measured, side, outcome))
    for each in everything:
        if {"grid", "hierarchical"} <= each["sides"].keys():
            rows += _hierarchical_targets(each, everything)
    return rows


def _hierarchical_targets(found: Document, everything: Sequence[Document]) -> list[TargetRow]:
    """Speed of the hierarchical grid against our whole grid, and the recall that it loses."""
    ours, images = found["sides"]["hierarchical"], found["images"]
    ratio = statistics.median(ratios_of_images(ours["seconds"], found["sides"]["grid"]["seconds"]))
    outcome = "reached" if ratio >= _HIERARCHICAL_FACTOR else "missed"
    what, limit = "hierarchical, against our own grid", f"{_HIERARCHICAL_FACTOR:g}"
    rows = [(what, limit, f"{ratio:.2f}", "hierarchical", outcome)]
    # The whole grid may have run on all images in another session: recall has no noise.
    grids = [
        each["sides"]["grid"]
        for each in everything
        if each["images"] == images and each["sides"]["grid"]["images"] == len(images)
    ]
    if len(images) >= _MIN_RECALL_IMAGES and ours["images"] == len(images) and grids:
        lost = grids[0]["average_recall"]["1000"] - ours["average_recall"]["1000"]
        outcome = "reached" if lost <= _MAX_RECALL_LOSS else f"missed; {_COARSE}"
        limit = f"at most {_MAX_RECALL_LOSS:g}"
        rows.append(("hierarchical, AR@1000 lost", limit, f"{lost:.3f}", "hierarchical", outcome))
    return rows


def _spread_text(spread: Spread | None) -> str:
    """Brackets for an interval, parentheses for a range, nothing for one without a width."""
    if spread is None or spread.bounds[0] == spread.bounds[1]:
        return ""
    form = " (range {:.2f} to {:.2f})" if spread.is_range else " [{:.2f}, {:.2f}]"
    return form.format(*spread.bounds)


def _bounds(row: Document, processes: int) -> str:
    """Interval or range of the ratio of a row; in older documents a bootstrap of few processes."""
    ends = row["ci95"] or row.get("range")
    text = "" if ends is None else _spread_text(Spread((ends[0], ends[1]), row["ci95"] is None))
    is_bootstrap = row["ci95"] is not None and processes < MIN_PROCESSES
    return text.replace("[", "(").replace(", ", " to ").replace("]", ")") if is_bootstrap else text


def _kind_of_bounds(rows: Sequence[Document], processes: int) -> str:
    """Kind of `_bounds`: `bootstrap`, `range`, `interval`, or nothing if no row has any."""
    if not any(_bounds(row, processes) for row in rows):
        return ""
    if processes >= MIN_PROCESSES:
        return "interval"
    return "bootstrap" if any(row["ci95"] is not None for row in rows) else "range"


def _steps(found: Document, task: str) -> list[Document]:
    """Rows of the steps of a task, each with the gain over the one `before` it."""
    known = {row["side"]: row for row in found["rows"] if row["task"] == task}
    rows = [known[side] for side in _STEPS[task] if side in known]
    before = [row["ratio"] for row in rows[:1] + rows[:-1]]
    return [{**row, "gain": row["ratio"] / last} for row, last in zip(rows, before, strict=True)]


def _spreads(found: Document) -> dict[str, Spread]:
    """Spreads of the ratios of the sides, from the times: older documents hold other intervals."""
    base = found["sides"][found["base"]]["seconds"]
    spreads = {
        name: spread_of_images(ratios_of_images(row["seconds"], base))
        for name, row in found["sides"].items()
    }
    return {name: each for name, each in spreads.items() if each and _spread_text(each)}


if __name__ == "__main__":
    raise SystemExit(write_page(PAGE, page(ROOT / RESULTS, ROOT / BACKENDS)))
