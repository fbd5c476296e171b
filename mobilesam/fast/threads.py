"""Threads that share the work of a call, one for each core, with single-threaded operations.

Torch divides every operation between OpenMP's threads, which wait for each other at its end, a
hundred times a call: one core that another process uses as well delays them all, each time. Here
each thread takes the next part of the work when it is done with one, and few parts are large.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any, Protocol, TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")
_POOLS: dict[int, ThreadPoolExecutor] = {}
_CREATING = threading.Lock()
_LOCAL = threading.local()
# Threads do not survive in the child of a fork.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_POOLS.clear)


class Spread(Protocol):
    """Calls a function for each item, possibly on several threads: results in order."""

    def __call__(self, work: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
        """Returns `work(item)` of each."""


def serial(work: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """`Spread` on the calling thread."""
    return [work(item) for item in items]


def run(work: Callable[[Spread], Result]) -> Result:
    """Calls `work` in inference mode, with as many threads as torch is set to on this thread.

    Work that was spread may itself be spread, and may call this function.
    """
    spread: Spread | None = getattr(_LOCAL, "spread", None)
    if spread is None and torch.get_num_threads() > 1:
        pool = _pool(torch.get_num_threads())
        return pool.submit(_begin, work).result()
    return _begin(work)


def spread(work: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """Calls `work` for each item on these threads; results in order."""
    return run(lambda each: each(work, items))


@contextmanager
def _inference() -> Iterator[None]:
    # Code of TorchScript is not profiled: compiling every new shape takes longer than it gains.
    with torch.inference_mode(), torch.jit.optimized_execution(False):  # type: ignore[attr-defined]
        yield


def _begin(work: Callable[[Spread], Result]) -> Result:
    with _inference():
        return work(getattr(_LOCAL, "spread", serial))


def _pool(count: int) -> ThreadPoolExecutor:
    """Threads whose operations are single-threaded; they wait for work until the process ends."""
    with _CREATING:
        if count not in _POOLS:
            pool = ThreadPoolExecutor(count, "mobilesam")
            spread = partial(_spread, pool, count)
            all_started = threading.Barrier(count)

            def start() -> None:
                torch.get_num_threads()  # torch sets its default when a thread first asks
                torch.set_num_threads(1)  # of this thread, and of threads yet to come
                _LOCAL.spread = spread
                all_started.wait()

            for started in [pool.submit(start) for _ in range(count)]:
                started.result()
            torch.set_num_threads(count)  # for threads yet to come
            _POOLS[count] = pool
        return _POOLS[count]


def _spread(
    pool: ThreadPoolExecutor,
    count: int,
    work: Callable[[Any], Any],
    items: Sequence[Any],
) -> list[Any]:
    """Takes items on this thread, and on others of the pool as soon as they are idle."""
    left = deque(enumerate(items))
    found: list[Any] = [None] * len(items)

    def take() -> None:
        while left:
            try:
                index, item = left.popleft()
            except IndexError:  # another thread has taken the last one
                return
            found[index] = work(item)

    helpers = [pool.submit(_inference()(take)) for _ in range(min(count, len(items)) - 1)]
    try:
        take()
    finally:
        left.clear()  # after an error, the others stop as well
        for helper in helpers:
            if not helper.cancel():  # it has begun
                helper.result()
    return found
