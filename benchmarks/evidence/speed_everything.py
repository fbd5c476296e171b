"""Is segment everything quicker than segment-anything's, with the same masks in less memory?

Sides: `reference` is `SamAutomaticMaskGenerator` on the eager encoder, which is what the authors'
code computes; `reference+keep` is the same in a process that keeps freed buffers, as one with
another allocator would; `grid` is our generator with the same parameters, all of them defaults;
`hierarchical` asks a coarse grid first. Every image of every side runs in a fresh process, with the
same threads and weights and the system's allocator as it is, and the sides take turns image by
image, in an order that rotates. Ratios are to the first side, of the same image; as it may take
minutes an image, `--base-limit` spares it all but the first images.

`python -m benchmarks.evidence.speed_everything --weights FILE --images DIR --annotations FILE
--limit 10`
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from baselines.interface import UInt8Array
from benchmarks.child_processes import run_program, run_python
from benchmarks.datasets.coco import CocoDataset
from benchmarks.datasets.dataset import Sample
from benchmarks.datasets.detections import GroundTruthMask
from benchmarks.evaluation.coco_eval import AGNOSTIC, FoundMask, average_recall
from benchmarks.evidence.document import give, wait_if_published
from benchmarks.records.statistics import Spread, median_spread, spread_fields

SIDES = ("reference", "reference+keep", "grid", "hierarchical")
DEFAULT_SIDES = ("reference", "grid", "hierarchical")
MATCH_IOU = 0.95
LIMITS = (10, 100, 1000)
Records = list[dict[str, Any]]


def segment(side: str, weights: Path, image: UInt8Array, per_side: int | None) -> dict[str, Any]:
    """One image, once, in this process.

    Args:
        side: One of `SIDES`.
        weights: Checkpoint.
        image: (H, W, 3) uint8 RGB.
        per_side: Points along one side of the grid; None is the generator's default.

    Returns:
        `seconds` from the image in memory to its masks in memory as runs, `loaded_bytes` and
        `peak_bytes` of the process, and `records`.
    """
    import psutil

    from benchmarks.records.environment import peak_rss_bytes
    from mobilesam.fast.allocator import keep_buffers
    from mobilesam.model.mobile_sam import load_mobile_sam

    options: dict[str, Any] = {"output_mode": "coco_rle"}
    if per_side is not None:
        options["points_per_side"] = per_side
    if side.endswith("+keep"):
        keep_buffers()
    sam = load_mobile_sam(weights)
    generator: Any
    if side.startswith("reference"):
        from segment_anything import SamAutomaticMaskGenerator

        generator = SamAutomaticMaskGenerator(sam, **options)
    else:
        from mobilesam.everything.generator import AutomaticMaskGenerator
        from mobilesam.predictor import MobileSam

        options["hierarchical"] = side == "hierarchical"
        generator = AutomaticMaskGenerator(MobileSam(sam), **options)
    loaded = psutil.Process().memory_info().rss
    start = time.perf_counter()
    records = generator.generate(image)
    seconds = time.perf_counter() - start
    return {
        "seconds": seconds,
        "loaded_bytes": loaded,
        "peak_bytes": peak_rss_bytes(),
        "records": records,
    }


def matched(ours: Records, theirs: Records) -> tuple[int, int]:
    """How many of our masks are among theirs, and of theirs among ours, at `MATCH_IOU`."""
    if not ours or not theirs:
        return 0, 0
    from pycocotools import mask as coco_mask

    sides = ([record["segmentation"] for record in each] for each in (ours, theirs))
    iou: npt.NDArray[np.float64] = coco_mask.iou(*sides, [0] * len(theirs))
    alike = iou >= MATCH_IOU
    return int(alike.any(axis=1).sum()), int(alike.any(axis=0).sum())


def compare(arguments: argparse.Namespace) -> dict[str, Any]:
    """All sides on all images; see the module."""
    dataset = CocoDataset(arguments.images, arguments.annotations, limit=arguments.limit)
    done: dict[str, list[dict[str, Any]]] = {side: [] for side in arguments.sides}
    samples: list[Sample] = []
    for number, sample in enumerate(islice(dataset.samples(), arguments.limit)):
        assert isinstance(sample, Sample)  # noqa: S101 - a benchmark runs on whole data
        samples.append(sample)
        shift = number % len(arguments.sides)
        for side in (*arguments.sides[shift:], *arguments.sides[:shift]):
            spared = arguments.base_limit is not None and number >= arguments.base_limit
            if spared and side == arguments.sides[0]:
                continue
            done[side].append(_in_fresh_process(arguments, side, sample.image))
            seconds = done[side][-1]["seconds"]
            sys.stderr.write(f"{sample.name} by {side}: {seconds:.1f} s\n")
    base = arguments.sides[0]
    return {
        "base": base,
        "images": [sample.name for sample in samples],
        "points_per_side": arguments.points_per_side,
        "sides": {side: _summary(done[side], done[base], samples) for side in arguments.sides},
    }


def ratios_of_images(ours_s: Sequence[float], theirs_s: Sequence[float]) -> list[float]:
    """Times as fast as the other side, by image, for the images that both sides have."""
    return [theirs / ours for ours, theirs in zip(ours_s, theirs_s, strict=False)]


def spread_of_images(ratios: Sequence[float]) -> Spread | None:
    """95 % interval of ratios of five or more images, otherwise a range.

    Each image has a process of its own on either side, so that an image counts as a process does in
    `median_spread`.
    """
    return median_spread([[ratio] for ratio in ratios])


def _summary(
    ours: Sequence[Mapping[str, Any]],
    theirs: Sequence[Mapping[str, Any]],
    samples: Sequence[Sample],
) -> dict[str, Any]:
    shared = slice(min(len(ours), len(theirs)))  # one side may have the first images alone
    sides = ours[shared], theirs[shared]
    pairs = list(zip(*sides, strict=True))
    seconds, their_seconds = ([each["seconds"] for each in side] for side in (ours, theirs))
    ratios = ratios_of_images(seconds, their_seconds)
    bounds = spread_fields(spread_of_images(ratios))
    n_ours, n_theirs = (sum(len(each["records"]) for each in side) for side in sides)
    counts = np.array([matched(a["records"], b["records"]) for a, b in pairs]).sum(axis=0)
    recall = _recall(ours, samples[: len(ours)])
    peaks, their_peaks = ([each["peak_bytes"] for each in side] for side in sides)
    return {
        "median_s": statistics.median(each["seconds"] for each in ours),
        "seconds": seconds,
        "times_quicker": statistics.median(ratios),
        **{f"times_quicker_{name}": ends for name, ends in bounds.items()},
        "images": len(ours),
        "masks": n_ours,
        "ours_among_theirs": float(counts[0] / n_ours) if n_ours else None,
        "theirs_among_ours": float(counts[1] / n_theirs) if n_theirs else None,
        "average_recall": dict(zip(map(str, LIMITS), recall, strict=True)),
        "peak_bytes": max(peaks),
        "loaded_bytes": statistics.median(each["loaded_bytes"] for each in ours),
        "peak_of_theirs": max(peaks) / max(their_peaks),
    }


def _recall(
    side: Sequence[Mapping[str, Any]], samples: Sequence[Sample]
) -> tuple[float | None, ...]:
    """Average recall of the images' annotations, whatever their category, at `LIMITS`."""
    sizes = {
        number: (int(sample.image.shape[0]), int(sample.image.shape[1]))
        for number, sample in enumerate(samples)
    }
    truth = [
        GroundTruthMask(number, AGNOSTIC, instance.rle, instance.area_px)
        for number, sample in enumerate(samples)
        for instance in sample.instances
    ]
    found = [
        FoundMask(number, AGNOSTIC, record["segmentation"], record["predicted_iou"])
        for number, each in enumerate(side)
        for record in each["records"]
    ]
    return average_recall(sizes, truth, found, LIMITS).at


