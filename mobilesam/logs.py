"""Log levels of other packages."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def logger_level(name: str, level: int) -> Iterator[None]:
    """Sets the level of a logger while the block runs.

    Args:
        name: Name of the logger, such as `ultralytics`.
        level: Least level that is logged, such as `logging.ERROR`.
    """
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(level)
    try:
        yield
    finally:
        logger.setLevel(before)
