"""Speed benchmarks of this project, each with the results of both sides compared.

`python -m benchmarks.evidence.speed inference [--weights FILE]`: the fast inference path against
the plain modules. Each backend has a process of its own with the system's allocator as it is. The
processes take turns. A turn is a block of calls: the first one, after other processes have had the
cores and their caches, is reported apart; the median of the next ones is the time of the turn. A
call of half a second or more is made once a turn, and is both. A ratio is that of the same turn.
Processor time is printed next to wall time: with `--threads 1` it is valid on a busy machine, too
(with more threads it includes their waiting).

`python -m benchmarks.evidence.speed everything --limit 10 --base-limit 3`: our generators for
segment everything against segment-anything's, on the packaged photos unless `--images` and
`--annotations` are given. Sides: `reference` is `SamAutomaticMaskGenerator` on the eager encoder;
`reference+keep` the same in a process that keeps freed buffers; `grid` our generator with the same
parameters, all of them defaults; `hierarchical` starts with rough masks; `object-aware` segments
the annotated boxes in place of a detector's, whose time is not included and whose recall is not
measured. Every image of every side has a fresh process, and the sides take turns
image by image, in rotating order. Ratios are to the first side, of the same image; `--base-limit`
limits the first side, which may take minutes an image, to the first images.

`python -m benchmarks.evidence.speed evaluation --weights FILE --images DIR --annotations FILE`:
`mobilesam-bench miou` against the usual loop: `SamPredictor.set_image` once an image,
`SamPredictor.predict` for each prompt of each protocol, and IoU with numpy. All sides take turns in
fresh processes with the same threads, weights, images and prompts; a side's time is the median of
its turns.

`python -m benchmarks.evidence.speed load`: the encoder and the decoder alone, and while another
process is busy. Each side has its own process, turns are those of `inference`, and a slowdown is
that of the same turn.
Threads of `fast` wait passively, as in all processes of this suite; those of `fast-spinning` and of
other implementations as they come. `fast-free` has one thread less while the other process is
busy, as the command line chooses. A `--nice` process takes less from threads that spin, but
only where it has the same session: by default, Linux divides processors among sessions first.

`python -m benchmarks.evidence.speed cold-start --weights FILE`: a process that imports, loads and
answers one box, ours against the authors' package, in fresh processes that take turns. One process
of each side comes before, so that all files are in the disk cache.

With `--isa avx2`, all of them but `evaluation` use no wider vector instructions than AVX2, as on a
processor without AVX-512. This limits what torch and its oneDNN compute; ONNX Runtime and parts of
OpenVINO (layer normalisation, products of MLAS) choose their instructions by the processor.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from baselines.interface import Float32Array, UInt8Array
from benchmarks.child_processes import WAIT_POLICY, Variables, run_program, run_python
from benchmarks.datasets.coco import CocoDataset
from benchmarks.datasets.dataset import Instance, Sample, readable
from benchmarks.datasets.detections import GroundTruthMask
from benchmarks.datasets.photos import open_photos
from benchmarks.debugging import one_line_errors
from benchmarks.evaluation.coco_eval import AGNOSTIC, FoundMask, average_recall
from benchmarks.evidence import cold_start
from benchmarks.evidence.backends import (
    PHASES,
    PREPARED,
    REFERENCE,
    default_names,
    encoder_flops,
    names,
)
from benchmarks.evidence.competitor import competitor
from benchmarks.latency import controller
from benchmarks.latency.controller import Worker, WorkerError, fresh_processes, run_task
from benchmarks.latency.idle import wait_if_published
from benchmarks.prompts.protocols import AccuracyProtocol, find_protocols, select_candidate
from benchmarks.prompts.samplers import prompt_sampler, to_prompts
from benchmarks.records.documents import write_document
from benchmarks.records.environment import collect, default_threads, use_threads
from benchmarks.records.statistics import Samples, median_spread, spread_fields
from mobilesam.errors import UsageError
from mobilesam.weights.cache import digest_file

Document = dict[str, Any]

OBJECT_AWARE = "object-aware"
SIDES = ("reference", "reference+keep", "grid", "hierarchical", OBJECT_AWARE)
DEFAULT_SIDES = ("reference", "grid", "hierarchical", OBJECT_AWARE)
MATCH_IOU = 0.95
LIMITS = (10, 100, 1000)
PROTOCOLS = ("box", "box-multi", "center", "center-multi", "center-oracle")
TOLERANCE = 1e-3
BLOCK = {"block_ms": 150.0, "long_ms": 500.0}
"""A turn: a first call, then three or more for `block_ms`; calls of `long_ms` are not repeated."""
TURN = ("ms", "cpu_ms", "first_ms", "faults")
"""What a turn gives; all but `first_ms` are medians of the repeated calls."""
_AS_IT_COMES: Variables = {WAIT_POLICY: None}
"""Threads wait as they do for users of the libraries, not as in other processes of this suite."""
ISA: Mapping[str, Mapping[str, str]] = {
    "avx2": {
        "ATEN_CPU_CAPABILITY": "avx2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    }
}
"""Variables that limit the vector instructions of torch, of its oneDNN and of MKL."""
LOOPS = {"as it comes": False, "with kept buffers": True}
"""Whether the loop keeps freed buffers, as `miou` does."""


# --- inference ------------------------------------------------------------------------------------


class Side(NamedTuple):
    """A backend, and how its process is started."""

    backend: str
    variables: Variables = MappingProxyType({})
    only_free: bool = False  # leaves a core to the competitor


@contextmanager
def _started(
    sides: Mapping[str, Side], weights: Path | None, threads: int, rng: np.random.Generator
) -> Iterator[dict[str, Worker]]:
    """A fresh process for each side, with its model loaded."""
    task, checkpoint = "benchmarks.evidence.backends:inference_task", weights and str(weights)
    setups = {
        name: controller.task_setup(
            task,
            max(1, threads - side.only_free),
            side.variables,
            backend=side.backend,
            weights=checkpoint,
        )
        for name, side in sides.items()
    }
    with fresh_processes(setups, rng, limit_s=None) as workers:
        for name, worker in workers.items():
            try:
                worker.answer()
            except WorkerError as error:
                raise WorkerError(f"{name}: {error}") from error
        yield workers


@dataclass
class Timings:
    """Turns of one backend in one task by process: medians of repeated calls, and first calls."""

    ms: list[list[float]] = field(default_factory=list)
    cpu_ms: list[list[float]] = field(default_factory=list)
    first_ms: list[list[float]] = field(default_factory=list)
    faults: list[list[float]] = field(default_factory=list)
    output: Float32Array | None = None


def time_backends(
    backends: Sequence[str],
    tasks: Sequence[str],
    weights: Path | None,
    *,
    threads: int,
    processes: int,
    n_turns: int,
) -> dict[str, dict[str, Timings]]:
    """Times all backends in turns, in several sets of fresh processes: timings by task and backend.

    Each process has `n_turns` timed turns of each task (see `PHASES`), after one that
    is not timed.
    """
    found = {task: {name: Timings() for name in backends} for task in tasks}
    sides, rng = {name: Side(name, _AS_IT_COMES) for name in backends}, np.random.default_rng(0)
    for _ in range(processes):
        with (
            tempfile.TemporaryDirectory() as folder,
            _started(sides, weights, threads, rng) as workers,
        ):
            output = Path(folder) / "output.npy"
            for task, timings in found.items():
                for name, worker in workers.items():
                    worker.ask("call", phase=task, **BLOCK)  # compiles, fills caches
                    for key in TURN:
                        getattr(timings[name], key).append([])
                for name in controller.turns(lambda: tuple(backends), n_turns, rng):
                    took = workers[name].ask("call", phase=task, **BLOCK)
                    for key in TURN:
                        getattr(timings[name], key)[-1].append(took[key])
                for name, worker in workers.items():
                    worker.ask("output", path=str(output))
                    timings[name].output = np.load(output)
    return found


def summarise(found: Mapping[str, Mapping[str, Timings]]) -> list[Document]:
    """One row for each task and backend; ratios are of the same turn."""
    rows = []
    for task, backends in found.items():
        plain = backends[REFERENCE]
        for name, own in backends.items():
            ratios = [np.divide(*pair) for pair in zip(plain.ms, own.ms, strict=True)]
            cpu_ratios = [np.divide(*pair) for pair in zip(plain.cpu_ms, own.cpu_ms, strict=True)]
            assert plain.output is not None and own.output is not None  # noqa: S101, PT018
            difference = np.abs(own.output - plain.output)
            rows.append(
                {
                    "task": task,
                    "side": name,
                    "ms": _median(own.ms),
                    "first_of_turn_ms": _median(own.first_ms),
                    "ratio": _median(ratios),
                    **spread_fields(median_spread(ratios)),
                    "cpu_ratio": _median(cpu_ratios),
                    "page_faults": _median(own.faults),
                    "max_difference": float(difference.max()),
                    "mean_difference": float(difference.mean()),
                    "mean_magnitude": float(np.abs(plain.output).mean()),
                }
            )
    return rows


def _median(samples: Samples) -> float:
    """Median of all turns of all processes."""
    return float(np.median(np.concatenate(samples)))


def print_rows(rows: Sequence[Mapping[str, Any]]) -> None:
    """Prints a table; intervals are in brackets, ranges in parentheses."""
    head = f"{'task':12} {'side':14} {'ms':>8} {'first ms':>9} {'times faster':>20}"
    print(f"{head} {'by CPU time':>12} {'page faults':>12} {'max |diff|':>11} {'mean |diff|':>12}")  # noqa: T201
    for row in rows:
        ratio = f"{row['ratio']:.2f}"
        if row["ci95"] is not None:
            ratio += " [{:.2f}, {:.2f}]".format(*row["ci95"])
        elif row["range"] is not None:
            ratio += " ({:.2f} to {:.2f})".format(*row["range"])
        print(  # noqa: T201
            f"{row['task']:12} {row['side']:14} {row['ms']:8.1f} {row['first_of_turn_ms']:9.1f} "
            f"{ratio:>20} {row['cpu_ratio']:12.2f} {row['page_faults']:12.0f} "
            f"{row['max_difference']:11.1e} {row['mean_difference']:12.1e}"
        )


def measure_inference(arguments: argparse.Namespace) -> Document:
    """Times the backends and prints their table; see the module."""
    settings = {name: getattr(arguments, name) for name in ("threads", "processes")}
    sides, tasks, n_turns = arguments.sides, arguments.tasks, arguments.turns
    rows = summarise(time_backends(sides, tasks, arguments.weights, **settings, n_turns=n_turns))
    print_rows(rows)
    return {
        **settings,
        "turns": n_turns,
        "block": BLOCK,
        "product_gflops": _product_gflops(arguments),
        "encoder_flops": encoder_flops(),
        "rows": rows,
    }


def _product_gflops(arguments: argparse.Namespace) -> float:
    """Median rate of a product of 2048 x 2048 over fresh processes."""
    task = "benchmarks.evidence.backends:product_task"
    found = [run_task(task, arguments.threads)["value"] for _ in range(arguments.processes)]
    return float(statistics.median(found))


# --- segment everything ---------------------------------------------------------------------------


def everything_task(
    side: str, weights: str, image: str, per_side: int | None, boxes: list[list[float]]
) -> Callable[[str], Callable[[], list[Document]]]:
    """Task for the timing process: the masks of one image (an .npy file) as run lengths."""
    from mobilesam.fast.allocator import keep_buffers
    from mobilesam.model.mobile_sam import load_mobile_sam

    options: dict[str, Any] = {"output_mode": "coco_rle"}
    if per_side is not None:
        options["points_per_side"] = per_side
    if side.endswith("+keep"):
        keep_buffers()
    sam, pixels = load_mobile_sam(Path(weights)), np.load(image)
    generator: Any
    if side.startswith("reference"):
        from segment_anything import SamAutomaticMaskGenerator

        generator = SamAutomaticMaskGenerator(sam, **options)
    else:
        from mobilesam.everything.generator import AutomaticMaskGenerator, segment_boxes
        from mobilesam.predictor import MobileSam

        if side == OBJECT_AWARE:
            model = MobileSam(sam)
            return lambda _: lambda: segment_boxes(model, pixels, boxes, output_mode="coco_rle")
        options["hierarchical"] = side == "hierarchical"
        generator = AutomaticMaskGenerator(MobileSam(sam), **options)
    return lambda _phase: lambda: generator.generate(pixels)


def segment(arguments: argparse.Namespace, side: str, sample: Sample) -> Document:
    """Segments an image in a fresh process: its time, memory and masks (`records`)."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "image.npy"
        np.save(path, sample.image)
        found = run_task(
            "benchmarks.evidence.speed:everything_task",
            arguments.threads,
            side=side,
            weights=str(arguments.weights),
            image=str(path),
            per_side=arguments.points_per_side,
            boxes=[list(map(float, instance.box)) for instance in sample.instances],
        )
    return {
        "seconds": found["ms"] / 1e3,
        "loaded_bytes": found["loaded_bytes"],
        "peak_bytes": found["peak_rss_bytes"],
        "records": found["value"],
    }


