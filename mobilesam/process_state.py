"""Settings of the process that are changed while a block runs, safely from several threads.

Blocks of `torch.random.fork_rng` and `warnings.catch_warnings` that overlap in two threads mix
their random numbers, or restore what the other thread has set.
"""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

_SEEDING = threading.RLock()
_LOCK = threading.Lock()
# By logger: its own level, then the levels of the running blocks, the latest last.
_LEVELS: dict[str, list[int]] = {}
_IGNORING: list[warnings.catch_warnings[None]] = []  # one for each running block


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seeds torch's global CPU generator while the block runs, and restores its state afterwards.

    One thread at a time runs such a block; others must not draw from the generator meanwhile.
    """
    import torch

    with _SEEDING, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


@contextmanager
def ignored_warnings() -> Iterator[None]:
    """Ignores all warnings of the process while the block runs; blocks of threads may overlap."""
    with _LOCK:
        saved = _IGNORING[0] if _IGNORING else warnings.catch_warnings()
        if not _IGNORING:
            saved.__enter__()
            warnings.simplefilter("ignore")
        _IGNORING.append(saved)
    try:
        yield
    finally:
        with _LOCK:
            _IGNORING.pop()
            if not _IGNORING:
                saved.__exit__(None, None, None)


@contextmanager
def logger_level(name: str, level: int) -> Iterator[None]:
    """Sets the level of a logger while the block runs.

    Blocks may be nested or overlap in several threads: the level is that of the latest block that
    is still running, and the last block to end restores the logger's own level.
    """
    logger = logging.getLogger(name)
    with _LOCK:
        levels = _LEVELS.setdefault(name, [logger.level])
        levels.append(level)
        logger.setLevel(level)
    try:
        yield
    finally:
        with _LOCK:
            # The latest of this level; the logger's own, which is first, stays.
            last = max(at for at, each in enumerate(levels) if each == level)
            del levels[last]
            logger.setLevel(levels[-1])
            if len(levels) == 1:
                del _LEVELS[name]