def _in_fresh_process(
    arguments: argparse.Namespace, side: str, image: UInt8Array
) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "image.npy"
        np.save(path, image)
        command = ["-m", "benchmarks.evidence.speed_everything", "--only", side]
        for name in ("weights", "images", "annotations", "threads", "points_per_side"):
            value = getattr(arguments, name)
            if value is not None:
                command += [f"--{name.replace('_', '-')}", str(value)]
        command += ["--image", str(path)]
        done = run_python(command, stdout=subprocess.PIPE, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _parser() -> argparse.ArgumentParser:
    from benchmarks.records.environment import default_threads

    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("weights", "images", "annotations"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--limit", type=int, default=None, help="only the first N images")
    parser.add_argument("--base-limit", type=int, help="only the first N for the first side")
    parser.add_argument(
        "--sides",
        type=lambda text: tuple(text.split(",")),
        default=DEFAULT_SIDES,
        help=f"of {', '.join(SIDES)}; the first is what the others are compared with",
    )
    parser.add_argument("--points-per-side", type=int, default=None, help="a smaller grid")
    parser.add_argument("--threads", type=int, default=default_threads())
    parser.add_argument("--out", type=Path, default=None, help="also write the result to a file")
    parser.add_argument("--only", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--image", type=Path, help=argparse.SUPPRESS)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; prints one JSON document."""
    from benchmarks.records.environment import collect, use_threads

    parser = _parser()
    arguments = parser.parse_args(argv)
    unknown = sorted(set(arguments.sides) - set(SIDES))
    if unknown or len(set(arguments.sides)) < len(arguments.sides):
        parser.error(f"--sides takes each of {', '.join(SIDES)} at most once")
    if arguments.base_limit is not None and arguments.base_limit < 1:
        parser.error(f"--base-limit must be at least 1; got {arguments.base_limit}")
    use_threads(arguments.threads)
    if arguments.only is not None:
        image = np.load(arguments.image)
        found = segment(arguments.only, arguments.weights, image, arguments.points_per_side)
    else:
        other_load = wait_if_published(arguments.out)
        found = compare(arguments)
        found["environment"] = collect(arguments.threads, other_load).model_dump(mode="json")
    give(found, arguments.out)
    return 0


if __name__ == "__main__":
    raise SystemExit(run_program(main))
