"""The process in which one model is timed: `python -m benchmarks.latency.worker`.

Reads one JSON task from standard input and writes one JSON line for each finished phase, so that a
process that dies keeps what it measured. Standard output belongs to those lines alone: whatever
else prints is sent to standard error.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Any, TextIO

import numpy as np

from baselines.boundary import adapter_call
from baselines.interface import (
    Embedding,
    LogitMasks,
    Prepared,
    Prompts,
    Segmenter,
    SplitDecoder,
    SplitEncoder,
    UInt8Array,
)
from baselines.registry import build, select
from benchmarks.debugging import format_error
from benchmarks.latency.parameters import tensor_bytes
from benchmarks.latency.task import MemoryLine, PhaseLine, Task
from benchmarks.latency.timer import StopRule, measure, time_once
from benchmarks.records.environment import peak_rss_bytes, use_threads
from mobilesam.errors import BenchError

_BLIND = "a detector's search for masks depends on its weights: timed only with trained ones"
_GRID_PROMPTS = 32**2  # segment everything asks so many, by default
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
        _write(out, PhaseLine(phase="load", status="error", why=format_error(error)))
        return 1
    return 0


def _write(out: TextIO, line: PhaseLine | MemoryLine) -> None:
    kind = "memory" if isinstance(line, MemoryLine) else "phase"
    out.write(json.dumps({kind: line.model_dump(mode="json")}) + "\n")
    out.flush()


def run(task: Task) -> Iterator[PhaseLine | MemoryLine]:
    """Measures every phase of one model in this process."""
    use_threads(task.threads)
    rss_before = _rss_bytes()
    entry = select([task.options.name])[0]
    holder: list[Segmenter] = []

    def wait() -> None:
        for model in holder:
            with adapter_call("synchronize"):
                model.synchronize()

    load_ms = time_once(lambda: holder.append(build(entry, task.options)), wait)
    model = holder[0]
    yield PhaseLine(phase="load", samples_ms=(load_ms,))
    image = task_image(task)
    first_ms, first_encode_ms, inputs = _first_call(model, image)
    if _is_blind(model):
        yield PhaseLine(phase="first_call", n_prompts=1, status="skipped", why=_BLIND)
    else:
        yield PhaseLine(phase="first_call", n_prompts=1, samples_ms=(first_ms,))
    yield from _steady(model, inputs, task, first_encode_ms)
    # Read before the weights are counted: FastSAM makes a second network to be counted.
    peak_bytes, cuda_peak = peak_rss_bytes(), _cuda_peak(task.options.device)
    with adapter_call("modules"):
        weight_bytes = sum(tensor_bytes(module) for module in model.modules().values())
    yield MemoryLine(
        rss_before_load_bytes=rss_before,
        peak_rss_bytes=peak_bytes,
        weight_bytes=weight_bytes,
        cuda_peak_allocated_bytes=cuda_peak[0],
        cuda_peak_reserved_bytes=cuda_peak[1],
    )


def _first_call(model: Segmenter, image: UInt8Array) -> tuple[float, float, _Inputs]:
    """The first image and prompt, all lazy set-up included.

    Returns:
        Milliseconds of all of it, milliseconds of the image encoder in it, and what was made.
    """
    prepared: list[Prepared] = []
    embeddings: list[Embedding] = []
    prompts = prompts_for(model, image, 1)
    wait = model.synchronize
    with adapter_call("prepare"):
        before_ms = time_once(lambda: prepared.append(model.prepare(image)), wait)
    with adapter_call("encode"):
        encode_ms = time_once(lambda: embeddings.append(model.encode(prepared[0])), wait)
    with adapter_call("decode"):
        after_ms = time_once(lambda: model.decode(embeddings[0], prompts), wait)
    inputs = _Inputs(image, prepared[0], embeddings[0])
    return before_ms + encode_ms + after_ms, encode_ms, inputs


def _is_blind(model: Segmenter) -> bool:
    """Which masks a detector finds decides what its search and its selection cost."""
    return isinstance(model, SplitEncoder) and model.info.weights.kind == "random"


def _steady(
    model: Segmenter, inputs: _Inputs, task: Task, first_encode_ms: float
) -> Iterator[PhaseLine]:
    blind = _is_blind(model)
    timer = _Timer(task.rule, model.synchronize)
    yield timer.phase("preprocess", lambda: model.prepare(inputs.image))
    if isinstance(model, SplitEncoder):
        detector = model
        with adapter_call("run_network"):
            output = detector.run_network(inputs.prepared)
        yield timer.phase("encode", lambda: detector.run_network(inputs.prepared))
        if not blind:
            search = timer.phase(
                "postprocess", lambda: detector.find_masks(output, inputs.prepared)
            )
            yield search
    elif timer.too_slow(first_encode_ms):
        once = "too slow to repeat under this profile: from the first call, set-up included"
        yield PhaseLine(phase="encode", samples_ms=(first_encode_ms,), warnings=(once,))
    else:
        yield timer.phase(
            "encode", lambda: model.encode(inputs.prepared), expected_ms=first_encode_ms
        )
    if blind:
        for phase, n in (("postprocess", None), *(("decode", n) for n in task.n_prompts)):
            yield PhaseLine(phase=phase, n_prompts=n, status="skipped", why=_BLIND)
        yield PhaseLine(phase="end_to_end", n_prompts=1, status="skipped", why=_BLIND)
        yield PhaseLine(phase="everything", status="skipped", why=_BLIND)
        return
    per_prompt_ms = yield from _decoding(model, inputs, task, timer)
    one = prompts_for(model, inputs.image, 1)

    def end_to_end() -> None:
        model.decode(model.encode(model.prepare(inputs.image)), one)

    yield timer.optional_phase("end_to_end", end_to_end, 1, first_encode_ms)
    if "everything" not in model.info.supports:
        return
    if model.info.weights.kind == "random":
        why = "how much of it is kept depends on the weights: timed only with trained ones"
        yield PhaseLine(phase="everything", status="skipped", why=why)
    else:
        grid_ms = _GRID_PROMPTS * per_prompt_ms if isinstance(model, SplitDecoder) else 0.0
        yield timer.optional_phase(
            "everything", lambda: model.everything(inputs.image), None, first_encode_ms + grid_ms
        )


def _decoding(
    model: Segmenter, inputs: _Inputs, task: Task, timer: _Timer
) -> Generator[PhaseLine, None, float]:
    """Times every number of prompts; returns the milliseconds a prompt of the largest timed."""
    per_prompt_ms = 0.0
    for n in task.n_prompts:
        prompts = prompts_for(model, inputs.image, n)
        for phase, call in _decode_calls(model, inputs.embedding, prompts):
            if phase == "postprocess":
                yield timer.phase(phase, call, n)
                continue
            line = timer.optional_phase(phase, call, n, per_prompt_ms * n)
            yield line
            if not line.samples_ms:
                if isinstance(model, SplitDecoder):
                    yield line.model_copy(update={"phase": "postprocess"})
                break
            per_prompt_ms = float(np.median(line.samples_ms)) / n
    return per_prompt_ms


@dataclass(frozen=True, slots=True)
class _Timer:
    """Times phases by one rule."""

    rule: StopRule
    synchronize: Callable[[], None]

    def phase(
        self,
        name: str,
        call: Callable[[], object],
        n_prompts: int | None = None,
        expected_ms: float = 0.0,
    ) -> PhaseLine:
        """Times a phase; the boundary is around all calls, so that no call's time includes it."""
        with adapter_call(name):
            samples = measure(call, self.rule, self.synchronize, expected_ms=expected_ms)
        return PhaseLine(
            phase=name,
            n_prompts=n_prompts,
            samples_ms=samples.ms,
            warmup_calls=samples.warmup_calls,
            warnings=samples.warnings,
        )

    def too_slow(self, expected_ms: float) -> bool:
        """Whether a single call would go far beyond what the profile waits for."""
        return expected_ms / 1e3 > self.rule.cap_seconds * _SLOW_FACTOR

    def optional_phase(
        self, name: str, call: Callable[[], object], n_prompts: int | None, expected_ms: float
    ) -> PhaseLine:
        """Times a phase, or says that a single call would take too long."""
        if self.too_slow(expected_ms):
            why = (
                f"about {expected_ms / 1e3:.0f} s a call, beyond what this profile waits for "
                f"({self.rule.cap_seconds * _SLOW_FACTOR:.0f} s); use a longer profile"
            )
            return PhaseLine(phase=name, n_prompts=n_prompts, status="skipped", why=why)
        return self.phase(name, call, n_prompts, expected_ms)


def _decode_calls(
    model: Segmenter, embedding: Embedding, prompts: Prompts
) -> Iterator[tuple[str, Callable[[], object]]]:
    if isinstance(model, SplitDecoder):
        decoder = model
        kept: list[LogitMasks] = []

        def decode() -> None:
            kept[:] = [decoder.decode_logits(embedding, prompts)]

        yield "decode", decode
        yield "postprocess", lambda: decoder.postprocess(kept[0])
    else:
        yield "decode", lambda: model.decode(embedding, prompts)


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
    from benchmarks.datasets.synthetic import SyntheticDataset

    dataset = SyntheticDataset(n_images=1, seed=task.options.seed, size_hw=task.image_hw)
    sample: Any = next(iter(dataset.samples()))
    image: UInt8Array = sample.image
    return image


def _rss_bytes() -> int:
    import psutil

    return int(psutil.Process().memory_info().rss)


def _cuda_peak(device: str) -> tuple[int | None, int | None]:
    if not device.startswith("cuda"):
        return None, None
    import torch

    return torch.cuda.max_memory_allocated(device), torch.cuda.max_memory_reserved(device)


if __name__ == "__main__":
    raise SystemExit(main())