def matched(ours: Sequence[Document], theirs: Sequence[Document]) -> tuple[int, int]:
    """Number of our masks that match one of theirs, and of theirs that match one of ours."""
    if not ours or not theirs:
        return 0, 0
    from pycocotools import mask as coco_mask

    sides = ([record["segmentation"] for record in each] for each in (ours, theirs))
    alike = coco_mask.iou(*sides, [0] * len(theirs)) >= MATCH_IOU
    return int(alike.any(axis=1).sum()), int(alike.any(axis=0).sum())


def measure_everything(arguments: argparse.Namespace) -> Document:
    """Segments all images with all sides; see the module."""
    dataset = open_photos(arguments.limit)
    if arguments.images is not None:
        dataset = CocoDataset(arguments.images, arguments.annotations, limit=arguments.limit)
    sides, base = arguments.sides, arguments.sides[0]
    done: dict[str, list[Document]] = {side: [] for side in sides}
    samples: list[Sample] = []
    for number, sample in enumerate(islice(readable(dataset.samples()), arguments.limit)):
        samples.append(sample)
        shift = number % len(sides)
        for side in (*sides[shift:], *sides[:shift]):
            limited = arguments.base_limit is not None and number >= arguments.base_limit
            if limited and side == base:
                continue
            done[side].append(segment(arguments, side, sample))
            seconds = done[side][-1]["seconds"]
            sys.stderr.write(f"{sample.name} by {side}: {seconds:.1f} s\n")
    return {
        "base": base,
        "images": [sample.name for sample in samples],
        "points_per_side": arguments.points_per_side,
        "sides": {
            side: {
                **_side_summary(side, done[side], done[base], samples),
                "against_grid": _comparison(done[side], done["grid"]) if "grid" in done else None,
            }
            for side in sides
        },
    }


