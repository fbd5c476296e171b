"""A process that keeps one core busy until it is ended: `python -m benchmarks.evidence.competitor`.

It stands for other work on the machine in `speed load`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psutil

from benchmarks.child_processes import start_python


class Competitor:
    """The process, which is suspended at first."""

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)
        self._process.suspend()

    def compete(self, *, wanted: bool) -> None:
        """Lets it run, or suspends it."""
        (self._process.resume if wanted else self._process.suspend)()


@contextmanager
def competitor(niceness: int) -> Iterator[Competitor]:
    """Starts the process with a lower priority; it ends with the block."""
    started = start_python(["-m", __name__])
    try:
        psutil.Process(started.pid).nice(niceness)
        yield Competitor(started.pid)
    finally:
        started.kill()
        started.wait()


if __name__ == "__main__":
    while True:
        pass
