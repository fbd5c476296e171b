"""Work that overlaps: threads do it in order, with a bound on what waits between two stages."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TypeVar

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")

BUDGET_BYTES = 256 * 2**20
"""What may lie between two stages at once; one item more than that is let through."""
_AHEAD = 2  # so many items wait for each thread, that it never waits for the stage before


class Lanes:
    """Threads that load and score while the caller runs the model.

    Args:
        n_threads: 0 does everything in the caller's thread, one thing after the other.
        budget_bytes: Most that may wait between two stages.
    """

    def __init__(self, n_threads: int = 0, budget_bytes: int = BUDGET_BYTES) -> None:
        self._n_threads = n_threads
        self._budget_bytes = budget_bytes
        self._pool = ThreadPoolExecutor(n_threads, "lane") if n_threads else None

    @property
    def inline(self) -> bool:
        """Nothing overlaps."""
        return self._pool is None

    def map(
        self,
        function: Callable[[ItemT], ResultT],
        items: Iterable[ItemT],
        weigh: Callable[[ItemT | ResultT], int],
    ) -> Generator[ResultT, None, None]:
        """Results in the order of the items; an item is taken when there is room for it.

        Closing the generator, or an error in it, cancels the items that have not begun and waits
        for the others, so that no call of `function` is running afterwards.

        Args:
            function: Run in a thread, several at a time, or by the caller when nothing overlaps.
            items: Taken in the caller's thread, one when it is due.
            weigh: Bytes that an item holds until its result is taken, or that a result holds.
        """
        if self._pool is None:
            yield from map(function, items)
            return
        pending: deque[tuple[int, Future[ResultT]]] = deque()
        try:
            for item in items:
                pending.append((weigh(item), self._pool.submit(function, item)))
                while self._is_full(pending, weigh):
                    yield pending.popleft()[1].result()
            while pending:
                yield pending.popleft()[1].result()
        finally:
            # All are cancelled before waiting, so that no further item begins meanwhile.
            wait([future for _, future in pending if not future.cancel()])

    def _is_full(
        self,
        pending: deque[tuple[int, Future[ResultT]]],
        weigh: Callable[[ItemT | ResultT], int],
    ) -> bool:
        if not pending:
            return False
        if len(pending) >= self._n_threads + _AHEAD:
            return True
        held = sum(max(n_bytes, _size(future, weigh)) for n_bytes, future in pending)
        return held > self._budget_bytes

    def close(self) -> None:
        """Ends the threads; what they have begun is finished, the rest dropped."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)


def _size(future: Future[ResultT], weigh: Callable[[ItemT | ResultT], int]) -> int:
    """Bytes of a result that is there; an error weighs nothing."""
    if not future.done() or future.cancelled() or future.exception() is not None:
        return 0
    return weigh(future.result())
