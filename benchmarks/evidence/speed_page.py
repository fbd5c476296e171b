"""The page on speed, from the committed results of the speed benchmarks.

`python -m benchmarks.evidence.speed_page` writes `docs/speed.md`; a test fails when it is stale.
Results are `results/speedups/KIND*.json`, of one run each: a file for each processor, which its
environment names. Accuracies are those of the runs `results/runs/speed-accuracy-*`. What is not
measured is left out. `speed_limits.toml` says why targets are missed.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.evaluation.comparison import compare_models
from benchmarks.evidence.pages import ROOT, render, write_page
from benchmarks.records.documents import read_document
from benchmarks.records.record import RECORD_NAME, MiouRow
from benchmarks.records.statistics import MIN_PROCESSES, Interval
from benchmarks.regression.compare import Run, load_run
from benchmarks.tables.formatting import interval, number, percent
from mobilesam.errors import DataError

Document = Mapping[str, Any]
Results = Mapping[str, Sequence[Document]]
"""Documents by kind."""

RESULTS, PAGE = Path("results/speedups"), Path("docs/speed.md")
RUNS, ACCURACY = Path("results/runs"), "speed-accuracy-*"
BASE = "mobilesam-fast"
"""Other models of the same weights are compared with it, on the same prompts."""
KINDS = ("inference", "everything", "evaluation", "load", "cold-start", "cuda")
"""Beginnings of the names of the files."""
_KIND = "speed benchmark"
_INT8 = ("int8", "openvino-int8", "onnx-int8")
_STEPS = ("plain", "batches", "folded", "fast")
_OTHERS = ("authors", "onnx", "openvino")
_DECODER = {
    "decoder-1": "decoder, 1 prompt on a new embedding",
    "decoder-1-prepared": "decoder, 1 prompt after set_image",
    "decoder-64": "decoder, 64 prompts",
}
_TASKS = {"encoder": "encoder, 1024 px", **_DECODER}
_MIN_RECALL_IMAGES = 30


class Gain(NamedTuple):
    """A gain over the authors' code, and how to get it."""

    what: str
    how: str
    kind: str
    task: str  # of the kind, or the name of a side
    sides: tuple[str, ...]  # the fastest counts


_ENCODE = "`MobileSam.from_pretrained()`"
_DECODE = {
    "decoder-1": "`model.decode`",
    "decoder-1-prepared": "`model.predict`",
    "decoder-64": "`model.decode`, `model.predict_torch`",
}
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
    *(Gain(_DECODER[task], how, "inference", task, ("fast",)) for task, how in _DECODE.items()),
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


PROCESSORS = {
    "AMX": {"amx_tile"},
    "AVX-512, AVX-VNNI": {"avx512f", "avx_vnni"},
    "AVX-512": {"avx512f"},
    "AVX2": set[str](),
}
"""Names of processors and what they have, the first that applies. AMD's with AVX-VNNI have vector
units of 512 bits, and compute products at twice the rate of those without."""