def _comparison(ours: Sequence[Document], theirs: Sequence[Document]) -> Document:
    """Times and masks of two sides on the images that both have; one may have the first only."""
    shared = slice(min(len(ours), len(theirs)))
    sides = ours[shared], theirs[shared]
    seconds, their_seconds = ([each["seconds"] for each in side] for side in sides)
    ratios = [b / a for a, b in zip(seconds, their_seconds, strict=True)]
    bounds = spread_fields(median_spread([[ratio] for ratio in ratios]))
    n_ours, n_theirs = (sum(len(each["records"]) for each in side) for side in sides)
    pairs = zip(*sides, strict=True)
    counts = np.array([matched(a["records"], b["records"]) for a, b in pairs]).sum(axis=0)
    peaks, their_peaks = ([each["peak_bytes"] for each in side] for side in sides)
    return {
        "times_quicker": statistics.median(ratios),
        **{f"times_quicker_{name}": ends for name, ends in bounds.items()},
        "masks": n_ours,
        "ours_among_theirs": float(counts[0] / n_ours) if n_ours else None,
        "theirs_among_ours": float(counts[1] / n_theirs) if n_theirs else None,
        "peak_bytes": max(peaks),
        "peak_of_theirs": max(peaks) / max(their_peaks),
    }


def _side_summary(
    side: str, ours: Sequence[Document], theirs: Sequence[Document], samples: Sequence[Sample]
) -> Document:
    seconds = [each["seconds"] for each in ours]
    return {
        "median_s": statistics.median(seconds),
        "seconds": seconds,
        "images": len(ours),
        **_comparison(ours, theirs),
        # Annotated boxes as prompts tell nothing about how many objects are found.
        "average_recall": (
            dict.fromkeys(map(str, LIMITS))
            if side == OBJECT_AWARE
            else _recall(ours, samples[: len(ours)])
        ),
        "loaded_bytes": statistics.median(each["loaded_bytes"] for each in ours),
    }


