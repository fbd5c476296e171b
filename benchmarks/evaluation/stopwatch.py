"""Where the wall time of a pass over a dataset goes: into the model, or into this suite."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from benchmarks.records.record import AccuracyTimeRow

Stage = Literal["model", "data", "prompts", "scoring", "writing"]


class Stopwatch:
    """Charges time to stages; time in none of them is part of the wall time alone."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self._seconds: dict[Stage, float] = {}
        self._stage: Stage | None = None
        self._since = self._start
        self.cached_embeddings = 0

    @contextmanager
    def __call__(self, stage: Stage) -> Iterator[None]:
        """Charges the body of a `with` to a stage, and what is nested in it to the inner one."""
        outer = self._switch(stage)
        try:
            yield
        finally:
            self._switch(outer)

    def _switch(self, stage: Stage | None) -> Stage | None:
        now = time.perf_counter()
        outer = self._stage
        if outer is not None:
            self._seconds[outer] = self._seconds.get(outer, 0.0) + now - self._since
        self._stage, self._since = stage, now
        return outer

    def row(self, model: str, dataset: str) -> AccuracyTimeRow:
        """All that was charged until now."""
        return AccuracyTimeRow(
            model=model,
            dataset=dataset,
            wall_s=time.perf_counter() - self._start,
            model_s=self._seconds.get("model", 0.0),
            data_s=self._seconds.get("data", 0.0),
            prompts_s=self._seconds.get("prompts", 0.0),
            scoring_s=self._seconds.get("scoring", 0.0),
            writing_s=self._seconds.get("writing", 0.0),
            cached_embeddings=self.cached_embeddings,
        )