def load_results(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """All results by kind; within a kind, wider vector instructions first."""
    found: dict[str, list[dict[str, Any]]] = {}
    for kind in KINDS:
        paths = sorted(folder.glob(f"{kind}*.json"))
        documents = [each for path in paths if (each := read_document(path, _KIND)) is not None]
        found[kind] = sorted(documents, key=lambda each: list(PROCESSORS).index(processor(each)))
    return found


def processor(found: Document) -> str:
    """The vector instructions that a result used, which determine its speed."""
    features = () if found.get("isa") else found["environment"].get("cpu_features", ())
    return next(name for name, needed in PROCESSORS.items() if needed <= {*features})


def page(folder: Path, runs: Path) -> str:
    """The Markdown of the page, without the benchmarks and runs whose files are missing."""
    results, accuracies = load_results(folder), load_accuracies(runs)
    return render(
        "speed.md",
        f"{folder} holds what is no result of a {_KIND}",
        results=results,
        processor=processor,
        accuracies=accuracies,
        base=BASE,
        percent=percent,
        number=number,
        points=lambda value, ends: interval(
            100 * value, ends and (100 * ends[0], 100 * ends[1]), 2
        ),
        gains=_gains,
        limited=_limited,
        targets=targets(results, accuracies),
        bounds=_bounds,
        notes=_notes,
        bounds_notes=_bounds_notes,
        steps=_steps,
        all_steps=_STEPS,
        task_names=_TASKS,
        faults=_faults,
        thread_choice=_thread_choice,
    )


class Accuracy(NamedTuple):
    """A model's mIoU, and its difference from `BASE` on the same prompts; fractions."""

    model: str  # with its precision, unless that is float32
    row: MiouRow
    folder: str
    environment: dict[str, Any]
    difference: float
    ci95: Interval | None


def load_accuracies(folder: Path) -> list[Accuracy]:
    """The models of all runs `speed-accuracy-*` in a folder, by dataset and prompt.

    Raises:
        DataError: A run has no instances, or other prompts than those of `BASE`.
    """
    rows: list[tuple[str, MiouRow, str, Run]] = []
    for path in sorted(folder.glob(f"{ACCURACY}/{RECORD_NAME}")):
        run = load_run(path)
        precision = run.record.config.get("precision", "fp32")
        suffix = "" if precision == "fp32" else f", {precision}"
        rows += [
            (row.model + suffix, row, path.parent.name, run)
            for row in run.record.miou
            if row.miou is not None
        ]
    bases = {_prompts(row): (row, run) for model, row, _, run in rows if model == BASE}
    found = []
    for model, row, name, run in rows:
        if _prompts(row) not in bases:
            raise DataError(f"{name}: no run of {BASE} has the prompts of {model}; run it as well")
        base = bases[_prompts(row)]
        difference, ci95 = (0.0, None) if row is base[0] else _difference((row, run), base)
        environment = run.record.environment.model_dump(mode="json")
        found.append(Accuracy(model, row, name, environment, difference, ci95))
    return sorted(found, key=lambda each: (each.row.dataset, each.row.protocol, each.model != BASE))


def _prompts(row: MiouRow) -> tuple[str | None, str, str]:
    """What rows have in common that are compared in pairs."""
    return row.manifest_sha256, row.protocol, row.reference


def _difference(
    own: tuple[MiouRow, Run], base: tuple[MiouRow, Run]
) -> tuple[float, Interval | None]:
    """Mean paired difference from the base, and its 95 % interval."""
    import pandas as pd

    sides = []
    for side, (row, run) in (("own", own), ("base", base)):
        if run.instances is None:
            raise DataError(f"run {run.record.id} has no instances; run miou again")
        task = run.instances[["model", "protocol", "reference"]]
        mine = (task == [row.model, row.protocol, row.reference]).all(axis=1)
        sides.append(run.instances[mine].assign(model=side))
    (pair,) = compare_models(pd.concat(sides), dataset=own[0].dataset)
    return pair.difference, pair.ci95


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


def _limited(results: Results) -> list[str]:
    """What was measured with fewer vector instructions than its processor has, as printed."""
    return [
        f"{processor(found)}, `{kind}`: {found['isa'].upper()} instructions only, on a processor "
        "with AVX-512."
        for kind, documents in results.items()
        for found in documents
        if found.get("isa") and "avx512f" in found["environment"].get("cpu_features", ())
    ]


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
    processor: str
    limit: float
    value: float
    is_most: bool = False  # the limit is the largest value allowed
    unit: str = " x"
    bounds: Interval | None = None
    why: str = ""  # from the numbers, if it is missed

    @property
    def reached(self) -> bool:
        """Whether the target is reached."""
        return self.value <= self.limit if self.is_most else self.value >= self.limit

    @property
    def outcome(self) -> str:
        """Whether it is reached, and by its whole interval."""
        if self.reached:
            ends = self.bounds or (self.value, self.value)
            certain = ends[1] <= self.limit if self.is_most else ends[0] >= self.limit
            return "reached" if certain else "reached, but its interval goes beyond"
        return "missed"

    @property
    def name(self) -> str:
        """As printed."""
        return f"{self.what}, {self.processor}"

    @property
    def reasons(self) -> str:
        """Why it is missed, and what was tried; empty if it is reached, or if nothing is known."""
        known = "" if self.reached else limits().get((self.what, self.processor), "")
        text = "; ".join(filter(None, ("" if self.reached else self.why, known)))
        return text[:1].upper() + text[1:]

    @property
    def cells(self) -> list[str]:
        """Cells of the table: what, limit, value, outcome."""
        if self.unit == "%":
            limit, value = f"{self.limit:.0%}", f"{self.value:.1%}"
        elif self.unit == " points":
            limit, value = f"{self.limit:g}{self.unit}", interval(self.value, self.bounds, 2)
        else:
            limit, value = f"{self.limit:.3g}{self.unit}", f"{self.value:.3g}{self.unit}"
        sign = "at most " if self.is_most else "at least "
        return [self.name, sign + limit, value, self.outcome]


@cache
def limits() -> dict[tuple[str, str], str]:
    """Why targets are missed and what was tried, by target and processor."""
    text = Path(__file__).with_name("speed_limits.toml").read_text(encoding="utf-8")
    return {(e["target"], name): e["why"] for e in tomllib.loads(text)["limits"]
            for name in e["processors"]}  # fmt: skip


def targets(results: Results, accuracies: Sequence[Accuracy]) -> list[Target]:
    """The targets of issue 24 that have results, by processor."""
    found: list[Target] = []
    for name in _processors(results):
        for kind, of_kind in _TARGETS.items():
            for each in results[kind]:
                if processor(each) == name:
                    found += of_kind(each, name)
    lost = (_accuracy_target(each) for each in accuracies)
    return [*found, *(each for each in lost if each is not None)]


def _inference_targets(found: Document, name: str) -> Iterator[Target]:
    ms = {(row["task"], row["side"]): row["ms"] for row in found["rows"]}
    own, bound = ms.get(("encoder", "fast")), ""
    if own is not None and found.get("product_gflops") and found.get("encoder_flops"):
        least = found["encoder_flops"] / found["product_gflops"] / 1e6
        gflop = found["encoder_flops"] / 1e9
        why = (
            f"products and convolutions are {gflop:.1f} GFLOP, {least:.0f} ms at that rate; "
            f"all of the encoder takes {own:.0f} ms"
        )
        what = "encoder, share of the rate of a 2048 x 2048 product"
        yield Target(what, name, 0.75, least / own, unit="%", why=why)
        if (base := ms.get(("encoder", "authors"), ms.get(("encoder", "plain")))) is not None:
            bound = f"at the full rate of that product it would be {base / least:.2f} x"
    wide = name != "AVX2"
    for what, limit, task, sides, why in (
        ("encoder, float32", None if wide else 2.8, "encoder", ("fast",), bound),
        ("encoder, int8", 5.0 if wide else None, "encoder", _INT8, ""),
        ("encoder, bfloat16", 6.0, "encoder", ("bf16", "openvino-bf16"), ""),
        (_DECODER["decoder-1"], 3.0, "decoder-1", ("fast",), ""),
        (_DECODER["decoder-1-prepared"], 3.0, "decoder-1-prepared", ("fast",), ""),
        (_DECODER["decoder-64"], 8.0 if wide else 6.0, "decoder-64", ("fast",), ""),
    ):
        ratio = _gain(found, Gain(what, "", "inference", task, sides))
        if limit is not None and ratio is not None:
            yield Target(what, name, limit, ratio, why=why)


def _everything_targets(found: Document, name: str) -> Iterator[Target]:
    sides = found["sides"]
    ours, fewer = sides.get("grid"), sides.get("hierarchical")
    if ours is not None and found["base"].startswith("reference"):
        yield Target("everything, default grid", name, 8.0, ours["times_quicker"])
        least = min(ours["ours_among_theirs"], ours["theirs_among_ours"])
        yield Target("default grid, masks matched both ways", name, 0.99, least, unit="%")
    if fewer is not None and ours is not None:
        compared = fewer["against_grid"]
        yield Target(
            "hierarchical grid, gain over the default",
            name,
            2.5,
            compared["times_quicker"],
        )
        share = compared["theirs_among_ours"]
        yield Target("hierarchical grid, masks found again", name, 0.95, share, unit="%")
        n_images = len(found["images"])
        if n_images >= _MIN_RECALL_IMAGES and ours["images"] == fewer["images"] == n_images:
            lost = ours["average_recall"]["1000"] - fewer["average_recall"]["1000"]
            yield Target(
                "hierarchical grid, AR@1000 lost", name, 0.005, lost, is_most=True, unit=""
            )


def _load_targets(found: Document, name: str) -> Iterator[Target]:
    slowdowns = {(row["task"], row["side"]): row["slowdown"] for row in found["rows"]}
    for task, noun in _TASKS.items():
        others = [slowdowns[task, side] for side in _OTHERS if (task, side) in slowdowns]
        if others and (task, "fast") in slowdowns:
            what = f"{noun}, slowdown under load"
            yield Target(what, name, min(others), slowdowns[task, "fast"], is_most=True)


def _cold_start_targets(found: Document, name: str) -> Iterator[Target]:
    share = next(row["share"] for row in found["rows"] if row["side"] == "fast")
    what = "cold start, share of the authors' time"
    yield Target(what, name, 0.6, share, is_most=True, unit="%")


_TARGETS: Mapping[str, Callable[[Document, str], Iterator[Target]]] = {
    "inference": _inference_targets,
    "everything": _everything_targets,
    "load": _load_targets,
    "cold-start": _cold_start_targets,
}
_ACCURACY_TARGETS = {
    f"{BASE}-unpadded": ("without padding", 0.3),
    f"{BASE}, bf16": ("encoder, bfloat16", 0.3),
    "mobilesam-openvino-int8": ("encoder, int8", 0.5),
}
"""What a model has been changed in, and the points of mIoU that it may lose on `_JUDGED`."""
_JUDGED = ("coco:val2017_dev", "box", "ground-truth")


def _accuracy_target(found: Accuracy) -> Target | None:
    row = found.row
    if (row.dataset, row.protocol, row.reference) != _JUDGED:
        return None
    if found.model not in _ACCURACY_TARGETS:
        return None
    what, limit = _ACCURACY_TARGETS[found.model]
    lost = None if found.ci95 is None else (-100 * found.ci95[1], -100 * found.ci95[0])
    where = processor({"environment": found.environment})
    return Target(f"{what}, mIoU lost on val2017_dev", where, limit, -100 * found.difference,
                  is_most=True, unit=" points", bounds=lost)  # fmt: skip


def _bounds(row: Document, key: str = "") -> str:
    """Interval or range of a ratio in a row, after it; nothing for one without a width."""
    for name, form in (("ci95", " [{:.2f}, {:.2f}]"), ("range", " (range {:.2f} to {:.2f})")):
        ends = row.get(key + name)
        if ends is not None and ends[0] != ends[1]:
            return form.format(*ends)
    return ""


def _notes(rows: Sequence[Document], n: int) -> list[str]:
    """What the bounds of rows are, for ratios of `n` processes."""
    return _bounds_notes([_bounds(row) for row in rows],
                         f"median of {n} processes" if n > 1 else "ratio of a turn of one process",
                         f"{n} processes")  # fmt: skip


def _bounds_notes(bounds: Sequence[str], ranged: str, units: str) -> list[str]:
    notes = {
        "(range": f"(range low to high): smallest and largest {ranged}; fewer than "
        f"{MIN_PROCESSES} give no interval.",
        "[": f"Brackets hold 95 % intervals over {units}.",
    }
    return [note for mark, note in notes.items() if any(mark in text for text in bounds)]


def _steps(found: Document, task: str) -> dict[str, tuple[float, float]]:
    """Ratio to the first of the measured steps of a task, and gain over the step before."""
    known = {row["side"]: row["ratio"] for row in found["rows"] if row["task"] == task}
    ratios = {side: known[side] for side in _STEPS if side in known}
    before = [1.0, *ratios.values()]
    return {side: (r, r / last) for (side, r), last in zip(ratios.items(), before, strict=False)}


def _faults(found: Document) -> dict[str, float]:
    """Page faults of a call of the encoder: segment-anything's modules (`plain`), and ours."""
    return {row["side"]: row["page_faults"] for row in found["rows"] if row["task"] == "encoder"}


def _thread_choice(found: Document) -> list[bool]:
    """For each task, whether ours was faster under load with all threads than with fewer."""
    ms = {(row["task"], row["side"]): row["loaded_ms"] for row in found["rows"]}
    return [ms[task, "fast"] < fewer for (task, side), fewer in ms.items() if side == "fast-free"]


if __name__ == "__main__":
    raise SystemExit(write_page(PAGE, page(ROOT / RESULTS, ROOT / RUNS)))
