"""Is the evaluation quicker than the loop that everybody writes, with the same numbers?

The loop: `SamPredictor.set_image` once an image, then `SamPredictor.predict` for each prompt of
each protocol, and IoU with numpy. All sides run in fresh processes with the same threads, weights,
images and prompts, in turns, and a side's time is the median of its turns.

`python -m benchmarks.evidence.speed_evaluation --weights FILE --images DIR --annotations FILE`
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.child_processes import run_program, run_python
from benchmarks.datasets.coco import CocoDataset
from benchmarks.datasets.dataset import Instance, Sample
from benchmarks.evidence.document import give, wait_if_published
from benchmarks.prompts.protocols import AccuracyProtocol, find_protocols, select_candidate
from benchmarks.prompts.samplers import prompt_sampler, to_prompts
from mobilesam.fast.allocator import keep_buffers

PROTOCOLS = ("box", "box-multi", "center", "center-multi", "center-oracle")
TOLERANCE = 1e-3
# `miou` keeps freed buffers; the loop runs as everybody runs it, and with that as well.
LOOPS = {"as it comes": (), "with kept buffers": ("--keep-buffers",)}


def loop(weights: Path, images: Path, annotations: Path, limit: int | None) -> dict[str, Any]:
    """The reference: one prompt at a time, IoU by numpy, on an untouched `SamPredictor`.

    Returns:
        `seconds` from the first image to the last IoU, `encoder_s` of it in `set_image`, and
        `miou` by protocol.
    """
    from segment_anything import SamPredictor

    from mobilesam.model.mobile_sam import load_mobile_sam

    predictor = SamPredictor(load_mobile_sam(weights))
    protocols = find_protocols(PROTOCOLS)
    ious: dict[str, list[float]] = {protocol.name: [] for protocol in protocols}
    start = time.perf_counter()
    encoder_s = 0.0
    for sample in CocoDataset(images, annotations, limit=limit).samples():
        assert isinstance(sample, Sample)  # noqa: S101 - a benchmark runs on whole data
        before = time.perf_counter()
        predictor.set_image(sample.image)
        encoder_s += time.perf_counter() - before
        for protocol in protocols:
            for instance in sample.instances:
                ious[protocol.name].append(_ask(predictor, protocol, instance))
    return {
        "seconds": time.perf_counter() - start,
        "encoder_s": encoder_s,
        "miou": {name: float(np.mean(values)) for name, values in ious.items()},
    }


def _ask(predictor: Any, protocol: AccuracyProtocol, instance: Instance) -> float:
    reference = instance.mask()
    sampler = prompt_sampler(protocol.prompt)
    value = sampler.sample(instance, reference, 0)
    assert value is not None  # noqa: S101 - boxes and centres always exist
    prompt = to_prompts(sampler, value[None])
    masks, scores, _ = predictor.predict(
        point_coords=None if prompt.points is None else prompt.points[0],
        point_labels=None if prompt.labels is None else prompt.labels[0],
        box=None if prompt.boxes is None else prompt.boxes[0],
        multimask_output=protocol.query.multimask,
    )
    found = [
        float(np.logical_and(mask, reference).sum() / np.logical_or(mask, reference).sum())
        for mask in masks
    ]
    return found[select_candidate(protocol.selection, scores, found)]


def suite(
    weights: Path, images: Path, annotations: Path, limit: int | None, threads: int, model: str
) -> dict[str, Any]:
    """The same through `mobilesam-bench miou`, as a user runs it.

    Returns:
        `seconds` of the pass over the images, `overhead` outside the model (a share of it) and
        `miou` by protocol.
    """
    with tempfile.TemporaryDirectory() as folder:
        command = [
            *("-m", "benchmarks", "miou", "--models", model, "--offline"),
            *("--threads", str(threads), "--weights", f"mobilesam={weights}"),
            *("--dataset", "coco", "--images", str(images)),
            *("--annotations", str(annotations), "--protocol", ",".join(PROTOCOLS), "--json"),
            *("--out", folder, "--quiet"),
            *(() if limit is None else ("--limit", str(limit))),
        ]
        done = run_python(command, capture_output=True, check=True)
    found = json.loads(done.stdout)
    (times,) = found["times"]
    return {
        "seconds": times["wall_s"],
        "overhead": 1 - times["model_s"] / times["wall_s"],
        "miou": {row["protocol"]: row["miou"] for row in found["rows"]},
    }


def compare(arguments: argparse.Namespace) -> dict[str, Any]:
    """All sides in turns; ratios of medians, and the largest difference of any mIoU."""
    loops: dict[str, list[dict[str, Any]]] = {name: [] for name in LOOPS}
    suites: dict[str, list[dict[str, Any]]] = {name: [] for name in arguments.models.split(",")}
    data = (arguments.weights, arguments.images, arguments.annotations, arguments.limit)
    for turn in range(1, arguments.turns + 1):
        for name, found in loops.items():
            sys.stderr.write(f"turn {turn} of {arguments.turns}: the loop, {name}\n")
            found.append(_in_fresh_process(arguments, LOOPS[name]))
        for model, found in suites.items():
            sys.stderr.write(f"turn {turn} of {arguments.turns}: miou --models {model}\n")
            found.append(suite(*data, arguments.threads, model))
    return {
        "protocols": PROTOCOLS,
        "limit": arguments.limit,
        "turns": arguments.turns,
        "loops": {name: _summary(found) for name, found in loops.items()},
        "suites": {
            model: _summary(found)
            | {
                "overhead": _median(found, "overhead"),
                "times_as_fast": {
                    name: _median(loop, "seconds") / _median(found, "seconds")
                    for name, loop in loops.items()
                },
                "times_as_fast_where_the_loop_encodes_for_each_protocol": {
                    name: (
                        _median(loop, "seconds") + (len(PROTOCOLS) - 1) * _median(loop, "encoder_s")
                    )
                    / _median(found, "seconds")
                    for name, loop in loops.items()
                },
                "largest_difference_of_miou": _difference(loops["as it comes"], found),
                "same_numbers": _difference(loops["as it comes"], found) <= TOLERANCE,
            }
            for model, found in suites.items()
        },
    }


def _median(turns: Sequence[dict[str, Any]], key: str) -> float:
    return float(statistics.median(turn[key] for turn in turns))


def _summary(turns: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {"seconds": _median(turns, "seconds"), "turns": turns}


def _difference(theirs: Sequence[dict[str, Any]], ours: Sequence[dict[str, Any]]) -> float:
    return max(
        abs(float(a["miou"][name]) - float(b["miou"][name]))
        for a, b in zip(theirs, ours, strict=True)
        for name in PROTOCOLS
    )


def _in_fresh_process(arguments: argparse.Namespace, options: Sequence[str]) -> dict[str, Any]:
    command = ["-m", "benchmarks.evidence.speed_evaluation", "--loop-only", *options]
    for name in ("weights", "images", "annotations", "limit", "threads"):
        value = getattr(arguments, name)
        if value is not None:
            command += [f"--{name}", str(value)]
    done = run_python(command, capture_output=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; prints one JSON document."""
    from benchmarks.records.environment import collect, default_threads, use_threads

    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("weights", "images", "annotations"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--limit", type=int, default=None, help="only the first N images")
    parser.add_argument("--turns", type=int, default=1)
    parser.add_argument("--threads", type=int, default=default_threads())
    parser.add_argument("--out", type=Path, default=None, help="also write the result to a file")
    parser.add_argument("--models", default="mobilesam,mobilesam-fast", help="ours, by commas")
    parser.add_argument("--keep-buffers", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--loop-only", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    use_threads(arguments.threads)
    if arguments.keep_buffers:
        keep_buffers()
    if arguments.loop_only:
        found = loop(arguments.weights, arguments.images, arguments.annotations, arguments.limit)
    else:
        other_load = wait_if_published(arguments.out)
        found = compare(arguments)
        found["environment"] = collect(arguments.threads, other_load).model_dump(mode="json")
    give(found, arguments.out)
    return 0


if __name__ == "__main__":
    raise SystemExit(run_program(main))
