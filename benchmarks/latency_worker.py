"""The process in which one model is timed: `python -m benchmarks.latency_worker`.

Reads one JSON task from standard input and writes one JSON line for each finished phase, so that a
process that dies keeps what it measured. Standard output belongs to those lines alone: whatever
else prints is sent to standard error.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TextIO

import numpy as np

from baselines.interface import (
    Embedding,
    Prepared,
    Prompts,
    Segmenter,
    SplitDecoder,
    SplitEncoder,
    UInt8Array,
)
from baselines.registry import build, select
from benchmarks.environment import peak_rss_bytes
from benchmarks.latency_task import MemoryLine, PhaseLine, Task
from benchmarks.timing import Samples, StopRule, measure, time_once
from mobilesam.errors import BenchError

_SLOW_FACTOR = 2.0  # a call expected to outlast the cap by this factor is skipped, and says so


@dataclass(frozen=True, slots=True)
class _Inputs:
    """What the phases of one model work on."""

    image: UInt8Array
    prepared: Prepared
    embedding: Embedding


def main() -> int:
    """Runs the task on standard input; returns the exit code."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    task = Task.model_validate_json(sys.stdin.read())
    try:
        for line in run(task):
            _write(out, line)
    except BenchError as error:
        _write(out, PhaseLine(phase="load", status="error", why=str(error)))
        return 1
    return 0


def _write(out: TextIO, line: PhaseLine | MemoryLine) -> None:
    kind = "memory" if isinstance(line, MemoryLine) else "phase"
    out.write(json.dumps({kind: line.model_dump(mode="json")}) + "\n")
    out.flush()


def run(task: Task) -> Iterator[PhaseLine | MemoryLine]:
    """Measures every phase of one model in this process."""
    _set_threads(task.threads)
    rss_before = _rss_bytes()
    entry = select([task.options.name])[0]
    holder: list[Segmenter] = []
    load_ms = time_once(lambda: holder.append(build(entry, task.options)), _no_wait)
    model = holder[0]
    yield PhaseLine(phase="load", samples_ms=(load_ms,))
    image = task_image(task)
    first = _first_call(model, image)
    if isinstance(first, PhaseLine):
        yield first
    else:
        ms, inputs = first
        yield PhaseLine(phase="first_call", n_prompts=1, samples_ms=(ms,))
        yield from _steady(model, inputs, task)
    weight_bytes = sum(
        tensor.numel() * tensor.element_size()
        for module in model.modules().values()
        for tensor in (*module.parameters(), *module.buffers())
    )
    allocated, reserved = _cuda_peak(task.options.device)
    yield MemoryLine(
        rss_before_load_bytes=rss_before,
        peak_rss_bytes=peak_rss_bytes(),
        weight_bytes=weight_bytes,
        cuda_peak_allocated_bytes=allocated,
        cuda_peak_reserved_bytes=reserved,
    )


def _first_call(model: Segmenter, image: UInt8Array) -> tuple[float, _Inputs] | PhaseLine:
    """The first image and prompt, all lazy set-up included."""
    kept: list[tuple[Prepared, Embedding]] = []

    def first() -> None:
        prepared = model.prepare(image)
        embedding = model.encode(prepared)
        model.decode(embedding, prompts_for(model, image, 1))
        kept.append((prepared, embedding))

    ms = time_once(first, model.synchronize)
    return ms, _Inputs(image, *kept[0])


