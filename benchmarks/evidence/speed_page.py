"""The page on speed, from the committed results of the speed benchmarks.

`python -m benchmarks.evidence.speed_page` writes `docs/speed.md`; a test fails when it is stale.
Results are `results/speedups/KIND*.json`, of one run each: a file for each processor, which its
environment names. What is not measured is left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.evidence.pages import ROOT, render, write_page
from benchmarks.evidence.publish import readme_block
from benchmarks.evidence.speed import ratios_of_images, spread_of_images
from benchmarks.records.documents import read_document
from benchmarks.records.record import RECORD_NAME, RunRecord, load_record
from benchmarks.records.statistics import MIN_PROCESSES, Spread

Document = Mapping[str, Any]
Results = Mapping[str, Sequence[Document]]
"""Documents by kind."""

RESULTS, PAGE = Path("results/speedups"), Path("docs/speed.md")
BACKENDS = Path("results/runs/cpu-2core-backends")
"""Committed run of all models that run MobileSAM's weights."""
KINDS = {
    "inference": ("inference",),
    "everything": ("everything", "hierarchical"),
    **{kind: (kind,) for kind in ("evaluation", "load", "cold-start", "cuda")},
}
"""Beginnings of the names of the files of each kind."""
_KIND = "speed benchmark"
_INT8 = ("int8", "openvino-int8", "onnx-int8")
_STEPS = ("plain", "batches", "folded", "fast")
_OTHERS = ("authors", "onnx", "openvino")
_TASKS = ("encoder", "decoder-1", "decoder-64")
_MIN_RECALL_IMAGES = 30


class Gain(NamedTuple):
    """A gain over the authors' code, and how to get it."""

    what: str
    how: str
    kind: str
    task: str  # of the kind, or the name of a side
    sides: tuple[str, ...]  # the fastest counts


_ENCODE, _DECODE = "`MobileSam.from_pretrained()`", "`model.predict`, `model.decode`"
GAINS = (
    Gain("encoder, float32", _ENCODE, "inference", "encoder", ("fast",)),
    Gain(
        "encoder, bfloat16 (avx512_bf16, amx_bf16)",
        '`MobileSam.from_pretrained(precision="bf16")`',
        "inference",
        "encoder",
        ("bf16",),
    ),
    Gain(
        "encoder, int8 (avx512_vnni, avx_vnni, amx_int8)",
        '`MobileSam.from_pretrained(precision="int8")`',
        "inference",
        "encoder",
        ("int8",),
    ),
    Gain("decoder, 1 prompt", _DECODE, "inference", "decoder-1", ("fast",)),
    Gain("decoder, 64 prompts", _DECODE, "inference", "decoder-64", ("fast",)),
    Gain("segment everything", "`AutomaticMaskGenerator(model)`", "everything", "grid", ("grid",)),
    Gain(
        "segment everything, fewer points",
        "`AutomaticMaskGenerator(model, hierarchical=True)`",
        "everything",
        "hierarchical",
        ("hierarchical",),
    ),
    Gain(
        "evaluation of a dataset",
        "`mobilesam-bench miou --models mobilesam-fast`",
        "evaluation",
        "",
        ("mobilesam-fast",),
    ),
    Gain("first mask of a new process", "nothing to do", "cold-start", "", ("fast",)),
)


