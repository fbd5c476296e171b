"""What a worker holds does not grow with the images it has seen."""

from __future__ import annotations

import gc
import tracemalloc
from pathlib import Path

from baselines.options import ModelOptions
from baselines.registry import ModelEntry
from benchmarks.config.model_resolution import ResolvedModel
from benchmarks.datasets.dataset import Shard
from benchmarks.datasets.sa1b import Sa1bDataset
from benchmarks.evaluation.shard_worker import Worker, WorkPlan
from benchmarks.prompts.protocols import find_protocols
from benchmarks.records.record import WeightsRow


def test_a_worker_forgets_the_images_it_has_seen(shards: Path) -> None:
    entry = ModelEntry("dummy", "baselines.dummy:build_instant", "at once")
    model = ResolvedModel(entry, ModelOptions("dummy"), WeightsRow(kind="none"))
    plan = WorkPlan(
        "x", (model,), (), find_protocols(["box", "center"]), ("ground-truth",), 0, 1, 2, "c"
    )
    worker = Worker(plan)
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
    # A row that is kept has a kilobyte, a mask three; small blocks come and go.
    assert grown < 200 * more


def run(worker: Worker, parts: list[Shard], times: int) -> int:
    return sum(worker.run(part).n_rows for _ in range(times) for part in parts)


def held_bytes() -> int:
    gc.collect()
    return tracemalloc.get_traced_memory()[0]
