"""The page on speed, from the committed results of the speed benchmarks.

`python -m benchmarks.evidence.speed_page` writes `docs/speed.md`; a test fails when it is stale.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.evidence.pages import (
    ROOT,
    PageColumn,
    markdown_table,
    render,
    text_columns,
    write_page,
)
from benchmarks.evidence.publish import readme_block
from benchmarks.evidence.speed import ratios_of_images, spread_of_images
from benchmarks.records.documents import read_document
from benchmarks.records.record import RECORD_NAME, load_record
from benchmarks.records.statistics import MIN_PROCESSES, Spread
from benchmarks.tables.formatting import number

Document = Mapping[str, Any]

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
_TASKS = {
    "encoder": "encoder, 1024 px",
    "decoder-1": "decoder, 1 prompt",
    "decoder-64": "decoder, 64 prompts",
}
_BACKENDS = {
    "plain": "segment-anything's modules, our eager TinyViT",
    "authors": "the authors' package",
    "ultralytics": "MobileSAM inside ultralytics",
    "batches": "four prompts at a time",
    "folded": "weights folded, products reordered",
    "fast": "our path (mobilesam.fast.inference)",
    "bf16": "our path, encoder in bfloat16",
    "onnx": "exported, ONNX Runtime",
    "onnx-int8": "exported, ONNX Runtime, int8",
    "openvino": "exported, OpenVINO",
    "openvino-bf16": "exported, OpenVINO, bfloat16",
}
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


@dataclass(frozen=True, slots=True)
class Target:
    """A target of this project for speed.

    Attributes:
        what: What is to be fast.
        factor: Times as fast as the plain modules, or as the loop.
        task: Task of the inference benchmark; None for the others.
        sides: Implementations, of which the best counts.
        bound: What limits the speed, if the target is missed.
    """

    what: str
    factor: float
    task: str | None
    sides: tuple[str, ...]
    bound: str = ""


TARGETS = (
    Target(
        "encoder, float32, any backend", 4, "encoder", ("fast", "onnx", "openvino"), _ARITHMETIC
    ),
    Target("encoder, float32, torch", 2.5, "encoder", ("fast",), _ARITHMETIC),
    Target("encoder, bfloat16", 6, "encoder", ("bf16", "openvino-bf16"), _NO_BF16),
    Target("decoder, 64 prompts", 6, "decoder-64", ("fast",), _PRODUCTS),
    Target("decoder, 1 prompt", 1.5, "decoder-1", ("fast",)),
    Target("segment everything, 32 x 32 grid", 6, None, ("grid",)),
    Target("evaluation against the loop", 4, None, ("mobilesam-fast",)),
)

_IMAGES_NOTES = {
    False: "[low, high]: 95 % interval over images, each in a process of its own.",
    True: "(range low to high): smallest and largest ratio of an image, each in a process of its "
    f"own; fewer than {MIN_PROCESSES} give no interval.",
}


def page(results: Path, run: Path) -> str:
    """The Markdown of the page.

    Args:
        results: Folder of the JSON files of the benchmarks; missing ones are left out.
        run: Folder of a run of the models with the same weights; left out if it is missing.

    Raises:
        DataError: A file is not such a document.
    """
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
        inference=inference,
        narrow=narrow,
        evaluation=evaluation,
        everything=everything,
        record=record,
        tasks=_STEPS,
        targets=_targets,
        backends=_all_backends,
        steps=_steps,
        everything_table=_everything,
        evaluation_table=_evaluation,
    )


def _targets(
    inference: Document, everything: Sequence[Document], evaluation: Document | None
) -> str:
    """Each target beside what was measured; missed ones with what limits them."""
    rows: list[tuple[str, str, str, str, str]] = []
    for target in TARGETS:
        side, value = _best(target, inference, everything, evaluation)
        outcome = "not measured" if value is None else "missed"
        if value is not None and value >= target.factor:
            outcome = "reached"
        elif target.bound:
            outcome += f"{': ' if value is None else '; '}{target.bound}"
        text = "" if value is None else f"{value:.2f}"
        rows.append((target.what, f"{target.factor:g}", text, side, outcome))
    for each in everything:
        if {"grid", "hierarchical"} <= each["sides"].keys():
            rows += _hierarchical_targets(each, everything)
    columns = text_columns(
        ("What", "", "left"),
        ("Target", "x", "right"),
        ("Measured", "x", "right"),
        ("By", "", "left"),
        ("Outcome", "", "left"),
    )
    return markdown_table(columns, rows, title="Targets")


def _best(
    target: Target,
    inference: Document,
    everything: Sequence[Document],
    evaluation: Document | None,
) -> tuple[str, float | None]:
    """The fastest of the sides of a target and its ratio, or an empty name and None."""
    found: dict[str, float] = {}
    if target.task is not None:
        rows = [row for row in inference["rows"] if row["task"] == target.task]
        found = {row["side"]: row["ratio"] for row in rows}
    elif "grid" in target.sides and everything:
        found = {name: row["times_quicker"] for name, row in everything[0]["sides"].items()}
    elif evaluation is not None and "grid" not in target.sides:
        suites = evaluation["suites"].items()
        found = {name: next(iter(row["times_as_fast"].values())) for name, row in suites}
    own = {side: found[side] for side in target.sides if side in found}
    return max(own.items(), key=lambda item: item[1], default=("", None))


def _hierarchical_targets(
    found: Document, everything: Sequence[Document]
) -> list[tuple[str, str, str, str, str]]:
    """Speed of the hierarchical grid against our whole grid, and the recall that it loses."""
    ours, images = found["sides"]["hierarchical"], found["images"]
    # One side may have the first images only.
    pairs = zip(found["sides"]["grid"]["seconds"], ours["seconds"], strict=False)
    ratio = statistics.median(grid / coarse for grid, coarse in pairs)
    rows = [
        (
            "hierarchical, against our own grid",
            f"{_HIERARCHICAL_FACTOR:g}",
            f"{ratio:.2f}",
            "hierarchical",
            "reached" if ratio >= _HIERARCHICAL_FACTOR else "missed",
        )
    ]
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
    low, high = (number(end, 2) for end in spread.bounds)
    return f" (range {low} to {high})" if spread.is_range else f" [{low}, {high}]"


def _is_bootstrap(row: Document, processes: int) -> bool:
    """Whether the interval of a row of an older document is a bootstrap over too few processes."""
    return row["ci95"] is not None and processes < MIN_PROCESSES


def _bounds(row: Document, processes: int) -> str:
    """Interval or range of the ratio of a row of the inference benchmark."""
    if _is_bootstrap(row, processes):
        low, high = (number(end, 2) for end in row["ci95"])
        return "" if low == high else f" ({low} to {high})"
    ends = row["ci95"] or row.get("range")
    return "" if ends is None else _spread_text(Spread((ends[0], ends[1]), row["ci95"] is None))


def _bounds_note(rows: Sequence[Document], processes: int) -> str:
    """Explains `_bounds`; empty if no row has any."""
    if not any(_bounds(row, processes) for row in rows):
        return ""
    few = f"fewer than {MIN_PROCESSES} processes"
    if any(_is_bootstrap(row, processes) for row in rows):
        return (
            f"(low to high): middle 95 % of medians of turns drawn from {processes} processes. No "
            f"confidence interval: {few} do not show how much processes differ."
        )
    if processes < MIN_PROCESSES:
        return (
            f"(range low to high): smallest and largest median of {processes} processes, or ratio "
            f"of a turn if there was one process; {few} give no interval."
        )
    return f"[low, high]: 95 % interval over {processes} processes."


def _backend(row: Document) -> str:
    side: str = row["side"]
    return _BACKENDS.get(side, side)


_MEDIAN = PageColumn("Median", lambda row: f"{row['ms']:.0f}", "ms")
_DIFFERENCE = PageColumn("Largest difference", lambda row: f"{row['max_difference']:.1e}")


def _all_backends(found: Document, title: str = "") -> str:
    processes = found["processes"]
    rows = [row for row in found["rows"] if row["side"] not in {"batches", "folded"}]
    columns = (
        PageColumn("What", lambda row: _TASKS.get(row["task"], row["task"]), align="left"),
        PageColumn("Implementation", _backend, align="left"),
        _MEDIAN,
        PageColumn(
            "Times as fast as the first",
            lambda row: number(row["ratio"], 2) + _bounds(row, processes),
        ),
        PageColumn("Page faults a call", lambda row: f"{row['page_faults']:,.0f}"),
        _DIFFERENCE,
    )
    differences = (
        "Differences are of embeddings (encoder) and logits (decoder), from the first row's."
    )
    return markdown_table(columns, rows, (_bounds_note(rows, processes), differences), title)


def _steps(found: Document, task: str) -> str:
    processes = found["processes"]
    known = {row["side"]: row for row in found["rows"] if row["task"] == task}
    rows = [known[side] for side in _STEPS[task] if side in known]
    before = {row["side"]: last for last, row in zip(rows[:1] + rows[:-1], rows, strict=True)}
    columns = (
        PageColumn("Step", _backend, align="left"),
        _MEDIAN,
        PageColumn(
            "By this step", lambda row: f"{row['ratio'] / before[row['side']]['ratio']:.2f} x"
        ),
        PageColumn("In all", lambda row: number(row["ratio"], 2) + _bounds(row, processes)),
        _DIFFERENCE,
    )
    notes = (_bounds_note(rows, processes),)
    return markdown_table(columns, rows, notes, _TASKS[task].capitalize(), "###")


def _everything(found: Document) -> str:
    n_images = len(found["images"])
    base = found["sides"][found["base"]]["seconds"]
    # From the times of the images: older documents hold intervals of other kinds.
    spreads = {
        name: spread_of_images(ratios_of_images(row["seconds"], base))
        for name, row in found["sides"].items()
    }

    def share(value: float | None) -> str:
        return "" if value is None else f"{100 * value:.1f}"

    def recall(row: Document) -> str:
        complete = row["images"] == n_images
        return f"{row['average_recall']['1000']:.3f}" if complete else "other images"

    columns = (
        PageColumn("Side", lambda row: row["name"], align="left"),
        PageColumn("Images", lambda row: str(row["images"])),
        PageColumn("Median", lambda row: f"{row['median_s']:.1f}", "s"),
        PageColumn(
            "Times as fast",
            lambda row: number(row["times_quicker"], 2) + _spread_text(spreads[row["name"]]),
        ),
        PageColumn("Peak memory", lambda row: f"{row['peak_bytes'] / 2**20:.0f}", "MiB"),
        PageColumn("Of its masks matched", lambda row: share(row["ours_among_theirs"]), "%"),
        PageColumn("Of the first's matched", lambda row: share(row["theirs_among_ours"]), "%"),
        PageColumn("AR@1000", recall),
    )
    kinds = {spread.is_range for spread in spreads.values() if spread and _spread_text(spread)}
    notes = (
        "Ratios, matches and peak memory are of the images that a side shares with the first.",
        *(_IMAGES_NOTES[kind] for kind in sorted(kinds)),
    )
    rows = [{**row, "name": name} for name, row in found["sides"].items()]
    return markdown_table(columns, rows, notes)


def _evaluation(found: Document) -> str:
    repeated = "times_as_fast_where_the_loop_encodes_for_each_protocol"
    rows: list[tuple[str, ...]] = [
        (f"the loop, {name}", f"{row['seconds']:.1f}", "", "", "", "")
        for name, row in found["loops"].items()
    ]
    rows += [
        (
            f"miou --models {name}",
            f"{row['seconds']:.1f}",
            *(f"{value:.2f}" for value in row["times_as_fast"].values()),
            f"{next(iter(row[repeated].values())):.2f}",
            f"{row['largest_difference_of_miou']:.0e}",
        )
        for name, row in found["suites"].items()
    ]
    columns = text_columns(
        ("Evaluation", "", "left"),
        ("Time", "s", "right"),
        ("Times as fast as the loop", "", "right"),
        ("where the loop keeps buffers", "", "right"),
        ("where it encodes for each protocol", "", "right"),
        ("Largest difference of mIoU", "", "right"),
    )
    note = (
        f"{found['limit']} images, protocols {', '.join(found['protocols'])}; "
        f"median of {found['turns']} turns."
    )
    return markdown_table(columns, rows, (note,))


if __name__ == "__main__":
    raise SystemExit(write_page(PAGE, page(ROOT / RESULTS, ROOT / BACKENDS)))
