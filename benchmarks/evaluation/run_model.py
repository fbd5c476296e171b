"""Runs one model over images, while threads read the next images and score the previous masks.

Errors of the model become rows, its errors on images become failures.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Literal, TypeVar, get_args

from pydantic import Field

from baselines.interface import Segmenter
from baselines.registry import build
from benchmarks.config.model_resolution import ResolvedModel
from benchmarks.datasets.dataset import Dataset, Sample, UnreadableImage
from benchmarks.datasets.parsing import MALFORMED
from benchmarks.debugging import format_error
from benchmarks.records.progress import Reporter
from benchmarks.records.record import AccuracyTimeRow, Failure, Status
from benchmarks.records.result_cache import ResultCache
from mobilesam.errors import BenchError, WeightsError
from mobilesam.frozen_model import FrozenModel

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")

PROMPT_BATCH = 32
"""Number of prompts whose masks are held at the image's size at once."""
FIRST_IMAGES = 5
"""A model that fails on each of the first so many images is considered broken itself."""
TIMED_ELSEWHERE = (
    "time left out: it was taken on another machine, or with another allocator or number of threads"
)
"""Reason why a result that was taken from an interrupted run has no time."""
BUDGET_BYTES = 256 * 2**20
"""Most bytes that wait between two stages; one item more than that is let through."""
_AHEAD = 2  # items that wait beyond one for each thread, so that no thread is idle


def unreadable_image_failure(image: UnreadableImage) -> Failure:
    """Failure record for an unreadable image, with the number of instances it held."""
    why = f"{image.reason} ({image.n_instances} instances left out)"
    return Failure(stage="data", culprit=image.name, why=why)


def left_out_text(unusable: int = 0, given_up: int = 0, failed: int = 0) -> str | None:
    """Text about the images that a row with figures leaves out; None if none is left out."""
    counts = {
        "unusable": unusable,
        "in chunks that could not be made": given_up,
        "in chunks that the model failed on": failed,
    }
    parts = [f"{count:,} {what}" for what, count in counts.items() if count]
    return f"images left out: {'; '.join(parts)} (see the failures)" if parts else None


def malformed_annotation_failures(
    dataset: str, left_out: Mapping[str, int], problems: Sequence[str]
) -> list[Failure]:
    """Failures for malformed annotations: one for each known problem, and one for the rest."""
    n_more = left_out.get(MALFORMED, 0) - len(problems)
    more = [f"{n_more} more malformed annotations were left out"] if n_more > 0 else []
    return [Failure(stage="data", culprit=dataset, why=why) for why in (*problems, *more)]


class Attempts(FrozenModel):
    """Counts of the images of a dataset, or of consecutive parts of it, for one model.

    Images that it failed on before the first that it answered are counted in `n_failed_first`; the
    errors on the first `FIRST_IMAGES` of these are `reasons`.
    """

    n_answered: int = 0
    n_failed: int = 0
    n_failed_first: int = 0
    reasons: tuple[str, ...] = ()
    failures: tuple[Failure, ...] = ()

    @property
    def has_failed_first_images(self) -> bool:
        """Whether it has failed on each of the first `FIRST_IMAGES` images, and answered none."""
        return self.n_answered == 0 and self.n_failed_first >= FIRST_IMAGES

    @property
    def broken(self) -> str | None:
        """Reason why the model is considered broken; None if it is not.

        It is broken if it failed on each of the first `FIRST_IMAGES` images, or if there are fewer
        images and it failed on all of them.
        """
        n = min(self.n_failed_first, FIRST_IMAGES)
        if n == 0 or (self.n_answered and n < FIRST_IMAGES):
            return None
        where = "its only image" if n == 1 else f"each of the first {n} images"
        return f"fails at {where}: {'; '.join(dict.fromkeys(self.reasons))}"

    def plus(self, later: Attempts, most_failures: int | None = None) -> Attempts:
        """Sum with the counts of later images, with at most `most_failures` failures in all."""
        first = self.n_answered == 0
        reasons = self.reasons + (later.reasons if first else ())
        return Attempts(
            n_answered=self.n_answered + later.n_answered,
            n_failed=self.n_failed + later.n_failed,
            n_failed_first=self.n_failed_first + (later.n_failed_first if first else 0),
            reasons=reasons[:FIRST_IMAGES],
            failures=(self.failures + later.failures)[:most_failures],
        )

    def listed(self, model: str) -> list[Failure]:
        """Failures of the images, or a single failure if the model is considered broken."""
        why = self.broken
        if why is None:
            return list(self.failures)
        return [Failure(stage=self.failures[0].stage, culprit=model, why=why)]


