"""Runs a model over images while threads read the next images and score the previous masks."""

from __future__ import annotations

import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Literal, TypeVar, get_args

from benchmarks.datasets.dataset import Dataset, Sample, UnreadableImage
from benchmarks.evaluation.run_model import (
    ANSWERED,
    PROMPT_BATCH,
    Attempts,
    failed_attempt,
    unreadable_image_failure,
)
from benchmarks.records.progress import Reporter
from benchmarks.records.record import AccuracyTimeRow
from mobilesam.errors import BenchError

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")

BUDGET_BYTES = 256 * 2**20
"""Most bytes that wait between two stages; one item more than that is let through."""
_AHEAD = 2  # items that wait beyond one for each thread, so that no thread is idle


class Prefetcher:
    """Threads that read and score while the calling thread runs the model.

    Without threads everything is done in the calling thread, one after the other. At most
    `budget_bytes` may wait between two stages.
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
        for the others, so that no call of `function` is running afterwards. `n_bytes` gives the
        bytes that an item holds until its result is taken, or that a result holds.
        """
        if self._pool is None:
            yield from map(function, items)
            return
        pending: deque[tuple[int, Future[ResultT]]] = deque()

        def held(of_item: int, future: Future[ResultT]) -> int:
            if not future.done() or future.cancelled() or future.exception() is not None:
                return of_item
            return max(of_item, n_bytes(future.result()))

        def is_full() -> bool:
            if len(pending) >= self._n_threads + _AHEAD:
                return True
            return sum(held(*each) for each in pending) > self._budget_bytes

        try:
            for item in items:
                pending.append((n_bytes(item), self._pool.submit(function, item)))
                while pending and is_full():
                    yield pending.popleft()[1].result()
            while pending:
                yield pending.popleft()[1].result()
        finally:
            # All are cancelled before waiting, so that no further item begins meanwhile.
            wait([future for _, future in pending if not future.cancel()])

    def close(self) -> None:
        """Ends the threads; calls that have begun are finished, others are dropped."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)


Stage = Literal["model", "data", "prompts", "scoring", "writing"]


class Stopwatch:
    """Charges time of one thread to stages; time in no stage counts only as wall time.

    What other threads do beside that thread costs nothing until it waits for them.
    """

    def __init__(self) -> None:
        self._thread = threading.get_ident()
        self._start = self._since = time.perf_counter()
        self._seconds: defaultdict[Stage, float] = defaultdict(float)
        self._stage: Stage | None = None
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
        now, outer = time.perf_counter(), self._stage
        if outer is not None:
            self._seconds[outer] += now - self._since
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
            cached_embeddings=self.cached_embeddings,
            **{f"{stage}_s": self._seconds[stage] for stage in get_args(Stage)},
        )


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


def _n_bytes(item: object) -> int:
    return item.n_bytes if isinstance(item, _Step) else 0


ImageScores = tuple[Sample | UnreadableImage, list[Any] | None]
"""An image with its scores; None if it is unreadable, or if the model failed on it."""


@dataclass(eq=False)
class ImageLoop:
    """Runs one model over all images of a dataset; a prefetcher reads and scores meanwhile.

    The clock is charged with the time that the model waits for other stages. Batches and
    predictions may have `n_bytes`, their size in memory besides the image.

    Attributes:
        load: Returns the input of `predict` for an image; several threads may call it.
        predict: Yields predictions, in the thread that owns the model; a BenchError if it fails.
        score: Returns the scores of some predictions of an image; several threads may call it.
        stop: End when the model has failed on each of the first `FIRST_IMAGES` images, which
            cannot be decided for a part of a dataset.
        attempts: Images that the model answered and failed on.
        unreadable: Images that cannot be read.
    """

    load: Callable[[Sample], Any]
    predict: Callable[[Any], Iterator[Any]]
    score: Callable[[Any, Sequence[Any]], Any]
    dataset: Dataset
    model: str
    stage: str
    prefetcher: Prefetcher
    clock: Stopwatch
    stop: bool
    attempts: Attempts = field(default_factory=Attempts, init=False)
    unreadable: list[UnreadableImage] = field(default_factory=list, init=False)

    @property
    def is_stopped(self) -> bool:
        """Whether the loop ended early because the model failed on all of the first images."""
        return self.stop and self.attempts.has_failed_first_images

    @contextmanager
    def run(self, reporter: Reporter, title: str) -> Iterator[Iterator[ImageScores]]:
        """Gives an iterator over the images with their scores, with a progress bar.

        No thread works for the loop after the `with` block.
        """
        loaded = self.prefetcher.map(self._load, self.dataset.loaders(), _n_bytes)
        scored = self.prefetcher.map(self._score, self._predict(loaded), _n_bytes)

        def images() -> Iterator[ImageScores]:
            scores: list[Any] = []
            while True:
                with self.clock("scoring"):
                    step = next(scored, None)
                if step is None:
                    return
                if step.score is not None:
                    scores.append(step.score)
                    continue
                bar.step()
                is_unreadable = isinstance(step.image, UnreadableImage)
                yield step.image, None if step.is_failed or is_unreadable else scores
                scores = []

        name = f"{title} of {self.model}"
        with reporter.bar(name, self.dataset.n_images) as bar, closing(loaded), closing(scored):
            yield images()

    def _load(self, load: Callable[[], Sample | UnreadableImage]) -> _Step:
        with self.clock("data"):
            image = load()
            return _Step(image, self.load(image) if isinstance(image, Sample) else None)

    def _predict(self, loaded: Iterator[_Step]) -> Iterator[_Step]:
        while not self.is_stopped:
            with self.clock("data"):
                step = next(loaded, None)
            if step is None:
                return
            image = step.image
            if isinstance(image, UnreadableImage):
                self.unreadable.append(image)
                yield step
                continue
            attempt = None  # without prompts the model is not run
            predictions = iter(self.predict(step.batch))
            try:
                while part := list(islice(predictions, PROMPT_BATCH)):
                    attempt = ANSWERED
                    yield _Step(image, step.batch, part)
            except BenchError as error:
                attempt = failed_attempt(self.model, self.stage, image, error)
            if attempt is not None:
                self.attempts = self.attempts.plus(attempt)
            yield _Step(image, is_failed=attempt is not None and attempt.n_failed > 0)

    def _score(self, step: _Step) -> _Step:
        if not step.predictions:
            return step
        with self.clock("scoring"):
            return _Step(step.image, score=self.score(step.batch, step.predictions))

    def fields(self) -> dict[str, Any]:
        """Fields of a `ModelResult` after the loop."""
        return {
            "failures": tuple(map(unreadable_image_failure, self.unreadable)),
            "attempts": self.attempts,
            "left_out": dict(self.dataset.left_out),
            "problems": self.dataset.problems,
        }
