"""Error texts, and the option `--debug`, which shows tracebacks here and in child processes."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from os import environ
from typing import ParamSpec

from mobilesam.errors import BenchError

DEBUG_VARIABLE = "MOBILESAM_DEBUG"
"""Environment variable that enables tracebacks of failures, also in child processes."""
P = ParamSpec("P")
_COLLECTED: ContextVar[list[str] | None] = ContextVar("collected tracebacks", default=None)


@contextmanager
def debugging(*, wanted: bool) -> Iterator[None]:
    """Shows tracebacks of failures while the block runs, here and in child processes."""
    change = wanted and DEBUG_VARIABLE not in environ
    if change:
        environ[DEBUG_VARIABLE] = "1"
    try:
        yield
    finally:
        if change:
            del environ[DEBUG_VARIABLE]


def is_debugging() -> bool:
    """Whether tracebacks of failures are shown."""
    return bool(environ.get(DEBUG_VARIABLE))


@contextmanager
def collected_tracebacks() -> Iterator[list[str]]:
    """Collects the tracebacks of the block, for a process whose standard error is not visible."""
    texts: list[str] = []
    token = _COLLECTED.set(texts)
    try:
        yield texts
    finally:
        _COLLECTED.reset(token)


def show_traceback(error: BaseException) -> None:
    """Writes the traceback of an error and of its causes to stderr, if debugging is enabled."""
    show_text("".join(traceback.format_exception(error)))


def show_text(text: str) -> None:
    """Writes a traceback from another process to stderr, if debugging is enabled."""
    if is_debugging():
        collected = _COLLECTED.get()
        (sys.stderr.write if collected is None else collected.append)(text)


def format_error(error: BaseException) -> str:
    """Returns the text of an error; with `--debug`, writes its traceback to stderr.

    The text of errors other than `BenchError` includes the type, since their message lacks context.
    """
    show_traceback(error)
    return str(error) if isinstance(error, BenchError) else f"{type(error).__name__}: {error}"


def one_line_errors(main: Callable[P, int]) -> Callable[P, int]:
    """Decorates the main function of a separate program: a `BenchError` is one line and code 1."""

    @wraps(main)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> int:
        try:
            return main(*args, **kwargs)
        except BenchError as error:
            sys.stderr.write(f"error: {error}\n")
            return 1

    return wrapped
