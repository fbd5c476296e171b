"""Average recall from the files of many chunks: the rows that `evaluate_everything` gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.config.model_resolution import ResolvedModel
from benchmarks.config.run_config import RunConfig, ShardingConfig
from benchmarks.evaluation.everything import median_time
from benchmarks.evaluation.run_shards import cut_dataset, has_ended, make_missing
from benchmarks.evaluation.shard_store import ChunkStore, Unable
from benchmarks.evaluation.shard_summary import Tally
from benchmarks.evaluation.whole_images import WholeImageRow, whole_image_plan
from benchmarks.prompts.protocols import EVERYTHING
from benchmarks.records.instances import read_instances
from benchmarks.records.progress import Reporter
from benchmarks.records.record import BySize, EverythingRow, Failure
from benchmarks.records.statistics import Float64Array

WHOLE_IMAGES_NAME = "whole-images.parquet"
_LIMITS = ("ar10", "ar100", "ar1000")
_SIZES = ("small", "medium", "large")


@dataclass(frozen=True, slots=True)
class RecallResult:
    """Rows for the record, made from the files of all chunks."""

    rows: tuple[EverythingRow, ...]
    failures: tuple[Failure, ...]
    warnings: tuple[str, ...]


def recall_of_request(
    request: RunConfig, scale: ShardingConfig, models: Sequence[ResolvedModel], reporter: Reporter
) -> RecallResult:
    """Segments everything that a run asks for in chunks, below its folder.

    Raises:
        UsageError: The dataset cannot be cut, or the cluster not be used.
        DataError: The folder cannot be written.
    """
    dataset = cut_dataset(request)
    store = ChunkStore(request.out / WHOLE_IMAGES_NAME)
    plan = whole_image_plan(models, request.threads, scale)
    what = f"{EVERYTHING} of {', '.join(model.entry.name for model in models)} in chunks"
    again = has_ended(request)
    made = make_missing(dataset, plan, scale, store, what, reporter, again=again)
    sums = _sum_up(store.files(made.names))
    tally = Tally.of(dataset.name, store, made)
    rows = [_row(model, sums, tally) for model in models]
    return RecallResult(tuple(rows), tally.listed(made.given_up), tally.warnings)


def _sum_up(files: Sequence[Path]) -> dict[str, _Sums]:
    """The sums of each model, from one look at each file."""
    found: dict[str, _Sums] = {}
    for file in files:
        frame = read_instances(file, tuple(WholeImageRow.model_fields))
        for model, rows in frame.groupby("model", sort=False):
            found.setdefault(str(model), _Sums()).add(rows)
    return found


def _row(model: ResolvedModel, sums: Mapping[str, _Sums], tally: Tally) -> EverythingRow:
    row = EverythingRow(model=model.entry.name, dataset=tally.dataset, weights=model.weights)
    broken = tally.broken.get(row.model)
    if broken is not None:
        return row.model_copy(update={"status": "error", "why": broken})
    if row.model in sums:
        left_out = {"why": tally.left_out(row.model)}
        return row.model_copy(update={**sums[row.model].fields(), **left_out})
    given_up = tally.left_out(row.model) if tally.n_given_up else None
    why_nothing = given_up or tally.why_nothing
    why = tally.unable.get(row.model, Unable(status="error", why=why_nothing))
    return row.model_copy(update={"status": why.status, "why": why.why})


class _Sums:
    """What is kept of the rows of a model: sums, and the time of each image."""

    def __init__(self) -> None:
        self._n_images = self._n_objects = self._n_found = 0
        self._found = dict.fromkeys((*_LIMITS, *_SIZES), 0.0)
        self._n_by_size = dict.fromkeys(_SIZES, 0)
        self._times_ms: list[Float64Array] = []

    def add(self, frame: Any) -> None:
        self._n_images += len(frame)
        self._n_objects += int(frame["n_objects"].sum())
        self._n_found += int(frame["n_found"].sum())
        self._times_ms.append(frame["duration_ms"].to_numpy())
        for name in _LIMITS:
            self._found[name] += float((frame[name] * frame["n_objects"]).sum())
        for name in _SIZES:
            self._n_by_size[name] += int(frame[f"n_{name}"].sum())
            self._found[name] += float((frame[name] * frame[f"n_{name}"]).sum())

    def fields(self) -> dict[str, Any]:
        counts = {**dict.fromkeys(_LIMITS, self._n_objects), **self._n_by_size}
        recall = {
            name: self._found[name] / count if count else None for name, count in counts.items()
        }
        return {
            "n_images": self._n_images,
            "n_objects": self._n_objects,
            **{name: recall[name] for name in _LIMITS},
            "ar1000_by_size": BySize(**{name: recall[name] for name in _SIZES}),
            "masks_per_image": self._n_found / self._n_images,
            **median_time(np.concatenate(self._times_ms)),
        }
