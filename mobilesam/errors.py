"""Errors that a user can cause and cure: a message names the culprit, the place and the cure."""


class BenchError(Exception):
    """Base of every expected failure; the command line prints its message without a traceback."""


class UsageError(BenchError):
    """The request itself is wrong: an unknown model, a missing protocol (exit code 2)."""


class DataError(BenchError):
    """A dataset, annotation file or image is missing, unreadable or malformed."""


class WeightsError(BenchError):
    """A checkpoint is missing, truncated, untrusted or made for another architecture."""


class WeightsUnavailableError(WeightsError):
    """A checkpoint is not on this machine and cannot be fetched now (offline, no network).

    Args:
        message: The whole error.
        reason: Why the file cannot be fetched, without the name of the file, so that models whose
            weights are missing for the same reason can be reported together; by default `message`.
    """

    def __init__(self, message: str, reason: str | None = None) -> None:
        super().__init__(message)
        self.reason = reason or message


class UnsupportedError(BenchError):
    """A model was asked for something it cannot do, such as a point prompt for the box baseline."""


class TrainingError(BenchError):
    """A training run cannot continue: its loss, a gradient or a weight is not finite."""


class NetworkUnreachableError(WeightsUnavailableError):
    """No connection to a server: downloads of other files would fail as well."""


FOREIGN_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""What code that is not ours may raise: one broken model or file must not end a whole run."""