def _recall(side: Sequence[Document], samples: Sequence[Sample]) -> dict[str, float | None]:
    """Average recall of the images' annotations of any category, by limit."""
    sizes, truth, found = {}, [], []
    for number, (sample, each) in enumerate(zip(samples, side, strict=True)):
        sizes[number] = (int(sample.image.shape[0]), int(sample.image.shape[1]))
        truth += [
            GroundTruthMask(number, AGNOSTIC, instance.rle, instance.area_px)
            for instance in sample.instances
        ]
        found += [
            FoundMask(number, AGNOSTIC, record["segmentation"], record["predicted_iou"])
            for record in each["records"]
        ]
    recall = average_recall(sizes, truth, found, LIMITS).at
    return dict(zip(map(str, LIMITS), recall, strict=True))


# --- evaluation -----------------------------------------------------------------------------------


def loop_task(
    weights: str, images: str, annotations: str, limit: int | None, *, keep: bool
) -> Callable[[str], Callable[[], Document]]:
    """Task for the timing process: the usual loop, one prompt at a time on `SamPredictor`.

    Its call returns `seconds` from the first image to the last IoU, `encoder_s` of them in
    `set_image`, and `miou` by protocol.
    """
    from segment_anything import SamPredictor

    from mobilesam.fast.allocator import keep_buffers
    from mobilesam.model.mobile_sam import load_mobile_sam

    if keep:
        keep_buffers()
    predictor = SamPredictor(load_mobile_sam(Path(weights)))
    protocols = find_protocols(PROTOCOLS)

    def loop() -> Document:
        """Evaluates with a plain loop once: times and mIoU."""
        ious: dict[str, list[float]] = {protocol.name: [] for protocol in protocols}
        start = time.perf_counter()
        encoder_s = 0.0
        dataset = CocoDataset(Path(images), Path(annotations), limit=limit)
        for sample in readable(dataset.samples()):
            before = time.perf_counter()
            predictor.set_image(sample.image)
            encoder_s += time.perf_counter() - before
            for protocol in protocols:
                for instance in sample.instances:
                    ious[protocol.name].append(_predict(predictor, protocol, instance))
        return {
            "seconds": time.perf_counter() - start,
            "encoder_s": encoder_s,
            "miou": {name: float(np.mean(values)) for name, values in ious.items()},
        }

    return lambda _phase: loop


