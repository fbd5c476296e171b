"""Messages and progress of a run on standard error."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
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


def is_verbose() -> bool:
    """Whether messages on caches and shards are wanted."""
    return _VERBOSE.get()


@dataclass
class _Stage:
    n_steps: int
    guess_s: float
    n_done: int = 0
    n_timed: int = 0
    seconds: float = 0.0

    @property
    def left_s(self) -> float:
        each = self.seconds / self.n_timed if self.n_timed else self.guess_s / self.n_steps
        return each * max(0, self.n_steps - self.n_done)


class Outlook:
    """Estimates the time that a run still takes: its stages, and what their steps took so far.

    A stage without a finished step counts with the time that was guessed for it.
    """

    def __init__(self) -> None:
        self._stages: dict[str, _Stage] = {}

    def plan(self, stage: str, n_steps: int, guess_s: float) -> None:
        """Adds a stage; stages run in the order in which they are planned."""
        if n_steps > 0:
            self._stages[stage] = _Stage(n_steps, guess_s)

    def advance(self, stage: str, n_steps: int, seconds: float | None = None) -> None:
        """Counts steps of a stage and the time they took; None if they were not run."""
        found = self._stages.get(stage)
        if found is None:
            return
        for name in list(self._stages):  # stages before this one are over
            if name == stage:
                break
            del self._stages[name]
        found.n_done += n_steps
        if seconds is not None:
            found.n_timed += n_steps
            found.seconds += seconds

    @property
    def left_s(self) -> float:
        """Time left in seconds; 0 if nothing is planned."""
        return sum(stage.left_s for stage in self._stages.values())

    def text(self, at_least_s: float = 0.0) -> str:
        """Time left in words; empty if it is less than half a minute or nothing is planned."""
        minutes = max(at_least_s, self.left_s) / 60 if self.left_s else 0
        return "" if minutes < 0.5 else f"about {max(1, round(minutes))} min left in all"


class Reporter:
    """Prints messages and progress bars; if quiet, warnings only."""

    def __init__(self, *, quiet: bool = False) -> None:
        from rich.console import Console

        self.quiet = quiet
        self.verbose = is_verbose() and not quiet
        self.outlook = Outlook()
        self.console = Console(stderr=True, highlight=False, soft_wrap=True)

    def say(self, text: str) -> None:
        """Prints one line, unless quiet."""
        if not self.quiet:
            self.console.print(text, markup=False)

    def detail(self, text: str) -> None:
        """Prints one line on caches, shards and earlier runs, with `--verbose` only."""
        if self.verbose:
            self.say(text)

    def result(self, text: str) -> None:
        """Prints the main figures of a finished model, with the time left of the run."""
        self.say("; ".join(filter(None, (text, self.outlook.text()))))

    def warn(self, text: str) -> None:
        """Prints one line about a problem that did not stop the run."""
        self.console.print(f"warning: {text}", style="yellow", markup=False)

    def bar(self, title: str, total: int | None, stage: str = "") -> Bar:
        """Returns a progress bar, to be used in a `with` statement.

        Its steps are those of a stage of the run's outlook.
        """
        return Bar(self, title, total, stage)


class Bar(AbstractContextManager["Bar"]):
    """Progress of one loop: a live bar on a terminal, otherwise one line per minute."""

    def __init__(self, reporter: Reporter, title: str, total: int | None, stage: str = "") -> None:
        self._reporter, self._title, self._total, self._stage = reporter, title, total, stage
        self._done = 0
        self._start = self._last = self._step_start = time.monotonic()
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
        before, now = self._done, time.monotonic()
        self._done = self._done + 1 if done is None else done
        outlook = self._reporter.outlook
        outlook.advance(self._stage, self._done - before, now - self._step_start)
        self._step_start = now
        if self._live is not None:
            self.note(" ".join(filter(None, (note, outlook.text()))))
        elif now - self._last >= _LINE_EVERY_S:
            self._last = now
            of, left, left_s = f" of {self._total}" if self._total else "", "", 0.0
            if self._total and 0 < self._done < self._total:
                left_s = (self._last - self._start) * (self._total / self._done - 1)
                left = f", about {left_s / 60:.0f} min left"
            whole = outlook.text(left_s)
            whole = whole and (f" here, {whole}" if left else f"; {whole}")
            self._reporter.say(f"{self._title}: {self._done}{of}{left}{whole}")

    def note(self, text: str) -> None:
        """Shows what is in progress next to the bar."""
        if self._live is not None:
            live, task = self._live
            text = f"{self._title} {text}".strip()
            live.update(task, completed=self._done, description=text, refresh=True)

    def __exit__(self, *_: object) -> None:
        if self._total:  # a loop that ended early
            self._reporter.outlook.advance(self._stage, max(0, self._total - self._done))
        if self._live is not None:
            self._live[0].stop()
