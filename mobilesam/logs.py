"""Log levels of other packages."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_LOCK = threading.Lock()
# By logger: its own level, then the levels of the blocks that are running, the latest last.
_LEVELS: dict[str, list[int]] = {}


@contextmanager
def logger_level(name: str, level: int) -> Iterator[None]:
    """Sets the level of a logger while the block runs.

    Blocks may be nested, and blocks of several threads may overlap: the level is that of the
    latest block that is still running, and the last block to end restores the logger's own level.

    Args:
        name: Name of the logger, such as `ultralytics`.
        level: Least level that is logged, such as `logging.ERROR`.
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
