"""Expected errors, whose messages say what is wrong, where, and what to do."""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError

NOT_FINITE = (
    "the model returned NaN or infinity: its weights are broken, or the precision is too low for "
    "them; check the checkpoint, or run in fp32"
)
"""Message of the error for a prediction that holds NaN or infinity."""


class BenchError(Exception):
    """Base of every expected failure; the command line prints its message without a traceback."""


class UsageError(BenchError):
    """The request is wrong: an unknown model, a missing protocol (exit code 2)."""


class DataError(BenchError):
    """A dataset, annotation file or image is missing, unreadable or malformed."""


class WeightsError(BenchError):
    """A checkpoint is missing, truncated, untrusted or made for another architecture."""


class WeightsUnavailableError(WeightsError):
    """A checkpoint is not on this machine and cannot be fetched now (offline, no network).

    Models whose weights are missing for the same `reason`, which does not name the file, can be
    reported together; by default it is the whole message.
    """

    def __init__(self, message: str, reason: str | None = None) -> None:
        super().__init__(message)
        self.reason = reason or message


class NetworkUnreachableError(WeightsUnavailableError):
    """No connection to a server: downloads of other files would fail as well."""


class UnsupportedError(BenchError):
    """A model cannot do what was requested, such as a point prompt for the box baseline."""


class TrainingError(BenchError):
    """A training run cannot continue: its loss, a gradient or a weight is not finite."""


@contextmanager
def foreign_call(convert: Callable[[Exception], BenchError]) -> Iterator[None]:
    """Converts exceptions of another package's code; the block may hold only calls into it.

    A `BenchError` is passed on unchanged. Errors of this project's own code are not to be caught,
    so that they end with a traceback.
    """
    try:
        yield
    except BenchError:
        raise
    except Exception as error:  # foreign code may raise any exception
        raise convert(error) from error


def first_problem(error: ValidationError) -> str:
    """First problem of a pydantic error in one line: field, rule, and the start of the value."""
    first = error.errors(include_url=False)[0]
    place = ".".join(str(part) for part in first["loc"]) or "top level"
    # The input of a missing key is its parent, which the caller names.
    value = "" if first["type"] == "missing" else f"; got {reprlib.repr(first['input'])}"
    # pydantic's message would name the class, which is internal.
    is_class = first["type"] in ("model_type", "model_attributes_type", "dataclass_type")
    text = "Input should be an object with named fields" if is_class else first["msg"]
    return f"{place}: {text}{value}"
