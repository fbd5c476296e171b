"""Is the evaluation quicker than the loop that everybody writes, with the same numbers?

The loop: `SamPredictor.set_image` once an image, then `SamPredictor.predict` for each prompt of
each protocol, and IoU with numpy. Both sides run in fresh processes with the same threads, weights,
images and prompts, in turns, and a side's time is the median of its turns.

`python -m benchmarks.speedups.evaluation --weights FILE --images DIR --annotations FILE`
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.data.coco import CocoDataset
from benchmarks.data.dataset import Instance, Sample
from benchmarks.data.prompt_rules import prompt_rule, to_prompts
from benchmarks.protocols import AccuracyProtocol, find, pick
from benchmarks.records import write_atomic

PROTOCOLS = ("box", "box-multi", "center", "center-multi", "center-oracle")
TOLERANCE = 1e-3


def loop(weights: Path, images: Path, annotations: Path, limit: int | None) -> dict[str, Any]:
    """The reference: one prompt at a time, IoU by numpy, on an untouched `SamPredictor`.

    Returns:
        `seconds` from the first image to the last IoU, `set_image_s` of it in the encoder, and
        `miou` by protocol.
    """
    from segment_anything import SamPredictor

    from mobilesam.model import load_mobile_sam

    predictor = SamPredictor(load_mobile_sam(weights))
    protocols = find(PROTOCOLS)
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
        "set_image_s": encoder_s,
        "miou": {name: float(np.mean(values)) for name, values in ious.items()},
    }


def _ask(predictor: Any, protocol: AccuracyProtocol, instance: Instance) -> float:
    reference = instance.mask()
    rule = prompt_rule(protocol.prompt)
    value = rule.make(instance, reference, 0)
    assert value is not None  # noqa: S101 - boxes and centres always exist
    prompt = to_prompts(rule, value[None])
    masks, scores, _ = predictor.predict(
        point_coords=None if prompt.points is None else prompt.points[0],
        point_labels=None if prompt.labels is None else prompt.labels[0],
        box=None if prompt.boxes is None else prompt.boxes[0],
        multimask_output=protocol.question.multimask,
    )
    found = [
        float(np.logical_and(mask, reference).sum() / np.logical_or(mask, reference).sum())
        for mask in masks
    ]
    return found[pick(protocol.pick, scores, found)]


def suite(weights: Path, images: Path, annotations: Path, limit: int | None) -> dict[str, Any]:
    """The same through `mobilesam-bench miou`, as a user runs it.

    Returns:
        `seconds` of the pass over the images, `overhead` outside the model (a share of it) and
        `miou` by protocol.
    """
    with tempfile.TemporaryDirectory() as folder:
        command = [
            *(sys.executable, "-m", "benchmarks", "miou", "--models", "mobilesam", "--offline"),
            *("--weights", f"mobilesam={weights}", "--dataset", "coco", "--images", str(images)),
            *("--annotations", str(annotations), "--protocol", ",".join(PROTOCOLS), "--json"),
            *("--out", folder, "--quiet"),
            *(() if limit is None else ("--limit", str(limit))),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    (times,) = found["times"]
    return {
        "seconds": times["wall_s"],
        "overhead": 1 - times["model_s"] / times["wall_s"],
        "miou": {row["protocol"]: row["miou"] for row in found["rows"]},
    }


def compare(arguments: argparse.Namespace) -> dict[str, Any]:
    """Both sides in turns; ratios of medians, and the largest difference of any mIoU."""
    theirs, ours = [], []
    for turn in range(arguments.turns):
        sys.stderr.write(f"turn {turn + 1} of {arguments.turns}: the loop\n")
        theirs.append(_in_fresh_process(arguments))
        sys.stderr.write(f"turn {turn + 1} of {arguments.turns}: mobilesam-bench miou\n")
        ours.append(
            suite(arguments.weights, arguments.images, arguments.annotations, arguments.limit)
        )
    loop_s = statistics.median(each["seconds"] for each in theirs)
    suite_s = statistics.median(each["seconds"] for each in ours)
    encoder_s = statistics.median(each["set_image_s"] for each in theirs)
    difference = max(
        abs(a["miou"][name] - b["miou"][name])
        for a, b in zip(theirs, ours, strict=True)
        for name in PROTOCOLS
    )
    return {
        "protocols": PROTOCOLS,
        "limit": arguments.limit,
        "turns": arguments.turns,
        "loop_s": loop_s,
        "suite_s": suite_s,
        "ratio": loop_s / suite_s,
        "ratio_encoding_for_each_protocol": (loop_s + (len(PROTOCOLS) - 1) * encoder_s) / suite_s,
        "overhead": statistics.median(each["overhead"] for each in ours),
        "largest_difference_of_miou": difference,
        "same_numbers": difference <= TOLERANCE,
        "loop": theirs,
        "suite": ours,
    }


def _in_fresh_process(arguments: argparse.Namespace) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.speedups.evaluation", "--loop-only"]
    for name in ("weights", "images", "annotations", "limit", "threads"):
        value = getattr(arguments, name)
        if value is not None:
            command += [f"--{name}", str(value)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; prints one JSON document."""
    from benchmarks.environment import collect, default_threads, use_threads

    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("weights", "images", "annotations"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--limit", type=int, default=None, help="only the first N images")
    parser.add_argument("--turns", type=int, default=1)
    parser.add_argument("--threads", type=int, default=default_threads())
    parser.add_argument("--out", type=Path, default=None, help="also write the result to a file")
    parser.add_argument("--loop-only", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    use_threads(arguments.threads)
    if arguments.loop_only:
        found = loop(arguments.weights, arguments.images, arguments.annotations, arguments.limit)
    else:
        found = compare(arguments)
        found["environment"] = collect(arguments.threads).model_dump(mode="json")
    text = json.dumps(found, indent=1)
    if arguments.out is not None:
        write_atomic(arguments.out, f"{text}\n".encode())
    sys.stdout.write(f"{text}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