def _steady(model: Segmenter, inputs: _Inputs, task: Task) -> Iterator[PhaseLine]:
    rule = task.rule
    wait = model.synchronize
    depends = "FastSAM's search for masks depends on the weights: timed only with trained ones"
    # Which masks a detector finds decides what its search and its selection cost.
    blind = isinstance(model, SplitEncoder) and model.info.weights.kind == "random"
    yield _line("preprocess", measure(lambda: model.prepare(inputs.image), rule, wait))
    if isinstance(model, SplitEncoder):
        detector = model
        output = detector.run_network(inputs.prepared)
        network = measure(lambda: detector.run_network(inputs.prepared), rule, wait)
        yield _line("encode", network)
        if blind:
            yield PhaseLine(phase="postprocess", status="skipped", why=depends)
        else:
            search = measure(lambda: detector.find_masks(output, inputs.prepared), rule, wait)
            yield _line("postprocess", search)
    else:
        yield _line("encode", measure(lambda: model.encode(inputs.prepared), rule, wait))
    if blind:
        for n in task.n_prompts:
            yield PhaseLine(phase="decode", n_prompts=n, status="skipped", why=depends)
        yield PhaseLine(phase="end_to_end", n_prompts=1, status="skipped", why=depends)
        return
    yield from _decoding(model, inputs, task, rule)

    def everything_once() -> None:
        embedding = model.encode(model.prepare(inputs.image))
        model.decode(embedding, one)

    one = prompts_for(model, inputs.image, 1)
    yield _line("end_to_end", measure(everything_once, rule, wait), 1)


def _decoding(model: Segmenter, inputs: _Inputs, task: Task, rule: StopRule) -> Iterator[PhaseLine]:
    per_prompt_ms = 0.0
    for n in task.n_prompts:
        prompts = prompts_for(model, inputs.image, n)
        expected_s = per_prompt_ms * n / 1e3
        if expected_s > rule.cap_seconds * _SLOW_FACTOR:
            why = f"about {expected_s:.0f} s a call, over the profile's cap: use a longer profile"
            yield PhaseLine(phase="decode", n_prompts=n, status="skipped", why=why)
            continue
        for phase, call in _decode_calls(model, inputs.embedding, prompts):
            samples = measure(call, rule, model.synchronize)
            yield _line(phase, samples, n)
            if phase == "decode":
                per_prompt_ms = float(np.median(samples.ms)) / n


def _decode_calls(
    model: Segmenter, embedding: Embedding, prompts: Prompts
) -> Iterator[tuple[str, Callable[[], object]]]:
    if isinstance(model, SplitDecoder):
        decoder = model
        found = decoder.decode_logits(embedding, prompts)
        yield "decode", lambda: decoder.decode_logits(embedding, prompts)
        yield "postprocess", lambda: decoder.postprocess(found)
    else:
        yield "decode", lambda: model.decode(embedding, prompts)


def _line(phase: str, samples: Samples, n_prompts: int | None = None) -> PhaseLine:
    return PhaseLine(
        phase=phase,
        n_prompts=n_prompts,
        samples_ms=samples.ms,
        warmup_calls=samples.warmup_calls,
        warnings=samples.warnings,
    )


def prompts_for(model: Segmenter, image: UInt8Array, n: int) -> Prompts:
    """N seeded prompts of the kind that the model takes: single points, otherwise boxes."""
    rng = np.random.default_rng(n)
    height, width = image.shape[:2]
    size = np.array([width, height])
    points = rng.uniform(0.1, 0.9, (n, 1, 2)) * size
    if "points" in model.info.supports:
        return Prompts(points=points.astype(np.float32), labels=np.ones((n, 1), np.int64))
    corners = np.concatenate([points[:, 0] - 0.1 * size, points[:, 0] + 0.1 * size], axis=1)
    return Prompts(boxes=corners.astype(np.float32))


def task_image(task: Task) -> UInt8Array:
    """The scene that every model is timed on."""
    from benchmarks.data.synthetic import SyntheticDataset

    dataset = SyntheticDataset(n_images=1, seed=task.options.seed, size_hw=task.image_hw)
    sample: Any = next(iter(dataset.samples()))
    image: UInt8Array = sample.image
    return image


def _set_threads(threads: int) -> None:
    import torch

    torch.set_num_threads(threads)
    try:
        import cv2
    except ImportError:
        return
    cv2.setNumThreads(threads)


def _rss_bytes() -> int:
    import psutil

    return int(psutil.Process().memory_info().rss)


def _cuda_peak(device: str) -> tuple[int | None, int | None]:
    if not device.startswith("cuda"):
        return None, None
    import torch

    return torch.cuda.max_memory_allocated(device), torch.cuda.max_memory_reserved(device)


def _no_wait() -> None:
    return


if __name__ == "__main__":
    raise SystemExit(main())
