"""Runs a model over images while threads read the next images and score the previous masks."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Generic, Literal, Protocol, TypeVar

from benchmarks.datasets.dataset import Dataset, Sample, UnreadableImage
from benchmarks.evaluation.run_model import (
    ANSWERED,
    PROMPT_BATCH,
    Attempts,
    failed_attempt,
)
from benchmarks.records.record import AccuracyTimeRow
from mobilesam.errors import BenchError

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")

BUDGET_BYTES = 256 * 2**20
"""Most bytes that wait between two stages; one item more than that is let through."""
_AHEAD = 2  # items that wait beyond one for each thread, so that no thread is idle


class Prefetcher:
    """Threads that read and score while the calling thread runs the model.

    Args:
        n_threads: Number of threads; 0 does everything in the calling thread, one after the other.
        budget_bytes: Most bytes that may wait between two stages.
    """

    def __init__(self, n_threads: int = 0, budget_bytes: int = BUDGET_BYTES) -> None:
        self._n_threads = n_threads
        self._budget_bytes = budget_bytes
        self._pool = ThreadPoolExecutor(n_threads, "prefetch") if n_threads else None

    def map(
        self,
        function: Callable[[ItemT], ResultT],
        items: Iterable[ItemT],
        n_bytes: Callable[[ItemT | ResultT], int],
    ) -> Generator[ResultT, None, None]:
        """Yields results in the order of the items; an item is taken when there is room for it.

        Closing the generator, or an error in it, cancels the items that have not begun and waits
        for the others, so that no call of `function` is running afterwards.

        Args:
            function: Called in a thread, several at a time, or inline.
            items: Taken in the calling thread, each when it is due.
            n_bytes: Bytes that an item holds until its result is taken, or that a result holds.
        """
        if self._pool is None:
            yield from map(function, items)
            return
        pending: deque[tuple[int, Future[ResultT]]] = deque()
        try:
            for item in items:
                pending.append((n_bytes(item), self._pool.submit(function, item)))
                while self._is_full(pending, n_bytes):
                    yield pending.popleft()[1].result()
            while pending:
                yield pending.popleft()[1].result()
        finally:
            # All are cancelled before waiting, so that no further item begins meanwhile.
            wait([future for _, future in pending if not future.cancel()])

    def _is_full(
        self,
        pending: deque[tuple[int, Future[ResultT]]],
        n_bytes: Callable[[ItemT | ResultT], int],
    ) -> bool:
        if not pending:
            return False
        if len(pending) >= self._n_threads + _AHEAD:
            return True
        held = sum(max(of_item, _result_bytes(future, n_bytes)) for of_item, future in pending)
        return held > self._budget_bytes

    def close(self) -> None:
        """Ends the threads; calls that have begun are finished, others are dropped."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)


def _result_bytes(future: Future[ResultT], n_bytes: Callable[[ItemT | ResultT], int]) -> int:
    """Bytes of a result that is ready."""
    if not future.done() or future.cancelled() or future.exception() is not None:
        return 0
    return n_bytes(future.result())


Stage = Literal["model", "data", "prompts", "scoring", "writing"]


class Stopwatch:
    """Charges time of one thread to stages; time in no stage counts only as wall time.

    What other threads do beside that thread costs nothing until it waits for them.
    """

    def __init__(self) -> None:
        self._thread = threading.get_ident()
        self._start = time.perf_counter()
        self._seconds: dict[Stage, float] = {}
        self._stage: Stage | None = None
        self._since = self._start
        self.cached_embeddings = 0

    @contextmanager
    def __call__(self, stage: Stage) -> Iterator[None]:
        """Charges the body of a `with` to a stage, and nested stages to themselves."""
        if threading.get_ident() != self._thread:
            yield
            return
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

    @property
    def wall_s(self) -> float:
        """Seconds since the stopwatch was made."""
        return time.perf_counter() - self._start

    def row(self, model: str, dataset: str) -> AccuracyTimeRow:
        """All times until now."""
        return AccuracyTimeRow(
            model=model,
            dataset=dataset,
            wall_s=self.wall_s,
            model_s=self._seconds.get("model", 0.0),
            data_s=self._seconds.get("data", 0.0),
            prompts_s=self._seconds.get("prompts", 0.0),
            scoring_s=self._seconds.get("scoring", 0.0),
            writing_s=self._seconds.get("writing", 0.0),
            cached_embeddings=self.cached_embeddings,
        )


class _Sized(Protocol):
    @property
    def n_bytes(self) -> int:
        """Size in memory."""


BatchT = TypeVar("BatchT", bound=_Sized)
PredictionT = TypeVar("PredictionT", bound=_Sized)
ScoreT = TypeVar("ScoreT")
ScoreT_co = TypeVar("ScoreT_co", covariant=True)


class ImageTask(Protocol[BatchT, PredictionT, ScoreT_co]):
    """How a protocol predicts and scores one image."""

    def load(self, sample: Sample) -> BatchT:
        """Prepares an image for prediction; several threads may call it."""

    def predict(self, batch: BatchT) -> Iterator[PredictionT]:
        """Yields the predictions of the model; called in the thread that owns the model.

        Raises:
            BenchError: The model fails on the image, or its result violates the interface.
        """

    def score(self, batch: BatchT, predictions: Sequence[PredictionT]) -> ScoreT_co:
        """Scores predictions of an image; several threads may call it."""