ANSWERED = Attempts(n_answered=1)
"""One image that a model has answered."""


def failed_attempt(model: str, stage: str, sample: Sample, error: BenchError) -> Attempts:
    """One image that a model has failed on."""
    reason = format_error(error)
    why = f"{model} fails at it: {reason} ({len(sample.instances)} instances left out for it)"
    failure = Failure(stage=stage, culprit=sample.name, why=why)
    return Attempts(n_failed=1, n_failed_first=1, reasons=(reason,), failures=(failure,))


class ModelResult(FrozenModel):
    """Result of one model on the images of a shard; `left_out` counts unused annotations."""

    status: Status = "ok"
    why: str | None = None
    failures: tuple[Failure, ...] = ()
    attempts: Attempts = Attempts()
    left_out: dict[str, int] = Field(default_factory=dict)
    problems: tuple[str, ...] = ()
    timed_with: tuple[str, ...] = ()

    def failures_of(self, model: ResolvedModel, stage: str) -> list[Failure]:
        """Unreadable images, and the model itself unless its weights were reported before."""
        if self.status != "error" or model.error is not None or self.why is None:
            return list(self.failures)
        return [Failure(stage=stage, culprit=model.entry.name, why=self.why), *self.failures]


ModelResultT = TypeVar("ModelResultT", bound=ModelResult)


def run_model(
    model: ResolvedModel,
    kind: type[ModelResultT],
    measure: Callable[[Segmenter], ModelResultT],
    build: Callable[[ResolvedModel], Segmenter],
    cache: ResultCache | None = None,
    key: Mapping[str, Any] | None = None,
    is_intact: Callable[[ModelResultT], bool] = lambda _: True,
) -> tuple[ModelResultT, bool]:
    """Takes the result of a model from a cache, or builds the model and measures it.

    Results with failures are not cached, so that repaired images and models are measured again.
    Exceptions other than `BenchError` are errors of this project, and are not caught. `is_intact`
    tells whether the files that belong to a cached result are still there.

    Returns the result, without figures if the model cannot be measured, and whether it was cached.
    """
    known = None if cache is None or key is None else cache.get(key, kind)
    if known is not None and is_intact(known):
        return known, True
    if model.error is not None:
        return kind(status="error", why=model.error), False
    if not model.trained:
        reason = model.weights.why or "it was given none"
        return kind(status="skipped", why=f"no accuracy from random weights: {reason}"), False
    try:
        found = measure(build(model))
    except BenchError as error:
        return kind(status="error", why=format_error(error)), False
    is_clean = found.status == "ok" and not found.failures and not found.attempts.n_failed
    if cache is not None and key is not None and is_clean:
        cache.put(key, found)
    return found, False


def build_trained(model: ResolvedModel) -> Segmenter:
    """Builds a model; raises a `WeightsError` if that has random weights, without accuracy."""
    built = build(model.entry, model.options)
    if built.info.weights.kind == "random":
        raise WeightsError("it was built with random weights, which have no accuracy")
    return built


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

    Work of other threads is charged only while that thread waits for it.
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
        with (
            reporter.bar(name, self.dataset.n_images, self.stage) as bar,
            closing(loaded),
            closing(scored),
        ):
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