def _predict(predictor: Any, protocol: AccuracyProtocol, instance: Instance) -> float:
    """IoU of the predicted mask for one instance."""
    reference = instance.mask()
    sampler = prompt_sampler(protocol.prompt)
    value = sampler.sample(instance, reference, 0)
    assert value is not None  # noqa: S101 - boxes and centres always exist
    prompt = to_prompts(sampler, value[None])
    masks, scores, _ = predictor.predict(
        point_coords=None if prompt.points is None else prompt.points[0].copy(),
        point_labels=None if prompt.labels is None else prompt.labels[0].copy(),
        box=None if prompt.boxes is None else prompt.boxes[0],
        multimask_output=protocol.query.multimask,
    )
    found = [
        float(np.logical_and(mask, reference).sum() / np.logical_or(mask, reference).sum())
        for mask in masks
    ]
    return found[select_candidate(protocol.selection, scores, found)]


def run_miou(arguments: argparse.Namespace, model: str) -> Document:
    """Time, share of overhead outside the model and mIoU by protocol of `mobilesam-bench miou`."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            *("-m", "benchmarks", "miou", "--models", model, "--offline"),
            *("--threads", str(arguments.threads), "--weights", f"mobilesam={arguments.weights}"),
            *("--dataset", "coco", "--images", str(arguments.images)),
            *("--annotations", str(arguments.annotations), "--protocol", ",".join(PROTOCOLS)),
            *("--json", "--out", folder, "--quiet"),
            *(() if arguments.limit is None else ("--limit", str(arguments.limit))),
        ]
        found = json.loads(run_python(command, capture_output=True, check=True).stdout)
    (times,) = found["times"]
    return {
        "seconds": times["wall_s"],
        "overhead": 1 - times["model_s"] / times["wall_s"],
        "miou": {row["protocol"]: row["miou"] for row in found["rows"]},
    }


def measure_evaluation(arguments: argparse.Namespace) -> Document:
    """Runs loops and `miou` in turns; ratios of medians, and the largest difference of any mIoU."""
    loops: dict[str, list[Document]] = {name: [] for name in LOOPS}
    suites: dict[str, list[Document]] = {name: [] for name in arguments.models.split(",")}
    data = {name: str(getattr(arguments, name)) for name in ("weights", "images", "annotations")}
    for turn in range(1, arguments.turns + 1):
        for name, found in loops.items():
            sys.stderr.write(f"turn {turn} of {arguments.turns}: the loop, {name}\n")
            task = "benchmarks.evidence.speed:loop_task"
            given = {**data, "limit": arguments.limit, "keep": LOOPS[name]}
            found.append(run_task(task, arguments.threads, **given)["value"])
        for model, found in suites.items():
            sys.stderr.write(f"turn {turn} of {arguments.turns}: miou --models {model}\n")
            found.append(run_miou(arguments, model))

    def median(turns: Sequence[Document], key: str) -> float:
        return float(statistics.median(turn[key] for turn in turns))

    loop_s = {name: median(loop, "seconds") for name, loop in loops.items()}
    # A loop that encodes the image for each protocol takes so much longer.
    repeated_s = {
        name: (len(PROTOCOLS) - 1) * median(loop, "encoder_s") for name, loop in loops.items()
    }
    summaries = {}
    for model, found in suites.items():
        seconds = median(found, "seconds")
        difference = max(
            abs(float(a["miou"][name]) - float(b["miou"][name]))
            for a, b in zip(loops["as it comes"], found, strict=True)
            for name in PROTOCOLS
        )
        summaries[model] = {
            "seconds": seconds,
            "turns": found,
            "overhead": median(found, "overhead"),
            "times_as_fast": {name: each / seconds for name, each in loop_s.items()},
            "times_as_fast_where_the_loop_encodes_for_each_protocol": {
                name: (each + repeated_s[name]) / seconds for name, each in loop_s.items()
            },
            "largest_difference_of_miou": difference,
            "same_numbers": difference <= TOLERANCE,
        }
    return {
        "protocols": PROTOCOLS,
        "limit": arguments.limit,
        "turns": arguments.turns,
        "loops": {name: {"seconds": loop_s[name], "turns": loops[name]} for name in loops},
        "suites": summaries,
    }


# --- under load -----------------------------------------------------------------------------------


LOAD_SIDES = {
    "fast": Side("fast"),
    "fast-free": Side("fast", only_free=True),
    "fast-spinning": Side("fast", _AS_IT_COMES),
    **{name: Side(name, _AS_IT_COMES) for name in ("authors", "onnx", "openvino")},
}


def time_under_load(
    sides: Sequence[str], arguments: argparse.Namespace
) -> dict[str, dict[str, dict[bool, list[list[float]]]]]:
    """Milliseconds of all turns by task, side and whether a process competes, and by process."""
    found: dict[str, dict[str, dict[bool, list[list[float]]]]] = {
        task: {side: {False: [], True: []} for side in sides} for task in arguments.tasks
    }
    chosen, rng = {name: LOAD_SIDES[name] for name in sides}, np.random.default_rng(0)
    for process in range(1, arguments.processes + 1):
        with (
            _started(chosen, arguments.weights, arguments.threads, rng) as workers,
            competitor(arguments.nice) as other,
        ):
            for task, calls in found.items():
                sys.stderr.write(f"processes {process} of {arguments.processes}: {task}\n")
                for name, worker in workers.items():
                    worker.ask("call", phase=task, **BLOCK)  # not timed
                    for ms in calls[name].values():
                        ms.append([])
                for _ in range(arguments.turns):
                    for busy in controller.shuffled((False, True), rng):
                        other.compete(wanted=busy)
                        for name in controller.shuffled(sides, rng):
                            if busy or not LOAD_SIDES[name].only_free:
                                took = workers[name].ask("call", phase=task, **BLOCK)["ms"]
                                calls[name][busy][-1].append(took)
                other.compete(wanted=False)
    return found


def summarise_load(
    found: Mapping[str, Mapping[str, Mapping[bool, Sequence[Sequence[float]]]]],
) -> list[Document]:
    """A row for each task and side; `fast-free` is compared with `fast` alone."""
    rows = []
    for task, sides in found.items():
        for name, own in sides.items():
            alone = sides["fast" if LOAD_SIDES[name].only_free else name][False]
            ratios = [np.divide(*pair) for pair in zip(own[True], alone, strict=True)]
            rows.append(
                {
                    "task": task,
                    "side": name,
                    "alone_ms": _median(alone),
                    "loaded_ms": _median(own[True]),
                    "slowdown": _median(ratios),
                    **spread_fields(median_spread(ratios)),
                }
            )
    return rows


def measure_load(arguments: argparse.Namespace) -> Document:
    """Times all sides alone and while another process is busy; see the module."""
    installed = default_names(arguments.isa)
    sides = [name for name, side in LOAD_SIDES.items() if side.backend in installed]
    rows = summarise_load(time_under_load(sides, arguments))
    settings = {name: getattr(arguments, name) for name in ("processes", "turns", "nice")}
    return {**settings, "rows": rows}


# --- cold start -----------------------------------------------------------------------------------


def start_cold(
    side: str, weights: Path, folder: Path, image: UInt8Array, box: Sequence[float], threads: int
) -> Document:
    """Seconds of a process in all (`total`) and by step, and its mask."""
    np.save(folder / "image.npy", image)
    files = map(str, (weights, folder / "image.npy", folder / "mask.npy"))
    command = ["-m", "benchmarks.evidence.cold_start", side, *files, *map(str, box)]
    variables = {**os.environ, "OMP_NUM_THREADS": str(threads), **_AS_IT_COMES}
    start = time.perf_counter()
    done = run_python(command, env=variables, capture_output=True)
    total_s = time.perf_counter() - start
    if done.returncode:
        raise WorkerError(f"{side}: {(done.stderr.strip().splitlines() or ['no output'])[-1]}")
    mask = np.load(folder / "mask.npy")
    return {"total": total_s, **json.loads(done.stdout), "mask": mask}


def measure_cold_start(arguments: argparse.Namespace) -> Document:
    """Starts processes of both sides in turns; see the module."""
    (sample,) = readable(open_photos(limit=1).samples())
    box = [float(value) for value in sample.instances[0].box]
    sides, rng = tuple(cold_start.SIDES), np.random.default_rng(0)
    found: dict[str, list[Document]] = {side: [] for side in sides}
    with tempfile.TemporaryDirectory() as folder:

        def start(side: str) -> Document:
            given = (sample.image, box, arguments.threads)
            return start_cold(side, arguments.weights, Path(folder), *given)

        for side in sides:
            start(side)
        for side in controller.turns(lambda: sides, arguments.turns, rng):
            found[side].append(start(side))
    rows = []
    theirs = found["authors"]
    for side, own in found.items():
        shares = [[a["total"] / b["total"]] for a, b in zip(own, theirs, strict=True)]
        masks = own[0]["mask"], theirs[0]["mask"]
        medians = {
            f"{step}_s": statistics.median(each[step] for each in own)
            for step in ("total", *cold_start.STEPS)
        }
        rows.append(
            {
                "side": side,
                **medians,
                "seconds": [each["total"] for each in own],
                "share": statistics.median(share for (share,) in shares),
                **spread_fields(median_spread(shares)),
                "iou": float(np.logical_and(*masks).sum() / np.logical_or(*masks).sum()),
            }
        )
    return {"turns": arguments.turns, "rows": rows}


# --- command line ---------------------------------------------------------------------------------

MEASURES = {
    "inference": (measure_inference, "the fast path against the plain modules"),
    "everything": (measure_everything, "segment everything"),
    "evaluation": (measure_evaluation, "`miou` against the usual loop"),
    "load": (measure_load, "the slowdown while another process is busy"),
    "cold-start": (measure_cold_start, "a process that answers one box"),
}


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Ends the program with a message if an option is invalid; splits lists."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    inference, everything, evaluation, load, cold = (
        commands.add_parser(name, help=text) for name, (_, text) in MEASURES.items()
    )
    for each, tasks in (
        (inference, ("encoder", "decoder-1", "decoder-1-prepared", "decoder-64")),
        (load, ("encoder", "decoder-1", "decoder-64")),
    ):
        each.add_argument("--weights", type=Path, help="checkpoint; else the published or shipped")
        each.add_argument("--tasks", default=",".join(tasks))
        each.add_argument("--processes", type=int, default=3)
        each.add_argument("--turns", type=int, default=3, help="timed turns a process")
    inference.add_argument("--sides", help=f"backends by commas; of {', '.join(names())}")
    load.add_argument("--nice", type=int, default=0, help="niceness of the busy process")
    cold.add_argument("--weights", type=Path, required=True)
    cold.add_argument("--turns", type=int, default=7, help="timed processes of each side")
    for each in (everything, evaluation):
        for name in ("weights", "images", "annotations"):
            each.add_argument(f"--{name}", type=Path, required=each is evaluation)
        each.add_argument("--limit", type=int, help="only the first N images")
    everything.add_argument("--base-limit", type=int, help="only the first N for the first side")
    everything.add_argument(
        "--sides",
        default=",".join(DEFAULT_SIDES),
        help=f"of {', '.join(SIDES)}; the others are compared with the first",
    )
    everything.add_argument("--points-per-side", type=int, help="a smaller grid")
    evaluation.add_argument("--turns", type=int, default=1)
    evaluation.add_argument("--models", default="mobilesam,mobilesam-fast", help="by commas")
    for each in (inference, everything, load, cold):
        each.add_argument("--isa", choices=ISA, help="widest vector instructions to use")
    for each in commands.choices.values():
        each.add_argument("--threads", type=int, default=default_threads())
        each.add_argument("--out", type=Path, help="write the result to a file")
    arguments = parser.parse_args(argv)
    for name in ("threads", "processes", "turns", "base_limit"):
        value = getattr(arguments, name, None)
        if value is not None and value < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1; got {value}")
    if arguments.weights is not None and not arguments.weights.is_file():
        parser.error(f"{arguments.weights} is no file; give a checkpoint of MobileSAM")
    if arguments.weights is None:
        from mobilesam.weights.checkpoints import resolve

        arguments.weights = resolve("mobilesam", overrides={}, offline=True, trust=False).path
    if arguments.out is not None and not arguments.out.resolve().parent.is_dir():
        parser.error(f"{arguments.out.parent} is no folder; make it, or choose another --out")
    if arguments.command == "inference":
        isa = arguments.isa
        given = arguments.sides.split(",") if arguments.sides else default_names(isa)
        for side in given:
            if side not in names():
                parser.error(f"unknown side {side!r}; choose from {', '.join(names())}")
            if isa is not None and side not in names(isa):
                able = ", ".join(names(isa))
                parser.error(f"{side} cannot be limited to {isa}; choose from {able}")
        arguments.sides = tuple(dict.fromkeys((REFERENCE, *given)))
    if arguments.command in ("inference", "load"):
        arguments.tasks = arguments.tasks.split(",")
        for task in arguments.tasks:
            if re.fullmatch(PHASES, task) is None:
                parser.error(
                    f"unknown task {task!r}; give encoder, decoder-N for the first N prompts on an "
                    f"image, or decoder-N{PREPARED} for N others"
                )
    if arguments.command == "everything":
        if (arguments.images is None) != (arguments.annotations is None):
            parser.error("give both --images and --annotations, or neither for the photos")
        arguments.sides = tuple(arguments.sides.split(","))
        if set(arguments.sides) - set(SIDES) or len(set(arguments.sides)) < len(arguments.sides):
            parser.error(f"--sides takes each of {', '.join(SIDES)} at most once")
    return arguments


def _limit(isa: str) -> None:
    """Limits the vector instructions of the processes to come; a UsageError if they use others."""
    os.environ.update(ISA[isa])
    if (found := run_task("benchmarks.evidence.backends:isa_task", 1)["value"]) != isa:
        raise UsageError(f"--isa {isa}: torch uses {found} in spite of {', '.join(ISA[isa])}")


@one_line_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Measures and prints; returns the exit code."""
    arguments = _parse(argv)
    use_threads(arguments.threads)
    if (isa := getattr(arguments, "isa", None)) is not None:
        _limit(isa)
    other_load = wait_if_published(arguments.out)
    found = MEASURES[arguments.command][0](arguments)
    found |= {"weights": digest_file(arguments.weights).sha256, "isa": isa}
    found["environment"] = collect(arguments.threads, other_load).model_dump(mode="json")
    write_document(found, arguments.out, print_it=arguments.command != "inference")
    return 0


if __name__ == "__main__":
    raise SystemExit(run_program(main))
