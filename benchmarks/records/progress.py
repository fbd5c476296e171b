"""Messages and progress of a run on standard error."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

_LINE_EVERY_S = 60.0
_VERBOSE: ContextVar[bool] = ContextVar("messages on caches and shards", default=False)


@contextmanager
def verbose_messages(*, wanted: bool) -> Iterator[None]:
    """Lets reporters that are made in the block print messages on caches and shards."""
    token = _VERBOSE.set(wanted)
    try:
        yield
    finally:
        _VERBOSE.reset(token)


class Reporter:
    """Prints messages and progress bars; if quiet, warnings only."""

    def __init__(self, *, quiet: bool = False) -> None:
        from rich.console import Console

        self.quiet = quiet
        self.verbose = _VERBOSE.get() and not quiet
        self.console = Console(stderr=True, highlight=False, soft_wrap=True)

    def say(self, text: str) -> None:
        """Prints one line, unless quiet."""
        if not self.quiet:
            self.console.print(text, markup=False)

    def detail(self, text: str) -> None:
        """Prints one line on caches, shards and earlier runs, with `--verbose` only."""
        if self.verbose:
            self.say(text)

    def warn(self, text: str) -> None:
        """Prints one line about a problem that did not stop the run."""
        self.console.print(f"warning: {text}", style="yellow", markup=False)

    def bar(self, title: str, total: int | None) -> Bar:
        """Returns a progress bar, to be used in a `with` statement."""
        return Bar(self, title, total)


class Bar(AbstractContextManager["Bar"]):
    """Progress of one loop: a live bar on a terminal, otherwise one line per minute."""

    def __init__(self, reporter: Reporter, title: str, total: int | None) -> None:
        self._reporter, self._title, self._total = reporter, title, total
        self._done = 0
        self._start = self._last = time.monotonic()
        self._live: tuple[Progress, TaskID] | None = None

    def __enter__(self) -> Bar:
        if sys.stderr.isatty() and not self._reporter.quiet:
            from rich import progress

            live = progress.Progress(
                progress.TextColumn("{task.description}"),
                progress.BarColumn(),
                progress.MofNCompleteColumn(),
                progress.TimeRemainingColumn(),
                console=self._reporter.console,
                transient=True,
                auto_refresh=False,  # redrawing in the background would disturb measurements
            )
            live.start()
            self._live = live, live.add_task(self._title, total=self._total)
        return self

    def step(self, note: str = "", *, done: int | None = None) -> None:
        """Counts one more step, or up to `done` in a loop that was resumed in the middle."""
        self._done = self._done + 1 if done is None else done
        if self._live is not None:
            self.note(note)
        elif time.monotonic() - self._last >= _LINE_EVERY_S:
            self._last = time.monotonic()
            of, left = "", ""
            if self._total and self._done:
                left_s = (self._last - self._start) * (self._total / self._done - 1)
                of, left = f" of {self._total}", f", about {left_s / 60:.0f} min left"
            self._reporter.say(f"{self._title}: {self._done}{of}{left}")

    def note(self, text: str) -> None:
        """Shows what is in progress beside the bar."""
        if self._live is not None:
            live, task = self._live
            text = f"{self._title} {text}".strip()
            live.update(task, completed=self._done, description=text, refresh=True)

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live[0].stop()
