"""Ends child processes together with the run that started them."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


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


def end_with_parent() -> None:
    """Asks the kernel to end this process when its parent ends for any reason; Linux only."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
