"""Checks error messages: no internal names of the code and no repeated prefixes."""

from __future__ import annotations

import re
from itertools import pairwise

# Neither the inside of a name nor a part of a path.
_PRIVATE = re.compile(r"(?<![\w/\\])_[A-Za-z]\w*")


def problem_of(line: str) -> str | None:
    """Returns the problem of a line of standard error, or None."""
    private = _PRIVATE.search(line)
    if private is not None:
        return f"it holds the private name {private[0]}"
    for first, second in pairwise(line.split(": ")):
        if first and first == second:
            return f"it holds {first}: twice in a row"
    return None


def check_messages(text: str) -> None:
    """Asserts that no line of standard error has a problem, a traceback included."""
    assert "Traceback" not in text
    for line in text.splitlines():
        problem = problem_of(line)
        assert problem is None, f"{problem}: {line}"
