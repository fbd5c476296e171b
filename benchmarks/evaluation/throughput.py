"""How fast chunks are made, and how long it will still take."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta
from typing import Protocol

from benchmarks.datasets.dataset import Shard
from benchmarks.records.progress import Bar


class Finished(Protocol):
    """What came of a part."""

    @property
    def name(self) -> str:
        """That of its part."""

    @property
    def n_images(self) -> int:
        """Images that were tried."""

    @property
    def n_rows(self) -> int:
        """What was made of them."""

    @property
    def n_failures(self) -> int:
        """What could not be used."""


class Pace:
    """Counts what is done, and tells a progress bar.

    Args:
        bar: Told after each chunk.
        clock: Seconds that only go up.
    """

    def __init__(self, bar: Bar, clock: Callable[[], float] = time.monotonic) -> None:
        self._bar = bar
        self._clock = clock
        self._start = clock()
        self._shares: dict[str, float] = {}
        self._known_share = self._done_share = 0.0
        self._known_images = 0
        self.n_images = self.n_rows = self.n_bad = 0

    def known(self, part: Shard) -> None:
        """A chunk is there from before."""
        self._known_share += part.share
        self._known_images += len(part.readers)

    def given(self, part: Shard) -> None:
        """A chunk is being made."""
        self._shares[part.name] = part.share

    def done(self, chunk: Finished) -> None:
        """A chunk is finished."""
        self._done_share += self._shares.pop(chunk.name, 0.0)
        self.n_images += chunk.n_images
        self.n_rows += chunk.n_rows
        self.n_bad += chunk.n_failures
        self._bar.step(self.note(), done=self._known_images + self.n_images)

    def note(self) -> str:
        """Throughput, time left, and how many images could not be used."""
        seconds = max(self._clock() - self._start, 1e-9)
        text = f"{self.n_images / seconds:,.1f} images/s, {self.n_rows / seconds:,.0f} rows/s"
        left = self.seconds_left()
        if left is not None:
            text += f", {timedelta(seconds=round(left))} left"
        return text + (f", {self.n_bad:,} failures" if self.n_bad else "")

    def seconds_left(self) -> float | None:
        """What is left of the work at the pace so far; None before any is done."""
        if self._done_share <= 0:
            return None
        left = max(0.0, 1 - self._known_share - self._done_share)
        return (self._clock() - self._start) * left / self._done_share

    def summary(self) -> str:
        """One line for the end."""
        seconds = max(self._clock() - self._start, 1e-9)
        return (
            f"{self.n_images:,} images and {self.n_rows:,} rows in {seconds:,.1f} s: "
            f"{self.n_images / seconds:,.1f} images/s, {self.n_rows / seconds:,.0f} rows/s"
        )