@dataclass(slots=True, eq=False)
class ImageScores(Generic[ScoreT]):
    """Scores of one image; none if the image cannot be read or the model failed on it."""

    image: Sample | UnreadableImage
    is_failed: bool
    scores: list[ScoreT]


@dataclass(frozen=True, slots=True, eq=False)
class _Loaded(Generic[BatchT]):
    """An image that has been read; without a batch if it cannot be read."""

    image: Sample | UnreadableImage
    batch: BatchT | None

    @property
    def n_bytes(self) -> int:
        return 0 if self.batch is None else self.batch.n_bytes


@dataclass(frozen=True, slots=True, eq=False)
class _Predicted(Generic[BatchT, PredictionT]):
    """Some predictions for an image; the last one of each image holds none."""

    loaded: _Loaded[BatchT]
    predictions: Sequence[PredictionT] = ()
    is_failed: bool = False

    @property
    def n_bytes(self) -> int:
        return sum(prediction.n_bytes for prediction in self.predictions)


@dataclass(frozen=True, slots=True, eq=False)
class _Scored(Generic[ScoreT]):
    image: Sample | UnreadableImage
    score: ScoreT | None
    is_failed: bool

    @property
    def n_bytes(self) -> int:
        return 0


class ImageLoop(Generic[BatchT, PredictionT, ScoreT]):
    """Runs one model over all images of a dataset, as far as they overlap with a prefetcher.

    Args:
        task: How an image is predicted and scored.
        dataset: The images.
        model: Name of the model, for failures.
        stage: Name of the measurement, for failures.
        prefetcher: Threads that read and score.
        clock: Is charged with the time that the model waited for other stages.
        stop: Stop when the model has failed on each of the first `FIRST_IMAGES` images. This cannot
            be decided for a part of a dataset.
    """

    def __init__(
        self,
        task: ImageTask[BatchT, PredictionT, ScoreT],
        dataset: Dataset,
        model: str,
        stage: str,
        prefetcher: Prefetcher,
        clock: Stopwatch,
        *,
        stop: bool,
    ) -> None:
        self._task = task
        self._dataset = dataset
        self._model = model
        self._stage = stage
        self._prefetcher = prefetcher
        self._clock = clock
        self._stop = stop
        self.attempts = Attempts()

    @property
    def is_stopped(self) -> bool:
        """Whether the loop ended early because the model failed on all of the first images."""
        return self._stop and self.attempts.has_failed_first_images

    def run(self) -> Generator[ImageScores[ScoreT], None, None]:
        """Yields the scores of each image, in order."""
        loaded = self._prefetcher.map(self._load, self._dataset.loaders(), _n_bytes)
        scored = self._prefetcher.map(self._score, self._predict_all(loaded), _n_bytes)
        scores: list[ScoreT] = []
        try:
            while True:
                with self._clock("scoring"):
                    found = next(scored, None)
                if found is None:
                    return
                if found.score is not None:
                    scores.append(found.score)
                    continue
                yield ImageScores(found.image, found.is_failed, [] if found.is_failed else scores)
                scores = []
        finally:
            scored.close()
            loaded.close()

    def _load(self, load: Callable[[], Sample | UnreadableImage]) -> _Loaded[BatchT]:
        with self._clock("data"):
            image = load()
            return _Loaded(image, self._task.load(image) if isinstance(image, Sample) else None)

    def _predict_all(
        self, loaded: Iterator[_Loaded[BatchT]]
    ) -> Iterator[_Predicted[BatchT, PredictionT]]:
        while not self.is_stopped:
            with self._clock("data"):
                image = next(loaded, None)
            if image is None:
                return
            yield from self._predict(image)

    def _predict(self, loaded: _Loaded[BatchT]) -> Iterator[_Predicted[BatchT, PredictionT]]:
        is_failed = False
        if loaded.batch is not None and isinstance(loaded.image, Sample):
            n_predictions = 0
            predictions = iter(self._task.predict(loaded.batch))
            try:
                while part := list(islice(predictions, PROMPT_BATCH)):
                    n_predictions += len(part)
                    yield _Predicted(loaded, part)
            except BenchError as error:
                is_failed = True
                attempt = failed_attempt(self._model, self._stage, loaded.image, error)
                self.attempts = self.attempts.plus(attempt)
            else:
                if n_predictions:  # without prompts the model was not run
                    self.attempts = self.attempts.plus(ANSWERED)
        yield _Predicted(loaded, is_failed=is_failed)

    def _score(self, found: _Predicted[BatchT, PredictionT]) -> _Scored[ScoreT]:
        score = None
        if found.predictions and found.loaded.batch is not None:
            with self._clock("scoring"):
                score = self._task.score(found.loaded.batch, found.predictions)
        return _Scored(found.loaded.image, score, found.is_failed)


def _n_bytes(item: object) -> int:
    if isinstance(item, (_Loaded, _Predicted)):
        return item.n_bytes
    return 0
