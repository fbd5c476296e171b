"""Ends a run that receives SIGTERM like one that is interrupted by Ctrl-C."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

EXIT_INTERRUPTED, EXIT_TERMINATED = 130, 143


class Terminated(KeyboardInterrupt):
    """The process received SIGTERM; handled like Ctrl-C, so that finished work is kept."""


@contextmanager
def interrupted_by_term() -> Iterator[None]:
    """Turns SIGTERM into `Terminated`, so that children are ended and finished work is recorded.

    By default, SIGTERM ends Python at once, which leaves child processes running. In a thread other
    than the main one nothing is changed, since only the main thread handles signals.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(_signal: int, _frame: FrameType | None) -> None:
        raise Terminated

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def run_program(main: Callable[[], int]) -> int:
    """Runs the main function of a program of its own; returns its exit code.

    Ctrl-C and SIGTERM end it as an error would: children are ended, and temporary folders and
    worktrees are removed.
    """
    try:
        with interrupted_by_term():
            return main()
    except KeyboardInterrupt as error:
        sys.stderr.write("\ninterrupted\n")
        return EXIT_TERMINATED if isinstance(error, Terminated) else EXIT_INTERRUPTED
