"""Configurations and tasks for tests of evaluation."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from baselines.interface import ModelOptions
from baselines.registry import ModelEntry
from benchmarks.config.model_resolution import ResolvedModel, WeightsPolicy
from benchmarks.config.run_config import RunConfig
from benchmarks.datasets.dataset import ShardDataset
from benchmarks.evaluation.evaluate import AccuracyWorker
from benchmarks.evaluation.run_shards import EvaluationTask
from benchmarks.prompts.protocols import find_protocols
from benchmarks.records.instances import InstanceRow, parquet_file
from benchmarks.records.record import WeightsRow


def resolved(name: str, target: str, weights: WeightsRow | None = None) -> ResolvedModel:
    """A model that is built by a function given as `module:name`."""
    entry = ModelEntry(name, target, "a double")
    return ResolvedModel(entry, ModelOptions(name), weights or WeightsRow(kind="none"))


def instance_row(number: int, image: int, model: str, protocol: str, **changes: Any) -> InstanceRow:
    """The IoU of one model on one object, without a category."""
    values = {
        "image_id": image, "annotation_id": number, "model": model, "protocol": protocol,
        "reference": "ground-truth", "boundary_iou": None, "score": 1.0, "area": 100.0,
        "category": "",
    }  # fmt: skip
    return InstanceRow(**{**values, **changes})


def instances_table(rows: Sequence[InstanceRow]) -> io.BytesIO:
    """A table of instances in memory."""
    return io.BytesIO(parquet_file(InstanceRow, rows))


def run_config(out: Path, **changes: Any) -> RunConfig:
    """Configuration of a run without models."""
    return RunConfig(
        **{
            "command": "test",
            "note": None,
            "models": (),
            "weights_policy": WeightsPolicy({}),
            "out": out,
            "threads": 1,
            **changes,
        }
    )


def accuracy_task(out: Path, target: str, *protocols: str) -> EvaluationTask:
    """Task of one model against the ground truth."""
    config = run_config(out, protocols=find_protocols(protocols))
    return EvaluationTask.of_run(config, [resolved("double", target)], [], AccuracyWorker)


def read_slowly(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Makes all images of a shard but the first take some time to read."""
    real = ShardDataset.loaders

    def loaders(self: ShardDataset) -> Iterator[Callable[[], Any]]:
        def read(index: int, load: Callable[[], Any]) -> Any:
            time.sleep(seconds * min(index, 1))
            return load()

        for index, load in enumerate(real(self)):
            yield partial(read, index, load)

    monkeypatch.setattr(ShardDataset, "loaders", loaders)
