"""Memory of a worker does not grow with the number of images."""

from __future__ import annotations

import gc
import tracemalloc
from pathlib import Path

from evaluation_doubles import accuracy_task

from benchmarks.datasets.dataset import Shard
from benchmarks.datasets.sa1b import Sa1bDataset
from benchmarks.evaluation.shard_worker import ModelWorker


def test_a_worker_keeps_no_images(shards: Path, tmp_path: Path) -> None:
    worker = accuracy_task(tmp_path, "baselines.dummy:build_instant", "box", "center").worker()
    parts = list(Sa1bDataset(shards, streaming=True).shards(4))
    n_rows = run(worker, parts, 3)
    tracemalloc.start()
    try:
        run(worker, parts, 4)
        before = held_bytes()
        more = run(worker, parts, 12)
        grown = held_bytes() - before
    finally:
        tracemalloc.stop()
        worker.close()
    assert more == 4 * n_rows  # of 132 images
    # A row takes a kilobyte, a mask three; small blocks come and go.
    assert grown < 200 * more


def run(worker: ModelWorker, parts: list[Shard], times: int) -> int:
    return sum(worker.run(part).n_rows for _ in range(times) for part in parts)


def held_bytes() -> int:
    gc.collect()
    return tracemalloc.get_traced_memory()[0]