def load_results(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """All results by kind; within a kind, wider vector instructions first."""
    found: dict[str, list[dict[str, Any]]] = {}
    for kind, names in KINDS.items():
        paths = (path for name in names for path in sorted(folder.glob(f"{name}*.json")))
        documents = [each for path in paths if (each := read_document(path, _KIND)) is not None]
        found[kind] = sorted(documents, key=lambda each: processor(each) == "AVX2")
    for each in found["everything"]:
        # An earlier choice of points, from before sides were compared with the grid.
        if each["base"] != "grid" and "against_grid" not in each["sides"].get("hierarchical", {}):
            each["sides"].pop("hierarchical", None)
    return found


def processor(found: Document) -> str:
    """The vector instructions of the processor of a result, which determine its speed."""
    features = found["environment"].get("cpu_features", ())
    return next((name for key, name in (("amx_tile", "AMX"), ("avx512f", "AVX-512"))
                 if key in features), "AVX2")  # fmt: skip


def page(folder: Path, run: Path) -> str:
    """The Markdown of the page, without the benchmarks and the run whose files are missing."""
    results = load_results(folder)
    record = load_record(run) if (run / RECORD_NAME).is_file() else None
    path = (Path("..") / BACKENDS / RECORD_NAME).as_posix()
    flops = None if record is None else _encoder_flops(record)
    return render(
        "speed.md",
        f"{folder} holds what is no result of a {_KIND}",
        results=results,
        processor=processor,
        record=None if record is None else readme_block(record, [path]),
        gains=_gains,
        targets=lambda found: _targets(found, flops),
        bounds=_bounds,
        kind_of_bounds=_kind_of_bounds,
        steps=_steps,
        all_steps=_STEPS,
        tasks=_TASKS,
        spreads=_spreads,
        spread_text=_spread_text,
        least=MIN_PROCESSES,
    )


def _encoder_flops(record: RunRecord) -> int | None:
    """Operations of MobileSAM's encoder for one image, as counted by a committed run."""
    rows = (row for row in record.params if row.model == "mobilesam")
    return next((row.flops for row in rows if row.component == "image_encoder"), None)


def _gain(found: Document, gain: Gain) -> float | None:
    """Times as fast as the authors' code, or as what stands for it; None if not measured."""
    if gain.kind == "inference":
        ms = {row["side"]: row["ms"] for row in found["rows"] if row["task"] == gain.task}
        base = ms.get("authors", ms.get("plain"))
        own = [ms[side] for side in gain.sides if side in ms]
        return base / min(own) if base is not None and own else None
    if gain.kind == "everything":
        side = found["sides"].get(gain.task)
        is_theirs = found["base"].startswith("reference")
        return side["times_quicker"] if side is not None and is_theirs else None
    if gain.kind == "evaluation":
        suite = found["suites"].get(gain.sides[0])
        return None if suite is None else next(iter(suite["times_as_fast"].values()))
    shares = {row["side"]: row["share"] for row in found["rows"]}
    return 1 / shares[gain.sides[0]] if gain.sides[0] in shares else None


def _processors(results: Results) -> list[str]:
    kinds = (kind for kind in results if kind != "cuda")
    return list(dict.fromkeys(processor(each) for kind in kinds for each in results[kind]))


def _gains(results: Results) -> tuple[list[str], list[list[str]]]:
    """Processors, and the cells of the table of gains: what, a ratio for each processor, how."""
    processors, rows = _processors(results), []
    for gain in GAINS:
        ratios: dict[str, float] = {}
        for each in results[gain.kind]:
            if (ratio := _gain(each, gain)) is not None:
                ratios.setdefault(processor(each), ratio)
        cells = [ratios.get(name) for name in processors]
        if any(cells):
            texts = ["" if cell is None else f"{cell:.1f} x" for cell in cells]
            rows.append([gain.what, *texts, gain.how])
    return processors, rows


class Target(NamedTuple):
    """A measured value and its limit, on one processor."""

    what: str
    limit: float
    value: float
    is_most: bool = False  # the limit is the largest value allowed
    unit: str = "x"
    bound: str = ""  # what bounds it, if the target is missed

    @property
    def reached(self) -> bool:
        """Whether the target is reached."""
        return self.value <= self.limit if self.is_most else self.value >= self.limit

    @property
    def cells(self) -> list[str]:
        """Cells of the table after the first: limit, value, outcome."""
        form = ("{:.0%}" if self.unit == "%" else "{:.3g}") + (" x" if self.unit == "x" else "")
        sign = "at most " if self.is_most else "at least "
        outcome = "reached" if self.reached else f"missed{self.bound and '; ' + self.bound}"
        value = f"{self.value:.1%}" if self.unit == "%" else form.format(self.value)
        return [sign + form.format(self.limit), value, outcome]


_ARITHMETIC = "matrix products, which run at the speed of the processor, are most of the time"
_ROUNDING = "operations other than products gain nothing from fewer bits"


def _targets(results: Results, flops: int | None) -> list[list[str]]:
    """Rows of the table of targets, by processor."""
    rows = []
    for name in _processors(results):
        own = {
            kind: [each for each in documents if processor(each) == name]
            for kind, documents in results.items()
        }
        found = _targets_of(own, flops, wide=name != "AVX2")
        rows += [[f"{target.what}, {name}", *target.cells] for target in found]
    return rows


def _targets_of(own: Results, flops: int | None, *, wide: bool) -> list[Target]:
    """The targets of issue 24 for which a processor has results."""
    found: list[Target] = []
    for each in own["inference"]:
        ms = {(row["task"], row["side"]): row["ms"] for row in each["rows"]}
        rate = each.get("product_gflops")
        if flops is not None and rate is not None and ("encoder", "fast") in ms:
            share = flops / ms["encoder", "fast"] / 1e6 / rate
            found.append(Target("encoder, rate of a 2048 x 2048 product", 0.75, share, unit="%"))
        for what, limit, task, sides, bound in (
            ("encoder, float32", None if wide else 2.8, "encoder", ("fast",), _ARITHMETIC),
            (
                "encoder, int8",
                5.0 if wide else None,
                "encoder",
                ("int8", "openvino-int8", "onnx-int8"),
                _ROUNDING,
            ),
            ("encoder, bfloat16", 6.0, "encoder", ("bf16", "openvino-bf16"), _ROUNDING),
            ("decoder, 1 prompt", 3.0, "decoder-1", ("fast",), ""),
            ("decoder, 64 prompts", 8.0 if wide else 6.0, "decoder-64", ("fast",), _ARITHMETIC),
        ):
            ratio = _gain(each, Gain(what, "", "inference", task, sides))
            if limit is not None and ratio is not None:
                found.append(Target(what, limit, ratio, bound=bound))
    for each in own["everything"]:
        sides = each["sides"]
        ours, fewer = sides.get("grid"), sides.get("hierarchical")
        if ours is not None and each["base"].startswith("reference"):
            found.append(Target("everything, default grid", 8.0, ours["times_quicker"]))
            least = min(ours["ours_among_theirs"], ours["theirs_among_ours"])
            found.append(Target("its masks matched both ways", 0.99, least, unit="%"))
        compared = fewer and (fewer if each["base"] == "grid" else fewer.get("against_grid"))
        if fewer and compared and ours is not None:
            found.append(Target("hierarchical grid against it", 2.5, compared["times_quicker"]))
            share = compared["theirs_among_ours"]
            found.append(Target("masks of the grid that it finds", 0.95, share, unit="%"))
            n_images = len(each["images"])
            if n_images >= _MIN_RECALL_IMAGES and ours["images"] == fewer["images"] == n_images:
                lost = ours["average_recall"]["1000"] - fewer["average_recall"]["1000"]
                found.append(Target("AR@1000 that it loses", 0.005, lost, True, ""))
    for each in own["load"]:
        slowdowns = {(row["task"], row["side"]): row["slowdown"] for row in each["rows"]}
        for task in _TASKS:
            others = [slowdowns[task, s] for s in _OTHERS if (task, s) in slowdowns]
            if others and (task, "fast") in slowdowns:
                value = slowdowns[task, "fast"]
                what = f"{task.replace('-', ', ')}, slowdown beside a busy process"
                found.append(Target(what, min(others), value, True))
    for each in own["cold-start"]:
        share = next(row["share"] for row in each["rows"] if row["side"] == "fast")
        found.append(Target("cold start, share of the authors' time", 0.6, share, True, "%"))
    return found


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


def _steps(found: Document, task: str) -> dict[str, tuple[float, float]]:
    """Ratio to the first of the measured steps of a task, and gain over the step before."""
    known = {row["side"]: row["ratio"] for row in found["rows"] if row["task"] == task}
    ratios = {side: known[side] for side in _STEPS if side in known}
    before = [1.0, *ratios.values()]
    return {side: (r, r / last) for (side, r), last in zip(ratios.items(), before, strict=False)}


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
