"""One side of `benchmarks.evidence.speed_inference`: a call for each line of standard input.

`python -m benchmarks.evidence.speed_worker REQUEST FOLDER`, started by the benchmark.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from segment_anything.modeling import Sam
from torch import Tensor

from benchmarks.evidence import backends as sides
from mobilesam.errors import BenchError
from mobilesam.model.mobile_sam import build_mobile_sam, load_mobile_sam

Call = Callable[[], Tensor]


def build_call(sam: Sam, side: sides.Side, task: str, *, trained: bool) -> Call:
    """What is timed for a task, on input of a fixed seed.

    Every side decodes the same embedding: the plain encoder's, or noise where the encoder is not
    trained either.
    """
    draw = torch.Generator().manual_seed(0)
    size = int(sam.image_encoder.img_size)
    pixels = torch.randn(1, 3, size, size, generator=draw)
    if task == "encoder":
        return lambda: side.encode(pixels)
    noise = torch.randn(1, 256, size // 16, size // 16, generator=draw)
    image = sam.image_encoder(pixels) if trained else noise
    points = size * torch.rand(int(task.removeprefix("decoder-")), 1, 2, generator=draw)
    return lambda: side.decode(image, points)


def timed(call: Call) -> tuple[dict[str, float], Tensor]:
    """One call: wall and processor milliseconds, and page faults served without a disk."""
    before, cpu, start = _faults(), time.process_time_ns(), time.perf_counter_ns()
    answer = call()
    end, cpu_end, after = time.perf_counter_ns(), time.process_time_ns(), _faults()
    took = {"ms": (end - start) / 1e6, "cpu_ms": (cpu_end - cpu) / 1e6, "faults": after - before}
    return took, answer


def _faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def main(request: dict[str, Any], folder: Path) -> None:
    """Makes a call for each line of standard input, the name of a task, until there are none.

    The line `save` writes the last answer to `answer.npy` instead.
    """
    import numpy as np

    torch.set_num_threads(request["threads"])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        given = request["weights"]
        sam = load_mobile_sam(given) if given else build_mobile_sam()
        # Before the inference mode: exporters trace, which that forbids.
        side = sides.build(request["side"], sam)
    known: dict[str, Call] = {}
    answer = torch.empty(0)
    with torch.inference_mode():
        for line in sys.stdin:
            task = line.strip()
            if task == "save":
                np.save(folder / "answer.npy", answer.float().numpy())
                print("{}", flush=True)  # noqa: T201
                continue
            if task not in known:
                known[task] = build_call(sam, side, task, trained=bool(given))
            took, answer = timed(known[task])
            print(json.dumps(took), flush=True)  # noqa: T201


if __name__ == "__main__":
    try:
        main(json.loads(sys.argv[1]), Path(sys.argv[2]))
    except BenchError as error:
        sys.exit(f"error: {error}")
