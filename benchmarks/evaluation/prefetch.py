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
from typing import Any, Literal, Protocol, TypeVar

from benchmarks.datasets.dataset import Dataset, Sample, UnreadableImage
from benchmarks.evaluation.run_model import (
    ANSWERED,
    PROMPT_BATCH,
    Attempts,
    failed_attempt,
    unreadable_image_failure,
)
from benchmarks.records.progress import Bar
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


class ImageTask(Protocol):
    """How a protocol predicts and scores one image.

    Batches and predictions may have `n_bytes`, their size in memory besides the image.
    """

    def load(self, sample: Sample) -> Any:
        """Returns the input of `predict` for an image; several threads may call it."""

    def predict(self, batch: Any) -> Iterator[Any]:
        """Yields the predictions of the model; called in the thread that owns the model.

        Raises:
            BenchError: The model fails on the image, or its result violates the interface.
        """

    def score(self, batch: Any, predictions: Sequence[Any]) -> Any:
        """Returns the scores of some predictions of an image; several threads may call it."""


@dataclass(frozen=True, slots=True, eq=False)
class _Step:
    """An image between two stages; the last step of an image has neither predictions nor score."""

    image: Sample | UnreadableImage
    batch: Any = None
    predictions: Sequence[Any] = ()
    score: Any = None
    is_failed: bool = False

    @property
    def n_bytes(self) -> int:
        n_image = self.image.image.nbytes if isinstance(self.image, Sample) else 0
        parts = self.predictions or (self.batch,)
        return n_image + sum(getattr(part, "n_bytes", 0) for part in parts)


class ImageLoop:
    """Runs one model over all images of a dataset; a prefetcher reads and scores meanwhile.

    The clock is charged with the time that the model waits for other stages. If `stop`, the loop
    ends when the model has failed on each of the first `FIRST_IMAGES` images, which cannot be
    decided for a part of a dataset.

    Attributes:
        attempts: Images that the model answered and failed on.
        unreadable: Images that cannot be read.
    """

    def __init__(
        self,
        task: ImageTask,
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
        self.unreadable: list[UnreadableImage] = []

    @property
    def is_stopped(self) -> bool:
        """Whether the loop ended early because the model failed on all of the first images."""
        return self._stop and self.attempts.has_failed_first_images

    def run(self, bar: Bar) -> Generator[tuple[Sample | UnreadableImage, list[Any] | None]]:
        """Yields images with their scores; None if unreadable, or if the model failed on it."""
        loaded = self._prefetcher.map(self._load, self._dataset.loaders(), _n_bytes)
        scored = self._prefetcher.map(self._score, self._predict_all(loaded), _n_bytes)
        scores: list[Any] = []
        try:
            while True:
                with self._clock("scoring"):
                    step = next(scored, None)
                if step is None:
                    return
                if step.score is not None:
                    scores.append(step.score)
                    continue
                bar.step()
                if isinstance(step.image, UnreadableImage):
                    self.unreadable.append(step.image)
                is_lost = step.is_failed or isinstance(step.image, UnreadableImage)
                yield step.image, None if is_lost else scores
                scores = []
        finally:
            scored.close()
            loaded.close()

    def _load(self, load: Callable[[], Sample | UnreadableImage]) -> _Step:
        with self._clock("data"):
            image = load()
            return _Step(image, self._task.load(image) if isinstance(image, Sample) else None)

    def _predict_all(self, loaded: Iterator[_Step]) -> Iterator[_Step]:
        while not self.is_stopped:
            with self._clock("data"):
                step = next(loaded, None)
            if step is None:
                return
            if isinstance(step.image, Sample):
                yield from self._predict(step.image, step.batch)
            else:
                yield step

    def _predict(self, image: Sample, batch: Any) -> Iterator[_Step]:
        attempt = None  # without prompts the model is not run
        predictions = iter(self._task.predict(batch))
        try:
            while part := list(islice(predictions, PROMPT_BATCH)):
                attempt = ANSWERED
                yield _Step(image, batch, part)
        except BenchError as error:
            attempt = failed_attempt(self._model, self._stage, image, error)
        if attempt is not None:
            self.attempts = self.attempts.plus(attempt)
        yield _Step(image, is_failed=attempt is not None and attempt.n_failed > 0)

    def _score(self, step: _Step) -> _Step:
        if not step.predictions:
            return step
        with self._clock("scoring"):
            return _Step(step.image, score=self._task.score(step.batch, step.predictions))


def _n_bytes(item: object) -> int:
    return item.n_bytes if isinstance(item, _Step) else 0


def loop_fields(loop: ImageLoop, dataset: Dataset) -> dict[str, Any]:
    """Fields of a `ModelResult` after a loop over a dataset."""
    return {
        "failures": tuple(map(unreadable_image_failure, loop.unreadable)),
        "attempts": loop.attempts,
        "left_out": dict(dataset.left_out),
        "problems": dataset.problems,
    }
