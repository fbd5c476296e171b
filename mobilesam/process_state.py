"""Settings of the whole process that are changed while a block runs, safely from several threads.

`torch.random.fork_rng` and `warnings.catch_warnings` save a setting and restore it, so two threads
whose blocks overlap mix their random numbers, or restore what the other thread has set.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

_SEEDING = threading.RLock()


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seeds torch's global CPU generator while the block runs, and restores its state afterwards.

    The initialisation of torch's modules draws from that generator. One thread at a time runs such
    a block; other threads must not draw from the global generator meanwhile.

    Args:
        seed: Seed of the generator.
    """
    import torch

    with _SEEDING, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


class _WarningFilters:
    """The warning filters of the process, which the last of several overlapping blocks restores."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._n_blocks = 0
        self._saved = ExitStack()

    def ignore(self) -> None:
        with self._lock:
            if self._n_blocks == 0:
                self._saved.enter_context(warnings.catch_warnings())
                warnings.simplefilter("ignore")
            self._n_blocks += 1

    def restore(self) -> None:
        with self._lock:
            self._n_blocks -= 1
            if self._n_blocks == 0:
                self._saved.close()


_FILTERS = _WarningFilters()


@contextmanager
def ignored_warnings() -> Iterator[None]:
    """Ignores all warnings of the process while the block runs; blocks of threads may overlap."""
    _FILTERS.ignore()
    try:
        yield
    finally:
        _FILTERS.restore()
